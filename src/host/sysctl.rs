//! Kernel settings under `/proc/sys`. Those below `net` are the ones of the network namespace the
//! calling thread is in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The file of a setting. `net.ipv4.ip_forward` and `net/ipv4/ip_forward` are the same; the form with
/// slashes is needed where a link's name has a dot.
fn path_of(key: &str) -> PathBuf {
    let relative = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    Path::new("/proc/sys").join(relative)
}

/// The value of a setting, without surrounding blanks.
///
/// # Errors
/// The kernel has no such setting.
pub fn read(key: &str) -> Result<String> {
    Ok(fs::read_to_string(path_of(key)).with_context(|| format!("read sysctl {key}"))?.trim().to_owned())
}

/// Writes a setting.
///
/// # Errors
/// The kernel has no such setting, refuses the value, or the caller may not write it.
pub fn write(key: &str, value: &str) -> Result<()> {
    fs::write(path_of(key), value).with_context(|| format!("set sysctl {key} to {value}"))
}

/// Whether the kernel has this setting here.
pub fn exists(key: &str) -> bool {
    path_of(key).exists()
}
