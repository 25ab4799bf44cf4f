//! The runtime configuration (`config.json` of the OCI) that kubelet and containerd make of a container.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use beeline::host::caps;
use k8s_openapi::api::core::v1::{Container, SecurityContext, Volume, VolumeMount};
use serde_json::{Value, json};

use crate::workload::Workload;

/// Debian's golang-github-containers-common: the default profile of podman and CRI-O. It lets bpf(2) pass with
/// CAP_SYS_ADMIN alone, so it is the strictest there is for us.
const SECCOMP: &str = "/usr/share/containers/seccomp.json";

/// Where kubelet shows a pod its account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What containerd hides, and what it makes read-only, of a container that is not privileged.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// All capabilities there are in Linux 5.10 and later, in the order of their numbers.
const ALL_CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP \
    LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO \
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE \
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON \
    BPF CHECKPOINT_RESTORE";

/// A container, and where on this machine its things are.
pub struct Spec<'a> {
    pub workload: &'a Workload,
    pub container: &'a Container,
    /// The image's own configuration.
    pub image: &'a Value,
    pub command_line: &'a [String],
    pub paths: &'a BTreeMap<String, PathBuf>,
    pub bundle: &'a Path,
    /// Mounted at `/manifests`, besides what the manifest says.
    pub manifests: &'a Path,
    /// The account of the pod: `token` and `ca.crt`.
    pub account: Option<&'a Path>,
}

impl Spec<'_> {
    /// The whole configuration.
    pub fn config(&self) -> Result<Value> {
        let context = self.container.security_context.clone().unwrap_or_default();
        let privileged = context.privileged == Some(true);
        let capabilities = capabilities(&context)?;
        let mut linux = json!({
            "namespaces": self.namespaces(privileged),
            "rootfsPropagation": "rslave",
            "maskedPaths": if privileged { &[][..] } else { &MASKED },
            "readonlyPaths": if privileged { &[][..] } else { &READ_ONLY },
        });
        let profile = context.seccomp_profile.as_ref().map(|profile| profile.type_.as_str());
        if !privileged && profile == Some("RuntimeDefault") {
            linux["seccomp"] = seccomp(&capabilities)?;
        }
        Ok(json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs", "readonly": context.read_only_root_filesystem == Some(true)},
            "process": {
                "args": self.command_line,
                "cwd": self.image["WorkingDir"],
                "env": self.image["Env"],
                "user": {"uid": context.run_as_user.unwrap_or(0), "gid": context.run_as_group.unwrap_or(0)},
                "noNewPrivileges": context.allow_privilege_escalation == Some(false),
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "mounts": self.mounts(privileged)?,
            "linux": linux,
        }))
    }

    /// What is the container's own: with hostNetwork, neither network nor host name. A cgroup namespace is
    /// what containerd gives to all but privileged containers.
    fn namespaces(&self, privileged: bool) -> Vec<Value> {
        let mut own = vec!["mount", "ipc"];
        if self.workload.pod().host_pid != Some(true) {
            own.push("pid");
        }
        if !privileged {
            own.push("cgroup");
        }
        own.into_iter().map(|kind| json!({"type": kind})).collect()
    }

    fn mounts(&self, privileged: bool) -> Result<Vec<Value>> {
        let sys = if privileged { "rw" } else { "ro" };
        let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
        let mut mounts = vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        ];
        if privileged {
            // The whole tree; the cgroup namespace shows others their part of it.
            let cgroup = self.paths.get("/sys/fs/cgroup");
            mounts
                .push(json!({"destination": "/sys/fs/cgroup", "source": cgroup, "options": ["bind", "rw"]}));
        }
        for wanted in self.container.volume_mounts.iter().flatten() {
            mounts.push(self.volume_mount(wanted)?);
        }
        let own = [("/manifests", Some(self.manifests)), (ACCOUNT, self.account)];
        for (at, source) in own.into_iter().filter_map(|(at, source)| Some((at, source?))) {
            mounts.push(json!({"destination": at, "source": source, "options": ["bind", "ro"]}));
        }
        Ok(mounts)
    }

    fn volume_mount(&self, wanted: &VolumeMount) -> Result<Value> {
        let volumes = self.workload.pod().volumes.iter().flatten();
        let volume = volumes.into_iter().find(|volume| volume.name == wanted.name);
        let volume = volume.with_context(|| format!("there is no volume {}", wanted.name))?;
        let propagation = match wanted.mount_propagation.as_deref() {
            Some("Bidirectional") => "rshared",
            Some("HostToContainer") => "rslave",
            _ => "rprivate",
        };
        let access = if wanted.read_only == Some(true) { "ro" } else { "rw" };
        Ok(json!({
            "destination": wanted.mount_path,
            "source": self.source(volume)?,
            "options": ["rbind", propagation, access],
        }))
    }

    /// Where a volume's content lies. ConfigMaps are written out; an optional one that is missing is empty.
    fn source(&self, volume: &Volume) -> Result<PathBuf> {
        if let Some(host) = &volume.host_path {
            let place = self.paths.get(&host.path);
            return place.cloned().with_context(|| format!("no place stands for {}", host.path));
        }
        let map =
            volume.config_map.as_ref().with_context(|| format!("volume {}: what is it", volume.name))?;
        let dir = self.bundle.join("volumes").join(&volume.name);
        fs::create_dir_all(&dir)?;
        let data = self.workload.config_maps.get(&map.name);
        ensure!(data.is_some() || map.optional == Some(true), "there is no ConfigMap {}", map.name);
        for (name, text) in data.into_iter().flatten() {
            fs::write(dir.join(name), text)?;
        }
        Ok(dir)
    }
}

