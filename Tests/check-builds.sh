#!/usr/bin/env bash
# Builds the executable with every set of plugins, warnings being errors: none, each alone, all.
set -euo pipefail
cd "$(dirname "$0")/.."
export KNETD_WARNINGS_ARE_ERRORS=1
traits=$(sed -nE 's/^    \("([A-Za-z]+)", "[a-z-]+", .*/\1/p' Package.swift)
test -n "$traits"

build() {
    local name=$1 expected=$2
    shift 2
    swift build --product knetd "$@"
    local found
    found=$(.build/debug/knetd config schema | python3 -c '
import json, sys
print(len(json.load(sys.stdin)["properties"]["plugins"]["properties"]))')
    test "$found" = "$expected" || { echo "built with $name: $found plugins, not $expected" >&2; exit 1; }
    echo "builds with $name"
}

build "no plugin" 0 --disable-default-traits
for trait in $traits; do build "$trait alone" 1 --traits "$trait"; done
build "all plugins" "$(wc -w <<<"$traits")"
swift build --build-tests
