//! The read side: [`Reader`] looks at pinned maps without a lock, whether an agent runs or not.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libbpf_rs::{MapCore, MapHandle};
use plain::Plain;

use super::scan::{scan_array, scan_hash, scan_keys};
use super::writer::{SIEVE, read_sieve};
use crate::datapath::load::GROUPS;
use crate::datapath::pins::{Side, Tree};
use crate::datapath::{sys, wire};
use crate::plan::table::{
    BackendId, BackendRow, Frontend, FrontendKey, FrontendKind, Limits, Lookup, Map, PrefixClass, Rows,
    ServiceId, ServiceName, ServiceRow, SetWord, Settings, Which,
};

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody programmed this node (exit code 3).
    #[error("no tables under {}: no agent has programmed this node; start one with `beeline run`, or name its --bpf-root", .root.display())]
    Absent {
        /// The tree.
        root: PathBuf,
    },
    /// The tables were written by a version with another layout.
    #[error("the tables under {} have another layout ({found}): use the version of beeline that wrote them", .root.display())]
    OtherLayout {
        /// The tree.
        root: PathBuf,
        /// The folders that are there.
        found: String,
    },
    /// A privilege is missing (exit code 4).
    #[error("{} may not be opened; reading the tables takes root, or CAP_BPF and group root", .path.display())]
    Denied {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pin cannot be opened for another reason.
    #[error("open {}: {message}", .path.display())]
    Broken {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        message: String,
    },
}

/// The pinned maps, read only.
#[derive(Debug)]
pub struct Reader {
    tree: Tree,
    pub(super) maps: Vec<(&'static str, MapHandle)>,
}

impl Reader {
    /// Opens the tables under a bpffs. Takes no lock and changes nothing.
    ///
    /// # Errors
    /// There are none, they have another layout, or a privilege is missing.
    pub fn open(bpf_root: &Path) -> Result<Reader, OpenError> {
        Reader::open_sides(&Tree::new(bpf_root), &[Side::Place; GROUPS.len()])
    }

    /// The same for folders that may not be in place yet.
    pub(crate) fn open_sides(tree: &Tree, sides: &[Side]) -> Result<Reader, OpenError> {
        let tree = tree.clone();
        let mut maps = Vec::new();
        for (group, side) in GROUPS.iter().zip(sides) {
            let dir = tree.dir(group, *side);
            for map in group.maps {
                maps.push((*map, open_map(&tree, &dir.join(map))?));
            }
        }
        Ok(Reader { tree, maps })
    }

    /// The tree it reads.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// A map of the skeleton by its name.
    pub(crate) fn map(&self, name: &str) -> &MapHandle {
        let found = self.maps.iter().find(|(known, _)| *known == name);
        &found.unwrap_or_else(|| panic!("{name} is a map of some group")).1
    }

    fn row<T: Plain + Default>(&self, map: &str, key: &[u8]) -> Option<T> {
        let map = self.map(map);
        let mut value = vec![0; map.value_size() as usize];
        let found = sys::lookup(map.as_fd(), key, &mut value).unwrap_or(false);
        found.then(|| wire::read(&value)).flatten()
    }

    /// The rows of an array. Rows that are all zero have never been used and are left out.
    pub(crate) fn array<T: Plain + Default>(&self, name: &str) -> io::Result<Vec<(u32, T)>> {
        let mut rows = Vec::new();
        scan_array(self.map(name), 0, u32::MAX, |row, value| {
            if value.iter().any(|byte| *byte != 0) {
                rows.extend(wire::read(value).map(|value| (row, value)));
            }
        })?;
        Ok(rows)
    }

    /// Every row of the tables, sorted by key: 100,000 backends in some 30 ms.
    ///
    /// # Errors
    /// A map could not be read.
    pub fn rows(&self) -> io::Result<Rows> {
        let mut rows = Rows { settings: self.settings(), ..Rows::default() };
        self.array_rows(&mut rows)?;
        self.hash_rows(&mut rows)?;
        rows.frontends.sort_unstable_by_key(|(key, _)| *key);
        rows.names.sort_unstable_by_key(|(id, _)| *id);
        rows.texts.sort_unstable_by_key(|(id, _)| *id);
        rows.prefixes.sort_unstable();
        rows.netns.sort_unstable();
        Ok(rows)
    }

