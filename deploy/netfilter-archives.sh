#!/usr/bin/env bash
# Makes archives of libmnl, libnftnl and libnftables, of which Debian has none, from Debian's own sources: the versions that the
# headers of this machine belong to. Takes the folder for them; needs deb-src entries, bison, flex, gcc, make, pkg-config
# and libjansson-dev.
set -euo pipefail
target=${1:?usage: $0 FOLDER}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$target"
target=$(realpath "$target")
export PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig

cd "$work"
apt-get source -q libmnl libnftnl nftables
make_archive() { # source package, options of its configure
    cd "$work"/"$1"-*/
    ./configure -q --prefix="$work/prefix" --disable-shared --enable-static "${@:2}"
    make -s -j "$(nproc)" install
}
make_archive libmnl
make_archive libnftnl
# JSON is how knetd has the elements of sets listed. The rest is for the command nft.
make_archive nftables --with-json --with-mini-gmp --without-cli --without-xtables --disable-man-doc --disable-python

cp "$work"/prefix/lib/lib{mnl,nftnl}.a "$target"
# The module map asks for libnftables alone, and an archive does not say what it needs.
cp "$work"/prefix/lib/libnftables.a "$target/libnftables-alone.a"
cp "$(gcc -print-file-name=libjansson.a)" "$target"
echo "GROUP ( -lnftables-alone -lnftnl -lmnl -ljansson )" >"$target/libnftables.a"
