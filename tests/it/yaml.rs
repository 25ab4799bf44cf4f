//! The manifests of `yaml/`: they say what they mean to Kubernetes, ask for no more than they must, and fit
//! the binary.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Container, Probe, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use serde_json::Value;

use crate::workload::{KUBEADM, Workload, command_line, objects, strict};

const FILES: [&str; 2] = ["install.yaml", "uninstall.yaml"];

/// The one object of a kind.
fn only(file: &str, kind: &str) -> Result<Value> {
    let mut found: Vec<Value> = objects(file)?.into_iter().filter(|object| object["kind"] == kind).collect();
    ensure!(found.len() == 1, "{file} has {} objects of kind {kind}", found.len());
    Ok(found.remove(0))
}

/// What a container may do, sorted.
fn capabilities(container: &Container) -> Vec<String> {
    let granted = container.security_context.as_ref().and_then(|context| context.capabilities.as_ref());
    let mut granted: Vec<_> = granted.and_then(|granted| granted.add.clone()).unwrap_or_default();
    granted.sort();
    granted
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
}

#[test]
fn every_object_is_what_kubernetes_knows() -> Result<()> {
    let mut kinds = Vec::new();
    for file in FILES {
        for object in objects(file)? {
            kinds.push(format!("{} {}", object["apiVersion"].as_str().unwrap_or("?"), object["kind"]));
            ensure!(object["metadata"]["name"].is_string(), "{object}");
        }
        // A DaemonSet and the ConfigMaps.
        Workload::of(file)?;
    }
    strict::<ServiceAccount>(&only("install.yaml", "ServiceAccount")?)?;
    let expected = [
        "v1 \"ServiceAccount\"",
        "rbac.authorization.k8s.io/v1 \"ClusterRoleBinding\"",
        "v1 \"ConfigMap\"",
        "apps/v1 \"DaemonSet\"",
        "apps/v1 \"DaemonSet\"",
    ];
    assert_eq!(kinds, expected, "what is added is decoded here too");
    Ok(())
}

#[test]
fn the_account_may_do_what_kube_proxys_may_and_no_more() -> Result<()> {
    // CFG-6
    let binding: ClusterRoleBinding = strict(&only("install.yaml", "ClusterRoleBinding")?)?;
    assert_eq!(
        (binding.role_ref.kind.as_str(), binding.role_ref.name.as_str()),
        ("ClusterRole", "system:node-proxier")
    );
    let account: ServiceAccount = strict(&only("install.yaml", "ServiceAccount")?)?;
    let subjects = binding.subjects.unwrap_or_default();
    assert_eq!(subjects.len(), 1);
    assert_eq!(
        (subjects[0].kind.as_str(), Some(&subjects[0].name)),
        ("ServiceAccount", account.metadata.name.as_ref())
    );
    assert_eq!(subjects[0].namespace, account.metadata.namespace);
    let install = Workload::of("install.yaml")?;
    assert_eq!(install.pod().service_account_name, account.metadata.name);
    assert_eq!(Workload::of("uninstall.yaml")?.pod().automount_service_account_token, Some(false));
    Ok(())
}

#[test]
fn the_pod_runs_on_every_node_and_is_found_as_kube_proxys_is() -> Result<()> {
    // CFG-8
    let install = Workload::of("install.yaml")?;
    let spec = install.daemon_set.spec.as_ref().context("a spec")?;
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref()).context("labels")?;
    assert_eq!(labels.get("k8s-app").map(String::as_str), Some("kube-proxy"));
    let selected = spec.selector.match_labels.as_ref().context("a selector")?;
    assert!(selected.iter().all(|(key, value)| labels.get(key) == Some(value)));
    assert!(!selected.contains_key("k8s-app"), "kubeadm's DaemonSet selects by it, and may be there too");
    for file in FILES {
        let workload = Workload::of(file)?;
        assert_eq!(workload.daemon_set.metadata.namespace.as_deref(), Some("kube-system"), "{file}");
        let pod = workload.pod();
        assert_eq!(pod.host_network, Some(true), "{file}");
        assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"), "{file}");
        let tolerations = pod.tolerations.as_deref().unwrap_or_default();
        let all = |t: &k8s_openapi::api::core::v1::Toleration| {
            t.operator.as_deref() == Some("Exists") && t.key.is_none() && t.effect.is_none()
        };
        assert!(tolerations.iter().any(all), "{file}: a taint keeps it away");
    }
    Ok(())
}