    fn array_rows(&self, rows: &mut Rows) -> io::Result<()> {
        let services = self.array(Map::Services.name())?;
        let service = |(id, row)| (ServiceId(id), wire::read_service(&row));
        // Counters outlive the ServicePort: by them alone a row is not in use.
        let is_used = |(_, row): &(ServiceId, ServiceRow)| *row != ServiceRow::default();
        rows.services = services.into_iter().map(service).filter(is_used).collect();
        let backends = self.array::<wire::bl_backend>(Map::Backends.name())?;
        let mut slots: Vec<BackendId> = Vec::new();
        scan_array(self.map(Map::Slots.name()), 0, u32::MAX, |_, value| {
            slots.extend(wire::read(value).map(|slot| read_slot(&slot, &backends)));
        })?;
        for (id, row) in &rows.services {
            for which in Which::ALL.into_iter().filter(|which| row.sets[*which as usize].count > 0) {
                let ids = range_of(&slots, row.sets[which as usize]);
                rows.slots.push((*id, which, ids.to_vec()));
            }
        }
        let backend = |(id, row): (u32, wire::bl_backend)| (BackendId(id), wire::read_backend(&row));
        rows.backends =
            backends.into_iter().map(backend).filter(|(_, row)| row.state.generation != 0).collect();
        let endpoints = self.array(Map::Endpoints.name())?;
        let endpoint = |(id, row)| (BackendId(id), wire::read_endpoint(&row));
        rows.endpoints = endpoints.into_iter().map(endpoint).filter(|(_, info)| info.used).collect();
        Ok(())
    }

    fn hash_rows(&self, rows: &mut Rows) -> io::Result<()> {
        let sieve = read_sieve(self.map(SIEVE))?;
        scan_hash(self.map(Map::Frontends.name()), |key, value| {
            // What the sieve does not hold BPF does not find. Who is at home is a shortcut to these rows.
            let held = wire::read::<wire::bl_frontend_key>(key).filter(|raw| wire::sieve_holds(&sieve, raw));
            let Some(raw) = held else { return };
            let Some(value) = wire::read::<u64>(value).and_then(|value| wire::read_frontend(&raw, value))
            else {
                return;
            };
            rows.frontends.extend(wire::read_frontend_key(&raw).map(|key| (key, value)));
        })?;
        scan_hash(self.map(Map::Names.name()), |key, value| {
            let named =
                wire::read(key).zip(wire::read(value)).and_then(|(key, row)| wire::read_name(&key, &row));
            match named {
                Some(wire::Named::Service(id, name)) => rows.names.push((id, name)),
                Some(wire::Named::Text(id, text)) => rows.texts.push((id, text)),
                None => {}
            }
        })?;
        scan_hash(self.map(Map::Netns.name()), |key, value| {
            let class = wire::read::<u32>(value).and_then(wire::read_netns);
            rows.netns.extend(wire::read::<u64>(key).zip(class));
        })?;
        scan_keys(self.map(Map::Prefixes.name()), |key| {
            rows.prefixes.extend(wire::read(key).and_then(|key| wire::read_prefix(&key)));
        })
    }

    /// The ServicePort that a frontend is at home with.
    fn home(&self, key: &wire::bl_frontend_key) -> Option<ServiceId> {
        let services = Map::Services.name();
        let is_there = |row: &u32| {
            let row = self.row(services, &row.to_ne_bytes());
            let home = row.and_then(|row| wire::read_home(&row));
            home.is_some_and(|home| wire::bytes(&home) == wire::bytes(key))
        };
        wire::homes(key, self.map(services).max_entries()).into_iter().find(is_there).map(ServiceId)
    }

    /// The texts of `bl_names` by id, for one row.
    pub fn text(&self, id: crate::plan::table::TextId) -> Option<Arc<str>> {
        let key = wire::text_key(id);
        match wire::read_name(&key, &self.row(Map::Names.name(), wire::bytes(&key))?)? {
            wire::Named::Text(_, text) => Some(text),
            wire::Named::Service(..) => None,
        }
    }

