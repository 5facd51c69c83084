#!/usr/bin/env bash
# Searches small scopes of the real Raft core exhaustively, optimised: model.sh [small|middle|large|prints|planted]
# small takes seconds, middle minutes. Of large not every search was seen to end (tests/model/scopes.rs says which);
# RAFTQ_SECONDS=N gives each one N seconds, whether it comes to its end or not.
# prints compares the futures of states that are taken for one, in the middle scopes.
# planted breaks one rule after the other, and fails unless the search finds each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run() { cargo test --profile release-test --test model "$@" -- --nocapture; }
case ${1:-middle} in
    small | middle | large) RAFTQ_MODEL=${1:-middle} run scopes ;;
    prints) RAFTQ_MODEL=middle RAFTQ_STATES=${RAFTQ_STATES:-100000} run states_of_one_print ;;
    planted)
        for bug in ack-before-sync vote-not-persisted old-term-commit commit-unverified \
            truncate-without-conflict stale-read snapshot-without-term; do
            RAFTQ_BUG=$bug run planted --features planted-bugs
        done
        ;;
    *) sed -n '2,6s/^# //p' "$0" >&2 && exit 2 ;;
esac
