/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What becomes of a new flow, whichever path asks. src/plan/resolve.rs is the
 * same function over the same rows, and tests/oracle holds the two together.
 * Time and randomness are arguments.
 */
#ifndef BL_LB_H
#define BL_LB_H

#include "client.h"
#include "config.h"

/* One access, neither torn nor repeated by the compiler. */
#define BL_LOAD(x) (*(const volatile __typeof__(x) *)&(x))
#define BL_STORE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))

#define BL_NSEC_PER_SEC 1000000000ULL
#define BL_EEXIST 17

/*
 * Writes a row, or inserts one unless the key has one: 0, -BL_EEXIST, or another error
 * if the map is full. Before d7ba4cc900bf (v6.4) the inlined call leaves the upper half
 * of the result as it was, so that a negative one is negative only as an int.
 */
#define bl_map_put(map, key, value) ((int)bpf_map_update_elem(map, key, value, BPF_ANY))
#define bl_map_insert(map, key, value) ((int)bpf_map_update_elem(map, key, value, BPF_NOEXIST))

/* Reads of one frontend before it counts as missing; a second one is already rare. */
#define BL_LOOKUP_TRIES 4

enum bl_action {
	BL_PASS = 0,	/* no business of ours */
	BL_FORWARD = 1, /* to a backend of the set */
	BL_REJECT = 2,	/* refused (REJ-1, UND-1) */
	BL_DROP = 3,	/* silence (REJ-2) */
};

struct bl_verdict {
	__u64 set;    /* the set word, read once */
	__u64 policy; /* BL_POLICY of bl_service.policy */
	__u32 service;
	__u8 action; /* enum bl_action */
	__u8 kind;   /* enum bl_frontend_kind */
	__u8 which;  /* enum bl_which: the set the word was read from */
	__u8 spare;
};

/* The check that a value of bl_frontends carries: a mixing hash, since xor collides for neighbours. */
static __always_inline __u32 bl_key_check(const struct bl_frontend_key *key)
{
	const __u32 *word = (const __u32 *)key;
	__u32 h = 0x9e3779b9;

#pragma unroll
	for (int i = 0; i < 5; i++) {
		h ^= word[i];
		h *= 0x85ebca6b;
		h ^= h >> 13;
	}
	h *= 0xc2b2ae35;
	return h ^ h >> 16;
}

/*
 * The value of a key of bl_frontends, 0 if there is none. A deleted element of a hash
 * may be handed to the next insert while we hold it, so the value is read in one load
 * and taken only if it was written for this very key.
 */
static __always_inline __u64 bl_frontend_far(const struct bl_frontend_key *key, __u32 check)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < BL_LOOKUP_TRIES; i++) {
		__u64 *value = bpf_map_lookup_elem(&bl_frontends, key);
		__u64 word;

		if (!value)
			return 0;
		word = BL_LOAD(*value);
		if (BL_FRONTEND_CHECK(word) == check)
			return word;
	}
	return 0;
}

/*
 * The value of a ClusterIP frontend whose ServicePort is at home, else 0. What costs a
 * connection is memory that no cache holds: this row is needed in any case. Who is at
 * home is a shortcut to what bl_frontends says, written after it and struck before it
 * changes.
 */
static __always_inline __u64 bl_frontend_home(const struct bl_frontend_key *key, __u32 check)
{
	__u32 home = BL_HOME(key->port, key->proto);
	const struct bl_service *row;

#pragma unroll
	for (__u32 i = 0; i < BL_HOMES; i++) {
		__u32 at = (check + i) & bl_home_mask;

		row = bpf_map_lookup_elem(&bl_services, &at);
		if (row && BL_POLICY_HOME(BL_LOAD(row->policy)) == home &&
		    bl_addr_equal(&row->home, &key->addr))
			return BL_FRONTEND(at, BL_KIND_CLUSTER_IP, check);
	}
	return 0;
}

/* The value of a frontend, 0 if there is none. */
static __always_inline __u64 bl_frontend_lookup(const struct bl_frontend_key *key)
{
	__u32 check = bl_key_check(key);
	__u64 value = bl_frontend_home(key, check);

	return value ?: bl_frontend_far(key, check);
}

