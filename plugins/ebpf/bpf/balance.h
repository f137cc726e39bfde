// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Services for clients outside: an endpoint for each connection.
#ifndef KNET_BALANCE_H
#define KNET_BALANCE_H

#include "translations.h"

// The daemon sets the sizes of these two before it loads them.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct knet_frontend);
    __type(value, struct knet_service);
} knet_outside SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct knet_slot);
    __type(value, struct knet_backend);
} knet_tables SEC(".maps");

// Ports from which other nodes' pods are asked: the stack's own sockets have higher ones (net.ipv4.ip_local_port_range), and so has what the
// rules masquerade.
enum { FIRST_PORT = 1024, PORTS = 31744, PORT_TRIALS = 8 };

// The same in every process and on every node (Bob Jenkins, one-at-a-time).
static __always_inline __u32 hash(const struct knet_address *address, __u16 port)
{
    __u32 value = port;

    for (int i = 0; i < 4; i++) {
        __u32 word;

        __builtin_memcpy(&word, address->bytes + 4 * i, 4);
        value += word;
        value += value << 10;
        value ^= value >> 6;
    }
    value += value << 3;
    value ^= value >> 11;
    return value + (value << 15);
}

// Whether the stack has a connection of which this is the answer.
static __always_inline int is_tracked(struct __sk_buff *skb, const struct knet_connection *answer, int is_ipv6)
{
    struct bpf_ct_opts options = { .netns_id = BPF_F_CURRENT_NETNS, .l4proto = answer->transport };
    struct bpf_sock_tuple tuple = {};
    struct nf_conn *tracked;

    if (is_ipv6) {
        __builtin_memcpy(tuple.ipv6.saddr, answer->ends, 32);
        __builtin_memcpy(&tuple.ipv6.sport, answer->ports, 4);
    } else {
        __builtin_memcpy(&tuple.ipv4.saddr, answer->ends[0].bytes + 12, 4);
        __builtin_memcpy(&tuple.ipv4.daddr, answer->ends[1].bytes + 12, 4);
        __builtin_memcpy(&tuple.ipv4.sport, answer->ports, 4);
    }
    tracked = bpf_skb_ct_lookup(skb, &tuple, is_ipv6 ? sizeof(tuple.ipv6) : sizeof(tuple.ipv4), &options,
                                sizeof(options));
    if (!tracked)
        return 0;
    bpf_ct_release(tracked);
    return 1;
}

// Both ways of a new connection. Returns 0, or why it is the stack's.
static __always_inline __u32 begin_translation(struct __sk_buff *skb, struct scratch *work, const struct knet_backend *backend, __u32 link,
                                               const struct knet_settings *wanted, int is_direct, int is_ipv6)
{
    const struct knet_connection *way = &work->way;
    struct knet_connection *answer = &work->answer;
    struct knet_translation *forth = &work->forth, *back = &work->back;
    __u64 now = bpf_ktime_get_coarse_ns();
    __u32 seed = hash(&way->ends[0], way->ports[0]) ^ (__u32)now;
    long status = -1;

    __builtin_memset(forth, 0, sizeof(*forth));
    __builtin_memset(back, 0, sizeof(*back));
    __builtin_memset(answer, 0, sizeof(*answer));
    forth->link = link;
    forth->seen = back->seen = now;
    forth->kind = KNET_TO_ENDPOINT;
    back->kind = KNET_TO_CLIENT;
    answer->transport = way->transport;
    forth->ends[0] = way->ends[0];
    forth->ports[0] = way->ports[0];
    forth->ends[1] = backend->address;
    forth->ports[1] = backend->port;
    back->ends[0] = way->ends[1];
    back->ports[0] = way->ports[1];
    back->ends[1] = way->ends[0];
    back->ports[1] = way->ports[0];
    answer->ends[0] = backend->address;
    answer->ports[0] = backend->port;
    if (is_direct) {
        // Its node translates, and answers.
        forth->is_direct = 1;
        status = 0;
    } else if (link) {
        const struct knet_translation *taken;

        answer->ends[1] = way->ends[0];
        answer->ports[1] = way->ports[0];
        // The client may have the same port for another of the Service's addresses, be that the rules'.
        taken = bpf_map_lookup_elem(&knet_translated, answer);
        if ((!taken || is_free(taken, way->transport, now) ||
             (taken->ports[0] == way->ports[1] && !__builtin_memcmp(&taken->ends[0], &way->ends[1], 16))) &&
            !is_tracked(skb, answer, is_ipv6))
            status = bpf_map_update_elem(&knet_translated, answer, back, BPF_ANY);
    }
    // Another node would answer the client from the endpoint's own address.
    if (status < 0) {
        forth->ends[0] = is_ipv6 ? wanted->own[1] : wanted->own[0];
        if (!forth->ends[0].bytes[0] && !forth->ends[0].bytes[10])
            return KNET_STACK_OTHER;
        answer->ends[1] = forth->ends[0];
        for (int i = 0; i < PORT_TRIALS && status < 0; i++) {
            const struct knet_translation *taken;

            forth->ports[0] = bpf_htons(FIRST_PORT + (seed + i * 7919) % PORTS);
            answer->ports[1] = forth->ports[0];
            taken = bpf_map_lookup_elem(&knet_translated, answer);
            if ((taken && !is_free(taken, way->transport, now)) || is_tracked(skb, answer, is_ipv6))
                continue;
            status = bpf_map_update_elem(&knet_translated, answer, back, taken ? BPF_ANY : BPF_NOEXIST);
        }
    }
    if (status < 0)
        return KNET_STACK_OTHER;
    if (bpf_map_update_elem(&knet_translated, way, forth, BPF_ANY) < 0) {
        bpf_map_delete_elem(&knet_translated, answer);
        return KNET_STACK_OTHER;
    }
    if (wanted->told && !is_direct) {
        struct knet_event *event = make_event(KNET_EVENT_BEGAN);

        if (event) {
            event->transport = way->transport;
            event->ends[0] = way->ends[0];
            event->ends[1] = backend->address;
            event->ports[0] = way->ports[0];
            event->ports[1] = backend->port;
            event->asked = way->ends[1];
            event->asked_port = way->ports[1];
            event->links[1] = link;
            send_event(event);
        }
    }
    return 0;
}

