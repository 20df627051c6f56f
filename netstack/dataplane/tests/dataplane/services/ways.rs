//! Every way to a backend, in both families and across them; every transport.

use super::support::*;
use crate::common::*;
use dataplane::DropReason;
use services::Forwarding;

const ACK: What = What::Tcp(16);

fn service(forwarding: Forwarding, places: &Places, backends: &[&str], port: u16) -> Testbed {
    let bed = Testbed::new();
    let backends: Vec<String> = backends.iter().map(|address| end(address, port).to_string()).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    publish(&bed.shared, &compiled(forwarding, places.vip, &backends));
    bed
}

#[test]
fn translation_goes_there_and_back_in_both_families() {
    for places in [V4, V6] {
        for what in [What::Tcp(2), What::Udp, What::Sctp] {
            for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
                let protocol = match what {
                    What::Tcp(_) => services::Protocol::Tcp,
                    What::Sctp => services::Protocol::Sctp,
                    _ => services::Protocol::Udp,
                };
                let bed = Testbed::new();
                let backend = end(places.backends[0], 8080);
                let mut all = compiled(forwarding, places.vip, &[&backend.to_string()]);
                all.pools[0].key.protocol = protocol;
                publish(&bed.shared, &all);
                let mut bed = bed;
                let (client, vip) = (end(places.client, 4000), end(places.vip, 80));
                bed.send(0, &frame(0, client, vip, what, 33));
                let there = bed.only_sent(1);
                let (source, destination) = ends(&there);
                let own = forwarding == Forwarding::FullNat;
                assert_eq!(destination, backend);
                assert_eq!(source.ip(), end(if own { places.node[1] } else { places.client }, 0).ip());
                // As if its sender had sent it there itself.
                assert_eq!(there[14..], one_hop_on(&frame(0, source, backend, what, 33)));
                let answer = if matches!(what, What::Tcp(_)) { What::Tcp(18) } else { what };
                bed.send(1, &frame(1, backend, source, answer, 9));
                let back = bed.only_sent(0);
                assert_eq!(back[14..], one_hop_on(&frame(1, vip, client, answer, 9)));
                bed.assert_balanced();
            }
        }
    }
}

#[test]
fn a_udp_checksum_that_is_not_there_stays_away() {
    let bed = Testbed::new();
    let mut all = compiled(Forwarding::Nat, V4.vip, &["10.1.0.7:8080"]);
    all.pools[0].key.protocol = services::Protocol::Udp;
    publish(&bed.shared, &all);
    let mut bed = bed;
    let (client, vip, backend) = (end(V4.client, 4000), end(V4.vip, 80), end("10.1.0.7", 8080));
    bed.send(0, &frame(0, client, vip, What::UdpWithout, 50));
    assert_eq!(bed.only_sent(1)[14..], one_hop_on(&frame(0, client, backend, What::UdpWithout, 50)));
    bed.send(1, &frame(1, backend, client, What::UdpWithout, 50));
    assert_eq!(bed.only_sent(0)[14..], one_hop_on(&frame(1, vip, client, What::UdpWithout, 50)));
    bed.assert_balanced();
}

#[test]
fn direct_return_in_both_families() {
    for places in [V4, V6] {
        let mut bed = service(Forwarding::Direct, &places, &places.backends[..1], 80);
        let sent = frame(0, end(places.client, 4000), end(places.vip, 80), ACK, 20);
        bed.send(0, &sent);
        let there = bed.only_sent(1);
        assert_eq!((&there[..12], &there[14..]), ([HOST1, MAC1].as_flattened(), &one_hop_on(&sent)[..]));
        bed.assert_balanced();
    }
}

/// The bytes of an outer header, and what it must say.
fn check_outer(outer: &[u8], inner_v6: bool, (source, destination): (&str, &str), gue: bool) {
    let protocol = if outer[0] >> 4 == 6 { outer[6] } else { outer[9] };
    assert_eq!(
        protocol,
        if gue {
            17
        } else if inner_v6 {
            41
        } else {
            4
        }
    );
    let (from, to) = ends_of_start(outer);
    assert_eq!((from.ip(), to.ip()), (end(source, 0).ip(), end(destination, 0).ip()));
    assert!(!gue || (to.port() == 6080 && from.port() >= 49_152));
}

