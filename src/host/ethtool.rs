//! Offloads of a link, for the header of a benchmark: what a figure was taken with.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The offloads asked for, by the name `ethtool -k` gives them, with the command of the old ioctl.
const OFFLOADS: [(&str, u32); 6] =
    [("rx", 0x14), ("tx", 0x16), ("sg", 0x18), ("tso", 0x1e), ("gso", 0x23), ("gro", 0x2b)];

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// The offloads of a link of the calling thread's network namespace: name and whether it is on. What
/// the driver does not know is left out.
///
/// # Errors
/// There is no such link.
pub fn offloads(link: &str) -> Result<Vec<(&'static str, bool)>> {
    ensure!(
        link.len() < libc::IFNAMSIZ,
        "{link:?} is too long for a link's name ({} bytes)",
        libc::IFNAMSIZ - 1
    );
    let probe = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context("open a socket to ask for offloads")?;
    let mut found = Vec::new();
    for (name, cmd) in OFFLOADS {
        let mut value = EthtoolValue { cmd, data: 0 };
        // SAFETY: an ifreq of zeroes is valid: plain numbers, bytes and a pointer that is set below.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: `request` and the `value` it points to outlive the call and are what SIOCETHTOOL wants.
        let asked = unsafe { libc::ioctl(probe.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
        match Errno::result(asked) {
            Ok(_) => found.push((name, value.data != 0)),
            Err(Errno::EOPNOTSUPP) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("ask link {link} for its offloads"));
            }
        }
    }
    Ok(found)
}
