//! The race as it is run in life: an agent follows manifests that are replaced fifty times a second,
//! so that ids and ranges go back and forth between two Services, while clients connect in a loop.
//!
//! All backends are addresses of one pod, which says what address it was reached at. The address
//! tells the Service and a number; a version of a Service has three numbers in a row. What is in
//! effect is read from the tables, so that no time is guessed: a connection that began when a
//! version was in the tables may reach that one, or later ones whose file was in place when it ended.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use beeline::datapath::maps::Reader;
use beeline::model::addr::Protocol;
use beeline::plan::table::{BackendId, Lookup, ServiceId, Which, port_key};
use beeline::sandbox::cluster::Sandbox;
use beeline::sandbox::node::Node;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{App, Serve, Sighting, Watch, WatchReport};
use nix::time::{ClockId, clock_gettime};

/// Two Services; one slides from version to version, the other leaps.
const SERVICES: [(&str, u64); 2] = [("red", 1), ("blue", SIZE)];
/// Endpoints at a time.
const SIZE: u64 = 3;
const PORT: u16 = 8080;
const CLIENTS: usize = 4;
/// Between two changes.
const PACE: Duration = Duration::from_millis(20);
/// Ids that are looked at for new owners.
const IDS: u32 = 64;

/// A guest of the kernel matrix: its processor is emulated.
pub fn is_emulated() -> bool {
    std::env::var_os("BEELINE_MATRIX").is_some()
}

/// How long the race is: a minute, or what BEELINE_RACE_SECONDS says.
fn seconds() -> u64 {
    let asked = std::env::var("BEELINE_RACE_SECONDS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(if is_emulated() { 10 } else { 60 })
}

fn vip(service: usize) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 96, 7, service as u8 + 1).into(), 80)
}

fn endpoint(service: usize, number: u64) -> Ipv4Addr {
    Ipv4Addr::new(10, 200 + service as u8, (number >> 8) as u8, number as u8)
}

/// Service and number of an endpoint.
fn number_of(addr: IpAddr) -> Option<(usize, u64)> {
    let IpAddr::V4(v4) = addr else { return None };
    let [10, of @ 200..=201, high, low] = v4.octets() else { return None };
    Some((usize::from(of - 200), u64::from(high) << 8 | u64::from(low)))
}

/// The first number of a version.
fn first(service: usize, version: u64) -> u64 {
    version * SERVICES[service].1
}

/// The versions that have a number.
fn versions_with(service: usize, number: u64) -> std::ops::RangeInclusive<u64> {
    let step = SERVICES[service].1;
    (number + 1).saturating_sub(SIZE).div_ceil(step)..=number / step
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// A version of a Service.
#[derive(Debug, Clone, Copy)]
struct Version {
    /// Before its file was in place.
    renamed_ns: u64,
    /// When it, or a later one, was first seen in the tables.
    effective_ns: Option<u64>,
}

/// What was written when, and what the tables showed of it.
struct Race<'a> {
    dir: &'a Path,
    reader: Reader,
    versions: [Vec<Version>; SERVICES.len()],
    ids: BTreeMap<u32, ServiceId>,
    ranges: BTreeMap<u32, ServiceId>,
    ids_handed_over: u64,
    ranges_handed_over: u64,
}

