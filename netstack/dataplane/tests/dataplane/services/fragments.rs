//! Fragments of packets to services and of their answers.

use super::support::*;
use crate::common::*;
use crate::pair::Pair;
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
    bed_of(services::Protocol::Udp, forwarding, places, port)
}

fn bed_of(protocol: services::Protocol, forwarding: Forwarding, places: &Places, port: u16) -> Testbed {
    let bed = Testbed::new();
    let backends = places.backends.map(|address| end(address, port).to_string());
    let mut all = compiled(forwarding, places.vip, &[&backends[0], &backends[1]]);
    all.pools[0].key.protocol = protocol;
    publish(&bed.shared, &all);
    bed
}

fn datagram(port: usize, from: SocketAddr, to: SocketAddr, identification: u8) -> [Vec<u8>; 3] {
    cut(&frame(port, from, to, What::Udp, 90), identification)
}

#[test]
fn sctp_in_fragments_goes_to_another_port_with_its_checksum_once_the_last_one_has_come() {
    for places in [V4, V6] {
        let mut bed = bed_of(services::Protocol::Sctp, Forwarding::Nat, &places, 8080);
        let sctp = |port, from, to, number| cut(&frame(port, from, to, What::Sctp, 90), number);
        for (order, number) in [[0, 1, 2]].into_iter().chain(OUT_OF_ORDER).zip(1..) {
            let (client, vip) = (end(places.client, 4000 + u16::from(number)), end(places.vip, 80));
            let mut pass = |port, pieces: [Vec<u8>; 3]| {
                order.iter().for_each(|at| bed.send(port, &pieces[*at]));
                bed.sent(1 - port)
            };
            let asked = pass(0, sctp(0, client, vip, number));
            let backend = ends(asked.iter().find(|frame| is_first(frame)).expect("the first one")).1;
            assert_eq!(backend.port(), 8080);
            let answered = pass(1, sctp(1, backend, client, number));
            for (port, from, to, sent) in [(0, client, backend, asked), (1, vip, client, answered)] {
                assert_eq!(sent.len(), 3, "{order:?}: {:?}", bed.drops());
                let expected = sctp(port, from, to, number).map(|frame| one_hop_on(&frame));
                let sent = sent.iter().map(|frame| frame[14..].to_vec()).collect();
                assert_eq!(sorted(sent), sorted(expected.to_vec()), "{order:?} by port {port}");
            }
        }
        // One whose last fragment never comes is of no use to anybody.
        bed.send(0, &sctp(0, end(places.client, 4000), end(places.vip, 80), 99)[0]);
        bed.assert_nothing_sent();
        bed.now_ns += 2_000_000_000;
        bed.run();
        assert_eq!(bed.drops(), [(DropReason::FragmentWithoutFirst, 1)]);
        bed.assert_balanced();
    }
}

