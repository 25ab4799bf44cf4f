//! `detectLocalMode: NodeCIDR`: the detector is `spec.podCIDRs` of this node's object, which must come and
//! must not change (SYNC-16, SYNC-17). Pure.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use ipnet::IpNet;

use crate::model::addr::Family;
use crate::model::event::Event;

/// How long a node may be without podCIDRs after a start (SYNC-17).
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Waits for the podCIDRs of a node, then guards them.
#[derive(Debug)]
pub struct PodCidrs {
    node: Arc<str>,
    known: Option<Vec<IpNet>>,
}

impl PodCidrs {
    /// Nothing is known yet.
    pub fn new(node: Arc<str>) -> PodCidrs {
        PodCidrs { node, known: None }
    }

    /// Looks through events; gives the detector's networks when they become known. A Node that goes changes nothing.
    ///
    /// # Errors
    /// They are others than before: connections were judged by those.
    pub fn see(&mut self, events: &[Event]) -> Result<Option<Vec<IpNet>>> {
        let mut news = None;
        for event in events {
            let Event::Node(node) = event else { continue };
            if node.name != self.node || node.pod_cidrs.is_empty() {
                continue;
            }
            match &self.known {
                None => {
                    self.known = Some(node.pod_cidrs.clone());
                    news = Some(first_of_each_family(&node.pod_cidrs));
                }
                Some(known) => ensure!(
                    *known == node.pod_cidrs,
                    "spec.podCIDRs of Node {} changed from {known:?} to {:?}: ending, so that a new start takes them \
                     (detectLocalMode NodeCIDR)",
                    self.node,
                    node.pod_cidrs
                ),
            }
        }
        Ok(news)
    }

    /// When patience ends, counted from the start; `None` once they are known.
    pub fn due(&self) -> Option<Duration> {
        self.known.is_none().then_some(PATIENCE)
    }

    /// Whether they may still come.
    ///
    /// # Errors
    /// They did not come in time.
    pub fn check(&self, now: Duration) -> Result<()> {
        if self.due().is_some_and(|due| due <= now) {
            bail!(
                "Node {} has had no spec.podCIDRs for {} minutes, and detectLocalMode NodeCIDR needs them: allocate \
                 them (kube-controller-manager --allocate-node-cidrs), or set clusterCIDR and detectLocalMode \
                 ClusterCIDR",
                self.node,
                PATIENCE.as_secs() / 60
            );
        }
        Ok(())
    }
}

fn first_of_each_family(nets: &[IpNet]) -> Vec<IpNet> {
    let of = |family| nets.iter().find(|net| Family::of(net.addr()) == family).copied();
    Family::ALL.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::node::Node;

    fn node(name: &str, cidrs: &[&str]) -> Event {
        Event::Node(Box::new(Node {
            name: name.into(),
            zone: None,
            addresses: Vec::new(),
            pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            deleting: false,
            taints: Vec::new(),
        }))
    }

    #[test]
    fn the_first_of_each_family_is_the_detector() {
        // SNAT-8
        let mut cidrs = PodCidrs::new("a".into());
        assert_eq!(cidrs.see(&[node("b", &["10.1.0.0/24"]), node("a", &[])]).unwrap(), None);
        let seen = cidrs.see(&[node("a", &["fd00::/64", "10.1.0.0/24", "10.2.0.0/24"])]).unwrap();
        assert_eq!(seen, Some(vec!["10.1.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()]));
        assert_eq!(cidrs.due(), None);
    }

    #[test]
    fn others_than_before_end_the_agent() {
        // SYNC-16
        let mut cidrs = PodCidrs::new("a".into());
        cidrs.see(&[node("a", &["10.1.0.0/24"])]).unwrap();
        assert_eq!(cidrs.see(&[node("a", &["10.1.0.0/24"]), node("b", &["10.9.0.0/24"])]).unwrap(), None);
        assert_eq!(cidrs.see(&[Event::NodeGone("a".into())]).unwrap(), None);
        let error = cidrs.see(&[node("a", &["10.2.0.0/24"])]).unwrap_err().to_string();
        assert!(error.contains("10.1.0.0/24") && error.contains("10.2.0.0/24"), "{error}");
    }

    #[test]
    fn patience_ends_after_five_minutes() {
        // SYNC-17
        let mut cidrs = PodCidrs::new("a".into());
        assert!(cidrs.check(Duration::from_secs(299)).is_ok());
        assert!(cidrs.check(Duration::from_secs(300)).unwrap_err().to_string().contains("Node a"));
        cidrs.see(&[node("a", &["10.1.0.0/24"])]).unwrap();
        assert!(cidrs.check(Duration::from_secs(900)).is_ok());
    }
}
