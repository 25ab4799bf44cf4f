//! What sockets can do beyond the safe wrappers.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Dissolves what a socket is connected to: `connect` with AF_UNSPEC. A UDP socket is then as before its
/// first `connect`, but keeps its port if it was bound to it.
///
/// # Errors
/// What `connect` answers.
pub fn dissolve(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let nobody = libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap_or(0),
        sa_data: [0; 14],
    };
    // SAFETY: the pointer is to a sockaddr on this stack, and the length is its size.
    let answer =
        unsafe { libc::connect(fd.as_raw_fd(), &raw const nobody, size_of_val(&nobody) as libc::socklen_t) };
    Errno::result(answer).map(drop)
}
