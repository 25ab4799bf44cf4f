/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every struct that crosses between BPF and the agent, and nothing else.
 * src/datapath/wire.rs is the only other place that knows this layout, and the
 * hash of these types names the pins (docs/architecture.md, "Units and pins").
 *
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. Ports in keys
 * and rows are network order (__be16). All other integers are host order.
 */
#ifndef BL_TYPES_H
#define BL_TYPES_H

struct bl_addr {
	__be32 w[4];
};

enum bl_scope {
	BL_SCOPE_PORT = 0,   /* addr, port, proto: a frontend */
	BL_SCOPE_ACTIVE = 1, /* addr alone: an active ClusterIP (UND-1) */
};

enum bl_frontend_kind {
	BL_KIND_NONE = 0,
	BL_KIND_CLUSTER_IP = 1,
	BL_KIND_NODE_PORT = 2,
	BL_KIND_EXTERNAL_IP = 3,
	BL_KIND_LOAD_BALANCER = 4,
};

/* Key of bl_frontends. Port and proto are 0 where the scope is ACTIVE. */
struct bl_frontend_key {
	struct bl_addr addr;
	__be16 port;
	__u8 proto;
	__u8 scope; /* enum bl_scope */
};
_Static_assert(sizeof(struct bl_frontend_key) == 20, "bl_frontend_key");

/*
 * Value of bl_frontends, one u64 so that it is read in one load:
 *   bits 0..23 service index, 24..31 enum bl_frontend_kind,
 *   bits 32..63 bl_key_check() of the key the value was written for.
 * A replaced or deleted element of a hash may be handed to the next insert
 * while a reader still holds it: the check tells.
 */
#define BL_FRONTEND_INDEX(v) ((__u32)((v)&0xffffff))
#define BL_FRONTEND_KIND(v) ((__u32)((v) >> 24 & 0xff))
#define BL_FRONTEND_CHECK(v) ((__u32)((v) >> 32))
#define BL_FRONTEND(index, kind, check) ((__u64)(index) | (__u64)(kind) << 24 | (__u64)(check) << 32)
#define BL_NO_SERVICE 0xffffff

/*
 * One set of a ServicePort, one u64 so that it flips with one store:
 *   bits 0..31 base (first slot), 32..55 count, 56..63 enum bl_set_flags.
 */
#define BL_SET_BASE(w) ((__u32)(w))
#define BL_SET_COUNT(w) ((__u32)((w) >> 32 & 0xffffff))
#define BL_SET_FLAGS(w) ((__u32)((w) >> 56))

enum bl_set_flags {
	BL_SET_HAS_ANY = 1, /* an endpoint exists somewhere: empty means drop, not reject */
};

enum bl_which {
	BL_CLUSTER = 0,
	BL_LOCAL = 1,
};

/*
 * bl_service.policy: bits 0..31 affinity seconds, 32..39 enum bl_policy_flags. Bits 40..47
 * protocol and 48..63 port (network order) of the ClusterIP frontend that leads here, with
 * bl_service.home as its address; 0 where it is found by bl_frontends alone.
 */
#define BL_POLICY(w) ((w)&0xffffffffffULL)
#define BL_POLICY_HOME(w) ((__u32)((w) >> 40))
#define BL_HOME(port, proto) ((__u32)(port) << 8 | (proto))
enum bl_policy_flags {
	BL_POLICY_USED = 1,
	BL_POLICY_INTERNAL_LOCAL = 2,
	BL_POLICY_EXTERNAL_LOCAL = 4,
};

/* Counters of a ServicePort; atomic adds. */
struct bl_stats {
	__u64 connections;
	__u64 refused;
	__u64 dropped; /* left to the packet path, which drops (REJ-2) */
};

/*
 * Row of bl_services, one cache line. Each word of the agent's is written with one
 * aligned 8-byte store. The counters lie beside them: they cost a connection no cache
 * line and no page that it has not touched. home is written once in the life of a
 * ServicePort, before the home bits of its policy.
 */
