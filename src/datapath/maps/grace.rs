//! A proven grace period for BPF programs.
//!
//! An update of a map-in-map returns after every program that was running when it began has ended
//! (`maybe_wait_bpf_programs()`, 1ae80cf31938); since 6.12 only if it succeeds, so the return code
//! counts. Not membarrier(2), which waits for nothing on one CPU, and no timer: both were measured to
//! hand out ids that a reader still held.
//!
//! A thread of its own does the waiting, which takes 8 to 16 ms: changes need not queue behind it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use super::super::sys;

/// Grace periods, one after another, on a thread that ends with this.
#[derive(Debug)]
pub(crate) struct Grace {
    requests: Sender<()>,
    answers: Receiver<io::Result<()>>,
    /// One was begun, and its end has not been told.
    running: bool,
    /// The end of one that was begun, taken in by [`wait`](Self::wait) on its way.
    late: Option<io::Result<()>>,
}

impl Grace {
    /// Makes the maps and the thread.
    pub(crate) fn new() -> io::Result<Grace> {
        let mut periods = Periods::new()?;
        let (requests, inbox) = channel::<()>();
        let (outbox, answers) = channel();
        let work = move || {
            for () in inbox {
                if outbox.send(periods.wait()).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("grace".into()).spawn(work)?;
        Ok(Grace { requests, answers, running: false, late: None })
    }

    /// Begins one; [`ended`](Self::ended) tells of its end. `false`: the thread is gone.
    pub(crate) fn begin(&mut self) -> bool {
        if !self.running {
            self.running = self.requests.send(()).is_ok();
        }
        self.running
    }

    /// Whether the one that was begun has ended. An error means that nothing was waited for.
    pub(crate) fn ended(&mut self) -> Option<io::Result<()>> {
        if !self.running {
            return None;
        }
        let ended = match self.late.take() {
            Some(late) => late,
            None => match self.answers.try_recv() {
                Ok(ended) => ended,
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => Err(gone()),
            },
        };
        self.running = false;
        Some(ended)
    }

    /// Begins one and waits for it. An error means that nothing was waited for.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        if self.running && self.late.is_none() {
            self.late = Some(self.answers.recv().unwrap_or_else(|_| Err(gone())));
        }
        self.requests.send(()).map_err(|_| gone())?;
        self.answers.recv().map_err(|_| gone())?
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that waits for grace periods is gone")
}

/// The map-in-map, and two maps that take turns in it.
#[derive(Debug)]
struct Periods {
    outer: OwnedFd,
    inner: [OwnedFd; 2],
    turn: usize,
}

impl Periods {
    fn new() -> io::Result<Periods> {
        let array = || sys::map_create(libbpf_sys::BPF_MAP_TYPE_ARRAY, c"bl_grace_inner", [4, 4, 1], 0, None);
        let inner = [array()?, array()?];
        let outer = sys::map_create(
            libbpf_sys::BPF_MAP_TYPE_ARRAY_OF_MAPS,
            c"bl_grace",
            [4, 4, 1],
            0,
            Some(inner[0].as_fd()),
        )?;
        Ok(Periods { outer, inner, turn: 0 })
    }

    /// Waits. An error means that nothing was waited for.
    fn wait(&mut self) -> io::Result<()> {
        let fd = self.inner[self.turn].as_raw_fd() as u32;
        sys::update(self.outer.as_fd(), &0u32.to_ne_bytes(), &fd.to_ne_bytes())?;
        self.turn ^= 1;
        Ok(())
    }
}
