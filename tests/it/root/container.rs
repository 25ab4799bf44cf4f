//! The manifests' containers, run as they are written on a node of the sandbox.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use beeline::host::sysctl;
use beeline::sandbox::cluster::Sandbox;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{Dial, Serve};

use super::api::until;
use super::bundle::{Container, Machine};
use crate::workload::{KUBEADM, Workload};

const SERVICE: &str = "10.96.0.10:80";

/// A Service at [`SERVICE`] with one endpoint, `web`.
fn write_service(machine: &Machine, web: &Pod) -> Result<()> {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
         spec: {{clusterIP: 10.96.0.10, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{name: \"\", port: 8080}}]\nendpoints: [{{addresses: [{}]}}]\n",
        web.ip4()
    );
    fs::write(machine.manifests().join("web.yaml"), text).context("write a manifest")
}

/// The source that is given besides what the manifest says.
fn manifests() -> [String; 1] {
    ["--manifests=/manifests".into()]
}

/// A workload of the manifests whose agents leave alone what of conntrack is the whole machine's.
pub(super) fn modest(mut workload: Workload) -> Workload {
    for text in workload.config_maps.values_mut().filter_map(|map| map.get_mut("config.conf")) {
        // kubeadm writes every field.
        let (unset, none) = ("maxPerCore: null\n  min: null", "maxPerCore: 0\n  min: 0");
        match text.contains(unset) {
            true => *text = text.replace(unset, none),
            false => text.push_str("\nconntrack: {maxPerCore: 0, min: 0}\n"),
        }
    }
    workload
}

/// kubeadm's workload to the letter, unless what it asks of conntrack would raise the whole machine's limit, which
/// it does on one with very many cores.
pub(super) fn to_the_letter() -> Result<Workload> {
    let workload = Workload::of(KUBEADM)?;
    let limit =
        sysctl::read("net.netfilter.nf_conntrack_max").ok().and_then(|text| text.parse::<usize>().ok());
    let wanted = std::thread::available_parallelism()?.get() * 32_768;
    let is_enough = limit.is_some_and(|limit| wanted <= limit);
    Ok(if is_enough { workload } else { modest(workload) })
}

fn start(machine: &Machine, workload: &Workload, name: &str) -> Result<Container> {
    let mut agent = machine.start(workload, name, &manifests(), |_| {})?;
    agent.says("ready")?;
    Ok(agent)
}

/// Who answers at [`SERVICE`].
pub(super) fn dial(client: &Pod) -> Result<Option<String>> {
    let to: SocketAddr = SERVICE.parse()?;
    Ok(client.call(Dial { timeout_ms: 500, ..Dial::tcp(to) })?.reply)
}

/// What lies in a folder.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[test]
fn an_installed_agent_serves_and_what_it_leaves_is_uninstalled() -> Result<()> {
    // SYNC-9, CFG-8
    from_install_to_uninstall(Workload::of("install.yaml")?, "beeline")
}

#[test]
fn kubeadms_kube_proxy_is_switched_and_what_it_leaves_is_uninstalled() -> Result<()> {
    // CFG-8
    from_install_to_uninstall(Workload::switched()?, "kube-proxy")
}

fn from_install_to_uninstall(install: Workload, name: &str) -> Result<()> {
    let install = &modest(install);
    let sandbox = Sandbox::new("container")?;
    let node = sandbox.add_node("n1")?;
    let (web, client) = (node.add_pod("web")?, node.add_pod("client")?);
    web.call(Serve::tcp(8080))?;
    let machine = Machine::new(&node)?;
    write_service(&machine, &web)?;
    let uninstall = Workload::of("uninstall.yaml")?;

    let (content, said) = machine.finish(install, "init", &manifests())?;
    assert!(content && said.contains("initialized"), "{said}");
    assert_eq!(dial(&client)?, None, "nobody serves yet");
    let mut agent = start(&machine, install, name)?;
    assert_eq!(dial(&client)?.as_deref(), Some("web"));
    assert_eq!(agent.stop()?.code(), Some(0), "{}", agent.log()?);
    assert_eq!(dial(&client)?.as_deref(), Some("web"), "SIGTERM leaves the data path in place");

    let mut agent = start(&machine, install, name)?;
    let holder = format!("is held by pid {} (/", agent.process()?.pid);
    let (content, said) = machine.finish(install, name, &manifests())?;
    assert!(!content && said.contains(&holder), "a second agent: {said}");
    let (content, said) = machine.finish(&uninstall, "cleanup", &[])?;
    assert!(!content && said.contains(&holder), "cleanup beside an agent: {said}");
    assert_eq!(dial(&client)?.as_deref(), Some("web"));
    agent.stop()?;

    let (content, said) = machine.finish(&uninstall, "cleanup", &[])?;
    assert!(content && said.contains("detached bl_connect4"), "{said}");
    assert_eq!(dial(&client)?, None, "nobody serves any more");
    assert_eq!(names(node.bpf_root())?, [""; 0]);
    assert_eq!(names(machine.path("/run/beeline"))?, [""; 0]);
    let mut stay = machine.start(&uninstall, "stay", &[], |_| {})?;
    stay.says("done; staying until SIGTERM")?;
    assert_eq!(stay.stop()?.code(), Some(0));
    Ok(())
}

/// Image and binary exchanged, and nothing else: it serves, from a bpffs that goes with the container.
#[test]
fn kubeadms_own_container_serves_as_long_as_it_runs() -> Result<()> {
    let sandbox = Sandbox::new("kubeadm")?;
    let node = sandbox.add_node("n1")?;
    let (web, client) = (node.add_pod("web")?, node.add_pod("client")?);
    web.call(Serve::tcp(8080))?;
    let machine = Machine::new(&node)?;
    write_service(&machine, &web)?;
    let mut agent = start(&machine, &modest(Workload::of(KUBEADM)?), "kube-proxy")?;
    assert_eq!(dial(&client)?.as_deref(), Some("web"));
    assert_eq!(agent.stop()?.code(), Some(0), "{}", agent.log()?);
    until("its tables go with it", || Ok(dial(&client)?.is_none()))?;
    assert_eq!(names(node.bpf_root())?, [""; 0]);
    Ok(())
}

/// A start on what another agent left asks the most: programs are opened by their id.
#[test]
fn the_agent_needs_each_of_its_capabilities() -> Result<()> {
    let sandbox = Sandbox::new("capabilities")?;
    let node = sandbox.add_node("n1")?;
    let (machine, install) = (Machine::new(&node)?, modest(Workload::of("install.yaml")?));
    start(&machine, &install, "beeline")?.stop()?;
    for (granted, missing) in
        [(&["SYS_ADMIN"][..], "CAP_NET_ADMIN"), (&["BPF", "NET_ADMIN", "PERFMON"], "CAP_SYS_ADMIN")]
    {
        let mut agent = machine.start(&install, "beeline", &manifests(), |container| {
            let context = container.security_context.as_mut().expect("a security context");
            // It would refuse bpf(2) without CAP_SYS_ADMIN.
            context.seccomp_profile = None;
            let names = granted.iter().map(|name| (*name).to_owned()).collect();
            context.capabilities.as_mut().expect("capabilities").add = Some(names);
        })?;
        assert!(!agent.wait()?.success(), "{granted:?} were enough: {}", agent.log()?);
        assert!(agent.log()?.contains(missing), "{granted:?}: {}", agent.log()?);
    }
    Ok(())
}
