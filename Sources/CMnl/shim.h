// Kernel headers beside libmnl: the structures and constants of rtnetlink, read from the headers of the
// machine that builds, never counted by hand.
#pragma once
#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/net_namespace.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/socket.h>

// Function-like macros do not reach Swift.
static inline unsigned int knet_nlmsg_hdrlen(void) { return MNL_NLMSG_HDRLEN; }

// <pthread.h>, <sched.h> and <sys/mount.h> declare these only under _GNU_SOURCE, which Swift's Glibc module is not built with.
extern int pthread_setname_np(unsigned long thread, const char *name);
extern int setns(int fd, int nstype);
extern int unshare(int flags);
extern int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
extern int umount2(const char *target, int flags);
static const int knet_clone_newnet = 0x40000000;   // <linux/sched.h> CLONE_NEWNET
static const unsigned long knet_ms_bind = 4096;    // <linux/mount.h> MS_BIND
static const int knet_mnt_detach = 2;              // <linux/fs.h> MNT_DETACH

// Newer than Debian 12's glibc, kernel since 5.14: <asm-generic/socket.h>.
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