/// What a container may do. All containers here drop the runtime's own choice. What this process may not do
/// itself it cannot pass on; a runtime on such a machine could not either.
fn capabilities(context: &SecurityContext) -> Result<Vec<String>> {
    let asked = context.capabilities.clone().unwrap_or_default();
    let (added, dropped) = (asked.add.unwrap_or_default(), asked.drop.unwrap_or_default());
    let all = context.privileged == Some(true);
    ensure!(all || dropped.iter().any(|name| name == "ALL"), "the runtime's own capabilities are kept");
    let ours = caps::effective()?;
    let known: Vec<&str> = ALL_CAPABILITIES.split_whitespace().collect();
    let unknown = added.iter().find(|name| !known.contains(&name.as_str()));
    ensure!(unknown.is_none(), "there is no capability {unknown:?}");
    let granted = known
        .iter()
        .enumerate()
        .filter(|(bit, name)| ours & (1 << bit) != 0 && (all || added.iter().any(|added| added == *name)));
    Ok(granted.map(|(_, name)| format!("CAP_{name}")).collect())
}

/// The default profile as it is for these capabilities.
fn seccomp(capabilities: &[String]) -> Result<Value> {
    let text = fs::read_to_string(SECCOMP)
        .with_context(|| format!("{SECCOMP}: apt-get install golang-github-containers-common"))?;
    let profile: Value = serde_json::from_str(&text)?;
    let has = |rule: &Value, side: &str, what: &str, of: &dyn Fn(&str) -> bool| {
        let list = rule[side][what].as_array();
        list.map(|list| list.iter().filter_map(Value::as_str).any(of))
    };
    let granted = |name: &str| capabilities.iter().any(|capability| capability == name);
    let here = |arch: &str| arch == if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let applies = |rule: &&Value| {
        has(rule, "includes", "caps", &granted) != Some(false)
            && has(rule, "includes", "arches", &here) != Some(false)
            && has(rule, "excludes", "caps", &granted) != Some(true)
            && has(rule, "excludes", "arches", &here) != Some(true)
    };
    let rules = profile["syscalls"].as_array().context("a profile without rules")?.iter().filter(applies);
    let rules: Vec<Value> = rules
        .map(|rule| {
            let mut kept = json!({"names": rule["names"], "action": rule["action"]});
            for key in ["args", "errnoRet"] {
                if !rule[key].is_null() {
                    kept[key] = rule[key].clone();
                }
            }
            kept
        })
        .collect();
    Ok(json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "syscalls": rules,
    }))
}
