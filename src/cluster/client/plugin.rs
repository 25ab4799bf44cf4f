//! Plugins of a kubeconfig (`users[].user.exec`) that give credentials. kube would wait for one on the agent's
//! own thread, for as long as it takes; here it has a thread of its own and a time limit.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Mutex, oneshot};

/// A plugin is ended after this long.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// Credentials are asked for anew this long before they expire.
const AHEAD: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// The longest answer that is read, in bytes: 1 MiB.
const LONGEST: usize = 1 << 20;

/// How often it is looked whether a plugin that has said everything has ended.
const LOOK: Duration = Duration::from_millis(5);

/// What a plugin gave.
#[derive(Clone, Debug)]
pub(super) struct Credential {
    /// A bearer token.
    pub token: Option<String>,
    /// A certificate and its key.
    pub identity: Option<AuthInfo>,
    expires: Option<Timestamp>,
}

/// A plugin, and what it gave last. Shared by all who ask, of whom one runs it and the others wait.
#[derive(Debug)]
pub(super) struct Plugin {
    exec: ExecConfig,
    limit: Duration,
    have: Mutex<Have>,
}

#[derive(Debug, Default)]
struct Have {
    credential: Option<Arc<Credential>>,
    failed: Option<(Instant, String)>,
}

/// The answer of a plugin.
#[derive(Deserialize)]
struct Answer {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl Plugin {
    /// One that has not been asked yet.
    pub(super) fn new(exec: ExecConfig, limit: Duration) -> Plugin {
        Plugin { exec, limit, have: Mutex::default() }
    }

    /// Whether it is the one that is to be run now, so that what it gave counts.
    pub(super) fn is_of(&self, exec: &ExecConfig) -> bool {
        // What the cluster is like is no part of its text.
        let text = |exec: &ExecConfig| serde_json::to_value((exec, &exec.cluster)).ok();
        text(&self.exec) == text(exec)
    }

    /// What it gives, from before if that still holds; and whether it is new. In the last minute a new one is
    /// asked for, and the old one used until its end where there is none to be had.
    ///
    /// # Errors
    /// It cannot be run, takes too long, or says nothing of use.
    pub(super) async fn credential(&self) -> Result<(Arc<Credential>, bool)> {
        let asked = Instant::now();
        let mut have = self.have.lock().await;
        if let Some(credential) = have.credential.clone().filter(|credential| credential.holds()) {
            return Ok((credential, false));
        }
        // Who waited meanwhile does not try again at once.
        let error = match have.failed.as_ref().filter(|(when, _)| *when >= asked) {
            Some((_, error)) => anyhow!("{error}"),
            None => match self.run().await {
                Ok(credential) => {
                    let credential = Arc::new(credential);
                    *have = Have { credential: Some(credential.clone()), failed: None };
                    return Ok((credential, true));
                }
                Err(error) => {
                    have.failed = Some((Instant::now(), format!("{error:#}")));
                    error
                }
            },
        };
        let credential = have.credential.clone().filter(|credential| credential.is_valid()).ok_or(error)?;
        Ok((credential, false))
    }

    async fn run(&self) -> Result<Credential> {
        let (exec, limit) = (self.exec.clone(), self.limit);
        let (tell, told) = oneshot::channel();
        let run = move || drop(tell.send(answer(&exec, limit).and_then(|text| credential(&text))));
        thread::Builder::new().name("plugin".into()).spawn(run).context("start a thread")?;
        let ended = told.await.unwrap_or_else(|_| Err(anyhow!("its thread ended")));
        let command = self.exec.command.as_deref().unwrap_or_default();
        ended.with_context(|| format!("the credential plugin '{command}' of the kubeconfig"))
    }
}

impl Credential {
    fn holds(&self) -> bool {
        self.expires.is_none_or(|expires| Timestamp::now() + AHEAD < expires)
    }

