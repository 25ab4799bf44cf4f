//! Loading: one skeleton, opened once per unit with only that unit's programs, so that a kernel that
//! rejects one unit keeps the others. Maps are shared between units through their pins.

use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{fs, io};

use anyhow::{Context, Result, anyhow};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, MapHandle, Object, PrintLevel, set_print};

use super::skel::{BeelineSkelBuilder, OpenBeelineSkel};
use super::{sys, wire};
use crate::plan::table::Map;

include!(concat!(env!("OUT_DIR"), "/layout.rs"));

/// Maps that change their layout together and are pinned in one folder, `NAME-LAYOUT`.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// `tables` or `flow`.
    pub name: &'static str,
    /// Hash of the types of its maps, made by `build.rs`.
    pub layout: &'static str,
    /// Its maps.
    pub maps: &'static [&'static str],
}

/// The group a map belongs to.
pub fn group_of(map: &str) -> Option<&'static Group> {
    GROUPS.iter().find(|group| group.maps.contains(&map))
}

/// Programs that are loaded, or rejected, together.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// `socket`.
    pub name: &'static str,
    /// The feature of `status` that goes with it.
    pub feature: &'static str,
    /// Its programs, in the order of attachment: whatever undoes a translation comes before whatever makes one.
    pub programs: &'static [&'static str],
}

/// The socket path.
pub const SOCKET: Unit = Unit {
    name: "socket",
    feature: "socket_lb",
    programs: &[
        "bl_sock_release",
        "bl_getpeername4",
        "bl_getpeername6",
        "bl_recvmsg4",
        "bl_recvmsg6",
        "bl_sendmsg4",
        "bl_sendmsg6",
        "bl_connect4",
        "bl_connect6",
    ],
};

/// Constants of the programs (`bpf/config.h`), set before they are loaded. They change no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// The kernel has `bpf_set_retval()`: a refusal can be ECONNREFUSED instead of EPERM.
    pub has_set_retval: bool,
    /// Programs may read the kernel's memory.
    pub may_read_kernel: bool,
    /// Stored choices are compared with their backend's generation. Only tests switch that off.
    pub check_generation: bool,
}

impl Knobs {
    /// What this kernel allows, everything checked.
    pub fn probe() -> Knobs {
        Knobs {
            has_set_retval: super::kernel::has_set_retval(),
            may_read_kernel: super::kernel::may_read_kernel(),
            ..Knobs::ordinary()
        }
    }

    /// For programs that read no knob.
    pub(crate) const fn ordinary() -> Knobs {
        Knobs { has_set_retval: false, may_read_kernel: true, check_generation: true }
    }
}

/// Where the programs of [`SOCKET`] go, in its order.
pub(crate) const SOCKET_ATTACH_TYPES: [u32; 9] = [
    libbpf_sys::BPF_CGROUP_INET_SOCK_RELEASE,
    libbpf_sys::BPF_CGROUP_INET4_GETPEERNAME,
    libbpf_sys::BPF_CGROUP_INET6_GETPEERNAME,
    libbpf_sys::BPF_CGROUP_UDP4_RECVMSG,
    libbpf_sys::BPF_CGROUP_UDP6_RECVMSG,
    libbpf_sys::BPF_CGROUP_UDP4_SENDMSG,
    libbpf_sys::BPF_CGROUP_UDP6_SENDMSG,
    libbpf_sys::BPF_CGROUP_INET4_CONNECT,
    libbpf_sys::BPF_CGROUP_INET6_CONNECT,
];

/// The program that learns the cookie of the own network namespace, attached for a moment.
pub(crate) const LEARN_NETNS: Unit =
    Unit { name: "aid", feature: "socket_lb", programs: &["bl_learn_netns"] };

/// One map of a load.
#[derive(Clone, Debug)]
pub struct Place {
    /// The map.
    pub map: &'static str,
    /// A pin that is there is re-used, else the map is created and pinned there. `None`: not pinned.
    pub pin: Option<PathBuf>,
    /// `max_entries`; `None` as `bpf/maps.h` says.
    pub size: Option<u32>,
}

/// Where the maps of a load lie and how large they are. Maps that are not named are not created.
pub type Placement = Vec<Place>;

/// Every map of every group in its smallest form, pinned nowhere: for loads that are never attached.
fn scratch() -> Placement {
    let maps = GROUPS.iter().flat_map(|group| group.maps);
    maps.map(|map| Place { map, pin: None, size: Some(1) }).collect()
}

/// A loaded program. It lives as long as this descriptor or a link.
#[derive(Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// The descriptor.
    pub fd: OwnedFd,
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
    /// The kernel's hash of its instructions, in hex.
    pub tag: String,
}

