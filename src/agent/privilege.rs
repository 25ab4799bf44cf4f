//! What the kernel must allow an agent, asked before anything is touched, so that what is missing is named.

use crate::host::caps;

/// Privileges that are missing: exit code 4.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("missing {}: run as root, or grant the container these capabilities", .0.join(", "))]
pub struct Missing(pub Vec<&'static str>);

/// Checks the privileges of this process.
///
/// # Errors
/// Some are missing.
pub fn check() -> Result<(), Missing> {
    // Where /proc is not mounted the kernel itself will say what it refuses.
    let missing = caps::effective().map(caps::missing).unwrap_or_default();
    if missing.is_empty() { Ok(()) } else { Err(Missing(missing)) }
}
