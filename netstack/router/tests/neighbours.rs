//! Neighbours, by frames in and frames out.

mod common;
#[path = "neighbours/listener.rs"]
mod listener;

use common::*;
use router::{Limits, NeighbourState::*, RouterDrop};

const BROADCAST: [u8; 6] = [0xff; 6];
const TWO_NETWORKS: &str = r#"{"interfaces": [
    {"name": "eth0", "addresses": ["10.0.0.1/24", "2001:db8:0:1::1/64"]},
    {"name": "eth1", "addresses": ["10.0.1.1/24", "2001:db8:0:2::1/64"]}]}"#;

#[test]
fn a_packet_waits_for_its_neighbour_and_follows_it() {
    let mut node = Node::configured(2, TWO_NETWORKS);
    node.send(0, &udp4(host_mac(1), port_mac(0), [10, 0, 0, 2], [10, 0, 1, 9]));
    let asked = node.sent(1);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0][..6], BROADCAST);
    assert_eq!(read_arp(&asked[0]), Some((1, [10, 0, 1, 1].into(), [10, 0, 1, 9].into())));
    assert_eq!(node.neighbour("10.0.1.9"), Some(Incomplete));
    node.send(1, &arp(2, host_mac(9), [10, 0, 1, 9], [10, 0, 1, 1], port_mac(1)));
    let forwarded = node.sent(1);
    assert_eq!(forwarded.len(), 1, "the packet that waited");
    assert_eq!((&forwarded[0][..6], &forwarded[0][6..12]), (&host_mac(9)[..], &port_mac(1)[..]));
    assert_eq!(forwarded[0][22], 63, "its TTL counts this node");
    assert_eq!(node.neighbour("10.0.1.9"), Some(Reachable));
    node.send(0, &udp4(host_mac(1), port_mac(0), [10, 0, 0, 2], [10, 0, 1, 9]));
    assert_eq!(node.sent(1).len(), 1, "the next goes straight through");
}

#[test]
fn an_ipv6_packet_waits_for_its_neighbour_and_follows_it() {
    let mut node = Node::configured(2, TWO_NETWORKS);
    let packet = ip6(
        host_mac(1),
        port_mac(0),
        "2001:db8:0:1::2".parse().unwrap(),
        "2001:db8:0:2::9".parse().unwrap(),
        (59, 64),
        &[],
    );
    node.send(0, &packet);
    let asked = node.sent(1);
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0][..6].to_vec(), icmp6_type(&asked[0])), (vec![0x33, 0x33, 0xff, 0, 0, 9], Some(135)));
    let answer = nd_message(136, 0x60, "2001:db8:0:2::9", Some((2, host_mac(9))));
    let ours = "fe80::fa:ff:fe00:1";
    node.send(1, &nd(host_mac(9), port_mac(1), "2001:db8:0:2::9", ours, &answer));
    let forwarded = node.sent(1);
    assert_eq!(forwarded.len(), 1);
    assert_eq!((&forwarded[0][..6], forwarded[0][21]), (&host_mac(9)[..], 63));
    assert_eq!(node.neighbour("2001:db8:0:2::9"), Some(Reachable));
}

#[test]
fn who_does_not_answer_is_unreachable_for_a_while() {
    let mut node = Node::configured(2, TWO_NETWORKS);
    let packet = udp4(host_mac(1), port_mac(0), [10, 0, 0, 2], [10, 0, 1, 9]);
    // The sender is known, so that it can be told.
    node.send(0, &arp(1, host_mac(1), [10, 0, 0, 2], [10, 0, 0, 1], BROADCAST));
    let _ = node.sent(0);
    node.send(0, &packet);
    node.after(2 * SECOND_NS + SECOND_NS / 2);
    assert_eq!(node.sent(1).len(), 3, "asked three times, a second apart");
    node.after(SECOND_NS);
    assert_eq!(node.neighbour("10.0.1.9"), Some(Failed));
    let told = node.sent(0);
    assert_eq!(told.len(), 1, "the packet that waited");
    assert_eq!((told[0][23], told[0][34], told[0][35]), (1, 3, 1), "ICMP host unreachable");
    node.send(0, &packet);
    assert_eq!((node.sent(0).len(), node.sent(1).len()), (1, 0), "told at once, nobody is asked");
    node.after(4 * SECOND_NS);
    assert_eq!(node.neighbour("10.0.1.9"), None);
    node.send(0, &packet);
    assert_eq!(node.sent(1).len(), 1, "asked again");
}

