//! The manifests' containers, run as they are written on a node of the sandbox.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use beeline::sandbox::cluster::Sandbox;
use beeline::sandbox::node::Node;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{Dial, Serve};

use super::bundle::{Container, Machine};
use crate::workload::{Workload, arguments};

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

/// The arguments of the agent's container, with a directory of manifests as the source.
fn on_manifests(workload: &Workload, node: &Node) -> Vec<String> {
    let mut args = arguments(workload.container("beeline"), node.name());
    args.push("--manifests=/manifests".into());
    args
}

fn start(machine: &Machine, workload: &Workload, args: &[String]) -> Result<Container> {
    let mut agent = machine.start(workload, "beeline", args, |_| {})?;
    agent.says("ready")?;
    Ok(agent)
}

/// Who answers at [`SERVICE`].
fn dial(client: &Pod) -> Result<Option<String>> {
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
    let sandbox = Sandbox::new("container")?;
    let node = sandbox.add_node("n1")?;
    let (web, client) = (node.add_pod("web")?, node.add_pod("client")?);
    web.call(Serve::tcp(8080))?;
    let machine = Machine::new(&node)?;
    write_service(&machine, &web)?;
    let (install, uninstall) = (Workload::of("install.yaml")?, Workload::of("uninstall.yaml")?);
    let args = on_manifests(&install, &node);

    assert_eq!(dial(&client)?, None, "nobody serves yet");
    let mut agent = start(&machine, &install, &args)?;
    assert_eq!(dial(&client)?.as_deref(), Some("web"));
    assert_eq!(agent.stop()?.code(), Some(0), "{}", agent.log()?);
    assert_eq!(dial(&client)?.as_deref(), Some("web"), "SIGTERM leaves the data path in place");

    let mut agent = start(&machine, &install, &args)?;
    let holder = format!("is held by pid {} (/beeline run", agent.process()?.pid);
    let (content, said) = machine.finish(&install, "beeline", &args)?;
    assert!(!content && said.contains(&holder), "a second agent: {said}");
    let cleanup = arguments(uninstall.container("cleanup"), node.name());
    let (content, said) = machine.finish(&uninstall, "cleanup", &cleanup)?;
    assert!(!content && said.contains(&holder), "cleanup beside an agent: {said}");
    assert_eq!(dial(&client)?.as_deref(), Some("web"));
    agent.stop()?;

    let (content, said) = machine.finish(&uninstall, "cleanup", &cleanup)?;
    assert!(content && said.contains("detached bl_connect4"), "{said}");
    assert_eq!(dial(&client)?, None, "nobody serves any more");
    assert_eq!(names(node.bpf_root())?, [""; 0]);
    assert_eq!(names(machine.path("/run/beeline"))?, [""; 0]);
    let stay = arguments(uninstall.container("stay"), node.name());
    let mut stay = machine.start(&uninstall, "stay", &stay, |_| {})?;
    stay.says("done; staying until SIGTERM")?;
    assert_eq!(stay.stop()?.code(), Some(0));
    Ok(())
}

/// A start on what another agent left asks the most: programs are opened by their id.
#[test]
fn the_agent_needs_each_of_its_capabilities() -> Result<()> {
    let sandbox = Sandbox::new("capabilities")?;
    let node = sandbox.add_node("n1")?;
    let (machine, install) = (Machine::new(&node)?, Workload::of("install.yaml")?);
    let args = on_manifests(&install, &node);
    start(&machine, &install, &args)?.stop()?;
    for (granted, missing) in
        [(&["SYS_ADMIN"][..], "CAP_NET_ADMIN"), (&["BPF", "NET_ADMIN", "PERFMON"], "open program")]
    {
        let mut agent = machine.start(&install, "beeline", &args, |container| {
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
