//! A directory as people and the kubelet change it, on a real file system.

use std::os::fd::BorrowedFd;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

/// A directory to change, and what its source says about it.
struct Bench {
    temp: tempfile::TempDir,
    source: DirSource,
}

impl Bench {
    /// A source of a path below a new directory, after some preparation of that.
    fn new(prepare: impl FnOnce(&Path), path: &str) -> (Bench, Vec<String>) {
        let temp = tempfile::tempdir().unwrap();
        prepare(temp.path());
        let mut source = DirSource::open(&temp.path().join(path)).unwrap();
        let first = words(&source.start().unwrap());
        (Bench { temp, source }, first)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The events of a change, as words; waits for the first.
    fn after(&mut self, change: impl FnOnce(&Path)) -> Vec<String> {
        change(self.temp.path());
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let events = words(&self.source.poll().unwrap());
            if !events.is_empty() || Instant::now() > end {
                return events;
            }
            self.wait(1000);
        }
    }

    /// The events of a change that should bring none.
    fn nothing_after(&mut self, change: impl FnOnce(&Path)) {
        change(self.temp.path());
        let end = Instant::now() + Duration::from_millis(100);
        while Instant::now() < end {
            assert_eq!(words(&self.source.poll().unwrap()), [""; 0]);
            self.wait(20);
        }
    }

    fn wait(&self, ms: u16) {
        let fd = self.source.watches_fd();
        poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(ms)).unwrap();
    }
}

impl DirSource {
    fn watches_fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.watches)
    }
}

fn words(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| match event {
        Event::Service(service) => format!("+{}:{}", service.name.name, service.ports[0].port),
        Event::ServiceGone(name) => format!("-{}", name.name),
        other => format!("{other:?}"),
    };
    events.iter().map(word).collect()
}

fn write(path: PathBuf, service: &str, port: u16) {
    fs::write(path, format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}}}\nspec: {{clusterIP: 172.30.0.1, ports: [{{port: {port}}}]}}\n"
    ))
    .unwrap();
}

#[test]
fn a_directory_is_read_whole_and_then_followed() {
    let (mut bench, first) = Bench::new(
        |dir| {
            write(dir.join("b.yaml"), "b", 2);
            write(dir.join("a.yml"), "a", 1);
            write(dir.join(".hidden.yaml"), "h", 3);
            fs::create_dir(dir.join("sub.yaml")).unwrap();
        },
        "",
    );
    assert_eq!(first, ["+a:1", "+b:2", "Synced"]);
    assert_eq!(bench.after(|dir| write(dir.join("c.yaml"), "c", 3)), ["+c:3"], "a new file");
    assert_eq!(bench.after(|dir| write(dir.join("a.yml"), "a", 9)), ["+a:9"], "written in place");
    let replace = |dir: &Path| {
        write(dir.join(".b.tmp"), "b", 7);
        fs::rename(dir.join(".b.tmp"), dir.join("b.yaml")).unwrap();
    };
    assert_eq!(bench.after(replace), ["+b:7"], "replaced by rename");
    assert_eq!(bench.after(|dir| fs::rename(dir.join("b.yaml"), dir.join("b.off")).unwrap()), ["-b"]);
    assert_eq!(bench.after(|dir| fs::remove_file(dir.join("a.yml")).unwrap()), ["-a"]);
    assert_eq!(bench.after(|dir| fs::hard_link(dir.join("b.off"), dir.join("l.yaml")).unwrap()), ["+b:7"]);
    bench.nothing_after(|dir| write(dir.join("notes.txt"), "n", 1));
    bench.nothing_after(|dir| write(dir.join(".hidden.yaml"), "h", 4));
    bench.nothing_after(|dir| write(dir.join("c.yaml"), "c", 3));
}

