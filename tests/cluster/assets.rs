//! The real programs: `KUBEBUILDER_ASSETS` names the folder they are in, as envtest has it.

use std::env;
use std::path::PathBuf;

/// The variable.
pub(crate) const VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// A folder with `etcd` and `kube-apiserver`, and maybe `kubectl` and `kube-proxy`.
#[derive(Clone, Debug)]
pub(crate) struct Assets(PathBuf);

impl Assets {
    /// The folder that the environment names; else why there is none.
    pub fn find() -> Result<Assets, String> {
        let dir = env::var_os(VARIABLE).ok_or_else(|| format!("{VARIABLE} is not set"))?;
        let assets = Assets(dir.into());
        match ["etcd", "kube-apiserver"].into_iter().find(|program| !assets.has(program)) {
            None => Ok(assets),
            Some(program) => Err(format!("{} has no {program}", assets.0.display())),
        }
    }

    /// Where a program is.
    pub fn path(&self, program: &str) -> PathBuf {
        self.0.join(program)
    }

    /// Whether a program is there.
    pub fn has(&self, program: &str) -> bool {
        self.path(program).is_file()
    }
}
