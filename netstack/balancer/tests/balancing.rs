//! Packets of clients and backends through balancers.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use balancer::{Balancer, Builder, Decided, Observer, Owner, Passed, Reason, Settings, Snapshot, Verdict};
use etherparse::{Icmpv4Type, PacketBuilder, icmpv4};
use flow::{Config, Timeouts};
use rewrite::View;
use serde_json::{Value, json};
use services::{Objects, Site, compile};

const MS: u64 = 1_000_000;
const VIP: [u8; 4] = [10, 96, 0, 10];

/// A service on the VIP over backends 10.1.0.x, at another port where that can be.
fn snapshot(builder: &mut Builder, spec: &Value, forwarding: &str, backends: &[u8]) -> Snapshot {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "annotations": {"fairlead.dev/forwarding": forwarding}},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
    });
    for (name, value) in spec.as_object().unwrap() {
        service["spec"][name] = value.clone();
    }
    if spec["type"] == "LoadBalancer" {
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}});
    }
    let endpoints: Vec<Value> =
        backends.iter().map(|b| json!({"addresses": [format!("10.1.0.{b}")]})).collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": if forwarding.ends_with("nat") { 8080 } else { 80 }}], "endpoints": endpoints,
    });
    let mut objects = Objects::default();
    objects.add(0, &service).unwrap();
    objects.add(1, &slice).unwrap();
    builder.build(&compile(&objects, &Site::default()).unwrap())
}

fn builder() -> Builder {
    Builder::new(Settings {
        node_addresses: vec!["192.0.2.1".parse().unwrap()],
        own_addresses: ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap()).into(),
        api_port: Some(80),
        source_addresses: vec!["192.0.2.9".parse().unwrap()],
        tunnel4: Some("192.0.2.1".parse().unwrap()),
        gue_port: 6080,
        ..Settings::default()
    })
}

fn balancer() -> Balancer {
    let config = Config { capacity: 10_000, secret: [1, 2], timeouts: Timeouts::default() };
    Balancer::new((&config, &config), (0, 1), (20_000, 60_000)).unwrap()
}

fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut builder = PacketBuilder::ipv4(from.0, to.0, 60).tcp(from.1, to.1, 1, 100);
    if flags & 2 != 0 {
        builder = builder.syn();
    }
    if flags & 16 != 0 {
        builder = builder.ack(9);
    }
    if flags & 1 != 0 {
        builder = builder.fin();
    }
    builder.write(&mut bytes, b"hello").unwrap();
    bytes
}

fn one(balancer: &mut Balancer, snapshot: &Snapshot, packet: &mut [u8], now_ns: u64) -> Verdict {
    let mut verdicts = [Verdict::NotOurs];
    balancer.process(snapshot, &mut [packet], now_ns, &mut verdicts);
    let [verdict] = verdicts;
    verdict
}

fn ends(packet: &[u8]) -> (SocketAddr, SocketAddr) {
    let tuple = View::parse(packet).unwrap().tuple;
    (tuple.source(), tuple.destination())
}

fn client(number: u16) -> ([u8; 4], u16) {
    ([198, 51, (number >> 8) as u8, number as u8], 1000 + number)
}

