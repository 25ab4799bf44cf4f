//! The machine: network namespaces, links, addresses, cgroups, mounts, sysctls,
//! processes. The only `setns`, and the only place besides `datapath` with `unsafe`.

pub mod addrs;
pub mod cgroup;
pub mod ethtool;
pub mod links;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod process;
pub mod sysctl;
