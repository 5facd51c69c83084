#!/usr/bin/env bash
# A real cluster under a million malformed frames, broken and foreign streams, slow and silent and deaf
# connections and ten thousand idle ones, while good clients work: they must not notice. Takes some minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in '') ;; *) sed -n '2,3s/^# //p' "$0" && exit 2 ;; esac

# Ten thousand connections are as many descriptors here and there, and some more.
if [ "$(ulimit -n)" != unlimited ] && [ "$(ulimit -n)" -lt 15000 ]; then
    ulimit -n 15000 2>/dev/null || { echo "15,000 descriptors are needed: raise ulimit -n" >&2; exit 3; }
fi
RAFTQ_HOSTILE=full exec cargo test --profile release-test --test hostile_node -- --nocapture
