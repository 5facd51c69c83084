#!/usr/bin/env bash
# A real cluster under faults by a seeded schedule, checked afterwards: nemesis.sh --minutes M --nodes N
# [--seed S] [--out DIR] [--net netns|proxy|auto]; --help tells the rest. Exit code 1: a promise was broken.
set -euo pipefail
unset CDPATH
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
case $TARGET in /*) ;; *) TARGET=$PWD/$TARGET ;; esac
export CARGO_TARGET_DIR=$TARGET

# RAFTQ and NEMESIS are programs to run instead of building them.
if [ -z "${RAFTQ:-}" ]; then
    cargo build --release --locked --quiet --bin raftq --manifest-path "$ROOT/Cargo.toml"
    RAFTQ=$TARGET/release/raftq
fi
if [ -z "${NEMESIS:-}" ]; then
    cargo build --locked --quiet --example nemesis --manifest-path "$ROOT/Cargo.toml"
    NEMESIS=$TARGET/debug/examples/nemesis
fi

# The program cleans up after itself, also at Ctrl-C. This is for when it is killed.
pid=
clean() {
    local name dir file node
    [ -n "$pid" ] || return 0
    kill -TERM "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
    name=rqn$pid
    for file in /run/netns/"$name"-*; do
        [ -e "$file" ] || continue
        # shellcheck disable=SC2046 # a list of numbers
        kill -KILL $(ip netns pids "${file##*/}") 2>/dev/null || true
        ip netns del "${file##*/}"
        # The link goes with its namespace, but only in time.
        ip link del "${name}v${file##*-}" 2>/dev/null || true
    done
    if [ -e "/sys/class/net/${name}b" ]; then ip link del "${name}b"; fi
    dir=$(cat "$TARGET/nemesis.$pid" 2>/dev/null) || return 0
    rm -f "$TARGET/nemesis.$pid"
    for file in "$dir"/node*.pid; do
        [ -e "$file" ] || continue
        node=$(cat "$file")
        if tr '\0' ' ' 2>/dev/null <"/proc/$node/cmdline" | grep -qF -- "--data $dir/"; then
            kill -KILL "$node" || true
        fi
    done
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

export NEMESIS_STATE=$TARGET
"$NEMESIS" --program "$RAFTQ" "$@" &
pid=$!
code=0
wait "$pid" || code=$?
exit "$code"
