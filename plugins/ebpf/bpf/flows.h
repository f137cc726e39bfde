// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Connections that go past the stack, and who may begin one.
#ifndef KNET_FLOWS_H
#define KNET_FLOWS_H

#include "ways.h"

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct knet_settings);
} knet_settings SEC(".maps");

// The daemon sets the sizes of these two before it loads them. What was not used for longest is forgotten first.
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, struct knet_connection);
    __type(value, struct knet_flow);
} knet_flows SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, struct knet_question);
    __type(value, struct knet_verdict);
} knet_verdicts SEC(".maps");

enum { EVENTS_BYTES = 1 << 18 };
struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, EVENTS_BYTES);
} knet_events SEC(".maps");

// Functions of the kernel, since 6.0 (net/netfilter/nf_conntrack_bpf.c).
// libbpf wants a struct where the kernel has one.
struct ip_ct_tcp {
    __u8 state;
} __attribute__((preserve_access_index));
union nf_conntrack_proto {
    struct ip_ct_tcp tcp;
} __attribute__((preserve_access_index));
struct nf_conn {
    unsigned long status;
    union nf_conntrack_proto proto;
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
extern int bpf_ct_change_timeout(struct nf_conn *connection, __u32 milliseconds) __ksym;

// <linux/netfilter/nf_conntrack_common.h>: IPS_CONFIRMED; and what a connection must not have that can leave the stack: IPS_SRC_NAT,
// IPS_DST_NAT, IPS_SEQ_ADJUST, IPS_DYING, IPS_TEMPLATE, IPS_UNTRACKED, IPS_HELPER.
enum { CT_CONFIRMED = 1 << 3, CT_STAYS = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13 };
// <linux/netfilter/nf_conntrack_tcp.h>: TCP_CONNTRACK_ESTABLISHED, behind the states of a beginning.
enum { CT_ESTABLISHED = 3 };
// How long the stack remembers a connection that left it.
enum { CT_REMEMBERED_MILLISECONDS = 1000 };

#define SECOND 1000000000ULL

// What a packet means to its connection.
struct passage {
    struct knet_connection key;
    struct segment segment;
    // Which end sent it.
    __u32 sender;
    // Links of pods of this node; 0: another node's.
    __u32 from;
    __u32 to;
    // Whether the policies are not to be asked what they did not say yet.
    __u32 is_silent;
};

static __always_inline const struct knet_settings *settings(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&knet_settings, &zero);
}

static __always_inline int is_less(const struct knet_address *a, const struct knet_address *b)
{
    for (int i = 0; i < 4; i++) {
        __u32 x = ((const __u32 *)a->bytes)[i], y = ((const __u32 *)b->bytes)[i];

        if (x != y)
            return x < y;
    }
    return 0;
}

// Room for what is to be told, all zero.
static __always_inline struct knet_event *make_event(__u32 kind)
{
    struct knet_event *event = bpf_ringbuf_reserve(&knet_events, sizeof(*event), 0);

    if (!event) {
        count_lost();
        return NULL;
    }
    __builtin_memset(event, 0, sizeof(*event));
    event->kind = kind;
    return event;
}