impl Race<'_> {
    /// Replaces the file of a Service.
    fn change(&mut self, service: usize) {
        let version = self.versions[service].len() as u64;
        let aside = self.dir.join(".aside");
        std::fs::write(&aside, manifest(service, version)).unwrap();
        self.versions[service].push(Version { renamed_ns: now_ns(), effective_ns: None });
        std::fs::rename(aside, file(self.dir, service)).unwrap();
    }

    /// Looks at the tables.
    fn look(&mut self) {
        for service in 0..SERVICES.len() {
            let Some(version) = self.version_in_effect(service) else { continue };
            let now = now_ns();
            let seen = self.versions[service][..=version as usize].iter_mut().rev();
            seen.take_while(|version| version.effective_ns.is_none())
                .for_each(|version| version.effective_ns = Some(now));
        }
        for id in 1..IDS {
            if let Some(row) = self.reader.backend(BackendId(id)).filter(|row| row.state.generation > 0) {
                let before = self.ids.insert(id, row.service);
                self.ids_handed_over += u64::from(before.is_some_and(|before| before != row.service));
            }
        }
    }

    /// The version that the set of a Service shows; `None` if it changed under our eyes.
    fn version_in_effect(&mut self, service: usize) -> Option<u64> {
        let (reader, at) = (&self.reader, vip(service));
        let id = reader.frontend(&port_key(at.ip(), at.port(), Protocol::Tcp))?.service?;
        let set = || Some(reader.service(id)?.sets[Which::Cluster as usize]);
        let word = set()?;
        let numbers: Option<Vec<_>> =
            reader.slots(word).into_iter().map(|id| number_of(reader.backend(id)?.addr)).collect();
        let lowest = numbers?.into_iter().filter(|(of, _)| *of == service).map(|(_, number)| number).min()?;
        if set()? != word {
            return None;
        }
        let before = self.ranges.insert(word.base, id);
        self.ranges_handed_over += u64::from(before.is_some_and(|before| before != id));
        Some(lowest / SERVICES[service].1)
    }

    /// Whether the last versions are in effect.
    fn is_settled(&self) -> bool {
        self.versions.iter().all(|all| all.last().is_some_and(|last| last.effective_ns.is_some()))
    }

    /// What is wrong with a backend that clients of a Service reached, and when.
    fn judge(&self, service: usize, backend: &str, seen: Sighting) -> Result<()> {
        let (owner, number) = backend
            .parse()
            .ok()
            .and_then(|at: SocketAddr| number_of(at.ip()))
            .context("it is nobody's endpoint")?;
        ensure!(owner == service, "it is an endpoint of {}", SERVICES[owner].0);
        let with = versions_with(service, number);
        let version = |at: u64| self.versions[service].get(at as usize);
        let began = version(*with.start()).context("no version had it")?;
        ensure!(seen.first_ns >= began.renamed_ns, "it was reached before it was there");
        if let Some(gone) = version(with.end() + 1).and_then(|next| next.effective_ns) {
            let late = seen.last_ns.saturating_sub(gone);
            ensure!(late == 0, "it was reached {} us after it was gone", late / 1000);
        }
        Ok(())
    }

    /// Time from rename to effect, in milliseconds: median, 99th percentile, longest.
    fn lag_ms(&self) -> [f64; 3] {
        let lag = |version: &Version| Some(version.effective_ns?.saturating_sub(version.renamed_ns));
        let mut lags: Vec<u64> = self.versions.iter().flat_map(|all| &all[1..]).filter_map(lag).collect();
        lags.sort_unstable();
        [50, 99, 100].map(|share| lags[(lags.len() * share / 100).min(lags.len() - 1)] as f64 / 1e6)
    }
}

fn file(dir: &Path, service: usize) -> std::path::PathBuf {
    dir.join(format!("{}.yaml", SERVICES[service].0))
}

fn manifest(service: usize, version: u64) -> String {
    let (name, ip) = (SERVICES[service].0, vip(service).ip());
    let numbers = first(service, version)..first(service, version) + SIZE;
    let endpoints: String =
        numbers.map(|number| format!("- {{addresses: [{}]}}\n", endpoint(service, number))).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: {ip}, ports: [{{port: 80, targetPort: {PORT}}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: '', port: {PORT}}}]\nendpoints:\n{endpoints}"
    )
}

/// A pod that has all addresses of all endpoints.
fn backends(node: &Node) -> Result<Pod> {
    const ALL: &str = "10.200.0.0/15";
    let pod = node.add_pod("backends")?;
    ip(&["-n", pod.netns(), "route", "add", "local", ALL, "dev", "lo"])?;
    ip(&["-n", node.netns().name(), "route", "add", ALL, "via", &pod.v4().to_string()])?;
    pod.call(Serve::tcp(PORT).app(App::Locate))?;
    Ok(pod)
}

