//! The command line: one thin file per subcommand.
//!
//! Exit codes: 0 done, or the answer is yes; 1 the answer is no, or the work failed; 2 usage;
//! 3 neither agent nor pins; 4 a privilege is missing, and named.

pub mod cleanup;
pub mod demo;
pub mod doctor;
pub mod dump;
pub mod explain;
pub mod pod;
pub mod render;
pub mod run;
pub mod services;
pub mod status;

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::render::{Format, Output};
use crate::agent::privilege;
use crate::config::flags;
use crate::datapath::maps::OpenError;
use crate::model::addr::parse_ip;

/// The answer is no, or the work failed.
const FAILED: u8 = 1;
/// The command line makes no sense.
const USAGE: u8 = 2;
/// Neither agent nor pins were found.
const NOTHING_FOUND: u8 = 3;
/// A privilege is missing.
const DENIED: u8 = 4;

/// The Service data plane of a Kubernetes node.
#[derive(Debug, Parser)]
#[command(name = "beeline", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How the answer of a noun is shown; as a table, if not given
    #[arg(short, long, global = true, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the Services of a source, until SIGTERM; the data path then stays in place
    #[command(args_override_self = true, display_name = "beeline")]
    Run(Box<run::Args>),
    /// What this node does, and what it cannot do
    Status(status::Args),
    /// What a client can dial, and who answers
    Services(services::Args),
    /// What happens to a connection, and by which rules
    Explain(explain::Args),
    /// All tables in one canonical form, for a bug report
    Dump(dump::Args),
    /// What this machine allows, feature by feature
    Doctor(doctor::Args),
    /// Remove everything of Beeline from this machine
    Cleanup(cleanup::CleanupArgs),
    /// See it work: a cluster in a box, real processes, every claim checked
    Demo(demo::Args),
    /// Be a pod of the sandbox
    #[command(hide = true)]
    Pod(pod::PodArgs),
}

impl Command {
    /// Whether it is a noun, whose answer `-o` shapes.
    fn answers(&self) -> bool {
        !matches!(self, Command::Run(_) | Command::Cleanup(_) | Command::Demo(_) | Command::Pod(_))
    }
}

/// Flags that make no sense together: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}; see --help")]
pub struct Usage(pub String);

/// Parses the command line and runs one subcommand.
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(with_subcommand(std::env::args_os().collect()));
    let output = Output { format: cli.output.unwrap_or_default() };
    let done = match cli.command {
        ref verb if cli.output.is_some() && !verb.answers() => {
            Err(Usage("-o is for what gives an answer: status, services, explain, dump, doctor".into())
                .into())
        }
        Command::Run(args) => run::run(*args),
        Command::Status(args) => status::run(&args, output),
        Command::Services(args) => services::run(&args, output),
        Command::Explain(args) => explain::run(&args, output),
        Command::Dump(args) => dump::run(&args, output),
        Command::Doctor(args) => doctor::run(&args, output),
        Command::Cleanup(args) => cleanup::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Pod(args) => pod::run(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("beeline: {error:#}");
        ExitCode::from(exit_code(&error))
    })
}

/// Called by the name `kube-proxy`, or with a flag where the subcommand would stand, the binary is `run`.
fn with_subcommand(mut args: Vec<OsString>) -> Vec<OsString> {
    // A truth value, as kube-proxy has it (CFG-4).
    if let Some(version) = args.get_mut(1)
        && version.to_str().and_then(|arg| arg.strip_prefix("--version=")).and_then(flags::bool) == Some(true)
    {
        *version = "--version".into();
    }
    let name = args.first().map(Path::new).and_then(Path::file_name);
    let is_kube_proxy = name == Some(OsStr::new("kube-proxy"));
    let first = args.get(1).and_then(|arg| arg.to_str());
    let is_own = matches!(first, Some("-h" | "--help" | "-V" | "--version" | "-o" | "--output"));
    let is_flag = first.is_some_and(|arg| arg.starts_with('-') && !is_own);
    let is_output = first.is_some_and(|arg| arg.starts_with("--output=") || arg.starts_with("-o"));
    let names_run = first == Some("run");
    if (is_kube_proxy && !names_run && first != Some("--version")) || (is_flag && !is_output) {
        args.insert(1, "run".into());
    }
    if args.get(1).is_some_and(|arg| arg == "run") {
        args.into_iter().map(with_dashes).collect()
    } else {
        args
    }
}

/// A flag as clap knows it: kube-proxy takes `--cluster_cidr` for `--cluster-cidr`.
fn with_dashes(arg: OsString) -> OsString {
    let Some(flag) = arg.to_str().and_then(|arg| arg.strip_prefix("--")) else { return arg };
    let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
    format!("--{}{value}", name.replace('_', "-")).into()
}

