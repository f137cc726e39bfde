#!/bin/sh
# Runs a command as root on another kernel: Debian's, in a virtual machine without KVM.
#
#     run-in-kernel.sh [-t SECONDS] [-m MEBIBYTES] [-c CPUS] KERNEL COMMAND [ARGUMENT]...
#
# KERNEL is a version as in 6.1 or 6.12, of which the newest of $RELEASES is taken, or the name of a package
# as in linux-image-6.1.0-56-amd64. The machine's root is this one's, read-only, with a layer in memory above:
# what the command writes is gone after it. /run and /tmp are empty there; this one's root is at /run/host too.
# The command has this folder as its own if it is there, PATH, no input and no network but lo.
# The status is the command's; 124 where it took longer than SECONDS, 125 where the machine did not get to its end.
#
# Needs: qemu-system-x86 busybox-static (Debian), root to read all that is shared.
set -eu
umask 022

releases=${RELEASES:-bookworm trixie}
cache=${KERNEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/run-in-kernel}
seconds=900 memory=4096 cpus=1

fail() {
    echo "run-in-kernel: $*" >&2
    exit 125
}
usage() {
    echo "usage: run-in-kernel.sh [-t SECONDS] [-m MEBIBYTES] [-c CPUS] KERNEL COMMAND [ARGUMENT]..." >&2
    exit 125
}
while getopts t:m:c: option; do
    case $option in
        t) seconds=$OPTARG ;;
        m) memory=$OPTARG ;;
        c) cpus=$OPTARG ;;
        *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || usage
kernel=$1
shift
case $kernel in
    linux-image-*) ;;
    [0-9]*.[0-9]*) ;;
    *) fail "no version and no package of a kernel: $kernel" ;;
esac
for tool in qemu-system-x86_64 busybox timeout dpkg-deb; do
    command -v "$tool" >/dev/null || fail "no $tool here"
done
case $(busybox 2>&1; ldd "$(command -v busybox)" 2>&1) in
    *'not a dynamic executable'* | *'statically linked'*) ;;
    *) fail "busybox needs libraries: install busybox-static" ;;
esac

mkdir -p "$cache"
cache=$(cd "$cache" && pwd -P)
work=$(mktemp -d "$cache/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'kill "$(cat "$work/pid")" 2>/dev/null; wait; exit 143' HUP INT TERM

# Apt with lists of its own: the machine's mirrors, the releases named above.
private() {
    "$@" -o Dir::Etc::SourceList="$cache/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$cache/apt/lists" -o Dir::Cache="$cache/apt" -o Dir::State::Status=/dev/null \
        -o APT::Sandbox::User=root -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o Acquire::Languages=none
}
update() {
    mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial"
    here=$(. /etc/os-release && echo "$VERSION_CODENAME")
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' | sort -u |
        while read -r uri suite; do
            for release in $releases; do
                case $suite in
                    "$here" | "$here-security")
                        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri" \
                            "$release${suite#"$here"} main"
                        ;;
                esac
            done
        done | sort -u >"$cache/apt/sources.list"
    [ -s "$cache/apt/sources.list" ] || fail "no mirror of Debian's in the machine's sources of apt"
    private apt-get -qq update
}

# The name of the package: of a version, the newest one's. Neither the cloud's kernel (it has no 9p) nor rt.
package() {
    case $kernel in
        linux-image-*) echo "$kernel" ;;
        *)
            private apt-cache pkgnames "linux-image-$kernel." |
                grep -E '^linux-image-[0-9.]+(-[0-9]+)?(\+[a-z0-9.]+)?-amd64$' | sort -V | tail -n 1
            ;;
    esac
}