/// Sends a client's packet and says which backend it went to.
fn backend_of(balancer: &mut Balancer, snapshot: &Snapshot, client: ([u8; 4], u16), flags: u8) -> SocketAddr {
    let mut packet = tcp(client, (VIP, 80), flags);
    assert_eq!(one(balancer, snapshot, &mut packet, 0), Verdict::Route);
    let (source, destination) = ends(&packet);
    assert_eq!(source, SocketAddr::from(client));
    // The rewritten packet is what its sender would have sent there itself.
    let IpAddr::V4(address) = destination.ip() else { panic!("{destination}") };
    assert_eq!(packet, tcp(client, (address.octets(), destination.port()), flags));
    destination
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
fn another_node_sends_flows_to_the_same_backends() {
    let (mut first, mut builder) = (balancer(), builder());
    let here = snapshot(&mut builder, &json!({}), "nat", &[1, 2, 3, 4, 5]);
    // It learnt of others before, and in another order.
    let mut elsewhere = self::builder();
    let _ = snapshot(&mut elsewhere, &json!({}), "nat", &[9, 5, 7]);
    let there = snapshot(&mut elsewhere, &json!({}), "nat", &[5, 4, 3, 2, 1]);
    let mut second = balancer();
    for number in 0..500 {
        let backend = backend_of(&mut first, &here, client(number), 2);
        assert_eq!(backend_of(&mut second, &there, client(number), 16), backend);
    }
}

#[test]
fn flows_stay_while_backends_come_and_go_and_move_when_theirs_is_gone() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let before = snapshot(&mut builder, &json!({}), "nat", &[1, 2, 3, 4]);
    let was: Vec<_> = (0..400).map(|n| backend_of(&mut balancer, &before, client(n), 2)).collect();
    let more = snapshot(&mut builder, &json!({}), "nat", &[1, 2, 3, 4, 5, 6, 7, 8]);
    let now: Vec<_> = (0..400).map(|n| backend_of(&mut balancer, &more, client(n), 16)).collect();
    assert_eq!(was, now);
    // Number 2 goes, and its number is used again: nobody takes the newcomer for it.
    let gone = SocketAddr::from(([10, 1, 0, 2], 8080));
    let less = snapshot(&mut builder, &json!({}), "nat", &[1, 3, 4]);
    let next = snapshot(&mut builder, &json!({}), "nat", &[1, 3, 4, 9]);
    for (number, was) in was.iter().enumerate() {
        let now =
            backend_of(&mut balancer, if number % 2 == 0 { &less } else { &next }, client(number as u16), 16);
        assert!(now == *was || (*was == gone && now != gone), "{was} became {now}");
    }
}

#[test]
fn a_flow_whose_backend_is_gone_does_not_go_to_who_has_its_number_now() {
    let (mut known, mut builder) = (balancer(), builder());
    let before = snapshot(&mut builder, &json!({}), "nat", &[1]);
    for number in 0..40 {
        let _ = backend_of(&mut known, &before, client(number), 2);
    }
    let after = snapshot(&mut builder, &json!({}), "nat", &[2, 3]);
    let of = |balancer: &mut Balancer| -> Vec<SocketAddr> {
        (0..40).map(|number| backend_of(balancer, &after, client(number), 16)).collect()
    };
    let by_table = of(&mut balancer());
    assert!(by_table.iter().any(|backend| *backend != by_table[0]), "all have one backend");
    assert_eq!(of(&mut known), by_table);
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

/// "Fragmentation needed" from a router to the sender of a packet.
fn too_big(about: &[u8]) -> Vec<u8> {
    let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    let to: [u8; 4] = about[12..16].try_into().unwrap();
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4([203, 0, 113, 99], to, 60);
    builder.icmpv4(Icmpv4Type::DestinationUnreachable(kind)).write(&mut bytes, &about[..28]).unwrap();
    bytes
}

#[test]
fn errors_reach_who_sent_the_packet() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1, 2, 3]);
    let backend = backend_of(&mut balancer, &snapshot, client(1), 2);
    let IpAddr::V4(address) = backend.ip() else { panic!("{backend}") };
    let answer = || (tcp((VIP, 80), client(1), 16), tcp((address.octets(), 8080), client(1), 16));
    // About the service's answer, from the client's side; about the client's packet, from the backend's.
    let (seen, sent) = answer();
    let mut error = too_big(&seen);
    assert_eq!(one(&mut balancer, &snapshot, &mut error, 0), Verdict::Route);
    assert_eq!(error, too_big(&sent));
    let mut error = too_big(&tcp(client(1), (address.octets(), 8080), 16));
    assert_eq!(one(&mut balancer, &snapshot, &mut error, 0), Verdict::Route);
    assert_eq!(error, too_big(&tcp(client(1), (VIP, 80), 16)));
    // A node that does not know the flow finds the same backend.
    let mut error = too_big(&seen);
    assert_eq!(one(&mut self::balancer(), &snapshot, &mut error, 0), Verdict::Route);
    assert_eq!(error, too_big(&sent));
    // Nothing to do with a service.
    let mut error = too_big(&tcp(([9; 4], 1), ([8; 4], 2), 16));
    assert_eq!(one(&mut balancer, &snapshot, &mut error, 0), Verdict::NotOurs);
}

