#!/usr/bin/env bash
# Runs Debian's podman with its CNI backend on the CNI plugins it is given, and checks what containers then can do.
# It is started inside the node's network namespace, as root:
#   WORK=folder of its own   CNI_CONF=a .conflist   CNI_BIN=folder with the plugins
#   COUNT=containers at once (20)   LIMIT=seconds until all is killed (180)
#   FREED=a command that succeeds once the plugins hold nothing any more (optional)
#   NODE_ADDRESS=where published ports, 9000 to 9000+COUNT, are tried (the node's first global IPv4 address)
# None of these may be below /mnt. Nothing outside WORK is written, which is for logs: all else is in mount and PID
# namespaces of its own, whose end ends all that it started.
# Needs podman, conmon, crun, busybox-static, iproute2, util-linux.
set -euo pipefail; began=$(date +%s%3N)
export WORK CNI_CONF CNI_BIN COUNT LIMIT FREED NODE_ADDRESS
: "${WORK:?}" "${CNI_CONF:?}" "${CNI_BIN:?}" "${COUNT:=20}" "${LIMIT:=180}" "${FREED:=true}" "${NODE_ADDRESS:=}"
if [ "${1:-}" != inside ]; then
    mkdir -p "$WORK"; rm -f "$WORK"/*.log
    # Whichever of these is killed, the next one is, down to the first process of the PID namespace and so all in it.
    setpriv --pdeathsig KILL timeout -s KILL "$LIMIT" setpriv --pdeathsig KILL unshare --mount --propagation private \
        --pid --fork --kill-child --mount-proc bash "$0" inside &
    guard=$!
    trap 'kill -KILL $guard 2>/dev/null; exit 143' TERM INT HUP
    status=0; wait $guard || status=$?
    [ $status -ne 137 ] || echo "FAILED: killed after at most $LIMIT s"; exit $status
fi
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND"' ERR

# --- The machine as the runtime sees it -----------------------------------------------------------------------------
P=/mnt # only a mount point; in memory, and gone with the mount namespace
mount -t tmpfs private "$P"; mkdir "$P/run" "$P/tmp" "$P/libpod" "$P/home" "$P/net.d"
for directory in etc var/lib; do # copies on write
    mkdir -p "$P/$directory".{upper,work}
    mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$P/$directory.upper,workdir=$P/$directory.work" /$directory
done
mount --rbind /run "$P/run"; mount -t tmpfs run /run # its own, with what was there, so that daemons' sockets are reached
for entry in "$P"/run/*; do
    name=${entry##*/}
    case $name in containers | crun | libpod | netns) continue ;; esac
    [ -d "$entry" ] && [ ! -L "$entry" ] || continue
    mkdir -p "/run/$name"; mount --rbind "$entry" "/run/$name"
done
mount -t tmpfs cgroup /sys/fs/cgroup # crun refuses hybrid cgroups even where it is to use none
mkdir -p /etc/containers; echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
cp "$CNI_CONF" "$P/net.d/00-test.conflist"
network=$(grep -o '"name" *: *"[^"]*"' "$CNI_CONF" | head -n 1 | cut -d '"' -f 4) # the first is the list's own
ip link set lo up

# --- Image and configuration ----------------------------------------------------------------------------------------
mkdir -p "$P"/rootfs/{bin,etc,proc,sys,dev,tmp,www}; cp "$(command -v busybox)" "$P/rootfs/bin/busybox"
for applet in sh nc httpd wget ip sleep cat echo timeout true; do ln -s busybox "$P/rootfs/bin/$applet"; done
tar -C "$P/rootfs" --owner=0 --group=0 --numeric-owner -cf "$P/rootfs.tar" .
# No static_dir: the clean-up that conmon starts is given --root alone and would look for the database elsewhere.
cat >"$P/containers.conf" <<TOML
[containers]
cgroups = "disabled"
log_driver = "k8s-file"
[network]
network_backend = "cni"
network_config_dir = "$P/net.d"
cni_plugin_dirs = ["$CNI_BIN"]
default_network = "$network"
[engine]
runtime = "crun"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "$P/libpod"
TOML
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n' "$P/root" "$P/runroot" >"$P/storage.conf"
export CONTAINERS_CONF=$P/containers.conf CONTAINERS_STORAGE_CONF=$P/storage.conf HOME=$P/home TMPDIR=$P/tmp

