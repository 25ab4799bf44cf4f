// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * lb.h on its own: each program runs one step of a decision on the case it is given,
 * over maps that the test fills. Run with BPF_PROG_TEST_RUN by tests/oracle.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "lb.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Input and output of one run; tests/oracle/bpf.rs knows this layout. */
struct bl_case {
	/* in */
	struct bl_frontend_key key;
	__u32 client; /* enum bl_client */
	__u64 netns;  /* cookie: the client that affinity knows */
	__u64 now;
	__u32 rnd;
	__u32 need; /* enum bl_backend_flags, of bl_test_valid */
	/* in of bl_test_valid, out of bl_test_choose */
	__u64 choice;
	__u32 service;
	/* out */
	__u32 action;
	__u32 kind;
	__u32 which;
	__u64 set;
	__u64 policy;
	struct bl_addr addr;
	__u32 port;  /* network order */
	__u32 found; /* a backend was found */
};
_Static_assert(sizeof(struct bl_case) == 112, "bl_case");

static __always_inline void bl_case_decide(struct bl_case *c, struct bl_verdict *v)
{
	struct bl_frontend_key key = c->key;
	__u64 frontend = bl_frontend_lookup(&key);

	if (!frontend || !bl_decide_frontend(frontend, &key.addr, c->client, v))
		bl_decide_undefined(&key.addr, v);
	c->action = v->action;
	c->service = v->service;
	c->kind = v->kind;
	c->which = v->which;
	c->set = v->set;
	c->policy = v->policy;
}

static __always_inline void bl_case_backend(struct bl_case *c, const struct bl_target *to)
{
	c->found = to != NULL;
	if (!to)
		return;
	c->addr = to->addr;
	c->port = to->port;
}

static __always_inline void bl_run_decide(struct bl_case *c)
{
	struct bl_verdict v = {};

	bl_case_decide(c, &v);
}

static __always_inline void bl_run_choose(struct bl_case *c)
{
	struct bl_affinity_key client = {};
	const struct bl_target *to;
	struct bl_verdict v = {};
	__u64 choice = 0;

	bl_case_decide(c, &v);
	if (v.action != BL_FORWARD)
		return;
	client.client.w[2] = (__u32)c->netns;
	client.client.w[3] = c->netns >> 32;
	client.service = v.service;
	to = bl_choose(&v, &client, c->now, c->rnd, &choice);
	c->choice = choice;
	bl_case_backend(c, to);
}

static __always_inline void bl_run_valid(struct bl_case *c)
{
	bl_case_backend(c, bl_choice_valid(c->choice, c->service, c->need));
}

/*
 * Each step as a SEC("syscall") program, whose context is the case, and for kernels
 * before 79a7f8bdb159 (v5.14), which have none, as a classifier, whose packet is the
 * case behind an Ethernet header and two bytes that align it.
 */
#define BL_HEAD 16
#define BL_TEST(step)                                                       \
	SEC("syscall") int bl_test_##step(struct bl_case *c)                \
	{                                                                   \
		bl_run_##step(c);                                           \
		return 0;                                                   \
	}                                                                   \
	SEC("tc") int bl_test_##step##_skb(struct __sk_buff *skb)           \
	{                                                                   \
		struct bl_case c;                                           \
                                                                            \
		if (bpf_skb_load_bytes(skb, BL_HEAD, &c, sizeof(c)))        \
			return -1;                                          \
		bl_run_##step(&c);                                          \
		return bpf_skb_store_bytes(skb, BL_HEAD, &c, sizeof(c), 0); \
	}

BL_TEST(decide)
BL_TEST(choose)
BL_TEST(valid)
