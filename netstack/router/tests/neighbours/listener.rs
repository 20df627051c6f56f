//! Reports of the groups that are listened to (RFC 3810), by frames in and frames out.

use super::common::*;
use packet::ipv6::Ipv6;
use router::Limits;
use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use zerocopy::FromBytes;

const ONE_NETWORK: &str = r#"{"interfaces": [{"name": "eth0", "addresses": ["2001:db8::1/64"]}]}"#;
const NO_NETWORK: &str = r#"{"interfaces": [{"name": "eth0"}]}"#;
const IS_EXCLUDE: u8 = 2;
const TO_INCLUDE: u8 = 3;
const TO_EXCLUDE: u8 = 4;
/// What a hop-by-hop header with a router alert for MLD is, before ICMPv6.
const ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];
const ALL_ROUTERS: &str = "ff02::2";
const OF_LINK_LOCAL: &str = "ff02::1:ff00:0";
const OF_ADDRESS: &str = "ff02::1:ff00:1";

/// The records of the reports that `eth0` has sent, which must be right in every other way.
fn told(node: &Node) -> Vec<BTreeSet<(u8, Ipv6Addr)>> {
    let reports = node.sent(0).into_iter().filter(|frame| frame[12..14] == [0x86, 0xdd] && frame[20] == 0);
    reports.map(|frame| records(&frame)).collect()
}

fn records(frame: &[u8]) -> BTreeSet<(u8, Ipv6Addr)> {
    assert_eq!((&frame[..6], &frame[6..12]), (&[0x33, 0x33, 0, 0, 0, 0x16][..], &port_mac(0)[..]));
    let (header, rest) = Ipv6::read_from_prefix(&frame[14..]).unwrap();
    assert_eq!((usize::from(header.payload_length.get()), header.hop_limit), (rest.len(), 1));
    assert_eq!(Ipv6Addr::from(header.source), "fe80::fa:ff:fe00:0".parse::<Ipv6Addr>().unwrap());
    assert_eq!(Ipv6Addr::from(header.destination), "ff02::16".parse::<Ipv6Addr>().unwrap());
    let (alert, message) = rest.split_at(8);
    assert_eq!((alert, &message[..2]), (&ALERT[..], &[143, 0][..]));
    assert!(header.pseudo_header(58, message.len() as u32).bytes(message).is_valid());
    let count = usize::from(u16::from_be_bytes([message[6], message[7]]));
    assert_eq!(message.len(), 8 + 20 * count);
    let record = |record: &[u8]| {
        assert_eq!(record[1..4], [0, 0, 0], "no sources, no other data");
        (record[0], Ipv6Addr::from(<[u8; 16]>::try_from(&record[4..20]).unwrap()))
    };
    message[8..].chunks(20).map(record).collect()
}

fn all(kind: u8, groups: &[&str]) -> BTreeSet<(u8, Ipv6Addr)> {
    groups.iter().map(|group| (kind, group.parse().unwrap())).collect()
}

/// A query to all nodes, of version 1 or 2.
pub(super) fn query(source: &str, code: u16, group: &str, version2: bool) -> Vec<u8> {
    let mut message = [&[130, 0, 0, 0][..], &code.to_be_bytes(), &[0, 0]].concat();
    message.extend_from_slice(&group.parse::<Ipv6Addr>().unwrap().octets());
    if version2 {
        message.extend_from_slice(&[2, 125, 0, 0]);
    }
    let payload = [&ALERT[..], &message].concat();
    let (source, to) = (source.parse().unwrap(), "ff02::1".parse().unwrap());
    let mut frame = ip6(host_mac(1), [0x33, 0x33, 0, 0, 0, 1], source, to, (0, 1), &payload);
    summed(&mut frame);
    frame
}

/// Makes the checksum of a query right.
fn summed(frame: &mut [u8]) {
    let header = Ipv6::read_from_bytes(&frame[14..54]).unwrap();
    frame[64..66].fill(0);
    let sum = header.pseudo_header(58, (frame.len() - 62) as u32).bytes(&frame[62..]).finish();
    frame[64..66].copy_from_slice(zerocopy::IntoBytes::as_bytes(&sum));
}

