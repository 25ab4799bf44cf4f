//! `/run/beeline`: what is of use while the machine is up, and of none after.

use std::path::Path;

/// The folder. Whoever takes the last thing out of it removes it.
pub const DIR: &str = "/run/beeline";

/// A path as a file's name: `/sys/fs/bpf` is `sys_fs_bpf`. No two paths have the same, and no other version of
/// this program names them otherwise.
pub fn name_of(path: &Path) -> String {
    let escaped = path.to_string_lossy().replace('%', "%25").replace('_', "%5f");
    escaped.trim_matches('/').replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_name_of_its_own() {
        let names = ["/sys/fs/bpf", "/sys/fs_bpf", "/sys/fs%5fbpf", "/sys/fs%255fbpf"]
            .map(|path| name_of(Path::new(path)));
        assert_eq!(names, ["sys_fs_bpf", "sys_fs%5fbpf", "sys_fs%255fbpf", "sys_fs%25255fbpf"]);
    }
}
