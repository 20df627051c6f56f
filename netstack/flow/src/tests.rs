//! What a table does under pressure; that it agrees with a simple one is in `tests/oracle.rs`.

use crate::table::Config;
use crate::*;

const SYN: Observed = Observed::Tcp(2);
const ACK: Observed = Observed::Tcp(16);
const SYN_ACK: Observed = Observed::Tcp(18);
const MS: u64 = 1_000_000;
/// As random as those of a node.
const SECRET: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];

fn table<K: Key>(capacity: usize) -> FlowTable<K> {
    FlowTable::new(&Config { capacity, secret: SECRET, timeouts: Timeouts::default() }).unwrap()
}

fn key(number: u32) -> V4 {
    let source = number.to_be_bytes();
    V4 { source, destination: [192, 0, 2, 1], source_port: 4000, destination_port: 80, protocol: 6 }
}

fn key6(number: u32) -> V6 {
    let mut source = [0x20; 16];
    source[12..].copy_from_slice(&number.to_be_bytes());
    V6 { source, destination: [0x30; 16], source_port: 4000, destination_port: 80, protocol: 6 }
}

/// The books and the lines agree.
fn check<K: Key>(table: &FlowTable<K>) {
    let entries: Vec<_> = table.iter().collect();
    let counts = table.counts();
    assert_eq!(counts.live, entries.len());
    assert_eq!(counts.unproven, entries.iter().filter(|(_, entry)| entry.state().is_unproven()).count());
    assert!(counts.live <= table.capacity());
    for (slot, entry) in entries {
        assert!(std::ptr::eq(table.side(slot).unwrap().entry, entry.entry));
        if let Some(peer) = entry.peer() {
            let peer = table.side(peer).unwrap();
            assert_eq!((peer.peer(), peer.is_answer()), (Some(slot), !entry.is_answer()));
        }
    }
}

fn flood<K: Key>(key: impl Fn(u32) -> K) {
    let mut table = table::<K>(10_000);
    for number in 0..5000 {
        let _ = table.insert(&key(number), SYN, number, 0).unwrap();
        assert!(table.lookup(&key(number), ACK, 0).is_some());
    }
    let bytes = table.bytes();
    for number in 5000..1_005_000 {
        let _ = table.insert(&key(number), SYN, 0, MS * 1000);
    }
    check(&table);
    let counts = table.counts();
    assert_eq!((table.bytes(), counts.live), (bytes, 5000 + counts.unproven));
    assert!((1250..=2500).contains(&counts.unproven), "{counts:?}");
    for number in 0..5000 {
        let slot = table.lookup(&key(number), ACK, MS * 2000).expect("established");
        assert_eq!(table.side(slot).unwrap().binding(), number);
    }
    // Afterwards everything is as before: the flood's flows end, and others find room.
    table.expire(MS * 60_000, usize::MAX);
    assert_eq!(table.counts().live, 5000);
    assert!((5000..6000).all(|number| table.insert(&key(number), SYN, 0, MS * 60_000).is_ok()));
}

#[test]
fn a_flood_of_syns_displaces_nobody_who_is_established() {
    flood(key);
    flood(key6);
}

fn fill<K: Key>(key: impl Fn(u32) -> K) -> (usize, f64) {
    let capacity = 20_000;
    let mut table = table::<K>(capacity);
    let mut taken = 0;
    for number in 0..capacity as u32 {
        if table.insert(&key(number), SYN, 0, 0).is_ok() {
            taken += 1;
            assert!(table.lookup(&key(number), ACK, 0).is_some());
        }
    }
    check(&table);
    // Once more: nobody gives way.
    if taken == capacity {
        assert_eq!(table.insert(&key(u32::MAX), SYN, 0, 0), Err(Refused::Full));
    }
    let home_line = table.iter().filter(|(slot, entry)| {
        let home = crate::probe::home(Home::new(&entry.key(), SECRET).hash(), table.homes());
        slot.0 as usize / K::WAYS == home
    });
    (taken, home_line.count() as f64 / taken as f64)
}

#[test]
fn a_full_table_takes_what_it_promises_and_hits_cost_a_line() {
    // Where lines fill by chance, a flow in some thousands finds none with room around its own.
    let (taken, home) = fill(key);
    assert!(taken > 19_990, "{taken}");
    assert!(home > 0.8, "{home}");
    let (taken, home) = fill(key6);
    assert!(taken > 19_900, "{taken}");
    assert!(home > 0.5, "{home}");
}

