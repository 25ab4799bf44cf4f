//! Questions to the running kernel, each asked by trying, never by its version string. An answer of
//! `Err` keeps the errno: `EPERM` is a missing privilege, not a missing feature.

use std::ffi::CStr;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use libbpf_sys as bpf;

use super::attach::Cgroup;
use super::load::{self, Knobs, LEARN_NETNS, Place};
use super::maps::Grace;
use super::{sys, wire};
use crate::host::{netns, run};

/// `BPF_MOV64_IMM(r, value)`.
fn mov(register: u8, value: i32) -> bpf::bpf_insn {
    insn(bpf::BPF_ALU64 | bpf::BPF_MOV | bpf::BPF_K, register, value)
}

fn insn(code: u32, register: u8, value: i32) -> bpf::bpf_insn {
    let mut insn = bpf::bpf_insn { code: code as u8, imm: value, ..Default::default() };
    insn.set_dst_reg(register);
    insn
}

/// A program that calls a helper (with `r1` the context or a number) and returns 1.
fn calls(helper: Option<u32>, argument: Option<i32>) -> Vec<bpf::bpf_insn> {
    let mut insns = Vec::new();
    insns.extend(argument.map(|value| mov(1, value)));
    insns.extend(helper.map(|id| insn(bpf::BPF_JMP | bpf::BPF_CALL, 0, id as i32)));
    insns.extend([mov(0, 1), insn(bpf::BPF_JMP | bpf::BPF_EXIT, 0, 0)]);
    insns
}

/// A program that reads 8 bytes at address 0 into its stack, which fails when it runs; that it loads is what counts.
fn reads_kernel() -> Vec<bpf::bpf_insn> {
    let mut frame = insn(bpf::BPF_ALU64 | bpf::BPF_MOV | bpf::BPF_X, 1, 0);
    frame.set_src_reg(10);
    let mut insns =
        vec![frame, insn(bpf::BPF_ALU64 | bpf::BPF_ADD | bpf::BPF_K, 1, -8), mov(2, 8), mov(3, 0)];
    insns.extend(calls(Some(bpf::BPF_FUNC_probe_read_kernel), None));
    insns
}

const NAME: &CStr = c"bl_probe";

/// Whether a program of this kind loads that does nothing.
pub(crate) fn hook(prog_type: u32, attach_type: u32) -> io::Result<()> {
    sys::prog_load(prog_type, attach_type, NAME, &calls(None, None)).map(drop)
}

/// Whether a connect() program may call the helper.
pub(crate) fn helper_at_connect(helper: u32, argument: Option<i32>) -> io::Result<()> {
    let insns = calls(Some(helper), argument);
    sys::prog_load(bpf::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, bpf::BPF_CGROUP_INET4_CONNECT, NAME, &insns).map(drop)
}

/// Whether a map of this kind can be made.
pub(crate) fn map(map_type: u32, sizes: [u32; 3], flags: u32) -> io::Result<()> {
    sys::map_create(map_type, NAME, sizes, flags, None).map(drop)
}

/// Whether cgroups take links: where the calls exist, they refuse a descriptor that is none with `EBADF`.
pub(crate) fn links() -> io::Result<()> {
    [sys::link_create_nothing(), sys::link_update_nothing()].into_iter().try_for_each(|asked| match asked {
        Err(e) if e.raw_os_error() != Some(libc::EBADF) => Err(e),
        _ => Ok(()),
    })
}

/// Whether hash maps take batches.
pub(crate) fn batches() -> io::Result<()> {
    let map = sys::map_create(bpf::BPF_MAP_TYPE_HASH, NAME, [4, 4, 2], 0, None)?;
    sys::update_batch(map.as_fd(), &[0; 8], &[0; 8], 1)?;
    sys::lookup_batch(map.as_fd(), &mut None, &mut [0; 8], &mut [0; 8], 2, 0).map(drop)
}

