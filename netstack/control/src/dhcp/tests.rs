//! The client against a server that is made of smoltcp's wire formats.

use super::*;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::*;
use std::net::Ipv4Addr;

const SECOND_NS: u64 = 1_000_000_000;
const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

fn client() -> Client {
    Client::new(MAC, "gw1", 42, 0)
}

/// The message in what a client sent.
fn sent(output: Option<Output>) -> (bool, Ipv4Addr, Vec<u8>) {
    let (is_broadcast, packet) = match output.expect("the client says nothing") {
        Output::Frame(frame) => {
            let frame = EthernetFrame::new_checked(&frame[..]).unwrap();
            assert_eq!(
                (frame.dst_addr(), frame.src_addr()),
                (EthernetAddress::BROADCAST, EthernetAddress(MAC))
            );
            (true, frame.payload().to_vec())
        }
        Output::Packet(packet) => (false, packet),
    };
    let ip = Ipv4Packet::new_checked(&packet[..]).unwrap();
    assert!(ip.verify_checksum());
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
    assert_eq!((udp.src_port(), udp.dst_port()), (68, 67));
    (is_broadcast, ip.dst_addr(), udp.payload().to_vec())
}

fn kind(message: &[u8]) -> DhcpMessageType {
    DhcpRepr::parse(&DhcpPacket::new_checked(message).unwrap()).unwrap().message_type
}

/// What a server answers to `request`.
pub(crate) fn answer(
    request: &[u8],
    kind: DhcpMessageType,
    lease_seconds: Option<u32>,
    more: &[DhcpOption<'_>],
) -> Vec<u8> {
    let request = DhcpPacket::new_checked(request).unwrap();
    let dhcp = DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id(),
        secs: 0,
        client_hardware_address: request.client_hardware_address(),
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: ADDRESS,
        server_ip: SERVER,
        router: Some(SERVER),
        subnet_mask: Some([255, 255, 255, 0].into()),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: true,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(SERVER),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: lease_seconds,
        renew_duration: None,
        rebind_duration: None,
        additional_options: more,
    };
    let udp = UdpRepr { src_port: 67, dst_port: 68 };
    let payload_len = udp.header_len() + dhcp.buffer_len();
    let ip = Ipv4Repr {
        src_addr: SERVER,
        dst_addr: Ipv4Addr::BROADCAST,
        next_header: IpProtocol::Udp,
        payload_len,
        hop_limit: 64,
    };
    let mut bytes = vec![0; ip.buffer_len() + payload_len];
    let checksums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
    ip.emit(&mut packet, &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(packet.payload_mut()),
        &SERVER.into(),
        &Ipv4Addr::BROADCAST.into(),
        dhcp.buffer_len(),
        |payload| dhcp.emit(&mut DhcpPacket::new_unchecked(payload)).unwrap(),
        &checksums,
    );
    bytes
}

/// A client that got a lease at time 0.
fn bound(lease_seconds: u32) -> Client {
    let mut client = client();
    let (_, _, discover) = sent(client.poll(0).0);
    let (_, _, request) =
        sent(client.receive(&answer(&discover, DhcpMessageType::Offer, Some(lease_seconds), &[]), 0).0);
    let event = client.receive(&answer(&request, DhcpMessageType::Ack, Some(lease_seconds), &[]), 0).1;
    assert!(matches!(event, Some(Event::Bound(_))));
    client
}

#[test]
fn gets_a_lease() {
    let mut client = client();
    let (is_broadcast, _, discover) = sent(client.poll(0).0);
    assert!(is_broadcast);
    let packet = DhcpPacket::new_checked(&discover[..]).unwrap();
    let repr = DhcpRepr::parse(&packet).unwrap();
    assert_eq!((repr.message_type, repr.broadcast), (DhcpMessageType::Discover, true));
    let host_name =
        DhcpPacket::new_checked(&discover[..]).unwrap().options().any(|o| o.kind == 12 && o.data == b"gw1");
    assert!(host_name);
    let (output, event) = client.receive(&answer(&discover, DhcpMessageType::Offer, Some(3600), &[]), 0);
    assert_eq!(event, None);
    let (_, _, request) = sent(output);
    let packet = DhcpPacket::new_checked(&request[..]).unwrap();
    let repr = DhcpRepr::parse(&packet).unwrap();
    assert_eq!((repr.requested_ip, repr.server_identifier), (Some(ADDRESS), Some(SERVER)));
    let options = [
        DhcpOption { kind: 26, data: &[5, 120] },
        DhcpOption { kind: 121, data: &[0, 10, 0, 0, 1, 8, 11, 10, 0, 0, 2] },
    ];
    let (_, event) = client.receive(&answer(&request, DhcpMessageType::Ack, Some(3600), &options), 0);
    let lease = Lease {
        address: "10.0.0.7/24".parse().unwrap(),
        routes: vec![
            ("0.0.0.0/0".parse().unwrap(), [10, 0, 0, 1].into()),
            ("11.0.0.0/8".parse().unwrap(), [10, 0, 0, 2].into()),
        ],
        mtu: Some(1400),
        server: SERVER,
        seconds: Some(3600),
    };
    assert_eq!(event, Some(Event::Bound(lease)));
    assert_eq!((client.state_name(), client.next_deadline_ns()), ("bound", 1800 * SECOND_NS));
}

