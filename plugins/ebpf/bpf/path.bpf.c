// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Packets between pods, past the host's stack. A packet is taken out of the stack's way only where both ends are pods and the
// stack tracks no connection of it, or policies admitted one that it does not translate: what is translated, denied or answered with an
// error goes where it always went.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "include/knet.h"
#include "balance.h"
#include "streams.h"

// The kernel lends most of its functions to programs under its own license only.
char knet_license[] SEC("license") = "GPL";

// At the node's end of a pod's link.
SEC("tc")
int knet_from_pod(struct __sk_buff *skb)
{
    const struct knet_endpoint *source, *endpoint;
    const struct knet_settings *wanted;
    struct scratch *work;
    struct passage *passage;
    struct packet packet;
    __u32 reason, generation;
    int verdict = 0;

    if (skb->protocol == bpf_htons(ETH_P_IP))
        verdict = follow_stream(skb, 0);
    else if (skb->protocol == bpf_htons(ETH_P_IPV6))
        verdict = follow_stream(skb, 1);
    if (verdict)
        return verdict;
    work = scratch();
    wanted = settings();
    reason = parse(skb, &packet);
    if (is_in_pieces(&packet, reason))
        leave_fragmented(skb, FROM_POD);
    if (reason || !work || !wanted)
        return count(skb, reason);
    // Before anything is looked up.
    generation = wanted->generation;
    passage = &work->passage;
    __builtin_memset(passage, 0, sizeof(*passage));
    passage->from = skb->ingress_ifindex;
    reason = find_passage(skb, &packet, passage);
    // A pod speaks for itself.
    if (!reason && passage->segment.is_error && __builtin_memcmp(&passage->segment.about, &packet.source, 16))
        reason = KNET_STACK_TRACKED;
    endpoint = bpf_map_lookup_elem(&knet_endpoints, &packet.destination);
    if (endpoint)
        passage->to = endpoint->link;
    source = bpf_map_lookup_elem(&knet_endpoints, &packet.source);
    // Whose source it is was looked at when the stream began.
    if (!reason && endpoint && !is_in_trouble(skb, &packet, endpoint) &&
        find_stream(skb, passage, generation, source, endpoint))
        return to_pod(skb, &packet, endpoint, KNET_TO_POD);
    if (!source || source->link != skb->ingress_ifindex)
        return count(skb, KNET_STACK_SOURCE);
    if (!endpoint && !is_of_other_node(&packet.destination))
        return balance(skb, &packet, FROM_POD);
    // What a pod sends to itself by this way is on its way back from a Service.
    if (endpoint && endpoint->link == skb->ingress_ifindex)
        return count(skb, KNET_STACK_OTHER);
    if (is_in_trouble(skb, &packet, endpoint))
        return count(skb, KNET_STACK_ERROR);
    if (!reason)
        reason = admit(skb, &packet, passage);
    if (reason)
        return count(skb, reason);
    return endpoint ? to_pod(skb, &packet, endpoint, KNET_TO_POD) : to_node(skb, &packet);
}

// What a pod of this node gets from another node's.
static __always_inline int from_node(struct __sk_buff *skb, const struct packet *packet,
                                     const struct knet_endpoint *endpoint)
{
    struct scratch *work = scratch();
    struct passage *passage;
    __u32 reason;

    if (!work)
        return count(skb, KNET_STACK_OTHER);
    passage = &work->passage;
    __builtin_memset(passage, 0, sizeof(*passage));
    passage->to = endpoint->link;
    reason = find_passage(skb, packet, passage);
    // Errors about what a pod sent may be anybody's.
    if (!is_of_other_node(&packet->source) && (reason || !passage->segment.is_error))
        return count(skb, KNET_STACK_SOURCE);
    if (is_in_trouble(skb, packet, endpoint))
        return count(skb, KNET_STACK_ERROR);
    if (!reason)
        reason = admit(skb, packet, passage);
    return reason ? count(skb, reason) : to_pod(skb, packet, endpoint, KNET_TO_POD);
}

// Where packets of other nodes arrive.
SEC("tc")
int knet_from_node(struct __sk_buff *skb)
{
    const struct knet_endpoint *endpoint;
    struct packet packet;
    __u32 reason = parse(skb, &packet);

    if (is_in_pieces(&packet, reason))
        leave_fragmented(skb, FROM_NODE);
    if (reason)
        return count(skb, reason);
    endpoint = bpf_map_lookup_elem(&knet_endpoints, &packet.destination);
    return endpoint ? from_node(skb, &packet, endpoint) : balance(skb, &packet, FROM_NODE);
}

// Where packets of others arrive too.
SEC("tc")
int knet_from_outside(struct __sk_buff *skb)
{
    const struct knet_endpoint *endpoint;
    struct packet packet;
    __u32 reason = parse(skb, &packet);

    if (is_in_pieces(&packet, reason))
        leave_fragmented(skb, FROM_OUTSIDE);
    if (reason)
        return count(skb, reason);
    endpoint = bpf_map_lookup_elem(&knet_endpoints, &packet.destination);
    return endpoint ? from_node(skb, &packet, endpoint) : balance(skb, &packet, FROM_OUTSIDE);
}
