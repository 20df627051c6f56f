//! Fragments of packets to services and of their answers.

use super::support::*;
use crate::common::*;
use dataplane::DropReason;
use services::Forwarding;
use std::net::SocketAddr;

/// A frame cut into three: the second and third are without ports.
fn cut(frame: &[u8], identification: u8) -> [Vec<u8>; 3] {
    const AT: [usize; 2] = [24, 48];
    let is_v6 = frame[14] >> 4 == 6;
    let payload = &frame[14 + if is_v6 { 40 } else { 20 }..];
    let make = |from: usize, to: usize| {
        let more = to < payload.len();
        let part = &payload[from..to];
        let mut made = frame[..14].to_vec();
        if is_v6 {
            made.extend(&frame[14..54]);
            made[18..20].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
            made.extend([made[20], 0]);
            made[20] = 44;
            made.extend((from as u16 | u16::from(more)).to_be_bytes());
            made.extend([0, 0, 0, identification]);
            made.extend(part);
        } else {
            made.extend(&frame[14..34]);
            made[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
            made[18..20].copy_from_slice(&[0, identification]);
            made[20..22].copy_from_slice(&(u16::from(more) << 13 | (from / 8) as u16).to_be_bytes());
            made.extend(part);
            fix_ipv4_checksum(&mut made);
        }
        made
    };
    [make(0, AT[0]), make(AT[0], AT[1]), make(AT[1], payload.len())]
}

fn bed(forwarding: Forwarding, places: &Places, port: u16) -> Testbed {
    let bed = Testbed::new();
    let backends = places.backends.map(|address| end(address, port).to_string());
    let mut all = compiled(forwarding, places.vip, &[&backends[0], &backends[1]]);
    all.pools[0].key.protocol = services::Protocol::Udp;
    publish(&bed.shared, &all);
    bed
}

fn datagram(port: usize, from: SocketAddr, to: SocketAddr, identification: u8) -> [Vec<u8>; 3] {
    cut(&frame(port, from, to, What::Udp, 90), identification)
}

#[test]
fn later_fragments_follow_the_first_in_any_order_there_and_back() {
    for places in [V4, V6] {
        let mut bed = bed(Forwarding::Nat, &places, 8080);
        for number in 0..20 {
            let (client, vip) = (end(places.client, 4000 + number), end(places.vip, 80));
            let sent = datagram(0, client, vip, number as u8);
            let mut there: Vec<Vec<u8>> = Vec::new();
            for at in [0, 2, 1] {
                bed.send(0, &sent[at]);
                there.push(bed.only_sent(1));
            }
            let backend = ends(&there[0]).1;
            let expected = datagram(0, client, backend, number as u8);
            for (sent, expected) in there.iter().zip([&expected[0], &expected[2], &expected[1]]) {
                assert_eq!(sent[14..], one_hop_on(expected));
            }
            let answer = datagram(1, backend, client, 77);
            let expected = datagram(1, vip, client, 77);
            for at in [0, 2, 1] {
                bed.send(1, &answer[at]);
                assert_eq!(bed.only_sent(0)[14..], one_hop_on(&expected[at]));
            }
        }
        bed.assert_balanced();
    }
}

#[test]
fn fragments_of_datagrams_that_are_under_way_together_are_told_apart() {
    for places in [V4, V6] {
        let mut bed = bed(Forwarding::Nat, &places, 8080);
        let vip = end(places.vip, 80);
        let clients: Vec<_> = (0..20).map(|number| end(places.client, 4000 + number)).collect();
        let all: Vec<_> =
            clients.iter().zip(1..).map(|(client, number)| datagram(0, *client, vip, number)).collect();
        let mut backends = Vec::new();
        for datagram in &all {
            bed.send(0, &datagram[0]);
            backends.push(ends(&bed.only_sent(1)).1);
        }
        assert!(backends.iter().any(|backend| *backend != backends[0]), "all went to one backend");
        for at in [1, 2] {
            for (sent, backend) in all.iter().zip(&backends) {
                bed.send(0, &sent[at]);
                let tuple = rewrite::View::parse(&bed.only_sent(1)[14..]).expect("a packet").tuple;
                assert_eq!(tuple.destination().ip(), backend.ip());
            }
        }
        bed.assert_balanced();
    }
}

#[test]
fn without_the_first_they_are_dropped_and_counted() {
    for places in [V4, V6] {
        let mut bed = bed(Forwarding::Nat, &places, 8080);
        let sent = datagram(0, end(places.client, 4000), end(places.vip, 80), 1);
        bed.send(0, &sent[1]);
        bed.assert_nothing_sent();
        assert_eq!(bed.drops(), [(DropReason::ServiceFragmentWithoutFirst, 1)]);
        // What is for no service passes.
        let elsewhere = datagram(0, end(places.client, 4000), end(places.backends[0], 80), 1);
        bed.send(0, &elsewhere[1]);
        assert_eq!(bed.only_sent(1)[14..], one_hop_on(&elsewhere[1]));
        bed.assert_balanced();
    }
}

#[test]
fn fragments_go_into_tunnels_and_to_neighbours() {
    for places in [V4, V6] {
        for forwarding in [Forwarding::Direct, Forwarding::Ipip, Forwarding::Gue] {
            let mut bed = bed(forwarding, &places, 80);
            let sent = datagram(0, end(places.client, 4000), end(places.vip, 80), 1);
            let overhead = match forwarding {
                Forwarding::Direct => 0,
                Forwarding::Ipip => places.ip_bytes,
                _ => places.ip_bytes + 8,
            };
            let mut outer = Vec::new();
            for fragment in &sent {
                bed.send(0, fragment);
                let there = bed.only_sent(1);
                assert_eq!(there[14 + overhead..], one_hop_on(fragment));
                let destination = 14 + places.ip_bytes - 8 * (places.ip_bytes / 20)..14 + places.ip_bytes;
                outer.push(there[destination].to_vec());
            }
            assert!(overhead == 0 || outer.iter().all(|to| *to == outer[0]), "they took different ways");
            bed.assert_balanced();
        }
    }
}