/// An address on the command line, as Kubernetes reads addresses.
fn ip(text: &str) -> Result<IpAddr, String> {
    parse_ip(text).ok_or_else(|| "it is no IP address".into())
}

/// The exit code that tells a script what kind of trouble it is.
fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Usage>() {
            return USAGE;
        }
        if cause.is::<privilege::Missing>() {
            return DENIED;
        }
        match cause.downcast_ref() {
            Some(OpenError::Absent { .. }) => return NOTHING_FOUND,
            Some(OpenError::Denied { .. }) => return DENIED,
            _ => {}
        }
        let errno = cause.downcast_ref::<nix::Error>().map(|errno| io::Error::from(*errno).kind());
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind).or(errno);
        if kind == Some(io::ErrorKind::PermissionDenied) {
            return DENIED;
        }
    }
    FAILED
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use clap::CommandFactory;

    use super::*;

    fn inserted(args: &[&str]) -> bool {
        with_subcommand(args.iter().map(OsString::from).collect()).get(1) == Some(&"run".into())
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_leading_flag_or_the_name_kube_proxy_means_run() {
        assert!(inserted(&["beeline", "--manifests=x"]));
        assert!(inserted(&["beeline", "-v", "4"]));
        assert!(inserted(&["/usr/local/bin/kube-proxy", "--cluster-cidr=10.0.0.0/8"]));
        assert!(inserted(&["kube-proxy", "--help"]));
        assert!(!inserted(&["beeline", "status"]));
        for own in ["--version", "--help", "-V", "-o", "-ojson", "--output=json"] {
            assert!(!inserted(&["beeline", own]), "{own}");
        }
        assert!(!inserted(&["kube-proxy", "--version"]));
        assert!(!inserted(&["kube-proxy", "--version=true"]) && !inserted(&["beeline", "--version=1"]));
        assert!(!inserted(&["beeline"]));
    }

    #[test]
    fn flags_of_run_are_read_as_kube_proxy_writes_them() {
        let line = "beeline run --manifests m --hostname-override n --node-ip 10.0.0.1,fd00::1 \
                    --cluster-cidr=10.0.0.0/8,fd00:10::/32 --masquerade-all --v=4";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        assert!(matches!(cli.command, Command::Run(_)));
        for bad in ["--node-ip 10.0.0", "--init-only=perhaps", "--no-such-flag"] {
            let line = format!("beeline run --manifests m {bad}");
            assert_eq!(
                Cli::try_parse_from(line.split_whitespace()).unwrap_err().exit_code(),
                i32::from(USAGE)
            );
        }
    }

    #[test]
    fn flags_may_have_underscores_and_stand_there_twice() {
        let args =
            ["kube-proxy", "--cluster_cidr=a_b", "--node_name", "x_y", "--node-name=z", "-v=4", "--v", "5"];
        let args = with_subcommand(args.iter().map(OsString::from).collect());
        assert_eq!(args[2..5], ["--cluster-cidr=a_b", "--node-name", "x_y"]);
        assert!(Cli::try_parse_from(args).is_ok(), "the last one counts");
    }

    #[test]
    fn each_flag_of_run_is_in_the_documentation() {
        let text = include_str!("../../docs/configuration.md");
        let command = Cli::command();
        let run = command.find_subcommand("run").expect("there is run");
        for long in run.get_arguments().filter_map(clap::Arg::get_long_and_visible_aliases).flatten() {
            assert!(text.contains(&format!("`--{long}`")), "docs/configuration.md says nothing of --{long}");
        }
    }

    #[test]
    fn only_nouns_take_a_format() {
        for (line, answers) in [("status", true), ("cleanup", false), ("run --manifests m", false)] {
            let line = format!("beeline {line}");
            let command = Cli::try_parse_from(line.split_whitespace()).unwrap().command;
            assert_eq!(command.answers(), answers, "{line}");
        }
    }

    #[test]
    fn errors_keep_their_kind_through_context() {
        let denied = Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied)).context("open the pin");
        assert_eq!(exit_code(&denied.unwrap_err()), DENIED);
        assert_eq!(exit_code(&privilege::Missing(vec!["CAP_NET_ADMIN"]).into()), DENIED);
        assert_eq!(exit_code(&Usage("no".into()).into()), USAGE);
        let absent = OpenError::Absent { root: "/x".into() };
        assert_eq!(exit_code(&anyhow::Error::from(absent).context("status")), NOTHING_FOUND);
        assert_eq!(exit_code(&anyhow::anyhow!("anything else")), FAILED);
    }
}
