#!/usr/bin/env bash
# Kills nodes of a real cluster with SIGKILL while it takes as many jobs as it can: see --help. Needs python3, no root.
# Exit code 77: it cannot run here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v python3 >/dev/null; then
    echo "kill_full.sh: CANNOT RUN: python3 is missing" >&2
    exit 77
fi
exec python3 scripts/kill_full.py "$@"