fn ip(arguments: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(arguments).output().context("run ip")?;
    ensure!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

#[test]
fn connections_reach_the_old_or_the_new_set_while_sets_change_fifty_times_a_second() -> Result<()> {
    // SYNC-2
    let dir = tempfile::tempdir()?;
    let sandbox = Sandbox::new("race")?;
    let node = sandbox.add_node("n1")?;
    let _backends = backends(&node)?;
    for service in 0..SERVICES.len() {
        std::fs::write(file(dir.path(), service), manifest(service, 0))?;
    }
    let _agent = node.start_agent(dir.path(), &[])?;
    let clients: Vec<Pod> =
        (0..CLIENTS).map(|at| node.add_pod(&format!("client-{at}"))).collect::<Result<_>>()?;
    let watch = Watch {
        to: (0..SERVICES.len()).map(vip).collect(),
        duration_ms: seconds() * 1000 + 500,
        timeout_ms: if is_emulated() { 30_000 } else { 5_000 },
    };
    let there = Version { renamed_ns: 0, effective_ns: Some(now_ns()) };
    let mut race = Race {
        dir: dir.path(),
        reader: Reader::open(node.bpf_root())?,
        versions: [vec![there], vec![there]],
        ids: BTreeMap::new(),
        ranges: BTreeMap::new(),
        ids_handed_over: 0,
        ranges_handed_over: 0,
    };
    for service in 0..SERVICES.len() {
        ensure!(race.version_in_effect(service) == Some(0), "the first version is in effect");
    }
    let watching: Vec<_> = clients.iter().map(|client| client.begin(watch.clone())).collect::<Result<_>>()?;
    let took = run(&mut race);
    let reports: Vec<_> = watching.into_iter().map(|watching| watching.wait()).collect::<Result<_>>()?;
    check(&race, &reports, took);
    sandbox.close()
}

/// Changes the Services by turns until the time is up, and looks at the tables meanwhile.
fn run(race: &mut Race<'_>) -> Duration {
    let started = Instant::now();
    let length = Duration::from_secs(seconds());
    for turn in 0.. {
        let due = started + PACE * turn;
        if due >= started + length || started.elapsed() >= length {
            break;
        }
        race.change(turn as usize % SERVICES.len());
        race.look();
        while Instant::now() < due + PACE {
            std::thread::sleep(Duration::from_millis(1));
            race.look();
        }
    }
    let took = started.elapsed();
    while !race.is_settled() && started.elapsed() < took + Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
        race.look();
    }
    took
}

fn check(race: &Race<'_>, reports: &[WatchReport], took: Duration) {
    let changes: usize = race.versions.iter().map(|all| all.len() - 1).sum();
    let (mut connections, mut failures) = (0, Vec::new());
    for report in reports {
        for (service, seen) in report.targets.iter().enumerate() {
            let name = SERVICES[service].0;
            connections += seen.done;
            failures
                .extend(seen.errors.iter().map(|(error, count)| format!("{name}: {count} times {error}")));
            for (backend, sighting) in &seen.backends {
                if let Err(wrong) = race.judge(service, backend, *sighting) {
                    failures.push(format!("{name} led to {backend}, but {wrong} ({sighting:?})"));
                }
            }
        }
    }
    let [median, most, longest] = race.lag_ms();
    println!(
        "race: {:.1} s, {connections} connections of {CLIENTS} clients, {changes} changes; from one Service to the other {} ids, \
         {} ranges; rename to effect {median:.1} ms, p99 {most:.1} ms, at most {longest:.1} ms; {} errors",
        took.as_secs_f64(),
        race.ids_handed_over,
        race.ranges_handed_over,
        failures.len()
    );
    failures.truncate(20);
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(race.is_settled(), "the last change never took effect");
    let (few, some) = if is_emulated() { (1, 20) } else { (20, 1000) };
    assert!(connections >= some, "{connections} connections");
    assert!(
        race.ids_handed_over >= few && race.ranges_handed_over >= few,
        "ids and ranges go back and forth"
    );
    let asked = took.as_millis() / PACE.as_millis();
    assert!(is_emulated() || changes as u128 >= asked * 9 / 10, "{changes} changes instead of {asked}");
}

#[test]
fn a_number_is_of_the_versions_that_have_it() {
    for service in 0..SERVICES.len() {
        for version in 0..20 {
            for number in first(service, version)..first(service, version) + SIZE {
                assert!(versions_with(service, number).contains(&version), "{service} {version} {number}");
                assert_eq!(number_of(endpoint(service, number).into()), Some((service, number)));
            }
            for other in [first(service, version) + SIZE, first(service, version + 1) - 1] {
                let has = (first(service, version)..first(service, version) + SIZE).contains(&other);
                assert_eq!(versions_with(service, other).contains(&version), has);
            }
        }
    }
}
