#!/usr/bin/env bash
# Fuzzes every reader of foreign bytes, one target after the other, and prints what was run.
#
#   scripts/fuzz.sh [--secs N | --execs N] [TARGET...]
#
# --secs N    seconds for each target (default 30)
# --execs N   toward N executions of each target in all: counts go on where the last run stopped
#
# Inputs found are kept in target/fuzz/found, counts in target/fuzz/count. Every input that breaks a target is
# kept in target/fuzz/crashes: copy it to tests/fuzz/corpus/TARGET once it is mended, where `cargo test`
# replays it for ever. Exit 1 if there is one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

secs=30 execs=0 targets=()
while [ $# -gt 0 ]; do
    case $1 in
        --secs) secs=${2:?} execs=0 && shift 2 ;;
        --execs) execs=${2:?} && shift 2 ;;
        -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 0 ;;
        -*) echo "unknown option $1; see --help" >&2 && exit 2 ;;
        *) targets+=("$1") && shift ;;
    esac
done
known=$(sed -n 's/^name = "\([a-z]*\)"$/\1/p' tests/fuzz/Cargo.toml)
[ ${#targets[@]} -gt 0 ] || mapfile -t targets <<<"$known"
for target in "${targets[@]}"; do
    grep -qx "$target" <<<"$known" || { echo "no target $target; there are:" $known >&2; exit 2; }
done
if ! command -v cargo-fuzz >/dev/null; then
    echo "cargo-fuzz is not installed: cargo install cargo-fuzz --locked (needs a C++ compiler to build targets)" >&2
    exit 3
fi

# A stable compiler will do: coverage needs no nightly, sanitizers would.
state=${CARGO_TARGET_DIR:-target}/fuzz
case $state in /*) ;; *) state=$PWD/$state ;; esac
mkdir -p "$state"
if [ -z "${FUZZ_NO_BUILD:-}" ]; then
    cargo fuzz build -s none --fuzz-dir tests/fuzz --target-dir "$state/build" >&2
fi
host=$(rustc -vV | sed -n 's/^host: //p')

crashed=0
printf '%-14s %14s %14s %8s %10s %8s\n' target 'this run' 'in all' crashes exec/s coverage
for target in "${targets[@]}"; do
    mkdir -p "$state/found/$target" "$state/crashes/$target" "$state/count"
    count=$state/count/$target
    before=$(cat "$count" 2>/dev/null || echo 0)
    log=$state/count/$target.log
    limit=(-max_total_time="$secs")
    if [ "$execs" -gt 0 ]; then
        limit=(-runs="$((execs > before ? execs - before : 0))")
        [ "$execs" -gt "$before" ] || limit=(-runs=1)
    fi
    status=0
    "$state/build/$host/release/$target" "$state/found/$target" "tests/fuzz/corpus/$target" "${limit[@]}" \
        -max_len="${FUZZ_MAX_LEN:-8192}" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=1 \
        -artifact_prefix="$state/crashes/$target/" >"$log" 2>&1 || status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    coverage=$(grep -o 'cov: [0-9]*' "$log" | tail -n 1 | cut -d' ' -f2 || true)
    echo $((before + ${runs:-0})) >"$count"
    crashes=$(find "$state/crashes/$target" -type f | wc -l)
    printf '%-14s %14s %14s %8s %10s %8s\n' \
        "$target" "${runs:-0}" "$(cat "$count")" "$crashes" "${rate:-0}" "${coverage:-0}"
    if [ "$status" -ne 0 ] || [ "$crashes" -gt 0 ]; then
        crashed=1
        grep -m3 -E 'panicked at|ERROR: libFuzzer|SUMMARY' -A1 "$log" | sed 's/^/    /' || tail -n 5 "$log"
        echo "    the inputs: $state/crashes/$target; what was said: $log"
    fi
done
exit "$crashed"
