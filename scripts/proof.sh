#!/usr/bin/env bash
# Runs the proofs of tests/README.md, row by row, and says what each came to:
#
#   proof.sh [--long] [ROW...]
#
# Without --long each row runs its short slice, from nothing, as .ci/run does (about 15 minutes on two cores). With it
# each row goes on with its long run where it stopped, until its figure is reached; that takes hours. Rows: see below,
# or name a wrong one. What needs something this machine has not is named loudly, and is no failure: exit code 1 is a
# broken promise. The output of each row is kept in target/proof.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
export CARGO_TARGET_DIR=$target

rows=(simulation planted histories model kill9 kill-full cuts-ext4 cuts-xfs damage sync-errors fuzz nemesis hostile overload)
size=short chosen=()
for word in "$@"; do
    case $word in
    --long) size=long ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *)
        case " ${rows[*]} " in
        *" $word "*) chosen+=("$word") ;;
        *) echo "proof.sh: no row $word; there are: ${rows[*]}" >&2 && exit 2 ;;
        esac
        ;;
    esac
done
[ ${#chosen[@]} -gt 0 ] || chosen=("${rows[@]}")
logs=$target/proof/$size
mkdir -p "$logs"
fresh=
[ "$size" = long ] || fresh=--fresh

# Each row is a command; its last line of stdout is what it came to, and exit code 77 or 3 says that it cannot run here.
short_simulation() { rm -rf "$logs/sim" && scripts/simulate.sh --hours 50 --dir "$logs/sim"; }
long_simulation() { scripts/simulate.sh --hours "${HOURS:-1000}" --dir "$logs/sim"; }
short_planted() { scripts/planted.sh; }
long_planted() { scripts/planted.sh; }
short_histories() { RAFTQ_HISTORIES=500 cargo test --locked --test linear -- --nocapture | grep 'histories,'; }
long_histories() { RAFTQ_HISTORIES=5000 cargo test --locked --test linear -- --nocapture | grep 'histories,'; }
short_model() { scripts/model.sh small; }
long_model() { scripts/model.sh middle; }
short_kill9() { rm -rf "$logs/kill9" && scripts/kill9.sh 20 --out "$logs/kill9"; }
long_kill9() { scripts/kill9.sh 300 --out "$logs/kill9"; }
short_kill-full() { scripts/kill_full.sh --kills 8; }
long_kill-full() { scripts/kill_full.sh --kills 100 && scripts/kill_full.sh --kills 100 --nodes 5; }
cuts() { scripts/power_cuts.sh --fs "$1" --cuts "$2" --state "$logs/cuts-$1.json" $fresh; }
short_cuts-ext4() { cuts ext4 5; }
long_cuts-ext4() { cuts ext4 50; }
short_cuts-xfs() { cuts xfs 5; }
long_cuts-xfs() { cuts xfs 50; }
short_damage() { rm -f "$logs/damage" && PROFILE=dev STATE=$logs/damage scripts/damage.sh 5; }
long_damage() { STATE=$logs/damage scripts/damage.sh 100; }
short_sync-errors() { scripts/sync_errors.sh --to 20 --kind sync-eio --state "$logs/sync-errors.json" $fresh; }
long_sync-errors() { scripts/sync_errors.sh --to 200 --state "$logs/sync-errors.json"; }
# Four targets at a time: each is one thread, and has its 30 s.
short_fuzz() {
    cargo fuzz build -s none --fuzz-dir tests/fuzz --target-dir "$target/fuzz/build" >&2 || return
    sed -n 's/^name = "\([a-z]*\)"$/\1/p' tests/fuzz/Cargo.toml | FUZZ_NO_BUILD=1 xargs -P 4 -n 1 scripts/fuzz.sh --secs 30 |
        awk '$1 != "target" { print; n++; runs += $2; crashes += $4 } END { print n " targets, " runs " executions, " crashes + 0 " crashes"; exit crashes > 0 }'
}
long_fuzz() {
    scripts/fuzz.sh --execs 10000000 |
        awk '{ print } $1 != "target" && NF > 3 { n++; runs += $3; crashes += $4 } END { print n " targets, " runs " executions in all, " crashes + 0 " crashes"; exit crashes > 0 }'
}
short_nemesis() {
    scripts/nemesis.sh --minutes 1 --nodes 5 --out "$logs/nemesis-5"
}
long_nemesis() {
    for nodes in 3 5 7; do scripts/nemesis.sh --minutes 10 --nodes "$nodes" --out "$logs/nemesis-$nodes" || return; done
}
short_hostile() { cargo test --locked --test hostile_node -- --include-ignored --nocapture; }
long_hostile() { scripts/hostile.sh; }
short_overload() { scripts/overload.sh 20; }
long_overload() { scripts/overload.sh 180; }

failed=0 absent=() results=()
for row in "${chosen[@]}"; do
    printf '\n== proof: %s, %s\n' "$row" "$size"
    log=$logs/$row.log began=$SECONDS
    "${size}_$row" >"$log" 2>"$log.stderr"
    status=$?
    last=$(grep -v '^[[:space:]]*$' "$log" | tail -n 1 | cut -c1-150)
    case $status in
    0) ;;
    77 | 3 | 127) absent+=("$row") last="CANNOT RUN HERE: $(tail -n 1 "$log.stderr" | cut -c1-120)" ;;
    *)
        failed=1 last="FAILED ($status): $last"
        tail -n 25 "$log" "$log.stderr"
        ;;
    esac
    results+=("$(printf '%-12s %5d s  %s' "$row" $((SECONDS - began)) "$last")")
    printf '%s\n' "${results[-1]}"
done

printf '\n%-12s %7s  %s\n' ROW TIME "WHAT IT CAME TO ($size)"
printf '%s\n' "${results[@]}"
if [ ${#absent[@]} -gt 0 ]; then
    printf '\n!!!! NOT RUN HERE: %s. These need root, loop devices, a C compiler or cargo-fuzz; nothing is proved of them by this run.\n' "${absent[*]}"
fi
exit "$failed"
