// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Packets between pods, past the host's stack. A packet is taken out of the stack's way only where both ends are pods and the
// stack tracks no connection of it: what is translated, filtered or answered with an error goes where it always went.
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

// Functions of the kernel, since 5.19 (net/netfilter/nf_conntrack_bpf.c).
// Of a connection nothing is read; libbpf wants a struct where the kernel has one.
struct nf_conn {
    unsigned long status;
} __attribute__((preserve_access_index));
struct bpf_ct_opts {
    __s32 netns_id;
    __s32 error;
    __u8 l4proto;
    __u8 dir;
    __u8 reserved[2];
};
extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 tuple_size,
                                         struct bpf_ct_opts *options, __u32 options_size) __ksym;
extern void bpf_ct_release(struct nf_conn *connection) __ksym;

// What is read of a packet once.
struct packet {
    struct knet_address source;
    struct knet_address destination;
    __u32 transport_offset;
    __u8 is_ipv6;
    __u8 lifetime;
    __u8 transport;
    __u8 padding;
};

static __always_inline int count(struct __sk_buff *skb, __u32 outcome)
{
    struct knet_counter *counter = bpf_map_lookup_elem(&knet_counters, &outcome);

    if (counter) {
        counter->packets++;
        counter->bytes += skb->len;
    }
    return TC_ACT_OK;
}

static __always_inline void map_address(struct knet_address *address, __be32 ip)
{
    __builtin_memset(address->bytes, 0, 10);
    __builtin_memset(address->bytes + 10, 0xff, 2);
    __builtin_memcpy(address->bytes + 12, &ip, 4);
}

// Returns 0, or why the packet is the stack's.
static __always_inline __u32 parse(struct __sk_buff *skb, struct packet *packet)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct ethhdr *ethernet = data;

    if (data + ETH_HLEN > end || ethernet->h_dest[0] & 1)
        return KNET_STACK_OTHER;
    if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = data + ETH_HLEN;

        // With options, or a fragment; or shorter than itself: what follows would be taken for its ports.
        if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl != 5 || ip->frag_off & bpf_htons(0xbfff) ||
            bpf_ntohs(ip->tot_len) < sizeof(*ip) + 4 || ETH_HLEN + bpf_ntohs(ip->tot_len) > skb->len)
            return KNET_STACK_HEADER;
        map_address(&packet->source, ip->saddr);
        map_address(&packet->destination, ip->daddr);
        packet->transport_offset = ETH_HLEN + sizeof(*ip);
        packet->is_ipv6 = 0;
        packet->lifetime = ip->ttl;
        packet->transport = ip->protocol;
        return 0;
    }
    if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr *ip = data + ETH_HLEN;

        if ((void *)(ip + 1) > end || ip->version != 6 || bpf_ntohs(ip->payload_len) < 4 ||
            ETH_HLEN + sizeof(*ip) + bpf_ntohs(ip->payload_len) > skb->len)
            return KNET_STACK_HEADER;
        __builtin_memcpy(&packet->source, &ip->saddr, 16);
        __builtin_memcpy(&packet->destination, &ip->daddr, 16);
        packet->transport_offset = ETH_HLEN + sizeof(*ip);
        packet->is_ipv6 = 1;
        packet->lifetime = ip->hop_limit;
        packet->transport = ip->nexthdr;
        return 0;
    }
    return KNET_STACK_OTHER;
}

// What went through the stack once goes on there: it is translated, or it began before the programs came.
static __always_inline __u32 find_connection(struct __sk_buff *skb, const struct packet *packet)
{
    struct bpf_ct_opts options = { .netns_id = BPF_F_CURRENT_NETNS, .l4proto = packet->transport };
    struct bpf_sock_tuple tuple = {};
    struct nf_conn *connection;
    __u32 ports, size;
    __u8 type;

    switch (packet->transport) {
    case IPPROTO_TCP:
    case IPPROTO_UDP:
        break;
    // Echoes are asked for by pods alone; errors may be about what the stack translates.
    case IPPROTO_ICMP:
        if (packet->is_ipv6 || bpf_skb_load_bytes(skb, packet->transport_offset, &type, 1) < 0)
            return KNET_STACK_HEADER;
        return type == 0 || type == 8 ? 0 : KNET_STACK_TRACKED;
    case IPPROTO_ICMPV6:
        if (!packet->is_ipv6 || bpf_skb_load_bytes(skb, packet->transport_offset, &type, 1) < 0)
            return KNET_STACK_HEADER;
        return type == 128 || type == 129 ? 0 : KNET_STACK_TRACKED;
    default:
        return KNET_STACK_HEADER;
    }
    if (bpf_skb_load_bytes(skb, packet->transport_offset, &ports, sizeof(ports)) < 0)
        return KNET_STACK_HEADER;
    if (packet->is_ipv6) {
        __builtin_memcpy(tuple.ipv6.saddr, &packet->source, 16);
        __builtin_memcpy(tuple.ipv6.daddr, &packet->destination, 16);
        __builtin_memcpy(&tuple.ipv6.sport, &ports, sizeof(ports));
        size = sizeof(tuple.ipv6);
    } else {
        __builtin_memcpy(&tuple.ipv4.saddr, packet->source.bytes + 12, 4);
        __builtin_memcpy(&tuple.ipv4.daddr, packet->destination.bytes + 12, 4);
        __builtin_memcpy(&tuple.ipv4.sport, &ports, sizeof(ports));
        size = sizeof(tuple.ipv4);
    }
    connection = bpf_skb_ct_lookup(skb, &tuple, size, &options, sizeof(options));
    if (!connection)
        return 0;
    bpf_ct_release(connection);
    return KNET_STACK_TRACKED;
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
    __u32 mtu = 0;
    __u32 reason;

    // Every link takes what IPv6 asks of links (RFC 8200, 5).
    if (packet->lifetime <= 1 ||
        (skb->len > ETH_HLEN + 1280 && bpf_check_mtu(skb, endpoint->link, &mtu, 0, 0) != 0))
        return count(skb, KNET_STACK_ERROR);
    reason = find_connection(skb, packet);
    if (reason)
        return count(skb, reason);
    if (forward(skb, packet, endpoint->pod_mac, endpoint->host_mac) < 0)
        return count(skb, KNET_STACK_HEADER);
    count(skb, KNET_TO_POD);
    return bpf_redirect_peer(endpoint->link, 0);
}

static __always_inline int to_node(struct __sk_buff *skb, const struct packet *packet)
{
    struct bpf_fib_lookup route = { .ifindex = skb->ingress_ifindex };
    struct bpf_redir_neigh neighbour = {};
    __u32 reason;
    long status;

    if (packet->lifetime <= 1)
        return count(skb, KNET_STACK_ERROR);
    reason = find_connection(skb, packet);
    if (reason)
        return count(skb, reason);
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
    if (endpoint)
        return endpoint->link == skb->ingress_ifindex ? count(skb, KNET_STACK_OTHER) : to_pod(skb, &packet, endpoint);
    return is_of_other_node(&packet.destination) ? to_node(skb, &packet) : count(skb, KNET_STACK_OTHER);
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
    return to_pod(skb, &packet, endpoint);
}