    fn is_valid(&self) -> bool {
        self.expires.is_none_or(|expires| Timestamp::now() < expires)
    }
}

/// Runs a plugin, and returns what it says.
fn answer(exec: &ExecConfig, limit: Duration) -> Result<String> {
    let deadline = Instant::now() + limit;
    let child = command(exec)?.spawn().with_context(|| match &exec.install_hint {
        Some(hint) => format!("cannot be started; {hint}"),
        None => "cannot be started".to_owned(),
    })?;
    let mut running = Running { child, is_over: false };
    let stdout = running.child.stdout.take().context("its output cannot be read")?;
    let (tell, told) = mpsc::channel();
    // It ends with the plugin, and nobody waits for it longer than for that.
    let read = move || {
        let mut bytes = Vec::new();
        let read = stdout.take(LONGEST as u64 + 1).read_to_end(&mut bytes).map(|_| bytes);
        drop(tell.send(read));
    };
    thread::Builder::new().name("plugin-output".into()).spawn(read).context("start a thread")?;
    let late =
        || anyhow!("did not end in {} s and was killed: see whether it waits for input", limit.as_secs_f32());
    let bytes = told.recv_timeout(limit).map_err(|_| late())?.context("its output cannot be read")?;
    ensure!(bytes.len() <= LONGEST, "says more than {} MiB", LONGEST >> 20);
    ensure!(running.has_ended_by(deadline)?, late());
    let status = running.end()?;
    ensure!(status.success(), "failed ({status}); its words are on stderr");
    String::from_utf8(bytes).map_err(|_| anyhow!("says what is no text"))
}

/// A plugin under way. All that it started ends with it, however that comes about.
struct Running {
    child: Child,
    /// It was reaped: its id may be another's by now.
    is_over: bool,
}

impl Running {
    /// Waits for its end; false at the deadline. It is left to be reaped: until then nobody else can have
    /// its id, nor that of its group.
    fn has_ended_by(&self, deadline: Instant) -> Result<bool> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(self.id()?), flags).context("wait for it")? == WaitStatus::StillAlive {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(LOOK);
        }
        Ok(true)
    }

    /// Ends it and all that it started, and says how it ended.
    fn end(mut self) -> Result<ExitStatus> {
        self.kill();
        self.is_over = true;
        self.child.wait().context("wait for it")
    }

    fn kill(&self) {
        if let Ok(id) = self.id() {
            let _ = killpg(id, Signal::SIGKILL);
        }
    }

    fn id(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child.id().try_into().context("its id is no id")?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a plugin is started: without a terminal, in a process group of its own.
fn command(exec: &ExecConfig) -> Result<Command> {
    let name = exec.command.as_deref().context("has no command")?;
    let needs_terminal = exec.interactive_mode == Some(ExecInteractiveMode::Always);
    ensure!(!needs_terminal, "has interactiveMode Always, and here is nobody to ask");
    let mut command = Command::new(name);
    command.args(exec.args.iter().flatten());
    let pairs = exec.env.iter().flatten().filter_map(|pair| pair.get("name").zip(pair.get("value")));
    command.envs(pairs);
    let mut spec = json!({"interactive": false});
    if exec.provide_cluster_info {
        spec["cluster"] = serde_json::to_value(&exec.cluster)?;
    }
    let info = json!({"apiVersion": exec.api_version, "kind": "ExecCredential", "spec": spec});
    command.env("KUBERNETES_EXEC_INFO", info.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    Ok(command)
}

/// What an answer holds: an `ExecCredential`, in JSON. None of it is ever quoted: it is secret.
fn credential(text: &str) -> Result<Credential> {
    let answer: Answer = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        anyhow!("says what is no ExecCredential in JSON, at line {line}, column {column} of its output")
    })?;
    let status = answer.status.context("gives an ExecCredential without status")?;
    let pair = status.client_certificate_data.zip(status.client_key_data);
    ensure!(status.token.is_some() || pair.is_some(), "gives neither a token nor a certificate with its key");
    let identity = pair.map(|(certificate, key)| {
        let bytes = |text: String| ByteString(text.into_bytes());
        serde_json::from_value(json!({
            "client-certificate-data": bytes(certificate), "client-key-data": bytes(key)
        }))
    });
    let expires = status.expiration_timestamp.map(|time| {
        let wrong = |_| anyhow!("gives an expirationTimestamp that is no time");
        time.parse::<Timestamp>().map_err(wrong)
    });
    Ok(Credential {
        token: status.token,
        identity: identity.transpose().context("gives a certificate that cannot be used")?,
        expires: expires.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(script: &str, limit: Duration) -> Plugin {
        let exec = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script],
            "env": [{"name": "HELLO", "value": "world"}]
        });
        Plugin::new(serde_json::from_value(exec).unwrap(), limit)
    }

    fn error(script: &str, limit: Duration) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime
            .block_on(plugin(script, limit).credential())
            .map_or_else(|error| format!("{error:#}"), |_| String::new())
    }

    #[tokio::test]
    async fn a_plugin_is_run_again_only_when_what_it_gave_expires() {
        let temp = tempfile::tempdir().unwrap();
        let runs = temp.path().join("runs");
        let script = |expires: &str| {
            format!(
                "echo run >>{}; case $KUBERNETES_EXEC_INFO in *'\"interactive\":false'*) ;; *) exit 1;; esac\n\
                 echo '{{\"kind\":\"ExecCredential\",\"status\":{{\"token\":\"'$HELLO'\"{expires}}}}}'",
                runs.display()
            )
        };
        let lasting = plugin(&script(""), LIMIT);
        let (credential, is_new) = lasting.credential().await.unwrap();
        assert_eq!((credential.token.as_deref(), is_new), (Some("world"), true));
        assert!(!lasting.credential().await.unwrap().1);
        assert_eq!(std::fs::read_to_string(&runs).unwrap().lines().count(), 1);
        let soon = Timestamp::now() + AHEAD / 2;
        let short = plugin(&script(&format!(",\"expirationTimestamp\":\"{soon}\"")), LIMIT);
        assert!(short.credential().await.unwrap().1 && short.credential().await.unwrap().1);
        assert_eq!(std::fs::read_to_string(&runs).unwrap().lines().count(), 3);
    }

    #[tokio::test]
    async fn who_waited_while_a_plugin_failed_does_not_run_it_again_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let runs = temp.path().join("runs");
        let plugin = plugin(&format!("echo run >>{}; sleep 0.1; exit 3", runs.display()), LIMIT);
        let (first, second) = tokio::join!(plugin.credential(), plugin.credential());
        let said = [first, second].map(|given| format!("{:#}", given.unwrap_err()));
        assert_eq!(said[0], said[1]);
        assert!(plugin.credential().await.is_err());
        assert_eq!(std::fs::read_to_string(&runs).unwrap().lines().count(), 2, "once for both, once later");
    }

    #[test]
    fn what_a_plugin_started_ends_with_it() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("pid");
        error(&format!("sleep 77 & echo $! >{}; sleep 77", file.display()), Duration::from_millis(200));
        gone(&std::fs::read_to_string(&file).unwrap());
    }

    /// Waits until a process is gone.
    fn gone(pid: &str) {
        // One that ended and that nobody has asked after yet has no command line.
        let runs =
            || std::fs::read(format!("/proc/{}/cmdline", pid.trim())).is_ok_and(|line| !line.is_empty());
        let deadline = Instant::now() + Duration::from_secs(5);
        while runs() {
            assert!(Instant::now() < deadline, "{pid} still runs");
            thread::sleep(LOOK);
        }
    }

    #[test]
    fn a_plugin_that_hangs_is_ended_with_all_it_started() {
        let began = Instant::now();
        let said = error("sleep 77 & sleep 77", Duration::from_millis(200));
        assert!(
            said.contains("the credential plugin 'sh'") && said.contains("did not end in 0.2 s"),
            "{said}"
        );
        let said = error("exec >/dev/null; sleep 77", Duration::from_millis(200));
        assert!(said.contains("did not end"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn what_a_plugin_says_is_never_quoted() {
        for said in [
            "SECRET",
            "\"SECRET\"",
            "{\"status\": \"SECRET\"}",
            "{\"status\": {\"token\": [\"SECRET\"]}}",
            "{\"status\": {\"token\": \"SECRET\"",
            "{\"status\": {\"token\": \"SECRET\", \"token\": \"SECRET\"}}",
            "{\"status\": {\"token\": \"x\", \"expirationTimestamp\": \"SECRET\"}}",
            "status: {token: \"SECRET}",
        ] {
            let said = error(&format!("echo '{said}'"), LIMIT);
            assert!(!said.contains("SECRET"), "{said}");
        }
        let said = error("echo '{\"status\":'; echo '{\"token\": [\"SECRET\"]}}'", LIMIT);
        assert!(said.contains("line 2, column"), "{said}");
    }

    #[test]
    fn what_a_plugin_started_ends_however_it_ends() {
        for how in ["exit 3", "echo {", "exit 0", "head -c 2000000 /dev/zero"] {
            let temp = tempfile::tempdir().unwrap();
            let file = temp.path().join("pid");
            error(&format!("sleep 77 >/dev/null 2>&1 & echo $! >{}; {how}", file.display()), LIMIT);
            gone(&std::fs::read_to_string(&file).unwrap());
        }
    }

    #[test]
    fn a_plugin_without_end_to_its_words_is_ended() {
        let began = Instant::now();
        let said = error("exec cat /dev/zero", LIMIT);
        assert!(said.contains("says more than 1 MiB"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_credential_that_still_holds_is_used_where_no_new_one_is_to_be_had() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("says");
        let soon = Timestamp::now() + jiff::SignedDuration::from_secs(3);
        let says = format!("{{\"status\":{{\"token\":\"old\",\"expirationTimestamp\":\"{soon}\"}}}}");
        std::fs::write(&file, says).unwrap();
        let plugin = plugin(&format!("cat {}", file.display()), LIMIT);
        plugin.credential().await.unwrap();
        std::fs::remove_file(&file).unwrap();
        let (credential, is_new) = plugin.credential().await.unwrap();
        assert_eq!((credential.token.as_deref(), is_new), (Some("old"), false));
        while Timestamp::now() < soon {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(plugin.credential().await.is_err(), "an expired one is of no use");
    }

    #[test]
    fn a_plugin_that_is_of_no_use_says_why() {
        for (script, why) in [
            ("exit 3", "failed (exit status: 3)"),
            ("echo '['", "says what is no ExecCredential"),
            ("echo '{\"kind\": \"ExecCredential\"}'", "without status"),
            ("echo '{\"status\": {\"clientCertificateData\": \"x\"}}'", "neither a token nor a certificate"),
            ("echo '{\"status\": {\"token\": \"x\", \"expirationTimestamp\": \"now\"}}'", "is no time"),
        ] {
            let said = error(script, LIMIT);
            assert!(said.contains(why), "{script}: {said}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (exec, why) in [
            (
                json!({"command": "/nonexistent", "installHint": "install it"}),
                "cannot be started; install it",
            ),
            (json!({"command": "true", "interactiveMode": "Always"}), "here is nobody to ask"),
            (json!({}), "has no command"),
        ] {
            let plugin = Plugin::new(serde_json::from_value(exec).unwrap(), LIMIT);
            let said = format!("{:#}", runtime.block_on(plugin.credential()).unwrap_err());
            assert!(said.contains(why), "{said}");
        }
    }
}