ok() { echo "ok: $* ($(($(date +%s%3N) - began)) ms)"; began=$(date +%s%3N); }
failed() { echo "FAILED: $*"; grep -hv '^[0-9a-f]*$' "$WORK"/*.log | tail -n 15 || true; exit 1; }
podman() { timeout 60 podman "$@"; }
# Each container serves its own name. $2... are options of run.
start() { podman run -d --name "$1" "${@:2}" localhost/busybox:test sh -c "echo $1 >/www/index.html; exec httpd -f -p 80 -h /www" </dev/null >"$WORK/$1.log" 2>&1; }
until_equal() { for _ in $(seq 100); do [ "$("${@:2}")" != "$1" ] || return 0; sleep 0.1; done; return 1; }
address() { # of eth0 in the container, as a URL has it
    nsenter -t "$(podman inspect -f '{{.State.Pid}}' "$1")" -n ip -o address show dev eth0 scope global |
        awk 'NR == 1 { sub("/.*", "", $4); print ($4 ~ /:/) ? "[" $4 "]" : $4 }'
}
published() { # what the node answers on a port
    timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"; printf "GET / HTTP/1.0\r\n\r\n" >&3; cat <&3' "$NODE_ADDRESS" "$1" 2>/dev/null | tail -n 1
}
links() { ip -o link | awk '{ sub("[:@].*", "", $2); print $2 }' | sort | tr '\n' ' '; }
ports=yes; grep -q '"portMappings" *: *true' "$CNI_CONF" || ports=""

[ "$(podman info -f '{{.Host.NetworkBackend}}')" = cni ] || failed "podman does not use CNI"
podman import -q "$P/rootfs.tar" localhost/busybox:test >/dev/null 2>"$WORK/import.log" || failed "the image is not imported"
ok "podman uses CNI and has the image"
podman run --rm --name warm localhost/busybox:test ip -o address show dev eth0 </dev/null >"$WORK/warm.log" 2>&1 || failed "a container with eth0"
before=$(links) # what plugins keep for good, such as a bridge, is there from now on
ok "a container has $(awk '{ printf "%s ", $4 }' "$WORK/warm.log")"
: "${NODE_ADDRESS:=$(ip -4 -o address show scope global | awk 'NR == 1 { sub("/.*", "", $4); print $4 }')}"
start server ${ports:+-p 9000:80} || failed "the server does not start"
for turn in "first" "after a restart"; do
    there=$(address server); [ -n "$there" ] || failed "the server has no address"
    text=$(podman run --rm localhost/busybox:test timeout 5 wget -qO- "http://$there/" </dev/null) && [ "$text" = server ] ||
        failed "$turn: a container does not reach another at $there: ${text:-}"
    [ -z "$ports" ] || [ "$(published 9000)" = server ] || failed "$turn: $NODE_ADDRESS:9000 does not reach the container"
    ok "$turn: a container fetches from another at $there${ports:+, the node from $NODE_ADDRESS:9000}"
    [ "$turn" != first ] || podman restart -t 0 server >/dev/null || failed "restart"
done
podman rm -f -t 0 server >/dev/null || failed "rm"
[ -z "$ports" ] || [ -z "$(published 9000 || true)" ] || failed "port 9000 answers though its container is removed"
for i in $(seq "$COUNT"); do start "c$i" ${ports:+-p $((9000 + i)):80} & starts[i]=$!; done
for i in $(seq "$COUNT"); do wait "${starts[i]}" || failed "c$i does not start"; done
ok "$COUNT containers started at once"
urls=""; for i in $(seq "$COUNT"); do urls+="c$i http://$(address "c$i")/ "; done
[ "$(tr ' ' '\n' <<<"$urls" | grep http | sort -u | wc -l)" = "$COUNT" ] || failed "addresses are missing or given twice: $urls"
text=$(podman exec c1 sh -c "set -- $urls
    while [ \$# -gt 0 ]; do [ \"\$(timeout 5 wget -qO- \$2)\" = \$1 ] || echo \"not \$1 at \$2\"; shift 2; done") || failed "exec"
[ -z "$text" ] || failed "$text"
for i in ${ports:+$(seq "$COUNT")}; do [ "$(published $((9000 + i)))" = "c$i" ] || failed "port $((9000 + i)) does not reach c$i"; done
ok "one of them fetches from each${ports:+, the node from the port of each}"
podman rm -f -t 0 -a >/dev/null || failed "rm"
ok "all are removed"
[ -z "$(podman ps -aq)" ] && [ -z "$(ls -A /run/netns)" ] || failed "left: $(podman ps -aq) $(ls -A /run/netns)"
until_equal "$before" links || failed "links are left: $(links); before: $before"
for _ in $(seq 50); do eval "$FREED" >/dev/null && break; sleep 0.1; done; eval "$FREED" || failed "not freed: $FREED"
ok "nothing is left"
