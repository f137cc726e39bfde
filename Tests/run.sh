#!/usr/bin/env bash
# Runs what `swift build --build-tests` built, then names what failed once more: the end of a long log is what one reads.
# Arguments go to `swift test`.
set -uo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT

"${SWIFT:-swift}" test --skip-build --no-parallel "$@" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}

if test "$status" != 0; then
    printf '\nWhat failed:\n'
    # An issue is told over several lines: what was found is on the ones after it.
    grep -A 3 -E 'recorded an issue|error:|Fatal error|Crash' "$log" | grep -vE '^(◇|✔|--)' | head -100
    grep -E '^✘ Test .*(failed|timed out)' "$log" | head -50
fi
exit "$status"
