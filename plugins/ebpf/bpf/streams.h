// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Streams between pods of this node that are under way: most packets are of one.
#ifndef KNET_STREAMS_H
#define KNET_STREAMS_H

#include "flows.h"

// A packet in the midst of such a stream, whose pods are where they were when they were last looked up: in as few steps as can be.
// Returns what becomes of it, or 0: it may be any other, and all is to be looked at.
static __always_inline int follow_stream(struct __sk_buff *skb, int is_ipv6)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    const struct ethhdr *ethernet = data;
    const struct ipv6hdr *ip6 = data + ETH_HLEN;
    const struct iphdr *ip = data + ETH_HLEN;
    __u32 length = ETH_HLEN + (is_ipv6 ? sizeof(*ip6) : sizeof(*ip));
    // Ports, numbers, offset and flags.
    const __u8 *tcp = data + length;
    struct packet packet = { .is_ipv6 = is_ipv6 };
    struct knet_connection key = { .transport = IPPROTO_TCP };
    const struct knet_settings *wanted = settings();
    const struct knet_endpoint *receiver;
    struct knet_flow *flow;
    __u32 sender;

    if (data + length + 14 > end || !wanted || skb->pkt_type != PACKET_HOST || skb->vlan_present || ethernet->h_dest[0] & 1)
        return 0;
    if (is_ipv6) {
        if (ip6->version != 6 || ip6->nexthdr != IPPROTO_TCP || bpf_ntohs(ip6->payload_len) < 20 ||
            length + bpf_ntohs(ip6->payload_len) > skb->len)
            return 0;
        __builtin_memcpy(&packet.source, &ip6->saddr, 16);
        __builtin_memcpy(&packet.destination, &ip6->daddr, 16);
        packet.lifetime = ip6->hop_limit;
    } else {
        if (ip->version != 4 || ip->ihl != 5 || ip->frag_off & bpf_htons(0xbfff) || ip->protocol != IPPROTO_TCP ||
            bpf_ntohs(ip->tot_len) < sizeof(*ip) + 20 || ETH_HLEN + bpf_ntohs(ip->tot_len) > skb->len)
            return 0;
        map_address(&packet.source, ip->saddr);
        map_address(&packet.destination, ip->daddr);
        packet.lifetime = ip->ttl;
    }
    if (tcp[13] & (TCP_SYN | TCP_FIN | TCP_RST))
        return 0;
    sender = is_less(&packet.destination, &packet.source);
    if (sender) {
        key.ends[0] = packet.destination;
        key.ends[1] = packet.source;
        key.ports[0] = ((const __u16 *)tcp)[1];
        key.ports[1] = ((const __u16 *)tcp)[0];
    } else {
        key.ends[0] = packet.source;
        key.ends[1] = packet.destination;
        key.ports[0] = ((const __u16 *)tcp)[0];
        key.ports[1] = ((const __u16 *)tcp)[1];
    }
    flow = bpf_map_lookup_elem(&knet_flows, &key);
    if (!flow || !flow->generation || flow->generation != wanted->generation)
        return 0;
    receiver = &flow->pods[!sender];
    if (!receiver->link || flow->pods[sender].link != skb->ingress_ifindex || is_in_trouble(skb, &packet, receiver))
        return 0;
    note_packet(skb, flow, sender);
    return to_pod(skb, &packet, receiver, KNET_TO_POD);
}

static __always_inline void note_addresses(struct knet_endpoint *noted, const struct knet_endpoint *pod)
{
    __builtin_memcpy(noted->pod_mac, pod->pod_mac, 6);
    __builtin_memcpy(noted->host_mac, pod->host_mac, 6);
}

// Any other packet of a stream, or one whose pods are to be looked up. Notes them where both are pods of this node, so that those
// that follow need not. Returns whether it is one that was admitted with these two ends, and counts it.
static __always_inline int find_stream(struct __sk_buff *skb, const struct passage *passage, __u32 generation,
                                       const struct knet_endpoint *source, const struct knet_endpoint *receiver)
{
    const struct knet_settings *wanted = settings();
    __u32 sender = passage->sender & 1;
    struct knet_flow *flow;

    if (passage->key.transport != IPPROTO_TCP || passage->segment.is_error || passage->segment.flags & TCP_SYN)
        return 0;
    flow = bpf_map_lookup_elem(&knet_flows, &passage->key);
    if (!flow || !wanted || !has_ends(flow, passage))
        return 0;
    if (source && source->link == passage->from && flow->generation != generation) {
        // Not the links: the flow may have become another's meanwhile.
        note_addresses(&flow->pods[sender], source);
        note_addresses(&flow->pods[!sender], receiver);
        flow->generation = generation;
    }
    note(skb, flow, passage, wanted->told);
    return 1;
}

#endif