/// Whether a grace period can be had from a map-in-map.
pub(crate) fn grace() -> io::Result<()> {
    Grace::new()?.wait()
}

/// Whether an array can be mapped into memory.
pub(crate) fn mapped_array() -> io::Result<()> {
    map(bpf::BPF_MAP_TYPE_ARRAY, [4, 8, 1], bpf::BPF_F_MMAPABLE)
}

/// The kernel has `bpf_set_retval()` (b44123b4a3dc, Linux 5.18): a refused connect() can say ECONNREFUSED.
pub fn has_set_retval() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| set_retval().is_ok())
}

pub(crate) fn set_retval() -> io::Result<()> {
    helper_at_connect(bpf::BPF_FUNC_set_retval, Some(-libc::ECONNREFUSED))
}

/// Programs may read the kernel's memory: lockdown in the mode confidentiality (9d1f8be5cf42, Linux 5.4) takes
/// `bpf_probe_read_kernel()` away.
pub fn may_read_kernel() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| read_kernel().is_ok())
}

pub(crate) fn read_kernel() -> io::Result<()> {
    sys::prog_load(bpf::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, bpf::BPF_CGROUP_INET4_CONNECT, NAME, &reads_kernel())
        .map(drop)
}

/// Whether maps are charged to RLIMIT_MEMLOCK: until they are charged to the memory cgroup (97306be45fbe,
/// Linux 5.11), which came with `bpf_ktime_get_coarse_ns()`.
///
/// # Errors
/// The kernel would not say, for want of a privilege.
pub fn charges_memlock() -> io::Result<bool> {
    let insns = calls(Some(bpf::BPF_FUNC_ktime_get_coarse_ns), None);
    match sys::prog_load(bpf::BPF_PROG_TYPE_SOCKET_FILTER, 0, NAME, &insns) {
        Ok(_) => Ok(false),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(true),
        Err(e) => Err(e),
    }
}

/// The cookie of the namespace this thread is in, as BPF programs see it (DEC-4). Where the kernel has no
/// `SO_NETNS_COOKIE`, a program learns it; for that this process must live below `cgroup`.
///
/// # Errors
/// No socket can be opened, or the program cannot be loaded, attached or reached.
pub fn own_netns_cookie(cgroup: &Path) -> Result<u64> {
    match netns::cookie()? {
        Some(cookie) => Ok(cookie),
        None => learn_netns_cookie(cgroup),
    }
}

/// The same by the program alone (`bpf/aid.bpf.c`).
///
/// # Errors
/// As [`own_netns_cookie`].
pub fn learn_netns_cookie(cgroup: &Path) -> Result<u64> {
    let what = "learn the cookie of the own network namespace";
    let cgroup = Cgroup::open(cgroup).context(what)?;
    let place = Place { map: "bl_aid", pin: None, size: None };
    let log = Path::new(run::DIR).join("aid.log");
    let loaded = load::load(&LEARN_NETNS, &[place], Knobs::ordinary(), &log).context(what)?;
    let (map, program) = loaded.maps.first().zip(loaded.programs.first()).context(what)?;
    let probe = UdpSocket::bind("127.0.0.1:0").context(what)?;
    let mut row = wire::bl_aid { socket: sys::socket_cookie(probe.as_fd()).context(what)?, netns: 0 };
    sys::update(map.1.as_fd(), &[0; 4], wire::bytes(&row)).context(what)?;
    let link = cgroup.link(program).context(what)?;
    probe.connect("127.0.0.1:9").context(what)?;
    drop(link);
    let mut value = [0; size_of::<wire::bl_aid>()];
    sys::lookup(map.1.as_fd(), &[0; 4], &mut value).context(what)?;
    row = wire::read(&value).context(what)?;
    anyhow::ensure!(
        row.netns != 0,
        "{what}: the program at {} did not see this process, which lives outside",
        cgroup.path().display()
    );
    Ok(row.netns)
}
