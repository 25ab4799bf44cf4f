//! Writing plans down, step by step over all ServicePorts at once, so that neighbours are of one kind.
//!
//! *Prepare* touches only what no reader can reach, and eligibility, which may go up early: the name, new
//! backend rows, eligibility up, and then fresh slots, which repeat address and generation of the rows.
//! *Flip* makes it so: set words, policies, frontends put, frontends deleted. *Rest* clears what nothing
//! leads to any more, and writes what only people read. A write is booked when it has
//! been done; a ServicePort with a refused write takes no further step, and the next plan starts
//! from what was booked.

use std::time::Duration;

use rustc_hash::FxHashSet;

use super::diff::Plan;
use super::frontends::{Gain, Loss, value};
use super::port::{Bits, Rec, info, info_bits};
use super::{Book, Outcome};
use crate::plan::table::{
    BackendId, BackendRow, EndpointInfo, FrontendKey, Op, Policy, ServiceName, Tables, TextId, Which,
};

/// Writes handed over at once; it bounds the memory of a first load.
const AT_ONCE: usize = 4096;

/// One write to make: for which plan, and which of its parts. Sorted by `key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Work {
    key: u32,
    plan: u32,
    item: u32,
}

/// How to make a write, and what to book when it is done.
struct Step {
    make: fn(&Book, &Plan, usize) -> Op,
    done: fn(&mut Book, &mut Plan, usize),
}

/// Gathers the work of one step; plans with a refused write have none.
fn gather(plans: &[Plan], mut of: impl FnMut(&Plan, &mut dyn FnMut(u32, usize))) -> Vec<Work> {
    let mut work = Vec::new();
    for (at, plan) in plans.iter().enumerate().filter(|(_, plan)| plan.failed.is_none()) {
        of(plan, &mut |key, item| work.push(Work { key, plan: at as u32, item: item as u32 }));
    }
    work.sort_unstable();
    work
}

/// Gathers the records of all plans for which something holds, by backend id.
fn gather_recs(plans: &[Plan], due: impl Fn(&Plan, &Rec) -> bool) -> Vec<Work> {
    gather(plans, |plan, push| {
        let recs = plan.port.recs.iter().enumerate();
        recs.filter(|(_, rec)| due(plan, rec)).for_each(|(item, rec)| push(rec.id.0, item));
    })
}

impl Book {
    /// Carries the plans out and books them.
    pub(super) fn carry_out(
        &mut self,
        mut plans: Vec<Plan>,
        tables: &mut dyn Tables,
        now: Duration,
        out: &mut Outcome,
    ) {
        let all = &mut plans[..];
        self.prepare(all, tables);
        self.raise_states(all, tables);
        self.write_slots(all, tables);
        self.flip_sets(all, tables);
        self.store_policies(all, tables);
        while self.put_frontends(all, tables) {}
        self.delete_frontends(all, tables);
        self.lower_states(all, tables);
        self.write_infos(all, tables);
        self.write_names(all, tables);
        self.drop_rows(all, tables);
        for plan in plans {
            self.settle(plan, now, out);
        }
    }

    fn run(&mut self, work: &[Work], plans: &mut [Plan], tables: &mut dyn Tables, step: &Step) {
        for part in work.chunks(AT_ONCE) {
            let alive = |work: &&Work| plans[work.plan as usize].failed.is_none();
            let part: Vec<Work> = part.iter().filter(alive).copied().collect();
            let make = |work: &Work| (step.make)(self, &plans[work.plan as usize], work.item as usize);
            let ops: Vec<Op> = part.iter().map(make).collect();
            let mut errors = tables.apply_all(&ops);
            errors.sort_unstable_by_key(|(at, _)| *at);
            let mut errors = errors.into_iter().peekable();
            for (at, work) in part.iter().enumerate() {
                let plan = &mut plans[work.plan as usize];
                match errors.next_if(|(failed, _)| *failed == at) {
                    Some((_, error)) => drop(plan.failed.get_or_insert(error)),
                    None => (step.done)(self, plan, work.item as usize),
                }
            }
        }
    }

