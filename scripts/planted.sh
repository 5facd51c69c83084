#!/usr/bin/env bash
# Breaks one rule of raftq at a time and says which check goes red: planted.sh [BUG...]
#
# A check that was never seen to fail proves nothing. The bugs are listed in src/planted.rs and are in builds
# with the feature `planted-bugs` alone. Each one must be caught by the simulator (`raftq sim --bug NAME`); where that sees
# only that the rule is broken, the exhaustive model (tests/model) must see the harm that comes of it, and a row says so too.
# Then the same seeds must be green without a bug. Exit code 1 if a bug was not caught or the clean program was.
#
#   SEEDS=40     seeds the simulator may take for a bug
#   MINUTES=2     simulated minutes a seed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seeds_max=${SEEDS:-40} minutes=${MINUTES:-2}
target=${CARGO_TARGET_DIR:-target}/planted
logs=$target/logs
mkdir -p "$logs"

say() { printf '%s\n' "$*" >&2; }

say "building with the feature planted-bugs ..."
CARGO_TARGET_DIR=$target cargo build --profile release-test --locked --features planted-bugs --bin raftq --quiet
raftq=$target/release-test/raftq

all=$(grep -oE '=> "[a-z-]+"' src/planted.rs | cut -d'"' -f2)
bugs=("$@")
[ ${#bugs[@]} -gt 0 ] || mapfile -t bugs <<<"$all"

# The model of tests/model takes these over when the simulator did not see them, and the second ones in any case.
model_bugs=" ack-before-sync vote-not-persisted old-term-commit commit-unverified truncate-without-conflict stale-read snapshot-without-term "
model_too=" old-term-commit "
model=
model_binary() {
    [ -n "$model" ] || model=$(CARGO_TARGET_DIR=$target cargo test --profile release-test --locked --features planted-bugs --test model \
        --no-run --message-format=json 2>/dev/null | grep -o '"executable":"[^"]*/model-[^"]*"' | tail -n 1 | cut -d'"' -f4)
}

# Has the model search for a bug; says what it saw.
in_model() {
    model_binary
    RAFTQ_BUG=$1 "$model" planted --nocapture >"$logs/$1.model.log" 2>&1 || return
    grep -m1 -oE "^caught .*" "$logs/$1.model.log" | cut -c1-110
}

# Writes the row of a bug: by, seed and check are set.
row() {
    local took=$((($(date +%s%N) - began) / 1000000))
    printf '%-26s %-10s %6s %6s  %s\n' "$bug" "$by" "${seed:-?}" "$((took / 1000)).$((took % 1000 / 100))" "$check"
}

failed=0 last_seed=1
printf '%-26s %-10s %6s %6s  %s\n' BUG 'CAUGHT BY' SEED WALL-S CHECK
for bug in "${bugs[@]}"; do
    began=$(date +%s%N) log=$logs/$bug.log by=- seed=- check='NOT CAUGHT'
    if "$raftq" sim --bug "$bug" --seed 1 --seeds "$seeds_max" --minutes "$minutes" --no-shrink >"$log" 2>&1; then
        case $model_bugs in
        *" $bug "*) check=$(in_model "$bug") && by=model || check='NOT CAUGHT' ;;
        esac
    else
        by=simulator
        seed=$(grep -oE '^seed=[0-9]+' "$log" | tail -n 1 | cut -d= -f2)
        check=$(grep -m1 -oE 'BROKEN.*' "$log" | sed -E 's/^BROKEN(: | in world [0-9]+ of seed [0-9]+: )//' | cut -c1-110)
        [ -z "$seed" ] && seed=$(grep -oE -- '--seed [0-9]+' "$log" | tail -n 1 | cut -d' ' -f2)
        [ "${seed:-0}" -gt "$last_seed" ] && last_seed=$seed
    fi
    [ "$by" != - ] || failed=1
    row
    case $by$model_too in
    simulator*" $bug "*)
        began=$(date +%s%N) by=model seed=-
        check=$(in_model "$bug") || { by=- check='NOT CAUGHT' failed=1; }
        row
        ;;
    esac
done

say "the same program without a bug, seeds 1 to $last_seed ..."
if "$raftq" sim --seed 1 --seeds "$last_seed" --minutes "$minutes" >"$logs/clean.log" 2>&1; then
    printf '%-26s %-10s %6s\n' 'none' 'nothing' "1-$last_seed"
else
    printf '%-26s %-10s  see %s\n' 'none' 'A CHECK' "$logs/clean.log"
    failed=1
fi
exit $failed
