#!/usr/bin/env bash
# Runs Debian's containerd with `ctr run --cni` on the CNI plugins it is given, and checks what containers then can do.
# It is started inside the node's network namespace, as root:
#   WORK=folder of its own   CNI_CONF=a .conflist   CNI_BIN=folder with the plugins
#   COUNT=containers at once (20)   LIMIT=seconds until all is killed (120)
#   FREED=a command that succeeds once the plugins hold nothing any more (optional)
#   FETCH=what a container must be able to fetch besides, such as a page behind a host port (optional)
# None of these may be below /mnt. Nothing outside WORK is written, which is for logs: all else is in mount and PID
# namespaces of its own, whose end ends all that it started.
# Needs containerd, crun, busybox-static, iproute2, util-linux.
set -euo pipefail
export WORK CNI_CONF CNI_BIN COUNT LIMIT FREED FETCH
: "${WORK:?}" "${CNI_CONF:?}" "${CNI_BIN:?}" "${COUNT:=20}" "${LIMIT:=120}" "${FREED:=true}" "${FETCH:=}"
if [ "${1:-}" != inside ]; then
    mkdir -p "$WORK"; rm -f "$WORK"/*.log
    # Whichever of these is killed, the next one is, down to the first process of the PID namespace and so all in it.
    setpriv --pdeathsig KILL timeout -s KILL "$LIMIT" setpriv --pdeathsig KILL unshare --mount --propagation private \
        --pid --fork --kill-child --mount-proc bash "$0" inside &
    guard=$!
    trap 'kill -KILL $guard 2>/dev/null; exit 143' TERM INT HUP
    status=0; wait $guard || status=$?
    [ $status -ne 137 ] || echo "FAILED: killed after at most $LIMIT s"
    exit $status
fi

trap 'echo "FAILED: line $LINENO: $BASH_COMMAND"' ERR
# --- The machine as the runtime sees it -----------------------------------------------------------------------------
P=/mnt # only a mount point; in memory, and gone with the mount namespace
mount -t tmpfs private "$P"; mkdir "$P/run" "$P/bin"
for directory in etc opt var/lib; do # copies on write
    mkdir -p "$P/$directory".{upper,work}
    mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$P/$directory.upper,workdir=$P/$directory.work" /$directory
done
mount --rbind /run "$P/run"; mount -t tmpfs run /run # its own, with what was there, so that daemons' sockets are reached
for entry in "$P"/run/*; do
    name=${entry##*/}
    case $name in containerd | crun | runc | netns) continue ;; esac
    [ -d "$entry" ] && [ ! -L "$entry" ] || continue
    mkdir -p "/run/$name"; mount --rbind "$entry" "/run/$name"
