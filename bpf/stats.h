/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counters per ServicePort; any number of CPUs add to one row. */
#ifndef BL_STATS_H
#define BL_STATS_H

#include "maps.h"

/* Adds one to a field of the row of a service index. */
#define bl_count(index, field)                                                              \
	({                                                                                  \
		__u32 ____index = (index);                                                  \
		struct bl_service *____row = bpf_map_lookup_elem(&bl_services, &____index); \
                                                                                            \
		if (____row)                                                                \
			__sync_fetch_and_add(&____row->stats.field, 1);                     \
	})

#endif
