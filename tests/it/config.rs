//! The configuration from outside: command lines as kubeadm and people write them, and the documentation.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use beeline::config::flags::FLAGS;
use beeline::config::kube_proxy::fields::FIELDS;
use beeline::config::kube_proxy::{KubeProxyConfiguration, effective};

const BEELINE: &str = env!("CARGO_BIN_EXE_beeline");
const KUBEADM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/config/kubeadm.conf");
const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn run(program: &Path, args: &[&str]) -> Output {
    Command::new(program).args(args).output().expect("it runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `--write-config-to` writes for a command line, and what was said.
fn written(program: &Path, args: &[&str]) -> (KubeProxyConfiguration, String) {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("written.conf");
    let flag = format!("--write-config-to={}", to.display());
    let output = run(program, &[args, &[flag.as_str()]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = fs::read_to_string(to).unwrap();
    (effective(Some(&text), &[]).expect("what is written loads").config, stderr(&output))
}

#[test]
fn kubeadms_command_line_works_unchanged() {
    // CFG-1, CFG-8
    let dir = tempfile::tempdir().unwrap();
    let kube_proxy = dir.path().join("kube-proxy");
    symlink(BEELINE, &kube_proxy).unwrap();
    let config = format!("--config={KUBEADM}");
    let (found, said) = written(&kube_proxy, &[&config, "--hostname-override=Node-A"]);
    assert_eq!(found.hostname_override, "node-a");
    assert_eq!(found.client_connection.kubeconfig, "/var/lib/kube-proxy/kubeconfig.conf");
    assert!(!said.contains("WARN"), "{said}");
    let (same, _) = written(Path::new(BEELINE), &[&config, "--hostname-override=Node-A"]);
    assert_eq!(same, found, "a flag of run as the first word");
}

#[test]
fn why_an_agent_ends_is_a_line_of_its_log() {
    let line = ["run", "--log-format=json", "--kubeconfig=/nonexistent", "--node-name=a"];
    let output = run(Path::new(BEELINE), &line);
    assert_ne!(output.status.code(), Some(0));
    let said = stderr(&output);
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let last = lines.last().expect("it says something");
    assert_eq!(last["level"], "ERROR");
    assert!(
        last["fields"]["message"].as_str().is_some_and(|message| message.contains("/nonexistent")),
        "{last}"
    );
}

#[test]
fn flags_are_written_and_logging_flags_win_over_the_file() {
    // CFG-1, CFG-4
    let line = [
        "run",
        "--cluster_cidr",
        "10.0.0.0/8",
        "--nodeport-addresses=10.0.0.0/8",
        "--nodeport-addresses",
        "fd00::/8",
    ];
    let (found, _) = written(Path::new(BEELINE), &line);
    assert_eq!(found.cluster_cidr, "10.0.0.0/8");
    assert_eq!(found.node_port_addresses.map(|all| all.len()), Some(2), "lists add up");
    let config = format!("--config={KUBEADM}");
    let line = ["run", &config, "-v=2", "--masquerade-all", "--v", "5", "--logging-format=json"];
    let (found, said) = written(Path::new(BEELINE), &line);
    assert_eq!((found.logging.verbosity, found.logging.format.as_str()), (5, "json"));
    assert!(said.starts_with('{') && said.contains("ignored") && said.contains("--masquerade-all"), "{said}");
}

#[test]
fn what_cannot_be_used_says_what_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.conf");
    let config = format!("--config={}", file.display());
    let code = |args: &[&str], said: &str| {
        let output = run(Path::new(BEELINE), args);
        assert!(stderr(&output).contains(said), "{args:?}: {}", stderr(&output));
        output.status.code()
    };
    assert_eq!(code(&["run", &config], "c.conf"), Some(1), "no such file");
    fs::write(&file, format!("{HEAD}mode: 3\n")).unwrap();
    assert_eq!(code(&["run", &config], "c.conf: mode (line 3): is a number"), Some(1));
    fs::write(&file, [HEAD.as_bytes(), b"mode: \xff\n"].concat()).unwrap();
    assert_eq!(code(&["run", &config], "c.conf: line 3: is no UTF-8 text"), Some(1));
    fs::write(&file, HEAD).unwrap();
    assert_eq!(code(&["run", &config, "--v=much"], "--v: 'much' is not"), Some(2));
    assert_eq!(code(&["run", &config], "no source of Services: give --manifests"), Some(2));
    assert_eq!(
        code(&["run", "--manifests=m", "--masquerade-all=maybe"], "--masquerade-all: 'maybe'"),
        Some(2)
    );
    assert_eq!(
        code(&["run", "--manifests=m", "--cluster-cidr", "10.0.0.0"], "must be a valid CIDR"),
        Some(2)
    );
    assert_eq!(code(&["run", "--manifests=m", "--no-such-flag"], "--no-such-flag"), Some(2));
    let nowhere = format!("--write-config-to={}/no/c", dir.path().display());
    assert_eq!(code(&["run", &nowhere], "write the configuration to"), Some(1));
}

#[test]
fn the_version_is_told_in_every_form() {
    // CFG-4
    let dir = tempfile::tempdir().unwrap();
    let kube_proxy = dir.path().join("kube-proxy");
    symlink(BEELINE, &kube_proxy).unwrap();
    for (program, args) in [
        (Path::new(BEELINE), vec!["--version"]),
        (&kube_proxy, vec!["--version"]),
        (&kube_proxy, vec!["--config=x", "--version"]),
    ] {
        let output = run(program, &args);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains(env!("CARGO_PKG_VERSION")), "{args:?}: {said}");
    }
}

#[test]
fn the_documentation_has_each_field_and_flag_with_what_it_does() {
    let text = include_str!("../../docs/configuration.md");
    let fields = FIELDS.iter().map(|field| format!("| `{}` | {} |", field.path, field.effect.text()));
    let flags = FLAGS.iter().map(|flag| format!("| `--{}` | {} |", flag.name, flag.target.text()));
    let wanted: Vec<_> = fields.chain(flags).collect();
    let missing: Vec<_> = wanted.iter().filter(|row| !text.lines().any(|line| line == *row)).collect();
    assert!(missing.is_empty(), "docs/configuration.md lacks these lines: {missing:#?}");
}
