// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The socket path: a frontend dialled by a socket of this node becomes a backend in
 * connect() or sendmsg(), and recvmsg() and getpeername() show what was dialled. No
 * packet is ever translated. What is not decided here is left as it was, for the
 * packet path.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "stats.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define BL_ECONNREFUSED 111

/* What a hook returns. recvmsg and getpeername may return nothing but BL_ALLOW. */
#define BL_REFUSE 0
#define BL_ALLOW 1

struct sock_common___bl {
	atomic64_t skc_cookie;
} __attribute__((preserve_access_index));

struct sock___bl {
	struct sock_common___bl __sk_common;
	unsigned int sk_kern_sock : 1;
} __attribute__((preserve_access_index));

/*
 * The kernel's socket, for what struct bpf_sock does not show. Read back from the
 * stack the pointer is a plain number, which a field's offset may be added to.
 */
static __always_inline const struct sock___bl *bl_kernel_view(void *sk)
{
	const struct sock___bl *view = NULL;

	bpf_probe_read_kernel(&view, sizeof(view), &sk);
	return view;
}

/*
 * A socket of the kernel itself: an NFS or Ceph client, or the subflow of an MPTCP
 * connection. cgroup/sock_release does not run for those (inet_release() skips them,
 * f5836749c9c0, v5.9), so a row of theirs would stay for ever; nor does anybody ask
 * them for their peer. Where kernel memory may not be read nobody can tell, and such
 * rows do stay.
 */
static __always_inline bool bl_is_kernel_socket(struct bpf_sock_addr *ctx)
{
	const struct sock___bl *sk;

	if (!bl_may_read_kernel)
		return false;
	sk = bl_kernel_view(ctx->sk);
	return BPF_CORE_READ_BITFIELD_PROBED(sk, sk_kern_sock);
}

/*
 * The cookie of a socket that has one, else 0. A socket with a row has a cookie: most
 * others, which never dialled a Service, are told apart here without the look into
 * bl_flows, whose table is too large to stay in a cache, and without making a cookie,
 * which would cost them the same again in sock_release. Where kernel memory may not be
 * read every socket is given one, which only costs time.
 */
static __always_inline __u64 bl_known_cookie(void *ctx, void *sk)
{
	const struct sock___bl *view;

	if (!bl_may_read_kernel)
		return bpf_get_socket_cookie(ctx);
	view = bl_kernel_view(sk);
	return BPF_CORE_READ(view, __sk_common.skc_cookie.counter);
}

/* A connected UDP socket; recvmsg and sendmsg run for no other connected one. */
static __always_inline bool bl_is_connected(const struct bpf_sock_addr *ctx)
{
	const struct bpf_sock *sk = ctx->sk;

	return sk->state == BPF_TCP_ESTABLISHED;
}

/*
 * What becomes of a new flow of this namespace to a frontend; what is declined is
 * counted. False if there is no such frontend.
 */
static __always_inline bool bl_decide_socket(__u64 frontend, const struct bl_addr *dialled, __u64 netns,
					     struct bl_verdict *v)
{
	enum bl_client client;

	if (!frontend)
		return false;
	client = bl_client_of(netns);
	if (client == BL_CLIENT_PACKET_ONLY)
		return true;
	if (!bl_decide_frontend(frontend, dialled, client, v))
		return false;
	if (v->action == BL_REJECT)
		bl_count(v->service, refused);
	else if (v->action == BL_DROP)
		bl_count(v->service, dropped);
	return true;
}

static __always_inline const struct bl_target *
bl_choose_for(struct bpf_sock_addr *ctx, const struct bl_verdict *v, __u64 netns, __u64 *choice)
{
	struct bl_affinity_key key = { .service = v->service };
	__u64 now = 0;

	/* A socket that is not bound has no address yet: its namespace is the client (AFF-9). */
	key.client.w[2] = (__u32)netns;
	key.client.w[3] = netns >> 32;
	if ((__u32)v->policy)
		now = bpf_ktime_get_ns();
	return bl_choose(v, &key, now, bpf_get_prandom_u32(), choice);
}

static __always_inline void bl_flow_fill(struct bl_flow *flow, const struct bl_frontend_key *key,
					 const struct bl_target *to, __u64 choice, __u32 service)
{
	flow->choice = choice;
	flow->dialled = key->addr;
	flow->backend = to->addr;
	flow->dialled_port = key->port;
	flow->backend_port = to->port;
	flow->proto = key->proto;
	flow->service = service;
}

/* The backend a UDP socket has already used for this frontend from this port: the flow goes on (DEC-2). */
static __always_inline const struct bl_target *bl_reconnected(struct bpf_sock_addr *ctx, __u64 cookie,
							      const struct bl_peer *peer, __u32 service,
							      __u64 *choice)
{
	struct bl_flow *flow;

	/* Never bound, or dissolved: another source port is another flow. */
	if (!ctx->sk->src_port)
		return NULL;
	flow = bl_flow_find(cookie, bl_flow_of(cookie), peer);
	if (!flow)
		return NULL;
	*choice = BL_LOAD(flow->choice);
	return bl_choice_valid(*choice, service, BL_BACKEND_KEPT);
}