struct bl_service {
	__u64 set[2]; /* enum bl_which */
	__u64 policy;
	struct bl_addr home;
	struct bl_stats stats;
};
_Static_assert(sizeof(struct bl_service) == 64, "bl_service");

/*
 * A ServicePort takes one of the rows from bl_key_check() of its ClusterIP frontend on,
 * modulo the largest power of two that bl_services has rows for, if one is free: there it
 * is found without a look into bl_frontends. Other homes would be another layout, though
 * no type changes: bl_service has to change with them.
 */
#define BL_HOMES 8

/* Where a flow goes. */
struct bl_target {
	struct bl_addr addr;
	__be16 port;
	__u16 spare;
};
_Static_assert(sizeof(struct bl_target) == 20, "bl_target");

/*
 * Row of bl_slots: a backend, with the address of its row in bl_backends, so that a new
 * choice has all it needs in one cache line.
 */
struct bl_slot {
	struct bl_target to;
	__u32 backend;
	__u32 generation;
	__u32 spare;
};
_Static_assert(sizeof(struct bl_slot) == 32, "bl_slot");

enum bl_backend_flags {
	BL_BACKEND_IN_CLUSTER = 1, /* = 1 << BL_CLUSTER */
	BL_BACKEND_IN_LOCAL = 2,   /* = 1 << BL_LOCAL */
	BL_BACKEND_SERVING = 4,
	/*
	 * A flow goes on. What is eligible was chosen and stays so, also where it does not
	 * serve: an endpoint of a Service with publishNotReadyAddresses.
	 */
	BL_BACKEND_KEPT = BL_BACKEND_IN_CLUSTER | BL_BACKEND_IN_LOCAL | BL_BACKEND_SERVING,
};

/*
 * Row of bl_backends. state: bits 0..31 generation, 32..63 enum bl_backend_flags;
 * one u64 so that one load tells whether a stored {id, generation} still holds.
 */
struct bl_backend {
	struct bl_target to;
	__u32 service;
	__u64 state;
};
_Static_assert(sizeof(struct bl_backend) == 32, "bl_backend");

/* A stored choice: bits 0..31 backend id, 32..63 its generation. 0 is none: ids start at 1. */
#define BL_CHOICE(id, gen) ((__u64)(id) | (__u64)(gen) << 32)
#define BL_CHOICE_ID(c) ((__u32)(c))
#define BL_CHOICE_GENERATION(c) ((__u32)((c) >> 32))

enum bl_endpoint_flags {
	BL_ENDPOINT_USED = 1,
	BL_ENDPOINT_READY = 2,
	BL_ENDPOINT_SERVING = 4,
	BL_ENDPOINT_TERMINATING = 8,
	BL_ENDPOINT_LOCAL = 16,
};

/* Row of bl_endpoints, by backend id: what people ask of a backend. */
struct bl_endpoint {
	__u32 node;  /* text id in bl_names, 0 none */
	__u16 zone;  /* text id in bl_names, 0 none */
	__u16 flags; /* enum bl_endpoint_flags */
};
_Static_assert(sizeof(struct bl_endpoint) == 8, "bl_endpoint");

enum bl_name_kind {
	BL_NAME_SERVICE = 1, /* id: service index */
	BL_NAME_TEXT = 2,    /* id: text id */
};

struct bl_name_key {
	__u32 kind; /* enum bl_name_kind */
	__u32 id;
};

/*
 * Value of bl_names. SERVICE: text is namespace, name and port name, each
 * followed by a NUL. TEXT: one text and a NUL.
 */
struct bl_name {
	__u64 rules[2]; /* RuleSet bits of the Cluster and the Local set */
	__u8 proto;
	__u8 family; /* 4 or 6 */
	__u8 spare[6];
	char text[256];
};
_Static_assert(sizeof(struct bl_name) == 280, "bl_name");

