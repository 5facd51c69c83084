#!/usr/bin/env bash
# Measures raftq beside etcd, RabbitMQ, NATS and a floor, on this machine and in one run: see --help. Needs Linux,
# python3 and cargo; the other systems come from Debian's packages, as root. Exit code 77: it cannot run here.
set -euo pipefail
if ! command -v python3 >/dev/null; then
    echo "compare.sh: CANNOT RUN: python3 is missing" >&2
    exit 77
fi
exec python3 "$(dirname "${BASH_SOURCE[0]}")/compare.py" "$@"
