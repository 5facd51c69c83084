#!/usr/bin/env bash
# Measures our Raft core beside the raft crate, three replicas of each in memory, and prints entries a second.
#
#   scripts/core_bench.sh [--rounds N] [--secs N] [--table]
#
# --rounds N  how often each of the 16 figures is measured (default 5); the table has the best of each
# --secs N    seconds of measuring for each figure in a round (default 1)
# --table     measure nothing, print the table of the last run
#
# at_once: followers hear in a message of its own what is committed; with_next: with the next entries. An entry counts
# once all three nodes have handed it out. Wants a quiet machine. With RATIO_MIN set: exit 1 if ours is below so many
# times the raft crate in any case.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=5 secs=1 measures=1
while [ $# -gt 0 ]; do
    case $1 in
        --rounds) rounds=${2:?} && shift 2 ;;
        --secs) secs=${2:?} && shift 2 ;;
        --table) measures=0 && shift ;;
        -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 0 ;;
        *) echo "unknown option $1; see --help" >&2 && exit 2 ;;
    esac
done

target=${CARGO_TARGET_DIR:-target/core_bench}
case $target in /*) ;; *) target=$PWD/$target ;; esac
export CARGO_TARGET_DIR=$target CRITERION_HOME=$target/criterion

if [ "$measures" -eq 1 ]; then
    rm -rf "$CRITERION_HOME"
    for round in $(seq "$rounds"); do
        cargo bench --locked --manifest-path tests/core_bench/Cargo.toml --bench core -- \
            --measurement-time "$secs" --save-baseline "round-$round" --noplot >&2
    done
fi

python3 - "$CRITERION_HOME" "${RATIO_MIN:-0}" <<'END'
import json, pathlib, sys

home, ratio_min = pathlib.Path(sys.argv[1]), float(sys.argv[2])


def rate(group, name, proposals):
    """Entries a second: of each round the median time of a turn, of these the shortest."""
    files = list((home / group / name / str(proposals)).glob("round-*/estimates.json"))
    if not files:
        sys.exit(f"nothing was measured of {group}/{name}/{proposals}")
    turns = [json.loads(file.read_text())["median"]["point_estimate"] for file in files]
    return proposals * 1e9 / min(turns)


print(f"{'commit told':12} {'proposals a turn':>16} {'ours, entries/s':>16} {'raft crate':>12} {'ratio':>6}")
below = 0
for group in ("at_once", "with_next"):
    for proposals in (1, 16, 64, 256):
        ours, theirs = (rate(group, name, proposals) for name in ("ours", "raft_crate"))
        below += ours < ratio_min * theirs
        print(f"{group:12} {proposals:16} {ours:16,.0f} {theirs:12,.0f} {ours / theirs:6.2f}")
sys.exit(1 if below else 0)
END
