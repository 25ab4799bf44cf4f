//! Ids and slots: lowest first, at rest between two owners, joined again when they are free.

use std::collections::{BTreeMap, BTreeSet};

use beeline::plan::ids::{Epochs, IdPool, Range, RangePool};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn grace(epochs: &mut Epochs) {
    let period = epochs.begin();
    epochs.end(period);
}

#[test]
fn the_lowest_free_id_comes_first() {
    let (mut pool, mut epochs) = (IdPool::new(1, 6), Epochs::default());
    assert_eq!([(); 5].map(|()| pool.take()), [1, 2, 3, 4, 5].map(Some));
    assert_eq!(pool.take(), None);
    for id in [4, 2] {
        pool.retire(id, epochs.now());
    }
    pool.release(&epochs);
    assert_eq!((pool.take(), pool.used()), (None, 5));
    grace(&mut epochs);
    pool.release(&epochs);
    assert_eq!((pool.used(), pool.take(), pool.take(), pool.take()), (3, Some(2), Some(4), None));
    pool.set_limit(7);
    assert_eq!((pool.take(), pool.take()), (Some(6), None));
}

#[test]
fn only_a_grace_period_that_began_later_frees() {
    let (mut pool, mut epochs) = (IdPool::new(0, 1), Epochs::default());
    pool.take();
    let running = epochs.begin();
    pool.retire(0, epochs.now());
    epochs.end(running);
    pool.release(&epochs);
    assert_eq!(pool.take(), None, "a reader may have begun before the id was freed and after the period");
    assert!(pool.awaits_grace(&epochs));
    grace(&mut epochs);
    pool.release(&epochs);
    assert_eq!(pool.take(), Some(0));
}

#[test]
fn ids_found_in_use_are_not_handed_out() {
    let mut pool = IdPool::with_used(1, 8, &BTreeSet::from([2, 3, 5, 90]));
    assert_eq!([(); 5].map(|()| pool.take()), [Some(1), Some(4), Some(6), Some(7), None]);
}

#[test]
fn an_id_that_is_wanted_is_given_while_it_is_free() {
    let (mut pool, mut epochs) = (IdPool::new(1, 6), Epochs::default());
    assert_eq!(pool.take_near([0, 9, 4, 5].into_iter()), Some(4), "what is outside is passed over");
    assert_eq!(pool.take_near([4, 5].into_iter()), Some(5));
    assert_eq!(pool.take_near([4, 5].into_iter()), Some(1), "none of them is free: any other");
    assert_eq!([(); 3].map(|()| pool.take()), [Some(2), Some(3), None], "what was given is passed over");
    assert_eq!(pool.used(), 5);
    for id in [4, 2] {
        pool.retire(id, epochs.now());
    }
    assert_eq!(pool.take_near([4, 2].into_iter()), None, "at rest");
    grace(&mut epochs);
    pool.release(&epochs);
    assert_eq!((pool.used(), pool.take_near([4].into_iter())), (3, Some(4)));
    pool.put_back(4);
    assert_eq!([(); 3].map(|()| pool.take()), [Some(2), Some(4), None], "each once, however it came back");
}

#[test]
fn slots_are_cut_to_size_and_joined() {
    let (mut pool, mut epochs) = (RangePool::new(10), Epochs::default());
    let ranges = [4, 2, 4].map(|len| pool.take(len).unwrap());
    assert_eq!(ranges.map(|range| range.base), [0, 4, 6]);
    assert_eq!(pool.take(1), None);
    pool.retire(ranges[0], epochs.now());
    pool.retire(ranges[1], epochs.now());
    assert_eq!(pool.take(1), None);
    grace(&mut epochs);
    pool.release(&epochs);
    assert_eq!(pool.take(6), Some(Range { base: 0, len: 6 }));
    pool.set_limit(12);
    assert_eq!(pool.take(2), Some(Range { base: 10, len: 2 }));
    assert_eq!(pool.used(), 12);
}

#[test]
fn reserved_slots_overlap_nothing() {
    let mut pool = RangePool::new(10);
    assert!(pool.reserve(Range { base: 3, len: 3 }));
    for overlap in [(0, 4), (5, 1), (2, 8), (8, 3), (12, 1), (u32::MAX, 2), (1, 0)] {
        assert!(!pool.reserve(Range { base: overlap.0, len: overlap.1 }), "{overlap:?}");
    }
    assert!(pool.reserve(Range { base: 6, len: 4 }));
    assert_eq!((pool.take(3), pool.take(1), pool.used()), (Some(Range { base: 0, len: 3 }), None, 10));
}

#[test]
fn random_sizes_never_overlap_and_waste_little() {
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut pool, mut epochs) = (RangePool::new(1 << 20), Epochs::default());
        let mut live: BTreeMap<u32, u32> = BTreeMap::new();
        let (mut used, mut most, mut top) = (0, 0, 0);
        for step in 0..20_000 {
            if live.len() < 200 || rng.random_bool(0.5) && live.len() < 400 {
                let len =
                    if rng.random_ratio(1, 20) { rng.random_range(1..300) } else { rng.random_range(1..15) };
                let range = pool.take(len).unwrap();
                let before = live.range(..range.base + len).next_back();
                assert!(before.is_none_or(|(base, len)| base + len <= range.base), "seed {seed}");
                live.insert(range.base, len);
                (used, top) = (used + len, top.max(range.base + len));
            } else {
                let base = *live.keys().nth(rng.random_range(0..live.len())).unwrap();
                let len = live.remove(&base).unwrap();
                pool.retire(Range { base, len }, epochs.now());
                used -= len;
            }
            if step % 10 == 0 {
                grace(&mut epochs);
                pool.release(&epochs);
            }
            most = most.max(pool.used());
        }
        assert!(top < most * 3 / 2, "seed {seed}: {top} slots touched for {most}");
        for (base, len) in live {
            pool.put_back(Range { base, len });
        }
        grace(&mut epochs);
        pool.release(&epochs);
        assert_eq!(
            pool.take(1 << 20),
            Some(Range { base: 0, len: 1 << 20 }),
            "seed {seed}: all is joined again"
        );
    }
}
