#!/usr/bin/env bash
# Cuts the power of real nodes on real file systems, again and again, and looks for what was acknowledged:
# see --help. Needs root, loop devices, python3, and mkfs of the file system. Exit code 77: it cannot run here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v python3 >/dev/null; then
    echo "power_cuts.sh: CANNOT RUN: python3 is missing" >&2
    exit 77
fi
# In a mount namespace of its own: nobody else holds on to these mounts, and they end with the script, however it ends.
apart=()
if [ "$(id -u)" = 0 ] && unshare --mount --propagation private true 2>/dev/null; then
    apart=(unshare --mount --propagation private)
fi
exec "${apart[@]}" python3 scripts/power_cuts.py "$@"
