//! `beeline run`: the agent.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use ipnet::IpNet;
use tracing_subscriber::filter::LevelFilter;

use super::Usage;
use super::render::print;
use crate::agent;
use crate::config::{Config, Flags};
use crate::model::addr::{parse_cidr, parse_ip};

/// Flags of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or directory of manifests (YAML or JSON); a directory is followed
    #[arg(long, value_name = "PATH")]
    manifests: Option<PathBuf>,
    /// A kubeconfig that says how the API server is reached
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The API server; wins over what the kubeconfig says
    #[arg(long, value_name = "URL", visible_alias = "master")]
    apiserver: Option<String>,
    /// The name of this node; the host name, if not given
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
    /// The addresses of pods, one range per family: who is not in it comes from outside
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = cidr)]
    cluster_cidr: Vec<IpNet>,
    /// Masquerade everything that goes through a ClusterIP
    #[arg(long)]
    masquerade_all: bool,
    /// Where metrics are served, as kube-proxy's are; '' for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = crate::config::METRICS_BIND_ADDRESS)]
    metrics_bind_address: String,
    /// Where health is served, as kube-proxy's is; '' for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = crate::config::HEALTHZ_BIND_ADDRESS)]
    healthz_bind_address: String,
    /// How much is logged: 4 adds every Service programmed, 6 everything
    #[arg(short, long = "v", value_name = "LEVEL", default_value_t = 0)]
    verbosity: u8,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object per line.
    Json,
}

fn ip(text: &str) -> Result<IpAddr, String> {
    parse_ip(text).ok_or_else(|| "it is no IP address".into())
}

fn cidr(text: &str) -> Result<IpNet, String> {
    parse_cidr(text).ok_or_else(|| "it is no CIDR, like 10.0.0.0/8".into())
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// The flags make no sense together, a privilege is missing, or the kernel refuses the data path.
pub fn run(args: Args) -> Result<ExitCode> {
    log(args.verbosity, args.log_format);
    let hostname = nix::unistd::gethostname().context("read the host name")?;
    let config =
        Config::new(flags(args), &hostname.to_string_lossy()).map_err(|error| Usage(error.to_string()))?;
    agent::run::run(&config, || {
        if let Err(error) = print("ready") {
            tracing::warn!("cannot say that it is ready: {error:#}");
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn flags(args: Args) -> Flags {
    Flags {
        manifests: args.manifests,
        kubeconfig: args.kubeconfig,
        apiserver: args.apiserver,
        node_name: args.node_name,
        node_ips: args.node_ip,
        zone: args.zone,
        cgroup_root: args.cgroup_root,
        bpf_root: Some(args.bpf_root),
        cluster_cidrs: args.cluster_cidr,
        masquerade_all: args.masquerade_all,
        metrics_bind_address: Some(args.metrics_bind_address),
        healthz_bind_address: Some(args.healthz_bind_address),
    }
}

/// Logs go to stderr: stdout is for `ready`.
fn log(verbosity: u8, format: LogFormat) {
    let level = match verbosity {
        0..=3 => LevelFilter::INFO,
        4..=5 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // It fails only where a log is set up already, which then is the one to use.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
