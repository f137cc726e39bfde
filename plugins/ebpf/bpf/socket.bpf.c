// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Services at the socket: a client that connects to a Service is connected to one of its endpoints, so that no packet has to be
// translated. What is not found here takes its way through the host's stack, where the service proxy's rules are.
#include <linux/bpf.h>
#include <linux/in.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "include/knet.h"

char knet_license[] SEC("license") = "GPL";

// Network namespaces of this node whose sockets are meant, by their cookies: the node's own and those of its pods. Other nodes
// may be on the same machine.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64);
    __type(value, __u32);
} knet_clients SEC(".maps");

// A power of two: how many slots a frontend has.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct knet_frontend);
    __type(value, __u32);
} knet_frontends SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct knet_slot);
    __type(value, struct knet_backend);
} knet_slots SEC(".maps");

// Endpoints of frontends of datagrams: a flow stays with its own as long as that is one, whatever slots others have.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct knet_member);
    __type(value, __u32);
} knet_members SEC(".maps");

// What connected sockets asked for, by the endpoint that they got.
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, struct knet_peer);
    __type(value, struct knet_told);
} knet_connected SEC(".maps");

// What datagrams of others were sent to, both ways. Apart: many connections must not have an answer's Service forgotten.
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, struct knet_peer);
    __type(value, struct knet_told);
} knet_datagrams SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, KNET_SOCKET_OUTCOMES);
    __type(key, __u32);
    __type(value, __u64);
} knet_sockets SEC(".maps");

#define KNET_DRAWS 12

// <linux/socket.h>, which is not for programs.
enum { AF_INET = 2, AF_INET6 = 10 };

static __always_inline void count(__u32 outcome)
{
    __u64 *counter = bpf_map_lookup_elem(&knet_sockets, &outcome);

    if (counter)
        (*counter)++;
}

// Any of a frontend's endpoints, each as likely as the others. Less than half of the slots are empty; where all draws met such,
// one slot more has an endpoint.
static __always_inline const struct knet_backend *draw(struct knet_slot *slot, __u32 slots)
{
    const struct knet_backend *backend;

    for (int i = 0; i < KNET_DRAWS; i++) {
        slot->slot = bpf_get_prandom_u32() & (slots - 1);
        backend = bpf_map_lookup_elem(&knet_slots, slot);
        if (backend)
            return backend;
    }
    slot->slot = slots;
    return bpf_map_lookup_elem(&knet_slots, slot);
}

static __always_inline void read4(struct knet_address *address, __u32 ip)
{
    __builtin_memset(address->bytes, 0, 10);
    __builtin_memset(address->bytes + 10, 0xff, 2);
    __builtin_memcpy(address->bytes + 12, &ip, 4);
}

static __always_inline __u32 word(const struct knet_address *address, int index)
{
    __u32 word;

    __builtin_memcpy(&word, address->bytes + 4 * index, 4);
    return word;
}

// Of IPv4 a socket of either family: sockets of IPv6 have it mapped, as it is in the maps.
static __always_inline void read_destination(struct bpf_sock_addr *socket, int is_ipv6, struct knet_backend *it)
{
    __builtin_memset(it, 0, sizeof(*it));
    if (is_ipv6) {
        __u32 words[4] = { socket->user_ip6[0], socket->user_ip6[1], socket->user_ip6[2], socket->user_ip6[3] };

        __builtin_memcpy(it->address.bytes, words, 16);
    } else {
        read4(&it->address, socket->user_ip4);
    }
    it->port = socket->user_port;
}

static __always_inline void write_destination(struct bpf_sock_addr *socket, int is_ipv6, const struct knet_backend *it)
{
    if (is_ipv6) {
        socket->user_ip6[0] = word(&it->address, 0);
        socket->user_ip6[1] = word(&it->address, 1);
        socket->user_ip6[2] = word(&it->address, 2);
        socket->user_ip6[3] = word(&it->address, 3);
    } else {
        socket->user_ip4 = word(&it->address, 3);
    }
    socket->user_port = it->port;
}

static __always_inline int is_same(const struct knet_backend *one, const struct knet_backend *other)
{
    return !__builtin_memcmp(one, other, sizeof(*one));
}

// Has answers of the endpoint seem to come from the Service.
static __always_inline void note_datagram(struct knet_peer *peer, const struct knet_backend *backend,
                                          const struct knet_told *told)
{
    const struct knet_told *before;

    peer->direction = KNET_TO_SERVICE;
    peer->it = *backend;
    before = bpf_map_lookup_elem(&knet_datagrams, peer);
    if (!before || !is_same(&before->it, &told->it))
        bpf_map_update_elem(&knet_datagrams, peer, told, BPF_ANY);
}

