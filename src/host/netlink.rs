//! host netlink
