// What programs and daemon share: keys and values of maps, in the packet's byte order where they are addresses.
// Included by the programs, and by Swift through the module CKnetBPF.
//
// A release takes over what maps of the one before hold: values grow at their ends alone, and a map that changes otherwise gets another
// name.
#ifndef KNET_H
#define KNET_H

#include <linux/types.h>

// An address of either family; IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). Aligned, or it would be copied byte by byte.
struct knet_address {
    __u8 bytes[16];
} __attribute__((aligned(4)));

// A pod of this node.
struct knet_endpoint {
    // The node's end of its link.
    __u32 link;
    __u8 pod_mac[6];
    __u8 host_mac[6];
};

// Addresses of other nodes' pods. `bits` counts those of a `knet_address`.
struct knet_prefix {
    __u32 bits;
    struct knet_address address;
};

// What became of a packet: the index of its counter.
enum knet_outcome {
    KNET_NONE,
    // To a pod of this node, past the host's stack.
    KNET_TO_POD,
    // To a pod of another node, past the host's stack.
    KNET_TO_NODE,
    // All others are the stack's: not of two pods,
    KNET_STACK_OTHER,
    // with a header that is cut short, has options or is a fragment's, or of a transport other than TCP, UDP and ICMP,
    KNET_STACK_HEADER,
    // from elsewhere than its source is,
    KNET_STACK_SOURCE,
    // at the end of its life, or larger than the way takes,
    KNET_STACK_ERROR,
    // of a connection that the stack tracks, or an error about one that is not known,
    KNET_STACK_TRACKED,
    // without a route or a known neighbour,
    KNET_STACK_ROUTE,
    // of a connection that policies deny, or are asked about.
    KNET_STACK_POLICY,
    // Of a client outside, to an endpoint of a Service,
    KNET_TO_ENDPOINT,
    // and the answer.
    KNET_TO_CLIENT,
    // Dropped, for its sender to send it again: of a stream that other programs' maps may know.
    KNET_DROPPED,
    // No packet: what could not be told, for want of room in knet_events.
    KNET_UNTOLD,
    KNET_OUTCOMES,
};

struct knet_counter {
    __u64 packets;
    __u64 bytes;
};

// What the daemon wants of the programs.
struct knet_settings {
    // Whether connections must be admitted by policies.
    __u32 policed;
    // Whether connections are told of.
    __u32 told;
    // Whether Services are balanced for clients outside,
    __u32 balanced;
    // and whether other nodes answer them directly.
    __u32 direct;
    // What this node asks other nodes' pods from, of IPv4 and IPv6: addresses that no pod has. Zero where there is none.
    struct knet_address own[2];
    // Another one whenever an endpoint has become another or has gone. 0: nobody says so.
    __u32 generation;
    // Whether connections may yet be known to older programs alone, whose maps are others.
    __u32 is_catching_up;
};

// A connection. Its lesser end is the first one: so both ways find it; of one way the sender is.
struct knet_connection {
    struct knet_address ends[2];
    // Of TCP and UDP; of an echo its number, twice.
    __u16 ports[2];
    // IANA's number.
    __u8 transport;
    __u8 padding[3];
};

// What is known of a connection that goes past the stack. `ended` has a bit for each end that has said so, and one where it was cut off.
// One that is left is the stack's again.
enum { KNET_ENDED_FIRST = 1, KNET_ENDED_SECOND = 2, KNET_ENDED_BOTH = 3, KNET_RESET = 4, KNET_IS_LEFT = 8 };
struct knet_flow {
    // The monotonic clock's nanoseconds, as of some tick.
    __u64 began;
    __u64 seen;
    // What either end sent.
    __u64 packets[2];
    __u64 bytes[2];
    // Of pods of this node the node's ends of their links, which are never another's; else 0. Their MAC addresses are those of
    // knet_endpoints in the given generation: most packets need not look there. 0: of none.
    struct knet_endpoint pods[2];
    __u32 generation;
    // Which end began it.
    __u32 beginner;
    __u32 ended;
    __u32 padding;
};

// For so many nanoseconds connections without an end of their own are remembered: as the stack's conntrack does.
#define KNET_UDP_LIFETIME 180000000000
#define KNET_ECHO_LIFETIME 30000000000

enum { KNET_FINISHED = 1, KNET_CUT_OFF = 2 };

// What becomes of the packets of one way of a connection with a Service.
struct knet_translation {
    struct knet_address ends[2];
    __u16 ports[2];
    // Of a pod of this node that it goes to; 0: to elsewhere.
    __u32 link;
    // When either way was used.
    __u64 seen;
    __u64 packets;
    __u64 bytes;
    // `enum knet_outcome`: to an endpoint, or to a client.
    __u32 kind;
    // Whether its sender has ended it, or somebody said that it is cut off.
    __u32 ended;
    // Whether it is left as it is, for another node to translate,
    __u32 is_direct;
    // or is the stack's again.
    __u32 is_left;
};

