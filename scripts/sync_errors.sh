#!/usr/bin/env bash
# Lets the n-th sync or write of a real node fail, for each n and each kind of failure: see --help. Needs a C
# compiler and python3, no root. Exit code 77: it cannot run here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v python3 >/dev/null; then
    echo "sync_errors.sh: CANNOT RUN: python3 is missing" >&2
    exit 77
fi
exec python3 scripts/sync_errors.py "$@"
