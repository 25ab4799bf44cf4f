//! Attachment: one pinned link per program at the cgroup2 root. An existing link takes the new program in
//! one atomic step, so that an upgrade goes unnoticed.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use super::load::{Program, Unit};
use super::pins::{Tree, make_dir, names};
use super::{load, sys};

/// A cgroup v2 folder to attach to.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: File,
    id: u64,
}

impl Cgroup {
    /// Opens the folder.
    ///
    /// # Errors
    /// It does not exist or is no cgroup v2.
    pub fn open(path: &Path) -> Result<Cgroup> {
        let dir = File::open(path).with_context(|| format!("open the cgroup {}", path.display()))?;
        let fs = nix::sys::statfs::fstatfs(&dir).with_context(|| format!("look at {}", path.display()))?;
        if fs.filesystem_type() != nix::sys::statfs::CGROUP2_SUPER_MAGIC {
            let shown = path.display();
            bail!(
                "{shown} is not a cgroup v2: mount one (mount -t cgroup2 cgroup2 {shown}), or name one with --cgroup-root"
            );
        }
        // The id of a cgroup is the inode number of its folder.
        let id = dir.metadata().with_context(|| format!("look at {}", path.display()))?.ino();
        Ok(Cgroup { path: path.to_owned(), dir, id })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Attaches a program for as long as the link lives.
    pub(crate) fn link(&self, program: &Program) -> Result<OwnedFd> {
        sys::link_create(program.fd.as_fd(), self.dir.as_fd(), program.attach_type).map_err(|e| {
            let refused = e.raw_os_error() == Some(libc::EPERM);
            let in_the_way = if refused { shut_out(self, program.attach_type) } else { None };
            let what = format!("attach {} to cgroup {}", program.name, self.path.display());
            anyhow!(in_the_way.unwrap_or_else(|| e.to_string())).context(what)
        })
    }
}

/// What became of one program's attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The program.
    pub name: String,
    /// The kernel's hash of the attached program's instructions, in hex; `None` if it is not attached.
    pub loaded_tag: Option<String>,
    /// Why it is not attached, or not where it should be.
    pub problem: Option<String>,
}

/// Attaches the programs of a unit, in its order, or has the pinned links take them.
///
/// Either all are attached or, if one fails, every link is again what it was: half of a translation is worse
/// than none, and links that read different tables are worse than old ones.
///
/// # Errors
/// Names the program and the cgroup, and for a foreign program in the way its id and name. What could not be
/// taken back after that is named as well.
pub fn attach(tree: &Tree, cgroup: &Cgroup, programs: &[Program]) -> Result<()> {
    make_dir(&tree.links())?;
    let mut steps = Vec::new();
    for program in programs {
        match attach_one(&tree.links().join(program.name), cgroup, program) {
            Ok(step) => steps.push(step),
            Err(e) => {
                let failed = steps.into_iter().rev().filter_map(|step| step.undo().err());
                return Err(failed.fold(e, |e, undo| e.context(format!("not taken back: {undo:#}"))));
            }
        }
    }
    // The programs that translate go first, as always.
    steps.into_iter().rev().for_each(Step::keep);
    Ok(())
}

/// What was done about one program, and what it takes to undo it.
struct Step {
    pin: PathBuf,
    link: OwnedFd,
    before: Before,
}

/// What was at a pin before.
enum Before {
    /// The same link, with this program.
    Program(OwnedFd),
    /// Another link. While it is held it serves its cgroup, if it has one.
    Link(OwnedFd),
    Nothing,
}

impl Step {
    /// Makes it final: a link that was replaced serves no more.
    fn keep(self) {
        if let Before::Link(old) = self.before {
            // One that leads nowhere has nothing to detach; any other goes with its last descriptor.
            let _ = sys::link_detach(old.as_fd());
        }
    }

    /// Puts back what was there.
    fn undo(self) -> Result<()> {
        let Step { pin, link, before } = self;
        match before {
            Before::Program(old) => sys::link_update(link.as_fd(), old.as_fd())
                .with_context(|| format!("put the old program back into the link {}", pin.display())),
            Before::Link(old) => {
                let _ = sys::link_detach(link.as_fd());
                put(old.as_fd(), &pin)
            }
            Before::Nothing => detach(&pin),
        }
    }
}

