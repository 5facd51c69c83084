#!/usr/bin/env bash
# Puts a live cluster on trial: many jobs of every kind over ten queues, the leader killed again and again, the watched
# history judged. trial.sh [JOBS] [MS BETWEEN KILLS].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RAFTQ_TRIAL_JOBS=${1:-100000} RAFTQ_TRIAL_KILL_MS=${2:-2500} \
  cargo test --profile "${PROFILE:-release-test}" --test trial -- --nocapture 2>&1 |
  grep -E '^([0-9]+ jobs|thread|test |error|[0-9]+ faults)'
