// Kernel headers beside libmnl: the structures and constants of rtnetlink, read from the headers of the
// machine that builds, never counted by hand.
#pragma once
#include <libmnl/libmnl.h>
#include <linux/ethtool.h>
#include <linux/fib_rules.h>
#include <linux/filter.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/inet_diag.h>
#include <linux/ip.h>
#include <linux/neighbour.h>
#include <linux/net_namespace.h>
#include <linux/netconf.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netlink.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tc_act/tc_mirred.h>
#include <linux/veth.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <net/if.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

// Function-like macros do not reach Swift.
static inline unsigned int knet_nlmsg_hdrlen(void) { return MNL_NLMSG_HDRLEN; }

// <pthread.h>, <sched.h>, <sys/mount.h> and others declare these only under _GNU_SOURCE, which Swift's Glibc module is not built with.
extern int pthread_setname_np(unsigned long thread, const char *name);
extern int pipe2(int ends[2], int flags);
extern int accept4(int socket, struct sockaddr *address, socklen_t *length, int flags);
extern int setns(int fd, int nstype);
extern int unshare(int flags);
extern int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
extern int umount2(const char *target, int flags);
extern int malloc_trim(size_t pad);
static const int knet_clone_newnet = 0x40000000;   // <linux/sched.h> CLONE_NEWNET
static const unsigned long knet_ms_bind = 4096;    // <linux/mount.h> MS_BIND
static const int knet_mnt_detach = 2;              // <linux/fs.h> MNT_DETACH

// Several datagrams by one call (recvmmsg(2), sendmmsg(2)).
struct knet_mmsghdr {
    struct msghdr msg_hdr;
    unsigned int msg_len;
};
static inline long knet_recvmmsg(int socket, struct knet_mmsghdr *messages, unsigned int count, int flags) {
    return syscall(SYS_recvmmsg, socket, messages, count, flags, 0);
}
static inline long knet_sendmmsg(int socket, struct knet_mmsghdr *messages, unsigned int count, int flags) {
    return syscall(SYS_sendmmsg, socket, messages, count, flags);
}

// Newer than Debian 12's glibc, kernel since 5.14: <asm-generic/socket.h>.
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

// Keeps the calling thread on one processor, 0 to 1023 (sched_setaffinity(2)); <sched.h> hides cpu_set_t likewise.
static inline long knet_pin_to_processor(unsigned int processor) {
    unsigned long mask[1024 / (8 * sizeof(unsigned long))] = {0};
    if (processor >= 1024) { errno = EINVAL; return -1; }
    mask[processor / (8 * sizeof mask[0])] = 1UL << processor % (8 * sizeof mask[0]);
    return syscall(SYS_sched_setaffinity, 0, sizeof mask, mask);
}

// Sends bytes with an open descriptor beside them (SCM_RIGHTS), or without one where `descriptor` is negative.
static inline long knet_send_with_descriptor(int socket, const void *bytes, unsigned long count, int descriptor) {
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = count};
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptor >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

// Receives bytes; the first descriptor that came with them is stored in `descriptor`, which is otherwise left as it is.
// Any others are closed.
static inline long knet_receive_with_descriptor(int socket, void *bytes, unsigned long count, int *descriptor) {
    struct iovec part = {.iov_base = bytes, .iov_len = count};
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    long received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    int taken = 0;
    for (struct cmsghdr *header = received < 0 ? 0 : CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        for (unsigned long offset = 0; CMSG_LEN(offset + sizeof(int)) <= header->cmsg_len; offset += sizeof(int)) {
            int number;
            memcpy(&number, CMSG_DATA(header) + offset, sizeof number);
            if (taken++) close(number); else *descriptor = number;
        }
    }
    return received;
}

// Asks a driver for a setting that is one number, or sets it (SIOCETHTOOL of <linux/sockios.h>).
static inline int knet_ethtool_value(int socket, const char *link, unsigned int command, unsigned int *value) {
    struct ethtool_value request = {.cmd = command, .data = *value};
    struct ifreq interface = {.ifr_data = (void *)&request};
    strncpy(interface.ifr_name, link, sizeof interface.ifr_name - 1);
    int status = ioctl(socket, 0x8946, &interface);
    *value = request.data;
    return status;
}

// struct tcp_md5sig of <linux/tcp.h>, which does not go with <netinet/tcp.h>.
enum { KNET_TCP_MD5SIG_EXT = 32, KNET_TCP_MD5_HAS_PREFIX = 1, KNET_TCP_MD5_KEY = 80 };
struct knet_tcp_md5 {
    struct sockaddr_storage address;
    uint8_t flags;
    uint8_t prefix_length;
    uint16_t key_length;
    int link;
    uint8_t key[KNET_TCP_MD5_KEY];
};