#[test]
fn repeats_ever_slower_and_gives_a_silent_server_up() {
    let mut client = client();
    let mut times = Vec::new();
    for _ in 0..7 {
        let now_ns = client.next_deadline_ns();
        times.push(now_ns / SECOND_NS);
        let (_, _, message) = sent(client.poll(now_ns).0);
        assert_eq!(kind(&message), DhcpMessageType::Discover);
        assert_eq!(client.poll(now_ns), (None, None));
    }
    for (pair, wanted) in times.windows(2).zip([4, 8, 16, 32, 64, 64]) {
        assert!((pair[1] - pair[0]).abs_diff(wanted) <= 1, "{times:?}");
    }
    let now_ns = client.next_deadline_ns();
    let (_, _, discover) = sent(client.poll(now_ns).0);
    let mut output = client.receive(&answer(&discover, DhcpMessageType::Offer, Some(60), &[]), now_ns).0;
    for _ in 0..4 {
        assert_eq!(kind(&sent(output).2), DhcpMessageType::Request);
        output = client.poll(client.next_deadline_ns()).0;
    }
    assert_eq!((output, client.state_name()), (None, "init"));
    let (_, _, again) = sent(client.poll(client.next_deadline_ns()).0);
    assert_ne!(
        DhcpPacket::new_checked(&again[..]).unwrap().transaction_id(),
        DhcpPacket::new_checked(&discover[..]).unwrap().transaction_id()
    );
}

#[test]
fn renews_then_rebinds_then_loses() {
    let mut client = bound(1000);
    let (is_broadcast, to, renew) = sent(client.poll(500 * SECOND_NS).0);
    assert_eq!((is_broadcast, to, kind(&renew)), (false, SERVER, DhcpMessageType::Request));
    let packet = DhcpPacket::new_checked(&renew[..]).unwrap();
    let repr = DhcpRepr::parse(&packet).unwrap();
    assert_eq!((repr.client_ip, repr.requested_ip, repr.server_identifier), (ADDRESS, None, None));
    // The same again is no news.
    let ack = answer(&renew, DhcpMessageType::Ack, Some(1000), &[]);
    assert_eq!(client.receive(&ack, 500 * SECOND_NS), (None, None));
    assert_eq!(client.next_deadline_ns(), 1000 * SECOND_NS);
    let (mut now_ns, mut broadcasts, mut unicasts) = (0, 0, 0);
    loop {
        assert!(client.next_deadline_ns() > now_ns);
        now_ns = client.next_deadline_ns();
        let (output, event) = client.poll(now_ns);
        if event == Some(Event::Lost) {
            break;
        }
        if sent(output).0 { broadcasts += 1 } else { unicasts += 1 }
    }
    assert_eq!((now_ns, client.state_name()), (1500 * SECOND_NS, "init"));
    assert!(unicasts >= 2 && broadcasts >= 1, "{unicasts} {broadcasts}");
}

#[test]
fn believes_a_refusal() {
    let mut client = bound(1000);
    let (_, _, renew) = sent(client.poll(500 * SECOND_NS).0);
    let (_, event) = client.receive(&answer(&renew, DhcpMessageType::Nak, None, &[]), 500 * SECOND_NS);
    assert_eq!((event, client.lease()), (Some(Event::Lost), None));
    assert_eq!(client.next_deadline_ns(), 501 * SECOND_NS);
}

#[test]
fn a_lease_for_ever_is_never_renewed_and_a_short_one_not_in_a_storm() {
    assert_eq!(bound(u32::MAX).next_deadline_ns(), u64::MAX);
    assert_eq!(bound(0).next_deadline_ns(), 30 * SECOND_NS);
    let mut client = bound(u32::MAX);
    client.link_up(7 * SECOND_NS);
    assert_eq!(kind(&sent(client.poll(7 * SECOND_NS).0).2), DhcpMessageType::Request);
}

#[test]
fn ignores_what_is_not_for_it() {
    let mut client = client();
    let (_, _, discover) = sent(client.poll(0).0);
    let offer = answer(&discover, DhcpMessageType::Offer, Some(60), &[]);
    for (at, what) in [
        (9, "protocol"),
        (20 + 1, "port"),
        (28 + 4, "transaction"),
        (28 + 28, "hardware address"),
        (28 + 236, "cookie"),
    ] {
        let mut other = offer.clone();
        other[at] ^= 1;
        assert_eq!(client.receive(&other, 0), (None, None), "{what}");
    }
    assert_eq!(client.receive(&answer(&discover, DhcpMessageType::Ack, Some(60), &[]), 0), (None, None));
    assert!(client.receive(&offer, 0).0.is_some());
}

proptest! {
    /// Answers with any bytes changed, at any time, in any state: no panic, and time always leads on.
    #[test]
    fn mutated_answers_never_hurt(steps in prop::collection::vec((any::<u8>(), prop::collection::vec((28usize..300, any::<u8>()), 0..4)), 1..30)) {
        let mut client = client();
        let (mut now_ns, mut last) = (0, None);
        for (kind, changes) in steps {
            now_ns = now_ns.max(client.next_deadline_ns().min(now_ns + 100 * SECOND_NS));
            if let Some(output) = client.poll(now_ns).0 {
                last = Some(sent(Some(output)).2);
            }
            prop_assert!(client.next_deadline_ns() > now_ns || client.state_name() == "init");
            let kinds = [DhcpMessageType::Offer, DhcpMessageType::Ack, DhcpMessageType::Nak];
            if let Some(request) = &last {
                let mut packet = answer(request, kinds[usize::from(kind) % 3], Some(u32::from(kind) * 10), &[]);
                for (at, byte) in changes {
                    if let Some(place) = packet.get_mut(at) {
                        *place = byte;
                    }
                }
                if let (Some(output), _) = client.receive(&packet, now_ns) {
                    last = Some(sent(Some(output)).2);
                }
            }
        }
    }
}
