//! Two workers, each with the only queue pair of one port: what one routes to the other's port, the other sends.

use crate::common::*;
use crate::pair::Pair;
use dataplane::{DropReason, Inject, InjectTo, InterfaceId, Node, TraceRequest, deal};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn queue_pairs_are_dealt_evenly() {
    let of = |counts: &[usize], workers| -> Vec<Vec<u16>> {
        let dealt = deal(counts.iter().map(|count| vec![(); *count]), workers);
        dealt.iter().map(|pairs| pairs.iter().map(|(InterfaceId(port), ())| *port).collect()).collect()
    };
    assert_eq!(of(&[1, 1], 1), [[0, 1]]);
    assert_eq!(of(&[1, 1, 1], 2), [vec![0, 2], vec![1]]);
    assert_eq!(of(&[2, 2], 2), [[0, 1], [0, 1]]);
    assert_eq!(of(&[3, 1, 1], 3), [vec![0, 1], vec![0, 2], vec![0]]);
    assert_eq!(of(&[1], 3), [vec![0], vec![], vec![]]);
    assert_eq!(of(&[4], 2), [[0], [0]], "a worker has one pair of a port");
}

#[test]
fn frames_leave_by_the_worker_that_has_the_port() {
    for count in [1usize, 2, 67, 256] {
        let mut bed = Pair::new(1500);
        for index in 0..count {
            // To eth1, to its VLAN, back to eth0, and to the other family.
            let frame = match index % 4 {
                0 => udp4([10, 1, 0, index as u8], 64, index),
                1 => udp4([10, 2, 0, index as u8], 64, index),
                2 => udp4([10, 0, 0, 9], 64, index),
                _ => udp6("2001:db8:1001::1", 64, index),
            };
            assert!(bed.wires[0].send(&frame));
            // And the other way.
            let mut frame = udp4([10, 0, 0, 9], 64, index);
            frame[..6].copy_from_slice(&MAC1);
            assert!(bed.wires[1].send(&frame));
        }
        bed.run();
        let (to0, to1) = (bed.sent(0), bed.sent(1));
        let stay = (0..count).filter(|index| index % 4 == 2).count();
        assert_eq!((to0.len(), to1.len()), (count + stay, count - stay), "{:?}", bed.drops());
        let untagged = to1.iter().filter(|frame| frame[12..14] == [8, 0]).map(Vec::len);
        assert!(untagged.is_sorted(), "the order changed");
        let handed = |worker| {
            let mut nodes = bed.shared.node_counters(worker);
            nodes.find(|(node, _)| *node == Node::HandoffInput).map(|(_, counters)| counters.packets)
        };
        assert_eq!((handed(0), handed(1)), (Some(count as u64), Some((count - stay) as u64)));
        assert_eq!(bed.drops(), []);
        bed.assert_balanced();
    }
}

#[test]
fn a_sleeping_worker_is_woken() {
    let mut bed = Pair::new(1500);
    bed.run();
    assert!(!bed.workers[1].arm());
    let before = bed.woken.count(1);
    assert!(bed.wires[0].send(&udp4([10, 1, 0, 1], 64, 10)));
    assert_eq!(bed.workers[0].poll(1), 1);
    assert_eq!(bed.woken.count(1), before + 1);
    assert!(bed.workers[1].arm(), "there is something in the ring");
    assert_eq!(bed.workers[1].poll(1), 1);
    assert!(bed.wires[0].send(&udp4([10, 1, 0, 1], 64, 10)));
    assert_eq!(bed.workers[0].poll(1), 1);
    assert_eq!(bed.woken.count(1), before + 1, "who polls is not woken");
    bed.run();
    assert_eq!(bed.sent(1).len(), 2);
    bed.assert_balanced();
}