/* The bit of an address in bl_sieve. Bits of neighbouring prefixes differ. */
static __always_inline __u32 bl_sieve_bit(const struct bl_addr *addr)
{
	__u32 prefix;

	if (bl_addr_is_v4(addr))
		prefix = bpf_ntohl(addr->w[3]) >> 16;
	else
		prefix = (bpf_ntohl(addr->w[0]) * 0x85ebca6b) ^ bpf_ntohl(addr->w[1]);
	return prefix * 0x9e3779b1 >> 23;
}

/* False if no frontend has this address; true is only likely. */
static __always_inline bool bl_may_be_frontend(const struct bl_addr *addr)
{
	__u32 zero = 0, bit = bl_sieve_bit(addr);
	const struct bl_sieve *sieve;

	sieve = bpf_map_lookup_elem(&bl_sieve, &zero);
	return !sieve || BL_LOAD(sieve->word[bit / 64 % BL_SIEVE_WORDS]) >> (bit % 64) & 1;
}

/* Which set a flow takes (POL-1 to POL-6, POL-10). */
static __always_inline __u8 bl_which_set(const struct bl_verdict *v, const struct bl_addr *dialled,
					 enum bl_client client)
{
	__u32 flags = v->policy >> 32;

	if (v->kind == BL_KIND_CLUSTER_IP)
		return flags & BL_POLICY_INTERNAL_LOCAL ? BL_LOCAL : BL_CLUSTER;
	if (!(flags & BL_POLICY_EXTERNAL_LOCAL) || client == BL_CLIENT_HOST)
		return BL_CLUSTER;
	if (client == BL_CLIENT_POD && bl_detects_pods(dialled))
		return BL_CLUSTER;
	return BL_LOCAL;
}

/*
 * What becomes of a new flow to a frontend that bl_frontend_lookup() found. False if
 * there is no such ServicePort, as if the frontend did not exist.
 */
static __always_inline bool bl_decide_frontend(__u64 frontend, const struct bl_addr *dialled,
					       enum bl_client client, struct bl_verdict *v)
{
	struct bl_service *row;

	v->service = BL_FRONTEND_INDEX(frontend);
	v->kind = BL_FRONTEND_KIND(frontend);
	row = bpf_map_lookup_elem(&bl_services, &v->service);
	if (!row)
		return false;
	v->policy = BL_POLICY(BL_LOAD(row->policy));
	if (!(v->policy >> 32 & BL_POLICY_USED))
		return false;
	v->which = bl_which_set(v, dialled, client);
	v->set = v->which == BL_LOCAL ? BL_LOAD(row->set[BL_LOCAL]) : BL_LOAD(row->set[BL_CLUSTER]);
	if (BL_SET_COUNT(v->set))
		v->action = BL_FORWARD;
	else
		v->action = BL_SET_FLAGS(v->set) & BL_SET_HAS_ANY ? BL_DROP : BL_REJECT;
	return true;
}

/* What becomes of a new flow to a port that is no frontend: an active ClusterIP refuses (UND-1). */
static __always_inline void bl_decide_undefined(const struct bl_addr *dialled, struct bl_verdict *v)
{
	struct bl_frontend_key key = { .addr = *dialled, .scope = BL_SCOPE_ACTIVE };

	v->service = BL_NO_SERVICE;
	v->action = bl_frontend_far(&key, bl_key_check(&key)) ? BL_REJECT : BL_PASS;
}

/*
 * One of a set's backends, uniformly by rnd, and the choice to remember it by.
 * NULL cannot happen while a set points to written slots, and means "leave alone".
 */
static __always_inline const struct bl_target *bl_pick(__u64 set, __u32 rnd, __u64 *choice)
{
	__u32 at = BL_SET_BASE(set) + (__u32)((__u64)rnd * BL_SET_COUNT(set) >> 32);
	const struct bl_slot *slot;

	slot = bpf_map_lookup_elem(&bl_slots, &at);
	if (!slot || !slot->backend)
		return NULL;
	*choice = BL_CHOICE(slot->backend, slot->generation);
	return &slot->to;
}

