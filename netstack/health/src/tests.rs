//! Backends that fail and recover, by a clock that the tests move.

use std::net::SocketAddr;

use proptest::prelude::*;
use services::object::IpFamily;
use services::{Backend, Forwarding, Pool, PoolKey, Protocol, Scope, State};

use crate::*;

const SECOND: u64 = 1_000_000_000;

fn pool(backends: u8) -> Pool {
    let key = PoolKey {
        namespace: "default".to_owned(),
        service: "web".to_owned(),
        port: 80,
        protocol: Protocol::Tcp,
        family: IpFamily::V4,
        scope: Scope::Cluster,
    };
    let backend = |number| Backend { address: at(number), weight: 3, state: State::Active, node: None };
    Pool {
        key,
        port_name: String::new(),
        backends: (0..backends).map(backend).collect(),
        table_size: Default::default(),
        affinity: None,
        forwarding: Forwarding::Nat,
        server_id_bytes: None,
    }
}

fn at(number: u8) -> SocketAddr {
    ([10, 1, 0, number], 8080).into()
}

/// A monitor, backends that answer or do not, and a clock.
struct World {
    monitor: Monitor,
    pool: Pool,
    now_ns: u64,
    dead: Vec<u8>,
    /// Probes made, and changes that were told.
    probes: Vec<(u64, SocketAddr)>,
    changes: u32,
}

impl World {
    fn new(backends: u8, check: Check) -> Self {
        let pool = pool(backends);
        let mut monitor = Monitor::default();
        let backends = pool.backends.iter().map(|backend| (backend.address, false)).collect();
        monitor.set_targets(&[Target { pool: pool.key.clone(), check, backends }], 0);
        World { monitor, pool, now_ns: 0, dead: Vec::new(), probes: Vec::new(), changes: 0 }
    }

    /// Polls whenever the monitor asks for it.
    fn run(&mut self, seconds: u64) {
        let end_ns = self.now_ns + seconds * SECOND;
        loop {
            let mut changed = false;
            while let Some(probe) = self.monitor.poll(self.now_ns, &mut changed) {
                self.probes.push((self.now_ns, probe.backend));
                let is_dead = self.dead.iter().any(|dead| at(*dead) == probe.backend);
                // The dead do not even refuse.
                if !is_dead {
                    changed |= self.monitor.report(probe.number, true, self.now_ns);
                }
            }
            self.changes += u32::from(changed);
            let next_ns = self.monitor.next_ns(self.now_ns);
            assert!(next_ns > self.now_ns, "time stands still");
            if next_ns > end_ns {
                self.now_ns = end_ns;
                return;
            }
            self.now_ns = next_ns;
        }
    }

    /// Weights of active backends, `None` for draining ones; without those that are gone.
    fn shares(&self) -> Vec<(u8, Option<u32>)> {
        let mut pool = self.pool.clone();
        self.monitor.shares(&mut pool, self.now_ns);
        let number = |backend: &Backend| match backend.address.ip() {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        let weight = |backend: &Backend| (backend.state == State::Active).then_some(backend.weight);
        pool.backends.iter().map(|backend| (number(backend), weight(backend))).collect()
    }
}

#[test]
fn a_backend_falls_drains_and_rises() {
    let check = Check { drain_ns: 30 * SECOND, ..Check::default() };
    let mut world = World::new(3, check);
    world.run(60);
    assert_eq!((world.shares(), world.changes), (vec![(0, Some(3)), (1, Some(3)), (2, Some(3))], 0));
    world.dead = vec![1];
    // Two probes fail: nothing happens.
    world.run(10);
    assert_eq!(world.changes, 0);
    world.run(10);
    assert_eq!((world.shares(), world.changes), (vec![(0, Some(3)), (1, None), (2, Some(3))], 1));
    assert_eq!(world.monitor.status(&world.pool.key, at(1)), Some(Status::Down));
    // Its time is over: flows that it still has move.
    world.run(30);
    assert_eq!(world.shares(), [(0, Some(3)), (2, Some(3))]);
    world.dead.clear();
    world.run(15);
    assert_eq!(world.shares(), [(0, Some(3)), (1, Some(3)), (2, Some(3))]);
    let history = world.monitor.history(&world.pool.key, at(1)).unwrap();
    assert!(history.iter().map(|change| change.to).eq([Status::Down, Status::Up]));
}

#[test]
fn probes_are_spread_and_keep_their_interval() {
    let mut world = World::new(10, Check::default());
    world.run(50);
    assert_eq!(world.probes.len(), 10 * 10 + 1);
    for number in 0..10 {
        let times: Vec<u64> =
            world.probes.iter().filter(|(_, to)| *to == at(number)).map(|(at, _)| *at).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 5 * SECOND));
        assert_eq!(times[0], u64::from(number) * SECOND / 2);
    }
}

