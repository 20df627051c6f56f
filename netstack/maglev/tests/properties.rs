//! What a table promises, over many seeds and sets of backends.

use std::collections::HashMap;

use maglev::{Backend, Change, Error, Seed, Shares, Table, TableSize};
use proptest::prelude::*;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("10.1.{}.{}:8080", i / 250, i % 250)).collect()
}

fn backends(names: &[String]) -> Vec<Backend<'_>> {
    names.iter().map(|name| Backend { name: name.as_bytes(), weight: 1 }).collect()
}

fn seed(number: u64) -> Seed {
    Seed::new(u128::from(number).to_le_bytes())
}

fn built(size: TableSize, number: u64, names: &[String]) -> Table {
    Table::build(size, &seed(number), &backends(names)).unwrap()
}

/// What taking away `gone` of the names changes.
fn without(size: TableSize, number: u64, names: &[String], gone: impl Fn(usize) -> bool) -> Change {
    let kept: Vec<String> =
        names.iter().enumerate().filter(|(i, _)| !gone(*i)).map(|(_, name)| name.clone()).collect();
    let places: HashMap<&String, u32> = kept.iter().zip(0..).collect();
    let (before, after) = (built(size, number, names), built(size, number, &kept));
    Change::between(&before, &after, |i| places.get(&names[i as usize]).copied())
}

#[test]
fn removing_one_of_a_thousand_moves_little() {
    let all = names(1000);
    let changes: Vec<Change> =
        (0..20).map(|s| without(TableSize::DEFAULT, s, &all, |i| i == s as usize * 49)).collect();
    for change in &changes {
        assert!(change.survivors_moved_ratio() < 0.01, "{change:?}");
        // The gone backend's slots move by necessity, and nothing is counted twice.
        assert_eq!(change.moved, change.survivors_moved + change.slots - change.survivors);
        assert_eq!(change.needless, change.survivors_moved);
    }
    let mean = changes.iter().map(Change::survivors_moved_ratio).sum::<f64>() / changes.len() as f64;
    assert!(mean < 0.0065, "{mean}");
}

#[test]
fn removing_one_per_cent_of_a_thousand_moves_little() {
    let all = names(1000);
    let changes: Vec<Change> =
        (0..10).map(|s| without(TableSize::DEFAULT, s, &all, |i| i % 100 == s as usize)).collect();
    let mean = changes.iter().map(Change::survivors_moved_ratio).sum::<f64>() / changes.len() as f64;
    assert!(mean < 0.025, "{mean}");
}

#[test]
fn a_newcomer_gets_its_share_and_little_else_moves() {
    let all = names(100);
    let (before, after) = (built(TableSize::DEFAULT, 5, &all[1..]), built(TableSize::DEFAULT, 5, &all));
    let change = Change::between(&before, &after, |i| Some(i + 1));
    let share = Shares::of(&after, 100).slots()[0];
    assert_eq!(change.survivors_moved - change.needless, share);
    assert!(change.needless < change.slots / 100, "{change:?}");
}

#[test]
fn a_larger_table_moves_less() {
    let all = names(100);
    let small = without(TableSize::DEFAULT, 1, &all, |i| i == 50);
    let large = without(TableSize::MAX, 1, &all, |i| i == 50);
    assert!(large.survivors_moved_ratio() < small.survivors_moved_ratio());
    assert!(large.survivors_moved_ratio() < 0.003);
}

#[test]
fn changing_one_weight_moves_little_beyond_its_share() {
    let all = names(100);
    let mut weighted = backends(&all);
    for (i, backend) in weighted.iter_mut().enumerate() {
        backend.weight = 10 + (i % 7) as u32;
    }
    let before = Table::build(TableSize::DEFAULT, &seed(3), &weighted).unwrap();
    weighted[20].weight /= 2;
    let after = Table::build(TableSize::DEFAULT, &seed(3), &weighted).unwrap();
    let change = Change::between(&before, &after, Some);
    let [had, has] = [&before, &after].map(|table| Shares::of(table, 100).slots()[20]);
    assert!(has * 2 - had <= 20, "{had} slots became {has}");
    assert!(change.moved_ratio() < 0.02, "{change:?}");
}

#[test]
fn tables_of_two_sizes_share_nothing() {
    let all = names(3);
    let (before, after) = (built(TableSize::DEFAULT, 0, &all), built(TableSize::new(251).unwrap(), 0, &all));
    let change = Change::between(&before, &after, Some);
    assert_eq!((change.moved, change.survivors_moved), (65_537, 65_537));
}

