//! A path followed name by name, so that every place is known where a change would lead it elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// How many symlinks a path may go through; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// One name that a path goes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The directory that holds the name, without symlinks.
    pub dir: PathBuf,
    /// The name.
    pub name: OsString,
    /// The name is a symlink, not there, or a file where a directory should be: a new entry of that name
    /// changes where the path leads.
    pub is_open: bool,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// All names, in order.
    pub steps: Vec<Step>,
    /// The end, without symlinks; `None` if a name is missing.
    pub end: Option<PathBuf>,
}

/// Follows an absolute path.
pub(super) fn walk(path: &Path) -> Walk {
    let mut steps = Vec::new();
    let mut links = 0;
    let mut at = PathBuf::from("/");
    // The names still to go, the next one last.
    let mut rest = names(path);
    while let Some(name) = rest.pop() {
        if name == OsStr::new("..") {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let target =
            fs::symlink_metadata(&next).ok().map(|meta| meta.is_symlink().then(|| fs::read_link(&next)));
        let mut step = Step { dir: at.clone(), name, is_open: true };
        match target {
            Some(None) => {
                step.is_open = false;
                steps.push(step);
                at = next;
            }
            Some(Some(Ok(target))) if links < MAX_LINKS => {
                steps.push(step);
                links += 1;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                rest.extend(names(&target));
            }
            _ => {
                match steps.last_mut() {
                    // A file where a directory should be: it is that name that must change.
                    Some(file) if !at.is_dir() => file.is_open = true,
                    _ => steps.push(step),
                }
                return Walk { steps, end: None };
            }
        }
    }
    Walk { steps, end: Some(at) }
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn shown(walk: &Walk, base: &Path) -> Vec<(String, bool)> {
        let steps = walk.steps.iter().filter(|step| step.dir.starts_with(base));
        let show = |step: &Step| {
            let path = step.dir.join(&step.name);
            (path.strip_prefix(base).unwrap().display().to_string(), step.is_open)
        };
        steps.map(show).collect()
    }

    #[test]
    fn every_symlink_on_the_way_is_a_step() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        fs::create_dir(base.join("..v1")).unwrap();
        fs::write(base.join("..v1/a.yaml"), "").unwrap();
        symlink("..v1", base.join("..data")).unwrap();
        symlink("..data/a.yaml", base.join("a.yaml")).unwrap();
        let walk = walk(&base.join("a.yaml"));
        assert_eq!(walk.end, Some(base.join("..v1/a.yaml")));
        let names = shown(&walk, &base);
        assert_eq!(
            names,
            [
                ("a.yaml".into(), true),
                ("..data".into(), true),
                ("..v1".into(), false),
                ("..v1/a.yaml".into(), false)
            ]
        );
    }

    #[test]
    fn a_missing_name_and_a_loop_end_the_walk_there() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        let missing = walk(&base.join("no/where"));
        assert_eq!((missing.end.as_ref(), shown(&missing, &base)), (None, vec![("no".into(), true)]));
        symlink("b", base.join("a")).unwrap();
        symlink("a", base.join("b")).unwrap();
        assert_eq!(walk(&base.join("a")).end, None);
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_where_the_walk_ends() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        fs::write(base.join("file"), "").unwrap();
        let through = walk(&base.join("file/a/b"));
        assert_eq!((through.end.as_ref(), shown(&through, &base)), (None, vec![("file".into(), true)]));
    }
}