/// A packet cut into two fragments.
fn fragments(packet: &[u8]) -> [Vec<u8>; 2] {
    let data = &packet[20..];
    let make = |offset: usize, data: &[u8], more: u16| {
        let mut header: [u8; 20] = packet[..20].try_into().unwrap();
        header[2..4].copy_from_slice(&(20 + data.len() as u16).to_be_bytes());
        header[4..6].copy_from_slice(&[0xab, 0xcd]);
        header[6..8].copy_from_slice(&(more | (offset / 8) as u16).to_be_bytes());
        header[10..12].fill(0);
        let mut header = etherparse::Ipv4Header::from_slice(&header).unwrap().0;
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes()[..], data].concat()
    };
    [make(0, &data[..24], 0x2000), make(24, &data[24..], 0)]
}

#[test]
fn fragments_follow_the_first() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1, 2, 3]);
    let [mut first, mut later] = fragments(&tcp(client(1), (VIP, 80), 16));
    let mut early = later.clone();
    assert_eq!(one(&mut balancer, &snapshot, &mut early, 0), Verdict::Hold);
    assert!(!balancer.take_awaited() && !balancer.knows_awaited(&early, 0));
    assert_eq!(one(&mut balancer, &snapshot, &mut first, 0), Verdict::Route);
    assert!(balancer.take_awaited() && !balancer.take_awaited() && balancer.knows_awaited(&early, 0));
    assert_eq!(one(&mut balancer, &snapshot, &mut later, 0), Verdict::Route);
    let (_, backend) = ends(&first);
    let IpAddr::V4(address) = backend.ip() else { panic!("{backend}") };
    let expected = fragments(&tcp(client(1), (address.octets(), 8080), 16));
    assert_eq!([first, later], expected);
    // Of the answers too.
    let [mut first, mut later] = fragments(&tcp((address.octets(), 8080), client(1), 16));
    assert_eq!(one(&mut balancer, &snapshot, &mut first, 0), Verdict::Route);
    assert_eq!(one(&mut balancer, &snapshot, &mut later, 0), Verdict::Route);
    assert_eq!([first, later], fragments(&tcp((VIP, 80), client(1), 16)));
    let [_, mut unrelated] = fragments(&tcp(([9; 4], 1), ([8; 4], 2), 16));
    assert_eq!(one(&mut balancer, &snapshot, &mut unrelated, 0), Verdict::NotOurs);
}

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
fn a_client_keeps_its_backend_with_affinity() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let snapshot =
        snapshot(&mut builder, &json!({"sessionAffinity": "ClientIP"}), "nat", &[1, 2, 3, 4, 5, 6]);
    let backends: HashSet<_> = (0..50)
        .map(|port| backend_of(&mut balancer, &snapshot, ([198, 51, 100, 1], 2000 + port), 2))
        .collect();
    assert_eq!(backends.len(), 1);
    let others: HashSet<_> = (0..50).map(|n| backend_of(&mut balancer, &snapshot, client(n), 2)).collect();
    assert_eq!(others.len(), 6);
}

