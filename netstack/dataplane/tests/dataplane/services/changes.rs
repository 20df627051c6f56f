//! Services change, and strangers attack, while packets come.

use super::support::*;
use crate::common::*;
use balancer::Builder;
use maglev::TableSize;
use services::{Compiled, Forwarding};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const SYN: What = What::Tcp(2);
const ACK: What = What::Tcp(16);
const SERVICES: usize = 400;

fn vip(service: usize) -> SocketAddr {
    end(&format!("10.96.{}.{}", service / 200, 1 + service % 200), 80)
}

/// All services; `round` says which of each one's four backends has been replaced how often.
fn rolling(round: usize) -> Compiled {
    let mut all = Compiled::default();
    for service in 0..SERVICES {
        let backend = |number: usize| {
            let restarts = (round + 3 - number) / 4;
            format!("10.1.{}.{}:8080", service % 250, 1 + number + 4 * (restarts % 50))
        };
        let backends: Vec<String> = (0..4).map(backend).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        let mut one = compiled(Forwarding::Nat, &vip(service).ip().to_string(), &backends);
        one.pools[0].key.service = format!("web-{service}");
        one.pools[0].table_size = TableSize::new(1021).expect("a prime");
        one.frontends[0].pool = service;
        all.pools.append(&mut one.pools);
        all.frontends.append(&mut one.frontends);
    }
    all
}

/// A rolling restart of 400 services: their tables are built and published by another thread, again and again, while packets
/// of new and known flows come. None is lost.
#[test]
fn services_rebuilt_at_once_lose_no_packet() {
    let mut bed = Testbed::new();
    give_flows(&bed.shared, 20_000);
    let mut builder = Builder::new(settings());
    let _ = bed.shared.publish_services(Some(builder.build(&rolling(0))));
    let (published, shared) = (AtomicUsize::new(0), bed.shared.clone());
    const ROUNDS: usize = 12;
    let mut vectors = 0_u64;
    std::thread::scope(|scope| {
        let _ = scope.spawn(|| {
            for round in 1..=ROUNDS {
                let _ = shared.publish_services(Some(builder.build(&rolling(round))));
                shared.free_retired();
                let _ = published.fetch_add(1, Relaxed);
            }
        });
        while published.load(Relaxed) < ROUNDS || vectors < 100 {
            for number in 0..256 {
                let client = end("10.0.0.5", 10_000 + (vectors % 50 * 256 + number) as u16);
                let what = if number % 2 == 0 { SYN } else { ACK };
                let to = vip((vectors as usize * 256 + number as usize) % SERVICES);
                assert!(bed.wires[0].send(&frame(0, client, to, what, 0)));
            }
            bed.run();
            vectors += 1;
            assert_eq!(bed.sent(1).len(), 256, "lost in vector {vectors}: {:?}", bed.drops());
        }
    });
    assert_eq!((bed.drops(), bed.sent(0).len()), (vec![], 0));
    bed.assert_balanced();
}

/// A million SYNs of as many sources: established flows stay where they are though the services' backends have changed, no
/// packet is dropped, and the table keeps its size.
#[test]
fn a_flood_of_syns_costs_established_flows_nothing() {
    const ESTABLISHED: u16 = 500;
    const CAPACITY: usize = 20_000;
    const FLOOD: u32 = 1_000_000;
    let mut bed = Testbed::new();
    give_flows(&bed.shared, CAPACITY);
    let mut builder = Builder::new(settings());
    let backends = ["10.1.0.7:8080", "10.1.0.8:8080", "10.1.0.9:8080"];
    let before = compiled(Forwarding::Nat, V4.vip, &backends);
    let _ = bed.shared.publish_services(Some(builder.build(&before)));
    let (client, vip) = (|number| end(V4.client, 10_000 + number), end(V4.vip, 80));
    let mut places = Vec::new();
    for number in 0..ESTABLISHED {
        bed.send(0, &frame(0, client(number), vip, SYN, 0));
        let backend = ends(&bed.only_sent(1)).1;
        bed.send(1, &frame(1, backend, client(number), What::Tcp(18), 0));
        let _ = bed.only_sent(0);
        bed.send(0, &frame(0, client(number), vip, ACK, 0));
        let _ = bed.only_sent(1);
        bed.send(1, &frame(1, backend, client(number), ACK, 0));
        let _ = bed.only_sent(0);
        places.push(backend);
    }
    // A flow that the table forgot would go where the new tables say.
    let after = compiled(Forwarding::Nat, V4.vip, &[&backends[..], &["10.1.0.10:8080"; 1]].concat());
    let _ = bed.shared.publish_services(Some(builder.build(&after)));
    let mut syn = frame(0, end("20.0.0.0", 1234), vip, SYN, 0);
    let mut left = 0;
    for first in (0..FLOOD).step_by(2048) {
        for source in first..(first + 2048).min(FLOOD) {
            syn[26..30].copy_from_slice(&(20 << 24 | source).to_be_bytes());
            fix_ipv4_checksum(&mut syn);
            assert!(bed.wires[0].send(&syn));
        }
        bed.run();
        while bed.wires[1].receive().is_some() {
            left += 1;
        }
        let counts = bed.shared.flow_counters(0).ipv4;
        assert!(counts.live <= CAPACITY && counts.unproven <= CAPACITY / 4 + 2, "{counts:?}");
    }
    assert_eq!((left, bed.drops()), (FLOOD, vec![]));
    for (number, backend) in (0..).zip(places) {
        bed.send(0, &frame(0, client(number), vip, ACK, 0));
        assert_eq!(ends(&bed.only_sent(1)).1, backend);
    }
    bed.assert_balanced();
}
