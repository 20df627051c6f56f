//! The ways to a backend and back, and who is told apart on them.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use balancer::{Balancer, Builder, Owner, Reason, Settings, Verdict};
use serde_json::json;

use crate::common::*;

#[test]
fn nat_goes_there_and_back() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1, 2, 3]);
    let mut used = HashSet::new();
    for number in 0..100 {
        let backend = backend_of(&mut balancer, &snapshot, client(number), 2);
        assert_eq!(backend.port(), 8080);
        let IpAddr::V4(address) = backend.ip() else { panic!("{backend}") };
        let mut answer = tcp((address.octets(), 8080), client(number), 18);
        assert_eq!(one(&mut balancer, &snapshot, &mut answer, 0), Verdict::Route);
        assert_eq!(answer, tcp((VIP, 80), client(number), 18));
        assert_eq!(backend_of(&mut balancer, &snapshot, client(number), 16), backend);
        let _ = used.insert(backend);
    }
    assert_eq!(used.len(), 3);
    let mut other = tcp(client(1), ([10, 96, 0, 11], 80), 2);
    let before = other.clone();
    assert_eq!(one(&mut balancer, &snapshot, &mut other, 0), Verdict::NotOurs);
    assert_eq!(other, before);
}

#[test]
fn full_nat_and_hairpin_use_our_own_source() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let full = snapshot(&mut builder, &json!({}), "full-nat", &[1, 2]);
    let own: IpAddr = "192.0.2.9".parse().unwrap();
    let mut sources = HashSet::new();
    for number in 0..200 {
        let mut packet = tcp(client(number), (VIP, 80), 2);
        assert_eq!(one(&mut balancer, &full, &mut packet, 0), Verdict::Route);
        let (source, backend) = ends(&packet);
        assert_eq!(source.ip(), own);
        assert!((20_000..=60_000).contains(&source.port()));
        assert!(sources.insert((source, backend)));
        let mut again = tcp(client(number), (VIP, 80), 16);
        assert_eq!(one(&mut balancer, &full, &mut again, 0), Verdict::Route);
        assert_eq!(ends(&again), (source, backend));
        let IpAddr::V4(address) = backend.ip() else { panic!("{backend}") };
        let mut answer = tcp((address.octets(), 8080), ([192, 0, 2, 9], source.port()), 18);
        assert_eq!(one(&mut balancer, &full, &mut answer, 0), Verdict::Route);
        assert_eq!(answer, tcp((VIP, 80), client(number), 18));
    }
    // A backend that calls its own service, and is chosen for it.
    let hairpin = snapshot(&mut builder, &json!({}), "nat", &[1]);
    let mut packet = tcp(([10, 1, 0, 1], 5000), (VIP, 80), 2);
    assert_eq!(one(&mut balancer, &hairpin, &mut packet, 0), Verdict::Route);
    let (source, destination) = ends(&packet);
    assert_eq!((source.ip(), destination), (own, SocketAddr::from(([10, 1, 0, 1], 8080))));
    let mut answer = tcp(([10, 1, 0, 1], 8080), ([192, 0, 2, 9], source.port()), 18);
    assert_eq!(one(&mut balancer, &hairpin, &mut answer, 0), Verdict::Route);
    assert_eq!(answer, tcp((VIP, 80), ([10, 1, 0, 1], 5000), 18));
}

#[test]
fn packets_are_brought_to_backends_that_answer_themselves() {
    for (forwarding, overhead) in [("direct", 0), ("ipip", 20), ("gue", 28)] {
        let (mut balancer, mut builder) = (balancer(), builder());
        let snapshot = snapshot(&mut builder, &json!({}), forwarding, &[7]);
        // Answers that pass this node belong to the same worker.
        for number in 0..50 {
            let asks = tcp(client(number), (VIP, 80), 2);
            let answers = tcp((VIP, 80), client(number), 18);
            let [there, back] = [asks, answers].map(|packet| snapshot.owner(&packet, 7, (20_000, 60_000)));
            assert!(matches!(there, Owner::Flow(_)));
            assert_eq!(there, back);
        }
        for flags in [2, 16] {
            let mut packet = tcp(client(1), (VIP, 80), flags);
            let before = packet.clone();
            match one(&mut balancer, &snapshot, &mut packet, 0) {
                Verdict::SendTo(address) => assert_eq!((address, overhead), ("10.1.0.7".parse().unwrap(), 0)),
                Verdict::Encapsulate(tunnel) => {
                    let ends = tunnel.tunnel(&snapshot).unwrap();
                    assert_eq!(ends.overhead_bytes(), overhead);
                    let mut outer = [&vec![0; overhead], &packet[..]].concat();
                    ends.put(&mut outer, packet.len(), tunnel.hash).unwrap();
                    assert_eq!((&outer[16..20], outer[overhead + 8]), (&[10, 1, 0, 7][..], packet[8] - 1));
                    assert_eq!(outer[overhead + 12..], packet[12..]);
                }
                verdict => panic!("{verdict:?}"),
            }
            assert_eq!(packet, before);
        }
        assert_eq!(balancer.flows4().counts().live, 1);
    }
}

