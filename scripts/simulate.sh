#!/usr/bin/env bash
# Simulates clusters for many hours of their time, on every core, and goes on where it stopped:
#   simulate.sh [--hours H] [--jobs N] [--nodes N] [--faults KINDS] [--seed FIRST] [--dir DIR] [--bin RAFTQ]
#
# H hours in all (default 50), each hour another seed. What was done is counted in DIR (default target/simulate), one
# file a job; a second run with the same DIR does only what is missing. Ends with the sums, or with exit code 1 and
# the line that replays what was broken. Without --bin the release build is made first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

hours=50 jobs=$(nproc) nodes=5 faults=all seed=1 dir=target/simulate bin=
while (($#)); do
  case $1 in
    --hours) hours=$2 ;;
    --jobs) jobs=$2 ;;
    --nodes) nodes=$2 ;;
    --faults) faults=$2 ;;
    --seed) seed=$2 ;;
    --dir) dir=$2 ;;
    --bin) bin=$2 ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  (($# >= 2)) || { echo "simulate.sh: $1 wants a value" >&2; exit 2; }
  shift 2
done
if [[ -z $bin ]]; then
  cargo build --quiet --release --locked
  bin=${CARGO_TARGET_DIR:-target}/release/raftq
fi
mkdir -p "$dir"
echo "$(date -u +%FT%TZ) $(git rev-parse --short HEAD 2>/dev/null || echo no-commit) nodes=$nodes faults=$faults hours=$hours" >>"$dir/runs.txt"

# Returns the sum of a figure over all state files.
total() {
  cat "$dir"/job-*.json 2>/dev/null | awk -v key="\"$1\":" '$1 == key { gsub(",", "", $2); sum += $2 } END { printf "%.0f", sum }'
}

pids=()
for ((job = 0; job < jobs; job++)); do
  state=$dir/job-$job.json
  done=$(awk '$1 == "\"seeds_done\":" { gsub(",", "", $2); print $2 }' "$state" 2>/dev/null || true)
  wanted=$((hours / jobs + (job < hours % jobs ? 1 : 0)))
  missing=$((wanted - ${done:-0}))
  ((missing > 0)) || continue
  nice -n 10 "$bin" sim --seed $((seed + job * 1000000)) --seeds "$missing" --minutes 60 \
    --nodes "$nodes" --faults "$faults" --state "$state" >"$dir/job-$job.out" 2>"$dir/job-$job.log" &
  pids+=("$!:$job")
done
failed=0
for each in "${pids[@]}"; do
  if ! wait "${each%%:*}"; then
    failed=1
    echo "job ${each##*:} ended with a failure:" >&2
    grep -v '^seed .* simulated s per CPU s' "$dir/job-${each##*:}.log" >&2 || true
  fi
done
echo "hours=$(($(total simulated_ms) / 3600000)) seeds=$(total seeds_done) faults=$(total faults) starts=$(total starts)" \
  "snapshots=$(total snapshots_installed) acknowledged=$(total submits_acknowledged)" \
  "histories=$(total histories_linearizable) operations=$(total operations_checked) violations=$failed"
exit "$failed"