// A Service's address with a port, for clients outside.
struct knet_service {
    // A power of two: a draw takes one of so many slots. 0: the stack's.
    __u32 size;
    // Whether every node serves it.
    __u32 is_shared;
};

// A question to the policies: may the source connect there?
struct knet_question {
    struct knet_address source;
    struct knet_address destination;
    // Of TCP and UDP; else 0.
    __u16 port;
    __u8 transport;
    __u8 padding;
};

enum knet_answer {
    // Not answered yet,
    KNET_ASKED,
    // it may,
    KNET_ADMITTED,
    // or the host's stack is to say so.
    KNET_LEFT,
};

struct knet_verdict {
    // As those of a flow: of source and destination.
    __u32 links[2];
    // `enum knet_answer`.
    __u32 answer;
};

enum knet_event_kind {
    // A question that has no answer,
    KNET_EVENT_QUESTION,
    // a connection's beginning,
    KNET_EVENT_BEGAN,
    // its end,
    KNET_EVENT_ENDED,
    // that one has left the host's stack,
    KNET_EVENT_MOVED,
    // and one that goes on: of these the daemon itself tells.
    KNET_EVENT_RUNNING,
};

// What is told through knet_events. Of two ends the one who began comes first.
struct knet_event {
    struct knet_address ends[2];
    __u16 ports[2];
    __u8 transport;
    __u8 padding[3];
    __u32 kind;
    __u32 links[2];
    // Where it was sent to; zero where that is its second end.
    struct knet_address asked;
    __u16 asked_port;
    __u16 more_padding;
    __u64 packets[2];
    __u64 bytes[2];
};

// An address and port where a Service is.
struct knet_frontend {
    struct knet_address address;
    __u16 port;
    // IANA's number.
    __u8 transport;
    __u8 padding;
};

struct knet_slot {
    struct knet_frontend frontend;
    __u32 slot;
};

// Where a socket goes, or is to be seen to go.
struct knet_backend {
    struct knet_address address;
    __u16 port;
    __u16 padding;
};

// An endpoint that datagrams to a frontend may go to.
struct knet_member {
    struct knet_frontend frontend;
    struct knet_backend backend;
};

enum knet_direction {
    // From a Service to the endpoint that a socket's datagrams go to,
    KNET_TO_BACKEND,
    // and from an endpoint to the Service that the socket asked for.
    KNET_TO_SERVICE,
};

struct knet_peer {
    // The socket's cookie.
    __u64 socket;
    struct knet_backend it;
    __u32 direction;
};

struct knet_told {
    // The socket's network namespace, by its cookie.
    __u64 clients;
    struct knet_backend it;
    __u32 padding;
};

// What became of sockets: the index of its counter.
enum knet_socket_outcome {
    KNET_SOCKET_CONNECTED,
    KNET_SOCKET_SENT,
    KNET_SOCKET_OUTCOMES,
};

_Static_assert(sizeof(struct knet_address) == 16, "key of knet_endpoints");
_Static_assert(sizeof(struct knet_endpoint) == 16, "value of knet_endpoints");
_Static_assert(sizeof(struct knet_prefix) == 20, "key of knet_nodes");
_Static_assert(sizeof(struct knet_counter) == 16, "value of knet_counters");
_Static_assert(sizeof(struct knet_settings) == 56, "value of knet_settings");
_Static_assert(sizeof(struct knet_connection) == 40, "key of knet_flows");
_Static_assert(sizeof(struct knet_flow) == 96, "value of knet_flows");
_Static_assert(sizeof(struct knet_translation) == 80, "value of knet_translated");
_Static_assert(sizeof(struct knet_service) == 8, "value of knet_outside");
_Static_assert(sizeof(struct knet_question) == 36, "key of knet_verdicts");
_Static_assert(sizeof(struct knet_verdict) == 12, "value of knet_verdicts");
_Static_assert(sizeof(struct knet_event) == 104, "record of knet_events");
_Static_assert(sizeof(struct knet_frontend) == 20, "key of knet_frontends");
_Static_assert(sizeof(struct knet_slot) == 24, "key of knet_slots");
_Static_assert(sizeof(struct knet_backend) == 20, "value of knet_slots");
_Static_assert(sizeof(struct knet_member) == 40, "key of knet_members");
_Static_assert(sizeof(struct knet_peer) == 32, "key of knet_connected and knet_datagrams");
_Static_assert(sizeof(struct knet_told) == 32, "value of both");

#endif
