/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Knobs the loader sets before load. They live in rodata, so the verifier prunes
 * what a knob turns off: a helper the kernel does not know may stand behind one.
 * They are __weak because every unit of the joined skeleton defines them. Nothing
 * here changes an answer: what does is a row, so that `explain` sees it.
 */
#ifndef BL_CONFIG_H
#define BL_CONFIG_H

/*
 * The kernel has bpf_set_retval(), b44123b4a3dc, v5.18. Without it a refusal can
 * only be EPERM, which clients take for a policy; the address is then left alone
 * and the packet path refuses (DEC-1).
 */
const volatile bool bl_has_set_retval __weak = false;

/*
 * Programs may read the kernel's memory. Lockdown in the mode confidentiality forbids
 * bpf_probe_read_kernel(), and with it the verifier takes no program that calls it.
 */
const volatile bool bl_may_read_kernel __weak = true;

/*
 * A stored choice is compared with its backend's generation. Only a test that
 * shows what the comparison is good for turns it off.
 */
const volatile bool bl_check_generation __weak = true;

/* The largest power of two that bl_services has rows for, less one: where to look first. */
const volatile __u32 bl_home_mask __weak = 0;

#endif