    fn prepare(&mut self, plans: &mut [Plan], tables: &mut dyn Tables) {
        let fresh = |plan: &Plan, push: &mut dyn FnMut(u32, usize)| {
            if plan.port.named.is_none() && !plan.removing {
                push(plan.id().0, 0);
            }
        };
        let clear = Step { make: |_, plan, _| Op::StatsClear(plan.id()), done: |_, _, _| {} };
        self.run(&gather(plans, fresh), plans, tables, &clear);
        let named = gather(plans, fresh);
        self.run(&named, plans, tables, &NAME);
        // The row is in use from here on, so that recovery looks at its set words.
        self.run(&named, plans, tables, &POLICY);
        let new = gather_recs(plans, |_, rec| !rec.has(Bits::ROW));
        self.run(&new, plans, tables, &BACKEND);
    }

    /// Eligibility up, and with it the generation of what starts anew.
    fn raise_states(&mut self, plans: &mut [Plan], tables: &mut dyn Tables) {
        let up = gather_recs(plans, |_, rec| rec.state_before() != rec.state());
        self.run(&up, plans, tables, &RAISE);
    }

    /// Fresh slots, once the rows they repeat are as they will be.
    fn write_slots(&mut self, plans: &mut [Plan], tables: &mut dyn Tables) {
        let slots = gather(plans, |plan, push| {
            for (at, flip) in plan.flips.iter().enumerate() {
                if let Some(range) = flip.as_ref().and_then(|flip| flip.range) {
                    push(range.base, at);
                }
            }
        });
        self.run(&slots, plans, tables, &SLOTS);
    }

    fn flip_sets(&mut self, plans: &mut [Plan], tables: &mut dyn Tables) {
        let flips = gather(plans, |plan, push| {
            let due = Which::ALL.into_iter().filter(|which| plan.flips[*which as usize].is_some());
            due.for_each(|which| push(plan.id().0, which as usize));
        });
        self.run(&flips, plans, tables, &FLIP);
    }

    fn store_policies(&mut self, plans: &mut [Plan], tables: &mut dyn Tables) {
        let due = gather(plans, |plan, push| {
            if !plan.removing && plan.port.policy != plan.want.policy {
                push(plan.id().0, 0);
            }
        });
        self.run(&due, plans, tables, &POLICY);
    }

    /// Puts frontends. An active address that several ServicePorts gain is put by the first; the
    /// others ask again: `true`.
    fn put_frontends(&mut self, plans: &mut [Plan], tables: &mut dyn Tables) -> bool {
        let (mut work, mut asked, mut again) = (Vec::new(), FxHashSet::default(), false);
        for (at, plan) in plans.iter_mut().enumerate().filter(|(_, plan)| plan.failed.is_none()) {
            for item in 0..plan.want.frontends.len() {
                let (key, kind) = plan.want.frontends[item];
                let shared = matches!(key, FrontendKey::Active { .. });
                match self.frontends.gain(&key, value(&key, kind, plan.id()), self.gate, &self.epochs) {
                    Gain::Held => self.hold_frontend(plan, item),
                    Gain::Blocked => plan.blocked = true,
                    Gain::Put if shared && !asked.insert(key) => again = true,
                    Gain::Put => {
                        work.push(Work { key: u32::from(shared), plan: at as u32, item: item as u32 });
                    }
                }
            }
        }
        work.sort_unstable();
        let step = Step { make: put_frontend, done: Book::hold_frontend };
        self.run(&work, plans, tables, &step);
        again
    }

    fn hold_frontend(&mut self, plan: &mut Plan, item: usize) {
        let (key, kind) = plan.want.frontends[item];
        let value = value(&key, kind, plan.id());
        match plan.port.holds(&key) {
            Ok(at) if self.frontends.is(&key, value) => plan.port.frontends[at].1 = kind,
            Ok(at) => {
                plan.port.frontends[at].1 = kind;
                self.frontends.hold(key, value);
            }
            Err(at) => {
                plan.port.frontends.insert(at, (key, kind));
                self.frontends.hold(key, value);
            }
        }
    }

