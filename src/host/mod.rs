//! The machine: network namespaces, links, addresses, cgroups, mounts, sysctls,
//! processes. The only `setns`, and the only place besides `datapath` with `unsafe`.

#![allow(unsafe_code, reason = "the machine is reached by system calls that have no safe wrapper")]

pub mod addrs;
pub mod caps;
pub mod cgroup;
pub mod conntrack;
pub mod ethtool;
pub mod family;
pub mod kubeproxy;
pub mod links;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod own;
pub mod process;
pub mod run;
pub mod socket;
pub mod sysctl;
