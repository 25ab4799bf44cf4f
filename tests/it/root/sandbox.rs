//! The sandbox itself: what it builds works, before anything of ours is attached.

use anyhow::Result;
use beeline::sandbox::cluster::Sandbox;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{ConnectCall, Dial, Exchange, SendCall, Serve};

const PORT: u16 = 8080;

fn backend(pod: Pod) -> Result<Pod> {
    pod.call(Serve::tcp(PORT))?;
    pod.call(Serve::udp(PORT))?;
    Ok(pod)
}

/// Every kind of client reaches every kind of server, in both families, by TCP and UDP.
#[test]
fn everybody_reaches_everybody() -> Result<()> {
    let sandbox = Sandbox::new("reach")?;
    let (n1, n2) = (sandbox.add_node("n1")?, sandbox.add_node("n2")?);
    let all = [
        backend(n1.add_pod("one")?)?,
        backend(n1.add_pod("two")?)?,
        backend(n2.add_pod("three")?)?,
        backend(n1.add_host_process("host-one")?)?,
        backend(n2.add_plain_pod("plain")?)?,
        backend(sandbox.add_outside_client("outside")?)?,
    ];
    for client in &all {
        for server in &all {
            for to in server.at(PORT) {
                let what = format!("{} to {} at {to}", client.name(), server.name());
                let dialled = client.call(Dial::tcp(to))?;
                assert_eq!(dialled.reply.as_deref(), Some(server.name()), "{what}: {dialled:?}");
                assert_eq!(dialled.peer, Some(to), "{what}");
                let sent = client.call(Exchange::udp(to))?;
                assert_eq!(sent.answers[0].backend(), Some(server.name()), "{what}: {sent:?}");
                assert_eq!(sent.answers[0].from, Some(to), "{what}");
            }
        }
    }
    sandbox.close()
}