    fn delete_frontends(&mut self, plans: &mut [Plan], tables: &mut dyn Tables) {
        let mut work = Vec::new();
        for (at, plan) in plans.iter_mut().enumerate().filter(|(_, plan)| plan.failed.is_none()) {
            let id = plan.id();
            let wants = &plan.want.frontends;
            let wanted = |key: &FrontendKey| wants.binary_search_by_key(key, |(key, _)| *key).is_ok();
            let frontends = &mut self.frontends;
            let mut gone = |key: &FrontendKey| !wanted(key) && frontends.lose(key, id) == Loss::Gone;
            plan.port.frontends.retain(|(key, _)| !gone(key));
            let left = plan.port.frontends.iter().enumerate().filter(|(_, (key, _))| !wanted(key));
            work.extend(left.map(|(item, _)| Work { key: 0, plan: at as u32, item: item as u32 }));
        }
        // The last first, so that positions hold while the first are taken out.
        work.sort_unstable_by(|a, b| b.cmp(a));
        self.run(&work, plans, tables, &DELETE);
    }

    fn lower_states(&mut self, plans: &mut [Plan], tables: &mut dyn Tables) {
        let down = gather_recs(plans, |plan, rec| plan.final_state(rec) != rec.state());
        self.run(&down, plans, tables, &LOWER);
    }

    fn write_infos(&mut self, plans: &mut [Plan], tables: &mut dyn Tables) {
        for plan in plans.iter_mut().filter(|plan| plan.failed.is_none()) {
            let mut recs = std::mem::take(&mut plan.port.recs);
            for rec in &mut recs {
                self.intern(plan, rec);
            }
            plan.port.recs = recs;
        }
        let due = gather_recs(plans, |plan, rec| match rec.has(Bits::WANTED) {
            true => rec.has(Bits::INFO_DUE),
            false => rec.has(Bits::INFO) && plan.final_state(rec) == Bits::NONE,
        });
        self.run(&due, plans, tables, &INFO);
    }

    /// Interns the texts of an endpoint whose row is to change, and marks the row as not written.
    fn intern(&mut self, plan: &Plan, rec: &mut Rec) {
        let Some(want) = plan.wanted(rec).filter(|want| rec.has(Bits::WANTED) && !self.info_is(rec, want))
        else {
            return;
        };
        let (node, zone) = (self.texts.mention(want.node.as_ref()), self.texts.mention(want.zone.as_ref()));
        self.texts.forget(rec.node);
        self.texts.forget(TextId(u32::from(rec.zone)));
        (rec.node, rec.zone) = (node, zone.0 as u16);
        rec.set(Bits::INFO_DUE);
    }

    fn write_names(&mut self, plans: &mut [Plan], tables: &mut dyn Tables) {
        let due = gather(plans, |plan, push| {
            if !plan.removing && plan.port.named != Some(plan.want.rules) {
                push(plan.id().0, 0);
            }
        });
        self.run(&due, plans, tables, &NAME);
    }

    /// The row and the name of a ServicePort that is gone: the name last, since recovery finds rows by it.
    fn drop_rows(&mut self, plans: &mut [Plan], tables: &mut dyn Tables) {
        let bare = |plan: &Plan| plan.removing && !plan.draining && plan.port.is_bare();
        let used = gather(plans, |plan, push| {
            if bare(plan) && plan.port.policy != Policy::UNUSED {
                push(plan.id().0, 0);
            }
        });
        self.run(&used, plans, tables, &UNUSE);
        let named = gather(plans, |plan, push| {
            if bare(plan) && plan.port.named.is_some() {
                push(plan.id().0, 0);
            }
        });
        self.run(&named, plans, tables, &UNNAME);
    }
}

fn put_frontend(_: &Book, plan: &Plan, item: usize) -> Op {
    let (key, kind) = plan.want.frontends[item];
    Op::FrontendPut(key, value(&key, kind, plan.id()))
}

const NAME: Step = Step {
    make: |_, plan, _| {
        Op::NamePut(plan.id(), ServiceName { name: plan.name.clone(), rules: plan.want.rules })
    },
    done: |_, plan, _| plan.port.named = Some(plan.want.rules),
};

const UNNAME: Step =
    Step { make: |_, plan, _| Op::NameDelete(plan.id()), done: |_, plan, _| plan.port.named = None };

const POLICY: Step = Step {
    make: |_, plan, _| Op::Policy(plan.id(), plan.want.policy),
    done: |_, plan, _| plan.port.policy = plan.want.policy,
};

const UNUSE: Step = Step {
    make: |_, plan, _| Op::Policy(plan.id(), Policy::UNUSED),
    done: |_, plan, _| plan.port.policy = Policy::UNUSED,
};

