#!/usr/bin/env bash
# Damages a minority of a live cluster under load again and again, and lets it heal:
# damage.sh [COUNT], for 3 and 5 nodes in turn. It goes on where it stopped: what has run is in $STATE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
count=${1:-5}
state=${STATE:-target/damage.state}
slice=${SLICE:-10}
mkdir -p "$(dirname "$state")"
# cycles done, of them with 5 nodes, jobs acknowledged
read -r ran five jobs < <(cat "$state" 2>/dev/null || echo 0 0 0)
target=$((ran + count))
while ((ran < target)); do
  cycles=$((target - ran < slice ? target - ran : slice))
  nodes=$(((ran / slice) % 2 == 0 ? 3 : 5))
  echo "== cycles $((ran + 1)) to $((ran + cycles)) on $nodes nodes"
  out=$(mktemp)
  RAFTQ_DAMAGE_CYCLES=$cycles RAFTQ_DAMAGE_FIRST=$((ran + 1)) RAFTQ_DAMAGE_NODES=$nodes \
    cargo test --profile "${PROFILE:-release-test}" --test healing minority_damaged_under_load -- --nocapture 2>&1 |
    tee "$out" | grep -E '^(cycle|[0-9]+ cycles|thread|test |error)' || { cat "$out"; exit 1; }
  grep -q 'test result: ok. 1 passed' "$out" || { cat "$out"; echo "failed; the cycle's number is its seed"; exit 1; }
  acknowledged=$(sed -n 's/.*: \([0-9]*\) jobs acknowledged, none lost.*/\1/p' "$out")
  rm -f "$out"
  ran=$((ran + cycles)) jobs=$((jobs + acknowledged))
  ((nodes == 5)) && five=$((five + cycles))
  echo "$ran $five $jobs" >"$state"
done
echo "damage: $ran cycles in all ($((ran - five)) on 3 nodes, $five on 5), $jobs jobs acknowledged, 0 lost, digests equal"
