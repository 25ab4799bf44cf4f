//! Tries what the socket path needs of a kernel, and lists what others have attached where it goes.
//! Nothing stays: what is loaded to try is gone with its descriptor.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use libbpf_sys::bpf_insn;

use super::sys;

/// A place in the kernel where a program of the socket path goes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The short name, like `connect4`.
    pub name: &'static str,
    /// Since when kernels have it.
    pub since: &'static str,
    prog_type: u32,
    attach_type: u32,
}

const fn sock_addr(name: &'static str, attach_type: u32, since: &'static str) -> Place {
    Place { name, since, prog_type: libbpf_sys::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attach_type }
}

/// All places of the socket path.
pub const PLACES: [Place; 9] = [
    sock_addr("connect4", libbpf_sys::BPF_CGROUP_INET4_CONNECT, "d74bad4e74ee, Linux 4.17"),
    sock_addr("connect6", libbpf_sys::BPF_CGROUP_INET6_CONNECT, "d74bad4e74ee, Linux 4.17"),
    sock_addr("sendmsg4", libbpf_sys::BPF_CGROUP_UDP4_SENDMSG, "1cedee13d25a, Linux 4.18"),
    sock_addr("sendmsg6", libbpf_sys::BPF_CGROUP_UDP6_SENDMSG, "1cedee13d25a, Linux 4.18"),
    sock_addr("recvmsg4", libbpf_sys::BPF_CGROUP_UDP4_RECVMSG, "983695fa6765, Linux 5.2"),
    sock_addr("recvmsg6", libbpf_sys::BPF_CGROUP_UDP6_RECVMSG, "983695fa6765, Linux 5.2"),
    sock_addr("getpeername4", libbpf_sys::BPF_CGROUP_INET4_GETPEERNAME, "1b66d253610c, Linux 5.8"),
    sock_addr("getpeername6", libbpf_sys::BPF_CGROUP_INET6_GETPEERNAME, "1b66d253610c, Linux 5.8"),
    Place {
        name: "sock-release",
        since: "f5836749c9c0, Linux 5.9",
        prog_type: libbpf_sys::BPF_PROG_TYPE_CGROUP_SOCK,
        attach_type: libbpf_sys::BPF_CGROUP_INET_SOCK_RELEASE,
    },
];

impl Place {
    /// Loads a program of two instructions for this place.
    ///
    /// # Errors
    /// The kernel does not have the place (`EINVAL`), or does not let us ask (`EPERM`).
    pub fn try_it(&self) -> io::Result<()> {
        let insn = |code, imm| bpf_insn { code, imm, ..Default::default() };
        // r0 = 1; exit
        let allow = [insn(0xb7, 1), insn(0x95, 0)];
        sys::prog_load(self.prog_type, self.attach_type, c"bl_probe", &allow).map(drop)
    }
}

/// Makes a map of one element: whether bpf(2) may be called at all.
///
/// # Errors
/// What bpf(2) answered; `ENOSYS` where it is not built in.
pub fn make_map() -> io::Result<()> {
    sys::map_create(libbpf_sys::BPF_MAP_TYPE_ARRAY, c"bl_probe", [4, 4, 1], 0, None).map(drop)
}

/// A program that is not ours at a place of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreigner {
    /// The place, like `connect4`.
    pub place: &'static str,
    /// Id and, where it may be asked, name.
    pub program: String,
    /// It was attached so that the kernel refuses any other (without BPF_F_ALLOW_MULTI).
    pub exclusive: bool,
}

/// The programs of others at our places: at this cgroup all, above it those that keep ours out.
///
/// # Errors
/// The cgroup cannot be opened, or CAP_NET_ADMIN is missing.
pub fn foreigners(cgroup: &Path) -> io::Result<Vec<Foreigner>> {
    let mut found = at_cgroup(cgroup)?;
    for above in cgroup.ancestors().skip(1) {
        match at_cgroup(above) {
            Ok(there) => found.extend(there.into_iter().filter(|f| f.exclusive)),
            Err(_) => break, // above the root of the tree
        }
    }
    Ok(found)
}

fn at_cgroup(cgroup: &Path) -> io::Result<Vec<Foreigner>> {
    let dir = File::open(cgroup)?;
    let mut found = Vec::new();
    for place in PLACES {
        let (ids, flags) = match sys::prog_query(dir.as_fd(), place.attach_type) {
            // A kernel without the place has nobody there.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && place.try_it().is_err() => continue,
            other => other?,
        };
        for id in ids {
            let name = sys::prog_by_id(id).and_then(|p| sys::prog_facts(p.as_fd())).map(|facts| facts.name);
            if name.as_ref().is_ok_and(|name| name.starts_with("bl_")) {
                continue;
            }
            let program =
                name.map_or_else(|_| format!("program {id}"), |name| format!("program {id} ({name})"));
            let exclusive = flags & libbpf_sys::BPF_F_ALLOW_MULTI == 0;
            found.push(Foreigner { place: place.name, program, exclusive });
        }
    }
    Ok(found)
}
