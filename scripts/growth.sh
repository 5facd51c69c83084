#!/usr/bin/env bash
# What millions of jobs cost: memory, speed, restart: see --help. Needs python3, no root.
# Exit code 77: it cannot run here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v python3 >/dev/null; then
    echo "growth.sh: CANNOT RUN: python3 is missing" >&2
    exit 77
fi
exec python3 scripts/growth.py "$@"
