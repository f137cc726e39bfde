# Compiles BPF programs and writes them as Swift: embed.sh CLANG OUTPUT SOURCE…
set -eu
clang=$1 output=$2
shift 2

# Headers of the kernel for this machine's processor, which `-target bpf` does not look for.
system=/usr/include/$(uname -m)-linux-gnu
for header in bpf/bpf_helpers.h linux/bpf.h; do
    test -e "/usr/include/$header" && continue
    echo "error: the BPF programs need <$header>: apt-get install libbpf-dev linux-libc-dev, or build without the trait EBPF" >&2
    exit 1
done
{
    echo '/// Made by plugins/ebpf/bpf/embed.sh: object files in Base64.'
    echo 'enum Embedded {'
    for source in "$@"; do
        object=$output.$(basename "$source" .bpf.c).o
        "$clang" -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror -I"$system" -c "$source" -o "$object"
        echo "    static let $(basename "$source" .bpf.c) = \"$(base64 -w 0 "$object")\""
    done
    echo '}'
} > "$output"
