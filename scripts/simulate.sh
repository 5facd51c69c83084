#!/usr/bin/env bash
# Runs many simulated worlds, optimised: simulate.sh [COUNT [FIRST_SEED]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export RAFTQ_SEEDS=${1:-2000} RAFTQ_SEED=${2:-1000}
exec cargo test --profile release-test --test simulation worlds -- --nocapture
