#!/usr/bin/env bash
# Kills nodes of a real cluster with SIGKILL under load, CYCLES times in all: kill9.sh CYCLES [--nodes N]
# [--seed S] [--out DIR]. It goes on where it stopped: the count is kept in DIR (default target/kill9).
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
case ${1:-} in
'' | -* | *[!0-9]*)
    sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
cycles=$1
shift
exec "$here/nemesis.sh" --kill9 "$cycles" "$@"
