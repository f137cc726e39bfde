#!/usr/bin/env bash
# Runs Debian's podman with its CNI backend on the CNI plugins it is given, and checks what containers then can do.
# machine.sh says how it is started; besides:
#   NODE_ADDRESS=where published ports, 9000 to 9000+COUNT, are tried (the node's first global IPv4 address)
# Needs podman, conmon.
set -euo pipefail
export NODE_ADDRESS; : "${NODE_ADDRESS:=}"
RUNTIME_FOLDERS="containers libpod" WRITTEN="etc var/lib"
. "$(dirname "$0")/machine.sh"

# --- Configuration --------------------------------------------------------------------------------------------------
mkdir "$P/tmp" "$P/libpod" "$P/home" "$P/net.d"
mkdir -p /etc/containers; echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
cp "$CNI_CONF" "$P/net.d/00-test.conflist"
network=$(grep -o '"name" *: *"[^"]*"' "$CNI_CONF" | head -n 1 | cut -d '"' -f 4) # the first is the list's own
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

complaints() { grep -hv '^[0-9a-f]*$' "$WORK"/*.log; }
podman() { timeout 60 podman "$@"; }
# $2... are options of run.
start() { podman run -d --name "$1" "${@:2}" "$image" sh -c "$(serving "$1")" </dev/null >"$WORK/$1.log" 2>&1; }
process() { podman inspect -f '{{.State.Pid}}' "$1"; }
published() { # what the node answers on a port
    timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"; printf "GET / HTTP/1.0\r\n\r\n" >&3; cat <&3' "$NODE_ADDRESS" "$1" 2>/dev/null | tail -n 1
}
ports=yes; grep -q '"portMappings" *: *true' "$CNI_CONF" || ports=""

[ "$(podman info -f '{{.Host.NetworkBackend}}')" = cni ] || failed "podman does not use CNI"
podman import -q "$P/rootfs.tar" "$image" >/dev/null 2>"$WORK/import.log" || failed "the image is not imported"
ok "podman uses CNI and has the image"
podman run --rm --name warm "$image" ip -o address show dev eth0 </dev/null >"$WORK/warm.log" 2>&1 || failed "a container with eth0"
before=$(links) # what plugins keep for good, such as a bridge, is there from now on
ok "a container has $(awk '{ printf "%s ", $4 }' "$WORK/warm.log")"
: "${NODE_ADDRESS:=$(ip -4 -o address show scope global | awk 'NR == 1 { sub("/.*", "", $4); print $4 }')}"
start server ${ports:+-p 9000:80} || failed "the server does not start"
for turn in "first" "after a restart"; do
    there=$(address server); [ -n "$there" ] || failed "the server has no address"
    text=$(podman run --rm "$image" timeout 5 wget -qO- "http://$there/" </dev/null) && [ "$text" = server ] ||
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
each_is_reached podman exec c1
for i in ${ports:+$(seq "$COUNT")}; do [ "$(published $((9000 + i)))" = "c$i" ] || failed "port $((9000 + i)) does not reach c$i"; done
ok "one of them fetches from each${ports:+, the node from the port of each}"
podman rm -f -t 0 -a >/dev/null || failed "rm"
ok "all are removed"
[ -z "$(podman ps -aq)" ] && [ -z "$(ls -A /run/netns)" ] || failed "left: $(podman ps -aq) $(ls -A /run/netns)"
nothing_is_left "$before"
