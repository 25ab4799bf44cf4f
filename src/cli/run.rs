//! `beeline run`: the agent.

mod flags;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use tracing_subscriber::filter::LevelFilter;

use self::flags::KubeProxyFlags;
use super::render::print;
use super::{Usage, cleanup, exit_code, ip};
use crate::agent;
use crate::cluster::client::parse_url;
use crate::config::kube_proxy::types::Logging;
use crate::config::kube_proxy::{self, Effective};
use crate::config::{Config, ConfigFile, Flags, Machine};

/// The token of a pod's account: where it is, an agent can do without a kubeconfig.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Flags of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or directory of manifests (YAML or JSON); a directory is followed
    #[arg(long, value_name = "PATH")]
    manifests: Option<PathBuf>,
    /// A kubeconfig that says how the API server is reached, unless --config names one
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The API server; wins over what the kubeconfig says
    #[arg(long, value_name = "URL", visible_alias = "master", value_parser = url)]
    apiserver: Option<String>,
    /// A KubeProxyConfiguration; flags for what it says do not count, and a change of it ends the agent
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The name of this node; that of --config or the host name, if not given
    #[arg(long, visible_alias = "hostname-override", value_name = "NAME")]
    node_name: Option<String>,
    /// The addresses of this node, the first of a family being the primary one; those of its interfaces, if not given
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = ip)]
    node_ip: Vec<IpAddr>,
    /// The zone of this node; the label of its Node object, if not given
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// The cgroup v2 folder to attach to; where it is mounted, if not given
    #[arg(long, value_name = "PATH")]
    cgroup_root: Option<PathBuf>,
    /// The bpffs that holds the tables
    #[arg(long, value_name = "PATH", default_value = crate::config::BPF_ROOT)]
    bpf_root: PathBuf,
    /// Do what needs most privileges (mounts, sysctls), and end
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = truth)]
    init_only: bool,
    /// Write the configuration that counts to a file that --config takes, and end
    #[arg(long, value_name = "FILE")]
    write_config_to: Option<PathBuf>,
    /// Remove everything of Beeline from this machine, and end
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = truth)]
    cleanup: bool,
    #[command(flatten)]
    kube_proxy: KubeProxyFlags,
}

fn url(text: &str) -> Result<String, String> {
    parse_url(text).map(|_| text.to_owned()).map_err(|error| format!("{error:#}"))
}

fn truth(text: &str) -> Result<bool, String> {
    crate::config::flags::bool(text).ok_or_else(|| "it is neither true nor false".into())
}

/// Runs the agent until SIGTERM or SIGINT, or does the one thing that a flag asks for instead.
///
/// # Errors
/// The configuration cannot be used, the flags make no sense together, a privilege is missing, or the
/// kernel refuses the data path.
pub fn run(args: Args) -> Result<ExitCode> {
    let file = args.config.as_deref().map(read).transpose()?;
    let effective = effective(file.as_ref(), &args.kube_proxy)?;
    log(&effective.config.logging);
    let is_json = effective.config.logging.format == "json";
    match with_log(args, file, effective) {
        // Why an agent ends is a line like the others.
        Err(error) if is_json => {
            tracing::error!("{error:#}");
            Ok(ExitCode::from(exit_code(&error)))
        }
        done => done,
    }
}

fn with_log(args: Args, file: Option<ConfigFile>, effective: Effective) -> Result<ExitCode> {
    effective.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if let Some(path) = &args.write_config_to {
        return write_config(path, effective, args.node_name.as_deref());
    }
    if args.cleanup {
        return cleanup::run(cleanup::CleanupArgs::new(args.bpf_root, args.cgroup_root));
    }
    let init_only = args.init_only;
    let config =
        Config::new(own(args, file), effective, &machine()?).map_err(|error| Usage(error.to_string()))?;
    if init_only {
        agent::setup::init(&config)?;
        return Ok(ExitCode::SUCCESS);
    }
    agent::run::run(&config, || {
        if let Err(error) = print("ready") {
            tracing::warn!("cannot say that it is ready: {error:#}");
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<ConfigFile> {
    let bytes = fs::read(path).with_context(|| format!("read the configuration {}", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        anyhow::anyhow!("{}: line {line}: is no UTF-8 text", path.display())
    })?;
    Ok(ConfigFile { path: path.to_owned(), text })
}

/// kube-proxy's configuration. What is wrong with a file is trouble, what is wrong with a flag is usage.
fn effective(file: Option<&ConfigFile>, flags: &KubeProxyFlags) -> Result<Effective> {
    let effective = kube_proxy::effective(file.map(|file| file.text.as_str()), &flags.given);
    match (effective, file) {
        (Ok(effective), _) => Ok(effective),
        (Err(error), Some(file)) if !error.field.starts_with("--") => {
            Err(error).with_context(|| format!("configuration {}", file.path.display()))
        }
        (Err(error), _) => Err(Usage(error.to_string()).into()),
    }
}

fn write_config(path: &Path, mut effective: Effective, node_name: Option<&str>) -> Result<ExitCode> {
    if let Some(name) = node_name {
        effective.config.hostname_override = name.trim().to_lowercase();
    }
    let text = effective.to_yaml().map_err(|error| Usage(error.to_string()))?;
    fs::write(path, text).with_context(|| format!("write the configuration to {}", path.display()))?;
    tracing::info!("wrote the configuration to {}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn machine() -> Result<Machine> {
    let hostname = nix::unistd::gethostname().context("read the host name")?;
    Ok(Machine {
        hostname: hostname.to_string_lossy().into_owned(),
        has_account: Path::new(ACCOUNT).is_file(),
    })
}

fn own(args: Args, config: Option<ConfigFile>) -> Flags {
    Flags {
        manifests: args.manifests,
        kubeconfig: args.kubeconfig,
        apiserver: args.apiserver,
        node_name: args.node_name,
        node_ips: args.node_ip,
        zone: args.zone,
        cgroup_root: args.cgroup_root,
        bpf_root: Some(args.bpf_root),
        config,
    }
}

/// Logs go to stderr: stdout is for `ready`.
fn log(logging: &Logging) {
    let level = match logging.verbosity {
        0..=3 => LevelFilter::INFO,
        4..=5 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // It fails only where a log is set up already, which then is the one to use.
    let _ = match logging.format.as_str() {
        "json" => builder.json().try_init(),
        _ => builder.with_target(false).try_init(),
    };
}
