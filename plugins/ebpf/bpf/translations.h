// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// Connections of clients outside with Services, both ways of which are remembered.
#ifndef KNET_TRANSLATIONS_H
#define KNET_TRANSLATIONS_H

#include "translate.h"

// The daemon sets its size before it loads it. By the way that packets come. What was not used for longest is forgotten first.
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 1024);
    __type(key, struct knet_connection);
    __type(value, struct knet_translation);
} knet_translated SEC(".maps");

// The other way of the same connection, if that is known. `key` becomes its key.
static __always_inline struct knet_translation *find_other(struct knet_connection *key, const struct knet_connection *way,
                                                           const struct knet_translation *translation)
{
    struct knet_translation *other;

    __builtin_memset(key, 0, sizeof(*key));
    key->ends[0] = translation->ends[1];
    key->ends[1] = translation->ends[0];
    key->ports[0] = translation->ports[1];
    key->ports[1] = translation->ports[0];
    key->transport = way->transport;
    other = bpf_map_lookup_elem(&knet_translated, key);
    // It may have become another connection's.
    if (other && (other->ports[0] != way->ports[1] || other->ports[1] != way->ports[0] ||
                  __builtin_memcmp(&other->ends[0], &way->ends[1], 16) ||
                  __builtin_memcmp(&other->ends[1], &way->ends[0], 16)))
        return NULL;
    return other;
}

// Both ways live as long as one is used, and one that was forgotten follows from the other.
// `link`: of the pod that sent the packet; 0: another node's did.
static __always_inline void keep_other(struct scratch *work, const struct knet_translation *translation, __u32 link)
{
    const struct knet_connection *way = &work->way;
    struct knet_translation *other = find_other(&work->answer, way, translation), *made = &work->back;

    if (other) {
        other->seen = translation->seen;
        if (other->ended == KNET_CUT_OFF)
            other->ended = 0;
        return;
    }
    __builtin_memset(made, 0, sizeof(*made));
    made->ends[0] = way->ends[1];
    made->ends[1] = way->ends[0];
    made->ports[0] = way->ports[1];
    made->ports[1] = way->ports[0];
    made->seen = translation->seen;
    made->kind = translation->kind == KNET_TO_CLIENT ? KNET_TO_ENDPOINT : KNET_TO_CLIENT;
    made->link = translation->kind == KNET_TO_CLIENT ? link : 0;
    bpf_map_update_elem(&knet_translated, &work->answer, made, BPF_NOEXIST);
}

// Counts the packet, and tells of the connection's end when the second of its ends has said so.
static __always_inline void note_translated(struct __sk_buff *skb, struct scratch *work,
                                            struct knet_translation *translation, __u32 link, __u32 told)
{
    const struct knet_connection *way = &work->way;
    const struct segment *segment = &work->segment;
    __u64 now = bpf_ktime_get_coarse_ns();
    struct knet_translation *other;
    struct knet_event *event;
    int is_answer = translation->kind == KNET_TO_CLIENT;
    __u32 was_ended = translation->ended;

    translation->packets++;
    translation->bytes += skb->len;
    if (way->transport != IPPROTO_TCP || segment->is_error || !(segment->flags & (TCP_FIN | TCP_RST))) {
        // Nobody looks whether a reset is one that its receiver takes: what goes on was not cut off.
        if (now - translation->seen <= SECOND && was_ended != KNET_CUT_OFF)
            return;
        translation->seen = now;
        if (was_ended == KNET_CUT_OFF)
            translation->ended = 0;
        if (!translation->is_direct)
            keep_other(work, translation, link);
        return;
    }
    translation->seen = now;
    if (segment->flags & TCP_RST)
        translation->ended = was_ended ? was_ended : KNET_CUT_OFF;
    else
        translation->ended = KNET_FINISHED;
    if (was_ended && !(segment->flags & TCP_RST))
        return;
    other = find_other(&work->answer, way, translation);
    if (!other)
        return;
    if (segment->flags & TCP_RST ? was_ended && other->ended : !other->ended)
        return;
    if (!other->ended)
        other->ended = KNET_CUT_OFF;
    event = told ? make_event(KNET_EVENT_ENDED) : NULL;
    if (!event)
        return;
    event->transport = way->transport;
    event->ends[0] = is_answer ? translation->ends[1] : way->ends[0];
    event->ends[1] = is_answer ? way->ends[0] : translation->ends[1];
    event->ports[0] = is_answer ? translation->ports[1] : way->ports[0];
    event->ports[1] = is_answer ? way->ports[0] : translation->ports[1];
    event->asked = is_answer ? translation->ends[0] : way->ends[1];
    event->asked_port = is_answer ? translation->ports[0] : way->ports[1];
    event->packets[0] = is_answer ? other->packets : translation->packets;
    event->packets[1] = is_answer ? translation->packets : other->packets;
    event->bytes[0] = is_answer ? other->bytes : translation->bytes;
    event->bytes[1] = is_answer ? translation->bytes : other->bytes;
    send_event(event);
}

static __always_inline int is_current(struct scratch *work, const struct knet_translation *translation,
                                      const struct segment *segment)
{
    const struct knet_translation *other;

    if (work->way.transport != IPPROTO_TCP)
        return bpf_ktime_get_coarse_ns() - translation->seen < KNET_UDP_LIFETIME;
    if (segment->is_error || !(segment->flags & TCP_SYN))
        return 1;
    // Another one with the same ports begins where either end has said that it is over.
    other = segment->is_answer ? NULL : find_other(&work->answer, &work->way, translation);
    return !translation->ended && !(other && other->ended);
}

// Whether another connection may take the place of one.
static __always_inline int is_free(const struct knet_translation *taken, __u8 transport, __u64 now)
{
    __u64 idle = now - taken->seen;

    if (transport != IPPROTO_TCP)
        return idle > KNET_UDP_LIFETIME;
    return idle > (taken->ended ? 60 * SECOND : 7200 * SECOND);
}

// Both ways.
static __always_inline void forget_translation(struct scratch *work, const struct knet_translation *translation)
{
    if (find_other(&work->answer, &work->way, translation))
        bpf_map_delete_elem(&knet_translated, &work->answer);
    bpf_map_delete_elem(&knet_translated, &work->way);
}

#endif