enum bl_prefix_class {
	BL_PREFIX_SERVICE_CIDR = 1,
	BL_PREFIX_NODE_ADDRESS = 2,
	BL_PREFIX_LOCAL_DETECTOR = 3,
	BL_PREFIX_HELD = 4,
};

/* Key of bl_prefixes. prefixlen counts from class on: 64 + prefix length in 128-bit space. */
struct bl_prefix_key {
	__u32 prefixlen;
	__u32 class;   /* enum bl_prefix_class */
	__u32 service; /* 0: not of one Service */
	struct bl_addr addr;
};
_Static_assert(sizeof(struct bl_prefix_key) == 28, "bl_prefix_key");

enum bl_netns_class {
	BL_NETNS_HOST = 1,
	BL_NETNS_POD = 2,
	BL_NETNS_PACKET_ONLY = 3,
};

enum bl_agent_flags {
	BL_AGENT_SYNCED = 1,
	BL_AGENT_MASQUERADE_ALL = 2,
	BL_AGENT_DETECTOR_4 = 4,
	BL_AGENT_DETECTOR_6 = 8,
};

/* The row of bl_agent; texts end with a NUL. */
struct bl_agent {
	__u64 flags; /* enum bl_agent_flags */
	char version[32];
	char source_kind[16];
	char source[200];
	char node[256];
	char zone[64];
};

/*
 * The row of bl_sieve: a bit for each prefix some frontend lies in, /16 of IPv4 and /64
 * of IPv6, by hash (bl_sieve_bit()). One cache line.
 */
#define BL_SIEVE_WORDS 8
struct bl_sieve {
	__u64 word[BL_SIEVE_WORDS];
};
_Static_assert(sizeof(struct bl_sieve) == 64, "bl_sieve");

enum bl_flow_kind {
	BL_FLOW_NONE = 0,      /* nothing; the row only holds the place of those in bl_flows_more */
	BL_FLOW_CONNECTED = 1, /* connect(): dialled and backend hold while connected */
	BL_FLOW_DATAGRAM = 2,  /* sendto() on an unconnected UDP socket */
};

/*
 * Value of bl_flows and bl_flows_more: what a socket dialled and what it got.
 * All but choice is constant from insert to delete; choice is one store.
 */
struct bl_flow {
	__u64 choice; /* BL_CHOICE */
	struct bl_addr dialled;
	struct bl_addr backend; /* CONNECTED: the peer as set; DATAGRAM: the first choice */
	__be16 dialled_port;
	__be16 backend_port;
	__u8 proto;
	__u8 kind; /* enum bl_flow_kind */
	__u8 more; /* rows of this socket in bl_flows_more */
	__u8 spare;
	__u32 service;
	__u32 spare2;
	__u64 netns; /* cookie, 0 unknown */
};
_Static_assert(sizeof(struct bl_flow) == 64, "bl_flow");

/* Rows of bl_flows_near: a power of two. */
#define BL_NEAR 16384

/*
 * Row of bl_flows_near. The lock is held to take the row and to write it whole; the
 * row is its owner's until the owner stores 0 into cookie.
 */
struct bl_near {
	struct bpf_spin_lock lock;
	__u32 spare;
	__u64 cookie; /* of the socket whose row this is, 0: nobody's */
	struct bl_flow flow;
};
_Static_assert(sizeof(struct bl_near) == 80, "bl_near");

/* Key of bl_flows_more: the seq-th (0..BL_MORE_MAX-1) further frontend of one UDP socket. */
struct bl_more_key {
	__u64 cookie;
	__u64 seq;
};

#define BL_MORE_MAX 32

/* Key of bl_affinity_in (client is a netns cookie) and bl_affinity_out (client is an address). */
struct bl_affinity_key {
	struct bl_addr client; /* or {0, 0, cookie lo, cookie hi} */
	__u32 service;
	__u32 spare;
};

/* Value: both words are changed in place, each with one store. */
struct bl_affinity {
	__u64 choice;  /* BL_CHOICE */
	__u64 used_ns; /* CLOCK_MONOTONIC of the last new connection (AFF-3) */
};

#endif