/// Has the pinned link take the program, or makes a new link if there is none, or one that leads nowhere or
/// elsewhere.
fn attach_one(pin: &Path, cgroup: &Cgroup, program: &Program) -> Result<Step> {
    let before = match sys::get(pin) {
        Ok(link) => match take_over(&link, cgroup, program.fd.as_fd()) {
            Ok(Some(old)) => return Ok(Step { pin: pin.to_owned(), link, before: Before::Program(old) }),
            Ok(None) => Before::Link(link),
            Err(e) => return Err(e).with_context(|| format!("the link {}", pin.display())),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Before::Nothing,
        Err(e) => return Err(e).with_context(|| format!("open the link {}", pin.display())),
    };
    let link = cgroup.link(program)?;
    put(link.as_fd(), pin)?;
    Ok(Step { pin: pin.to_owned(), link, before })
}

/// Has a link take a program and returns the one it had; `None` if the link is not one of this cgroup.
fn take_over(link: &OwnedFd, cgroup: &Cgroup, program: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let facts = sys::link_facts(link.as_fd())?;
    if facts.cgroup_id != cgroup.id {
        return Ok(None);
    }
    let old = sys::prog_by_id(facts.prog_id).with_context(|| format!("open program {}", facts.prog_id))?;
    match sys::link_update(link.as_fd(), program) {
        Ok(()) => Ok(Some(old)),
        // The link was detached by force (`bpftool link detach`), or its cgroup is gone.
        Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => Ok(None),
        Err(e) => Err(e).context("put the new program into it"),
    }
}

/// Pins a link, in the place of another one if there is one.
///
/// A kill may leave the pin aside: [`remove_unknown`] detaches it.
fn put(link: BorrowedFd<'_>, pin: &Path) -> Result<()> {
    let aside = PathBuf::from(format!("{}-new", pin.display()));
    if aside.exists() {
        detach(&aside)?;
    }
    sys::pin(link, &aside).with_context(|| format!("pin a link at {}", aside.display()))?;
    let renamed = load::restrict(&aside).and_then(|()| {
        fs::rename(&aside, pin).with_context(|| format!("put {} in its place", aside.display()))
    });
    renamed.inspect_err(|_| {
        let _ = fs::remove_file(&aside);
    })
}

/// A program of somebody else where one of ours belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The place, by our program's name: `bl_connect4`.
    pub hook: &'static str,
    /// `program 17 (name)`.
    pub program: String,
    /// The cgroup it is attached to: ours, or one above.
    pub cgroup: PathBuf,
    /// It was attached with flags that shut all others out.
    pub exclusive: bool,
}

impl Foreign {
    /// It is one of Beeline's own programs, of another tree.
    pub fn is_beeline(&self) -> bool {
        self.program.contains(&format!("({})", self.hook))
    }
}

/// Programs of others at the hooks of [`SOCKET`](load::SOCKET), here and in the cgroups above.
///
/// # Errors
/// The cgroup cannot be opened or, for want of a privilege, not be asked.
pub fn foreign(tree: &Tree, cgroup: &Path) -> Result<Vec<Foreign>> {
    let ours = linked_programs(tree);
    let mut found = Vec::new();
    for (hook, attach_type) in load::SOCKET.programs.iter().zip(load::SOCKET_ATTACH_TYPES) {
        let mut seen = at_or_above(&Cgroup::open(cgroup)?, attach_type)
            .with_context(|| format!("ask what is attached to {} beside {hook}", cgroup.display()))?;
        seen.retain(|one| !ours.contains(&one.id));
        found.extend(seen.into_iter().map(|one| Foreign {
            hook,
            program: describe(one.id),
            cgroup: one.cgroup,
            exclusive: one.exclusive,
        }));
    }
    Ok(found)
}

/// A program somewhere on the way up.
struct Seen {
    id: u32,
    cgroup: PathBuf,
    exclusive: bool,
}

/// What is attached to the cgroup and to those above it, as far as they are visible.
fn at_or_above(cgroup: &Cgroup, attach_type: u32) -> io::Result<Vec<Seen>> {
    let mut found = Vec::new();
    for (depth, path) in cgroup.path.ancestors().enumerate() {
        let Ok(dir) = Cgroup::open(path) else { break };
        let (ids, flags) = match sys::prog_query(dir.dir.as_fd(), attach_type) {
            Ok(answer) => answer,
            Err(e) if depth == 0 => return Err(e),
            Err(_) => break,
        };
        let exclusive = flags & libbpf_sys::BPF_F_ALLOW_MULTI == 0;
        found.extend(ids.into_iter().map(|id| Seen { id, cgroup: path.to_owned(), exclusive }));
    }
    Ok(found)
}

