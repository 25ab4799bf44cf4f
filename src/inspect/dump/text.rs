//! The dump as text: one line a fact, so that a difference of two dumps reads by itself.

use std::fmt::{self, Display, Formatter};

use super::{BackendDump, Dump, ServiceDump, SetDump, SettingsDump, which_name};
use crate::plan::table::{FrontendKind, Which};

impl Display for Dump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)?;
        for service in &self.services {
            service.fmt(f)?;
        }
        for addr in &self.active {
            writeln!(f, "active {addr}")?;
        }
        for (class, nets) in &self.prefixes {
            for net in nets {
                writeln!(f, "prefix {class} {net}")?;
            }
        }
        for (class, count) in &self.netns {
            writeln!(f, "netns {class} {count}")?;
        }
        for stray in &self.strays {
            writeln!(f, "stray {stray}")?;
        }
        Ok(())
    }
}

impl Display for SettingsDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "settings node={} zone={} synced={}",
            or_dash(&self.node),
            or_dash(&self.zone),
            self.synced
        )?;
        write!(f, " masquerade-all={} local-detector=", self.masquerade_all)?;
        let families: Vec<String> = self.local_detector.iter().map(ToString::to_string).collect();
        writeln!(f, "{}", or_dash(&families.join(",")))?;
        if let Some(by) = &self.written_by {
            writeln!(
                f,
                "written-by version={} source={} {}",
                by.version,
                or_dash(&by.source_kind),
                or_dash(&by.source)
            )?;
        }
        Ok(())
    }
}

impl Display for ServiceDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "service {}", self.name)?;
        if let (Some(protocol), Some(family)) = (self.protocol, self.family) {
            write!(f, " {protocol} {family}")?;
        }
        if let Some(index) = self.index {
            write!(f, " index={index}")?;
        }
        writeln!(f)?;
        let (internal, external) = (which_name(self.internal), which_name(self.external));
        writeln!(f, "  policy internal={internal} external={external} affinity={}", self.affinity_seconds)?;
        for frontend in &self.frontends {
            writeln!(f, "  frontend {} {}/{}", frontend.kind.name(), frontend.addr, frontend.protocol)?;
        }
        for (which, set) in [(Which::Cluster, &self.cluster), (Which::Local, &self.local)] {
            if which == Which::Cluster || self.uses_local() || !set.addrs.is_empty() {
                writeln!(f, "  set {} {set}", which_name(which))?;
            }
        }
        for backend in &self.backends {
            writeln!(f, "  backend {backend}")?;
        }
        Ok(())
    }
}

impl ServiceDump {
    /// Whether some frontend's traffic takes the Local set (CAT-1).
    fn uses_local(&self) -> bool {
        let external = self.frontends.iter().any(|f| f.kind != FrontendKind::ClusterIp);
        self.internal == Which::Local || (external && self.external == Which::Local)
    }
}

impl Display for SetDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&or_dash(&self.addrs.join(" ")))?;
        if self.addrs.is_empty() {
            f.write_str(if self.has_any { " drops" } else { " rejects" })?;
        }
        let rules: Vec<&str> = self.rules.iter().map(|r| r.id()).collect();
        if !rules.is_empty() {
            write!(f, " [{}]", rules.join(" "))?;
        }
        self.base.map_or(Ok(()), |base| write!(f, " base={base}"))
    }
}

impl Display for BackendDump {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let words = |all: &[(bool, &'static str)]| {
            let on: Vec<&str> = all.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
            or_dash(&on.join(","))
        };
        let sets = words(&[
            (self.in_cluster, "cluster"),
            (self.in_local, "local"),
            (self.keeps_flows, "keeps-flows"),
        ]);
        let state = words(&[
            (self.ready, "ready"),
            (self.serving, "serving"),
            (self.terminating, "terminating"),
            (self.local, "local"),
        ]);
        write!(
            f,
            "{} in={sets} is={state} node={} zone={}",
            self.addr,
            or_dash(&self.node),
            or_dash(&self.zone)
        )?;
        self.id.map_or(Ok(()), |(id, generation)| write!(f, " id={id} generation={generation}"))
    }
}

/// The text, or `-` where there is none, so that columns stay where they are.
fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