#[test]
fn clients_are_masqueraded_by_rules_but_not_where_the_policy_is_local() {
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    let masquerade = (networks(&["0.0.0.0/0", "::/0"]), networks(&["198.51.0.0/28"]));
    let mut builder = Builder::new(Settings {
        masquerade,
        node_addresses: vec!["192.0.2.1".parse().unwrap()],
        source_addresses: vec!["192.0.2.9".parse().unwrap()],
        ..Settings::default()
    });
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_080}]});
    let local = json!({
        "type": "NodePort", "ports": [{"port": 80, "nodePort": 30_080}], "externalTrafficPolicy": "Local",
    });
    // The service's own address, node ports; those where nobody local serves have no backend.
    for (spec, to, masqueraded) in [
        (&spec, (VIP, 80), Some(true)),
        (&spec, ([192, 0, 2, 1], 30_080), Some(true)),
        (&local, (VIP, 80), Some(true)),
        (&local, ([192, 0, 2, 1], 30_080), None),
    ] {
        let mut balancer = balancer();
        let snapshot = snapshot(&mut builder, spec, "nat", &[1]);
        for number in 0..32 {
            let mut packet = tcp(client(number), to, 2);
            let verdict = one(&mut balancer, &snapshot, &mut packet, 0);
            let Some(masqueraded) = masqueraded else {
                assert_eq!(verdict, Verdict::Drop(Reason::NoBackend));
                continue;
            };
            let (source, backend) = ends(&packet);
            assert_eq!(backend, SocketAddr::from(([10, 1, 0, 1], 8080)));
            if masqueraded && number >= 16 {
                assert_eq!(source.ip(), "192.0.2.9".parse::<IpAddr>().unwrap());
                let mut answer = tcp(([10, 1, 0, 1], 8080), ([192, 0, 2, 9], source.port()), 18);
                assert_eq!(one(&mut balancer, &snapshot, &mut answer, 0), Verdict::Route);
                assert_eq!(answer, tcp(to, client(number), 18));
            } else {
                assert_eq!(source, SocketAddr::from(client(number)));
            }
        }
    }
}

#[test]
fn connections_by_the_service_and_past_it_may_have_the_same_ports_one_after_the_other() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1]);
    let (client, backend, vip) = (client(1), ([10, 1, 0, 1], 8080), (VIP, 80));
    let whole = [(true, 2), (false, 18), (true, 16), (false, 17), (true, 17), (false, 16)];
    for round in 0..4 {
        let is_past = round % 2 == 0;
        let to = if is_past { backend } else { vip };
        for (asks, flags) in whole {
            let mut packet = if asks { tcp(client, to, flags) } else { tcp(backend, client, flags) };
            let verdict = one(&mut balancer, &snapshot, &mut packet, round * MS);
            assert_eq!(verdict, if is_past { Verdict::NotOurs } else { Verdict::Route });
            let expected = if asks { tcp(client, backend, flags) } else { tcp(to, client, flags) };
            assert_eq!(packet, expected, "round {round}");
        }
    }
}

#[test]
fn a_client_that_uses_one_port_for_two_services_of_a_backend_is_told_apart() {
    let own: IpAddr = "192.0.2.9".parse().unwrap();
    for mut spec in [json!({}), json!({"sessionAffinity": "ClientIP"})] {
        let (mut balancer, mut builder) = (balancer(), builder());
        spec["externalIPs"] = json!(["203.0.113.7"]);
        let two = snapshot(&mut builder, &spec, "nat", &[1]);
        let vips = [VIP, [203, 0, 113, 7]];
        let source_of = |balancer: &mut Balancer, vip, flags| {
            let mut packet = tcp(client(1), (vip, 80), flags);
            assert_eq!(one(balancer, &two, &mut packet, 0), Verdict::Route);
            ends(&packet).0
        };
        let sources = vips.map(|vip| source_of(&mut balancer, vip, 2));
        assert_eq!((sources[0], sources[1].ip()), (SocketAddr::from(client(1)), own));
        for (vip, source) in vips.into_iter().zip(sources) {
            let IpAddr::V4(address) = source.ip() else { panic!("{source}") };
            let mut answer = tcp(([10, 1, 0, 1], 8080), (address.octets(), source.port()), 18);
            assert_eq!(one(&mut balancer, &two, &mut answer, 0), Verdict::Route);
            assert_eq!(answer, tcp((vip, 80), client(1), 18));
            // Before and after the flow is established.
            assert_eq!([16, 16].map(|flags| source_of(&mut balancer, vip, flags)), [source; 2]);
        }
    }
}

#[test]
fn a_client_that_talks_to_a_backend_by_its_service_and_past_it_from_one_port_is_told_apart() {
    let own: IpAddr = "192.0.2.9".parse().unwrap();
    let backend = ([10, 1, 0, 1], 8080);
    // Whichever comes first keeps the client's address and port.
    for (order, entries) in [([(VIP, 80), backend], 4), ([backend, (VIP, 80)], 3)] {
        let (mut balancer, mut builder) = (balancer(), builder());
        let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1]);
        let mut sources = Vec::new();
        // Each flow from SYN to data, both at once.
        for flags in [2, 16, 16] {
            for (place, to) in order.into_iter().enumerate() {
                let mut packet = tcp(client(1), to, flags);
                let verdict = one(&mut balancer, &snapshot, &mut packet, 0);
                assert!(matches!(verdict, Verdict::Route | Verdict::NotOurs), "{verdict:?}");
                let (source, destination) = ends(&packet);
                assert_eq!(destination, SocketAddr::from(backend));
                if flags == 2 {
                    sources.push(source);
                }
                assert_eq!(source, sources[place]);
                let IpAddr::V4(address) = source.ip() else { panic!("{source}") };
                let mut answer = tcp(backend, (address.octets(), source.port()), flags | 16);
                let _ = one(&mut balancer, &snapshot, &mut answer, 0);
                assert_eq!(answer, tcp(to, client(1), flags | 16));
            }
        }
        assert_eq!((sources[0], sources[1].ip()), (SocketAddr::from(client(1)), own));
        // One of both directions where nothing is translated.
        assert_eq!(balancer.flows4().counts().live, entries);
    }
}
