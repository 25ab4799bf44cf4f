/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who dials. */
#ifndef BL_CLIENT_H
#define BL_CLIENT_H

#include "addr.h"
#include "maps.h"

enum bl_client {
	BL_CLIENT_OUTSIDE = 0,	   /* not on this node, or not known to be */
	BL_CLIENT_POD = 1,	   /* a pod of this node */
	BL_CLIENT_HOST = 2,	   /* the namespace the agent runs in (DEC-4) */
	BL_CLIENT_PACKET_ONLY = 3, /* left to the packet path */
};

/*
 * The client behind a socket of this node, by the cookie of its network namespace.
 * The host's own cookie is a row: bpf_get_netns_cookie(NULL) would name the first
 * namespace of the machine, which a nested node does not run in. A namespace
 * without a row is a pod's.
 */
static __always_inline enum bl_client bl_client_of(__u64 netns)
{
	__u32 *class = bpf_map_lookup_elem(&bl_netns, &netns);

	if (!class)
		return BL_CLIENT_POD;
	if (*class == BL_NETNS_HOST)
		return BL_CLIENT_HOST;
	if (*class == BL_NETNS_PACKET_ONLY)
		return BL_CLIENT_PACKET_ONLY;
	return BL_CLIENT_POD;
}

/* Whether a local detector knows this family's pods: without one POL-4 does not exist (POL-10). */
static __always_inline bool bl_detects_pods(const struct bl_addr *addr)
{
	struct bl_agent *agent;
	__u32 zero = 0;

	agent = bpf_map_lookup_elem(&bl_agent, &zero);
	if (!agent)
		return false;
	return agent->flags & (bl_addr_is_v4(addr) ? BL_AGENT_DETECTOR_4 : BL_AGENT_DETECTOR_6);
}

#endif
