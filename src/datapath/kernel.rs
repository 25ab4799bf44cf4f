//! Questions to the running kernel, each asked by trying, never by its version string.

use std::sync::OnceLock;

/// The kernel has `bpf_set_retval()` (b44123b4a3dc, Linux 5.18): a refused connect() can say ECONNREFUSED.
pub fn has_set_retval() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        // SAFETY: takes two enum values and no options; loads a program of a few instructions and closes it.
        let found = unsafe {
            libbpf_sys::libbpf_probe_bpf_helper(
                libbpf_sys::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
                libbpf_sys::BPF_FUNC_set_retval,
                std::ptr::null(),
            )
        };
        found == 1
    })
}