/// A row for a new endpoint: its id goes to another owner, so its generation goes up.
const BACKEND: Step = Step {
    make: |book, plan, item| {
        let rec = &plan.port.recs[item];
        let state = rec.state_before().state(book.generation(rec.id).wrapping_add(1));
        Op::Backend(rec.id, BackendRow { addr: rec.addr, port: rec.port, service: plan.id(), state })
    },
    done: |book, plan, item| {
        let rec = &mut plan.port.recs[item];
        book.raise_generation(rec.id);
        rec.set(Bits::ROW.or(rec.state_before()));
    },
};

const SLOTS: Step = Step {
    make: |_, plan, at| {
        let members = plan.port.recs.iter().filter(|rec| rec.has(Bits::WANT_IN[at]));
        let base = plan.flips[at].as_ref().map_or(0, |flip| flip.word.base);
        Op::Slots { base, ids: members.map(|rec| rec.id).collect::<Vec<BackendId>>() }
    },
    done: |_, _, _| {},
};

/// An endpoint that nothing took, and that no flow could keep, starts anew (AFF-5): a choice
/// remembered from its earlier life no longer holds. No grace period is needed, since the address
/// behind the id stays. One that a slot leads to was taken all along, whatever became of its state: its
/// generation is that slot's, too.
fn starts_anew(rec: &Rec) -> bool {
    let taken = rec.has(Bits::SLOT[0].or(Bits::SLOT[1]));
    !taken && rec.state() == Bits::NONE && rec.state_before().any(Bits::IN[0].or(Bits::IN[1]))
}

const RAISE: Step = Step {
    make: |book, plan, item| {
        let rec = &plan.port.recs[item];
        let generation = book.generation(rec.id).wrapping_add(u32::from(starts_anew(rec)));
        Op::BackendState(rec.id, rec.state_before().state(generation))
    },
    done: |book, plan, item| {
        let rec = &mut plan.port.recs[item];
        if starts_anew(rec) {
            book.raise_generation(rec.id);
        }
        rec.set(rec.state_before());
    },
};

const LOWER: Step = Step {
    make: |book, plan, item| {
        let rec = &plan.port.recs[item];
        Op::BackendState(rec.id, plan.final_state(rec).state(book.generation(rec.id)))
    },
    done: |_, plan, item| {
        let state = plan.final_state(&plan.port.recs[item]);
        let rec = &mut plan.port.recs[item];
        rec.clear(Bits::STATE);
        rec.set(state);
    },
};

const FLIP: Step = Step {
    make: |_, plan, at| {
        let word = plan.flips[at].as_ref().map(|flip| flip.word);
        Op::Set(plan.id(), Which::ALL[at], word.unwrap_or_default())
    },
    done: |book, plan, at| {
        let Some(flip) = plan.flips[at].take() else {
            return;
        };
        plan.port.sets[at] = flip.word;
        if !flip.content {
            return;
        }
        plan.port.broken[at] = false;
        let old = std::mem::replace(&mut plan.port.ranges[at], flip.range);
        if let Some(range) = old {
            book.slots.retire(range, book.epochs.now());
        }
        for rec in &mut plan.port.recs {
            rec.clear(Bits::SLOT[at]);
            rec.set(Bits::SLOT[at].when(rec.has(Bits::WANT_IN[at])));
        }
    },
};

const DELETE: Step = Step {
    make: |_, plan, item| Op::FrontendDelete(plan.port.frontends[item].0),
    done: |book, plan, item| {
        let (key, _) = plan.port.frontends.remove(item);
        book.frontends.deleted(&key, book.epochs.now());
    },
};

const INFO: Step = Step {
    make: |_, plan, item| {
        let rec = &plan.port.recs[item];
        Op::Endpoint(rec.id, plan.wanted(rec).map_or_else(EndpointInfo::default, |want| info(want, rec)))
    },
    done: |_, plan, item| {
        let bits = plan.wanted(&plan.port.recs[item]).map_or(Bits::NONE, info_bits);
        let rec = &mut plan.port.recs[item];
        rec.clear(Bits::INFOS.or(Bits::INFO_DUE));
        rec.set(bits);
    },
};
