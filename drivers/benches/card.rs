//! Clocks per packet that the network card's driver takes, the device's side not counted.
//!
//! The device is the tests' model, run by the same thread between the calls that are timed: what it wrote is
//! in this core's caches, so that the figures are the driver's own work and not the transfer between cores.
//! Run with `cargo bench -p drivers`.

#[allow(
    dead_code,
    unused_imports,
    missing_docs,
    reason = "shared with the tests, which use and describe all of it"
)]
#[path = "../tests/virtio/model/mod.rs"]
mod model;

use core::arch::x86_64::{__rdtscp, _mm_lfence};

use buffer::{BufferPool, Vector};
use drivers::virtio::feature;
use model::{Card, HEADER_BYTES, Memory, offer};

const ROUNDS: usize = 3000;
const BURSTS: [usize; 4] = [1, 8, 32, 256];

fn clocks() -> u64 {
    let mut core = 0;
    // SAFETY: every x86-64 CPU of the last fifteen years has RDTSCP; `core` is ours to write.
    unsafe {
        _mm_lfence();
        __rdtscp(&raw mut core)
    }
}

/// The best of many rounds, in clocks per packet: receive, and transmit.
fn measure(pool: &'static BufferPool, features: u64, burst: usize) -> [f64; 2] {
    let model = model::model(features, 512, true);
    let mut card = Card::open_with(&model, 1, pool).expect("the model is a correct card");
    let mut best = [u64::MAX; 2];
    for _ in 0..ROUNDS {
        for _ in 0..burst {
            assert!(card.deliver(0, [0; HEADER_BYTES], &[7; 60]));
        }
        let mut packets = Vector::new();
        let start = clocks();
        let received = card.queues[0].receive(&mut card.cache, &mut packets);
        best[0] = best[0].min(clocks() - start);
        assert_eq!(received, burst);
        let start = clocks();
        card.queues[0].transmit(&mut card.cache, &mut packets);
        best[1] = best[1].min(clocks() - start);
        assert_eq!(card.sent(0).len(), burst);
    }
    best.map(|clocks| clocks as f64 / burst as f64)
}

fn main() {
    println!("clocks per packet of 60 bytes, best of {ROUNDS} rounds (the model's doorbell included)");
    println!("{:24}{:>8}{:>10}{:>10}", "rings", "burst", "receive", "transmit");
    let pool = Memory::get().pool(2048);
    let usual = offer::USUAL;
    for (name, features) in [
        ("split", usual),
        ("split, event index", usual | feature::EVENT_IDX),
        ("packed", usual | feature::RING_PACKED),
        ("packed, event index", usual | feature::RING_PACKED | feature::EVENT_IDX),
    ] {
        for burst in BURSTS {
            let [receive, transmit] = measure(pool, features, burst);
            println!("{name:24}{burst:8}{receive:10.1}{transmit:10.1}");
        }
    }
}