#[test]
fn more_than_two_bytes_of_backends_fit() {
    let all: Vec<String> = (0..70_000).map(|i| i.to_string()).collect();
    let size = TableSize::new(70_001).unwrap();
    let table = built(size, 0, &all);
    assert_eq!(table.bytes(), 4 * 70_001);
    let shares = Shares::of(&table, all.len());
    assert_eq!(shares.slots().iter().filter(|share| **share == 2).count(), 1);
    assert_eq!(shares.slots().iter().filter(|share| **share == 1).count(), 69_999);
    assert_eq!(built(size, 0, &all[..65_536]).bytes(), 2 * 70_001);
    assert_eq!(built(size, 0, &all[..65_537]).bytes(), 4 * 70_001);
}

#[test]
fn what_cannot_be_is_refused() {
    let all = names(4);
    let size = TableSize::new(3).unwrap();
    let build = |backends: &[Backend<'_>]| Table::build(size, &Seed::default(), backends);
    assert_eq!(build(&backends(&all)), Err(Error::TooManyBackends { backends: 4, slots: 3 }));
    assert_eq!(build(&[]), Err(Error::NoBackend));
    let idle = Backend { name: b"a", weight: 0 };
    assert_eq!(build(&[idle]), Err(Error::NoBackend));
    let twin = Backend { name: b"a", weight: 1 };
    let other = Backend { name: b"b", weight: 1 };
    assert_eq!(build(&[twin, other, idle]), Err(Error::SameName { first: 0, second: 2 }));
}

#[test]
fn the_table_never_changes() {
    // Nodes of different versions share load while they are upgraded.
    let table = built(TableSize::new(13).unwrap(), 0, &names(3));
    assert_eq!(table.iter().collect::<Vec<_>>(), [0, 0, 2, 2, 0, 1, 1, 2, 0, 2, 1, 0, 1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_share_is_floor_or_ceiling(
        number in any::<u64>(),
        slots in prop::sample::select(vec![251u32, 1009, 4099, 16_381]),
        count in 1usize..250,
    ) {
        let size = TableSize::new(slots).unwrap();
        let shares = Shares::of(&built(size, number, &names(count)), count);
        let floor = slots / count as u32;
        let ceiling = slots.div_ceil(count as u32);
        prop_assert!(shares.slots().iter().all(|share| (floor..=ceiling).contains(share)));
        prop_assert_eq!(shares.slots().iter().sum::<u32>(), slots);
        prop_assert!(shares.imbalance() >= 1.0);
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(
        number in any::<u64>(),
        weights in prop::collection::vec(0u32..5, 2..80),
        rotation in any::<prop::sample::Index>(),
    ) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let all = names(weights.len());
        let size = TableSize::new(1009).unwrap();
        let given: Vec<Backend<'_>> =
            all.iter().zip(&weights).map(|(name, weight)| Backend { name: name.as_bytes(), weight: *weight }).collect();
        let mut other = given.clone();
        other.rotate_left(rotation.index(given.len()));
        other.reverse();
        let a = Table::build(size, &seed(number), &given).unwrap();
        let b = Table::build(size, &seed(number), &other).unwrap();
        for slot in 0..size.slots() {
            prop_assert_eq!(given[a.at(slot) as usize], other[b.at(slot) as usize]);
        }
    }

    #[test]
    fn shares_follow_weights(number in any::<u64>(), weights in prop::collection::vec(0u32..1000, 1..60)) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let all = names(weights.len());
        let given: Vec<Backend<'_>> =
            all.iter().zip(&weights).map(|(name, weight)| Backend { name: name.as_bytes(), weight: *weight }).collect();
        let size = TableSize::new(16_381).unwrap();
        let shares = Shares::of(&Table::build(size, &seed(number), &given).unwrap(), given.len());
        let total: u32 = weights.iter().sum();
        for (share, weight) in shares.slots().iter().zip(&weights) {
            let fair = 16_381.0 * f64::from(*weight) / f64::from(total);
            // Half a slot for its own rounding, and its part of half a slot for each backend's.
            let slack = 0.5 + given.len() as f64 / 2.0 * fair / 16_381.0;
            prop_assert!((f64::from(*share) - fair).abs() <= slack, "{} slots, {} are fair", share, fair);
            prop_assert!(*weight > 0 || *share == 0);
        }
    }

    #[test]
    fn a_hash_finds_a_slot(number in any::<u64>(), hash in any::<u64>()) {
        let table = built(TableSize::new(251).unwrap(), number, &names(5));
        prop_assert!(table.slot(hash) < 251);
        prop_assert_eq!(table.backend(hash), table.at(table.slot(hash)));
        table.prefetch(table.slot(hash));
    }
}
