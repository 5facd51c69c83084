#!/usr/bin/env bash
# Runs the tests of the disk's threads and of the sockets under ThreadSanitizer: tsan.sh [TEST_TARGET...]
# The standard library is not instrumented: see scripts/tsan.suppressions for what that means. Not part of CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
targets=("$@")
[ $# -gt 0 ] || targets=(storage storage_restart storage_faults storage_snapshots storage_directory net)
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/tsan}
export TSAN_OPTIONS="suppressions=$PWD/scripts/tsan.suppressions halt_on_error=0 exitcode=66 ${TSAN_OPTIONS:-}"
for target in "${targets[@]}"; do
    echo "== $target"
    cargo test --target "$host" --test "$target" -- --test-threads=2
done
