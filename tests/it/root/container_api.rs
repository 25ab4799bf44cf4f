//! The manifests' containers in a cluster: they find the API server by what kubeadm and kubelet leave on a node,
//! and go to it with their own account.

use std::fs;
use std::os::fd::AsFd;

use anyhow::Result;
use beeline::host::netlink::Netlink;
use beeline::sandbox::api_server::ApiServer;
use beeline::sandbox::cluster::Sandbox;
use beeline::sandbox::node::Node;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::Serve;
use serde_json::json;

use super::api::until;
use super::bundle::Machine;
use super::container::{dial, modest, to_the_letter};
use crate::api_front::{Authority, tls_in};
use crate::workload::Workload;

/// Where the API server is in kubeadm's ConfigMap.
const SERVER: &str = "192.168.0.10:6443";
/// What it asks for.
const TOKEN: &str = "of-the-account";

/// A cluster's API server, over TLS, with one Service that `web` serves.
struct Cluster {
    server: ApiServer,
    authority: Authority,
}

impl Cluster {
    fn new(node: &Node, web: &Pod) -> Result<Cluster> {
        let netns = || node.netns().as_fd().try_clone_to_owned();
        Netlink::open_in(node.netns().as_fd())?.add_address("lo", "192.168.0.10/32".parse()?)?;
        let server = ApiServer::start_in(netns()?)?;
        server.behave(|manners| manners.token = Some(TOKEN.into()));
        let authority = Authority::new();
        authority.sign("server", &["192.168.0.10"]);
        authority.write("token", TOKEN);
        tls_in(netns()?, SERVER, &authority, &server);
        let metadata = |name: &str| json!({"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": "web"}});
        server.put(json!({"kind": "Node", "metadata": {"name": node.name()}}))?;
        server.put(json!({"kind": "Service", "metadata": metadata("web"),
            "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}}))?;
        server.put(json!({"kind": "EndpointSlice", "metadata": metadata("web-1"), "addressType": "IPv4",
            "endpoints": [{"addresses": [web.ip4()]}], "ports": [{"name": "", "port": 8080}]}))?;
        Ok(Cluster { server, authority })
    }
}

/// A node of a cluster, a pod that dials, and the account that the node's containers get.
fn in_a_cluster(name: &str, test: impl FnOnce(&Cluster, &Machine, &Pod) -> Result<()>) -> Result<()> {
    let sandbox = Sandbox::new(name)?;
    let node = sandbox.add_node("n1")?;
    let (web, client) = (node.add_pod("web")?, node.add_pod("client")?);
    web.call(Serve::tcp(8080))?;
    let cluster = Cluster::new(&node, &web)?;
    let mut machine = Machine::new(&node)?;
    machine.set_account(cluster.authority.dir.path());
    test(&cluster, &machine, &client)?;
    sandbox.close()
}

/// No argument says where the API server is: kubelet's own file does, whose credentials are not used (CFG-5).
#[test]
fn an_installed_agent_serves_a_cluster() -> Result<()> {
    in_a_cluster("contapi", served_as_installed)
}

fn served_as_installed(cluster: &Cluster, machine: &Machine, client: &Pod) -> Result<()> {
    let kubelet = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "k",
        "contexts": [{"name": "k", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": format!("https://{SERVER}"),
            "certificate-authority-data": cluster.authority.data("ca.crt")}}],
        "users": [{"name": "u", "user": {"client-certificate": "/var/lib/kubelet/pki/none.pem",
            "client-key": "/var/lib/kubelet/pki/none.pem"}}]
    });
    fs::write(machine.path("/etc/kubernetes/kubelet.conf"), kubelet.to_string())?;
    let install = modest(Workload::of("install.yaml")?);
    let (content, said) = machine.finish(&install, "init", &[])?;
    assert!(content, "{said}");
    let mut agent = machine.start(&install, "beeline", &[], |_| {})?;
    agent.says("ready")?;
    assert_eq!(dial(client)?.as_deref(), Some("web"));
    until("its start is an event", || {
        Ok(cluster.server.events().iter().any(|event| event["reason"] == "Starting"))
    })?;
    cluster.server.delete(beeline::sandbox::api_server::Kind::Service, "default", "web");
    until("the Service goes", || Ok(dial(client)?.is_none()))?;
    assert_eq!(agent.stop()?.code(), Some(0), "{}", agent.log()?);
    Ok(())
}

/// kubeadm's own ConfigMap, command line and DaemonSet, as kubeadm printed them: the image is another, and the
/// binary in it; nothing else.
#[test]
fn kubeadms_own_container_serves_its_cluster() -> Result<()> {
    in_a_cluster("kubeapi", |_, machine, client| {
        let mut agent = machine.start(&to_the_letter()?, "kube-proxy", &[], |_| {})?;
        agent.says("ready")?;
        assert_eq!(dial(client)?.as_deref(), Some("web"));
        assert_eq!(agent.stop()?.code(), Some(0), "{}", agent.log()?);
        Ok(())
    })
}
