//! What the kernel says of this process, for the `process_*` metrics.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

/// This process, as the kernel sees it. What cannot be read is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Own {
    /// CPU time of user and system, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Open descriptors.
    pub open_fds: Option<f64>,
    /// The most there may be.
    pub max_fds: Option<f64>,
    /// Resident memory, in bytes.
    pub resident_bytes: Option<f64>,
    /// Virtual memory, in bytes.
    pub virtual_bytes: Option<f64>,
    /// The most there may be, in bytes.
    pub virtual_max_bytes: Option<f64>,
    /// When it started, in seconds since the Unix epoch.
    pub started_seconds: Option<f64>,
    /// Bytes that came over IP in its network namespace.
    pub received_bytes: Option<f64>,
    /// Bytes that went.
    pub sent_bytes: Option<f64>,
}

impl Own {
    /// Looks now.
    pub fn read() -> Own {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut own = Own::of(&read("/proc/self/stat"), &read("/proc/stat"), &read("/proc/self/net/netstat"));
        own.open_fds = fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as f64);
        own.max_fds = limit(Resource::RLIMIT_NOFILE);
        own.virtual_max_bytes = limit(Resource::RLIMIT_AS);
        own
    }

    /// From the texts of `/proc/self/stat`, `/proc/stat` and `/proc/self/net/netstat`.
    fn of(stat: &str, machine: &str, netstat: &str) -> Own {
        // The command, in parentheses, may hold anything; state is the first field after it.
        let after: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |at: usize| after.get(at - 3).and_then(|text| text.parse::<f64>().ok());
        let ticks = sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap_or(100.0);
        let page = sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap_or(4096.0);
        let booted = machine.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
        Own {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks),
            started_seconds: booted.zip(field(22)).map(|(booted, since)| booted + since / ticks),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * page),
            received_bytes: octets(netstat, "InOctets"),
            sent_bytes: octets(netstat, "OutOctets"),
            ..Own::default()
        }
    }
}

fn sysconf(which: nix::unistd::SysconfVar) -> Option<f64> {
    nix::unistd::sysconf(which).ok().flatten().map(|value| value as f64)
}

fn limit(which: Resource) -> Option<f64> {
    getrlimit(which).ok().map(|(soft, _)| soft as f64)
}

/// A counter of the line `IpExt`, whose names are in one line and whose values in the next.
fn octets(netstat: &str, name: &str) -> Option<f64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("IpExt:"));
    let at = lines.next()?.split_whitespace().position(|word| word == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read_whatever_the_command_is_called() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 2 0 1000 4096 3 0";
        let own = Own::of(stat, "cpu 1\nbtime 5000\n", "IpExt: A InOctets OutOctets\nIpExt: 1 2 3\n");
        assert_eq!(own.cpu_seconds, Some(2.0));
        assert_eq!(own.started_seconds, Some(5010.0));
        assert_eq!(own.virtual_bytes, Some(4096.0));
        assert_eq!((own.received_bytes, own.sent_bytes), (Some(2.0), Some(3.0)));
        assert_eq!(Own::of("", "", ""), Own::default());
        let own = Own::read();
        assert!(own.resident_bytes > Some(0.0) && own.open_fds > Some(2.0) && own.max_fds > own.open_fds);
    }
}