#[test]
fn a_worker_that_does_not_keep_up_costs_counted_drops() {
    let mut bed = Pair::new(1500);
    for round in 0..20 {
        for _ in 0..100 {
            assert!(bed.wires[0].send(&udp4([10, 1, 0, 1], 64, 10)));
        }
        assert_eq!(bed.workers[0].poll(1), 100, "round {round}");
    }
    assert_eq!(bed.drops(), [(DropReason::HandoffFull, 1200)]);
    assert_eq!(bed.shared.interface_counters(ETH1).tx_drops, 1200);
    bed.run();
    assert_eq!(bed.sent(1).len(), 800);
    // And it recovers.
    assert!(bed.wires[0].send(&udp4([10, 1, 0, 1], 64, 10)));
    bed.run();
    assert_eq!(bed.sent(1).len(), 1);
    bed.assert_balanced();
}

#[test]
fn fragments_errors_and_injected_packets_change_workers_too() {
    let mut bed = Pair::new(1300);
    let mut cache = bed.pool.cache();
    assert!(bed.wires[0].send(&udp4([10, 1, 0, 1], 64, 1400)));
    bed.run();
    assert_eq!(bed.sent(1).len(), 2);
    for source_port in 0..64u16 {
        let mut packet = udp4([10, 1, 0, 1], 64, 10)[14..].to_vec();
        packet[20..22].copy_from_slice(&source_port.to_be_bytes());
        for to in [InjectTo::Forward4, InjectTo::Transmit(ETH1_VLAN)] {
            let inject = Inject::copy(&mut cache, &packet, to).expect("buffers are left");
            assert!(bed.shared.inject(inject));
        }
    }
    bed.run();
    assert_eq!(bed.sent(1).len(), 128);
    let injected = |worker| {
        let mut nodes = bed.shared.node_counters(worker);
        nodes.find(|(node, _)| *node == Node::Inject).map_or(0, |(_, counters)| counters.packets)
    };
    assert!(injected(0) > 8 && injected(1) > 64 + 8, "{} and {}", injected(0), injected(1));
    assert_eq!(bed.drops(), []);
    drop(cache);
    bed.assert_balanced();
}

#[test]
fn the_trace_follows_a_packet_to_another_worker() {
    let mut bed = Pair::new(1500);
    bed.shared.arm_trace(TraceRequest { packets: 1, ..TraceRequest::default() });
    assert!(bed.wires[0].send(&udp4([10, 1, 0, 1], 64, 10)));
    bed.run();
    let records: Vec<_> = std::iter::from_fn(|| bed.shared.next_trace_record()).collect();
    let last = records.last().expect("there are records");
    assert_eq!((last.node, last.worker, last.packet), (Node::HandoffInput, 1, 0));
    assert!(records.iter().all(|record| record.packet == 0));
    assert_eq!(bed.sent(1).len(), 1);
    bed.assert_balanced();
}

#[test]
fn two_threads_lose_nothing() {
    let mut bed = Pair::new(1500);
    const FRAMES: usize = 20_000;
    let stop = Arc::new(AtomicUsize::new(0));
    let workers = std::mem::take(&mut bed.workers);
    let threads: Vec<_> = workers
        .into_iter()
        .map(|mut worker| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                // Twice more after the end, for what was handed over last.
                while stop.load(Ordering::SeqCst) < 2 {
                    let _ = worker.poll(1);
                }
                worker
            })
        })
        .collect();
    let mut received = 0;
    let mut back = udp4([10, 0, 0, 7], 64, 10);
    back[..6].copy_from_slice(&MAC1);
    for _ in 0..FRAMES {
        while !bed.wires[0].send(&udp4([10, 1, 0, 1], 64, 10)) || !bed.wires[1].send(&back) {
            received += bed.sent(0).len() + bed.sent(1).len();
            std::thread::yield_now();
        }
    }
    loop {
        received += bed.sent(0).len() + bed.sent(1).len();
        let totals = bed.shared.packet_totals();
        let drops: u64 = bed.drops().iter().map(|(_, count)| count).sum();
        if totals.received >= 2 * FRAMES as u64 && totals.received == totals.sent + drops {
            break;
        }
        std::thread::yield_now();
    }
    stop.store(2, Ordering::SeqCst);
    bed.workers = threads.into_iter().map(|thread| thread.join().expect("no worker panicked")).collect();
    received += bed.sent(0).len() + bed.sent(1).len();
    assert_eq!(received as u64, bed.shared.packet_totals().sent);
    bed.assert_balanced();
}