/// A ConfigMap volume as the kubelet lays it out, in version `n` with the given files.
fn config_map(dir: &Path, n: u32, files: &[(&str, &str, u16)]) {
    let version = format!("..v{n}");
    fs::create_dir(dir.join(&version)).unwrap();
    for (file, service, port) in files {
        write(dir.join(&version).join(file), service, *port);
    }
    symlink(&version, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    for (file, ..) in files {
        let _ = symlink(format!("..data/{file}"), dir.join(file));
    }
    if n > 1 {
        fs::remove_dir_all(dir.join(format!("..v{}", n - 1))).unwrap();
    }
}

#[test]
fn a_config_map_flipped_by_its_data_symlink_is_followed() {
    let (mut bench, first) =
        Bench::new(|dir| config_map(dir, 1, &[("a.yaml", "a", 1), ("b.yaml", "b", 2)]), "");
    assert_eq!(first, ["+a:1", "+b:2", "Synced"]);
    for n in 2..6 {
        let port = u16::try_from(n).unwrap() * 10;
        let got = bench.after(|dir| config_map(dir, n, &[("a.yaml", "a", port), ("b.yaml", "b", 2)]));
        assert_eq!(got, [format!("+a:{port}")], "only what differs, version {n}");
    }
    let got = bench.after(|dir| config_map(dir, 6, &[("a.yaml", "a", 50), ("c.yaml", "c", 3)]));
    assert_eq!(got.len(), 2, "{got:?}: b went, c came");
}

#[test]
fn one_file_of_a_config_map_is_followed_too() {
    let (mut bench, first) =
        Bench::new(|dir| config_map(dir, 1, &[("a.yaml", "a", 1), ("b.yaml", "b", 2)]), "a.yaml");
    assert_eq!(first, ["+a:1", "Synced"]);
    assert_eq!(bench.after(|dir| config_map(dir, 2, &[("a.yaml", "a", 3), ("b.yaml", "b", 4)])), ["+a:3"]);
    bench.nothing_after(|dir| config_map(dir, 3, &[("a.yaml", "a", 3), ("b.yaml", "b", 5)]));
}

#[test]
fn one_file_that_goes_leaves_its_objects_until_it_is_back() {
    let (mut bench, first) = Bench::new(|dir| write(dir.join("a.yaml"), "a", 1), "a.yaml");
    assert_eq!(first, ["+a:1", "Synced"]);
    bench.nothing_after(|dir| fs::remove_file(dir.join("a.yaml")).unwrap());
    assert!(bench.source.problems()[0].message.contains("stay as they were"));
    bench.nothing_after(|dir| write(dir.join("other.yaml"), "o", 1));
    assert_eq!(bench.after(|dir| write(dir.join("a.yaml"), "a", 2)), ["+a:2"]);
    assert_eq!(bench.source.problems(), []);
    let replace = |dir: &Path| fs::rename(dir.join("other.yaml"), dir.join("a.yaml")).unwrap();
    assert_eq!(bench.after(replace), ["+o:1", "-a"]);
}

#[test]
fn a_directory_made_late_or_swapped_is_found() {
    // SYNC-1: nothing is synced before the source is there.
    let (mut bench, first) = Bench::new(|_| (), "x/manifests");
    assert_eq!(first, [""; 0]);
    assert!(!bench.source.is_synced() && bench.source.problems()[0].message.contains("waiting"));
    let make = |dir: &Path| {
        fs::create_dir_all(dir.join("new/manifests")).unwrap();
        write(dir.join("new/manifests/a.yaml"), "a", 1);
        fs::rename(dir.join("new"), dir.join("x")).unwrap();
    };
    assert_eq!(bench.after(make), ["+a:1", "Synced"]);
    bench.nothing_after(|dir| fs::rename(dir.join("x"), dir.join("old")).unwrap());
    let put_back = |dir: &Path| {
        fs::create_dir(dir.join("new")).unwrap();
        fs::create_dir(dir.join("new/manifests")).unwrap();
        write(dir.join("new/manifests/b.yaml"), "b", 2);
        fs::rename(dir.join("new"), dir.join("x")).unwrap();
    };
    assert_eq!(bench.after(put_back), ["+b:2", "-a"]);
    assert_eq!(bench.after(|dir| write(dir.join("x/manifests/b.yaml"), "b", 3)), ["+b:3"], "followed again");
}

#[test]
fn a_directory_behind_a_symlink_is_swapped_with_it() {
    let prepare = |dir: &Path| {
        for (version, port) in [("v1", 1), ("v2", 2)] {
            fs::create_dir(dir.join(version)).unwrap();
            write(dir.join(version).join("a.yaml"), "a", port);
        }
        symlink("v1", dir.join("current")).unwrap();
    };
    let (mut bench, first) = Bench::new(prepare, "current");
    assert_eq!(first, ["+a:1", "Synced"]);
    let swap = |dir: &Path| {
        symlink("v2", dir.join("next")).unwrap();
        fs::rename(dir.join("next"), dir.join("current")).unwrap();
    };
    assert_eq!(bench.after(swap), ["+a:2"]);
    bench.nothing_after(|dir| write(dir.join("v1/a.yaml"), "a", 7));
    assert_eq!(bench.after(|dir| write(dir.join("v2/a.yaml"), "a", 8)), ["+a:8"]);
}

#[test]
fn what_cannot_be_read_keeps_its_objects_and_is_named() {
    let (mut bench, _) = Bench::new(|dir| write(dir.join("a.yaml"), "a", 1), "");
    bench.nothing_after(|dir| fs::write(dir.join("a.yaml"), [0xff, 0xfe]).unwrap());
    let problem = bench.source.problems().remove(0);
    assert!(problem.file.ends_with("a.yaml") && problem.message.starts_with("cannot be read"), "{problem}");
    let fifo = bench.path("f.yaml");
    bench.nothing_after(|dir| {
        nix::unistd::mkfifo(&dir.join("tmp"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::rename(dir.join("tmp"), fifo).unwrap();
    });
    assert!(bench.source.problems()[1].message.contains("no regular file"));
}

#[test]
fn a_symlink_that_leads_through_a_file_harms_nobody_else() {
    let (mut bench, _) = Bench::new(|dir| write(dir.join("a.yaml"), "a", 1), "");
    bench.nothing_after(|dir| symlink("a.yaml/x", dir.join("bad.yaml")).unwrap());
    let problems = bench.source.problems();
    assert!(problems.len() == 1 && problems[0].file.ends_with("bad.yaml"), "{problems:?}");
    assert_eq!(bench.after(|dir| write(dir.join("a.yaml"), "a", 2)), ["+a:2"]);
    bench.nothing_after(|dir| fs::remove_file(dir.join("bad.yaml")).unwrap());
    assert_eq!(bench.source.problems(), []);
}

#[test]
fn a_file_in_the_place_of_the_directory_is_waited_out() {
    let prepare = |dir: &Path| {
        fs::create_dir_all(dir.join("x/manifests")).unwrap();
        write(dir.join("x/manifests/a.yaml"), "a", 1);
    };
    let (mut bench, _) = Bench::new(prepare, "x/manifests");
    bench.nothing_after(|dir| {
        fs::rename(dir.join("x"), dir.join("kept")).unwrap();
        fs::write(dir.join("x"), "").unwrap();
    });
    assert!(bench.source.problems()[0].message.contains("stay as they were"));
    let put_back = |dir: &Path| {
        write(dir.join("kept/manifests/a.yaml"), "a", 2);
        fs::remove_file(dir.join("x")).unwrap();
        fs::rename(dir.join("kept"), dir.join("x")).unwrap();
    };
    assert_eq!(bench.after(put_back), ["+a:2"]);
}

#[test]
fn an_object_moves_between_files_without_a_gap() {
    let (mut bench, _) = Bench::new(
        |dir| {
            write(dir.join("a.yaml"), "web", 1);
            write(dir.join("b.yaml"), "web", 2);
        },
        "",
    );
    assert_eq!(bench.after(|dir| fs::remove_file(dir.join("a.yaml")).unwrap()), ["+web:2"]);
}

#[test]
fn an_overflow_of_the_queue_loses_nothing() {
    let (mut bench, _) = Bench::new(|dir| write(dir.join("a.yaml"), "a", 1), "");
    let limit: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let flood = |dir: &Path| {
        // Neighbouring equal events are merged by the kernel: two names in turn.
        for n in 0..=limit {
            fs::write(dir.join(if n % 2 == 0 { "x.txt" } else { "y.txt" }), "").unwrap();
        }
        write(dir.join("z.yaml"), "z", 1);
        fs::remove_file(dir.join("a.yaml")).unwrap();
    };
    assert_eq!(bench.after(flood), ["+z:1", "-a"]);
}
