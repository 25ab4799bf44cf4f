//! What sockets dialled and what they got: `bl_flows_near`, `bl_flows` and `bl_flows_more`.

use std::io;
use std::net::SocketAddr;

use super::maps::{Reader, scan_hash, scan_locked};
use super::wire;
use crate::model::addr::Protocol;
use crate::plan::table::{BackendId, ServiceId};

/// How a flow came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowKind {
    /// `connect()`: holds while the socket stays connected.
    Connected,
    /// `sendto()` on an unconnected UDP socket.
    Datagram,
}

/// One frontend of one open socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// The cookie of the socket (`SO_COOKIE`, `ss -e`).
    pub cookie: u64,
    /// 0, or the number of the further frontend of a UDP socket, from 1.
    pub further: u64,
    /// How it came to be.
    pub kind: FlowKind,
    /// The protocol.
    pub protocol: Protocol,
    /// What the socket dialled.
    pub dialled: SocketAddr,
    /// Where it was sent; for [`FlowKind::Datagram`] the first choice.
    pub backend: SocketAddr,
    /// The choice that holds now: it may be stale, compare the generation.
    pub choice: (BackendId, u32),
    /// The ServicePort.
    pub service: ServiceId,
    /// The cookie of the socket's network namespace, 0 if unknown.
    pub netns: u64,
}

impl Reader {
    /// Every flow of every open socket, by cookie.
    ///
    /// # Errors
    /// A map could not be read.
    pub fn flows(&self) -> io::Result<Vec<FlowRow>> {
        let mut flows = Vec::new();
        scan_locked(self.map("bl_flows_near"), |_, value| {
            let row = wire::read::<wire::bl_near>(value).filter(|near| near.cookie != 0);
            flows.extend(row.and_then(|near| flow(near.cookie, 0, &near.flow)));
        })?;
        scan_hash(self.map("bl_flows"), |key, value| {
            let row = wire::read::<u64>(key).zip(wire::read(value));
            flows.extend(row.and_then(|(cookie, row)| flow(cookie, 0, &row)));
        })?;
        scan_hash(self.map("bl_flows_more"), |key, value| {
            let row = wire::read::<wire::bl_more_key>(key).zip(wire::read(value));
            flows.extend(row.and_then(|(key, row)| flow(key.cookie, key.seq + 1, &row)));
        })?;
        flows.sort_unstable_by_key(|flow| (flow.cookie, flow.further));
        Ok(flows)
    }
}

/// `None` if protocol or kind is not known.
fn flow(cookie: u64, further: u64, row: &wire::bl_flow) -> Option<FlowRow> {
    let kind = match row.kind {
        1 => FlowKind::Connected,
        2 => FlowKind::Datagram,
        _ => return None,
    };
    Some(FlowRow {
        cookie,
        further,
        kind,
        protocol: Protocol::from_number(row.proto)?,
        dialled: SocketAddr::new(wire::read_addr(&row.dialled), u16::from_be(row.dialled_port)),
        backend: SocketAddr::new(wire::read_addr(&row.backend), u16::from_be(row.backend_port)),
        choice: wire::choice(row.choice),
        service: ServiceId(row.service),
        netns: row.netns,
    })
}
