//! This node: its object as it comes, and what the configuration and the machine say of it besides.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;

use super::families::Families;
use super::pod_cidrs::PodCidrs;
use super::serving::Listening;
use crate::config::kube_proxy::Detector;
use crate::config::{Config, with_primary};
use crate::host::family;
use crate::model::event::Event;
use crate::model::node::HostFacts;

/// What is known of this node, and who watches over it.
#[derive(Debug)]
pub(super) struct ThisNode {
    host: HostFacts,
    /// `--node-ip`: the addresses of interfaces are not those of the node.
    has_given_ips: bool,
    primary_ip: Option<IpAddr>,
    /// Those of its object, if they are the local detector.
    pod_cidrs: Option<PodCidrs>,
    families: Families,
    /// Where health check node ports listen.
    listening: Listening,
}

impl ThisNode {
    /// Before its object has come.
    pub(super) fn new(config: &Config, interfaces: Vec<IpAddr>) -> ThisNode {
        let kernel = family::supported();
        if kernel != [true; 2] {
            tracing::info!(
                "this kernel has IPv4 alone: IPv6 Services are programmed, and nobody can dial them"
            );
        }
        let by_node = config.detector == Detector::NodeCidr;
        ThisNode {
            pod_cidrs: by_node.then(|| PodCidrs::new(config.node_name.clone())),
            families: Families::new(config, kernel),
            listening: Listening::new(config, interfaces.clone()),
            host: config.host_facts(interfaces),
            has_given_ips: !config.node_ips.is_empty(),
            primary_ip: config.primary_ip,
        }
    }

    /// What the rules need to know besides its object.
    pub(super) fn host(&self) -> HostFacts {
        self.host.clone()
    }

    /// Where health check node ports listen.
    pub(super) fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Looks through events of the source; adds one, if they say what the local detector is.
    ///
    /// # Errors
    /// The node's podCIDRs changed (SYNC-16), or the configuration does not fit the node (CFG-3).
    pub(super) fn see(&mut self, events: &mut Vec<Event>) -> Result<()> {
        self.listening.see(events);
        warn(self.families.see(events)?);
        let Some(cidrs) = &mut self.pod_cidrs else { return Ok(()) };
        if let Some(nets) = cidrs.see(events)? {
            tracing::info!("podCIDRs of this node are the local detector: {nets:?}");
            self.host.local_detector = nets;
            events.insert(0, Event::Host(Box::new(self.host.clone())));
        }
        Ok(())
    }

    /// Interfaces gained or lost addresses (DEC-5, DEC-6).
    pub(super) fn interfaces(&mut self, addresses: Vec<IpAddr>) -> Event {
        let held: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let told = |what, ips: Vec<String>| {
            if !ips.is_empty() {
                tracing::info!("interfaces of this node {what} {}", ips.join(", "));
            }
        };
        told("gained", held.difference(&self.host.held).map(ToString::to_string).collect());
        told("lost", self.host.held.difference(&held).map(ToString::to_string).collect());
        self.host.held = held;
        self.listening.interfaces(&addresses);
        if !self.has_given_ips {
            self.host.addresses = with_primary(addresses, self.primary_ip);
        }
        Event::Host(Box::new(self.host.clone()))
    }

    /// When [`check`](Self::check) wants to be called, counted from the start.
    pub(super) fn due(&self) -> Option<Duration> {
        let patience = self.pod_cidrs.as_ref().and_then(PodCidrs::due);
        [patience, self.families.due()].into_iter().flatten().min()
    }

    /// Whether what has not come yet may still come (SYNC-17).
    ///
    /// # Errors
    /// The node's podCIDRs are needed and did not come, or as [`see`](Self::see).
    pub(super) fn check(&mut self, now: Duration) -> Result<()> {
        warn(self.families.check(now)?);
        self.pod_cidrs.as_ref().map_or(Ok(()), |cidrs| cidrs.check(now))
    }
}

fn warn(lines: Vec<String>) {
    lines.iter().for_each(|line| tracing::warn!("{line}"));
}
