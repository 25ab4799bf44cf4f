//! host cgroup
