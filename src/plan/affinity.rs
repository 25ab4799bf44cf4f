//! Session affinity (section 8): which backend a client that came before keeps.
//!
//! `bl_choose_affine()` in `bpf/lb.h` is the same decision.

use std::time::Duration;

use super::resolve::{Action, Verdict};
use super::table::{BackendId, Lookup, Which};

/// What is remembered of one client and ServicePort: a value of `bl_affinity_in` (AFF-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The backend that was chosen.
    pub backend: BackendId,
    /// Its generation then: the id may belong to another endpoint by now.
    pub generation: u32,
    /// When the last new connection was made, since any fixed moment (AFF-3).
    pub used: Duration,
}

/// The backend that a new connection keeps; `None` means a random choice of the verdict's set, which
/// is then remembered. The remembered one holds while it is in the set that *this* connection takes
/// (AFF-4), and until the ServicePort's seconds have passed since the last new connection (AFF-3).
pub fn keep(
    tables: &dyn Lookup,
    verdict: &Verdict,
    record: Option<&Record>,
    now: Duration,
) -> Option<BackendId> {
    if verdict.action != Action::Forward {
        return None;
    }
    let timeout = Duration::from_secs(verdict.affinity_seconds?.into());
    let record = record.filter(|record| now.saturating_sub(record.used) < timeout)?;
    let row = tables.backend(record.backend)?;
    let eligible = match verdict.which? {
        Which::Cluster => row.state.in_cluster,
        Which::Local => row.state.in_local,
    };
    let same = Some(row.service) == verdict.service && row.state.generation == record.generation;
    (same && eligible).then_some(record.backend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::addr::Protocol;
    use crate::model::flow::{ClientKind, Flow};
    use crate::model::service::Service;
    use crate::plan::fixture::*;
    use crate::plan::resolve::resolve;
    use crate::plan::world::World;

    const START: Duration = Duration::from_secs(1000);

    /// What a client keeps `after` seconds, of a Service with 100 s of affinity and two endpoints.
    fn kept(internal_local: bool, generation: u32, backend: u32, after: u64) -> Option<u32> {
        let mut world = World::new();
        world.apply(host_is(host()));
        let affinity_seconds = Some(100);
        world.apply(put(Service { affinity_seconds, internal_local, ..service("a", "172.30.0.1") }));
        let endpoints = vec![endpoint("10.0.0.1", "node-a"), endpoint("10.0.0.2", "node-b")];
        world.apply(put_slice(slice("a", "1", endpoints)));
        let tables = Holder::of(&world);
        let to = "172.30.0.1:80".parse().unwrap();
        let flow = Flow { from: ClientKind::Pod, client: None, to, protocol: Protocol::Tcp };
        let record = Record { backend: BackendId(backend), generation, used: START };
        let verdict = resolve(&tables, &flow);
        keep(&tables, &verdict, Some(&record), START + Duration::from_secs(after)).map(|id| id.0)
    }

    #[test]
    fn a_client_keeps_its_backend_until_the_time_is_over() {
        // AFF-3
        assert_eq!(kept(false, 1, 1, 99), Some(1));
        assert_eq!(kept(false, 1, 1, 100), None);
    }

    #[test]
    fn a_backend_outside_the_set_of_this_connection_is_not_kept() {
        // AFF-4
        assert_eq!(kept(true, 1, 0, 1), Some(0));
        assert_eq!(kept(true, 1, 1, 1), None);
    }

    #[test]
    fn an_id_that_belongs_to_another_endpoint_by_now_is_not_kept() {
        // AFF-5
        assert_eq!(kept(false, 2, 1, 1), None);
        assert_eq!(kept(false, 1, 9, 1), None);
    }
}