/* The address a choice was made of, if the id still belongs to the same endpoint; else NULL. */
static __always_inline const struct bl_target *bl_choice_target(__u64 choice)
{
	__u32 id = BL_CHOICE_ID(choice);
	const struct bl_backend *row;

	if (!id)
		return NULL;
	row = bpf_map_lookup_elem(&bl_backends, &id);
	if (!row)
		return NULL;
	if (bl_check_generation && (__u32)BL_LOAD(row->state) != BL_CHOICE_GENERATION(choice))
		return NULL;
	return &row->to;
}

/*
 * The address of a remembered choice that may be used again for this service, else
 * NULL. need is one of enum bl_backend_flags. Generation and flags come from one
 * load; the address behind them is not rewritten before a grace period has passed
 * since the flags were cleared. The owner is compared since a record of an LRU may
 * be a stranger's (see bl_choose_affine).
 */
static __always_inline const struct bl_target *bl_choice_valid(__u64 choice, __u32 service, __u32 need)
{
	__u32 id = BL_CHOICE_ID(choice);
	const struct bl_backend *row;
	__u64 state;

	if (!id)
		return NULL;
	row = bpf_map_lookup_elem(&bl_backends, &id);
	if (!row)
		return NULL;
	state = BL_LOAD(row->state);
	if (bl_check_generation && (__u32)state != BL_CHOICE_GENERATION(choice))
		return NULL;
	if (!((__u32)(state >> 32) & need) || row->service != service)
		return NULL;
	return &row->to;
}

/*
 * A backend for a client with session affinity (AFF-1, AFF-3, AFF-4). A record is
 * changed in place, word by word: updating an existing key of an LRU map may evict
 * a stranger. Its memory may in turn become a stranger's while we hold it, so what
 * is read is trusted only as far as bl_choice_valid() goes.
 */
static __always_inline const struct bl_target *bl_choose_affine(const struct bl_verdict *v,
								const struct bl_affinity_key *key, __u64 now,
								__u32 rnd, __u64 *choice)
{
	__u64 timeout = (__u32)v->policy * BL_NSEC_PER_SEC;
	struct bl_affinity fresh = { .used_ns = now };
	const struct bl_target *to;
	struct bl_affinity *record;

	record = bpf_map_lookup_elem(&bl_affinity_in, key);
	if (record) {
		*choice = BL_LOAD(record->choice);
		to = bl_choice_valid(*choice, v->service, 1 << v->which);
		/* Signed: another CPU may have written a later time than ours. */
		if (to && (__s64)(now - BL_LOAD(record->used_ns)) < (__s64)timeout) {
			BL_STORE(record->used_ns, now);
			return to;
		}
	}
	to = bl_pick(v->set, rnd, choice);
	if (!to)
		return NULL;
	if (record) {
		BL_STORE(record->choice, *choice);
		BL_STORE(record->used_ns, now);
		return to;
	}
	fresh.choice = *choice;
	if (bl_map_insert(&bl_affinity_in, key, &fresh) != -BL_EEXIST)
		return to;

	/* Another connection of this client was first: follow it. */
	record = bpf_map_lookup_elem(&bl_affinity_in, key);
	if (record) {
		__u64 theirs = BL_LOAD(record->choice);
		const struct bl_target *first = bl_choice_valid(theirs, v->service, 1 << v->which);

		if (first) {
			*choice = theirs;
			return first;
		}
	}
	return to;
}

/* A backend for a new flow whose verdict is FORWARD; now is only looked at if the Service has affinity. */
static __always_inline const struct bl_target *
bl_choose(const struct bl_verdict *v, const struct bl_affinity_key *key, __u64 now, __u32 rnd, __u64 *choice)
{
	if (!(__u32)v->policy)
		return bl_pick(v->set, rnd, choice);
	return bl_choose_affine(v, key, now, rnd, choice);
}

#endif