# A folder with the package's name in `package`, `vmlinuz`, `modules/VERSION` and `initramfs`.
prepare() {
    update
    name=$(package)
    [ -n "$name" ] || fail "no package of kernel $kernel in $releases"
    (cd "$work" && private apt-get -qq download "$name") || fail "no package $name to be had"
    mkdir "$work/kernel" "$work/unpacked"
    dpkg-deb -x "$work"/linux-image-*.deb "$work/unpacked"
    set -- "$work"/unpacked/boot/vmlinuz-*
    version=${1##*/vmlinuz-}
    for modules in "$work/unpacked/lib/modules" "$work/unpacked/usr/lib/modules"; do
        [ ! -d "$modules/$version" ] || break
    done
    mkdir -p "$work/unpacked/lib"
    [ "$modules" = "$work/unpacked/lib/modules" ] || mv "$modules" "$work/unpacked/lib/modules"
    # Each call of modprobe reads the lists through, and the kernel makes many: what only devices ask for is left out,
    # and nothing has to be unpacked.
    for devices in sound drivers/gpu drivers/media drivers/net/ethernet drivers/net/wireless drivers/usb drivers/iio \
        drivers/scsi drivers/infiniband drivers/staging; do
        rm -rf "$work/unpacked/lib/modules/$version/kernel/$devices"
    done
    find "$work/unpacked/lib/modules" -name '*.ko.xz' -exec busybox unxz {} +
    busybox depmod -b "$work/unpacked" "$version"
    (
        cd "$work/unpacked/lib/modules/$version"
        grep -v '^alias [^ ]*:' modules.alias >modules.few
        mv modules.few modules.alias
        : >modules.symbols
    )
    echo "$name" >"$work/kernel/package"
    mv "$work"/unpacked/boot/vmlinuz-* "$work/kernel/vmlinuz"
    mv "$work/unpacked/lib/modules" "$work/kernel/modules"
    initramfs
    # Another may have been as fast.
    mv -T "$work/kernel" "$cache/$kernel" 2>/dev/null || [ -e "$cache/$kernel/initramfs" ]
}

# Busybox, /init and the modules that lead to the host's root. The kernel's own calls of /sbin/modprobe stay in
# this root whatever the command's is: all others come from the folder of modules that /init mounts.
initramfs() {
    root=$work/initramfs
    list=$work/kernel/modules/$version/modules.dep
    mkdir -p "$root/bin" "$root/sbin" "$root/lib/modules/$version"
    cp "$(command -v busybox)" "$root/bin/busybox"
    ln -s ../bin/busybox "$root/sbin/modprobe"
    for name in virtio_pci 9pnet_virtio 9p overlay; do
        # What is no module is part of the kernel.
        line=$(grep -E "/$name\.ko(\.[a-z]+)?:" "$list") || continue
        echo "$line" >>"$root/lib/modules/$version/modules.dep"
        echo "$name" >>"$root/first"
        for file in $(echo "$line" | tr -d :); do
            mkdir -p "$root/lib/modules/$version/${file%/*}"
            cp "$work/kernel/modules/$version/$file" "$root/lib/modules/$version/$file"
            # Each needs a line of its own.
            grep "^$file:" "$list" >>"$root/lib/modules/$version/modules.dep"
        done
    done
    sort -u -o "$root/lib/modules/$version/modules.dep" "$root/lib/modules/$version/modules.dep"
    cat >"$root/init" <<'END'
#!/bin/busybox sh
export PATH=/bin:/sbin
say() { echo "run-in-kernel: $*" >/dev/console; }
end() { busybox sync; busybox poweroff -f; }
stop() { say "$*"; end; }
must() { "$@" || stop "failed: $*"; }
busybox mkdir -p /proc /sys /dev /host /memory /new
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
stty -onlcr </dev/console
. /settings
for module in $(cat /first); do must modprobe "$module"; done
must mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
must mount -t tmpfs -o mode=755,size=75% tmpfs /memory
mkdir /memory/upper /memory/work
must mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /new
mount -t proc proc /new/proc
mount -t sysfs sysfs /new/sys
must mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
must mount -t bpf -o mode=700 bpf /new/sys/fs/bpf
mount -t tracefs tracefs /new/sys/kernel/tracing
mount -t devtmpfs devtmpfs /new/dev
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts -o ptmxmode=666 devpts /new/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /new/dev/shm
mount -t tmpfs -o mode=755 tmpfs /new/run
mount -t tmpfs -o mode=1777 tmpfs /new/tmp
mkdir -p /new/run/host /new/run/lock
mount -o bind /host /new/run/host
for root in "" /new; do
    mkdir -p "$root/lib/modules"
    must mount -o bind "/host$modules" "$root/lib/modules"
done
rm -f /new/sbin/modprobe
cp /bin/busybox /new/sbin/modprobe
ln -sf /proc/self/fd /new/dev/fd
ip link set lo up
hostname run-in-kernel
ulimit -n 524288
cp /command /new/run/command
read -r up idle </proc/uptime
say "Linux $(uname -r), after $up s"
chroot /new /bin/sh /run/command </dev/null >/dev/console 2>&1
status=$?
read -r up idle </proc/uptime
echo >/dev/console
say "exit status $status, after $up s"
end
END
    chmod 755 "$root/init"
    (cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) | gzip >"$work/kernel/initramfs"
}

quoted() {
    for word; do
        printf "'"
        printf %s "$word" | sed "s/'/'\\\\''/g"
        printf "' "
    done
}

[ -e "$cache/$kernel/initramfs" ] || prepare

# The kernel takes two archives, one after the other: the second tells what is to be run.
mkdir "$work/run"
{
    echo "export PATH=$(quoted "$PATH") HOME=$(quoted "$HOME") LANG=C.UTF-8"
    echo "for folder in $(quoted "$PWD" "/run/host$PWD" /); do cd \"\$folder\" 2>/dev/null && break; done"
    echo "exec $(quoted "$@")"
} >"$work/run/command"
echo "modules=$(quoted "$cache/$kernel/modules")" >"$work/run/settings"
cp "$cache/$kernel/initramfs" "$work/initrd"
(cd "$work/run" && find . -type f | busybox cpio -o -H newc 2>/dev/null) | gzip >>"$work/initrd"

{
    status=0
    timeout -k 10 "$seconds" qemu-system-x86_64 -accel tcg -cpu max -smp "$cpus" -m "$memory" \
        -nodefaults -no-user-config -no-reboot -display none -serial stdio -pidfile "$work/pid" \
        -kernel "$cache/$kernel/vmlinuz" -initrd "$work/initrd" \
        -append 'console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off' \
        -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
        -device virtio-rng-pci </dev/null || status=$?
    echo "$status" >"$work/status"
} | sed -u 's/\r*$//' | tee "$work/console" &
wait $!

case $(cat "$work/status") in
    0) ;;
    124 | 137)
        echo "run-in-kernel: not ended after $seconds seconds" >&2
        exit 124
        ;;
    *) fail "qemu ended with status $(cat "$work/status")" ;;
esac
status=$(sed -n 's/^run-in-kernel: exit status \([0-9]*\), .*/\1/p' "$work/console" | tail -n 1)
[ -n "$status" ] || fail "the machine ended before the command did"
exit "$status"
