# Sourced by the scripts beside it, which name the folders of /run that are their runtime's ($RUNTIME_FOLDERS) and those of
# the machine that they write to ($WRITTEN). What follows runs in mount and PID namespaces of its own, whose end ends all that
# it started: nothing outside WORK is written, which is for logs. Started inside the node's network namespace, as root:
#   WORK=folder of its own   CNI_CONF=a .conflist   CNI_BIN=folder with the plugins
#   COUNT=containers at once (20)   LIMIT=seconds until all is killed (180)
#   FREED=a command that succeeds once the plugins hold nothing any more (optional)
# None of these may be below /mnt. Needs crun, busybox-static, iproute2, util-linux.
# shellcheck shell=bash
export WORK CNI_CONF CNI_BIN COUNT LIMIT FREED
: "${WORK:?}" "${CNI_CONF:?}" "${CNI_BIN:?}" "${COUNT:=20}" "${LIMIT:=180}" "${FREED:=true}"
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
began=$(date +%s%3N)

# --- The machine as the runtime sees it -----------------------------------------------------------------------------
P=/mnt # only a mount point; in memory, and gone with the mount namespace
mount -t tmpfs private "$P"; mkdir "$P/run"
for directory in $WRITTEN; do # copies on write
    mkdir -p "$P/$directory".{upper,work}
    mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$P/$directory.upper,workdir=$P/$directory.work" "/$directory"
done
mount --rbind /run "$P/run"; mount -t tmpfs run /run # its own, with what was there, so that daemons' sockets are reached
for entry in "$P"/run/*; do
    name=${entry##*/}
    case " $RUNTIME_FOLDERS crun netns " in *" $name "*) continue ;; esac
    [ -d "$entry" ] && [ ! -L "$entry" ] || continue
    mkdir -p "/run/$name"; mount --rbind "$entry" "/run/$name"
done
mount -t tmpfs cgroup /sys/fs/cgroup # crun refuses hybrid cgroups even where it is to use none
ip link set lo up

# --- The image: busybox alone, as $P/rootfs.tar ---------------------------------------------------------------------
mkdir -p "$P"/rootfs/{bin,etc,proc,sys,dev,tmp,www}; cp "$(command -v busybox)" "$P/rootfs/bin/busybox"
for applet in sh nc httpd wget ip sleep cat echo timeout true; do ln -s busybox "$P/rootfs/bin/$applet"; done
tar -C "$P/rootfs" --owner=0 --group=0 --numeric-owner -cf "$P/rootfs.tar" .
image=localhost/busybox:test

# --- What both check with -------------------------------------------------------------------------------------------
ok() { echo "ok: $* ($(($(date +%s%3N) - began)) ms)"; began=$(date +%s%3N); }
failed() { echo "FAILED: $*"; complaints | tail -n 15 || true; exit 1; }
serving() { echo "echo $1 >/www/index.html; exec httpd -f -p 80 -h /www"; } # a container's command: it serves its own name
until_equal() { for _ in $(seq 200); do [ "$("${@:2}")" != "$1" ] || return 0; sleep 0.1; done; return 1; }
links() { ip -o link | awk '{ sub("[:@].*", "", $2); print $2 }' | sort | tr '\n' ' '; }
address() { # of eth0 in the container, as a URL has it
    nsenter -t "$(process "$1")" -n ip -o address show dev eth0 scope global |
        awk 'NR == 1 { sub("/.*", "", $4); print ($4 ~ /:/) ? "[" $4 "]" : $4 }'
}
# Of c1 to c$COUNT no two have one address, and c1 fetches from each. Arguments: how a command is run in c1.
each_is_reached() {
    local i urls="" text
    for i in $(seq "$COUNT"); do urls+="c$i http://$(address "c$i")/ "; done
    [ "$(tr ' ' '\n' <<<"$urls" | grep http | sort -u | wc -l)" = "$COUNT" ] || failed "addresses are missing or given twice: $urls"
    text=$("$@" sh -c "set -- $urls
        while [ \$# -gt 0 ]; do [ \"\$(timeout 5 wget -qO- \$2)\" = \$1 ] || echo \"not \$1 at \$2\"; shift 2; done") || failed "exec"
    [ -z "$text" ] || failed "$text"
}
nothing_is_left() { # but the links in $1
    until_equal "$1" links || failed "links are left: $(links); before: $1"
    for _ in $(seq 50); do eval "$FREED" >/dev/null && break; sleep 0.1; done
    eval "$FREED" || failed "not freed: $FREED"
    ok "nothing is left"
}
