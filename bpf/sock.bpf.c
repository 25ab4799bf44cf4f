/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "maps.h"

static __always_inline __u32 bl_key_check(const struct bl_frontend_key *key)
{
	const __u32 *w = (const __u32 *)key;
	__u32 h = 0x9e3779b9;

#pragma unroll
	for (int i = 0; i < 5; i++) {
		h ^= w[i];
		h *= 0x85ebca6b;
		h ^= h >> 13;
	}
	h *= 0xc2b2ae35;
	return h ^ h >> 16;
}

static __always_inline int dial(struct bpf_sock_addr *ctx)
{
	struct bl_frontend_key key = {};
	struct bl_service *svc;
	struct bl_backend *be;
	__u64 *front, v, set, flow_key;
	__u32 idx, *slot;
	struct bl_flow flow = {};

	key.addr.w[2] = bpf_htonl(0xffff);
	key.addr.w[3] = ctx->user_ip4;
	key.port = ctx->user_port;
	key.proto = ctx->protocol;
	front = bpf_map_lookup_elem(&bl_frontends, &key);
	if (!front)
		return 1;
	v = *front;
	if (BL_FRONTEND_CHECK(v) != bl_key_check(&key))
		return 1;
	idx = BL_FRONTEND_INDEX(v);
	svc = bpf_map_lookup_elem(&bl_services, &idx);
	if (!svc)
		return 1;
	set = svc->set[0];
	if (!BL_SET_COUNT(set) || !bl_check_generation) {
		if (bl_has_set_retval)
			bpf_set_retval(-111);
		return 0;
	}
	idx = BL_SET_BASE(set) + bpf_get_prandom_u32() % BL_SET_COUNT(set);
	slot = bpf_map_lookup_elem(&bl_slots, &idx);
	if (!slot)
		return 1;
	idx = *slot;
	be = bpf_map_lookup_elem(&bl_backends, &idx);
	if (!be)
		return 1;
	flow.dialled = key.addr;
	flow_key = bpf_get_socket_cookie(ctx);
	bpf_map_update_elem(&bl_flows, &flow_key, &flow, 0);
	ctx->user_ip4 = be->addr.w[3];
	ctx->user_port = be->port;
	return 1;
}

SEC("cgroup/connect4") int bl_connect4(struct bpf_sock_addr *ctx) { return dial(ctx); }
SEC("cgroup/connect6") int bl_connect6(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/sendmsg4") int bl_sendmsg4(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/sendmsg6") int bl_sendmsg6(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/recvmsg4") int bl_recvmsg4(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/recvmsg6") int bl_recvmsg6(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/getpeername4") int bl_getpeername4(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/getpeername6") int bl_getpeername6(struct bpf_sock_addr *ctx) { return 1; }
SEC("cgroup/sock_release") int bl_sock_release(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	bpf_map_delete_elem(&bl_flows, &cookie);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