// Where a packet comes from.
enum { FROM_POD, FROM_NODE, FROM_OUTSIDE };

// Clients outside are many: they must not have the answers about pods forgotten. So many are asked about each second and processor.
enum { QUESTIONS_PER_SECOND = 100 };
static __always_inline int may_ask(struct scratch *work)
{
    __u64 now = bpf_ktime_get_coarse_ns();

    if (now - work->second > SECOND) {
        work->second = now;
        work->questions = 0;
    }
    return work->questions++ < QUESTIONS_PER_SECOND;
}

// Draws an endpoint for a connection. Returns 0, or why it is the stack's.
static __always_inline __u32 draw(struct __sk_buff *skb, const struct packet *packet, const struct segment *segment,
                                  struct scratch *work, const struct knet_settings *wanted, int origin)
{
    const struct knet_connection *way = &work->way;
    struct knet_slot *slot = &work->slot;
    struct bpf_ct_opts options = { .netns_id = BPF_F_CURRENT_NETNS, .l4proto = packet->transport };
    const struct knet_endpoint *endpoint;
    const struct knet_service *service;
    const struct knet_backend *backend;
    struct nf_conn *tracked;
    __u32 link = 0;

    // Answers to pods would not come by here.
    if (is_of_other_node(&way->ends[0]))
        return KNET_STACK_OTHER;
    __builtin_memset(slot, 0, sizeof(*slot));
    slot->frontend.address = way->ends[1];
    slot->frontend.port = way->ports[1];
    slot->frontend.transport = way->transport;
    service = bpf_map_lookup_elem(&knet_outside, &slot->frontend);
    // Other nodes send only what is to be answered from here.
    if (!service || !service->size || (origin == FROM_NODE && !(wanted->direct && service->is_shared)))
        return KNET_STACK_OTHER;
    tracked = find_tracked(skb, packet, segment, &options);
    if (tracked) {
        bpf_ct_release(tracked);
        return KNET_STACK_TRACKED;
    }
    // Its size is a power of two.
    slot->slot = hash(&way->ends[0], way->ports[0]) & (service->size - 1);
    backend = bpf_map_lookup_elem(&knet_tables, slot);
    if (!backend)
        return KNET_STACK_OTHER;
    endpoint = bpf_map_lookup_elem(&knet_endpoints, &backend->address);
    if (endpoint) {
        link = endpoint->link;
        if (wanted->policed) {
            // It is one way of a connection: nobody looks for it among those between pods.
            struct passage *passage = &work->passage;
            __u32 reason;

            __builtin_memset(passage, 0, sizeof(*passage));
            passage->key = *way;
            passage->key.ends[1] = backend->address;
            passage->key.ports[1] = backend->port;
            passage->to = link;
            passage->is_silent = !may_ask(work);
            reason = find_verdict(passage, 0);
            if (reason)
                return reason;
        }
    // What is neither a pod here nor one of another node's is reached by the stack alone.
    } else if (origin == FROM_NODE || !is_of_other_node(&backend->address)) {
        return KNET_STACK_OTHER;
    }
    return begin_translation(skb, work, backend, link, wanted, !link && wanted->direct && service->is_shared,
                             packet->is_ipv6);
}