#[test]
fn node_ports_source_ranges_and_empty_services() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let spec = json!({
        "type": "LoadBalancer", "loadBalancerSourceRanges": ["198.51.0.0/16"],
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    let open = snapshot(&mut builder, &spec, "nat", &[1]);
    assert_eq!(open.frontends(), 3);
    let mut verdict = |snapshot: &Snapshot, from: [u8; 4], to: ([u8; 4], u16)| {
        one(&mut balancer, snapshot, &mut tcp((from, 9), to, 2), 0)
    };
    let balanced = ([203, 0, 113, 5], 80);
    assert_eq!(verdict(&open, [198, 51, 1, 1], balanced), Verdict::Route);
    assert_eq!(verdict(&open, [198, 52, 1, 1], balanced), Verdict::Drop(Reason::SourceRange));
    assert_eq!(verdict(&open, [198, 52, 1, 1], ([192, 0, 2, 1], 30080)), Verdict::Route);
    let empty = snapshot(&mut builder, &spec, "nat", &[]);
    assert_eq!(verdict(&empty, [198, 51, 1, 1], balanced), Verdict::Drop(Reason::NoBackend));
}

#[test]
fn an_address_of_the_node_stays_the_nodes_but_for_what_services_have_of_it() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let spec = json!({
        "externalIPs": ["192.0.2.1", "192.0.2.2"],
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}],
    });
    let snapshot = snapshot(&mut builder, &spec, "nat", &[]);
    let mut verdict =
        |to: ([u8; 4], u16)| one(&mut balancer, &snapshot, &mut tcp(([198, 51, 1, 1], 9), to, 2), 0);
    for own in [[192, 0, 2, 1], [192, 0, 2, 2]] {
        // The API, what else listens there, and what the service does have.
        assert_eq!([80, 22].map(|port| verdict((own, port))), [Verdict::NotOurs; 2]);
        assert_eq!(verdict((own, 81)), Verdict::Drop(Reason::NoBackend));
    }
    assert_eq!(verdict((VIP, 80)), Verdict::Drop(Reason::NoBackend));
}

#[test]
fn a_node_port_among_the_ports_of_full_nat_stays_a_node_port() {
    const NODE_PORT: u16 = 40_000;
    let address = "192.0.2.1".parse().unwrap();
    let settings =
        Settings { node_addresses: vec![address], source_addresses: vec![address], ..Settings::default() };
    let mut builder = Builder::new(settings);
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": NODE_PORT}]});
    let by_node_port = snapshot(&mut builder, &spec, "nat", &[1]);
    for number in 0..50 {
        let (from, all) = (client(number), (20_000, 60_000));
        let owner = |packet: Vec<u8>| by_node_port.owner(&packet, 4, all);
        let (asks, answers) =
            (owner(tcp(from, ([192, 0, 2, 1], NODE_PORT), 2)), owner(tcp(([10, 1, 0, 1], 8080), from, 18)));
        assert_eq!(asks, answers);
    }
    // Nobody's flow gets it for a source.
    let by_full_nat = snapshot(&mut builder, &spec, "full-nat", &[1]);
    let config = Config { capacity: 1000, secret: [1, 2], timeouts: Timeouts::default() };
    let mut balancer = Balancer::new((&config, &config), (0, 1), (NODE_PORT, NODE_PORT + 1)).unwrap();
    let mut packet = tcp(client(1), (VIP, 80), 2);
    assert_eq!(one(&mut balancer, &by_full_nat, &mut packet, 0), Verdict::Route);
    assert_eq!(ends(&packet).0.port(), NODE_PORT + 1);
    let mut packet = tcp(client(2), (VIP, 80), 2);
    assert_eq!(one(&mut balancer, &by_full_nat, &mut packet, 0), Verdict::Drop(Reason::NoSource));
}

#[test]
fn vectors_of_any_length_are_balanced_as_single_packets_are() {
    let mut builder = builder();
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1, 2, 3]);
    for length in [1, 2, 67, 256, 300] {
        let mut packets: Vec<_> = (0..length).map(|n| tcp(client(n % 40), (VIP, 80), 2)).collect();
        let mut singles = packets.clone();
        let mut verdicts = vec![Verdict::NotOurs; usize::from(length)];
        let mut slices: Vec<&mut [u8]> = packets.iter_mut().map(Vec::as_mut_slice).collect();
        balancer().process(&snapshot, &mut slices, 0, &mut verdicts);
        let mut alone = balancer();
        for packet in &mut singles {
            assert_eq!(one(&mut alone, &snapshot, packet, 0), Verdict::Route);
        }
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Route));
        assert_eq!(packets, singles);
    }
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

