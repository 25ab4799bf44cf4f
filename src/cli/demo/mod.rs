//! `beeline demo`: Services from a directory of manifests, served to real processes in a cluster in a
//! box. Every claim it makes is checked; the first that does not hold ends it with an error.

mod figures;
mod stage;
mod voice;

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::render::print;
use crate::sandbox::proto::{DialReport, Exchange, Open, PeerName, Receive, Send};
use crate::sandbox::tidy;
use stage::{BASKET, CLOCK, Stage, WEB, WEB6, address};
use voice::Voice;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave out the comparison with nftables at the end.
    #[arg(long)]
    no_figures: bool,
    /// Show nothing: only remove what killed demos, tests and benchmarks have left on this machine.
    #[arg(long, conflicts_with = "no_figures")]
    tidy: bool,
}

/// Runs the demo from its first act to its last.
///
/// # Errors
/// Not root, something cannot be made or removed, or a claim does not hold.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.tidy {
        for owner in tidy::sweep()? {
            print(&format!("removed what process {} had left", owner.pid))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let voice = Voice::new();
    voice.act("A cluster in a box")?;
    voice.say("Two nodes, each with its own agent; three web pods and a client, all real processes.")?;
    let mut stage = Stage::build()?;
    voice.say("The agents read yaml/example: Services web, clock (UDP) and basket (session affinity).")?;
    reach(&voice, &stage)?;
    datagrams(&voice, &stage)?;
    lose_one(&voice, &stage)?;
    lose_all(&voice, &stage)?;
    lose_the_agent(&voice, &mut stage)?;
    if !args.no_figures {
        figures::show(&voice, &stage)?;
    }
    voice.act("The end")?;
    let Stage { agents, client, web, node, sandbox, .. } = stage;
    let tag = sandbox.tag().to_owned();
    drop((agents, client, web, node));
    sandbox.close()?;
    let left = tidy::remains(&tag)?;
    voice.claim(left.is_empty(), "everything was removed: namespaces, cgroups, mounts with their pins")?;
    Ok(ExitCode::SUCCESS)
}

/// A Service dialled by a pod reaches a backend.
fn reach(voice: &Voice, stage: &Stage) -> Result<()> {
    voice.act("A pod dials a Service")?;
    let mut landed: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..60 {
        let report = stage.get(WEB)?;
        let name = report.reply.with_context(|| format!("no answer from {WEB}: {:?}", report.errno))?;
        *landed.entry(name).or_default() += 1;
    }
    let spread: Vec<String> = landed.iter().map(|(name, count)| format!("{name} {count}")).collect();
    voice.say(&format!("GET http://{WEB}/ sixty times: {}", spread.join(", ")))?;
    voice.claim(landed.len() == 3, "all three backends were reached, on this node and the other")?;
    let report = stage.get(WEB)?;
    voice
        .claim(report.peer == Some(address(WEB)?), &format!("getpeername() says what was dialled: {WEB}"))?;
    let six = stage.get(WEB6)?;
    voice.claim(
        six.reply.is_some(),
        &format!("the same over IPv6: {WEB6} → {}", six.reply.as_deref().unwrap_or("?")),
    )?;
    let first = stage.get(BASKET)?.reply;
    let mut stuck = first.is_some();
    for _ in 0..15 {
        stuck &= stage.get(BASKET)?.reply == first;
    }
    let name = first.as_deref().unwrap_or("?");
    voice.claim(stuck, &format!("session affinity: sixteen connections to {BASKET}, all to {name}"))?;
    if !stage.refuses {
        return voice
            .say("(this kernel lets no program refuse a connection: bpf_set_retval came with Linux 5.18)");
    }
    let undefined = stage.get("10.96.0.10:81")?;
    voice.claim(refused(&undefined), "a port that no Service defines is refused at once")
}

fn refused(report: &DialReport) -> bool {
    report.errno.as_deref() == Some("ECONNREFUSED")
}

/// UDP, from a socket that is not connected.
fn datagrams(voice: &Voice, stage: &Stage) -> Result<()> {
    voice.act("Datagrams")?;
    let report = stage.client.call(Exchange::udp(address(CLOCK)?))?;
    let answer = report.answers.first().context("no answer was reported")?;
    let name = answer.backend().unwrap_or("?");
    voice.claim(answer.backend().is_some(), &format!("sendto({CLOCK}) was answered by {name}"))?;
    voice.claim(answer.from == Some(address(CLOCK)?), &format!("recvfrom() says it came from {CLOCK}"))
}

