// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Other addresses and ports in the place of a packet's, with all checksums.
#ifndef KNET_TRANSLATE_H
#define KNET_TRANSLATE_H

#include "flows.h"

// What an error holds of what it is about.
union inner {
    struct {
        struct iphdr ip;
        __u16 ports[2];
    } v4;
    struct {
        struct ipv6hdr ip;
        __u16 ports[2];
    } v6;
    __be32 words[11];
};

// What is larger than the stack of a program; no two run on one processor at a time.
struct scratch {
    // As the packet has it, and what becomes of it.
    struct knet_connection way;
    struct knet_translation translation;
    // Of a new connection.
    struct knet_connection answer;
    struct knet_translation forth;
    struct knet_translation back;
    struct knet_slot slot;
    struct passage passage;
    struct segment segment;
    struct route route;
    // Of a datagram in pieces.
    struct packet packet;
    struct knet_question question;
    struct knet_verdict verdict;
    // Of an error.
    union inner old;
    union inner new;
    // Questions in this second.
    __u64 second;
    __u32 questions;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct scratch);
} knet_scratch SEC(".maps");

static __always_inline struct scratch *scratch(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&knet_scratch, &zero);
}

// <uapi/linux/bpf.h> since 6.16; others say that they do not know it. Without it the sum that a device made over an IPv6 packet is
// spoiled.
#define F_IPV6 (1ULL << 7)

static __always_inline __u32 sum_offset(const struct packet *packet)
{
    switch (packet->transport) {
    case IPPROTO_TCP:
        return packet->transport_offset + 16;
    case IPPROTO_UDP:
        return packet->transport_offset + 6;
    default:
        return packet->transport_offset + 2;
    }
}

// Adds a difference to the transport's checksum. `flags` says whether it is one of addresses.
static __always_inline long mend_sum(struct __sk_buff *skb, const struct packet *packet, __s64 difference, __u64 flags)
{
    __u64 mangled = packet->transport == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

    if (packet->is_ipv6 && flags &&
        bpf_l4_csum_replace(skb, sum_offset(packet), 0, difference, mangled | flags | F_IPV6) == 0)
        return 0;
    return bpf_l4_csum_replace(skb, sum_offset(packet), 0, difference, mangled | flags);
}

// Puts new addresses in the place of those of the packet.
static __noinline int translate_addresses(struct __sk_buff *skb, const struct packet *packet,
                                          struct knet_translation *translation)
{
    __be32 old[2], new[2];
    __s64 difference;

    if (!packet || !translation)
        return -1;
    if (packet->is_ipv6) {
        // Both have them one behind the other.
        difference = bpf_csum_diff((__be32 *)&packet->source, 32, (__be32 *)translation->ends, 32, 0);
        if (bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), translation->ends, 32, 0) < 0)
            return -1;
        // The sum of ICMP over IPv6 has the addresses in it.
        return mend_sum(skb, packet, difference, BPF_F_PSEUDO_HDR);
    }
    __builtin_memcpy(old, packet->source.bytes + 12, 4);
    __builtin_memcpy(old + 1, packet->destination.bytes + 12, 4);
    __builtin_memcpy(new, translation->ends[0].bytes + 12, 4);
    __builtin_memcpy(new + 1, translation->ends[1].bytes + 12, 4);
    difference = bpf_csum_diff(old, 8, new, 8, 0);
    if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), 0, difference, 0) < 0 ||
        bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, saddr), new, 8, 0) < 0)
        return -1;
    return packet->transport == IPPROTO_ICMP ? 0 : mend_sum(skb, packet, difference, BPF_F_PSEUDO_HDR);
}

static __noinline int translate_ports(struct __sk_buff *skb, const struct packet *packet, __u32 old, __u32 new)
{
    __s64 difference;

    if (!packet)
        return -1;
    difference = bpf_csum_diff(&old, 4, &new, 4, 0);
    if (mend_sum(skb, packet, difference, 0) < 0)
        return -1;
    return bpf_skb_store_bytes(skb, packet->transport_offset, &new, 4, 0);
}

// What an error is about went the other way.
static __noinline int translate_inner(struct __sk_buff *skb, const struct packet *packet, struct scratch *work)
{
    union inner *old, *new;
    const struct knet_translation *to;
    __u32 offset;
    __s64 sum;

    if (!packet || !work)
        return -1;
    old = &work->old;
    new = &work->new;
    to = &work->translation;
    offset = packet->transport_offset + 8;
    if (packet->is_ipv6) {
        if (bpf_skb_load_bytes(skb, offset, old, sizeof(old->v6)) < 0)
            return -1;
        *new = *old;
        __builtin_memcpy(&new->v6.ip.saddr, &to->ends[1], 16);
        __builtin_memcpy(&new->v6.ip.daddr, &to->ends[0], 16);
        new->v6.ports[0] = to->ports[1];
        new->v6.ports[1] = to->ports[0];
        if (mend_sum(skb, packet, bpf_csum_diff(old->words, sizeof(old->v6), new->words, sizeof(new->v6), 0), 0) < 0)
            return -1;
        return bpf_skb_store_bytes(skb, offset, new, sizeof(new->v6), 0);
    }
    if (bpf_skb_load_bytes(skb, offset, old, sizeof(old->v4)) < 0)
        return -1;
    *new = *old;
    __builtin_memcpy(&new->v4.ip.saddr, to->ends[1].bytes + 12, 4);
    __builtin_memcpy(&new->v4.ip.daddr, to->ends[0].bytes + 12, 4);
    new->v4.ports[0] = to->ports[1];
    new->v4.ports[1] = to->ports[0];
    // Its header has a sum of its own (RFC 1624).
    sum = bpf_csum_diff(&old->v4.ip.saddr, 8, &new->v4.ip.saddr, 8, ~(__u32)old->v4.ip.check & 0xffff);
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff);
    sum = (sum & 0xffff) + (sum >> 16);
    new->v4.ip.check = ~sum;
    if (mend_sum(skb, packet, bpf_csum_diff(old->words, sizeof(old->v4), new->words, sizeof(new->v4), 0), 0) < 0)
        return -1;
    return bpf_skb_store_bytes(skb, offset, new, sizeof(new->v4), 0);
}

// Puts other ends in the place of a packet's.
static __always_inline int translate(struct __sk_buff *skb, const struct packet *packet, const struct segment *segment,
                                     struct scratch *work)
{
    struct knet_translation *translation = &work->translation;
    __u32 old, new;

    if (segment->is_error) {
        if (translate_inner(skb, packet, work) < 0)
            return -1;
        // A router speaks for itself.
        if (__builtin_memcmp(&segment->about, &packet->source, 16))
            translation->ends[0] = packet->source;
    } else {
        __builtin_memcpy(&old, segment->ports, 4);
        __builtin_memcpy(&new, translation->ports, 4);
        if (translate_ports(skb, packet, old, new) < 0)
            return -1;
    }
    return translate_addresses(skb, packet, translation);
}

#endif
