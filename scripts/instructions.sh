#!/usr/bin/env bash
# Counts the instructions of one submit, on the leader and on a follower, with valgrind's callgrind: repeatable to a
# fraction of a percent, whatever else the machine does.
#
#   scripts/instructions.sh [--where] [SUBMITS]
#
# SUBMITS     jobs of the shorter of two runs, whose difference counts (default 2560, a multiple of 64)
# --where     also prints the functions that cost most, without what they call
#
# Frames are read and written; there are no disks and no sockets. Submits come alone, or 64 at a time.
# Exit code 77: valgrind is not here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

submits=2560 shows_where=0
while [ $# -gt 0 ]; do
    case $1 in
        --where) shows_where=1 && shift ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 0 ;;
        [1-9]*) submits=$1 && shift ;;
        *) echo "unknown option $1; see --help" >&2 && exit 2 ;;
    esac
done
if ! command -v valgrind >/dev/null; then
    echo "instructions.sh: CANNOT RUN: valgrind is missing (apt-get install valgrind)" >&2
    exit 77
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

if ! cargo test --release --locked --test cost --no-run >"$out/said" 2>&1; then
    cat "$out/said" >&2
    exit 1
fi
binary=$(sed -n 's/.*Executable tests\/cost.rs (\(.*\))/\1/p' "$out/said")

# Prints the instructions within a function of the test and all it calls: ROLE TOGETHER SUBMITS
count() {
    local file=$out/$1.$2.$3
    if ! RAFTQ_COST_SUBMITS=$3 RAFTQ_COST_TOGETHER=$2 valgrind --tool=callgrind --callgrind-out-file="$file" \
        --toggle-collect="cost::$1" "$binary" --test-threads 1 >"$out/said" 2>&1; then
        cat "$out/said" >&2
        return 1
    fi
    sed -n 's/^totals: //p' "$file"
}

printf '%-10s %10s %22s\n' ROLE TOGETHER "INSTRUCTIONS A SUBMIT"
for together in 1 64; do
    for role in on_leader on_follower; do
        # The difference of two runs leaves out the election and what is done once.
        few=$(count $role $together "$submits")
        many=$(count $role $together $((2 * submits)))
        [ "$few" -gt 0 ] || { echo "instructions.sh: no function is called cost::$role any more" >&2 && exit 1; }
        each=$(((many - few) / submits))
        # There are two followers.
        [ $role = on_leader ] || each=$((each / 2))
        printf '%-10s %10s %22s\n' "${role#on_}" "$together" "$each"
    done
done

[ "$shows_where" -eq 1 ] || exit 0

# Prints the 15 most expensive functions, in instructions a submit and percent: ROLE TOGETHER
functions() {
    local jobs=$submits
    [ "$1" = on_leader ] || jobs=$((2 * submits))
    for count in $((2 * submits)) "$submits"; do
        callgrind_annotate --auto=no --threshold=100 "$out/$1.$2.$count"
        echo end
    done | awk -v jobs="$jobs" '
        BEGIN { sign = 1 }
        /^end$/ { sign = -1; next }
        /PROGRAM TOTALS/ { gsub(",", "", $1); all += sign * $1; next }
        # What is inlined stands under its own file: all that belongs to a function is added up.
        /^ *[0-9,]+ \(.*%\)  / {
            cost = $1; gsub(",", "", cost)
            sub(/^ *[0-9,]+ \([^)]*\)  [^:]*:/, ""); sub(/ \[[^]]*\]$/, ""); sub(/\047[0-9]+$/, "")
            costs[$0] += sign * cost
        }
        END { for (name in costs) printf "%8.0f %5.1f %%  %s\n", costs[name] / jobs, 100 * costs[name] / all, name }
    ' | sort -rn | sed -n 1,15p
}

for together in 1 64; do
    for role in on_leader on_follower; do
        printf '\n%s, %s together:\n' "${role#on_}" "$together"
        functions $role $together
    done
done
