/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a socket dialled and what it got: bl_flows_near or bl_flows, by socket cookie,
 * and bl_flows_more for the further frontends of one unconnected UDP socket.
 *
 * A socket has one first row. It lies near only if it did so from the start, that is
 * if the socket had no cookie before: so no socket ever has one in both maps.
 *
 * The first row says what holds while the socket is connected (CONNECTED),
 * or is the first frontend it sent to (DATAGRAM). A CONNECTED row counts only while
 * the socket is connected, a DATAGRAM row only while it is not: dissolving a
 * connection (AF_UNSPEC) runs no hook, and a later connect() to something else must
 * not be shown an older answer.
 *
 * Every hook but sock_release runs under the lock of its socket (the _LOCK macros of
 * bpf-cgroup.h), and in sock_release nobody else has it: two programs never work on
 * one socket's rows at once. Only readers outside BPF see them change.
 */
#ifndef BL_FLOW_H
#define BL_FLOW_H

#include "lb.h"

static __always_inline bool bl_flow_dialled(const struct bl_flow *flow, const struct bl_peer *peer)
{
	return flow->dialled_port == peer->port && bl_addr_equal(&flow->dialled, &peer->addr);
}

/* Whether a datagram from peer answers what this row sent: from its first choice, or its present one. */
static __always_inline bool bl_flow_answered(const struct bl_flow *flow, const struct bl_peer *peer)
{
	const struct bl_target *to;

	if (flow->backend_port == peer->port && bl_addr_equal(&flow->backend, &peer->addr))
		return true;
	to = bl_choice_target(BL_LOAD(flow->choice));
	return to && to->port == peer->port && bl_addr_equal(&to->addr, &peer->addr);
}

/*
 * Rows of bl_flows_more are filled from 0 on without holes, and go only with their
 * socket. The loops are subprograms: inlined into each hook and family they would
 * cost the verifier several times as much. Each counter is kept in a register
 * (barrier_var): 5.10 does not follow one that the compiler keeps in key.seq, on the
 * stack, and reports an infinite loop.
 */
static __noinline struct bl_flow *bl_more_dialled(__u64 cookie, const struct bl_peer *peer)
{
	struct bl_more_key key = { .cookie = cookie };
	struct bl_flow *flow;

	for (__u32 seq = 0; seq < BL_MORE_MAX; seq++) {
		barrier_var(seq);
		key.seq = seq;
		flow = bpf_map_lookup_elem(&bl_flows_more, &key);
		if (!flow || bl_flow_dialled(flow, peer))
			return flow;
	}
	return NULL;
}

static __noinline struct bl_flow *bl_more_answered(__u64 cookie, const struct bl_peer *peer)
{
	struct bl_more_key key = { .cookie = cookie };
	struct bl_flow *flow;

	for (__u32 seq = 0; seq < BL_MORE_MAX; seq++) {
		barrier_var(seq);
		key.seq = seq;
		flow = bpf_map_lookup_elem(&bl_flows_more, &key);
		if (!flow || bl_flow_answered(flow, peer))
			return flow;
	}
	return NULL;
}

static __noinline int bl_more_delete(__u64 cookie)
{
	struct bl_more_key key = { .cookie = cookie };

	for (__u32 seq = 0; seq < BL_MORE_MAX; seq++) {
		barrier_var(seq);
		key.seq = seq;
		if (bpf_map_delete_elem(&bl_flows_more, &key))
			break;
	}
	return 0;
}

static __always_inline struct bl_near *bl_near_of(__u64 cookie)
{
	__u32 at = cookie & (BL_NEAR - 1);

	return bpf_map_lookup_elem(&bl_flows_near, &at);
}

/* Whether the row is this socket's: then nobody else writes it. */
static __always_inline bool bl_near_is(const struct bl_near *near, __u64 cookie)
{
	return near && BL_LOAD(near->cookie) == cookie;
}

/* The first row of a socket that has a cookie, wherever it lies. */
static __always_inline struct bl_flow *bl_flow_of(__u64 cookie)
{
	struct bl_near *near = bl_near_of(cookie);

	if (bl_near_is(near, cookie))
		return &near->flow;
	return bpf_map_lookup_elem(&bl_flows, &cookie);
}

/*
 * Has the processor fetch the row a socket is about to take, both ends of it, while the
 * choice of a backend waits for memory of its own: taking the row waits for all before.
 */
