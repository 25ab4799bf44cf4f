//! A container of a manifest, run by crun on a node of the sandbox, under what the manifest says and nothing
//! more: root file system, mounts, capabilities, seccomp and namespaces are what kubelet and containerd would
//! make of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use beeline::host::cgroup;
use beeline::host::process::{self, Place, ProcessId};
use beeline::sandbox::node::Node;
use k8s_openapi::api::core::v1::Container as Manifest;

use super::bundle_spec::Spec;
use super::image::Image;
use crate::workload::{Workload, command_line};

/// How long a container may take to say something, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// crun refuses machines that use both versions of cgroups, and leaves the cgroup alone that it is started in:
/// so it sees a machine of version 2 alone, in a mount namespace of its own.
const ALONE: &str = r#"mount --bind "$1" /sys/fs/cgroup && shift && exec "$@""#;

/// A node as a container runtime sees it: the paths of the machine that manifests name lead to the sandbox.
pub struct Machine<'a> {
    node: &'a Node,
    /// Everything the runtime and the containers write.
    dir: tempfile::TempDir,
    image: Image,
    paths: BTreeMap<String, PathBuf>,
    account: Option<PathBuf>,
}

impl<'a> Machine<'a> {
    /// A machine for `node`, with the image.
    pub fn new(node: &'a Node) -> Result<Machine<'a>> {
        let dir = tempfile::tempdir()?;
        let image = Image::build()?;
        for name in ["run", "manifests", "log", "modules"] {
            fs::create_dir(dir.path().join(name))?;
        }
        for name in ["kubelet.conf", "xtables.lock"] {
            fs::write(dir.path().join(name), "")?;
        }
        // As ALONE shows it.
        let below = node.cgroup_root().strip_prefix(cgroup::root()?)?;
        let paths = [
            ("/sys/fs/bpf", node.bpf_root().to_owned()),
            ("/sys/fs/cgroup", Path::new("/sys/fs/cgroup").join(below)),
            ("/run/beeline", dir.path().join("run")),
            ("/etc/kubernetes/kubelet.conf", dir.path().join("kubelet.conf")),
            ("/run/xtables.lock", dir.path().join("xtables.lock")),
            ("/lib/modules", dir.path().join("modules")),
        ];
        let paths = paths.into_iter().map(|(path, place)| (path.to_owned(), place)).collect();
        Ok(Machine { node, dir, image, paths, account: None })
    }

    /// What containers see as `/manifests`.
    pub fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// Where a path of the machine leads.
    pub fn path(&self, of_machine: &str) -> &Path {
        &self.paths[of_machine]
    }

    /// Gives the pods an account: a folder with `token` and `ca.crt`.
    pub fn set_account(&mut self, folder: &Path) {
        self.account = Some(folder.to_owned());
    }

    /// Starts a container of a workload with these arguments besides its own. `change` may alter what the manifest
    /// says.
    pub fn start(
        &self,
        workload: &Workload,
        name: &str,
        more: &[String],
        change: impl FnOnce(&mut Manifest),
    ) -> Result<Container> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("beeline-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bundle = self.dir.path().join(&id);
        fs::create_dir(&bundle)?;
        copy_links(&self.image.files(), &bundle.join("rootfs"))?;
        let mut manifest = workload.container(name).clone();
        change(&mut manifest);
        let mut line = command_line(&manifest, self.node.name());
        line.extend_from_slice(more);
        let spec = Spec {
            workload,
            container: &manifest,
            image: &self.image.config,
            command_line: &line,
            paths: &self.paths,
            bundle: &bundle,
            manifests: &self.manifests(),
            account: self.account.as_deref(),
        };
        fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(&spec.config()?)?)?;
        Container::run(self, id, &bundle)
    }

    /// Runs a container that ends by itself. Returns whether it was content, and all it said.
    pub fn finish(&self, workload: &Workload, name: &str, more: &[String]) -> Result<(bool, String)> {
        let mut container = self.start(workload, name, more, |_| {})?;
        let status = container.wait()?;
        Ok((status.success(), container.log()?))
    }
}

/// A copy of a tree that shares its files: the runtime makes mount points in it.
fn copy_links(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").args(["-a", "--link"]).arg(from).arg(to).status()?;
    ensure!(done.success(), "cp {} {}", from.display(), to.display());
    Ok(())
}

/// A container. Killed on drop.
pub struct Container {
    id: String,
    runtime: Child,
    state: PathBuf,
    log: PathBuf,
    pid_file: PathBuf,
}

impl Container {
    fn run(machine: &Machine, id: String, bundle: &Path) -> Result<Container> {
        let cgroup = machine.node.cgroup_root().join("agent");
        cgroup::create(&cgroup)?;
        let netns = machine.node.netns().as_fd().try_clone_to_owned()?;
        let log = machine.dir.path().join("log").join(&id);
        let state = machine.dir.path().join("crun");
        let pid_file = bundle.join("pid");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", ALONE, "sh"]).arg(cgroup::root()?).arg("crun");
        command.arg("--root").arg(&state).args(["--cgroup-manager=disabled", "run", "--bundle"]).arg(bundle);
        command.arg("--pid-file").arg(&pid_file).arg(&id);
        let out = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let place = Place { netns: Some(netns), cgroups: vec![cgroup] };
        let runtime = process::spawn(command, place)
            .context("these tests need a container runtime: apt-get install crun")?;
        Ok(Container { id, runtime, state, log, pid_file })
    }

    /// All that it said.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))
    }

    /// Waits until it says a line.
    pub fn says(&mut self, line: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.log()?.lines().any(|said| said == line) {
            if let Some(status) = self.runtime.try_wait()? {
                bail!("{status} before it said {line:?}:\n{}", self.log()?);
            }
            ensure!(Instant::now() < end, "it never said {line:?}:\n{}", self.log()?);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its process.
    pub fn process(&self) -> Result<ProcessId> {
        let text = fs::read_to_string(&self.pid_file).context("the container has no pid")?;
        ProcessId::of(text.trim().parse()?)
    }

    /// Ends it as kubelet does, and waits.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process()?.signal(libc::SIGTERM)?;
        self.wait()
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.runtime.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < end, "container {} does not end:\n{}", self.id, self.log()?);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let delete = ["delete", "--force", &self.id];
        let quiet = || Stdio::null();
        let _ = Command::new("crun").arg("--root").arg(&self.state).args(delete).stderr(quiet()).status();
        let _ = self.runtime.kill();
        let _ = self.runtime.wait();
    }
}