// The daemon comes by; sooner when there is much to read.
static __always_inline void send_event(struct knet_event *event)
{
    __u64 waiting = bpf_ringbuf_query(&knet_events, BPF_RB_AVAIL_DATA);

    bpf_ringbuf_submit(event, waiting > EVENTS_BYTES / 2 ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

static __always_inline void tell(__u32 kind, const struct knet_connection *key, const struct knet_flow *flow)
{
    struct knet_event *event = make_event(kind);
    int first = flow->beginner != 0;

    if (!event)
        return;
    event->transport = key->transport;
    event->ends[0] = first ? key->ends[1] : key->ends[0];
    event->ends[1] = first ? key->ends[0] : key->ends[1];
    event->ports[0] = first ? key->ports[1] : key->ports[0];
    event->ports[1] = first ? key->ports[0] : key->ports[1];
    event->links[0] = first ? flow->pods[1].link : flow->pods[0].link;
    event->links[1] = first ? flow->pods[0].link : flow->pods[1].link;
    event->packets[0] = first ? flow->packets[1] : flow->packets[0];
    event->packets[1] = first ? flow->packets[0] : flow->packets[1];
    event->bytes[0] = first ? flow->bytes[1] : flow->bytes[0];
    event->bytes[1] = first ? flow->bytes[0] : flow->bytes[1];
    send_event(event);
}

static __always_inline int is_over(const struct knet_flow *flow)
{
    return flow->ended & KNET_RESET || (flow->ended & KNET_ENDED_BOTH) == KNET_ENDED_BOTH;
}

static __always_inline int has_ends(const struct knet_flow *flow, const struct passage *passage)
{
    __u32 sender = passage->sender & 1;

    return flow->pods[sender].link == passage->from && flow->pods[!sender].link == passage->to;
}

// Whether what is known of the connection holds for this packet.
static __always_inline int goes_on(const struct knet_flow *flow, const struct passage *passage)
{
    const struct segment *segment = &passage->segment;
    __u32 sender = passage->sender & 1;

    if (!has_ends(flow, passage))
        return 0;
    if (passage->key.transport == IPPROTO_TCP) {
        if (segment->is_error || !(segment->flags & TCP_SYN))
            return 1;
        // Another one with the same ports.
        return !is_over(flow) && (segment->is_answer || flow->beginner == sender);
    }
    // An end that was asked may not ask by the same number.
    if (passage->key.transport != IPPROTO_UDP && !segment->is_error && segment->is_answer != (flow->beginner != sender))
        return 0;
    return bpf_ktime_get_coarse_ns() - flow->seen <
           (passage->key.transport == IPPROTO_UDP ? KNET_UDP_LIFETIME : KNET_ECHO_LIFETIME);
}

// What two processors count at once may be lost: an end sends from one at a time, mostly.
static __always_inline void note_packet(struct __sk_buff *skb, struct knet_flow *flow, __u32 sender)
{
    flow->packets[sender]++;
    flow->bytes[sender] += skb->len;
}

static __always_inline void note(struct __sk_buff *skb, struct knet_flow *flow, const struct passage *passage,
                                 __u32 told)
{
    __u32 sender = passage->sender & 1;

    note_packet(skb, flow, sender);
    // A stream is known to be over by its ends, all else by the time that nothing came: of streams it is not asked for each packet.
    if (passage->key.transport == IPPROTO_TCP) {
        if (!(passage->segment.flags & (TCP_FIN | TCP_RST)))
            return;
        if (!is_over(flow)) {
            flow->ended |= passage->segment.flags & TCP_RST ? KNET_RESET : KNET_ENDED_FIRST << sender;
            if (is_over(flow) && told)
                tell(KNET_EVENT_ENDED, &passage->key, flow);
        }
    }
    flow->seen = bpf_ktime_get_coarse_ns();
}

// Asks who may begin the connection. Returns 0 where it is admitted.
static __always_inline __u32 find_verdict(const struct passage *passage, __u32 beginner)
{
    const struct knet_connection *key = &passage->key;
    int is_sender = beginner == passage->sender;
    struct knet_question question = { .source = beginner ? key->ends[1] : key->ends[0],
                                      .destination = beginner ? key->ends[0] : key->ends[1],
                                      .transport = key->transport };
    struct knet_verdict asked = { .links = { is_sender ? passage->from : passage->to,
                                             is_sender ? passage->to : passage->from },
                                  .answer = KNET_ASKED };
    const struct knet_verdict *known;
    struct knet_event *event;

    if (key->transport == IPPROTO_TCP || key->transport == IPPROTO_UDP)
        question.port = beginner ? key->ports[0] : key->ports[1];
    known = bpf_map_lookup_elem(&knet_verdicts, &question);
    if (known && known->links[0] == asked.links[0] && known->links[1] == asked.links[1])
        return known->answer == KNET_ADMITTED ? 0 : KNET_STACK_POLICY;
    if (passage->is_silent)
        return KNET_STACK_POLICY;
    // Where there is no room, the next packet asks.
    event = make_event(KNET_EVENT_QUESTION);
    if (!event)
        return KNET_STACK_POLICY;
    event->ends[0] = question.source;
    event->ends[1] = question.destination;
    event->ports[1] = question.port;
    event->transport = question.transport;
    event->links[0] = asked.links[0];
    event->links[1] = asked.links[1];
    // Before the answer can come.
    bpf_map_update_elem(&knet_verdicts, &question, &asked, BPF_ANY);
    bpf_ringbuf_submit(event, BPF_RB_FORCE_WAKEUP);
    return KNET_STACK_POLICY;
}

// `kind` is what is told of it.
static __always_inline __u32 begin(struct __sk_buff *skb, const struct passage *passage, __u32 beginner, __u32 kind,
                                   __u32 told)
{
    __u32 second = passage->sender;
    struct knet_flow flow = { .began = bpf_ktime_get_coarse_ns(),
                              .packets = { !second, second },
                              .bytes = { second ? 0 : skb->len, second ? skb->len : 0 },
                              .pods = { { .link = second ? passage->to : passage->from },
                                        { .link = second ? passage->from : passage->to } },
                              .beginner = beginner };

    flow.seen = flow.began;
    if (bpf_map_update_elem(&knet_flows, &passage->key, &flow, BPF_ANY) == 0 && told)
        tell(kind, &passage->key, &flow);
    return 0;
}

static __always_inline struct nf_conn *find_tracked(struct __sk_buff *skb, const struct packet *packet,
                                                    const struct segment *segment, struct bpf_ct_opts *options)
{
    struct bpf_sock_tuple tuple = {};

    if (packet->is_ipv6) {
        __builtin_memcpy(tuple.ipv6.saddr, &packet->source, 16);
        __builtin_memcpy(tuple.ipv6.daddr, &packet->destination, 16);
        __builtin_memcpy(&tuple.ipv6.sport, segment->ports, 4);
        return bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple.ipv6), options, sizeof(*options));
    }
    __builtin_memcpy(&tuple.ipv4.saddr, packet->source.bytes + 12, 4);
    __builtin_memcpy(&tuple.ipv4.daddr, packet->destination.bytes + 12, 4);
    __builtin_memcpy(&tuple.ipv4.sport, segment->ports, 4);
    return bpf_skb_ct_lookup(skb, &tuple, sizeof(tuple.ipv4), options, sizeof(*options));
}