static __always_inline void bl_near_fetch(__u64 cookie)
{
	const struct bl_near *near = bl_near_of(cookie);

	if (near) {
		(void)BL_LOAD(near->cookie);
		(void)BL_LOAD(near->flow.netns);
	}
}

/*
 * Writes the first row of a socket if it lies near, or may: a fresh socket takes the
 * place if nobody has it.
 */
static __always_inline bool bl_near_put(__u64 cookie, bool fresh, const struct bl_flow *flow)
{
	struct bl_near *near = bl_near_of(cookie);
	bool ours;

	if (!near || !(fresh || bl_near_is(near, cookie)))
		return false;
	bpf_spin_lock(&near->lock);
	ours = near->cookie == cookie || (fresh && !near->cookie);
	if (ours) {
		near->flow = *flow;
		near->cookie = cookie;
	}
	bpf_spin_unlock(&near->lock);
	return ours;
}

/*
 * Adds a row to bl_flows_more and counts it in the socket's first row. With all places
 * taken a random one goes: a socket that talks to one VIP more than there are places
 * would never find its row if the oldest went.
 */
static __always_inline void bl_more_add(__u64 cookie, struct bl_flow *first, struct bl_flow *flow)
{
	struct bl_more_key key = { .cookie = cookie, .seq = first->more };

	if (key.seq >= BL_MORE_MAX)
		key.seq = bpf_get_prandom_u32() % BL_MORE_MAX;
	if (!bl_map_put(&bl_flows_more, &key, flow) && first->more < BL_MORE_MAX)
		BL_STORE(first->more, first->more + 1);
}

/*
 * Remembers what a socket dialled by connect(), in place of what it had dialled
 * before. With a full map getpeername() shows the backend.
 */
static __always_inline void bl_flow_connected(__u64 cookie, bool fresh, struct bl_flow *flow)
{
	struct bl_flow *old;

	if (!fresh) {
		old = bl_flow_of(cookie);
		if (old)
			flow->more = old->more;
	}
	if (!bl_near_put(cookie, fresh, flow))
		bl_map_put(&bl_flows, &cookie, flow);
}

/* Forgets what a socket is connected to: its new peer is what it says. */
static __always_inline void bl_flow_direct(__u64 cookie)
{
	struct bl_near *near = bl_near_of(cookie);
	struct bl_flow *flow = bl_flow_of(cookie);

	if (!flow || flow->kind != BL_FLOW_CONNECTED)
		return;
	if (flow->more)
		BL_STORE(flow->kind, BL_FLOW_NONE);
	else if (bl_near_is(near, cookie))
		BL_STORE(near->cookie, 0);
	else
		bpf_map_delete_elem(&bl_flows, &cookie);
}

/* A socket's rows go with it. Only UDP sockets have further ones. */
static __always_inline void bl_flow_released(__u64 cookie, bool udp)
{
	struct bl_near *near = bl_near_of(cookie);
	struct bl_flow *flow;

	if (bl_near_is(near, cookie)) {
		if (udp && near->flow.more)
			bl_more_delete(cookie);
		BL_STORE(near->cookie, 0);
		return;
	}
	if (udp) {
		flow = bpf_map_lookup_elem(&bl_flows, &cookie);
		if (!flow)
			return;
		if (flow->more)
			bl_more_delete(cookie);
	}
	bpf_map_delete_elem(&bl_flows, &cookie);
}

/* The row of a frontend this socket has sent to. */
static __always_inline struct bl_flow *bl_flow_find(__u64 cookie, struct bl_flow *first,
						    const struct bl_peer *peer)
{
	if (!first)
		return NULL;
	if (first->kind != BL_FLOW_NONE && bl_flow_dialled(first, peer))
		return first;
	return first->more ? bl_more_dialled(cookie, peer) : NULL;
}

/*
 * Remembers a frontend that an unconnected UDP socket sends to; first is the row the
 * socket has, if any. A row left by a connection that was dissolved makes room.
 */
static __always_inline void bl_flow_sent(__u64 cookie, bool fresh, bool connected, struct bl_flow *first,
					 struct bl_flow *flow)
{
	if (first) {
		if (first->kind == BL_FLOW_DATAGRAM || (first->kind == BL_FLOW_CONNECTED && connected)) {
			bl_more_add(cookie, first, flow);
			return;
		}
		flow->more = first->more;
	}
	if (!bl_near_put(cookie, fresh, flow))
		bl_map_put(&bl_flows, &cookie, flow);
}

#endif