// Sends the socket to one of the Service's endpoints. A datagram goes where the one before it went, as long as that is
// one of them.
static __always_inline int forward(struct bpf_sock_addr *socket, int is_ipv6, int is_datagram)
{
    struct knet_peer peer = { .socket = bpf_get_socket_cookie(socket), .direction = KNET_TO_BACKEND };
    struct knet_member member = {};
    struct knet_slot slot = {};
    struct knet_told told = {};
    const struct knet_backend *backend;
    const struct knet_told *before;
    struct knet_backend service;
    const __u32 *slots;

    if (socket->protocol != IPPROTO_TCP && socket->protocol != IPPROTO_UDP)
        return 1;
    read_destination(socket, is_ipv6, &service);
    slot.frontend.address = service.address;
    slot.frontend.port = service.port;
    slot.frontend.transport = socket->protocol;
    slots = bpf_map_lookup_elem(&knet_frontends, &slot.frontend);
    if (!slots)
        return 1;
    told.clients = bpf_get_netns_cookie(socket);
    if (!bpf_map_lookup_elem(&knet_clients, &told.clients))
        return 1;
    peer.it = service;
    if (is_datagram) {
        before = bpf_map_lookup_elem(&knet_datagrams, &peer);
        if (before) {
            member.frontend = slot.frontend;
            member.backend = before->it;
            if (bpf_map_lookup_elem(&knet_members, &member)) {
                told.it = service;
                note_datagram(&peer, &member.backend, &told);
                write_destination(socket, is_ipv6, &member.backend);
                count(KNET_SOCKET_SENT);
                return 1;
            }
        }
    }
    backend = draw(&slot, *slots);
    if (!backend)
        return 1;
    member.backend = *backend;
    if (is_datagram) {
        told.it = member.backend;
        bpf_map_update_elem(&knet_datagrams, &peer, &told, BPF_ANY);
        told.it = service;
        note_datagram(&peer, &member.backend, &told);
    } else {
        peer.direction = KNET_TO_SERVICE;
        peer.it = member.backend;
        told.it = service;
        bpf_map_update_elem(&knet_connected, &peer, &told, BPF_ANY);
    }
    write_destination(socket, is_ipv6, &member.backend);
    count(is_datagram ? KNET_SOCKET_SENT : KNET_SOCKET_CONNECTED);
    return 1;
}

// Has the socket see the Service where the endpoint is its peer.
static __always_inline int back(struct bpf_sock_addr *socket, int is_ipv6, int is_datagram)
{
    struct knet_peer peer = { .socket = bpf_get_socket_cookie(socket), .direction = KNET_TO_SERVICE };
    const struct knet_told *told = NULL;

    read_destination(socket, is_ipv6, &peer.it);
    if (is_datagram)
        told = bpf_map_lookup_elem(&knet_datagrams, &peer);
    if (!told)
        told = bpf_map_lookup_elem(&knet_connected, &peer);
    if (told)
        write_destination(socket, is_ipv6, &told->it);
    return 1;
}

// One that is closed needs nothing of what it was told.
static __always_inline int forget(struct bpf_sock *socket)
{
    struct knet_peer peer = { .socket = bpf_get_socket_cookie(socket), .direction = KNET_TO_SERVICE };

    if (socket->family == AF_INET) {
        read4(&peer.it.address, socket->dst_ip4);
    } else if (socket->family == AF_INET6) {
        __u32 words[4] = { socket->dst_ip6[0], socket->dst_ip6[1], socket->dst_ip6[2], socket->dst_ip6[3] };

        __builtin_memcpy(peer.it.address.bytes, words, 16);
    }
    peer.it.port = socket->dst_port;
    // To look is cheaper than to remove what is not there.
    if (peer.it.port && bpf_map_lookup_elem(&knet_connected, &peer))
        bpf_map_delete_elem(&knet_connected, &peer);
    return 1;
}

SEC("cgroup/sock_release") int knet_release(struct bpf_sock *socket) { return forget(socket); }
SEC("cgroup/connect4") int knet_connect4(struct bpf_sock_addr *socket) { return forward(socket, 0, 0); }
SEC("cgroup/connect6") int knet_connect6(struct bpf_sock_addr *socket) { return forward(socket, 1, 0); }
SEC("cgroup/sendmsg4") int knet_sendmsg4(struct bpf_sock_addr *socket) { return forward(socket, 0, 1); }
SEC("cgroup/sendmsg6") int knet_sendmsg6(struct bpf_sock_addr *socket) { return forward(socket, 1, 1); }
SEC("cgroup/recvmsg4") int knet_recvmsg4(struct bpf_sock_addr *socket) { return back(socket, 0, 1); }
SEC("cgroup/recvmsg6") int knet_recvmsg6(struct bpf_sock_addr *socket) { return back(socket, 1, 1); }
SEC("cgroup/getpeername4") int knet_getpeername4(struct bpf_sock_addr *socket) { return back(socket, 0, 0); }
SEC("cgroup/getpeername6") int knet_getpeername6(struct bpf_sock_addr *socket) { return back(socket, 1, 0); }
