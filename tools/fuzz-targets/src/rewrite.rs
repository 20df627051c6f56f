//! What a load balancer does to any packet: translation there and back, of ICMP errors too, the shorter way for usual
//! packets, outer headers.
//!
//! The input is the ends of the other flow, the sort of tunnel, and the packet. What is refused stays as it was; what is
//! translated is the other flow's, right if it was right before, and comes back as it was; the shorter way does what the
//! longer one does.

use flow::{V4, V6};
use packet::{icmpv4, icmpv6, protocol};
use rewrite::{Fragment, Outer, Plain, Transport, Tunnel, Tuple, View, translate, translate_error};

use crate::input::Input;
use crate::transport;

/// Feeds `data`.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (what, hash) = (input.byte(), u64::from(input.word()) << 48);
    let ports = (input.word(), input.word());
    let mut ends = [0; 32];
    ends.iter_mut().zip(input.bytes(32)).for_each(|(to, from)| *to = *from);
    let mut packet = input.bytes(usize::MAX).to_vec();
    let is_right = what & 1 != 0 && transport::correct(&mut packet);
    let parsed = View::parse(&packet);
    if let Ok(view) = parsed {
        let to = other(&view, ports, &ends);
        there_and_back(&packet, &view, &to, is_right);
        error(&packet, &view, &to, is_right);
    }
    usual::<V4>(&packet, &ends, ports);
    usual::<V6>(&packet, &ends, ports);
    tunnel(&packet, what, hash, &ends);
}

/// A flow of the same protocol between other ends; of an echo one port is 0.
fn other(view: &View, ports: (u16, u16), ends: &[u8; 32]) -> Tuple {
    let asks = matches!(view.icmp.0, icmpv4::ECHO_REQUEST | icmpv6::ECHO_REQUEST);
    let (source_port, destination_port) = match view.transport {
        Transport::Echo if asks => (ports.0, 0),
        Transport::Echo => (0, ports.1),
        Transport::Tcp(_) | Transport::Udp | Transport::Sctp => ports,
        _ => (0, 0),
    };
    match view.tuple {
        Tuple::V4(key) => Tuple::V4(V4 {
            source: [ends[0], ends[1], ends[2], ends[3]],
            destination: [ends[16], ends[17], ends[18], ends[19]],
            source_port,
            destination_port,
            ..key
        }),
        Tuple::V6(key) => Tuple::V6(V6 {
            source: std::array::from_fn(|at| ends[at]),
            destination: std::array::from_fn(|at| ends[at + 16]),
            source_port,
            destination_port,
            ..key
        }),
    }
}

fn there_and_back(packet: &[u8], view: &View, to: &Tuple, is_right: bool) {
    let mut changed = packet.to_vec();
    if let Err(refused) = translate(&mut changed, view, to) {
        assert_eq!(changed, packet, "refused ({refused:?}), and changed nevertheless");
        return;
    }
    let Ok(after) = View::parse(&changed) else { panic!("what was a packet is none") };
    assert_eq!(after, View { tuple: *to, ..*view });
    // Of what has no ports and is no ICMP that is known, only the addresses are translated.
    let is_right = is_right && view.transport != Transport::Other;
    assert!(
        !is_right || transport::is_right(&changed),
        "a checksum was right in {packet:02x?} and is not in {changed:02x?}"
    );
    // A checksum of SCTP that comes to be zero looks like none (RFC 9653 §5.2), and is not updated on the way back.
    let checksum = |packet: &[u8]| packet.get(view.transport_offset + 8..)?.first_chunk::<4>().copied();
    let came_to_zero = view.transport == Transport::Sctp && checksum(&changed) == Some([0; 4]);
    assert_eq!(translate(&mut changed, &after, &view.tuple), Ok(()));
    if !came_to_zero || checksum(packet) == Some([0; 4]) {
        assert_same(&changed, packet);
    }
}

/// The same but for sums of zero, which have two forms.
fn assert_same(a: &[u8], b: &[u8]) {
    assert_eq!(a.len(), b.len());
    let different = a.iter().zip(b).filter(|(a, b)| a != b);
    let pairs: Vec<(u8, u8)> = different.map(|(a, b)| (*a, *b)).collect();
    assert!(
        pairs.len() <= 8 && pairs.iter().all(|pair| matches!(pair, (0, 0xff) | (0xff, 0))),
        "{a:02x?} is not {b:02x?}"
    );
}

