// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Where pods are, and how packets get there.
#ifndef KNET_WAYS_H
#define KNET_WAYS_H

#include "packet.h"

// The daemon sets the sizes of these two before it loads them.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct knet_address);
    __type(value, struct knet_endpoint);
} knet_endpoints SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct knet_prefix);
    __type(value, __u32);
} knet_nodes SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, KNET_OUTCOMES);
    __type(key, __u32);
    __type(value, struct knet_counter);
} knet_counters SEC(".maps");

static __always_inline int count(struct __sk_buff *skb, __u32 outcome)
{
    struct knet_counter *counter = bpf_map_lookup_elem(&knet_counters, &outcome);

    if (counter) {
        counter->packets++;
        counter->bytes += skb->len;
    }
    // Others may have programs here too.
    return TC_ACT_UNSPEC;
}

// One that could not be told of.
static __always_inline void count_lost(void)
{
    __u32 index = KNET_UNTOLD;
    struct knet_counter *counter = bpf_map_lookup_elem(&knet_counters, &index);

    if (counter)
        counter->packets++;
}

// Both of an Ethernet header's addresses, which are given at even places: in two steps, as the next one who reads them in one would wait
// for smaller ones.
static __always_inline void address_frame(void *ethernet, const __u8 *target, const __u8 *source)
{
    const __u16 *to = (const __u16 *)target, *from = (const __u16 *)source;

    *(__u64 *)ethernet = (__u64)to[0] | (__u64)to[1] << 16 | (__u64)to[2] << 32 | (__u64)from[0] << 48;
    *(__u32 *)(ethernet + 8) = from[1] | (__u32)from[2] << 16;
}

// One hop less to live, and the next hop's addresses.
static __always_inline int forward(struct __sk_buff *skb, const struct packet *packet, const __u8 *target,
                                   const __u8 *source)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

    if (packet->is_ipv6) {
        struct ipv6hdr *ip6 = data + ETH_HLEN;

        if ((void *)(ip6 + 1) > end)
            return -1;
        ip6->hop_limit--;
        // Where the device has summed the packet: no checksum of its own makes up for it, as IPv4's does.
        bpf_csum_update(skb, bpf_htons(0xfffe));
    } else {
        struct iphdr *ip = data + ETH_HLEN;
        __u32 sum;

        if ((void *)(ip + 1) > end)
            return -1;
        // One less in a word's upper half is one more in the checksum's (RFC 1624).
        sum = ip->check + bpf_htons(0x0100);
        ip->check = sum + (sum > 0xffff);
        ip->ttl--;
    }
    address_frame(data, target, source);
    return 0;
}

static __always_inline int to_pod(struct __sk_buff *skb, const struct packet *packet,
                                  const struct knet_endpoint *endpoint, __u32 outcome)
{
    if (forward(skb, packet, endpoint->pod_mac, endpoint->host_mac) < 0)
        return count(skb, KNET_STACK_HEADER);
    count(skb, outcome);
    return bpf_redirect_peer(endpoint->link, 0);
}

// How a packet gets on.
struct route {
    struct bpf_fib_lookup found;
    long status;
};

// Returns 0, or why the packet is the stack's.
static __always_inline __u32 find_route(struct __sk_buff *skb, const struct packet *packet,
                                        const struct knet_address *source, const struct knet_address *destination,
                                        struct route *route)
{
    route->found.ifindex = skb->ingress_ifindex;
    route->found.l4_protocol = packet->transport;
    // Segments are as long as the sender was told.
    if (!skb->gso_size)
        route->found.tot_len = skb->len - ETH_HLEN;
    if (packet->is_ipv6) {
        route->found.family = 10;
        __builtin_memcpy(route->found.ipv6_src, source, 16);
        __builtin_memcpy(route->found.ipv6_dst, destination, 16);
    } else {
        route->found.family = 2;
        __builtin_memcpy(&route->found.ipv4_src, source->bytes + 12, 4);
        __builtin_memcpy(&route->found.ipv4_dst, destination->bytes + 12, 4);
    }
    route->status = bpf_fib_lookup(skb, &route->found, sizeof(route->found), 0);
    if (route->status == BPF_FIB_LKUP_RET_FRAG_NEEDED)
        return KNET_STACK_ERROR;
    return route->status == BPF_FIB_LKUP_RET_SUCCESS || route->status == BPF_FIB_LKUP_RET_NO_NEIGH ? 0 : KNET_STACK_ROUTE;
}

static __always_inline int follow_route(struct __sk_buff *skb, const struct packet *packet, const struct route *route,
                                        __u32 outcome)
{
    struct bpf_redir_neigh neighbour = {};

    if (forward(skb, packet, route->found.dmac, route->found.smac) < 0)
        return count(skb, KNET_STACK_HEADER);
    count(skb, outcome);
    if (route->status == BPF_FIB_LKUP_RET_SUCCESS)
        return bpf_redirect(route->found.ifindex, 0);
    // The kernel asks for the neighbour, and keeps the packet meanwhile; the lookup left the next hop in the destination's place.
    neighbour.nh_family = route->found.family;
    __builtin_memcpy(neighbour.ipv6_nh, route->found.ipv6_dst, 16);
    return bpf_redirect_neigh(route->found.ifindex, &neighbour, sizeof(neighbour), 0);
}

static __always_inline int to_node(struct __sk_buff *skb, const struct packet *packet)
{
    struct route route = {};
    __u32 reason = find_route(skb, packet, &packet->source, &packet->destination, &route);

    return reason ? count(skb, reason) : follow_route(skb, packet, &route, KNET_TO_NODE);
}

// Returns 0 where the stack has no error to tell of the packet.
static __always_inline int is_in_trouble(struct __sk_buff *skb, const struct packet *packet,
                                         const struct knet_endpoint *endpoint)
{
    __u32 mtu = 0;

    // Every link takes what IPv6 asks of links (RFC 8200, 5).
    return packet->lifetime <= 1 ||
           (endpoint && skb->len > ETH_HLEN + 1280 && bpf_check_mtu(skb, endpoint->link, &mtu, 0, 0) != 0);
}

static __always_inline int is_of_other_node(const struct knet_address *address)
{
    struct knet_prefix key = { .bits = 128, .address = *address };

    return bpf_map_lookup_elem(&knet_nodes, &key) != NULL;
}

#endif
