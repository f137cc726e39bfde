// libbpf, and what of it does not reach Swift: its options are macros.
#pragma once
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>

// Newer than Debian 12's headers, kernel since 6.6: <linux/bpf.h> BPF_TCX_INGRESS, BPF_F_BEFORE.
#define KNET_BPF_TCX_INGRESS ((enum bpf_attach_type)46)
#define KNET_BPF_BEFORE (1U << 3)

// Attaches to what a device receives, in the place of `replaced`, or where that is negative before all others.
static inline int knet_tcx_attach(int program, int link, int replaced) {
    LIBBPF_OPTS(bpf_prog_attach_opts, options, .flags = replaced < 0 ? KNET_BPF_BEFORE : BPF_F_REPLACE,
                .replace_prog_fd = replaced < 0 ? 0 : replaced);
    return bpf_prog_attach_opts(program, link, KNET_BPF_TCX_INGRESS, &options);
}

static inline int knet_tcx_detach(int program, int link) {
    return bpf_prog_detach2(program, link, KNET_BPF_TCX_INGRESS);
}

static inline int knet_tcx_query(int link, unsigned int *ids, unsigned int *count) {
    return bpf_prog_query(link, KNET_BPF_TCX_INGRESS, 0, 0, ids, count);
}

// The same by a filter of the clsact qdisc, for kernels before 6.6.
enum { knet_tc_handle = 1, knet_tc_priority = 0x6b6e };

static inline int knet_tc_attach(int program, int link) {
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = link, .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = knet_tc_handle, .priority = knet_tc_priority, .prog_fd = program,
                .flags = BPF_TC_F_REPLACE);
    int status = bpf_tc_hook_create(&hook);
    return status < 0 && status != -EEXIST ? status : bpf_tc_attach(&hook, &options);
}

static inline int knet_tc_detach(int link) {
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = link, .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = knet_tc_handle, .priority = knet_tc_priority);
    return bpf_tc_detach(&hook, &options);
}

static inline int knet_tc_query(int link, unsigned int *id) {
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = link, .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = knet_tc_handle, .priority = knet_tc_priority);
    int status = bpf_tc_query(&hook, &options);
    *id = options.prog_id;
    return status;
}

// Runs a program over a packet, for tests.
static inline int knet_bpf_try(int program, const void *in, unsigned int in_size, void *out, unsigned int *out_size,
                               unsigned int link, unsigned int *verdict) {
    struct __sk_buff context = {.ifindex = link, .ingress_ifindex = link};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = in, .data_size_in = in_size, .data_out = out,
                .data_size_out = *out_size, .ctx_in = &context, .ctx_size_in = sizeof context, .repeat = 1);
    int status = bpf_prog_test_run_opts(program, &options);
    *out_size = options.data_size_out;
    *verdict = options.retval;
    return status;
}