#[test]
fn nothing_is_privileged_but_the_init_step() -> Result<()> {
    for file in FILES {
        let workload = Workload::of(file)?;
        for container in workload.all_containers() {
            let (name, is_init) = (&container.name, container.name == "init");
            let context = container.security_context.as_ref().context("a security context")?;
            assert_eq!(context.read_only_root_filesystem, Some(true), "{file}: {name}");
            assert_eq!(is_privileged(container), is_init, "{file}: {name}");
            let mut mounts = container.volume_mounts.iter().flatten();
            let spreads = mounts.any(|mount| mount.mount_propagation.as_deref() == Some("Bidirectional"));
            assert_eq!(spreads, is_init, "{file}: {name}: Kubernetes wants `privileged` for it");
            if is_init {
                continue;
            }
            assert_eq!(context.allow_privilege_escalation, Some(false), "{file}: {name}");
            let dropped = context.capabilities.as_ref().and_then(|c| c.drop.clone());
            assert_eq!(dropped.as_deref(), Some(&["ALL".to_owned()][..]), "{file}: {name}");
            let profile = context.seccomp_profile.as_ref().map(|profile| profile.type_.as_str());
            assert_eq!(profile, Some("RuntimeDefault"), "{file}: {name}");
        }
    }
    let (install, uninstall) = (Workload::of("install.yaml")?, Workload::of("uninstall.yaml")?);
    assert_eq!(capabilities(install.container("beeline")), ["NET_ADMIN", "SYS_ADMIN", "SYS_RESOURCE"]);
    for name in ["cleanup", "stay"] {
        assert_eq!(capabilities(uninstall.container(name)), ["NET_ADMIN", "SYS_ADMIN"], "{name}");
    }
    Ok(())
}

/// Whatever of the machine a pod sees is named here, and why is in docs/install.md.
#[test]
fn few_paths_of_the_machine_are_seen_and_fewer_written() -> Result<()> {
    let guide = include_str!("../../docs/install.md");
    for (file, expected) in [
        (
            "install.yaml",
            &["/etc/kubernetes/kubelet.conf ro", "/run/beeline rw", "/sys/fs/bpf rw", "/sys/fs/cgroup ro"][..],
        ),
        ("uninstall.yaml", &["/run/beeline rw", "/sys/fs/bpf rw", "/sys/fs/cgroup ro"]),
    ] {
        let workload = Workload::of(file)?;
        let mut seen = Vec::new();
        for volume in workload.pod().volumes.iter().flatten() {
            let Some(host) = &volume.host_path else { continue };
            assert!(
                guide.contains(&format!("`{}`", host.path)),
                "docs/install.md says nothing of {}",
                host.path
            );
            let mut mounts = workload.all_containers().flat_map(|c| c.volume_mounts.iter().flatten());
            let writes = mounts.any(|m| m.name == volume.name && m.read_only != Some(true));
            seen.push(format!("{} {}", host.path, if writes { "rw" } else { "ro" }));
        }
        seen.sort();
        assert_eq!(seen, expected, "{file}");
        for capability in workload.all_containers().flat_map(capabilities) {
            assert!(
                guide.contains(&format!("`{capability}`")),
                "docs/install.md does not say what {capability} is for"
            );
        }
    }
    Ok(())
}