done
mount -t tmpfs cgroup /sys/fs/cgroup # crun refuses hybrid cgroups even where it is to use none
mkdir -p /etc/cni/net.d /opt/cni/bin # both are built into ctr
rm -f /etc/cni/net.d/*; cp "$CNI_CONF" /etc/cni/net.d/00-test.conflist
mount --bind "$CNI_BIN" /opt/cni/bin
ip link set lo up

# --- Image and daemon -----------------------------------------------------------------------------------------------
mkdir -p "$P"/rootfs/{bin,etc,proc,sys,dev,tmp,www} "$P/image"
cp "$(command -v busybox)" "$P/rootfs/bin/busybox"
for applet in sh nc httpd wget ip sleep cat echo timeout true; do ln -s busybox "$P/rootfs/bin/$applet"; done
tar -C "$P/rootfs" --owner=0 --group=0 --numeric-owner -cf "$P/image/layer.tar" .
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(dpkg --print-architecture)" "$(sha256sum <"$P/image/layer.tar" | cut -d' ' -f1)" >"$P/image/config.json"
echo '[{"Config":"config.json","RepoTags":["localhost/busybox:test"],"Layers":["layer.tar"]}]' >"$P/image/manifest.json"
tar -C "$P/image" -cf "$P/image.tar" manifest.json config.json layer.tar
printf '#!/bin/sh\nexec crun --cgroup-manager=disabled "$@"\n' >"$P/bin/crun-without-cgroups"; chmod +x "$P/bin/crun-without-cgroups"
cat >"$P/config.toml" <<TOML
version = 2
root = "$P/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/containerd/test.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "$P/opt-root"
TOML
containerd -c "$P/config.toml" >"$WORK/containerd.log" 2>&1 & daemon=$!

began=$(date +%s%3N)
ok() { echo "ok: $* ($(($(date +%s%3N) - began)) ms)"; began=$(date +%s%3N); }
failed() { echo "FAILED: $*"; grep -hE 'level=(error|fatal)|ctr:' "$WORK"/*.log | grep -v 'cgroup deleted' | tail -n 15 || true; exit 1; }
ctr() { timeout 30 ctr -a /run/containerd/test.sock "$@"; }
run() { ctr run --rm --cni --runc-binary "$P/bin/crun-without-cgroups" "$@"; }
# The client must stay: ctr runs DEL only where it is not detached. Each container serves its own name.
start() { run --null-io localhost/busybox:test "$1" sh -c "echo $1 >/www/index.html; exec httpd -f -p 80 -h /www" </dev/null >"$WORK/$1.log" 2>&1 & clients[$1]=$!; }
running() { ctr task ls | awk '$3 == "RUNNING"' | wc -l; }
until_equal() { for _ in $(seq 200); do [ "$("${@:2}")" != "$1" ] || return 0; sleep 0.1; done; return 1; }
address() { # of eth0 in the container, as a URL has it
    nsenter -t "$(ctr task ls | awk -v id="$1" '$1 == id { print $2 }')" -n ip -o address show dev eth0 scope global |
        awk 'NR == 1 { sub("/.*", "", $4); print ($4 ~ /:/) ? "[" $4 "]" : $4 }'
}
ended() { # a client's status is its container's, 137, unless DEL failed
    local status=0; wait "${clients[$1]}" || status=$?
    [ "$status" = 137 ] || failed "the client of $1 ended with $status"; unset "clients[$1]"
}
stop() { ctr task kill -s KILL "$1"; ended "$1"; }
links() { ip -o link | awk '{ sub("[:@].*", "", $2); print $2 }' | sort | tr '\n' ' '; }
declare -A clients=()

for _ in $(seq 100); do ! ctr version >/dev/null 2>&1 || break; kill -0 $daemon || failed "containerd ended"; sleep 0.1; done
ctr image import "$P/image.tar" >/dev/null || failed "the image is not imported"
ok "containerd runs and has the image"

run localhost/busybox:test warm ip -o address show dev eth0 </dev/null >"$WORK/warm.log" 2>&1 || failed "a container with eth0"
before=$(links) # what plugins keep for good, such as a bridge, is there from now on
ok "a container has $(awk '{ printf "%s ", $4 }' "$WORK/warm.log")"

start server; until_equal 1 running || failed "the server does not run"
there=$(address server); [ -n "$there" ] || failed "the server has no address"
text=$(run localhost/busybox:test client timeout 5 wget -qO- "http://$there/" </dev/null) && [ "$text" = server ] ||
    failed "a container does not reach another at $there: ${text:-}"
ok "a container fetches from another at $there"
stop server
if [ -n "$FETCH" ]; then
    run localhost/busybox:test fetch timeout 5 wget -qO- "$FETCH" </dev/null >"$WORK/fetch.log" 2>&1 || failed "a container does not reach $FETCH"
    ok "a container fetches $FETCH"
fi

for i in $(seq "$COUNT"); do start "c$i"; done
until_equal "$COUNT" running || failed "of $COUNT containers $(running) run"
ok "$COUNT containers started at once"
urls=""; for i in $(seq "$COUNT"); do urls+="c$i http://$(address "c$i")/ "; done
[ "$(tr ' ' '\n' <<<"$urls" | grep http | sort -u | wc -l)" = "$COUNT" ] || failed "addresses are missing or given twice: $urls"
text=$(ctr task exec --exec-id fetch c1 sh -c "set -- $urls
    while [ \$# -gt 0 ]; do [ \"\$(timeout 5 wget -qO- \$2)\" = \$1 ] || echo \"not \$1 at \$2\"; shift 2; done") || failed "exec"
[ -z "$text" ] || failed "$text"
ok "one of them fetches from each"
for i in $(seq "$COUNT"); do ctr task kill -s KILL "c$i" & kills[i]=$!; done
wait "${kills[@]}" || failed "a container could not be killed"
for i in $(seq "$COUNT"); do ended "c$i"; done
ok "all are removed"
[ -z "$(ctr container ls -q)" ] || failed "containers are left: $(ctr container ls -q)"
until_equal "$before" links || failed "links are left: $(links); before: $before"
for _ in $(seq 50); do eval "$FREED" >/dev/null && break; sleep 0.1; done; eval "$FREED" || failed "not freed: $FREED"
ok "nothing is left"
kill -TERM $daemon; wait $daemon || true
