// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Learns the cookie of the agent's own network namespace (DEC-4) where the kernel
 * has no SO_NETNS_COOKIE (e8b9eab99232, v5.14). The agent makes a UDP socket, writes
 * its SO_COOKIE into bl_aid, attaches bl_learn_netns for a moment, connect()s that
 * socket to any loopback address, and reads the answer. A socket cookie names the
 * agent whatever PID namespace it runs in.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Value of bl_aid. */
struct bl_aid {
	__u64 socket; /* cookie of the socket that asks */
	__u64 netns;  /* cookie of its namespace; 0 until it has connected */
};

/*
 * bl_aid: 0 -> question and answer. Writers: agent (socket), BPF (netns). Reader:
 * agent. Lives as long as the agent asks; never pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bl_aid);
} bl_aid SEC(".maps");

SEC("cgroup/connect4")
int bl_learn_netns(struct bpf_sock_addr *ctx)
{
	struct bl_aid *aid;
	__u32 zero = 0;

	aid = bpf_map_lookup_elem(&bl_aid, &zero);
	if (aid && aid->socket == bpf_get_socket_cookie(ctx))
		aid->netns = bpf_get_netns_cookie(ctx);
	return 1;
}
