//! The race at full speed: one writer in a tight loop against clients that connect, and sockets that
//! remember choices. The data path passes; without grace periods, and without generations, it does
//! not, which proves that the race is one.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use beeline::datapath::load::Knobs;
use beeline::datapath::{Datapath, Options};
use serde::{Deserialize, Serialize};

use super::datapath_rig::Rig;
use super::race::is_emulated;
use super::race_board::{Board, vip};
use super::race_clients::{SHOWN_AS_OTHER, Seen, dial, dialer, serve, talker};
use super::race_plan::{LIMITS, Plan};
use super::race_writer::{Written, open, write};

/// Tells a second process of this test binary that it is to race, and how: a [`Race`] as JSON.
const RACE: &str = "BEELINE_TEST_RACE";
/// What its report begins with.
const REPORT: &str = "race report: ";
/// How often a crippled race is run at most, until it shows what it lacks.
const TRIES: u32 = 5;
/// Errors after which a crippled race has shown enough.
const ENOUGH: u64 = 20;

/// What is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Without {
    Nothing,
    Quiescence,
    Generations,
}

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Race {
    without: Without,
    seconds: u64,
    cgroup: PathBuf,
    bpf_root: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Report {
    seconds: f64,
    written: Written,
    seen: Seen,
}

/// Clients of each kind: fewer in a guest, where they leave the kernel no time for grace periods.
fn clients() -> usize {
    if is_emulated() { 2 } else { 4 }
}

/// Seconds of a run: ten, five in a guest of the kernel matrix, and never more than BEELINE_RACE_SECONDS.
fn seconds() -> u64 {
    let asked = std::env::var("BEELINE_RACE_SECONDS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(u64::MAX).min(if is_emulated() { 5 } else { 10 })
}

#[test]
fn choices_reach_endpoints_of_their_service_alone_however_fast_ids_are_reused() {
    let report = race(Without::Nothing, seconds());
    let Report { written, seen, .. } = &report;
    assert_eq!(seen.failed(), 0, "{:?}", seen.errors);
    // An emulated processor may do little in the time.
    let [few, some] = if is_emulated() { [1, 10] } else { [10, 1000] };
    assert!(seen.connects >= some && seen.asks >= some && seen.remembered >= some, "{seen:?}");
    assert!(written.ids >= few && written.ranges >= few, "{written:?}");
    // One in 38 changes.
    assert!(written.indexes > 0 || is_emulated(), "{written:?}");
}

#[test]
fn without_grace_periods_the_same_race_is_lost() {
    until_lost(Without::Quiescence, |seen| seen.of("connect: Foreign") + seen.of("sendto: Foreign"));
}

#[test]
fn without_generations_the_same_race_is_lost() {
    until_lost(Without::Generations, |seen| seen.of(SHOWN_AS_OTHER));
}

/// Races until there are such errors. An emulated processor need not show them in time.
fn until_lost(without: Without, of: impl Fn(&Seen) -> u64) {
    let emulated = is_emulated();
    for _ in 0..if emulated { 1 } else { TRIES } {
        if of(&race(without, seconds()).seen) > 0 {
            return;
        }
    }
    assert!(emulated, "the race was not lost in {TRIES} tries without {without:?}");
    println!("race: without {without:?}: no errors on an emulated processor, which proves nothing");
}

/// One race, in a process of its own. Races take turns: they bind one port, and two would leave each other
/// half the processors.
fn race(without: Without, seconds: u64) -> Report {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let rig = Rig::new();
    let race = Race { without, seconds, cgroup: rig.cgroup.clone(), bpf_root: rig.bpf_root() };
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "root::race_full::races_when_it_is_a_second_process", "--nocapture"])
        .env(RACE, serde_json::to_string(&race).unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Racer(child.unwrap());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.0.stdout.take().unwrap(), &mut text).unwrap();
    let status = child.0.wait().unwrap();
    let report = text.lines().find_map(|line| line.split_once(REPORT)).filter(|_| status.success());
    let (_, report) = report.unwrap_or_else(|| panic!("{status}: {text}"));
    let report: Report = serde_json::from_str(report).unwrap();
    let Report { seconds, written, seen } = &report;
    println!(
        "race without {without:?}, {seconds:.1} s: {} changes, {} grace periods, from one Service to another {} \
         ids, {} ranges, {} indexes; {} connects, {} datagrams, {} by a remembered choice, {} late answers, {} \
         sent again; {} errors {:?}",
        written.changes,
        written.grace_periods,
        written.ids,
        written.ranges,
        written.indexes,
        seen.connects,
        seen.asks,
        seen.remembered,
        seen.late,
        seen.lost,
        seen.failed(),
        seen.errors
    );
    report
}

/// Ends with the test, so that its cgroup can be removed.
struct Racer(Child);

impl Drop for Racer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of the second process; nothing in the first one.
#[test]
fn races_when_it_is_a_second_process() {
    let Ok(what) = std::env::var(RACE) else { return };
    let race: Race = serde_json::from_str(&what).unwrap();
    let knobs = Knobs { check_generation: race.without != Without::Generations, ..Knobs::probe() };
    let options = Options {
        limits: LIMITS,
        knobs,
        quiesce: race.without != Without::Quiescence,
        ..Options::new(&race.cgroup, &race.bpf_root)
    };
    let mut datapath = Datapath::open(&options).unwrap();
    datapath.publish().unwrap();
    fs::write(race.cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let report = run(&race, &mut datapath);
    println!("{REPORT}{}", serde_json::to_string(&report).unwrap());
}

fn run(race: &Race, datapath: &mut Datapath) -> Report {
    let servers = [0, 1].map(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    let board = Board::new([0, 1].map(|at: usize| servers[at].local_addr().unwrap().port()));
    let board = &board;
    let plan = &Plan::new(board);
    open(plan, board, datapath).unwrap();
    see_endpoints(&race.bpf_root);
    std::thread::scope(|threads| {
        // And one where what is left alone goes.
        let missed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, vip(0).port())).unwrap();
        for server in servers.into_iter().chain([missed]) {
            threads.spawn(move || serve(board, &server));
        }
        let _leaver = LeaveOnDrop(board);
        let writer = threads.spawn(move || {
            let written = write(plan, board, datapath);
            board.stop();
            written
        });
        let started = Instant::now();
        let clients: Vec<_> = (0..clients())
            .flat_map(|at| {
                [threads.spawn(move || dialer(board, at)), threads.spawn(move || talker(board, at))]
            })
            .collect();
        let end = started + Duration::from_secs(race.seconds);
        let enough = if race.without == Without::Nothing { u64::MAX } else { ENOUGH };
        while Instant::now() < end && board.runs() && board.failures() < enough {
            std::thread::sleep(Duration::from_millis(50));
        }
        board.stop();
        let seconds = started.elapsed().as_secs_f64();
        let mut seen = Seen::default();
        clients.into_iter().for_each(|client| seen.add(&client.join().unwrap()));
        let written = writer.join().unwrap().expect("the writer");
        Report { seconds, written, seen }
    })
}

/// Has the threads end when the race is over, or will never be.
struct LeaveOnDrop<'a>(&'a Board);

impl Drop for LeaveOnDrop<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Takes getpeername from the data path, which would show what was dialled instead of where it led, and
/// waits until that is in effect.
fn see_endpoints(bpf_root: &Path) {
    fs::remove_file(bpf_root.join("beeline/links/bl_getpeername4")).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while dial(0) == Ok(vip(0)) {
        assert!(Instant::now() < end, "endpoints never showed");
        std::thread::sleep(Duration::from_millis(1));
    }
}
