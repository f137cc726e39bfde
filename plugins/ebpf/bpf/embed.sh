# Compiles a BPF program and writes it as Swift: embed.sh CLANG SOURCE OUTPUT
set -eu
clang=$1 source=$2 output=$3

# Headers of the kernel for this machine's processor, which `-target bpf` does not look for.
system=/usr/include/$(uname -m)-linux-gnu
for header in bpf/bpf_helpers.h linux/bpf.h; do
    test -e "/usr/include/$header" && continue
    echo "error: the BPF programs need <$header>: apt-get install libbpf-dev linux-libc-dev, or build without the trait EBPF" >&2
    exit 1
done
"$clang" -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror -I"$system" -c "$source" -o "$output.o"
{
    echo '/// Made by plugins/ebpf/bpf/embed.sh: an object file in Base64.'
    echo 'enum Embedded {'
    echo "    static let path = \"$(base64 -w 0 "$output.o")\""
    echo '}'
} > "$output"
