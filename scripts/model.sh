#!/usr/bin/env bash
# Searches small scopes of the real Raft core exhaustively, optimised: model.sh [small|middle|large|planted]
# large takes hours; RAFTQ_SECONDS=N gives each search N seconds, whether it comes to its end or not.
# planted breaks one rule after the other, and fails unless the search finds each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run() { cargo test --profile release-test --test model "$@" -- --nocapture; }
case ${1:-middle} in
    small | middle | large) RAFTQ_MODEL=${1:-middle} run scopes ;;
    planted)
        for bug in ack-before-sync vote-not-persisted old-term-commit commit-unverified \
            truncate-without-conflict stale-read snapshot-without-term; do
            RAFTQ_BUG=$bug run planted --features planted-bugs
        done
        ;;
    *) sed -n '2,4s/^# //p' "$0" >&2 && exit 2 ;;
esac
