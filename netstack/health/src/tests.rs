//! Backends that fail and recover, by a clock that the tests move.

use std::net::SocketAddr;

use proptest::prelude::*;
use services::object::IpFamily;
use services::{Backend as Member, Forwarding, Pool, PoolKey, Protocol, Scope, State};

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
    let backend = |number| Member { address: at(number), weight: 3, state: State::Active, node: None };
    Pool {
        key,
        port_name: String::new(),
        backends: (0..backends).map(backend).collect(),
        table_size: Default::default(),
        affinity: None,
        forwarding: Forwarding::Nat,
        server_id_bytes: None,
        health_check: Default::default(),
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
    events: Vec<Event>,
}

impl World {
    fn new(backends: u8, check: Check) -> Self {
        let pool = pool(backends);
        let mut monitor = Monitor::new(7);
        let backends = pool.backends.iter().map(|backend| (backend.address, State::Active)).collect();
        monitor.set_target(Target { pool: pool.key.clone(), check, backends }, 0);
        World { monitor, pool, now_ns: 0, dead: Vec::new(), probes: Vec::new(), events: Vec::new() }
    }

    fn next_share_ns(&mut self) -> u64 {
        self.monitor.shares(&mut self.pool.clone(), self.now_ns).until_ns.unwrap_or(u64::MAX)
    }

    /// Polls whenever the monitor asks for it.
    fn run(&mut self, seconds: u64) {
        let end_ns = self.now_ns + seconds * SECOND;
        loop {
            while let Some(probe) = self.monitor.poll(self.now_ns, &mut self.events) {
                self.probes.push((self.now_ns, probe.backend));
                let is_dead = self.dead.iter().any(|dead| at(*dead) == probe.backend);
                // The dead do not even refuse.
                if !is_dead {
                    self.events.extend(self.monitor.report(probe.number, Ok(()), self.now_ns));
                }
            }
            let next_ns = self.monitor.next_ns().min(self.next_share_ns());
            assert!(next_ns > self.now_ns, "time stands still");
            if next_ns > end_ns {
                self.now_ns = end_ns;
                return;
            }
            self.now_ns = next_ns;
        }
    }

    fn status(&self, number: u8) -> Option<Status> {
        self.monitor.backend(&self.pool.key, at(number)).map(Backend::status)
    }

    /// What has happened since this was asked last.
    fn events(&mut self) -> Vec<(u8, Status, Option<Failure>)> {
        let number = |event: &Event| (0..100).find(|number| at(*number) == event.backend).unwrap();
        self.events.drain(..).map(|event| (number(&event), event.change.to, event.change.why)).collect()
    }