#[test]
fn tunnels_of_both_families_carry_both() {
    for (inner, outer) in [(V4, V4), (V4, V6), (V6, V4), (V6, V6)] {
        for forwarding in [Forwarding::Ipip, Forwarding::Gue] {
            let gue = forwarding == Forwarding::Gue;
            let mut bed = service(forwarding, &inner, &outer.backends[..1], 80);
            let (client, vip) = (end(inner.client, 4000), end(inner.vip, 80));
            let sent = frame(0, client, vip, ACK, 100);
            bed.send(0, &sent);
            let there = bed.only_sent(1);
            assert_checksums(&there);
            let overhead = outer.ip_bytes + if gue { 8 } else { 0 };
            let inner_v6 = inner.ip_bytes == 40;
            check_outer(&there[14..], inner_v6, (outer.node[1], outer.backends[0]), gue);
            assert_eq!(there[14 + overhead..], one_hop_on(&sent));
            // What fits the wire but not the tunnel is told to the client.
            bed.send(0, &frame(0, client, vip, ACK, 1500 - inner.ip_bytes - 20));
            let (to, mtu, quoted) = read_too_big(&bed.only_sent(0));
            assert_eq!((to, mtu as usize), (client.ip(), 1500 - overhead));
            assert_eq!(ends_of_start(&quoted), (client, vip));
            // And what fits is carried.
            bed.send(0, &frame(0, client, vip, ACK, 1500 - overhead - inner.ip_bytes - 20));
            assert_eq!(bed.only_sent(1).len(), 1514);
            bed.assert_balanced();
        }
    }
}

/// The error of a router on the way to a backend, about an outer packet, becomes one about the packet inside.
#[test]
fn errors_about_outer_packets_are_passed_on_to_clients() {
    for (inner, outer) in [(V4, V4), (V4, V6), (V6, V4), (V6, V6)] {
        for forwarding in [Forwarding::Ipip, Forwarding::Gue] {
            let mut bed = service(forwarding, &inner, &outer.backends[..1], 80);
            let (client, vip) = (end(inner.client, 4000), end(inner.vip, 80));
            let sent = frame(0, client, vip, ACK, 1300);
            bed.send(0, &sent);
            let there = bed.only_sent(1);
            let overhead = outer.ip_bytes + if forwarding == Forwarding::Gue { 8 } else { 0 };
            let about = &there[14..14 + 500];
            bed.send(1, &too_big(1, outer.routers[1], outer.node[1], about, 1340));
            let (to, mtu, quoted) = read_too_big(&bed.only_sent(0));
            // An IPv6 packet of 1,280 bytes must pass (RFC 8200 section 5).
            let told = if inner.ip_bytes == 40 { 1280.max(1340 - overhead) } else { 1340 - overhead };
            assert_eq!((to, mtu as usize), (client.ip(), told));
            assert_eq!(quoted, one_hop_on(&sent)[..500 - overhead]);
            assert_eq!(bed.drops(), [(DropReason::ServiceTunnelError, 1)]);
            bed.assert_balanced();
        }
    }
}

#[test]
fn only_errors_about_our_tunnels_are_passed_on() {
    let (client, vip) = (end(V4.client, 4000), end(V4.vip, 80));
    let mut bed = service(Forwarding::Ipip, &V4, &["10.1.0.7"], 80);
    bed.send(0, &frame(0, client, vip, ACK, 1300));
    let there = bed.only_sent(1);
    let about = there[14..14 + 500].to_vec();
    let change = |at: usize, byte: u8| {
        let mut about = about.clone();
        about[at] = byte;
        too_big(1, V4.routers[1], V4.node[1], &about, 1340)
    };
    // Not from us, to nobody's backend, no tunnel, about an address that no service has, and too short to tell.
    let others = [change(15, 9), change(19, 99), change(9, 6), change(20 + 19, 99)];
    let short = too_big(1, V4.routers[1], V4.node[1], &about[..40], 1340);
    for error in others.iter().chain([&short]) {
        bed.send(1, error);
        bed.assert_nothing_sent();
    }
    // Errors of a link that has gone are passed on as what they are to clients: the host is not reached.
    let mut error = too_big(1, V4.routers[1], V4.node[1], &about, 0);
    (error[34], error[35]) = (11, 0);
    error[36..38].fill(0);
    let checksum = packet::checksum::of(&error[34..]);
    error[36..38].copy_from_slice(&checksum.get().to_be_bytes());
    bed.send(1, &error);
    let told = bed.only_sent(0);
    assert_eq!((told[34], told[35], ends(&told).1.ip()), (3, 1, client.ip()));
    assert_checksums(&told);
    bed.assert_balanced();
}