#[test]
fn if_too_few_are_left_all_are_used() {
    let mut world = World::new(4, Check::default());
    world.dead = vec![0, 1];
    world.run(30);
    assert_eq!(world.shares(), [(0, None), (1, None), (2, Some(3)), (3, Some(3))]);
    world.dead = vec![0, 1, 2];
    world.run(30);
    assert!(world.shares().iter().all(|(_, weight)| *weight == Some(3)));
    world.dead = vec![0, 1, 2, 3];
    world.run(30);
    assert!(world.shares().iter().all(|(_, weight)| *weight == Some(3)));
}

#[test]
fn who_comes_back_starts_slowly_and_ends_with_the_weights_of_before() {
    let check = Check { slow_start_ns: 40 * SECOND, ..Check::default() };
    let mut world = World::new(2, check);
    world.dead = vec![1];
    world.run(30);
    world.dead.clear();
    let mut seen = Vec::new();
    for _ in 0..60 {
        world.run(1);
        let shares = world.shares();
        if seen.last() != Some(&shares) {
            seen.push(shares);
        }
    }
    let expected = [(3, None), (12, Some(3)), (12, Some(6)), (12, Some(9)), (3, Some(3))];
    assert_eq!(seen, expected.map(|(other, own)| vec![(0, Some(other)), (1, own)]));
}

#[test]
fn what_is_checked_changes_and_who_stays_keeps_his_health() {
    let mut world = World::new(3, Check::default());
    world.dead = vec![1];
    world.run(30);
    let (key, check) = (world.pool.key.clone(), Check::default());
    let backends = vec![(at(1), false), (at(2), true), (at(7), false)];
    world.monitor.set_targets(&[Target { pool: key.clone(), check, backends }], world.now_ns);
    assert_eq!(world.monitor.status(&key, at(0)), None);
    assert_eq!(world.monitor.status(&key, at(1)), Some(Status::Down));
    assert_eq!(world.monitor.status(&key, at(7)), Some(Status::Up));
    // Number 2 drains for another reason, and not for ever.
    world.pool.backends[2].state = State::Draining;
    assert!(world.shares().contains(&(2, None)));
    world.run(61);
    assert!(world.shares().iter().all(|(number, _)| *number != 2));
    world.monitor.set_targets(&[], world.now_ns);
    assert_eq!(world.monitor.next_ns(world.now_ns), u64::MAX);
}

#[test]
fn a_late_answer_does_not_count() {
    let mut world = World::new(1, Check { fall: 1, ..Check::default() });
    let mut changed = false;
    let probe = world.monitor.poll(0, &mut changed).unwrap();
    assert_eq!(probe.deadline_ns, 2 * SECOND);
    assert!(world.monitor.poll(2 * SECOND, &mut changed).is_none() && changed);
    assert!(!world.monitor.report(probe.number, true, 2 * SECOND));
    assert_eq!(world.monitor.status(&world.pool.key, at(0)), Some(Status::Down));
}

proptest! {
    /// The status is that of a plain count of results.
    #[test]
    fn rise_and_fall_count(results in prop::collection::vec(any::<bool>(), 0..60), rise in 0u32..4, fall in 0u32..4) {
        let check = Check { rise, fall, ..Check::default() };
        let mut world = World::new(1, check);
        let (mut status, mut row) = (Status::Up, 0);
        for (is_good, turn) in results.into_iter().zip(0u64..) {
            let now_ns = turn * 5 * SECOND;
            let probe = world.monitor.poll(now_ns, &mut false).unwrap();
            let changed = world.monitor.report(probe.number, is_good, now_ns);
            let against = if status == Status::Up { !is_good } else { is_good };
            row = if against { row + 1 } else { 0 };
            let wanted = if status == Status::Up { fall } else { rise };
            prop_assert_eq!(changed, against && row >= wanted.max(1));
            if changed {
                status = if status == Status::Up { Status::Down } else { Status::Up };
                row = 0;
            }
            prop_assert_eq!(world.monitor.status(&world.pool.key, at(0)), Some(status));
        }
    }
}
