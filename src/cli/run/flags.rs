//! kube-proxy's flags on the command line, from the one table of [`FLAGS`].

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use crate::config::flags::FLAGS;
use crate::config::kube_proxy::GivenFlags;
use crate::config::kube_proxy::fields::Kind;

/// The flags of kube-proxy that were given, each with its values.
#[derive(Clone, Debug, Default)]
pub struct KubeProxyFlags {
    /// By name.
    pub given: GivenFlags,
}

impl clap::Args for KubeProxyFlags {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, flag| {
            let mut arg =
                Arg::new(flag.name).long(flag.name).help(flag.help).help_heading("kube-proxy's flags");
            arg = match flag.kind() {
                // As in pflag: a truth value follows an equals sign, and none is true.
                Kind::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                _ => arg.allow_hyphen_values(true),
            };
            arg = match flag.name {
                "v" => arg.short('v'),
                "logging-format" => arg.visible_alias("log-format"),
                _ => arg,
            };
            command.arg(arg.value_name(value_name(flag.kind())).action(ArgAction::Append))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KubeProxyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        let values = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect();
        let given = FLAGS
            .iter()
            .filter(|flag| given(flag.name))
            .map(|flag| (flag.name.to_owned(), values(flag.name)));
        Ok(KubeProxyFlags { given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What stands for the value in the help.
fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "TEXT",
        Kind::Bool => "BOOL",
        Kind::Int | Kind::Level | Kind::Number => "NUMBER",
        Kind::Duration | Kind::Flush => "DURATION",
        Kind::Texts => "TEXT,…",
        Kind::Gates => "GATE=BOOL,…",
        Kind::VModule => "PATTERN=LEVEL,…",
        Kind::Quantity => "BYTES",
    }
}
