#!/usr/bin/env bash
# Submits three times as much as a cluster of three can take, for minutes, with 512 MiB for each node: they must
# refuse and not die, elect nobody, lose nothing acknowledged, and serve again within 5 s.
#
#   scripts/overload.sh [SECONDS]     (default 180)
#
# As root with control groups of memory the limit is one; else it is `prlimit --data`. The run says which.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-180}
case $seconds in *[!0-9]*) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 2 ;; esac

RAFTQ_OVERLOAD_SECS=$seconds exec cargo test --profile release-test --test overload -- --nocapture
