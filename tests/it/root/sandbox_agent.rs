//! How the sandbox runs agents, with a script in the agent's place: started in the node's namespace,
//! awaited, ended in each way, started again.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::Result;
use beeline::host::run;
use beeline::host::{cgroup, netns};
use beeline::sandbox::cluster::Sandbox;

/// Says what it was called with and where it runs, then `ready`; ends on SIGTERM with code 7.
const AGENT: &str = r#"#!/bin/sh
echo "called with $*"
case "$*" in
*--fail*) echo "no such thing as a mill" >&2; exit 3;;
esac
trap 'exit 7' TERM
started=$(cut -d' ' -f22 "/proc/$$/stat")
echo "{\"pid\": $$, \"started\": $started, \"pending\": []}" > "/run/beeline/$$.json"
echo ready
while :; do sleep 0.05; done
"#;

fn script(dir: &tempfile::TempDir) -> Result<PathBuf> {
    let path = dir.path().join("beeline");
    std::fs::write(&path, AGENT)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn an_agent_runs_in_its_nodes_namespace_and_cgroup_until_it_is_ended() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sandbox = Sandbox::with_binary("agent", &script(&dir)?)?;
    let (n1, n2) = (sandbox.add_node("n1")?, sandbox.add_node("n2")?);
    let manifests = dir.path().join("manifests");
    let mut one = n1.start_agent(&manifests, &["--zone", "a"])?;
    let two = n2.start_agent(&manifests, &[])?;
    let inode = |fd: std::os::fd::BorrowedFd<'_>| netns::inode(fd);
    for (agent, node) in [(&one, &n1), (&two, &n2)] {
        let pid = agent.pid()?;
        assert_eq!(cgroup::of_process(pid)?, node.cgroup_root().join("agent"));
        let fd = netns::of_process(pid)?;
        assert_eq!(inode(std::os::fd::AsFd::as_fd(&fd))?, inode(std::os::fd::AsFd::as_fd(node.netns()))?);
        let expected = format!(
            "called with run --manifests {} --node-name {} --node-ip {},{} --cgroup-root {} --bpf-root {}",
            manifests.display(),
            node.name(),
            node.ip4(),
            node.ip6(),
            node.cgroup_root().display(),
            node.bpf_root().display()
        );
        assert!(agent.log()?.starts_with(&expected), "{}", agent.log()?);
    }
    assert!(one.log()?.contains("--zone a\n"));
    if cgroup::v1_memory_root()?.is_some() {
        assert!(one.memory_charged()? > 0 && one.memory_charged()? < 1 << 30);
    }
    assert!(one.restart().is_err(), "it runs");
    assert_eq!(one.stop()?.code(), Some(7), "SIGTERM");
    assert!(!one.runs() && one.pid().is_err());
    one.restart()?;
    one.kill()?;
    assert!(!one.runs());
    one.restart()?;
    assert_eq!(one.log()?.matches("ready\n").count(), 3);
    let last = beeline::host::process::ProcessId::of(one.pid()?)?;
    drop(one);
    assert!(!last.alive());
    Ok(())
}

#[test]
fn an_agent_that_ends_before_it_is_ready_shows_its_log() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sandbox = Sandbox::with_binary("agent", &script(&dir)?)?;
    let node = sandbox.add_node("n1")?;
    let error = node.start_agent(dir.path(), &["--fail"]).expect_err("it ends");
    let text = format!("{error:#}");
    assert!(text.contains("exit status: 3") && text.contains("no such thing as a mill"), "{text}");
    Ok(())
}

/// A killed agent cannot remove its state file.
#[test]
fn what_a_killed_agent_left_in_run_goes_with_the_sandbox() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sandbox = Sandbox::with_binary("agent", &script(&dir)?)?;
    let node = sandbox.add_node("n1")?;
    let agent = node.start_agent(dir.path(), &[])?;
    let state = PathBuf::from(format!("{}/{}.json", run::DIR, agent.pid()?));
    let pins = node.bpf_root().to_string_lossy().trim_matches('/').replace('/', "_");
    let log = PathBuf::from(format!("{}/{pins}-socket.log", run::DIR));
    std::fs::write(&log, "R0 is not a known value")?;
    drop(agent);
    assert!(state.exists() && log.exists());
    sandbox.close()?;
    assert!(!state.exists() && !log.exists());
    Ok(())
}
