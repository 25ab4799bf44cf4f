//! host sysctl