    /// Weights of active backends, `None` for draining ones; without those that are gone.
    fn shares(&mut self) -> Vec<(u8, Option<u32>)> {
        let mut pool = self.pool.clone();
        let _ = self.monitor.shares(&mut pool, self.now_ns);
        let number = |backend: &Member| match backend.address.ip() {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        let weight = |backend: &Member| (backend.state == State::Active).then_some(backend.weight);
        pool.backends.iter().map(|backend| (number(backend), weight(backend))).collect()
    }
}

#[test]
fn a_backend_falls_drains_and_rises() {
    let check = Check { drain_ns: 30 * SECOND, ..Check::default() };
    let mut world = World::new(3, check);
    world.run(60);
    assert_eq!((world.shares(), world.events()), (vec![(0, Some(3)), (1, Some(3)), (2, Some(3))], vec![]));
    world.dead = vec![1];
    // Two probes at most fail: nothing happens.
    world.run(9);
    assert_eq!(world.events(), []);
    world.run(11);
    assert_eq!(world.shares(), [(0, Some(3)), (1, None), (2, Some(3))]);
    assert_eq!(world.events(), [(1, Status::Down, Some(Failure::Timeout))]);
    // Its time is over: flows that it still has are forgotten.
    world.run(30);
    assert_eq!(world.shares(), [(0, Some(3)), (2, Some(3))]);
    world.dead.clear();
    world.run(15);
    assert_eq!(world.shares(), [(0, Some(3)), (1, Some(3)), (2, Some(3))]);
    assert_eq!(world.events(), [(1, Status::Up, None)]);
    let backend = world.monitor.backend(&world.pool.key, at(1)).unwrap();
    assert!(backend.history().map(|change| change.to).eq([Status::Down, Status::Up]));
    assert_eq!((backend.changes(), backend.last_failure().unwrap().1), (2, Failure::Timeout));
    let (probes, failures) = backend.probes();
    assert!(probes > 20 && (3..=12).contains(&failures), "{failures} of {probes}");
}

#[test]
fn probes_are_spread_and_keep_their_interval() {
    let mut world = World::new(100, Check::default());
    world.run(500);
    for number in 0..100 {
        let times: Vec<u64> =
            world.probes.iter().filter(|(_, to)| *to == at(number)).map(|(at, _)| *at).collect();
        assert!((98..=102).contains(&times.len()), "{}", times.len());
        let waits = times.windows(2).map(|pair| (pair[1] - pair[0]) * 16 / SECOND);
        assert!(waits.clone().all(|sixteenths| (75..=85).contains(&sixteenths)));
    }
    // Never more than a few in a tenth of a second, of twenty a second.
    let mut by_time = std::collections::BTreeMap::<u64, u32>::new();
    world.probes.iter().for_each(|(at, _)| *by_time.entry(at / (SECOND / 10)).or_default() += 1);
    assert!(*by_time.values().max().unwrap() <= 12);
}

#[test]
fn who_waits_longest_is_probed_first_when_not_all_can_be() {
    let mut world = World::new(50, Check { timeout_ns: SECOND, interval_ns: SECOND, ..Check::default() });
    let mut seen = std::collections::BTreeMap::<SocketAddr, u32>::new();
    // One at a time, which takes 100 ms: five rounds in 25 seconds.
    for tenth in 0..250 {
        let now_ns = 2 * SECOND + tenth * SECOND / 10;
        let probe = world.monitor.poll(now_ns, &mut world.events).unwrap();
        *seen.entry(probe.backend).or_default() += 1;
        assert!(world.monitor.report(probe.number, Ok(()), now_ns + SECOND / 20).is_none());
    }
    assert!(seen.len() == 50 && seen.values().all(|count| (4..=6).contains(count)), "{seen:?}");
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
fn flows_that_began_while_all_were_used_drain_from_its_end() {
    let check = Check { drain_ns: 30 * SECOND, ..Check::default() };
    let mut world = World::new(4, check);
    world.dead = vec![0, 1];
    world.run(60);
    assert_eq!(world.shares(), [(2, Some(3)), (3, Some(3))]);
    world.dead = vec![0, 1, 2];
    world.run(20);
    assert_eq!(world.shares(), [0, 1, 2, 3].map(|number| (number, Some(3))));
    world.dead = vec![0, 1];
    world.run(12);
    let enough = [(2, Some(3)), (3, Some(3))];
    assert_eq!(world.shares(), [&[(0, None), (1, None)][..], &enough].concat());
    world.run(31);
    assert_eq!(world.shares(), enough);
}

#[test]
fn who_was_not_ready_at_first_starts_slowly() {
    let check = Check { kind: None, slow_start_ns: 40 * SECOND, ..Check::default() };
    for before in [State::Standby, State::Draining] {
        let mut world = World::new(2, check.clone());
        for (state, seconds) in [(before, 60), (State::Active, 5)] {
            let backends = vec![(at(0), State::Active), (at(1), state)];
            let target = Target { pool: world.pool.key.clone(), check: check.clone(), backends };
            world.monitor.set_target(target, world.now_ns);
            world.run(seconds);
        }
        assert_eq!(world.shares(), [(0, Some(12)), (1, Some(3))]);
    }
}

#[test]
fn who_comes_back_starts_slowly_and_ends_with_the_weights_of_before() {
    let check = Check { slow_start_ns: 40 * SECOND, ..Check::default() };
    let mut world = World::new(2, check);
    world.dead = vec![1];
    world.run(30);
    world.dead.clear();
    let mut seen = Vec::new();
    for _ in 0..70 {
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
    let mut world = World::new(3, Check { slow_start_ns: 40 * SECOND, ..Check::default() });
    world.dead = vec![1];
    world.run(30);
    let (key, check) = (world.pool.key.clone(), Check { drain_ns: 60 * SECOND, ..Check::default() });
    let backends = vec![(at(1), State::Active), (at(2), State::Draining), (at(7), State::Active)];
    let slow = Check { slow_start_ns: 40 * SECOND, ..check };
    world.monitor.set_target(Target { pool: key.clone(), check: slow, backends }, world.now_ns);
    assert_eq!([0, 1, 7].map(|number| world.status(number)), [None, Some(Status::Down), Some(Status::Up)]);
    // Number 2 drains for another reason, and not for ever; number 7 starts slowly.
    world.pool = pool(8);
    world.pool.backends.retain(|backend| [1, 2, 7].map(at).contains(&backend.address));
    world.pool.backends[1].state = State::Draining;
    assert_eq!(world.shares(), [(1, None), (2, None), (7, Some(3))]);
    world.run(61);
    assert_eq!(world.shares(), [(7, Some(3))]);
    world.monitor.remove_target(&key);
    assert_eq!((world.monitor.next_ns(), world.next_share_ns()), (u64::MAX, u64::MAX));
    assert!(world.monitor.poll(u64::MAX / 2, &mut world.events).is_none());
}

#[test]
fn without_probes_all_are_up_and_who_terminates_drains() {
    let check = Check { kind: None, drain_ns: 10 * SECOND, ..Check::default() };
    let mut world = World::new(2, check.clone());
    world.dead = vec![0, 1];
    let backends = vec![(at(0), State::Active), (at(1), State::Draining)];
    let target = |check| Target { pool: pool(0).key, check, backends: backends.clone() };
    world.monitor.set_target(target(check), 0);
    world.pool.backends[1].state = State::Draining;
    world.run(9);
    assert_eq!(world.shares(), [(0, Some(3)), (1, None)]);
    world.run(1);
    assert_eq!((world.shares(), world.probes.len()), (vec![(0, Some(3))], 0));
    // 0 is for ever.
    let check = Check { kind: None, drain_ns: 0, ..Check::default() };
    world.monitor.set_target(target(check), world.now_ns);
    assert_eq!(world.shares(), [(0, Some(3)), (1, None)]);
    world.run(100_000);
    assert_eq!(world.shares(), [(0, Some(3)), (1, None)]);
}

#[test]
fn a_late_answer_does_not_count() {
    let mut world = World::new(1, Check { fall: 1, ..Check::default() });
    let start_ns = 5 * SECOND;
    let probe = world.monitor.poll(start_ns, &mut world.events).unwrap();
    assert_eq!(probe.deadline_ns, start_ns + 2 * SECOND);
    assert!(world.monitor.poll(probe.deadline_ns, &mut world.events).is_none());
    assert_eq!(world.events(), [(0, Status::Down, Some(Failure::Timeout))]);
    assert!(world.monitor.report(probe.number, Ok(()), probe.deadline_ns).is_none());
    assert_eq!(world.status(0), Some(Status::Down));
}

proptest! {
    /// The status is that of a plain count of results.
    #[test]
    fn rise_and_fall_count(results in prop::collection::vec(any::<bool>(), 0..60), rise in 0u32..4, fall in 0u32..4) {
        let check = Check { rise, fall, ..Check::default() };
        let mut world = World::new(1, check);
        let (mut status, mut row) = (Status::Up, 0);
        for (is_good, turn) in results.into_iter().zip(0u64..) {
            let now_ns = 5 * SECOND + turn * 6 * SECOND;
            let probe = world.monitor.poll(now_ns, &mut world.events).unwrap();
            let result = if is_good { Ok(()) } else { Err(Failure::Refused) };
            let changed = world.monitor.report(probe.number, result, now_ns).is_some();
            let against = if status == Status::Up { !is_good } else { is_good };
            row = if against { row + 1 } else { 0 };
            let wanted = if status == Status::Up { fall } else { rise };
            prop_assert_eq!(changed, against && row >= wanted.max(1));
            if changed {
                status = if status == Status::Up { Status::Down } else { Status::Up };
                row = 0;
            }
            prop_assert_eq!(world.status(0), Some(status));
        }
    }
}
