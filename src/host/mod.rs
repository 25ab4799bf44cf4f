//! The machine: network namespaces, links, addresses, cgroups, mounts, sysctls. The only `setns`.

pub mod cgroup;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod sysctl;