#[test]
fn groups_are_told_when_they_are_joined_and_left() {
    let mut node = Node::new(1, Limits::default());
    node.configure(ONE_NETWORK);
    let frames = node.sent(0);
    assert_eq!(frames[0][20], 0, "before the probes");
    let joined = all(TO_EXCLUDE, &[ALL_ROUTERS, OF_LINK_LOCAL, OF_ADDRESS]);
    assert_eq!(records(&frames[0]), joined);
    node.after(2 * SECOND_NS);
    assert_eq!(told(&node), std::slice::from_ref(&joined), "once more");
    node.after(60 * SECOND_NS);
    assert_eq!(told(&node), []);
    node.configure(NO_NETWORK);
    node.after(2 * SECOND_NS);
    assert_eq!(told(&node), [all(TO_INCLUDE, &[OF_ADDRESS]), all(TO_INCLUDE, &[OF_ADDRESS])]);
    // A change while another is told still.
    node.configure(ONE_NETWORK);
    node.configure(NO_NETWORK);
    node.configure(ONE_NETWORK);
    node.after(3 * SECOND_NS);
    let last = told(&node);
    assert_eq!(last[last.len() - 2..], [all(TO_EXCLUDE, &[OF_ADDRESS]), all(TO_EXCLUDE, &[OF_ADDRESS])]);
    // Another link may be behind the same port.
    let eth0 = dataplane::InterfaceId(0);
    node.router.set_link(eth0, false, node.now_ns);
    node.after(SECOND_NS);
    assert_eq!(told(&node), []);
    node.router.set_link(eth0, true, node.now_ns);
    node.after(3 * SECOND_NS);
    assert_eq!(told(&node), [joined.clone(), joined]);
}

#[test]
fn services_are_told_too() {
    let mut node = Node::configured(1, ONE_NETWORK);
    let address = |last: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 7, last).into();
    node.router.set_services((0..200).map(address).collect(), BTreeSet::new(), node.now_ns);
    node.after(3 * SECOND_NS);
    let told = told(&node);
    assert_eq!(told.len(), 8, "as many to a report as fit the least MTU, twice");
    let groups: BTreeSet<_> = told.iter().flatten().collect();
    assert_eq!((groups.len(), told.iter().map(BTreeSet::len).sum::<usize>()), (200, 400));
}

#[test]
fn queries_are_answered_in_time() {
    let groups = [ALL_ROUTERS, OF_LINK_LOCAL, OF_ADDRESS];
    let cases: [(&str, &[&str]); 3] = [("::", &groups), (OF_ADDRESS, &[OF_ADDRESS]), ("ff02::1:ff00:9", &[])];
    for version2 in [false, true] {
        for (group, answered) in cases {
            let mut node = Node::configured(1, ONE_NETWORK);
            // A flood of them is answered once.
            for _ in 0..20 {
                node.send(0, &query("fe80::9", 10_000, group, version2));
            }
            node.after(10 * SECOND_NS);
            let answers: Vec<_> = told(&node);
            let expected: Vec<_> =
                [all(IS_EXCLUDE, answered)].into_iter().filter(|a| !a.is_empty()).collect();
            assert_eq!(answers, expected, "{group} {version2}");
        }
    }
    // Whoever allows no delay gets no more than ten answers a second.
    let mut node = Node::configured(1, ONE_NETWORK);
    for _ in 0..100 {
        node.send(0, &query("fe80::9", 0, "::", true));
    }
    let answers = told(&node).len();
    assert!((2..=100 * 12 / 100 + 2).contains(&answers), "{answers}");
    // A floating-point delay: (0 | 0x1000) << 3 milliseconds.
    let mut node = Node::configured(1, ONE_NETWORK);
    node.send(0, &query("fe80::9", 0x8000, "::", true));
    node.after(33 * SECOND_NS);
    assert_eq!(told(&node).len(), 1);
}

#[test]
fn what_is_no_query_is_not_answered() {
    let good = query("fe80::9", 0, "::", true);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        frame
    };
    let mut damaged = good.clone();
    damaged[80] ^= 1;
    let cases = [
        ("not of this link", query("2001:db8::9", 0, "::", true), 0),
        ("of nobody", query("::", 0, "::", true), 0),
        ("through a router", changed(&|frame| frame[21] = 2), 0),
        ("no router alert", changed(&|frame| frame[56..62].copy_from_slice(&[1, 4, 0, 0, 0, 0])), 0),
        ("an alert for RSVP", changed(&|frame| frame[59] = 1), 0),
        ("not for a group", query("fe80::9", 0, "2001:db8::1", true), 0),
        ("damaged", damaged, 0),
        (
            "the alert behind its padding",
            changed(&|frame| frame[56..62].copy_from_slice(&[1, 0, 5, 2, 0, 0])),
            1,
        ),
        ("good", good.clone(), 1),
    ];
    for (why, frame, answers) in cases {
        let mut node = Node::configured(1, ONE_NETWORK);
        node.send(0, &frame);
        node.after(SECOND_NS);
        assert_eq!(told(&node).len(), answers, "{why}");
    }
    for length in 14..good.len() {
        let mut node = Node::configured(1, ONE_NETWORK);
        let mut frame = good[..length].to_vec();
        node.punt(&frame);
        // The same with lengths that agree.
        if length >= 66 {
            let payload = (length - 54) as u16;
            frame[18..20].copy_from_slice(&payload.to_be_bytes());
            summed(&mut frame);
            node.punt(&frame);
        }
        node.after(SECOND_NS);
        // 24 bytes are a query of version 1.
        assert_eq!(told(&node).len(), usize::from(length == 62 + 24), "{length} bytes");
    }
}