// Which connection the packet belongs to. Returns 0, or why it is the stack's.
static __always_inline __u32 find_passage(struct __sk_buff *skb, const struct packet *packet, struct passage *passage)
{
    __u32 reason = read_segment(skb, packet, &passage->key.transport, &passage->segment);
    const struct knet_address *source = passage->segment.is_error ? &passage->segment.about : &packet->source;

    if (reason)
        return reason;
    passage->sender = is_less(&packet->destination, source);
    passage->key.ends[0] = passage->sender ? packet->destination : *source;
    passage->key.ends[1] = passage->sender ? *source : packet->destination;
    passage->key.ports[0] = passage->sender ? passage->segment.ports[1] : passage->segment.ports[0];
    passage->key.ports[1] = passage->sender ? passage->segment.ports[0] : passage->segment.ports[1];
    return 0;
}

// Returns 0 where a packet between pods goes past the stack, or why it is the stack's.
static __always_inline __u32 admit(struct __sk_buff *skb, const struct packet *packet, struct passage *passage)
{
    const struct knet_settings *wanted = settings();
    struct knet_flow *flow;
    __u32 reason, beginner;
    int must_ask;

    if (!wanted)
        return KNET_STACK_OTHER;
    flow = bpf_map_lookup_elem(&knet_flows, &passage->key);
    if (flow && !goes_on(flow, passage)) {
        // What is over, or was another pod's, must not meet what comes after it.
        if (!passage->segment.is_error && (passage->key.transport == IPPROTO_TCP || passage->key.transport == IPPROTO_UDP))
            bpf_map_delete_elem(&knet_flows, &passage->key);
        flow = NULL;
    }
    if (flow && flow->ended & KNET_IS_LEFT) {
        flow->seen = bpf_ktime_get_coarse_ns();
        return KNET_STACK_TRACKED;
    }
    // Of what the stack carries it knows errors itself.
    if (passage->segment.is_error)
        return flow ? 0 : KNET_STACK_TRACKED;

    // Who began is seen by who sends the first packet, or else by the port of the one who answers.
    beginner = passage->sender;
    if (passage->key.transport == IPPROTO_TCP && !(passage->segment.flags & TCP_SYN) ?
            bpf_ntohs(passage->segment.ports[0]) < bpf_ntohs(passage->segment.ports[1]) :
            passage->segment.is_answer)
        beginner = !passage->sender;
    // Who begins is asked about each time, and until somebody has answered.
    must_ask = wanted->policed && (!flow || (flow->beginner == passage->sender && !passage->segment.is_answer &&
                                             (passage->key.transport == IPPROTO_TCP ||
                                              !flow->packets[!(passage->sender & 1)])));

    // What the stack translates is known by the beginning of streams; of others each packet may be its first.
    if ((!flow || passage->key.transport == IPPROTO_UDP || passage->segment.flags & TCP_SYN) &&
        (passage->key.transport == IPPROTO_TCP || passage->key.transport == IPPROTO_UDP)) {
        struct bpf_ct_opts options = { .netns_id = BPF_F_CURRENT_NETNS, .l4proto = packet->transport };
        struct nf_conn *tracked = find_tracked(skb, packet, &passage->segment, &options);

        if (tracked) {
            int may_leave = (tracked->status & (CT_CONFIRMED | CT_STAYS)) == CT_CONFIRMED;
            // One that is about to end ends there.
            int is_ending = passage->key.transport == IPPROTO_TCP &&
                            (passage->segment.flags & (TCP_FIN | TCP_RST) || tracked->proto.tcp.state > CT_ESTABLISHED);

            if (flow && !may_leave)
                bpf_map_delete_elem(&knet_flows, &passage->key);
            reason = flow && may_leave ? 0 : KNET_STACK_TRACKED;
            // A connection that was asked about went through the stack; once it is admitted it leaves it.
            if (!flow && may_leave && wanted->policed && !is_ending) {
                beginner = options.dir ? !passage->sender : passage->sender;
                reason = find_verdict(passage, beginner);
                if (!reason) {
                    bpf_ct_change_timeout(tracked, CT_REMEMBERED_MILLISECONDS);
                    begin(skb, passage, beginner, KNET_EVENT_MOVED, wanted->told);
                    bpf_ct_release(tracked);
                    return 0;
                }
            }
            bpf_ct_release(tracked);
            if (reason)
                return reason;
        }
    }
    if (must_ask) {
        // Of what has begun elsewhere the stack knows more. A stream that it does not know either, as when maps were lost, may go on where
        // the end with the higher port might begin it: the other end may be the only one who speaks.
        if (passage->segment.is_answer && (flow || passage->key.transport != IPPROTO_TCP ||
                                           passage->segment.flags & TCP_SYN || beginner == passage->sender))
            return KNET_STACK_TRACKED;
        reason = find_verdict(passage, beginner);
        if (reason)
            return reason;
    }
    if (flow) {
        note(skb, flow, passage, wanted->told);
        return 0;
    }
    // A connection's last packets are no beginning.
    if (passage->segment.flags & (TCP_FIN | TCP_RST))
        return 0;
    return begin(skb, passage, beginner, KNET_EVENT_BEGAN, wanted->told);
}

#endif
