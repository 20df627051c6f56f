//! Which backend a flow or a client has, and for how long, on one node and on several.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use balancer::{Balancer, Snapshot, Verdict};
use etherparse::PacketBuilder;
use serde_json::{Value, json};
use services::{Objects, Site, compile};

use crate::common::*;

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