/// True for the fragment that has the transport header.
fn is_first(frame: &[u8]) -> bool {
    rewrite::View::parse(&frame[14..]).is_ok_and(|view| view.fragment == rewrite::Fragment::First)
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

/// Every order of three but the one in which they were cut.
const OUT_OF_ORDER: [[usize; 3]; 5] = [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn those_that_come_before_the_first_are_sent_after_it() {
    for places in [V4, V6] {
        for forwarding in [Forwarding::Nat, Forwarding::FullNat, Forwarding::Direct, Forwarding::Ipip] {
            let mut bed = bed(forwarding, &places, if forwarding == Forwarding::Nat { 8080 } else { 80 });
            for (order, number) in OUT_OF_ORDER.into_iter().zip(0..) {
                let (client, vip) = (end(places.client, 4000 + u16::from(number)), end(places.vip, 80));
                let sent = datagram(0, client, vip, number);
                // One poll each, and all in one vector.
                let mut alone = Vec::new();
                for at in order {
                    bed.send(0, &sent[at]);
                    assert_eq!(bed.sent(0).len(), 0);
                    alone.extend(bed.sent(1));
                }
                order.iter().for_each(|at| assert!(bed.wires[0].send(&sent[*at])));
                bed.run();
                let together = bed.sent(1);
                assert_eq!((alone.len(), together.len()), (3, 3), "{order:?}: {:?}", bed.drops());
                assert_eq!(sorted(alone.clone()), sorted(together));
                let overhead = if forwarding == Forwarding::Ipip { places.ip_bytes } else { 0 };
                let bytes = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).sum::<usize>();
                assert_eq!(bytes(&alone), bytes(&sent) + 3 * overhead);
                if forwarding == Forwarding::Nat {
                    // Answers likewise.
                    let backend = ends(&alone[0]).1;
                    let answer = datagram(1, backend, client, number);
                    order.iter().for_each(|at| bed.send(1, &answer[*at]));
                    let expected = datagram(1, vip, client, number);
                    let back: Vec<_> = bed.sent(0).iter().map(|frame| frame[14..].to_vec()).collect();
                    assert_eq!(sorted(back), sorted(expected.iter().map(|f| one_hop_on(f)).collect()));
                }
            }
            assert_eq!((bed.shared.packet_totals().held, bed.drops()), (0, vec![]));
            bed.assert_balanced();
        }
    }
}

fn sorted(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    packets.sort();
    packets
}

#[test]
fn without_the_first_they_are_held_for_a_second_then_dropped_and_counted() {
    for places in [V4, V6] {
        let mut bed = bed(Forwarding::Nat, &places, 8080);
        let sent = datagram(0, end(places.client, 4000), end(places.vip, 80), 1);
        bed.send(0, &sent[1]);
        bed.now_ns += 999_999_999;
        bed.send(0, &sent[2]);
        bed.assert_nothing_sent();
        assert_eq!((bed.shared.packet_totals().held, bed.drops()), (2, vec![]));
        bed.now_ns += 1;
        bed.run();
        assert_eq!(bed.shared.packet_totals().held, 1);
        assert_eq!(bed.drops(), [(DropReason::FragmentWithoutFirst, 1)]);
        // The other one still goes after its first one.
        bed.send(0, &sent[0]);
        assert_eq!(bed.sent(1).len(), 2);
        // What is for no service passes.
        let elsewhere = datagram(0, end(places.client, 4000), end(places.backends[0], 80), 1);
        bed.send(0, &elsewhere[1]);
        assert_eq!(bed.only_sent(1)[14..], one_hop_on(&elsewhere[1]));
        bed.assert_balanced();
    }
}

#[test]
fn a_flood_of_fragments_takes_a_bounded_number_of_buffers_and_the_oldest_goes_first() {
    const HELD: u64 = 128;
    let mut bed = bed(Forwarding::Nat, &V4, 8080);
    let (client, vip) = (end(V4.client, 4000), end(V4.vip, 80));
    let wanted = datagram(0, client, vip, 255);
    let flood = |number: u8| datagram(0, end("10.0.0.9", 4000), vip, number)[1].clone();
    // What comes just before a first one is there still, in a flood that would fill the ring in no time.
    (0..200).for_each(|number| assert!(bed.wires[0].send(&flood(number))));
    assert!(bed.wires[0].send(&wanted[1]));
    (0..20).for_each(|number| assert!(bed.wires[0].send(&flood(number))));
    bed.run();
    bed.send(0, &wanted[0]);
    assert_eq!(bed.sent(1).len(), 2);
    let totals = bed.shared.packet_totals();
    assert_eq!((totals.held, bed.drops()), (HELD - 1, vec![(DropReason::FragmentsHeldFull, 221 - HELD)]));
    assert!(bed.pool.available() >= BUFFERS - 2 * HELD as usize - 512, "{}", bed.pool.available());
    bed.now_ns += 2_000_000_000;
    bed.run();
    assert_eq!(bed.shared.packet_totals().held, 0);
    bed.assert_balanced();
}

#[test]
fn fragments_of_one_packet_meet_at_one_worker_and_go_to_the_one_that_has_the_flow() {
    let (udp, sctp) = ((What::Udp, services::Protocol::Udp), (What::Sctp, services::Protocol::Sctp));
    for (places, forwarding, (what, protocol)) in [
        (V4, Forwarding::Nat, udp),
        (V6, Forwarding::Nat, udp),
        (V4, Forwarding::FullNat, udp),
        (V4, Forwarding::FullNat, sctp),
        (V6, Forwarding::Nat, sctp),
    ] {
        let mut two = Pair::new(1500);
        let backends = places.backends.map(|address| end(address, 8080).to_string());
        let mut all = compiled(forwarding, places.vip, &[&backends[0], &backends[1]]);
        all.pools[0].key.protocol = protocol;
        publish(&two.shared, &all);
        for number in 0..60 {
            let client = end(places.client, 4000 + u16::from(number));
            let vip = end(places.vip, 80);
            // Their flow begins with a whole packet at its own worker.
            two.send(0, &frame(0, client, vip, what, 90));
            let whole = [two.sent(0), two.sent(1)].concat();
            let (source, backend) = ends(&whole[0]);
            for (port, from, to) in [(0, client, vip), (1, backend, source)] {
                let asked = cut(&frame(port, from, to, what, 90), number);
                let order = OUT_OF_ORDER[usize::from(number) % OUT_OF_ORDER.len()];
                order.iter().for_each(|at| two.send(port, &asked[*at]));
                let sent = [two.sent(0), two.sent(1)].concat();
                assert_eq!(sent.len(), 3, "{order:?}: {:?}", two.drops());
                let (from, to) = if port == 0 { (source, backend) } else { (vip, client) };
                let expected = cut(&frame(port, from, to, what, 90), number);
                let packets = |frames: &[Vec<u8>]| sorted(frames.iter().map(|f| f[14..].to_vec()).collect());
                let expected: Vec<_> = expected.iter().map(|frame| one_hop_on(frame)).collect();
                assert_eq!(packets(&sent), sorted(expected));
            }
        }
        // A pair for each flow, and no second one at another worker: the rest are ports of fragments, at one or two, and
        // lengths of SCTP.
        let counters = [0, 1].map(|worker| two.shared.flow_counters(worker));
        let live: usize = counters.iter().map(|counters| counters.ipv4.live + counters.ipv6.live).sum();
        let lengths = if matches!(what, What::Sctp) { 60 * 2 } else { 0 };
        assert!((60 * 4 + lengths..=60 * 6 + lengths).contains(&live), "{live}");
        assert_eq!(two.drops(), []);
        two.assert_balanced();
    }
}

#[test]
fn fragments_go_into_tunnels_and_to_neighbours() {
    let (udp, sctp) = ((What::Udp, services::Protocol::Udp), (What::Sctp, services::Protocol::Sctp));
    for (places, (what, protocol)) in [(V4, udp), (V6, udp), (V4, sctp), (V6, sctp)] {
        for forwarding in [Forwarding::Direct, Forwarding::Ipip, Forwarding::Gue] {
            let mut bed = bed_of(protocol, forwarding, &places, 80);
            let sent = cut(&frame(0, end(places.client, 4000), end(places.vip, 80), what, 90), 1);
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

#[test]
fn sctp_in_fragments_to_the_same_port_does_not_wait_for_the_last_one() {
    for places in [V4, V6] {
        let mut bed = bed_of(services::Protocol::Sctp, Forwarding::Nat, &places, 80);
        let (client, vip) = (end(places.client, 4000), end(places.vip, 80));
        let cut = |port, from, to| cut(&frame(port, from, to, What::Sctp, 90), 1);
        let mut backend = None;
        for (at, fragment) in cut(0, client, vip).iter().enumerate() {
            bed.send(0, fragment);
            let there = bed.only_sent(1);
            let backend = *backend.get_or_insert_with(|| ends(&there).1);
            assert_eq!(there[14..], one_hop_on(&cut(0, client, backend)[at]));
        }
        let backend = backend.expect("it was sent");
        for (fragment, expected) in cut(1, backend, client).iter().zip(cut(1, vip, client)) {
            bed.send(1, fragment);
            assert_eq!(bed.only_sent(0)[14..], one_hop_on(&expected));
        }
        bed.assert_balanced();
    }
}