#[test]
fn a_used_neighbour_is_checked_and_kept_an_unused_one_forgotten() {
    let mut node = Node::configured(2, TWO_NETWORKS);
    let packet = udp4(host_mac(1), port_mac(0), [10, 0, 0, 2], [10, 0, 1, 9]);
    node.send(0, &packet);
    node.send(1, &arp(2, host_mac(9), [10, 0, 1, 9], [10, 0, 1, 1], port_mac(1)));
    let _ = node.sent(1);
    let mut checks = 0;
    for _ in 0..120 {
        node.send(0, &packet);
        node.after(SECOND_NS);
        for frame in node.sent(1) {
            if read_arp(&frame).is_some() {
                assert_eq!(frame[..6], host_mac(9), "asked itself, not everybody");
                checks += 1;
                node.send(1, &arp(2, host_mac(9), [10, 0, 1, 9], [10, 0, 1, 1], port_mac(1)));
            }
        }
    }
    assert!((1..8).contains(&checks), "{checks} checks in two minutes");
    assert!(node.neighbour("10.0.1.9").is_some());
    node.after(700 * SECOND_NS);
    assert_eq!(node.neighbour("10.0.1.9"), None);
    assert_eq!(node.shared.fib4().lookup(0x0a00_0109), node.shared.fib4().lookup(0x0a00_0155));
}

#[test]
fn arp_is_answered_for_own_addresses_only() {
    let mut node = Node::configured(2, TWO_NETWORKS);
    node.send(0, &arp(1, host_mac(1), [10, 0, 0, 2], [10, 0, 0, 1], BROADCAST));
    let answers = node.sent(0);
    assert_eq!(answers.len(), 1);
    assert_eq!(
        (&answers[0][..6], read_arp(&answers[0]).unwrap().1),
        (&host_mac(1)[..], [10, 0, 0, 1].into())
    );
    assert_eq!(node.neighbour("10.0.0.2"), Some(Stale), "who asks is learned");
    for target in [[10, 0, 0, 3], [10, 0, 1, 1], [10, 0, 0, 255], [0; 4]] {
        node.send(0, &arp(1, host_mac(1), [10, 0, 0, 2], target, BROADCAST));
    }
    node.send(0, &arp(1, host_mac(1), [192, 0, 2, 1], [10, 0, 0, 1], BROADCAST));
    assert!(node.sent(0).is_empty(), "not for others, not to a stranger");
    node.send(0, &arp(1, host_mac(3), [0; 4], [10, 0, 0, 1], BROADCAST));
    assert_eq!(node.sent(0).len(), 1, "a probe is answered");
}

#[test]
fn nobody_is_learned_from_what_was_not_asked() {
    let mut node = Node::configured(
        1,
        TWO_NETWORKS
            .replace(
                r#",
    {"name": "eth1", "addresses": ["10.0.1.1/24", "2001:db8:0:2::1/64"]}"#,
                "",
            )
            .as_str(),
    );
    node.send(0, &arp(2, host_mac(1), [10, 0, 0, 2], [10, 0, 0, 1], port_mac(0)));
    node.send(0, &arp(1, host_mac(1), [10, 0, 0, 3], [10, 0, 0, 3], BROADCAST));
    node.send(0, &arp(2, host_mac(1), [10, 0, 0, 4], [10, 0, 0, 4], BROADCAST));
    let answer = nd_message(136, 0x60, "2001:db8:0:1::9", Some((2, host_mac(9))));
    node.send(0, &nd(host_mac(9), port_mac(0), "2001:db8:0:1::9", "fe80::fa:ff:fe00:0", &answer));
    assert!(node.router.neighbours(node.now_ns).is_empty());
    // One that is known moves: believed, to be checked.
    node.send(0, &arp(1, host_mac(1), [10, 0, 0, 2], [10, 0, 0, 1], BROADCAST));
    node.send(0, &arp(1, host_mac(7), [10, 0, 0, 2], [10, 0, 0, 2], BROADCAST));
    let known = &node.router.neighbours(node.now_ns)[0];
    assert_eq!((known.mac.unwrap().0, known.state), (host_mac(7), Stale));
}