/// A loaded unit.
#[derive(Debug)]
pub struct Loaded {
    /// In the order of [`Unit::programs`].
    pub programs: Vec<Program>,
    /// The maps of the placement.
    pub maps: Vec<(&'static str, MapHandle)>,
}

/// Loads a unit: maps first (from their pins where they exist), then its programs.
///
/// # Errors
/// The kernel refused a map or a program. The message names unit and feature, and ends with the
/// last lines of libbpf's log; the whole log is saved to `log`.
pub fn load(unit: &Unit, placement: &[Place], knobs: Knobs, log: &Path) -> Result<Loaded> {
    let capture = Capture::start();
    let loaded = try_load(unit, placement, knobs);
    let text = capture.finish();
    loaded.map_err(|e| explain(unit, &e, &text, log))
}

fn try_load(unit: &Unit, placement: &[Place], knobs: Knobs) -> Result<Loaded> {
    let mut storage = MaybeUninit::uninit();
    let mut open = BeelineSkelBuilder::default().open(&mut storage).context("open the skeleton")?;
    set_constants(&mut open, knobs, placement);
    place(&mut open, placement)?;
    for mut program in open.open_object_mut().progs_mut() {
        let wanted = unit.programs.iter().any(|known| program.name() == *known);
        program.set_autoload(wanted);
    }
    let skel = open.load()?;
    collect(unit, placement, skel.object())
}

/// Sets the constants of `bpf/config.h`.
fn set_constants(open: &mut OpenBeelineSkel<'_>, knobs: Knobs, placement: &[Place]) {
    let services = placement.iter().find(|place| place.map == Map::Services.name());
    if let Some(rodata) = &mut open.maps.rodata_data {
        rodata.bl_has_set_retval = knobs.has_set_retval;
        rodata.bl_may_read_kernel = knobs.may_read_kernel;
        rodata.bl_check_generation = knobs.check_generation;
        rodata.bl_home_mask = wire::home_mask(services.and_then(|place| place.size).unwrap_or(1));
    }
}

/// Sets pins and sizes; maps that are not placed are not created.
fn place(open: &mut OpenBeelineSkel<'_>, placement: &[Place]) -> Result<()> {
    for mut map in open.open_object_mut().maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if !name.starts_with("bl_") {
            continue;
        }
        let Some(place) = placement.iter().find(|place| place.map == name) else {
            map.set_autocreate(false).with_context(|| format!("leave {name} out"))?;
            continue;
        };
        if let Some(size) = place.size {
            map.set_max_entries(size).with_context(|| format!("size {name} to {size}"))?;
        }
        if let Some(path) = &place.pin {
            map.set_pin_path(path).with_context(|| format!("pin {name} at {}", path.display()))?;
        }
    }
    Ok(())
}

fn collect(unit: &Unit, placement: &[Place], object: &Object) -> Result<Loaded> {
    let mut programs = Vec::new();
    for name in unit.programs {
        let program = object
            .progs_mut()
            .find(|program| program.name() == *name)
            .with_context(|| format!("the skeleton has no program {name}"))?;
        let fd = program.as_fd().try_clone_to_owned().with_context(|| format!("keep {name}"))?;
        let attach_type = program.attach_type() as u32;
        let tag = sys::prog_facts(fd.as_fd()).with_context(|| format!("ask for {name}"))?.tag;
        programs.push(Program { name, fd, attach_type, tag });
    }
    let mut maps = Vec::new();
    for Place { map: name, pin, .. } in placement {
        let map = object
            .maps()
            .find(|map| map.name() == *name)
            .with_context(|| format!("the skeleton has no map {name}"))?;
        if let Some(path) = pin {
            restrict(path)?;
        }
        maps.push((*name, MapHandle::try_from(&map).with_context(|| format!("keep {name}"))?));
    }
    Ok(Loaded { programs, maps })
}

/// Pins are for root, and for the group to read.
pub(crate) fn restrict(pin: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(pin, fs::Permissions::from_mode(0o640))
        .with_context(|| format!("chmod 0640 {}", pin.display()))
}

/// The tags of a unit's programs as this binary ships them: loaded against maps of their own, never attached.
///
/// # Errors
/// As [`load`], without a saved log.
pub fn shipped_tags(unit: &Unit, knobs: Knobs) -> Result<Vec<(&'static str, String)>> {
    let capture = Capture::start();
    let loaded = try_load(unit, &scratch(), knobs);
    drop(capture.finish());
    let loaded =
        loaded.with_context(|| format!("load the programs of unit {} to compare them", unit.name))?;
    Ok(loaded.programs.into_iter().map(|program| (program.name, program.tag)).collect())
}

/// Collects what libbpf prints while it lives. libbpf's callback is one for the process, so loads take turns.
struct Capture {
    _turn: std::sync::MutexGuard<'static, ()>,
    before: Option<(PrintLevel, libbpf_rs::PrintCallback)>,
}

static TURN: Mutex<()> = Mutex::new(());
static PRINTED: Mutex<String> = Mutex::new(String::new());

impl Capture {
    fn start() -> Capture {
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        printed().clear();
        let before = set_print(Some((PrintLevel::Warn, |_, text| printed().push_str(&text))));
        Capture { _turn: turn, before }
    }

    fn finish(self) -> String {
        set_print(self.before);
        std::mem::take(&mut printed())
    }
}

fn printed() -> std::sync::MutexGuard<'static, String> {
    PRINTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How many lines of a verifier's log an error carries.
const SHOWN: usize = 12;

/// The error of a load, with what libbpf said.
fn explain(unit: &Unit, error: &anyhow::Error, printed: &str, log: &Path) -> anyhow::Error {
    let program = rejected(printed).map_or_else(String::new, |name| format!(", program {name}"));
    let mut text =
        format!("the kernel does not take unit {} (feature {}){program}: {error:#}", unit.name, unit.feature);
    if printed.is_empty() {
        return anyhow!(text);
    }
    let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
    for line in &lines[lines.len().saturating_sub(SHOWN)..] {
        let _ = write!(text, "\n  {line}");
    }
    match save(log, printed) {
        Ok(()) => {
            let _ = write!(
                text,
                "\nthe whole log is in {}; `beeline doctor` says what this kernel lacks",
                log.display()
            );
        }
        Err(e) => {
            let _ = write!(text, "\nthe whole log could not be saved to {}: {e}", log.display());
        }
    }
    anyhow!(text)
}

/// The program libbpf names as the one that was rejected.
fn rejected(printed: &str) -> Option<&str> {
    let (_, after) = printed.split_once("prog '")?;
    after.split_once('\'').map(|(name, _)| name)
}

fn save(log: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(log, text)
}
