// What programs and daemon share: keys and values of maps, in the packet's byte order where they are addresses.
// Included by the programs, and by Swift through the module CKnetBPF.
#ifndef KNET_H
#define KNET_H

#include <linux/types.h>

// An address of either family; IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).
struct knet_address {
    __u8 bytes[16];
};

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
    // of a connection that the stack tracks, or an error about one,
    KNET_STACK_TRACKED,
    // without a route or a known neighbour.
    KNET_STACK_ROUTE,
    KNET_OUTCOMES,
};

struct knet_counter {
    __u64 packets;
    __u64 bytes;
};

// An address and port where a Service is, in the maps of sockets.
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
_Static_assert(sizeof(struct knet_frontend) == 20, "key of knet_frontends");
_Static_assert(sizeof(struct knet_slot) == 24, "key of knet_slots");
_Static_assert(sizeof(struct knet_backend) == 20, "value of knet_slots");
_Static_assert(sizeof(struct knet_member) == 40, "key of knet_members");
_Static_assert(sizeof(struct knet_peer) == 32, "key of knet_connected and knet_datagrams");
_Static_assert(sizeof(struct knet_told) == 32, "value of both");

#endif