/// Names the program that shuts others out, if one does.
fn shut_out(cgroup: &Cgroup, attach_type: u32) -> Option<String> {
    let seen = at_or_above(cgroup, attach_type).ok()?.into_iter().find(|seen| seen.exclusive)?;
    Some(format!(
        "{} is attached at {} with flags that allow no other: detach it (bpftool cgroup detach), or have its owner attach it with the flag multi",
        describe(seen.id),
        seen.cgroup.display()
    ))
}

fn describe(id: u32) -> String {
    let facts = sys::prog_by_id(id).and_then(|prog| sys::prog_facts(prog.as_fd()));
    facts.map_or_else(|_| format!("program {id}"), |facts| format!("program {id} ({})", facts.name))
}

/// The ids of the programs in the pinned links.
fn linked_programs(tree: &Tree) -> Vec<u32> {
    let id = |name: String| sys::get(&tree.links().join(name)).and_then(|link| sys::link_facts(link.as_fd()));
    names(&tree.links()).into_iter().filter_map(|name| Some(id(name).ok()?.prog_id)).collect()
}

/// What is attached now, program by program. `cgroup` is where it should be, if the caller knows.
pub fn inspect(tree: &Tree, unit: &Unit, cgroup: Option<&Cgroup>) -> Vec<Attachment> {
    unit.programs.iter().map(|name| inspect_one(tree, name, cgroup)).collect()
}

fn inspect_one(tree: &Tree, name: &str, cgroup: Option<&Cgroup>) -> Attachment {
    let found =
        sys::get(&tree.links().join(name)).and_then(|link| sys::link_facts(link.as_fd())).and_then(|link| {
            let facts = sys::prog_by_id(link.prog_id).and_then(|prog| sys::prog_facts(prog.as_fd()))?;
            Ok((link.cgroup_id, facts.tag))
        });
    let problem = match &found {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Some("not attached: no agent has attached it, or its link was removed".into())
        }
        Err(e) => Some(format!("its link cannot be read: {e}")),
        Ok((0, _)) => Some(
            "detached: its cgroup is gone, or it was detached by force; a start of the agent attaches it"
                .into(),
        ),
        Ok((id, _)) => cgroup
            .filter(|cgroup| cgroup.id != *id)
            .map(|cgroup| format!("attached to another cgroup (id {id}) than {}", cgroup.path.display())),
    };
    Attachment {
        name: name.to_owned(),
        loaded_tag: found.ok().filter(|(id, _)| *id != 0).map(|(_, tag)| tag),
        problem,
    }
}

/// Whether a program's link is pinned and holds it at a cgroup. Asks the link alone, which takes no privilege
/// beyond opening the pin.
pub fn is_attached(tree: &Tree, name: &str) -> bool {
    let facts = sys::get(&tree.links().join(name)).and_then(|link| sys::link_facts(link.as_fd()));
    facts.is_ok_and(|facts| facts.cgroup_id != 0)
}

/// Removes pinned links of programs that this version does not have, and those that a kill left aside.
pub(crate) fn remove_unknown(tree: &Tree, units: &[Unit]) -> Result<()> {
    let known = |name: &str| units.iter().any(|unit| unit.programs.contains(&name));
    for name in names(&tree.links()).iter().filter(|name| !known(name)) {
        detach(&tree.links().join(name))?;
    }
    Ok(())
}

/// Detaches everything: the programs that translate first.
pub(crate) fn detach_all(tree: &Tree, units: &[Unit]) -> Result<Vec<String>> {
    let mut pinned = names(&tree.links());
    let order =
        |name: &String| units.iter().find_map(|unit| unit.programs.iter().position(|known| known == name));
    pinned.sort_by_key(|name| std::cmp::Reverse(order(name)));
    for name in &pinned {
        detach(&tree.links().join(name))?;
    }
    Ok(pinned)
}

/// Detaches the program of a pinned link, and unpins it.
fn detach(pin: &Path) -> Result<()> {
    // What cannot be opened or detached goes with its pin.
    let _ = sys::get(pin).and_then(|link| sys::link_detach(link.as_fd()));
    fs::remove_file(pin).with_context(|| format!("remove the link {}", pin.display()))
}