/// `original` is the flow that the packet inside had before.
fn error(packet: &[u8], view: &View, to: &Tuple, is_right: bool) {
    let Transport::Error(offset) = view.transport else {
        let mut changed = packet.to_vec();
        assert!(translate_error(&mut changed, view, to).is_err());
        assert_eq!(changed, packet);
        return;
    };
    let Ok(about) = View::parse_embedded(&packet[offset..]) else { return };
    let source = to.source();
    let original = about.tuple.with_source(source).unwrap_or(*to);
    let mut changed = packet.to_vec();
    match translate_error(&mut changed, view, &original) {
        Ok(()) => {
            let Ok(after) = View::parse(&changed) else { panic!("what was an error is none") };
            assert_eq!(after.tuple.destination().ip(), source.ip(), "the sender is not told");
            let Ok(inside) = View::parse_embedded(&changed[offset..]) else { panic!("nothing is inside") };
            let ports = if has_ports(&about) { original.ports() } else { about.tuple.ports() };
            assert_eq!((inside.tuple.source().ip(), inside.tuple.ports()), (source.ip(), ports));
            let is_odd = ends_within_checksum(packet, offset, &about);
            assert!(!is_right || is_odd || transport::is_right(&changed), "an error's checksum became wrong");
        }
        Err(refused) => assert_eq!(changed, packet, "refused ({refused:?}), and changed nevertheless"),
    }
}

fn has_ports(view: &View) -> bool {
    matches!(view.transport, Transport::Tcp(_) | Transport::Udp | Transport::Sctp | Transport::Echo)
}

/// Half a checksum that an error has sent back cannot be made right.
fn ends_within_checksum(packet: &[u8], offset: usize, about: &View) -> bool {
    let bytes = packet.len().saturating_sub(offset + about.transport_offset);
    match about.transport {
        Transport::Tcp(_) => bytes == 17,
        Transport::Sctp => (9..12).contains(&bytes),
        _ => false,
    }
}

fn usual<K: Plain + TryFrom<Tuple>>(packet: &[u8], ends: &[u8; 32], ports: (u16, u16)) {
    let Some((key, observed)) = K::read(packet) else { return };
    let Ok(view) = View::parse(packet) else { panic!("a usual packet is none") };
    assert_eq!(key.view(observed), View { identification: 0, ..view });
    assert_eq!(view.fragment, Fragment::Whole);
    let to = other(&view, ports, ends);
    let Ok(other) = K::try_from(to) else { panic!("the other flow is of another family") };
    let (mut short, mut long) = (packet.to_vec(), packet.to_vec());
    other.write(&key, &mut short);
    assert_eq!(translate(&mut long, &view, &to), Ok(()));
    assert_eq!(short, long, "the shorter way leads elsewhere");
}

fn tunnel(packet: &[u8], what: u8, hash: u64, ends: &[u8; 32]) {
    let outer = if what & 2 == 0 {
        Outer::V4([ends[0], ends[1], ends[2], ends[3]], [ends[16], ends[17], ends[18], ends[19]])
    } else {
        Outer::V6(std::array::from_fn(|at| ends[at]), std::array::from_fn(|at| ends[at + 16]))
    };
    let gue_port = (what & 4 != 0).then_some(6080);
    let tunnel = Tunnel::new(outer, gue_port);
    let mut whole = vec![0; tunnel.overhead_bytes()];
    whole.extend_from_slice(packet);
    if tunnel.put(&mut whole, packet.len(), hash).is_err() {
        return;
    }
    assert!(transport::is_right(&whole), "an outer header's checksum is wrong");
    let Ok(view) = View::parse(&whole) else { panic!("an outer header is none") };
    assert_eq!((view.transport == Transport::Udp, view.fragment), (gue_port.is_some(), Fragment::Whole));
    if gue_port.is_some() {
        assert_eq!((view.tuple.protocol(), view.tuple.ports().1), (protocol::UDP, 6080));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sort_of_packet_is_kept() {
        let mut seen = Vec::new();
        for input in crate::corpus::load("rewrite").unwrap() {
            super::run(&input.data);
            let Ok(view) = View::parse(input.data.get(39..).unwrap_or_default()) else { continue };
            seen.push((
                std::mem::discriminant(&view.transport),
                view.fragment,
                matches!(view.tuple, Tuple::V4(_)),
            ));
        }
        for transport in
            [Transport::Tcp(0), Transport::Udp, Transport::Sctp, Transport::Echo, Transport::Error(0)]
        {
            let transport = std::mem::discriminant(&transport);
            for is_v4 in [true, false] {
                assert!(seen.contains(&(transport, Fragment::Whole, is_v4)), "{transport:?} {is_v4}");
            }
        }
        assert!(seen.iter().any(|(_, fragment, _)| *fragment == Fragment::First));
        assert!(seen.iter().any(|(_, fragment, _)| *fragment == Fragment::Later));
    }
}