/// A backend goes: new connections avoid it, old ones go on.
fn lose_one(voice: &Voice, stage: &Stage) -> Result<()> {
    voice.act("A backend goes")?;
    let web2 = "web-2";
    stage.client.call(Open::tcp("old", (stage.web[1].ip4(), 9090)))?;
    stage.endpoints_without(&["10.244.1.12", "fd00:10:244:1::12"])?;
    // The last connection it got, as seen by dialling for a while: the change has long arrived then.
    let begun = Instant::now();
    let mut last = Duration::ZERO;
    while begun.elapsed() < Duration::from_millis(300) {
        if stage.get(WEB)?.reply.as_deref() == Some(web2) {
            last = begun.elapsed();
        }
    }
    voice.say(&format!(
        "the last connection to {web2} began {:.1} ms after rename(2) of its manifest",
        last.as_secs_f64() * 1e3
    ))?;
    let mut missed = 0;
    for _ in 0..60 {
        missed += u32::from(stage.get(WEB)?.reply.as_deref() == Some(web2));
    }
    voice.claim(missed == 0, "sixty new connections, none to web-2")?;
    stage.client.call(Send { socket: "old".into(), say: "?".into(), to: None })?;
    let heard = stage.client.call(Receive { socket: "old".into(), peek: false, timeout_ms: 2000 })?;
    voice.claim(heard.data.as_deref() == Some(web2), "a connection that web-2 has is left alone (CT-2)")
}

/// The last backend goes, and comes back.
fn lose_all(voice: &Voice, stage: &Stage) -> Result<()> {
    voice.act("The last backend goes")?;
    stage.endpoints_without(&["10.244.", "fd00:10:244:"])?;
    if stage.refuses {
        stage.until(WEB, "the Service refuses", refused)?;
        let before = sent_segments(stage)?;
        let report = stage.get(WEB)?;
        let is_silent = sent_segments(stage)? == before;
        voice.claim(
            refused(&report) && is_silent,
            "connect() says ECONNREFUSED, and not a packet leaves the pod",
        )?;
    } else {
        stage.until(WEB, "nobody answers", |report| report.reply.is_none())?;
        voice.claim(true, "nobody answers; refusing is left to the packet path on this kernel")?;
    }
    stage.endpoints_without(&[])?;
    let took = stage.until(WEB, "the Service is back", |report| report.reply.is_some())?;
    voice.claim(
        true,
        &format!("the backends come back: served again {:.1} ms after rename(2)", took.as_secs_f64() * 1e3),
    )
}

/// How many segments the client's namespace has sent, resets included.
fn sent_segments(stage: &Stage) -> Result<u64> {
    let file = format!("/proc/{}/net/snmp", stage.client.pid());
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (names, values) = lines.next().zip(lines.next()).with_context(|| format!("no line Tcp in {file}"))?;
    let sent = names.zip(values).find(|(name, _)| *name == "OutSegs").map(|(_, value)| value.parse());
    Ok(sent.with_context(|| format!("no OutSegs in {file}"))??)
}

/// The agent dies, and nobody notices.
fn lose_the_agent(voice: &Voice, stage: &mut Stage) -> Result<()> {
    voice.act("The agent is killed")?;
    stage.client.call(Open::tcp("held", address(WEB)?))?;
    stage.agents[0].kill()?;
    let mut served = 0;
    for _ in 0..30 {
        served += u32::from(stage.get(WEB)?.reply.is_some());
    }
    voice.claim(served == 30, "kill -9, and thirty of thirty connections are served")?;
    voice.say("beeline services, from the pinned maps alone:")?;
    voice.block(&stage.noun(&["services"])?)?;
    stage.agents[0].restart()?;
    let peer = stage.client.call(PeerName { socket: "held".into() })?;
    voice.claim(
        peer.peer == Some(address(WEB)?),
        "a new agent took over; what a socket dialled is still known",
    )?;
    voice.claim(stage.get(WEB)?.reply.is_some(), "and connections go on")
}
