//! Beeline on one node, the real kube-proxy on the other, both before one API server: their pods get the
//! same answers.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::Dial;
use serde_json::{Value, json};

use crate::lab::{Lab, served, until};
use crate::process::Process;
use crate::stage::Server;

/// What many connections came to: who answered, and the errors.
type Answers = BTreeSet<String>;

/// A Service in some state, and what the pods of n1 and of n2 are to hear of it.
struct Situation {
    name: &'static str,
    /// What is added to a plain Service.
    spec: Value,
    /// The endpoints: the number of the pod, conditions, and what else they say.
    endpoints: Vec<(usize, Value)>,
    /// The port dialled.
    port: u16,
    heard: [&'static [&'static str]; 2],
}

fn situations() -> Vec<Situation> {
    const REFUSED: [&[&str]; 2] = [&["ECONNREFUSED"]; 2];
    let ready = || json!({"conditions": {"ready": true}});
    let not_ready = || json!({"conditions": {"ready": false, "serving": false}});
    let leaving = || json!({"conditions": {"ready": false, "serving": true, "terminating": true}});
    let zone = |zone: &str| json!({"conditions": {"ready": true}, "zone": zone, "hints": {"forZones": [{"name": zone}]}});
    let plain = |name, endpoints, heard| Situation { name, spec: json!({}), endpoints, port: 80, heard };
    vec![
        plain("all", vec![(0, ready()), (1, ready()), (2, ready())], [&["web-1", "web-2", "web-3"]; 2]),
        plain("nobody", vec![], REFUSED),
        plain("not-ready", vec![(0, not_ready())], REFUSED),
        plain("one-is-ready", vec![(0, not_ready()), (1, ready()), (2, leaving())], [&["web-2"]; 2]),
        plain("all-leave", vec![(0, not_ready()), (1, leaving()), (2, leaving())], [&["web-2", "web-3"]; 2]),
        plain("zones", vec![(0, zone("a")), (2, zone("b"))], [&["web-1"], &["web-3"]]),
        Situation { port: 81, ..plain("other-port", vec![(0, ready())], REFUSED) },
        Situation {
            spec: json!({"internalTrafficPolicy": "Local"}),
            ..plain("local", vec![(0, ready()), (2, ready())], [&["web-1"], &["web-3"]])
        },
        Situation {
            spec: json!({"publishNotReadyAddresses": true, "type": "NodePort"}),
            ..plain("node-port", vec![(1, ready())], [&["web-2"]; 2])
        },
    ]
}

/// What a pod hears in so many connections.
fn answers(client: &Pod, to: ([u8; 4], u16), connections: usize) -> Result<Answers> {
    let one = |_| {
        let report = client.call(Dial { timeout_ms: 2500, ..Dial::tcp(to) })?;
        report.reply.or(report.errno).context("an answer or an error")
    };
    (0..connections).map(one).collect()
}

pub(crate) fn kube_proxy_and_beeline_answer_alike(lab: &mut Lab) -> Result<()> {
    let agent = lab.agent()?;
    for (node, zone) in [("n1", "a"), ("n2", "b")] {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        lab.server.put(json!({"kind": "Node", "metadata": {"name": node, "labels": labels}}));
    }
    let mut proxy = start_kube_proxy(lab)?;
    let clients = [&lab.client, &lab.far_client];
    for (n, situation) in (1_u8..).zip(situations()) {
        let cluster_ip = [10, 96, 9, n];
        for object in objects(lab, &situation, cluster_ip) {
            lab.server.put(object);
        }
        for (client, heard) in clients.iter().zip(situation.heard) {
            let wanted: Answers = heard.iter().map(|&name| name.to_owned()).collect();
            let to = (cluster_ip, situation.port);
            let what = format!("{} from {}: {wanted:?}", situation.name, client.name());
            // One after another: a connection that is not served yet takes its time.
            let first = until(&what, || Ok(answers(client, to, 1)?.is_subset(&wanted)));
            // kube-proxy refuses by ICMP, of which a kernel sends a few a second to one address.
            let often = if wanted.contains("ECONNREFUSED") { 2 } else { 40 };
            let all = first.and_then(|()| until(&what, || Ok(answers(client, to, often)? == wanted)));
            all.with_context(|| {
                format!("{what}, not {:?}; kube-proxy: {}", answers(client, to, 9), proxy.tail())
            })?;
        }
    }
    // Who was chosen once is chosen again (AFF-1).
    let mut sticky =
        Situation { name: "sticky", spec: json!({"sessionAffinity": "ClientIP"}), ..situations().remove(0) };
    sticky.heard = [&[]; 2];
    for object in objects(lab, &sticky, [10, 96, 9, 200]) {
        lab.server.put(object);
    }
    for client in clients {
        let to = ([10, 96, 9, 200], 80);
        until("it is served", || Ok(answers(client, to, 1)?.iter().all(|name| name.starts_with("web"))))?;
        let heard = answers(client, to, 40)?;
        ensure!(heard.len() == 1, "{}: {heard:?}", client.name());
    }
    proxy.check()?;
    drop(agent);
    Ok(())
}

fn objects(lab: &Lab, situation: &Situation, cluster_ip: [u8; 4]) -> [Value; 2] {
    let [mut service, mut slice] = served(situation.name, cluster_ip, 80, &[]);
    let spec = service["spec"].as_object_mut().expect("a map");
    spec.extend(situation.spec.as_object().expect("a map").clone());
    let endpoint = |(pod, more): &(usize, Value)| {
        let mut endpoint = more.clone();
        endpoint["addresses"] = json!([lab.web[*pod].ip4()]);
        endpoint["nodeName"] = if *pod == 2 { "n2" } else { "n1" }.into();
        endpoint
    };
    slice["endpoints"] = situation.endpoints.iter().map(endpoint).collect();
    [service, slice]
}

fn start_kube_proxy(lab: &Lab) -> Result<Process> {
    let kubeconfig = lab.server.way().kubeconfig.context("the way is a kubeconfig")?;
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "nftables", "clusterCIDR": "10.244.0.0/16,fd00:10:244::/48", "hostnameOverride": "n2",
        "clientConnection": {"kubeconfig": kubeconfig},
        // The table of conntrack is the whole machine's.
        "conntrack": {"maxPerCore": 0, "min": 0}
    });
    let file = lab.server.credentials.path("kube-proxy.conf");
    std::fs::write(&file, config.to_string())?;
    let netns = lab.other.netns().as_fd().try_clone_to_owned()?;
    let log = lab.server.credentials.path("kube-proxy.log");
    let arguments = [format!("--config={}", file.display())];
    Process::start(&lab.assets.path("kube-proxy"), &arguments, Some(&netns), log)
}
