// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// What is read of a packet.
#ifndef KNET_PACKET_H
#define KNET_PACKET_H

struct packet {
    struct knet_address source;
    struct knet_address destination;
    __u32 transport_offset;
    // Bytes behind the network header, as that says.
    __u32 transport_length;
    __u8 is_ipv6;
    __u8 lifetime;
    __u8 transport;
    __u8 padding;
};

static __always_inline void map_address(struct knet_address *address, __be32 ip)
{
    __be32 *words = (__be32 *)address->bytes;

    words[0] = words[1] = 0;
    words[2] = bpf_htonl(0xffff);
    words[3] = ip;
}

// Returns 0, or why the packet is the stack's.
static __always_inline __u32 parse(struct __sk_buff *skb, struct packet *packet)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct ethhdr *ethernet = data;

    // For everybody, for another machine, or for another device above this one.
    if (data + ETH_HLEN > end || ethernet->h_dest[0] & 1 || skb->pkt_type != PACKET_HOST || skb->vlan_present)
        return KNET_STACK_OTHER;
    if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = data + ETH_HLEN;

        // With options, or a fragment; or shorter than itself: what follows would be taken for its ports.
        if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl != 5 || ip->frag_off & bpf_htons(0xbfff) ||
            bpf_ntohs(ip->tot_len) < sizeof(*ip) || ETH_HLEN + bpf_ntohs(ip->tot_len) > skb->len)
            return KNET_STACK_HEADER;
        map_address(&packet->source, ip->saddr);
        map_address(&packet->destination, ip->daddr);
        packet->transport_offset = ETH_HLEN + sizeof(*ip);
        packet->transport_length = bpf_ntohs(ip->tot_len) - sizeof(*ip);
        packet->is_ipv6 = 0;
        packet->lifetime = ip->ttl;
        packet->transport = ip->protocol;
        return 0;
    }
    if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr *ip = data + ETH_HLEN;

        if ((void *)(ip + 1) > end || ip->version != 6 ||
            ETH_HLEN + sizeof(*ip) + bpf_ntohs(ip->payload_len) > skb->len)
            return KNET_STACK_HEADER;
        __builtin_memcpy(&packet->source, &ip->saddr, 16);
        __builtin_memcpy(&packet->destination, &ip->daddr, 16);
        packet->transport_offset = ETH_HLEN + sizeof(*ip);
        packet->transport_length = bpf_ntohs(ip->payload_len);
        packet->is_ipv6 = 1;
        packet->lifetime = ip->hop_limit;
        packet->transport = ip->nexthdr;
        return 0;
    }
    return KNET_STACK_OTHER;
}

// What of a packet's transport says which connection it belongs to, and what becomes of that.
struct segment {
    // The sender's, and the receiver's.
    __u16 ports[2];
    __u8 flags;
    // Of an error: ports are those of the packet it is about.
    __u8 is_error;
    // Whether it can only be an answer.
    __u8 is_answer;
    // Where the packet that an error is about was sent to.
    struct knet_address about;
};

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

// An error is about a packet that its receiver sent.
static __always_inline __u32 read_error(struct __sk_buff *skb, const struct packet *packet, __u8 *transport,
                                        struct segment *segment)
{
    __u32 inner = packet->transport_offset + 8;
    __u16 ports[2];

    if (packet->is_ipv6) {
        struct {
            struct ipv6hdr ip;
            __u16 ports[2];
        } about;

        if (packet->transport_length < 8 + sizeof(about) || bpf_skb_load_bytes(skb, inner, &about, sizeof(about)) < 0 ||
            __builtin_memcmp(&about.ip.saddr, &packet->destination, 16))
            return KNET_STACK_TRACKED;
        *transport = about.ip.nexthdr;
        __builtin_memcpy(&segment->about, &about.ip.daddr, 16);
        __builtin_memcpy(ports, about.ports, sizeof(ports));
    } else {
        struct {
            struct iphdr ip;
            __u16 ports[2];
        } about;

        if (packet->transport_length < 8 + sizeof(about) || bpf_skb_load_bytes(skb, inner, &about, sizeof(about)) < 0 ||
            about.ip.ihl != 5 || about.ip.frag_off & bpf_htons(0x1fff) ||
            __builtin_memcmp(&about.ip.saddr, packet->destination.bytes + 12, 4))
            return KNET_STACK_TRACKED;
        *transport = about.ip.protocol;
        map_address(&segment->about, about.ip.daddr);
        __builtin_memcpy(ports, about.ports, sizeof(ports));
    }
    if (*transport != IPPROTO_TCP && *transport != IPPROTO_UDP)
        return KNET_STACK_TRACKED;
    segment->ports[0] = ports[1];
    segment->ports[1] = ports[0];
    segment->is_error = 1;
    return 0;
}

