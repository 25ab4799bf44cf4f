/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses of the sock_addr hooks. Besides packet.h this is the only place that
 * tells the families apart: everywhere else an address is 16 bytes, IPv4 mapped,
 * which is also what an IPv6 socket calls an IPv4 peer (SOCK-6).
 */
#ifndef BL_ADDR_H
#define BL_ADDR_H

#include <bpf/bpf_endian.h>
#include "types.h"

#define BL_MAPPED bpf_htonl(0xffff)

/* An address and a port as the hooks give and take them; both in network order. */
struct bl_peer {
	struct bl_addr addr;
	__be16 port;
};

static __always_inline bool bl_addr_equal(const struct bl_addr *a, const struct bl_addr *b)
{
	/* The last word first: it differs most. */
	return a->w[3] == b->w[3] && a->w[2] == b->w[2] && a->w[1] == b->w[1] && a->w[0] == b->w[0];
}

static __always_inline bool bl_addr_is_v4(const struct bl_addr *a)
{
	return !a->w[0] && !a->w[1] && a->w[2] == BL_MAPPED;
}

/* The address a sock_addr hook is about; v6 says which of the two hooks this is. */
static __always_inline struct bl_peer bl_peer_load(const struct bpf_sock_addr *ctx, const bool v6)
{
	struct bl_peer peer = {};

	if (v6) {
		peer.addr.w[0] = ctx->user_ip6[0];
		peer.addr.w[1] = ctx->user_ip6[1];
		peer.addr.w[2] = ctx->user_ip6[2];
		peer.addr.w[3] = ctx->user_ip6[3];
	} else {
		peer.addr.w[2] = BL_MAPPED;
		peer.addr.w[3] = ctx->user_ip4;
	}
	peer.port = (__be16)ctx->user_port;
	return peer;
}

/* Puts another address and port in the place of those the hook is about. */
static __always_inline void bl_peer_store(struct bpf_sock_addr *ctx, const bool v6,
					  const struct bl_addr *addr, __be16 port)
{
	if (v6) {
		ctx->user_ip6[0] = addr->w[0];
		ctx->user_ip6[1] = addr->w[1];
		ctx->user_ip6[2] = addr->w[2];
		ctx->user_ip6[3] = addr->w[3];
	} else {
		ctx->user_ip4 = addr->w[3];
	}
	ctx->user_port = port;
}

#endif
