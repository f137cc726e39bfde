#!/usr/bin/env bash
# Gives millions of messages to the DNS module's readers by libFuzzer, beginning with the committed corpus. Arguments go to libFuzzer,
# such as `-runs=10000000`; what is new is kept in .build-fuzz/corpus, what breaks something beside it.
set -euo pipefail
cd "$(dirname "$0")/.."

export KNETD_FUZZ=1
"${SWIFT:-swift}" build -c release --scratch-path .build-fuzz --product dns-fuzz -Xswiftc -enable-testing
mkdir -p .build-fuzz/corpus
exec .build-fuzz/release/dns-fuzz -max_len=700 -artifact_prefix=.build-fuzz/ -print_final_stats=1 \
    "${@:--runs=10000000}" .build-fuzz/corpus Tests/Fuzz/Corpus
