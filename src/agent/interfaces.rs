//! The addresses of this node's interfaces, as they come and go.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::source::wait_for;
use crate::host::addrs::AddressWatch;
use crate::host::netlink::Netlink;
use crate::model::addr::is_of_link;

/// kube-proxy in its mode `ipvs` gives this interface every ClusterIP; its addresses are nobody's (DEC-5).
const IPVS: &str = "kube-ipvs0";

/// Addresses come in bursts, as an interface does: the list is read when this has passed since the first.
const SETTLE: Duration = Duration::from_millis(20);

/// After the list could not be read.
const AGAIN: Duration = Duration::from_secs(1);

/// What interfaces hold, and who tells that it is something else.
#[derive(Debug)]
pub(super) struct Interfaces {
    watch: AsyncFd<AddressWatch>,
    known: Vec<IpAddr>,
    /// Something was told since the list was read, which is to be read again then. Kept here, since whoever waits
    /// for other things as well starts the waiting anew with each of them.
    due: Option<Instant>,
    is_failing: bool,
}

impl Interfaces {
    /// Watches, and then looks for the first time.
    ///
    /// # Errors
    /// The kernel refuses a netlink socket.
    pub(super) fn open() -> Result<Interfaces> {
        let watch = wait_for(AddressWatch::open()?)?;
        Ok(Interfaces { watch, known: list()?, due: None, is_failing: false })
    }

    /// The addresses, in the kernel's order. Those that count on one link alone are left out: every pod brings one.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.known
    }

    /// Waits until the addresses are others than before, and gives them. May be dropped at any time.
    pub(super) async fn changed(&mut self) -> Vec<IpAddr> {
        loop {
            let due = match self.due {
                Some(due) => due,
                None => {
                    match self.watch.readable().await {
                        Ok(mut ready) => ready.clear_ready(),
                        // The runtime ends.
                        Err(_) => std::future::pending().await,
                    }
                    *self.due.insert(Instant::now() + SETTLE)
                }
            };
            tokio::time::sleep_until(due).await;
            self.watch.get_ref().drain();
            match list() {
                Err(error) => {
                    if !self.is_failing {
                        tracing::warn!("the addresses of interfaces cannot be read, tried again: {error:#}");
                    }
                    (self.is_failing, self.due) = (true, Some(Instant::now() + AGAIN));
                }
                Ok(now) => {
                    (self.due, self.is_failing) = (None, false);
                    if now != self.known {
                        self.known.clone_from(&now);
                        return now;
                    }
                }
            }
        }
    }
}

fn list() -> Result<Vec<IpAddr>> {
    let mut netlink = Netlink::open()?;
    let ipvs = netlink.links()?.into_iter().find(|link| link.name == IPVS).map(|link| link.index);
    let addresses = netlink.addresses()?.into_iter().filter(|address| Some(address.link) != ipvs);
    Ok(addresses.map(|address| address.net.addr()).filter(|ip| !is_of_link(*ip)).collect())
}