// While what older programs know is taken over: whether the packet may be of a stream with a Service that only they know of. The stack
// would take it for another connection, and whom that leads to would reset it.
static __always_inline int is_missing(struct __sk_buff *skb, const struct packet *packet, const struct segment *segment,
                                      struct scratch *work, const struct knet_settings *wanted, int origin)
{
    const struct knet_connection *way = &work->way;
    const struct knet_address *own = packet->is_ipv6 ? &wanted->own[1] : &wanted->own[0];
    struct bpf_ct_opts options = { .netns_id = BPF_F_CURRENT_NETNS, .l4proto = packet->transport };
    struct nf_conn *tracked;

    if (way->transport != IPPROTO_TCP || segment->is_error || !segment->is_answer)
        return 0;
    // An answer does not say what was asked for.
    if (origin != FROM_POD && __builtin_memcmp(&way->ends[1], own, 16)) {
        const struct knet_service *service;
        struct knet_frontend *frontend = &work->slot.frontend;

        __builtin_memset(&work->slot, 0, sizeof(work->slot));
        frontend->address = way->ends[1];
        frontend->port = way->ports[1];
        frontend->transport = way->transport;
        service = bpf_map_lookup_elem(&knet_outside, frontend);
        if (!service || !service->size)
            return 0;
    }
    tracked = find_tracked(skb, packet, segment, &options);
    if (tracked)
        bpf_ct_release(tracked);
    return !tracked;
}

// What is asked next by whoever began the flow is the stack's, whatever port it comes from: policies would deny answers of which the
// stack knows no question.
static __always_inline void leave_questions(struct scratch *work, const struct knet_flow *flow)
{
    const struct knet_connection *key = &work->way;
    struct knet_question *question = &work->question;
    struct knet_verdict *verdict = &work->verdict;

    __builtin_memset(question, 0, sizeof(*question));
    __builtin_memset(verdict, 0, sizeof(*verdict));
    question->source = flow->beginner ? key->ends[1] : key->ends[0];
    question->destination = flow->beginner ? key->ends[0] : key->ends[1];
    question->port = flow->beginner ? key->ports[0] : key->ports[1];
    question->transport = key->transport;
    verdict->links[0] = flow->beginner ? flow->pods[1].link : flow->pods[0].link;
    verdict->links[1] = flow->beginner ? flow->pods[0].link : flow->pods[1].link;
    verdict->answer = KNET_LEFT;
    bpf_map_update_elem(&knet_verdicts, question, verdict, BPF_EXIST);
}

// From now on the connection is the stack's.
static __always_inline void leave(struct scratch *work, struct knet_translation *translation)
{
    struct knet_translation *other = find_other(&work->answer, &work->way, translation);

    translation->is_left = 1;
    if (other)
        other->is_left = 1;
}

// Whether the stack may send a packet on in pieces.
static __always_inline int is_divisible(struct __sk_buff *skb, const struct packet *packet)
{
    __be16 bits;

    return !packet->is_ipv6 && !bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, frag_off), &bits, sizeof(bits)) &&
           !(bits & bpf_htons(0x4000));
}

// Somebody has sent more datagrams in pieces than one: the stack puts them together, and must know the connection. Answers under way are
// lost; what is asked next goes through the stack.
static __noinline int leave_fragmented(struct __sk_buff *skb, int origin)
{
    struct scratch *work = scratch();
    const struct knet_endpoint *source;
    struct knet_connection *key;
    struct knet_translation *translation;
    struct packet *packet;
    struct knet_flow *flow;
    __u16 ports[2];

    if (!work)
        return 0;
    packet = &work->packet;
    if (!read_fragment(skb, packet, ports))
        return 0;
    // Who sends it speaks for itself.
    source = bpf_map_lookup_elem(&knet_endpoints, &packet->source);
    if (source ? source->link != skb->ingress_ifindex : origin == FROM_POD)
        return 0;
    key = &work->way;
    __builtin_memset(key, 0, sizeof(*key));
    key->transport = IPPROTO_UDP;
    key->ends[0] = packet->source;
    key->ends[1] = packet->destination;
    key->ports[0] = ports[0];
    key->ports[1] = ports[1];
    translation = bpf_map_lookup_elem(&knet_translated, key);
    if (translation) {
        leave(work, translation);
        return 0;
    }
    if (is_less(&packet->destination, &packet->source)) {
        key->ends[0] = packet->destination;
        key->ends[1] = packet->source;
        key->ports[0] = ports[1];
        key->ports[1] = ports[0];
    }
    flow = bpf_map_lookup_elem(&knet_flows, key);
    if (flow) {
        flow->ended |= KNET_IS_LEFT;
        leave_questions(work, flow);
    }
    return 0;
}

