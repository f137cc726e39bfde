#!/usr/bin/env bash
# Runs Debian's containerd with `ctr run --cni` on the CNI plugins it is given, and checks what containers then can do.
# machine.sh says how it is started; besides:
#   FETCH=what a container must be able to fetch, such as a page behind a host port (optional)
# Needs containerd.
set -euo pipefail
export FETCH; : "${FETCH:=}"
RUNTIME_FOLDERS="containerd runc" WRITTEN="etc opt var/lib"
. "$(dirname "$0")/machine.sh"
mkdir -p /etc/cni/net.d /opt/cni/bin # both are built into ctr
rm -f /etc/cni/net.d/*; cp "$CNI_CONF" /etc/cni/net.d/00-test.conflist
mount --bind "$CNI_BIN" /opt/cni/bin

# --- Image and daemon -----------------------------------------------------------------------------------------------
mkdir "$P/image" "$P/bin"; cp "$P/rootfs.tar" "$P/image/layer.tar"
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(dpkg --print-architecture)" "$(sha256sum <"$P/rootfs.tar" | cut -d' ' -f1)" >"$P/image/config.json"
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$image" >"$P/image/manifest.json"
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

complaints() { grep -hE 'level=(error|fatal)|ctr:' "$WORK"/*.log | grep -v 'cgroup deleted'; }
ctr() { timeout 30 ctr -a /run/containerd/test.sock "$@"; }
run() { ctr run --rm --cni --runc-binary "$P/bin/crun-without-cgroups" "$@"; }
# The client must stay: ctr runs DEL only where it is not detached.
start() { run --null-io "$image" "$1" sh -c "$(serving "$1")" </dev/null >"$WORK/$1.log" 2>&1 & clients[$1]=$!; }
running() { ctr task ls | awk '$3 == "RUNNING"' | wc -l; }
process() { ctr task ls | awk -v id="$1" '$1 == id { print $2 }'; }
ended() { # a client's status is its container's, 137, unless DEL failed
    local status=0; wait "${clients[$1]}" || status=$?
    [ "$status" = 137 ] || failed "the client of $1 ended with $status"; unset "clients[$1]"
}
stop() { ctr task kill -s KILL "$1"; ended "$1"; }
declare -A clients=()

for _ in $(seq 100); do ! ctr version >/dev/null 2>&1 || break; kill -0 $daemon || failed "containerd ended"; sleep 0.1; done
ctr image import "$P/image.tar" >/dev/null || failed "the image is not imported"
ok "containerd runs and has the image"

run "$image" warm ip -o address show dev eth0 </dev/null >"$WORK/warm.log" 2>&1 || failed "a container with eth0"
before=$(links) # what plugins keep for good, such as a bridge, is there from now on
ok "a container has $(awk '{ printf "%s ", $4 }' "$WORK/warm.log")"

start server; until_equal 1 running || failed "the server does not run"
there=$(address server); [ -n "$there" ] || failed "the server has no address"
text=$(run "$image" client timeout 5 wget -qO- "http://$there/" </dev/null) && [ "$text" = server ] ||
    failed "a container does not reach another at $there: ${text:-}"
ok "a container fetches from another at $there"
stop server
if [ -n "$FETCH" ]; then
    run "$image" fetch timeout 5 wget -qO- "$FETCH" </dev/null >"$WORK/fetch.log" 2>&1 || failed "a container does not reach $FETCH"
    ok "a container fetches $FETCH"
fi

for i in $(seq "$COUNT"); do start "c$i"; done
until_equal "$COUNT" running || failed "of $COUNT containers $(running) run"
ok "$COUNT containers started at once"
each_is_reached ctr task exec --exec-id fetch c1
ok "one of them fetches from each"
for i in $(seq "$COUNT"); do ctr task kill -s KILL "c$i" & kills[i]=$!; done
wait "${kills[@]}" || failed "a container could not be killed"
for i in $(seq "$COUNT"); do ended "c$i"; done
ok "all are removed"
[ -z "$(ctr container ls -q)" ] || failed "containers are left: $(ctr container ls -q)"
nothing_is_left "$before"
kill -TERM $daemon; wait $daemon || true
