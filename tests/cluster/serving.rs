//! The main job before the real API server: pods connect while objects come, change and go.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use beeline::sandbox::api_server::Kind;
use beeline::sandbox::load::LoadSpec;
use beeline::sandbox::proto::{StartLoad, StopLoad};
use serde_json::json;

use crate::beside::kube_proxy_and_beeline_answer_alike;
use crate::lab::{Lab, served, until};
use crate::stage::Server;

/// A test: its name, the programs it needs besides the servers, and what it does.
type Case = (&'static str, &'static [&'static str], fn(&mut Lab) -> Result<()>);

/// All of them.
pub(crate) const CASES: &[Case] = &[
    ("kubectl_applied_objects_are_served", &["kubectl"], kubectl_applied_objects_are_served),
    ("a_service_changes_its_type_under_its_clients", &[], a_service_changes_its_type_under_its_clients),
    ("five_thousand_services_come_and_go_while_clients_connect", &[], five_thousand_services_come_and_go),
    ("a_restart_and_a_compaction_cost_no_connection", &[], a_restart_and_a_compaction_cost_no_connection),
    (
        "the_installed_account_has_the_rights_it_needs",
        &["kubectl"],
        the_installed_account_has_the_rights_it_needs,
    ),
    ("kube_proxy_and_beeline_answer_alike", &["kube-proxy"], kube_proxy_and_beeline_answer_alike),
];

/// Where the example's Services are.
const SHOP_WEB: ([u8; 4], u16) = ([10, 96, 0, 10], 80);
const ONE: ([u8; 4], u16) = ([10, 96, 7, 1], 80);

fn kubectl_applied_objects_are_served(lab: &mut Lab) -> Result<()> {
    let agent = lab.agent()?;
    let shop = concat!(env!("CARGO_MANIFEST_DIR"), "/yaml/example");
    lab.server.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    assert_eq!(lab.reply(SHOP_WEB)?, None);
    // As people do it: create, then change by a patch of three ways.
    lab.kubectl(&["apply", "--validate=strict", "-f", shop])?;
    until("each backend answers", || {
        let mut heard: Vec<String> = (0..30).filter_map(|_| lab.reply(SHOP_WEB).ok().flatten()).collect();
        heard.sort();
        heard.dedup();
        Ok(heard == ["web-1", "web-2", "web-3"])
    })?;
    let peer = lab.dial(SHOP_WEB)?.peer.context("connected")?;
    assert_eq!(peer, SHOP_WEB.into(), "getpeername says what was dialled");
    lab.kubectl(&[
        "-n",
        "shop",
        "patch",
        "endpointslice",
        "web-1",
        "--type=json",
        "-p",
        r#"[{"op": "remove", "path": "/endpoints/0"}]"#,
    ])?;
    until("the endpoint is out", || {
        Ok((0..30).all(|_| lab.reply(SHOP_WEB).is_ok_and(|reply| reply.as_deref() != Some("web-1"))))
    })?;
    lab.kubectl(&["delete", "-f", shop])?;
    until("the Service goes", || Ok(lab.reply(SHOP_WEB)?.is_none()))?;
    // The default Service is the API server itself, by Beeline (CFG-5).
    assert_eq!(lab.dial(([10, 112, 0, 1], 443))?.failed.map(|_| ()), Some(()), "it speaks TLS, and no names");
    assert_eq!(lab.dial(([10, 112, 0, 1], 443))?.peer, Some((IpAddr::from([10, 112, 0, 1]), 443).into()));
    assert_eq!(lab.pending(), "");
    drop(agent);
    Ok(())
}

fn a_service_changes_its_type_under_its_clients(lab: &mut Lab) -> Result<()> {
    let agent = lab.agent()?;
    let [plain, slice] = served("one", ONE.0, ONE.1, &[lab.web[0].ip4()]);
    lab.server.put(slice);
    let of_type = |kind: &str, port: u16| {
        let mut service = plain.clone();
        (service["spec"]["type"], service["spec"]["ports"][0]["port"]) = (kind.into(), port.into());
        service
    };
    for (step, port) in
        [("ClusterIP", 80), ("NodePort", 81), ("LoadBalancer", 82), ("NodePort", 83), ("ClusterIP", 80)]
    {
        lab.server.put(of_type(step, port));
        until(step, || Ok(lab.reply((ONE.0, port))?.as_deref() == Some("web-1")))?;
    }
    lab.server.put(json!({
        "kind": "Service", "metadata": {"namespace": "ns", "name": "one"},
        "spec": {"type": "ExternalName", "externalName": "example.org", "ports": [{"name": "http", "port": 80}]}
    }));
    until("ExternalName", || Ok(lab.reply(ONE)?.is_none()))?;
    lab.server.put(plain);
    until("ClusterIP again", || Ok(lab.reply(ONE)?.as_deref() == Some("web-1")))?;
    assert_eq!(lab.pending(), "");
    drop(agent);
    Ok(())
}

/// Starts clients that connect all the time to a Service nobody touches.
fn start_clients(lab: &Lab) -> Result<()> {
    let load = LoadSpec { pause_us: 200, ..LoadSpec::tcp(ONE).threads(2).timeout_ms(2000).ask_names() };
    lab.client.call(StartLoad { name: "clients".into(), load })
}

/// Ends them: all they did went well.
fn finish_clients(lab: &Lab) -> Result<()> {
    let report = lab.client.call(StopLoad { name: "clients".into() })?;
    println!("{} connections, errors {:?}", report.done, report.errors);
    ensure!(report.failed() == 0 && report.done > 100, "{report:?}");
    Ok(())
}

fn five_thousand_services_come_and_go(lab: &mut Lab) -> Result<()> {
    let agent = lab.agent()?;
    let pods = [lab.web[0].ip4(), lab.web[1].ip4()];
    lab.server.put_all(served("one", ONE.0, ONE.1, &pods).into());
    until("the first", || Ok(lab.reply(ONE)?.is_some()))?;
    let before = lab.dump()?;
    start_clients(lab)?;
    let address = |n: u32| [10, 98, u8::try_from(n / 250).unwrap(), u8::try_from(1 + n % 250).unwrap()];
    let name = |n: u32| format!("many-{n}");
    let all = (0..5000).flat_map(|n| served(&name(n), address(n), 80, &pods));
    lab.server.put_all(all.collect());
    for n in [0, 1, 2500, 4998, 4999] {
        until("a new one answers", || Ok(lab.reply((address(n), 80))?.is_some()))?;
    }
    let names =
        (0..5000).flat_map(|n| [(Kind::Service, name(n)), (Kind::EndpointSlice, format!("{}-1", name(n)))]);
    lab.server.delete_all(names.collect());
    until("the tables are those of before", || Ok(lab.dump()? == before))?;
    finish_clients(lab)?;
    assert_eq!(lab.pending(), "");
    drop(agent);
    Ok(())
}

fn a_restart_and_a_compaction_cost_no_connection(lab: &mut Lab) -> Result<()> {
    // SYNC-11, SYNC-13
    let mut agent = lab.agent()?;
    let (pods, two) = ([lab.web[0].ip4()], ([10, 96, 7, 2], 80));
    lab.server.put_all(served("one", ONE.0, ONE.1, &pods).into());
    lab.server.put_all(served("two", two.0, two.1, &pods).into());
    until("both", || Ok(lab.reply(ONE)?.is_some() && lab.reply(two)?.is_some()))?;
    start_clients(lab)?;
    let three = ([10, 96, 7, 3], 80);
    for round in 0..2 {
        lab.server.stop();
        until("status says so", || Ok(lab.pending().contains("the API server cannot be reached")))?;
        lab.server.delete(Kind::Service, "ns", "two");
        lab.server.put_all(served("three", three.0, three.1, &pods).into());
        lab.server.compact();
        if round == 1 {
            agent.stop()?;
            agent.restart_without_waiting()?;
        }
        lab.server.restart();
        until("what was missed", || Ok(lab.reply(two)?.is_none() && lab.reply(three)?.is_some()))
            .with_context(|| {
                format!(
                    "round {round}: two {:?}, three {:?}, {}, {}",
                    lab.reply(two),
                    lab.reply(three),
                    lab.pending(),
                    agent.log().unwrap_or_default()
                )
            })?;
        until("status says so", || Ok(lab.pending().is_empty()))?;
        lab.server.delete(Kind::Service, "ns", "three");
        lab.server.put_all(served("two", two.0, two.1, &pods).into());
        until("and back", || Ok(lab.reply(two)?.is_some() && lab.reply(three)?.is_none()))?;
    }
    finish_clients(lab)
}

fn the_installed_account_has_the_rights_it_needs(lab: &mut Lab) -> Result<()> {
    // CFG-6
    drop(lab.agent()?);
    let install = concat!(env!("CARGO_MANIFEST_DIR"), "/yaml/install.yaml");
    lab.kubectl(&["apply", "--validate=strict", "-f", install])?;
    let token = lab.kubectl(&["-n", "kube-system", "create", "token", "beeline"])?;
    let account = lab.server.credentials.kubeconfig_with("account", token.trim(), lab.server.address())?;
    let mut agent = lab.agent_with(&account)?;
    lab.server.put_all(served("one", ONE.0, ONE.1, &[lab.web[0].ip4()]).into());
    until("it serves", || Ok(lab.reply(ONE)?.as_deref() == Some("web-1")))?;
    until("its start is an event", || {
        let events = lab.server.list("events.k8s.io/v1", "Event")?;
        Ok(events.iter().any(|event| event["reason"] == "Starting" && event["regarding"]["name"] == "n1"))
    })?;
    assert_eq!(lab.pending(), "");
    // The account goes: what is missing is said, and what is there goes on.
    agent.stop()?;
    lab.server.credentials.kubeconfig_with("account", "nobody-token", lab.server.address())?;
    agent.restart_without_waiting()?;
    until("what is missing is said", || {
        Ok(lab.pending().contains("bind the ClusterRole system:node-proxier to the user 'nobody'"))
    })?;
    assert_eq!(lab.reply(ONE)?.as_deref(), Some("web-1"));
    Ok(())
}