#[test]
fn a_million_flows_stay_below_100_mib() {
    assert!(table::<V4>(1_000_000).bytes() < 50 << 20);
    // Those of NAT have an entry for each direction.
    assert!(table::<V4>(2_000_000).bytes() < 100 << 20);
    assert!(table::<V6>(1_000_000).bytes() < 100 << 20);
}

#[test]
fn nothing_is_left_behind() {
    let mut table = table::<V4>(2000);
    for round in 0..20 {
        for number in 0..2000 {
            let _ = table.insert(&key(round * 1000 + number), ACK, 0, 0);
            let _ = table.lookup(&key(round * 1000 + number), ACK, 0);
        }
        let slots: Vec<Slot> = table.iter().map(|(slot, _)| slot).collect();
        slots.into_iter().for_each(|slot| table.remove(slot));
        assert_eq!((table.counts().live, table.counts().unproven), (0, 0));
        assert!(table.passed_anywhere().eq(std::iter::empty()));
    }
}

#[test]
fn a_server_under_attack_proves_nothing_by_answering() {
    let (ask, answer) = (key(1), V4 { source: [10, 0, 0, 9], ..key(2) });
    let mut table = table::<V4>(100);
    let slot = table.insert_pair(&ask, &answer, SYN, 7, 0).unwrap();
    let state = |table: &FlowTable<V4>| table.side(slot).unwrap().state();
    let back = table.lookup(&answer, SYN_ACK, MS).unwrap();
    assert_eq!(table.side(back).unwrap().peer(), Some(slot));
    let _ = table.lookup(&ask, ACK, MS);
    assert_eq!(state(&table), State::TcpOpening);
    let _ = table.lookup(&answer, ACK, MS);
    assert_eq!(state(&table), State::TcpEstablished);
    assert_eq!(table.side(back).unwrap().state(), State::TcpEstablished);
    check(&table);
}

#[test]
fn a_direction_lives_as_long_as_the_other() {
    let (ask, answer) = (V4 { protocol: 17, ..key(1) }, V4 { protocol: 17, ..key(2) });
    let mut table = table::<V4>(100);
    let _ = table.insert_pair(&ask, &answer, Observed::Other, 7, 0).unwrap();
    let minute = 60_000 * MS;
    assert!(table.lookup(&answer, Observed::Other, 0).is_some());
    for minutes in 1..10 {
        assert!(table.lookup(&ask, Observed::Other, minutes * minute).is_some());
    }
    table.expire(10 * minute, usize::MAX);
    assert!(table.lookup(&answer, Observed::Other, 10 * minute).is_some());
    table.expire(20 * minute, usize::MAX);
    assert_eq!((table.counts().live, table.counts().expired), (0, 1));
}

#[test]
fn an_answer_that_is_taken_is_refused_and_leaves_nothing() {
    let mut table = table::<V4>(100);
    let _ = table.insert(&key(2), SYN, 0, 0).unwrap();
    assert_eq!(table.insert_pair(&key(1), &key(2), SYN, 0, 0), Err(Refused::AnswerTaken));
    assert_eq!(table.insert_pair(&key(1), &key(1), SYN, 0, 0), Err(Refused::AnswerTaken));
    assert_eq!(table.counts().live, 1);
    let later = 31_000 * MS;
    assert!(table.insert_pair(&key(1), &key(2), SYN, 0, later).is_ok());
    check(&table);
}

#[test]
fn an_answer_whose_flow_is_over_gives_way_to_a_new_connection_only() {
    const FIN: Observed = Observed::Tcp(17);
    let mut table = table::<V4>(100);
    let _ = table.insert_pair(&key(1), &key(2), SYN, 5, 0).unwrap();
    for (number, observed) in [(2, SYN_ACK), (1, ACK), (2, FIN)] {
        assert!(table.lookup(&key(number), observed, 0).is_some());
    }
    // Half closed is not over.
    assert_eq!(table.insert_pair(&key(3), &key(2), SYN, 6, 0), Err(Refused::AnswerTaken));
    assert!(table.lookup(&key(1), FIN, 0).is_some());
    assert_eq!(table.insert_pair(&key(3), &key(2), ACK, 6, 0), Err(Refused::AnswerTaken));
    let slot = table.insert_pair(&key(3), &key(2), SYN, 6, 0).unwrap();
    assert_eq!((table.side(slot).unwrap().binding(), table.counts().live), (6, 2));
    assert!(table.lookup(&key(1), ACK, 0).is_none());
    check(&table);
}