#[test]
fn no_bytes_do_harm() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let snapshot = snapshot(&mut builder, &json!({}), "nat", &[1]);
    let whole = too_big(&tcp((VIP, 80), client(1), 16));
    for length in 0..whole.len() {
        for bit in 0..8 {
            let mut packet = whole[..length].to_vec();
            if let Some(last) = packet.last_mut() {
                *last ^= 1 << bit;
            }
            let _ = one(&mut balancer, &snapshot, &mut packet, 0);
        }
    }
}

#[test]
fn a_quic_connection_keeps_its_backend_when_its_clients_address_changes() {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "annotations": {"fairlead.dev/quic-server-id-bytes": "2"}},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 443, "protocol": "UDP"}]},
    });
    let endpoints: Vec<Value> = (1..=20).map(|b| json!({"addresses": [format!("10.1.0.{b}")]})).collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": 443, "protocol": "UDP"}], "endpoints": endpoints,
    });
    let mut objects = Objects::default();
    objects.add(0, &service).unwrap();
    objects.add(1, &slice).unwrap();
    let snapshot = builder().build(&compile(&objects, &Site::default()).unwrap());
    let mut balancer = balancer();
    let mut to = |from: u16, payload: &[u8]| {
        let (address, port) = client(from);
        let mut packet = Vec::new();
        PacketBuilder::ipv4(address, VIP, 60).udp(port, 443).write(&mut packet, payload).unwrap();
        assert_eq!(one(&mut balancer, &snapshot, &mut packet, 0), Verdict::Route);
        ends(&packet).1
    };
    // An Initial of a client that does not know its server yet, then short headers with the ID that the server has given.
    let initial = |id: u16| [&[0xc3, 0, 0, 0, 1, 8, 0xff][..], &id.to_be_bytes(), &[7; 30]].concat();
    let mut used = HashSet::new();
    for number in 0..100 {
        let backend = to(number, &initial(number));
        let IpAddr::V4(address) = backend.ip() else { panic!("{backend}") };
        let [.., high, low] = address.octets();
        let short = [&[0x5a, 0x06, high, low][..], &[8; 30]].concat();
        assert_eq!(to(number, &short), backend);
        assert_eq!(to(1000 + number, &short), backend, "from another address");
        let _ = used.insert(backend);
    }
    assert!(used.len() > 10);
}

#[test]
fn a_client_keeps_its_backend_until_its_time_is_over() {
    let affinity = json!({
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
    });
    let (mut balancer, mut builder) = (balancer(), builder());
    let before = snapshot(&mut builder, &affinity, "nat", &[1, 2, 3]);
    let mut at = |snapshot: &Snapshot, client: u16, port: u16, seconds: u64| {
        let from = ([198, 51, (client >> 8) as u8, client as u8], port);
        let mut packet = tcp(from, (VIP, 80), 2);
        assert_eq!(one(&mut balancer, snapshot, &mut packet, seconds * 1000 * MS), Verdict::Route);
        ends(&packet).1
    };
    let first: Vec<SocketAddr> = (0..200).map(|client| at(&before, client, 1000, 0)).collect();
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3);
    // Many more backends: new connections of the same clients go where the old ones went.
    let after = snapshot(&mut builder, &affinity, "nat", &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let again: Vec<SocketAddr> = (0..200).map(|client| at(&after, client, 2000, 500)).collect();
    assert_eq!(first, again);
    let later: Vec<SocketAddr> = (0..200).map(|client| at(&after, client, 3000, 1000)).collect();
    assert_eq!(first, later, "each new connection begins the time anew");
    let moved =
        (0..200).filter(|client| at(&after, *client, 4000, 2000) != first[usize::from(*client)]).count();
    assert!(moved > 50, "{moved} of 200 clients have another backend after their time");
}