// The first bytes behind the network header: most often they lie with it.
static __always_inline int read_transport(struct __sk_buff *skb, const struct packet *packet, void *bytes, __u32 length)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

    data += packet->is_ipv6 ? ETH_HLEN + sizeof(struct ipv6hdr) : ETH_HLEN + sizeof(struct iphdr);
    if (data + length > end)
        return bpf_skb_load_bytes(skb, packet->transport_offset, bytes, length);
    __builtin_memcpy(bytes, (const __u16 *)data, length);
    return 0;
}

// Returns 0, or why the packet is the stack's. `transport` becomes that of the connection.
static __always_inline __u32 read_segment(struct __sk_buff *skb, const struct packet *packet, __u8 *transport,
                                          struct segment *segment)
{
    __u8 header[16] __attribute__((aligned(8)));

    *transport = packet->transport;
    switch (packet->transport) {
    case IPPROTO_TCP:
        if (packet->transport_length < 20 || read_transport(skb, packet, header, 14) < 0)
            return KNET_STACK_HEADER;
        segment->flags = header[13];
        segment->is_answer = (header[13] & (TCP_SYN | TCP_ACK)) != TCP_SYN;
        break;
    case IPPROTO_UDP:
        if (packet->transport_length < 8 || read_transport(skb, packet, header, 4) < 0)
            return KNET_STACK_HEADER;
        break;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        if ((packet->transport == IPPROTO_ICMPV6) != packet->is_ipv6 || packet->transport_length < 8 ||
            read_transport(skb, packet, header, 8) < 0)
            return KNET_STACK_HEADER;
        // Echoes are asked for by pods alone; of the others errors (RFC 792; RFC 4443, 3) are about a connection.
        if (header[0] != (packet->is_ipv6 ? 128 : 8) && header[0] != (packet->is_ipv6 ? 129 : 0)) {
            if (packet->is_ipv6 ? header[0] < 1 || header[0] > 4 : header[0] != 3 && header[0] != 11 && header[0] != 12)
                return KNET_STACK_TRACKED;
            return read_error(skb, packet, transport, segment);
        }
        segment->is_answer = header[0] == (packet->is_ipv6 ? 129 : 0);
        __builtin_memcpy(header, header + 4, 2);
        __builtin_memcpy(header + 2, header + 4, 2);
        break;
    default:
        return KNET_STACK_HEADER;
    }
    __builtin_memcpy(segment->ports, header, sizeof(segment->ports));
    return 0;
}

// Whether it may be a fragment, where `parse` returned `reason`.
static __always_inline int is_in_pieces(const struct packet *packet, __u32 reason)
{
    return reason ? reason == KNET_STACK_HEADER : packet->is_ipv6 && packet->transport == IPPROTO_FRAGMENT;
}

// Of UDP's first fragments: the ends and ports of the whole. Returns whether it is one.
static __always_inline int read_fragment(struct __sk_buff *skb, struct packet *packet, __u16 *ports)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct ethhdr *ethernet = data;

    if (data + ETH_HLEN > end || skb->pkt_type != PACKET_HOST || skb->vlan_present)
        return 0;
    if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = data + ETH_HLEN;

        // More of them follow, and none came before.
        if ((void *)(ip + 1) > end || ip->ihl != 5 || ip->protocol != IPPROTO_UDP ||
            (ip->frag_off & bpf_htons(0x3fff)) != bpf_htons(0x2000))
            return 0;
        map_address(&packet->source, ip->saddr);
        map_address(&packet->destination, ip->daddr);
        packet->is_ipv6 = 0;
        return bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(*ip), ports, 4) == 0;
    }
    if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr *ip = data + ETH_HLEN;
        // <linux/ipv6.h>: struct frag_hdr.
        struct {
            __u8 nexthdr;
            __u8 reserved;
            __be16 offset;
            __be32 identification;
            __u16 ports[2];
        } fragment;

        if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_FRAGMENT ||
            bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(*ip), &fragment, sizeof(fragment)) < 0 ||
            fragment.nexthdr != IPPROTO_UDP || fragment.offset != bpf_htons(1))
            return 0;
        __builtin_memcpy(&packet->source, &ip->saddr, 16);
        __builtin_memcpy(&packet->destination, &ip->daddr, 16);
        packet->is_ipv6 = 1;
        __builtin_memcpy(ports, fragment.ports, 4);
        return 1;
    }
    return 0;
}

#endif