#[test]
fn a_reset_ends_both_directions_soon() {
    let mut table = table::<V4>(100);
    let _ = table.insert_pair(&key(1), &key(2), SYN, 5, 0).unwrap();
    for (number, observed) in [(2, SYN_ACK), (1, ACK), (2, ACK), (2, Observed::Tcp(4))] {
        assert!(table.lookup(&key(number), observed, 0).is_some());
    }
    assert!(table.peek(&key(1), 119_000 * MS).is_some());
    table.expire(121_000 * MS, usize::MAX);
    assert_eq!(table.counts().live, 0);
}

#[test]
fn a_forged_reset_does_not_end_a_flow_and_a_real_one_does() {
    let mut table = table::<V4>(100);
    let rst = Observed::Tcp(4);
    for number in [1, 2] {
        let _ = table.insert(&key(number), SYN, 0, 0).unwrap();
        let _ = table.lookup(&key(number), ACK, 0);
        let _ = table.lookup(&key(number), rst, 0);
    }
    assert!(table.lookup(&key(1), ACK, 5000 * MS).is_some());
    assert!(table.lookup(&key(1), ACK, 60_000 * MS).is_some());
    assert!(table.lookup(&key(2), ACK, 60_000 * MS).is_none());
    // A SYN on what is over begins another flow.
    assert!(table.lookup(&key(1), SYN, 60_000 * MS).is_none());
    let slot = table.insert(&key(1), SYN, 9, 60_000 * MS).unwrap();
    table.expire(60_000 * MS, usize::MAX);
    assert_eq!((table.side(slot).unwrap().binding(), table.counts().live), (9, 1));
}

#[test]
fn time_wraps_around() {
    let mut table = table::<V4>(100);
    let near_wrap = (u64::from(u32::MAX) - 5) << 20;
    let _ = table.insert(&key(1), SYN, 0, near_wrap).unwrap();
    assert!(table.lookup(&key(1), ACK, near_wrap + 20_000 * MS).is_some());
    assert!(table.lookup(&key(1), ACK, near_wrap + 1_000_000 * MS).is_some());
    assert!(table.lookup(&key(1), ACK, near_wrap + 4_000_000 * MS).is_none());
}

#[test]
fn what_cannot_be_is_refused() {
    let new = |capacity| {
        FlowTable::<V4>::new(&Config { capacity, secret: [0; 2], timeouts: Timeouts::default() }).err()
    };
    assert_eq!(new(0), Some(Error::Capacity { flows: 0 }));
    assert_eq!(new(usize::MAX), Some(Error::Capacity { flows: usize::MAX }));
    assert_eq!(new(1), None);
}

/// Begins flows at a glance where that is possible, and otherwise as another table does.
fn begin_at_a_glance<K: Key>(key: impl Fn(u32) -> K) {
    const FLOWS: u32 = 1500;
    let (mut quick, mut thorough) = (table::<K>(16_000), table::<K>(16_000));
    let mut at_a_glance = 0;
    for number in 0..FLOWS {
        let (home, other) = (quick.home(&key(number)), quick.home(&key(number | 1 << 20).reversed()));
        let answers = [Answers::Elsewhere, Answers::Same, Answers::Other(&other)][number as usize % 3];
        let flow = Newcomer { asks: &home, answers, observed: SYN, binding: number, now_ns: 0 };
        let room = thorough.room(&flow).unwrap();
        let place = thorough.begin(&flow, room, 0);
        let begun = quick.begin_at_home(&flow);
        at_a_glance += u32::from(begun.is_some());
        let begun = begun.unwrap_or_else(|| {
            let room = quick.room(&flow).unwrap();
            quick.begin(&flow, room, 0)
        });
        assert_eq!(begun, place, "windows and tallies are asked for beside the first place");
        assert_eq!(quick.begin_at_home(&flow), None, "it is there");
        let turned = quick.home(&key(number).reversed());
        if matches!(answers, Answers::Same) {
            assert_eq!(quick.begin_at_home(&Newcomer { asks: &turned, ..flow }), None, "its answers are");
        }
    }
    assert!((FLOWS / 2..FLOWS).contains(&at_a_glance), "{at_a_glance}");
    check(&quick);
    assert_eq!(quick.counts(), thorough.counts());
    for number in 0..FLOWS {
        let [quick, thorough] = [&quick, &thorough].map(|table| {
            let side = table.side(table.peek(&key(number), 0).unwrap()).unwrap();
            let answer = side.peer().map(|peer| table.side(peer).unwrap().key());
            (side.key(), answer, side.binding(), side.keeps_source(), side.state())
        });
        assert_eq!(quick, thorough);
    }
}

#[test]
fn flows_begin_at_a_glance_as_they_do_otherwise() {
    begin_at_a_glance(key);
    begin_at_a_glance(key6);
}