static __always_inline bool bl_connect_forward(struct bpf_sock_addr *ctx, const bool v6,
					       const struct bl_frontend_key *key, const struct bl_verdict *v,
					       __u64 netns)
{
	struct bl_peer peer = { .addr = key->addr, .port = key->port };
	struct bl_flow flow = { .kind = BL_FLOW_CONNECTED, .netns = netns };
	bool fresh = !bl_known_cookie(ctx, ctx->sk);
	__u64 cookie = bpf_get_socket_cookie(ctx);
	const struct bl_target *to = NULL;
	__u64 choice = 0;

	bl_near_fetch(cookie);
	if (key->proto == IPPROTO_UDP && !fresh)
		to = bl_reconnected(ctx, cookie, &peer, v->service, &choice);
	if (!to) {
		to = bl_choose_for(ctx, v, netns, &choice);
		if (!to)
			return false;
		bl_count(v->service, connections);
	}
	bl_peer_store(ctx, v6, &to->addr, to->port);
	if (!bl_is_kernel_socket(ctx)) {
		bl_flow_fill(&flow, key, to, choice, v->service);
		bl_flow_connected(cookie, fresh, &flow);
	}
	return true;
}

/* connect() of TCP and UDP, TCP fast open included. */
static __always_inline int bl_connect(struct bpf_sock_addr *ctx, const bool v6)
{
	struct bl_frontend_key key = {};
	struct bl_verdict v = {};
	__u64 cookie, frontend = 0, netns = 0;
	struct bl_peer peer;
	bool likely;

	if (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP)
		return BL_ALLOW;
	peer = bl_peer_load(ctx, v6);
	key.addr = peer.addr;
	key.port = peer.port;
	key.proto = ctx->protocol;
	likely = bl_may_be_frontend(&key.addr);
	if (likely)
		frontend = bl_frontend_lookup(&key);
	if (frontend)
		netns = bpf_get_netns_cookie(ctx);
	if (bl_decide_socket(frontend, &key.addr, netns, &v)) {
		if (v.action == BL_FORWARD && bl_connect_forward(ctx, v6, &key, &v, netns))
			return BL_ALLOW;
	} else if (likely && key.proto == IPPROTO_TCP) {
		/* A UDP socket is left alone either way (DEC-1): no second look for it. */
		bl_decide_undefined(&key.addr, &v);
		if (v.action == BL_REJECT && bl_client_of(bpf_get_netns_cookie(ctx)) == BL_CLIENT_PACKET_ONLY)
			v.action = BL_PASS;
	}

	cookie = bl_known_cookie(ctx, ctx->sk);
	if (cookie)
		bl_flow_direct(cookie);
	if (v.action == BL_REJECT && key.proto == IPPROTO_TCP && bl_has_set_retval) {
		bpf_set_retval(-BL_ECONNREFUSED);
		return BL_REFUSE;
	}
	return BL_ALLOW;
}

/*
 * A datagram to a frontend this socket has no valid choice for. flow is its row, if it
 * has one, first the socket's own row (bl_flow_of()). former is the choice of a connection to
 * the same frontend that was dissolved, or 0: while it is eligible it is taken again,
 * since an IPv6 socket goes on hearing its former peer alone (__udp_disconnect() leaves
 * sk_v6_daddr).
 */
static __always_inline void bl_send_first(struct bpf_sock_addr *ctx, const bool v6,
					  const struct bl_frontend_key *key, __u64 frontend, bool fresh,
					  struct bl_flow *first, struct bl_flow *flow, __u64 former)
{
	struct bl_flow sent = { .kind = BL_FLOW_DATAGRAM };
	const struct bl_target *to;
	struct bl_verdict v = {};
	__u64 choice = 0;

	/* Without a row each datagram would go elsewhere, and answers would show the backend. */
	if (bl_is_kernel_socket(ctx))
		return;
	sent.netns = bpf_get_netns_cookie(ctx);
	bl_decide_socket(frontend, &key->addr, sent.netns, &v);
	if (v.action != BL_FORWARD)
		return;
	to = bl_choice_valid(former, v.service, 1 << v.which);
	choice = former;
	if (!to)
		to = bl_choose_for(ctx, &v, sent.netns, &choice);
	if (!to)
		return;
	if (flow) {
		BL_STORE(flow->service, v.service);
		BL_STORE(flow->choice, choice);
	} else {
		bl_flow_fill(&sent, key, to, choice, v.service);
		bl_flow_sent(bpf_get_socket_cookie(ctx), fresh, bl_is_connected(ctx), first, &sent);
	}
	bl_count(v.service, connections);
	bl_peer_store(ctx, v6, &to->addr, to->port);
}