#[test]
fn probes_ask_for_what_does_not_depend_on_the_node() -> Result<()> {
    // HLT-1, HLT-4
    let install = Workload::of("install.yaml")?;
    let agent = install.container("beeline");
    let asks = |probe: &Option<Probe>| -> Option<(String, Value)> {
        let get = probe.as_ref()?.http_get.as_ref()?;
        Some((get.path.clone()?, serde_json::to_value(&get.port).ok()?))
    };
    let expected = |path: &str| Some((path.to_owned(), Value::from(10256)));
    assert_eq!(asks(&agent.liveness_probe), expected("/livez"));
    assert_eq!(asks(&agent.readiness_probe), expected("/beeline/ready"));
    Ok(())
}

/// The parser gets to `--help` if it takes all that comes before.
#[test]
fn the_binary_takes_the_arguments_of_every_container() -> Result<()> {
    let parse = |line: &[String]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_beeline"));
        command.arg0(&line[0]).args(&line[1..]).arg("--help").output()
    };
    let (install, uninstall) = (Workload::of("install.yaml")?, Workload::of("uninstall.yaml")?);
    // kubeadm's own command line, and what the switch makes of it.
    for workload in [install, uninstall, Workload::of(KUBEADM)?, Workload::switched()?] {
        for container in workload.all_containers() {
            let line = command_line(container, "n1");
            let output = parse(&line)?;
            assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert_eq!(parse(&["beeline".into(), "run".into(), "--no-such-flag".into()])?.status.code(), Some(2));
    Ok(())
}

#[test]
fn a_switched_kube_proxy_may_do_what_an_installed_agent_may() -> Result<()> {
    let (install, switched) = (Workload::of("install.yaml")?, Workload::switched()?);
    for (ours, theirs) in [("init", "init"), ("beeline", "kube-proxy")] {
        let (ours, theirs) = (install.container(ours), switched.container(theirs));
        assert_eq!(theirs.security_context, ours.security_context);
        assert_eq!(theirs.image, ours.image);
        for mount in ours.volume_mounts.iter().flatten() {
            let is_node = ["bpf", "cgroup", "run"].contains(&mount.name.as_str());
            assert!(
                !is_node || theirs.volume_mounts.iter().flatten().any(|theirs| theirs == mount),
                "{mount:?}"
            );
        }
    }
    assert_eq!(switched.pod().host_pid, install.pod().host_pid);
    assert_eq!(switched.pod().containers.len(), 1);
    let kubeadm = Workload::of(KUBEADM)?;
    let (before, after) = (kubeadm.container("kube-proxy"), switched.container("kube-proxy"));
    let command = |container: &Container| container.command.clone().unwrap_or_default();
    assert!(command(after).starts_with(&command(before)), "kubeadm's command, and what is added");
    Ok(())
}

#[test]
fn the_configuration_is_one_that_the_binary_reads() -> Result<()> {
    let install = Workload::of("install.yaml")?;
    let config =
        install.config_maps.get("beeline").and_then(|map| map.get("config.conf")).context("config.conf")?;
    let dir = tempfile::tempdir()?;
    let explain = |text: &str| -> Result<(bool, String)> {
        std::fs::write(dir.path().join("config.conf"), text)?;
        let output = Command::new(env!("CARGO_BIN_EXE_beeline"))
            .args([
                "explain",
                "--from",
                "pod",
                "--to",
                "10.96.0.10:80/TCP",
                "--node-name",
                "n1",
                "--manifests",
            ])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/yaml/example"))
            .arg("--config")
            .arg(dir.path().join("config.conf"))
            .output()?;
        Ok((output.status.success(), String::from_utf8(output.stderr)?))
    };
    assert_eq!(explain(config)?, (true, String::new()), "it is read without a word");
    assert!(!explain(&config.replace("KubeProxyConfiguration", "KubeletConfiguration"))?.0);
    Ok(())
}

/// One version everywhere: what scripts/image makes is what the manifests name.
#[test]
fn the_image_is_the_one_that_scripts_image_makes() -> Result<()> {
    let image = format!("localhost/beeline:{}", env!("CARGO_PKG_VERSION"));
    for file in FILES {
        for container in Workload::of(file)?.all_containers() {
            assert_eq!(container.image.as_ref(), Some(&image), "{file}: {}", container.name);
        }
    }
    Ok(())
}