// Where the packet is one of a connection with a Service's address, sends it on its way. Else counts why it is the stack's.
static __always_inline int balance(struct __sk_buff *skb, const struct packet *packet, int origin)
{
    const struct knet_settings *wanted = settings();
    const struct knet_endpoint *endpoint = NULL;
    struct knet_translation *translation;
    struct scratch *work = scratch();
    struct knet_connection *way;
    struct segment *segment;
    __u32 reason;

    if (!work || !wanted || !wanted->balanced || packet->lifetime <= 1)
        return count(skb, KNET_STACK_OTHER);
    way = &work->way;
    segment = &work->segment;
    __builtin_memset(way, 0, sizeof(*way));
    __builtin_memset(segment, 0, sizeof(*segment));
    if (read_segment(skb, packet, &way->transport, segment) ||
        (way->transport != IPPROTO_TCP && way->transport != IPPROTO_UDP))
        return count(skb, KNET_STACK_OTHER);
    way->ends[0] = segment->is_error ? segment->about : packet->source;
    way->ends[1] = packet->destination;
    way->ports[0] = segment->ports[0];
    way->ports[1] = segment->ports[1];
    // A pod speaks for itself.
    if (origin == FROM_POD && __builtin_memcmp(&way->ends[0], &packet->source, 16))
        return count(skb, KNET_STACK_TRACKED);
    translation = bpf_map_lookup_elem(&knet_translated, way);
    if (translation && translation->is_left) {
        translation->seen = bpf_ktime_get_coarse_ns();
        return count(skb, KNET_STACK_TRACKED);
    }
    if (translation && !is_current(work, translation, segment)) {
        // What is over must not meet what comes after it.
        if (!segment->is_error)
            forget_translation(work, translation);
        translation = NULL;
    }
    if (!translation) {
        if (wanted->is_catching_up && is_missing(skb, packet, segment, work, wanted, origin)) {
            count(skb, KNET_DROPPED);
            return TC_ACT_SHOT;
        }
        if (origin == FROM_POD || segment->is_error || segment->is_answer)
            return count(skb, KNET_STACK_OTHER);
        reason = draw(skb, packet, segment, work, wanted, origin);
        if (reason)
            return count(skb, reason);
        translation = bpf_map_lookup_elem(&knet_translated, way);
        if (!translation)
            return count(skb, KNET_STACK_OTHER);
    }
    work->translation = *translation;
    if (work->translation.link) {
        endpoint = bpf_map_lookup_elem(&knet_endpoints, &work->translation.ends[1]);
        // Another pod has the address now.
        if (!endpoint || endpoint->link != work->translation.link) {
            bpf_map_delete_elem(&knet_translated, way);
            return count(skb, KNET_STACK_OTHER);
        }
        reason = is_in_trouble(skb, packet, endpoint) ? KNET_STACK_ERROR : 0;
    } else {
        __builtin_memset(&work->route, 0, sizeof(work->route));
        reason = find_route(skb, packet, &work->translation.ends[0], &work->translation.ends[1], &work->route);
    }
    if (reason) {
        // Too large: the stack tells the client. Where it sends datagrams on in pieces, what comes after them must go where they went.
        if (reason == KNET_STACK_ERROR && way->transport == IPPROTO_UDP && !segment->is_error && is_divisible(skb, packet))
            leave(work, translation);
        return count(skb, reason);
    }
    note_translated(skb, work, translation, origin == FROM_POD ? skb->ingress_ifindex : 0, wanted->told);
    if (!work->translation.is_direct && translate(skb, packet, segment, work) < 0)
        return TC_ACT_SHOT;
    return endpoint ? to_pod(skb, packet, endpoint, KNET_TO_ENDPOINT)
                    : follow_route(skb, packet, &work->route, work->translation.kind);
}

#endif