#[test]
fn an_own_address_is_defended_and_the_conflict_reported() {
    let mut node = Node::configured(2, TWO_NETWORKS);
    node.send(0, &arp(1, host_mac(1), [10, 0, 0, 1], [10, 0, 0, 1], BROADCAST));
    node.send(0, &arp(1, host_mac(1), [10, 0, 0, 1], [10, 0, 0, 1], BROADCAST));
    let said: Vec<_> = node.sent(0).iter().filter_map(|frame| read_arp(frame)).collect();
    assert_eq!(said, [(1, [10, 0, 0, 1].into(), [10, 0, 0, 1].into())], "once in ten seconds");
    assert_eq!(node.router.interfaces()[0].duplicates, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert!(node.router.neighbours(node.now_ns).is_empty());
}

#[test]
fn own_ipv6_addresses_are_probed_and_answered_for() {
    let mut node = Node::new(1, Limits::default());
    node.configure(r#"{"interfaces": [{"name": "eth0", "addresses": ["2001:db8::1/64"]}]}"#);
    let probes: Vec<_> = node.sent(0).into_iter().filter(|frame| icmp6_type(frame) == Some(135)).collect();
    assert_eq!(probes.len(), 2, "the global and the link-local address");
    assert!(probes.iter().all(|frame| frame[22..38] == [0; 16]), "from the unspecified address");
    // Somebody else probes for the same address at the same time.
    let probe = nd_message(135, 0, "2001:db8::1", None);
    let group = [0x33, 0x33, 0xff, 0, 0, 1];
    node.send(0, &nd(host_mac(1), group, "::", "ff02::1:ff00:1", &probe));
    assert_eq!(node.router.interfaces()[0].duplicates.len(), 1);
    node.after(2 * SECOND_NS);
    let _ = node.sent(0);
    let question = nd_message(135, 0, "2001:db8::1", Some((1, host_mac(1))));
    node.send(0, &nd(host_mac(1), group, "2001:db8::2", "ff02::1:ff00:1", &question));
    let answers = node.sent(0);
    assert_eq!(answers.len(), 1);
    assert_eq!(
        (&answers[0][..6], icmp6_type(&answers[0]), answers[0][58]),
        (&host_mac(1)[..], Some(136), 0xe0)
    );
    assert_eq!(node.neighbour("2001:db8::2"), Some(Stale));
    let other = nd_message(135, 0, "2001:db8::3", Some((1, host_mac(1))));
    node.send(0, &nd(host_mac(1), group, "2001:db8::2", "ff02::1:ff00:1", &other));
    assert!(node.sent(0).is_empty(), "not for others");
}

#[test]
fn routers_advertise_themselves_and_say_goodbye() {
    let mut node = Node::new(1, Limits::default());
    let with = r#"{"interfaces": [{"name": "eth0", "addresses": ["2001:db8::1/64"], "router_advertisements": {"dns_servers": ["2001:db8::53"]}}]}"#;
    node.configure(with);
    let advertisements = |node: &Node| -> Vec<Vec<u8>> {
        node.sent(0).into_iter().filter(|frame| icmp6_type(frame) == Some(134)).collect()
    };
    assert_eq!(advertisements(&node).len(), 1);
    node.after(40 * SECOND_NS);
    assert_eq!(advertisements(&node).len(), 2, "the first three come quickly");
    let question = [133, 0, 0, 0, 0, 0, 0, 0];
    for _ in 0..5 {
        node.send(0, &nd(host_mac(1), [0x33, 0x33, 0, 0, 0, 2], "fe80::2", "ff02::2", &question));
    }
    node.after(4 * SECOND_NS);
    let answers = advertisements(&node);
    assert_eq!(answers.len(), 1, "one answer for all");
    let dns = [25, 3, 0, 0, 0, 0, 7, 8, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];
    assert!(answers[0].ends_with(&dns), "the DNS server, for 1,800 s");
    assert_eq!((&answers[0][..6], &answers[0][60..62]), (&[0x33, 0x33, 0, 0, 0, 1][..], &[7, 8][..]));
    node.configure(r#"{"interfaces": [{"name": "eth0", "addresses": ["2001:db8::1/64"]}]}"#);
    let last = advertisements(&node);
    assert_eq!((last.len(), &last[0][60..62]), (1, &[0, 0][..]), "router lifetime 0");
}

#[test]
fn a_flood_fills_no_memory_and_drives_out_nobody_alive() {
    let limits =
        Limits { neighbours: 64, incomplete: 16, waiting_per_neighbour: 2, waiting: 12, ..Limits::default() };
    let mut node = Node::new(2, limits);
    node.configure(r#"{"interfaces": [{"name": "eth0", "addresses": ["10.0.0.1/16"]}, {"name": "eth1", "addresses": ["10.1.0.1/16"]}]}"#);
    node.after(3 * SECOND_NS);
    node.send(0, &udp4(host_mac(1), port_mac(0), [10, 0, 0, 2], [10, 1, 0, 9]));
    node.send(1, &arp(2, host_mac(9), [10, 1, 0, 9], [10, 1, 0, 1], port_mac(1)));
    assert_eq!(node.neighbour("10.1.0.9"), Some(Reachable));
    for round in 0..40u8 {
        for n in 0..50u8 {
            let _ = node.wires[0].send(&udp4(host_mac(1), port_mac(0), [10, 0, 0, 2], [10, 1, round, n]));
            let _ =
                node.wires[1].send(&arp(1, host_mac(2), [10, 1, 100 + round, n], [10, 1, 0, 1], BROADCAST));
        }
        node.after(SECOND_NS / 2);
        let _ = (node.sent(0), node.sent(1));
        let neighbours = node.router.neighbours(node.now_ns);
        assert!(neighbours.len() <= 64, "{}", neighbours.len());
        assert!(neighbours.iter().filter(|neighbour| neighbour.state == Incomplete).count() <= 16);
        assert!(node.neighbour("10.1.0.9").is_some(), "it is alive");
    }
    let reasons: Vec<_> = node.router.take_drops().map(|(reason, _)| reason).collect();
    for reason in [RouterDrop::TooManyNeighbours, RouterDrop::QueueFull] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
    node.after(30 * SECOND_NS);
    assert_eq!(node.buffers_in_use(), 0, "all buffers came back");
}

#[test]
fn every_packet_that_waits_in_vain_is_counted() {
    let mut node = Node::new(2, Limits { waiting_per_neighbour: 2, ..Limits::default() });
    node.configure(TWO_NETWORKS);
    for _ in 0..5 {
        node.send(0, &udp4(host_mac(1), port_mac(0), [10, 0, 0, 2], [10, 0, 1, 9]));
    }
    assert!(node.router.take_drops().eq([(RouterDrop::QueueFull, 3)]));
    node.router.set_link(dataplane::InterfaceId(1), false, node.now_ns);
    assert!(node.router.take_drops().eq([(RouterDrop::Forgotten, 2)]));
    assert!(node.router.take_drops().next().is_none(), "each is told once");
}

#[test]
fn a_link_that_goes_down_takes_its_neighbours_along() {
    let mut node = Node::configured(2, TWO_NETWORKS);
    node.send(1, &arp(1, host_mac(9), [10, 0, 1, 9], [10, 0, 1, 1], BROADCAST));
    let before = node.shared.fib4().lookup(0x0a00_0109);
    assert!(before != 0 && before != node.shared.fib4().lookup(0x0a00_0155), "a route of its own");
    node.router.set_link(dataplane::InterfaceId(1), false, node.now_ns);
    node.run();
    assert_eq!(node.neighbour("10.0.1.9"), None);
    assert_eq!(node.shared.fib4().lookup(0x0a00_0109), 0);
    assert_ne!(node.shared.fib4().lookup(0x0a00_0101), 0, "the own address stays");
    node.router.set_link(dataplane::InterfaceId(1), true, node.now_ns);
    node.run();
    assert_ne!(node.shared.fib4().lookup(0x0a00_0109), 0);
}

#[test]
fn static_neighbours_are_neither_asked_nor_overwritten() {
    let mut node = Node::configured(
        2,
        r#"{"interfaces": [{"name": "eth0", "addresses": ["10.0.0.1/24"]}, {"name": "eth1", "addresses": ["10.0.1.1/24"]}],
            "neighbours": [{"interface": "eth1", "address": "10.0.1.9", "mac": "02:bb:00:00:00:09"}]}"#,
    );
    assert_eq!(node.neighbour("10.0.1.9"), Some(Permanent));
    node.send(1, &arp(1, host_mac(66), [10, 0, 1, 9], [10, 0, 1, 1], BROADCAST));
    let _ = node.sent(1);
    node.send(0, &udp4(host_mac(1), port_mac(0), [10, 0, 0, 2], [10, 0, 1, 9]));
    let sent = node.sent(1);
    assert_eq!((sent.len(), &sent[0][..6]), (1, &host_mac(9)[..]));
    node.configure(r#"{"interfaces": [{"name": "eth0", "addresses": ["10.0.0.1/24"]}, {"name": "eth1", "addresses": ["10.0.1.1/24"]}]}"#);
    assert_eq!(node.neighbour("10.0.1.9"), None);
}

#[test]
fn nothing_hostile_makes_it_panic() {
    use proptest::prelude::*;
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 256, ..Default::default() });
    let good = [
        arp(1, host_mac(1), [10, 0, 0, 2], [10, 0, 0, 1], BROADCAST),
        arp(2, host_mac(1), [10, 0, 0, 2], [10, 0, 0, 1], port_mac(0)),
        nd(
            host_mac(1),
            port_mac(0),
            "fe80::2",
            "fe80::fa:ff:fe00:0",
            &nd_message(136, 0x60, "fe80::2", Some((2, [2; 6]))),
        ),
        nd(
            host_mac(1),
            port_mac(0),
            "fe80::2",
            "2001:db8:0:1::1",
            &nd_message(135, 0, "2001:db8:0:1::1", Some((1, [2; 6]))),
        ),
        nd(host_mac(1), [0x33, 0x33, 0, 0, 0, 2], "fe80::2", "ff02::2", &[133, 0, 0, 0, 0, 0, 0, 0]),
        listener::query("fe80::2", 100, "::", true),
        udp4(host_mac(1), port_mac(0), [10, 0, 0, 2], [10, 0, 1, 9]),
    ];
    let frame = (0..good.len(), prop::collection::vec((14usize..90, any::<u8>()), 0..6), 14usize..100);
    let frames = prop::collection::vec(frame, 1..40);
    let result = runner.run(&frames, |frames| {
        let mut node = Node::configured(2, TWO_NETWORKS);
        for (which, changes, len) in frames {
            let mut frame = good[which].clone();
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame.truncate(len);
            let _ = node.wires[0].send(&frame);
            // Past the checks of the dataplane, too.
            node.punt(&frame);
        }
        node.after(10 * SECOND_NS);
        prop_assert!(node.router.neighbours(node.now_ns).len() <= 64);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn frames_that_crashed_others_do_it_no_harm() {
    let capture =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../qemu-tests/data/malformed-frames.pcap"))
            .unwrap();
    let mut node = Node::configured(2, TWO_NETWORKS);
    // The classic pcap format: a header of 24 bytes, then for each frame one of 16 with its captured length.
    let (mut rest, mut frames) = (&capture[24..], 0);
    while let Some((header, after)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
        let (frame, after) = after.split_at(length);
        rest = after;
        let _ = node.wires[frames % 2].send(frame);
        if !frame.is_empty() {
            node.punt(frame);
        }
        frames += 1;
        if frames % 50 == 0 {
            node.after(SECOND_NS);
            let _ = (node.sent(0), node.sent(1));
        }
    }
    assert_eq!(frames, 3632);
    node.after(60 * SECOND_NS);
    node.send(0, &arp(1, host_mac(1), [10, 0, 0, 2], [10, 0, 0, 1], BROADCAST));
    assert!(
        node.sent(0).iter().any(|frame| read_arp(frame).is_some_and(|said| said.0 == 2)),
        "it still answers"
    );
    assert_eq!(node.buffers_in_use(), 0);
}
