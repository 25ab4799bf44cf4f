/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps all units share. They are __weak because every object of the joined
 * skeleton defines them (libbpf's linker refuses two strong definitions). Sizes
 * here are the smallest; the loader sets max_entries to need before load.
 */
#ifndef BL_MAPS_H
#define BL_MAPS_H

#include "types.h"

/*
 * bl_frontends: {address, port, protocol} -> {service index, kind, key check}.
 * Writer: agent. Readers: BPF on connect/sendmsg for what is not at home in bl_services,
 * CLI. An entry lives while some Service has that frontend. NO_PREALLOC: sized to use.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct bl_frontend_key);
	__type(value, __u64);
} bl_frontends __weak SEC(".maps");

/*
 * bl_services: service index -> two sets, the policies, counters, and the ClusterIP
 * frontend that leads here if its key says so too (BL_HOMES). Writer: agent,
 * by mapped stores only; of the counters BPF, by atomic adds (the agent clears them
 * when the index gets a new owner). Readers: BPF, CLI. A row lives as long as its
 * ServicePort; the index is re-used after a grace period.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct bl_service);
} bl_services __weak SEC(".maps");

/*
 * bl_slots: slot -> backend and its address; a set is a range of slots. Writer: agent,
 * mapped stores into ranges no set points to. Readers: BPF, CLI. A range is re-used
 * after a grace period.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct bl_slot);
} bl_slots __weak SEC(".maps");

/*
 * bl_backends: backend id -> address, owner, generation and flags. Writer: agent,
 * mapped stores. Readers: BPF, CLI. A row lives as long as its endpoint; the id is
 * re-used, one generation up, after a grace period. Row 0 is never used.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct bl_backend);
} bl_backends __weak SEC(".maps");

/*
 * bl_endpoints: backend id -> node, zone, conditions. Writer: agent, mapped
 * stores. Reader: CLI. Lives with the row of bl_backends.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct bl_endpoint);
} bl_endpoints __weak SEC(".maps");

/*
 * bl_names: {kind, id} -> names. Writer: agent. Readers: CLI and a restarted
 * agent, which finds its ids by name. Lives with the row it names.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct bl_name_key);
	__type(value, struct bl_name);
} bl_names __weak SEC(".maps");

/*
 * bl_prefixes: {class, service, prefix} -> 1. Writer: agent. Reader: CLI.
 * An entry lives while configuration, Node or ServiceCIDR say so.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct bl_prefix_key);
	__type(value, __u32);
} bl_prefixes __weak SEC(".maps");

/*
 * bl_netns: netns cookie -> enum bl_netns_class. Writer: agent (its own
 * namespace is a row, DEC-4). Readers: BPF, CLI. Lives with the namespace.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} bl_netns __weak SEC(".maps");

/*
 * bl_sieve: 0 -> the prefixes that frontends lie in. An address it lets fall through is
 * no frontend's, which spares connections to anything else the looks into bl_services and
 * bl_frontends.
 * Writer: agent, a bit before the frontend that needs it. Readers: BPF, CLI. Bits are
 * only added; once the programs of a start are attached those nobody needs are dropped.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bl_sieve);
} bl_sieve __weak SEC(".maps");

/* bl_agent: 0 -> who wrote the tables, and settings. Writer: agent. Reader: CLI. Lives for ever. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bl_agent);
} bl_agent __weak SEC(".maps");

/*
 * bl_flows_near: socket cookie modulo BL_NEAR -> what the socket dialled and got.
 * Cookies are handed out one after another (sock_gen_cookie(), per CPU), so that the
 * rows of new sockets lie side by side: no allocation, no bucket, no page that is not
 * in use already. Writer: BPF. Readers: BPF (getpeername, recvmsg, sendmsg), CLI. A row
 * lives until sock_release. A socket whose row is taken has one in bl_flows.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BL_NEAR);
	__type(key, __u32);
	__type(value, struct bl_near);
} bl_flows_near __weak SEC(".maps");

/*
 * bl_flows: socket cookie -> the same, for sockets whose row in bl_flows_near was
 * another's when they first needed one. Writer: BPF. Readers: BPF, CLI. Lives until
 * sock_release. With a full map new connections go on, and getpeername shows the backend;
 * a UDP socket that is not connected chooses anew for each datagram, and its answers
 * come from the backend's address. The size is a compromise: as many flows as
 * nf_conntrack_max has by default, for 4 MiB of buckets.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, __u64);
	__type(value, struct bl_flow);
} bl_flows __weak SEC(".maps");

/*
 * bl_flows_more: {socket cookie, seq} -> the same for the further frontends of an
 * unconnected UDP socket. Writer: BPF. Readers: BPF, CLI. Lives until sock_release.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct bl_more_key);
	__type(value, struct bl_flow);
} bl_flows_more __weak SEC(".maps");

/*
 * bl_affinity_in: {client, service} -> {choice, last used}, for clients on this
 * node. Writer and reader: BPF. LRU; a record ends by timeout, by eviction, or
 * when its choice no longer holds (AFF-5, by generation). Clients from outside
 * will have a map of their own, so that a flood from there evicts no pod.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct bl_affinity_key);
	__type(value, struct bl_affinity);
} bl_affinity_in __weak SEC(".maps");

#endif