    /// The sizes of the maps that grow.
    pub fn limits(&self) -> Limits {
        let max = |map: Map| self.map(map.name()).max_entries();
        Limits {
            frontends: max(Map::Frontends),
            services: max(Map::Services),
            slots: max(Map::Slots),
            backends: max(Map::Backends),
            names: max(Map::Names),
        }
    }
}

impl Lookup for Reader {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        let key = wire::frontend_key(key);
        if !wire::sieve_holds(&read_sieve(self.map(SIEVE)).ok()?, &key) {
            return None;
        }
        if let Some(id) = self.home(&key) {
            return Some(at_home(id));
        }
        wire::read_frontend(&key, self.row::<u64>(Map::Frontends.name(), wire::bytes(&key))?)
    }

    fn service(&self, id: ServiceId) -> Option<ServiceRow> {
        let row = wire::read_service(&self.row(Map::Services.name(), &id.0.to_ne_bytes())?);
        row.policy.used.then_some(row)
    }

    fn slots(&self, set: SetWord) -> Vec<BackendId> {
        let mut slots = Vec::new();
        let read = scan_array(self.map(Map::Slots.name()), set.base, set.count, |_, value| {
            slots.extend(wire::read::<wire::bl_slot>(value));
        });
        let is_true = |slot: &wire::bl_slot| {
            let row = self.row::<wire::bl_backend>(Map::Backends.name(), &slot.backend.to_ne_bytes());
            row.is_some_and(|row| says(slot, &row))
        };
        let id = |slot: &wire::bl_slot| if is_true(slot) { BackendId(slot.backend) } else { BackendId(0) };
        read.map(|()| slots.iter().map(id).collect()).unwrap_or_default()
    }

    fn backend(&self, id: BackendId) -> Option<BackendRow> {
        let row = wire::read_backend(&self.row(Map::Backends.name(), &id.0.to_ne_bytes())?);
        (row.state.generation != 0).then_some(row)
    }

    fn name(&self, id: ServiceId) -> Option<ServiceName> {
        let row = self.row(Map::Names.name(), wire::bytes(&wire::service_key(id)))?;
        wire::read_service_name(&row)
    }

    fn covers(&self, class: PrefixClass, addr: IpAddr) -> bool {
        self.row::<u32>(Map::Prefixes.name(), wire::bytes(&wire::prefix_probe(class, addr))).is_some()
    }

    fn settings(&self) -> Settings {
        self.row(Map::Agent.name(), &0u32.to_ne_bytes()).map(|row| wire::read_agent(&row)).unwrap_or_default()
    }
}

/// The value of a frontend that is at home.
fn at_home(id: ServiceId) -> Frontend {
    Frontend { service: Some(id), kind: FrontendKind::ClusterIp }
}

/// The backend of a slot, among those of `bl_backends` sorted by id; 0, which is none, if the slot does not
/// say what the backend's row says.
fn read_slot(slot: &wire::bl_slot, backends: &[(u32, wire::bl_backend)]) -> BackendId {
    let row = backends.binary_search_by_key(&slot.backend, |(id, _)| *id);
    if row.is_ok_and(|at| says(slot, &backends[at].1)) { BackendId(slot.backend) } else { BackendId(0) }
}

/// Whether a slot says what its backend's row says.
fn says(slot: &wire::bl_slot, row: &wire::bl_backend) -> bool {
    wire::bytes(slot) == wire::bytes(&wire::slot(BackendId(slot.backend), row))
}

/// The slots of a set, as far as they exist.
fn range_of(slots: &[BackendId], set: SetWord) -> &[BackendId] {
    let start = (set.base as usize).min(slots.len());
    &slots[start..start.saturating_add(set.count as usize).min(slots.len())]
}

fn open_map(tree: &Tree, path: &Path) -> Result<MapHandle, OpenError> {
    MapHandle::from_pinned_path_with_file_flags(path, libbpf_sys::BPF_F_RDONLY).map_err(|e| match e.kind() {
        libbpf_rs::ErrorKind::NotFound => missing(tree),
        libbpf_rs::ErrorKind::PermissionDenied => {
            let path = path.to_owned();
            OpenError::Denied { path, source: io::ErrorKind::PermissionDenied.into() }
        }
        _ => OpenError::Broken { path: path.to_owned(), message: e.to_string() },
    })
}

fn missing(tree: &Tree) -> OpenError {
    let (root, found) = (tree.root().to_owned(), tree.strangers());
    if found.is_empty() {
        OpenError::Absent { root }
    } else {
        OpenError::OtherLayout { root, found: found.join(", ") }
    }
}
