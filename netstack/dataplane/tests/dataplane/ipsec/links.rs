//! Policies, and what is of a link: groups, everybody, link-local addresses, frames of control's own.

use super::*;
use crate::services::support::{Places, V4, V6, What, compiled, end, frame, publish};
use services::Forwarding;

/// The two ways to demand that something does not pass in the clear, and the reasons for drops inwards and outwards.
const DEMANDS: [(Action, DropReason, DropReason); 2] = [
    (Action::Discard, DropReason::IpsecDiscarded, DropReason::IpsecDiscarded),
    (Action::Protect(TUNNEL), DropReason::IpsecUnprotected, DropReason::IpsecMustEncrypt),
];

/// One with policies about everything.
fn site_with(direction: Direction, action: Action) -> Site {
    let mut site = Site::new(false, |_| {});
    let policy = |any: &str| Policy { direction, selector: Selector::between(net(any), net(any)), action };
    site.database.set_policies(vec![policy("0.0.0.0/0"), policy("::/0")]);
    site.publish();
    site
}

fn udp(source: &str, destination: &str) -> Vec<u8> {
    frame(1, end(source, 700), end(destination, 800), What::Udp, 20)
}

/// An ICMPv6 message with this hop limit, behind a router alert if it is about listeners.
fn message6(source: &str, destination: &str, hop_limit: u8, kind: u8, alert: bool) -> Vec<u8> {
    let kind = etherparse::Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
    let builder = PacketBuilder::ethernet2(HOST1, MAC1);
    let builder = builder.ipv6(ip6_octets(source), ip6_octets(destination), hop_limit).icmpv6(kind);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0; 20]).expect("a vector takes all");
    if alert {
        frame[19] += 8;
        frame[20] = 0;
        drop(frame.splice(54..54, [58, 0, 5, 2, 0, 0, 1, 0]));
    }
    frame
}

const TO_LINK: [(&str, &str); 5] = [
    ("2001:db8:1001::9", "ff02::1"),
    ("fe80::9", "ff02::1"),
    ("fe80::9", "fe80::1"),
    ("10.0.1.9", "224.0.0.1"),
    ("10.0.1.9", "255.255.255.255"),
];

#[test]
fn what_comes_in_to_the_link_is_asked_for() {
    for (action, reason, _) in DEMANDS {
        let mut site = site_with(Direction::Inbound, action);
        for (source, destination) in TO_LINK {
            site.bed.send(1, &udp(source, destination));
        }
        site.bed.send(1, &message6("fe80::9", "fe80::1", 255, 128, false));
        assert!(site.bed.punts().is_empty());
        site.bed.assert_nothing_sent();
        assert_eq!(site.bed.drops(), [(reason, 6)]);

        // What keeps the link running passes.
        site.bed.send(1, &message6("fe80::9", "ff02::1", 255, 134, false));
        site.bed.send(1, &message6("fe80::9", "ff02::1", 1, 130, true));
        assert_eq!(site.bed.punts().len(), 2);
        site.bed.send(1, &message6("fe80::9", "ff02::1", 2, 130, true));
        site.bed.send(1, &message6("fe80::9", "ff02::1", 1, 130, false));
        assert!(site.bed.punts().is_empty());
        assert_eq!(site.bed.drops(), [(reason, 8)]);
        site.bed.assert_balanced();
    }
    let mut site = site_with(Direction::Inbound, Action::Bypass);
    for (source, destination) in TO_LINK {
        site.bed.send(1, &udp(source, destination));
    }
    assert_eq!(site.bed.punts().len(), TO_LINK.len());
    site.bed.assert_balanced();
}

#[test]
fn what_leaves_for_the_link_is_asked_for() {
    let transmit = |site: &mut Site, frame: &[u8]| {
        let inject = Inject::copy(&mut site.bed.pool.cache(), frame, InjectTo::Transmit(ETH1));
        assert!(site.bed.shared.inject(inject.expect("a buffer")));
        site.bed.run();
        site.bed.sent(1).len()
    };
    for (action, _, reason) in DEMANDS {
        let mut site = site_with(Direction::Outbound, action);
        for (source, destination) in TO_LINK {
            assert_eq!(transmit(&mut site, &udp(source, destination)), 0, "{destination}");
        }
        // Nor is a question from the link answered.
        site.bed.send(1, &message6("fe80::9", "fe80::1", 255, 128, false));
        site.bed.assert_nothing_sent();
        assert_eq!(site.bed.drops(), [(reason, 6)]);

        let arp = [&[0xff; 6][..], &MAC1, &[8, 6], &[0; 28]].concat();
        let discover = frame(1, end("0.0.0.0", 68), end("255.255.255.255", 67), What::Udp, 300);
        let solicitation = message6("fe80::1", "ff02::1:ff00:9", 255, 135, false);
        for frame in [arp, discover, solicitation, message6("fe80::1", "ff02::16", 1, 143, true)] {
            assert_eq!(transmit(&mut site, &frame), 1, "{frame:x?}");
        }
        // To a server as if it were any host, or with another hop limit.
        let others = [
            frame(1, end("10.0.1.1", 68), end("10.0.1.9", 67), What::Udp, 300),
            message6("fe80::1", "ff02::1:ff00:9", 64, 135, false),
            message6("fe80::1", "ff02::16", 64, 143, true),
        ];
        assert_eq!(others.map(|frame| transmit(&mut site, &frame)), [0; 3]);
        assert_eq!(site.bed.drops(), [(reason, 9)]);
        site.bed.assert_balanced();
    }
    let mut site = Site::new(false, |_| {});
    site.database.set_must_encrypt(vec![net("ff00::/8"), net("224.0.0.0/4")]);
    site.publish();
    assert_eq!(transmit(&mut site, &udp("fe80::1", "ff02::fb")), 0);
    assert_eq!(transmit(&mut site, &udp("10.0.1.1", "224.0.0.251")), 0);
    assert_eq!(transmit(&mut site, &udp("fe80::1", "fe80::9")), 1);
    assert_eq!(site.bed.drops(), [(DropReason::IpsecMustEncrypt, 2)]);
    site.bed.assert_balanced();
}

/// Packets to a service that go on in a tunnel to its backend, or are answered for it.
#[test]
fn what_comes_in_for_services_is_asked_for() {
    let echo = |places: &Places| {
        let mut frame = Vec::new();
        let builder = to_router();
        match (end(places.client, 0).ip(), end(places.vip, 0).ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let builder = builder.ipv4(from.octets(), to.octets(), 9).icmpv4_echo_request(1, 2);
                builder.write(&mut frame, b"there?")
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let builder = builder.ipv6(from.octets(), to.octets(), 9).icmpv6_echo_request(1, 2);
                builder.write(&mut frame, b"there?")
            }
            _ => unreachable!(),
        }
        .expect("a vector takes all");
        frame
    };
    for (action, sent) in [(Action::Discard, 0), (Action::Bypass, 1)] {
        for places in [V4, V6] {
            let mut site = site_with(Direction::Inbound, action);
            let backend = end(places.backends[0], 80).to_string();
            publish(&site.bed.shared, &compiled(Forwarding::Ipip, places.vip, &[&backend]));
            site.bed.send(0, &frame(0, end(places.client, 4000), end(places.vip, 80), What::Tcp(2), 0));
            assert_eq!(site.bed.sent(1).len(), sent, "to {}", places.vip);
            site.bed.send(0, &echo(&places));
            assert_eq!(site.bed.sent(0).len(), sent, "from {}", places.vip);
            site.bed.assert_balanced();
        }
    }
}
