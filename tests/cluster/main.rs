//! Before the real kube-apiserver and etcd: the cases that the scripted server plays as well, and the
//! main job of an agent as a process. `KUBEBUILDER_ASSETS` names the folder with `etcd` and
//! `kube-apiserver` (and `kubectl` and `kube-proxy`, for what needs them); what cannot be run is
//! counted as ignored, and why is said.
//!
//! `cargo test --release --test cluster`, with libtest's own arguments.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and shows what it measured"
)]

mod assets;
mod beside;
#[path = "../api/cases.rs"]
mod cases;
mod credentials;
mod lab;
mod process;
mod real;
mod serving;
#[path = "../api/stage.rs"]
mod stage;

use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::assets::Assets;
use crate::cases::cases;
use crate::lab::Lab;
use crate::real::RealServer;

/// One for all trials, made by the first that needs it; they take turns.
type Shared<T> = Arc<Mutex<Option<T>>>;

fn main() {
    let mut arguments = Arguments::from_args();
    // They share a server; each begins with an empty one.
    arguments.test_threads = Some(1);
    let (server, lab) = (Shared::default(), Shared::default());
    let conclusion = libtest_mimic::run(&arguments, trials(&server, &lab));
    // The process ends without dropping what is shared.
    drop((take(&server), take(&lab)));
    conclusion.exit();
}

fn take<T>(shared: &Shared<T>) -> Option<T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn trials(server: &Shared<RealServer>, lab: &Shared<Lab>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let assets = Assets::find();
    if let Err(why) = &assets {
        println!("skipped: {why}; docs/architecture.md says where the programs come from");
    }
    macro_rules! before_the_real_server {
        ($($case:ident,)*) => {
            $({
                let (server, with) = (server.clone(), assets.clone());
                let trial = Trial::test(concat!("api::", stringify!($case)), move || {
                    with_server(&server, &with?, |server| cases::$case(server))
                });
                trials.push(trial.with_ignored_flag(assets.is_err()));
            })*
        };
    }
    cases!(before_the_real_server);
    for (name, needs, case) in serving::CASES {
        let missing = needs.iter().find(|program| !assets.as_ref().is_ok_and(|assets| assets.has(program)));
        if let (Ok(_), Some(program)) = (&assets, missing) {
            println!("skipped: {name}, since there is no {program} in {}", crate::assets::VARIABLE);
        }
        let (lab, with) = (lab.clone(), assets.clone());
        let trial = Trial::test(format!("root::{name}"), move || {
            let mut lab = lab.lock().unwrap_or_else(PoisonError::into_inner);
            if lab.is_none() {
                *lab = Some(Lab::new(&with?)?);
            }
            Ok(case(lab.as_mut().expect("it was made"))?)
        });
        trials.push(trial.with_ignored_flag(assets.is_err() || missing.is_some()));
    }
    trials
}

fn with_server(
    shared: &Shared<RealServer>,
    assets: &Assets,
    case: impl FnOnce(&mut RealServer),
) -> Result<(), Failed> {
    let mut server = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if server.is_none() {
        *server = Some(RealServer::start(assets, None)?);
    }
    let server = server.as_mut().expect("it was made");
    server.ready()?;
    case(server);
    Ok(())
}
