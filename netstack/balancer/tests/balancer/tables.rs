//! Tables of services and of flows: built in turns, full, and what policy keeps in them.

use balancer::{Balancer, Decided, Observer, Passed, Reason, Verdict};
use flow::{Config, Timeouts};
use serde_json::json;
use services::{Objects, Site, compile};

use crate::common::*;

/// A core that also forwards has a table built in turns that are short whatever the table's size.
#[test]
fn the_largest_table_is_built_in_many_turns_and_is_the_same() {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "annotations": {"fairlead.dev/table-size": "655373"}},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.1.0.1"]}, {"addresses": ["10.1.0.2"]}],
    });
    let mut objects = Objects::default();
    objects.add(0, &service).unwrap();
    objects.add(1, &slice).unwrap();
    let compiled = compile(&objects, &Site::default()).unwrap();
    let at_once = builder().build(&compiled);
    let mut task = pace::Task::new(|pace| async move { builder().build_paced(&compiled, &pace).await });
    let mut turns = 0;
    let in_turns = loop {
        turns += 1;
        if let Some(snapshot) = task.advance(200) {
            break snapshot;
        }
    };
    assert_eq!(in_turns.table(0), at_once.table(0));
    assert!(turns > 50, "{turns} turns");
}

#[test]
fn a_full_table_costs_no_packet_and_quiet_flows_are_freed() {
    let mut builder = builder();
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1, 2, 3]);
    let config = Config { capacity: 8, secret: [1, 2], timeouts: Timeouts::default() };
    let mut balancer = Balancer::new((&config, &config), (0, 1), (20_000, 60_000)).unwrap();
    let first: Vec<_> = (0..200).map(|n| backend_of(&mut balancer, &snapshot, client(n), 2)).collect();
    let again: Vec<_> = (0..200).map(|n| backend_of(&mut balancer, &snapshot, client(n), 16)).collect();
    assert_eq!(first, again);
    assert!(balancer.flows4().counts().live <= 8);
    balancer.expire(3_600_000 * MS, usize::MAX);
    assert_eq!((balancer.flows4().counts().live, balancer.flows6().counts().live), (0, 0));
}

/// Keeps the generation in which it has let a flow pass.
struct Judge {
    generation: u32,
    allows: bool,
    decided: usize,
    passed: usize,
}

impl Observer for Judge {
    fn keeps_all(&self) -> bool {
        true
    }

    fn knows(&self, kept: u32) -> bool {
        kept == self.generation
    }

    fn passed(&mut self, _: Passed<'_>) {
        self.passed += 1;
    }

    fn decided(&mut self, packet: Decided<'_>) -> bool {
        self.decided += 1;
        *packet.verdict.unwrap() = if self.allows { self.generation } else { 0 };
        self.allows
    }
}

#[test]
fn what_is_kept_with_a_flow_is_for_both_directions_until_it_is_out_of_date() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1]);
    let mut judge = Judge { generation: 1, allows: true, decided: 0, passed: 0 };
    for (to, count) in [(([192, 0, 2, 77], 80), 67), ((VIP, 80), 256)] {
        let backend = if to.0 == VIP { ([10, 1, 0, 1], 8080) } else { to };
        let passes = if to.0 == VIP { Verdict::Route } else { Verdict::NotOurs };
        let mut send = |judge: &mut Judge, asks: bool, flags: u8, verdict: Verdict| {
            let packet = if asks { tcp(client(1), to, flags) } else { tcp(backend, client(1), flags) };
            let mut packets = vec![packet; if flags == 16 { count } else { 1 }];
            let mut bytes: Vec<&mut [u8]> = packets.iter_mut().map(Vec::as_mut_slice).collect();
            let mut verdicts = vec![Verdict::Local; bytes.len()];
            let before = (judge.decided, judge.passed);
            balancer.process_observed(&snapshot, &mut bytes, 0, &mut verdicts, judge);
            assert!(verdicts.iter().all(|found| *found == verdict), "{verdicts:?}");
            let expected = if asks { tcp(client(1), backend, flags) } else { tcp(to, client(1), flags) };
            assert!(verdict != passes || packets.iter().all(|packet| *packet == expected));
            (judge.decided - before.0, judge.passed - before.1)
        };
        (judge.generation, judge.allows) = (1, true);
        let _ = [(true, 2), (false, 18), (true, 16), (false, 16)]
            .map(|(asks, flags)| send(&mut judge, asks, flags, passes));
        for asks in [true, false, true, false] {
            assert_eq!(send(&mut judge, asks, 16, passes), (0, count));
        }
        judge.generation = 2;
        assert_eq!(send(&mut judge, false, 16, passes), (1, count - 1));
        assert_eq!(send(&mut judge, true, 16, passes), (0, count));
        judge.generation = 3;
        assert_eq!(send(&mut judge, true, 16, passes), (1, count - 1));
        assert_eq!(send(&mut judge, false, 16, passes), (0, count));
        (judge.generation, judge.allows) = (4, false);
        let (decided, passed) = send(&mut judge, false, 16, Verdict::Drop(Reason::Refused));
        assert!(decided > 0 && passed == 0, "{decided} decided, {passed} passed");
        let (decided, passed) = send(&mut judge, true, 16, Verdict::Drop(Reason::Refused));
        assert!(decided > 0 && passed == 0, "{decided} decided, {passed} passed");
    }
}
