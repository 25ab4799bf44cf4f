//! io_uring as a client of the matrix uses it: one operation at a time, each with a time limit.
#![expect(unsafe_code, reason = "io_uring takes raw pointers; a test of it cannot do without")]

use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use beeline::sandbox::sock;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, Timespec};
use io_uring::{IoUring, opcode};
use nix::errno::Errno;
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

/// Marks the completion that is waited for.
const WANTED: u64 = 1;
/// The longest an operation may take, in seconds.
const LIMIT: u64 = 10;

/// An io_uring.
pub(super) struct Ring(IoUring);

impl Ring {
    /// Sets one up; the error is what the kernel says where it has none or allows none.
    pub fn new() -> Result<Ring, Errno> {
        IoUring::new(4).map(Ring).map_err(errno)
    }

    pub fn connect(&mut self, fd: &OwnedFd, to: &SockaddrStorage) -> Result<(), Errno> {
        self.run(&opcode::Connect::new(Fd(fd.as_raw_fd()), to.as_ptr(), to.len()).build()).map(drop)
    }

    pub fn sendmsg(&mut self, fd: &OwnedFd, data: &[u8], to: Option<&SockaddrStorage>) -> Result<(), Errno> {
        let mut slice = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        let name = to.map_or((std::ptr::null_mut(), 0), |to| (to.as_ptr().cast_mut().cast(), to.len()));
        let message = header(name, &mut slice);
        let flags = libc::MSG_NOSIGNAL.cast_unsigned();
        self.run(&opcode::SendMsg::new(Fd(fd.as_raw_fd()), &message).flags(flags).build()).map(drop)
    }

    pub fn recvmsg(&mut self, fd: &OwnedFd) -> Result<(Vec<u8>, Option<SocketAddr>), Errno> {
        let mut data = vec![0_u8; 4096];
        let mut slice = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
        let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
        let size = libc::socklen_t::try_from(size_of_val(&name)).expect("an address is small");
        let mut message = header((name.as_mut_ptr().cast(), size), &mut slice);
        let length = self.run(&opcode::RecvMsg::new(Fd(fd.as_raw_fd()), &mut message).build())?;
        data.truncate(length);
        // SAFETY: all zeroes, or an address that the kernel wrote, of the length it says; both lie in `name`.
        let from = unsafe { SockaddrStorage::from_raw(name.as_ptr().cast(), Some(message.msg_namelen)) };
        Ok((data, from.filter(|_| message.msg_namelen > 0).as_ref().and_then(sock::std_addr)))
    }

    /// Runs one operation. What it points to outlives this call, and when this returns the kernel has
    /// completed it, if need be by cancelling it.
    fn run(&mut self, entry: &Entry) -> Result<usize, Errno> {
        let limit = Timespec::new().sec(LIMIT);
        let entry = entry.clone().flags(Flags::IO_LINK).user_data(WANTED);
        // SAFETY: the callers keep alive what the entry points to, and `limit` lives as long as this call,
        // which does not return before both have completed.
        let pushed =
            unsafe { self.0.submission().push_multiple(&[entry, opcode::LinkTimeout::new(&limit).build()]) };
        pushed.expect("a ring of four has room for two");
        let mut result = None;
        for _ in 0..2 {
            while self.0.completion().is_empty() {
                match self.0.submit_and_wait(1).map_err(errno) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            let done = self.0.completion().next().expect("it is not empty");
            if done.user_data() == WANTED {
                result = Some(done.result());
            }
        }
        let result = result.expect("each of the two completes once");
        usize::try_from(result).map_err(|_| Errno::from_raw(-result))
    }
}

fn header((name, length): (*mut libc::c_void, libc::socklen_t), slice: &mut libc::iovec) -> libc::msghdr {
    libc::msghdr {
        msg_name: name,
        msg_namelen: length,
        msg_iov: slice,
        msg_iovlen: 1,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
