// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Packets between pods, past the host's stack. A packet is taken out of the stack's way only where both ends are pods and the
// stack tracks no connection of it, or policies admitted one that it does not translate: what is translated, denied or answered with an
// error goes where it always went.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "include/knet.h"
#include "flows.h"

// The kernel lends most of its functions to programs under its own license only.
char knet_license[] SEC("license") = "GPL";

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
    return TC_ACT_OK;
}

// One hop less to live, and the next hop's addresses: all at the packet's beginning, so they are written at once.
static __always_inline int forward(struct __sk_buff *skb, const struct packet *packet, const __u8 *target,
                                   const __u8 *source)
{
    struct {
        struct ethhdr ethernet;
        union {
            struct iphdr ip;
            struct ipv6hdr ip6;
        };
    } __attribute__((packed)) header;
    __u32 length;

    if (bpf_skb_load_bytes(skb, 0, &header, ETH_HLEN + sizeof(struct iphdr)) < 0)
        return -1;
    __builtin_memcpy(header.ethernet.h_dest, target, 6);
    __builtin_memcpy(header.ethernet.h_source, source, 6);
    if (packet->is_ipv6) {
        header.ip6.hop_limit--;
        length = ETH_HLEN + offsetof(struct ipv6hdr, hop_limit) + 1;
    } else {
        // One less in a word's upper half is one more in the checksum's (RFC 1624).
        __u32 sum = header.ip.check + bpf_htons(0x0100);

        header.ip.check = sum + (sum > 0xffff);
        header.ip.ttl--;
        length = ETH_HLEN + offsetof(struct iphdr, check) + 2;
    }
    return bpf_skb_store_bytes(skb, 0, &header, length, 0);
}

static __always_inline int to_pod(struct __sk_buff *skb, const struct packet *packet,
                                  const struct knet_endpoint *endpoint)
{
    if (forward(skb, packet, endpoint->pod_mac, endpoint->host_mac) < 0)
        return count(skb, KNET_STACK_HEADER);
    count(skb, KNET_TO_POD);
    return bpf_redirect_peer(endpoint->link, 0);
}

static __always_inline int to_node(struct __sk_buff *skb, const struct packet *packet)
{
    struct bpf_fib_lookup route = { .ifindex = skb->ingress_ifindex };
    struct bpf_redir_neigh neighbour = {};
    long status;

    if (packet->is_ipv6) {
        route.family = 10;
        __builtin_memcpy(route.ipv6_src, &packet->source, 16);
        __builtin_memcpy(route.ipv6_dst, &packet->destination, 16);
    } else {
        route.family = 2;
        __builtin_memcpy(&route.ipv4_src, packet->source.bytes + 12, 4);
        __builtin_memcpy(&route.ipv4_dst, packet->destination.bytes + 12, 4);
    }
    route.l4_protocol = packet->transport;
    status = bpf_fib_lookup(skb, &route, sizeof(route), 0);
    if (status == BPF_FIB_LKUP_RET_FRAG_NEEDED)
        return count(skb, KNET_STACK_ERROR);
    if (status != BPF_FIB_LKUP_RET_SUCCESS && status != BPF_FIB_LKUP_RET_NO_NEIGH)
        return count(skb, KNET_STACK_ROUTE);
    if (forward(skb, packet, route.dmac, route.smac) < 0)
        return count(skb, KNET_STACK_HEADER);
    count(skb, KNET_TO_NODE);
    if (status == BPF_FIB_LKUP_RET_SUCCESS)
        return bpf_redirect(route.ifindex, 0);
    // The kernel asks for the neighbour, and keeps the packet meanwhile; the lookup left the next hop in the destination's place.
    neighbour.nh_family = route.family;
    __builtin_memcpy(neighbour.ipv6_nh, route.ipv6_dst, 16);
    return bpf_redirect_neigh(route.ifindex, &neighbour, sizeof(neighbour), 0);
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

// At the node's end of a pod's link.
SEC("tc")
int knet_from_pod(struct __sk_buff *skb)
{
    const struct knet_endpoint *endpoint;
    struct packet packet;
    __u32 reason = parse(skb, &packet);

    if (reason)
        return count(skb, reason);
    endpoint = bpf_map_lookup_elem(&knet_endpoints, &packet.source);
    if (!endpoint || endpoint->link != skb->ingress_ifindex)
        return count(skb, KNET_STACK_SOURCE);
    endpoint = bpf_map_lookup_elem(&knet_endpoints, &packet.destination);
    // What a pod sends to itself by this way is on its way back from a Service.
    if (endpoint ? endpoint->link == skb->ingress_ifindex : !is_of_other_node(&packet.destination))
        return count(skb, KNET_STACK_OTHER);
    if (is_in_trouble(skb, &packet, endpoint))
        return count(skb, KNET_STACK_ERROR);
    reason = admit(skb, &packet, skb->ingress_ifindex, endpoint ? endpoint->link : 0);
    if (reason)
        return count(skb, reason);
    return endpoint ? to_pod(skb, &packet, endpoint) : to_node(skb, &packet);
}

// Where packets of other nodes arrive.
SEC("tc")
int knet_from_node(struct __sk_buff *skb)
{
    const struct knet_endpoint *endpoint;
    struct packet packet;
    __u32 reason = parse(skb, &packet);

    if (reason)
        return count(skb, reason);
    endpoint = bpf_map_lookup_elem(&knet_endpoints, &packet.destination);
    if (!endpoint)
        return count(skb, KNET_STACK_OTHER);
    if (!is_of_other_node(&packet.source))
        return count(skb, KNET_STACK_SOURCE);
    if (is_in_trouble(skb, &packet, endpoint))
        return count(skb, KNET_STACK_ERROR);
    reason = admit(skb, &packet, 0, endpoint->link);
    return reason ? count(skb, reason) : to_pod(skb, &packet, endpoint);
}