/*
 * sendto() and sendmsg() with an address. The backend of a (socket, frontend) stays
 * while it serves (SOCK-4, DEC-2). A connected socket that also names the address it
 * dialled gets its peer, the only one whose answers the kernel would let through.
 */
static __always_inline int bl_sendmsg(struct bpf_sock_addr *ctx, const bool v6)
{
	struct bl_peer peer = bl_peer_load(ctx, v6);
	struct bl_frontend_key key = { .addr = peer.addr, .port = peer.port, .proto = IPPROTO_UDP };
	const struct bl_target *to;
	struct bl_flow *first = NULL, *flow = NULL;
	__u64 frontend, cookie, former = 0;
	bool fresh;

	if (ctx->protocol != IPPROTO_UDP || !bl_may_be_frontend(&key.addr))
		return BL_ALLOW;
	frontend = bl_frontend_lookup(&key);
	if (!frontend)
		return BL_ALLOW;
	cookie = bl_known_cookie(ctx, ctx->sk);
	fresh = !cookie;
	if (!fresh) {
		first = bl_flow_of(cookie);
		flow = bl_flow_find(cookie, first, &peer);
	}
	if (flow && flow->kind == BL_FLOW_CONNECTED) {
		if (bl_is_connected(ctx)) {
			bl_peer_store(ctx, v6, &flow->backend, flow->backend_port);
			return BL_ALLOW;
		}
		former = BL_LOAD(flow->choice);
		flow = NULL;
	}
	if (flow) {
		to = bl_choice_valid(BL_LOAD(flow->choice), BL_FRONTEND_INDEX(frontend), BL_BACKEND_KEPT);
		if (to) {
			bl_peer_store(ctx, v6, &to->addr, to->port);
			return BL_ALLOW;
		}
	}
	bl_send_first(ctx, v6, &key, frontend, fresh, first, flow, former);
	return BL_ALLOW;
}

/* recvfrom() and recvmsg() that ask for the sender: an answer comes from the address that was dialled. */
static __always_inline int bl_recvmsg(struct bpf_sock_addr *ctx, const bool v6)
{
	__u64 cookie = bl_known_cookie(ctx, ctx->sk);
	struct bl_flow *flow;
	struct bl_peer peer;

	if (!cookie)
		return BL_ALLOW;
	flow = bl_flow_of(cookie);
	if (!flow)
		return BL_ALLOW;
	peer = bl_peer_load(ctx, v6);
	if (bl_is_connected(ctx)) {
		if (flow->kind != BL_FLOW_CONNECTED || flow->backend_port != peer.port ||
		    !bl_addr_equal(&flow->backend, &peer.addr))
			return BL_ALLOW;
	} else if (flow->kind != BL_FLOW_DATAGRAM || !bl_flow_answered(flow, &peer)) {
		flow = flow->more ? bl_more_answered(cookie, &peer) : NULL;
	}
	if (flow)
		bl_peer_store(ctx, v6, &flow->dialled, flow->dialled_port);
	return BL_ALLOW;
}

/* getpeername(): what was dialled, if the socket is still connected to what that led to (SOCK-2). */
static __always_inline int bl_getpeername(struct bpf_sock_addr *ctx, const bool v6)
{
	__u64 cookie = bl_known_cookie(ctx, ctx->sk);
	struct bl_flow *flow;
	struct bl_peer peer;

	if (!cookie)
		return BL_ALLOW;
	flow = bl_flow_of(cookie);
	if (!flow || flow->kind != BL_FLOW_CONNECTED)
		return BL_ALLOW;
	peer = bl_peer_load(ctx, v6);
	if (flow->backend_port == peer.port && bl_addr_equal(&flow->backend, &peer.addr))
		bl_peer_store(ctx, v6, &flow->dialled, flow->dialled_port);
	return BL_ALLOW;
}

#define BL_STUB(name, section, body, v6)                 \
	SEC(section) int name(struct bpf_sock_addr *ctx) \
	{                                                \
		return body(ctx, v6);                    \
	}

BL_STUB(bl_connect4, "cgroup/connect4", bl_connect, false)
BL_STUB(bl_connect6, "cgroup/connect6", bl_connect, true)
BL_STUB(bl_sendmsg4, "cgroup/sendmsg4", bl_sendmsg, false)
BL_STUB(bl_sendmsg6, "cgroup/sendmsg6", bl_sendmsg, true)
BL_STUB(bl_recvmsg4, "cgroup/recvmsg4", bl_recvmsg, false)
BL_STUB(bl_recvmsg6, "cgroup/recvmsg6", bl_recvmsg, true)
BL_STUB(bl_getpeername4, "cgroup/getpeername4", bl_getpeername, false)
BL_STUB(bl_getpeername6, "cgroup/getpeername6", bl_getpeername, true)

SEC("cgroup/sock_release")
int bl_sock_release(struct bpf_sock *ctx)
{
	__u64 cookie = bl_known_cookie(ctx, ctx);

	if (cookie)
		bl_flow_released(cookie, ctx->protocol == IPPROTO_UDP);
	return BL_ALLOW;
}
