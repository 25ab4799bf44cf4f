//! Who is at home in `bl_services`: ClusterIP frontends that are found by the row they lead to, without a look
//! into `bl_frontends`.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result};

use super::PinnedTables;
use super::scan::scan_hash;
use crate::datapath::wire;
use crate::plan::table::{Frontend, ServiceId, TableError};

/// Words of a row of `bl_services`.
const SERVICE_WORDS: usize = size_of::<wire::bl_service>() / 8;

impl PinnedTables {
    /// Has a frontend that `bl_frontends` has be at home in the row it leads to, if that is one where readers
    /// look. What is at home is only ever what `bl_frontends` says too: so the hash is the truth, and growth,
    /// recovery and the audit go by it alone.
    pub(super) fn settle(&mut self, key: &wire::bl_frontend_key, value: Frontend) -> Result<(), TableError> {
        let Some(id) = self.home_of(key, value) else { return Ok(()) };
        let (mapping, at) = self.services.row(id.0)?;
        let home = |n: usize| mapping.word(at + wire::SERVICE_HOME + 8 * n);
        let before: [u64; 2] = std::array::from_fn(|n| home(n).load(Ordering::Relaxed));
        let words = wire::words::<_, 2>(&key.addr);
        // An address stays as long as its ServicePort has the row: readers never see half of another.
        if before != [0; 2] && before != words {
            return Ok(());
        }
        words.into_iter().enumerate().for_each(|(n, word)| home(n).store(word, Ordering::Relaxed));
        let policy = mapping.word(at + wire::SERVICE_POLICY);
        let rest = policy.load(Ordering::Relaxed) & !wire::POLICY_HOME;
        policy.store(rest | wire::home(key), Ordering::Release);
        Ok(())
    }

    /// Has no row but `stays` be the home of a frontend: before `bl_frontends` says something else.
    pub(super) fn leave_home(
        &mut self,
        key: &wire::bl_frontend_key,
        stays: Option<ServiceId>,
    ) -> Result<(), TableError> {
        for row in self.homes_of(key).into_iter().filter(|row| stays != Some(ServiceId(*row))) {
            self.strike_home(row, |home| wire::bytes(home) == wire::bytes(key))?;
        }
        Ok(())
    }

    /// Has a row be nobody's home, and leaves no address for the readers of its next owner.
    pub(super) fn empty_home(&mut self, row: u32) -> Result<(), TableError> {
        self.strike_home(row, |_| true)?;
        let (mapping, at) = self.services.row(row)?;
        for offset in (0..size_of::<wire::bl_addr>()).step_by(8) {
            mapping.word(at + wire::SERVICE_HOME + offset).store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Clears the home in a row, if it is one of these.
    fn strike_home(
        &mut self,
        row: u32,
        is_meant: impl Fn(&wire::bl_frontend_key) -> bool,
    ) -> Result<(), TableError> {
        let (mapping, at) = self.services.row(row)?;
        let words: [u64; SERVICE_WORDS] =
            std::array::from_fn(|n| mapping.word(at + 8 * n).load(Ordering::Relaxed));
        let found: wire::bl_service = wire::of_words(&words);
        if wire::read_home(&found).is_some_and(|home| is_meant(&home)) {
            let policy = mapping.word(at + wire::SERVICE_POLICY);
            policy.store(found.policy & !wire::POLICY_HOME, Ordering::Release);
        }
        Ok(())
    }

    /// Has those be at home whom `bl_frontends` says so of, and nobody else: what a kill left undone, and what
    /// others wrote.
    ///
    /// # Errors
    /// A map could not be read or mapped.
    pub fn tend_homes(&mut self) -> Result<()> {
        let mut frontends: Vec<(wire::bl_frontend_key, u64)> = Vec::new();
        scan_hash(&self.frontends, |key, value| frontends.extend(wire::read(key).zip(wire::read(value))))
            .context("read bl_frontends")?;
        let mut at_home: Vec<(u32, [u8; 20])> = Vec::new();
        for (key, value) in frontends {
            let Some(value) = wire::read_frontend(&key, value) else { continue };
            self.settle(&key, value)?;
            at_home.extend(self.home_of(&key, value).map(|id| (id.0, key_bytes(&key))));
        }
        at_home.sort_unstable();
        for row in 0..self.services.rows() {
            self.strike_home(row, |home| at_home.binary_search(&(row, key_bytes(home))).is_err())?;
        }
        Ok(())
    }

    /// The row where a frontend with this value can be at home.
    pub(super) fn home_of(&self, key: &wire::bl_frontend_key, value: Frontend) -> Option<ServiceId> {
        let leads_to = value.service.filter(|_| wire::has_home(key, value))?;
        self.homes_of(key).contains(&leads_to.0).then_some(leads_to)
    }

    pub(super) fn homes_of(&self, key: &wire::bl_frontend_key) -> [u32; wire::HOMES as usize] {
        wire::homes(key, self.services.rows())
    }
}

/// A key as it is compared.
fn key_bytes(key: &wire::bl_frontend_key) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes.copy_from_slice(wire::bytes(key));
    bytes
}