/// Who asked a node port asked the node that has the address, and no other one has to guess.
#[test]
fn an_answer_of_another_nodes_flow_is_not_taken_for_one_of_a_node_port_here() {
    let (mut asked, mut answering, mut builder) = (balancer(), balancer(), builder());
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let snapshot = snapshot(&mut builder, &spec, "nat", &[1, 2]);
    for number in 0..100 {
        let from = client(number);
        let backend = backend_of(&mut asked, &snapshot, from, 2);
        let IpAddr::V4(address) = backend.ip() else { panic!("{backend}") };
        let mut answer = tcp((address.octets(), backend.port()), from, 18);
        assert_eq!(one(&mut answering, &snapshot, &mut answer, 0), Verdict::Route);
        assert_eq!(ends(&answer), (SocketAddr::from((VIP, 80)), SocketAddr::from(from)));
    }
}

/// Questions take one node and answers the other, as routes may have it.
#[test]
fn a_client_keeps_its_backend_though_another_node_sees_the_answers_alone() {
    let (mut asked, mut answering, mut builder) = (balancer(), balancer(), builder());
    let affinity = json!({"sessionAffinity": "ClientIP"});
    let before = snapshot(&mut builder, &affinity, "nat", &[1, 2, 3]);
    let after = snapshot(&mut builder, &affinity, "nat", &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let mut connect = |snapshot: &Snapshot, from: ([u8; 4], u16)| {
        let backend = backend_of(&mut asked, snapshot, from, 2);
        let IpAddr::V4(address) = backend.ip() else { panic!("{backend}") };
        let mut answer = tcp((address.octets(), backend.port()), from, 18);
        assert_eq!(one(&mut answering, snapshot, &mut answer, 0), Verdict::Route, "{backend} to {from:?}");
        assert_eq!(ends(&answer), (SocketAddr::from((VIP, 80)), SocketAddr::from(from)));
        backend
    };
    let first: Vec<_> = (0..100).map(|number| connect(&before, client(number))).collect();
    let again = |number: u16| (client(number).0, 9000);
    let second: Vec<_> = (0..100).map(|number| connect(&after, again(number))).collect();
    assert_eq!(first, second);
    // By then it knows clients' backends from the answers, and sends new connections there too.
    let third: Vec<_> =
        (0..100).map(|number| backend_of(&mut answering, &after, (client(number).0, 9001), 2)).collect();
    assert_eq!(first, third);
}

#[test]
fn sctp_goes_to_another_port_with_its_checksum() {
    let (mut balancer, mut builder) = (balancer(), builder());
    let ports = json!([{"port": 80, "protocol": "SCTP", "name": "s"}]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.96.0.10", "ports": ports},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": 8080, "protocol": "SCTP", "name": "s"}], "endpoints": [{"addresses": ["10.1.0.1"]}],
    });
    let mut objects = Objects::default();
    objects.add(0, &service).unwrap();
    objects.add(1, &slice).unwrap();
    let service = builder.build(&compile(&objects, &Site::default()).unwrap());
    let mut packet = vec![0x45, 0, 0, 36, 0, 0, 0, 0, 60, 132, 0, 0, 198, 51, 100, 1];
    packet.extend(VIP);
    packet.extend([0x10, 0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 1, 0, 0, 4]);
    let sum = crc32c(&packet[20..]);
    packet[28..32].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(one(&mut balancer, &service, &mut packet, 0), Verdict::Route);
    assert_eq!(ends(&packet).1, "10.1.0.1:8080".parse().unwrap());
    let after: [u8; 4] = packet[28..32].try_into().unwrap();
    packet[28..32].fill(0);
    assert_eq!(u32::from_le_bytes(after), crc32c(&packet[20..]));
}

/// `CRC32c`, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
