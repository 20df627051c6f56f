//! Policies: what they protect, pass and discard, what must be encrypted, and what a tunnel without an interface brings.

use super::*;

#[test]
fn policies_protect_pass_and_discard() {
    let mut site = Site::new(false, |_| {});
    let selector = |destination| Selector::between(net("0.0.0.0/0"), net(destination));
    let out = |destination, action| Policy {
        direction: Direction::Outbound,
        selector: selector(destination),
        action,
    };
    let from = |source, action| Policy {
        direction: Direction::Inbound,
        selector: Selector::between(net(source), net("0.0.0.0/0")),
        action,
    };
    site.database.set_policies(vec![
        out("10.1.1.0/24", Action::Bypass),
        out("10.1.2.0/24", Action::Discard),
        out("10.1.0.0/16", Action::Protect(TUNNEL)),
        from("10.9.0.0/16", Action::Protect(TUNNEL)),
    ]);
    site.publish();
    let protected = udp4([10, 1, 7, 7], 64, 50);
    site.bed.send(0, &protected);
    let sent = site.bed.only_sent(1);
    assert_eq!(site.peer_opens(&sent[14..]), Ok(after_hop(&protected)));
    site.bed.send(0, &udp4([10, 1, 1, 7], 64, 50));
    assert_eq!(site.bed.only_sent(1)[30..34], [10, 1, 1, 7]);
    site.bed.send(0, &udp4([10, 1, 2, 7], 64, 50));
    // In the clear from where only encrypted packets may come; and encrypted.
    let mut clear = Vec::new();
    let builder = PacketBuilder::ethernet2(HOST1, MAC1).ipv4([10, 9, 0, 5], [10, 0, 0, 77], 9).udp(7, 8);
    builder.write(&mut clear, &[]).expect("a vector takes all");
    site.bed.send(1, &clear);
    site.bed.assert_nothing_sent();
    let frame = site.peer_seals(&from_behind(false));
    site.bed.send(1, &frame);
    assert_eq!(site.bed.only_sent(0)[30..34], [10, 0, 0, 77]);
    let drops = [(DropReason::IpsecDiscarded, 1), (DropReason::IpsecUnprotected, 1)];
    assert_eq!(site.bed.drops(), drops);

    // What is too long is cut to what the neighbour takes of the outer packet, and the hop is counted once.
    let long = udp4([10, 1, 7, 7], 64, 1440);
    site.bed.send(0, &long);
    let pieces = site.bed.sent(1);
    assert_eq!(pieces.len(), 2);
    assert!(pieces.iter().all(|piece| piece.len() <= 1514));
    assert_eq!(site.peer_opens(&pieces[0][14..]).expect("ours")[8], 63);
    site.bed.assert_balanced();
}

#[test]
fn must_encrypt_prefixes_are_never_reached_in_the_clear() {
    let mut site = Site::new(false, |_| {});
    site.database.set_must_encrypt(vec![net("10.9.0.0/16"), net("10.1.0.0/16"), net("10.0.1.0/24")]);
    site.publish();
    site.bed.send(0, &towards_tunnel(false, 10));
    assert_eq!(site.bed.only_sent(1)[23], 50);
    site.bed.send(0, &udp4([10, 1, 7, 7], 64, 50));
    // Also where the neighbour is not known, and what control sends.
    site.bed.send(0, &udp4([10, 0, 1, 200], 64, 50));
    let bytes = &udp4([10, 1, 7, 7], 64, 50)[14..];
    let inject = Inject::copy(&mut site.bed.pool.cache(), bytes, InjectTo::Forward4).expect("a buffer");
    assert!(site.bed.shared.inject(inject));
    site.bed.run();
    site.bed.assert_nothing_sent();
    assert_eq!(site.bed.drops(), [(DropReason::IpsecMustEncrypt, 3)]);
    // Nor by a policy that lets them pass.
    site.database.set_policies(vec![Policy {
        direction: Direction::Outbound,
        selector: Selector::between(net("0.0.0.0/0"), net("10.1.0.0/16")),
        action: Action::Bypass,
    }]);
    site.publish();
    site.bed.send(0, &udp4([10, 1, 7, 7], 64, 50));
    site.bed.assert_nothing_sent();
    assert_eq!(site.bed.drops(), [(DropReason::IpsecMustEncrypt, 4)]);
    site.bed.assert_balanced();
}

/// Who has the key of one tunnel may not send what is to come by another.
#[test]
fn what_is_to_come_by_one_tunnel_does_not_come_by_another() {
    let mut site = Site::new(false, |_| {});
    let other = TunnelId(TUNNEL.0 + 1);
    site.database.set_tunnel(other, Tunnel::default()).expect("a valid tunnel");
    for (wanted, passes) in [(TUNNEL, true), (other, false)] {
        site.database.set_policies(vec![Policy {
            direction: Direction::Inbound,
            selector: Selector::between(net("10.9.0.0/16"), net("0.0.0.0/0")),
            action: Action::Protect(wanted),
        }]);
        site.publish();
        let frame = site.peer_seals(&from_behind(false));
        site.bed.send(1, &frame);
        assert_eq!(site.bed.sent(0).len(), usize::from(passes), "{wanted:?}");
    }
    assert_eq!(site.bed.drops(), [(DropReason::IpsecUnprotected, 1)]);
    site.bed.assert_balanced();
}

#[test]
fn transport_mode_protects_between_hosts() {
    let mut site = Site::new(false, |parameters| {
        parameters.mode = Mode::Transport;
        parameters.df = DfPolicy::Set;
    });
    let any = Selector::between(net("10.0.1.1/32"), net("10.0.1.9/32"));
    site.protect(Direction::Outbound, any);
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 1, 1], [10, 0, 1, 9], 64).udp(9, 9);
    builder.write(&mut packet, b"hello").expect("a vector takes all");
    let inject = Inject::copy(&mut site.bed.pool.cache(), &packet, InjectTo::Forward4).expect("a buffer");
    assert!(site.bed.shared.inject(inject));
    site.bed.run();
    let sent = site.bed.only_sent(1);
    assert_eq!((sent[23], &sent[26..34]), (50, &packet[12..20]));
    assert_eq!(site.peer_opens(&sent[14..]), Ok(packet));

    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 1, 9], [10, 0, 1, 1], 64).udp(9, 10);
    builder.write(&mut packet, b"hello yourself").expect("a vector takes all");
    let frame = site.peer_seals(&packet);
    site.bed.send(1, &frame);
    let punts = site.bed.punts();
    assert_eq!((punts.len(), punts[0].packet.data()), (1, &packet[..]));
    drop(punts);
    site.bed.assert_balanced();
}

/// Neighbour discovery of the peer with this router is let in as it is; nothing else is, whatever it has in common with it.
#[test]
fn neighbours_are_found_whatever_policies_demand() {
    use etherparse::Icmpv6Type;
    let mut site = Site::new(true, |parameters| parameters.mode = Mode::Transport);
    let wanted = |destination| Policy {
        direction: Direction::Inbound,
        selector: Selector::between(net("2001:db8:1001::/48"), net(destination)),
        action: Action::Protect(TUNNEL),
    };
    site.database.set_policies(vec![wanted("2001:db8:1::1/128"), wanted("2001:db8::/64")]);
    site.publish();
    let frame = |destination: &str, hop_limit, kind, code, extension: Option<u8>| {
        let message = [&ip6_octets(LOCAL6)[..], &[1, 1, 2, 0, 0, 0, 1, 1]].concat();
        let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: [0; 4] };
        let mut frame = Vec::new();
        let builder =
            PacketBuilder::ethernet2(HOST1, MAC1).ipv6(ip6_octets(PEER6), ip6_octets(destination), hop_limit);
        builder.icmpv6(kind).write(&mut frame, &message).expect("a vector takes all");
        if let Some(extension) = extension {
            // Destination options or a fragment header, empty.
            frame[20] = extension;
            frame[19] += 8;
            let options = if extension == 60 { [58, 0, 1, 4, 0, 0, 0, 0] } else { [58, 0, 0, 0, 0, 0, 0, 1] };
            drop(frame.splice(54..54, options));
        }
        frame
    };
    for kind in 133..=137 {
        site.bed.send(1, &frame(LOCAL6, 255, kind, 0, None));
        let punts = site.bed.punts();
        assert_eq!((punts.len(), punts[0].packet.data()[40]), (1, kind));
    }
    for (destination, hop_limit, kind, code, extension) in [
        (LOCAL6, 254, 135, 0, None),
        (LOCAL6, 255, 135, 1, None),
        (LOCAL6, 255, 128, 0, None),
        (LOCAL6, 255, 132, 0, None),
        (LOCAL6, 255, 138, 0, None),
        (LOCAL6, 255, 135, 0, Some(60)),
        (LOCAL6, 255, 135, 0, Some(44)),
        // To be forwarded.
        ("2001:db8::77", 255, 135, 0, None),
    ] {
        site.bed.send(1, &frame(destination, hop_limit, kind, code, extension));
        assert!(site.bed.punts().is_empty(), "{destination} {hop_limit} {kind} {code} {extension:?}");
    }
    site.bed.assert_nothing_sent();
    assert_eq!(site.bed.drops(), [(DropReason::IpsecUnprotected, 8)]);
    site.bed.assert_balanced();
}

/// A peer whose tunnel has no interface, so that what it sends seems to come in on the outer link: neighbour discovery with
/// the highest hop limit, and all that is of a link's scope, is not believed.
#[test]
fn what_a_tunnel_brings_is_of_no_link() {
    use etherparse::Icmpv6Type;
    let link_local = "fe80::1";
    let group = "ff02::1";
    let ping = |source: &str, destination: &str| {
        let builder = PacketBuilder::ipv6(ip6_octets(source), ip6_octets(destination), 255);
        let mut packet = Vec::new();
        builder.icmpv6_echo_request(1, 2).write(&mut packet, b"ping").expect("a vector takes all");
        packet
    };
    let discovery = |kind: u8, source: &str, destination: &str, target: &str| {
        let message = [&ip6_octets(target)[..], &[2, 1, 2, 0, 0, 0, 6, 6]].concat();
        let kind = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0x60, 0, 0, 0] };
        let builder = PacketBuilder::ipv6(ip6_octets(source), ip6_octets(destination), 255).icmpv6(kind);
        let mut packet = Vec::new();
        builder.write(&mut packet, &message).expect("a vector takes all");
        packet
    };
    let udp = |source: [u8; 4], destination: [u8; 4]| {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4(source, destination, 9).udp(67, 68);
        builder.write(&mut packet, &[0; 300]).expect("a vector takes all");
        packet
    };
    for interface in [None, Some(IPSEC0.0)] {
        let mut site = Site::new(false, |_| {});
        let outbound = site.database.outbound(TUNNEL).expect("there is one").id();
        let tunnel = Tunnel { interface, outbound: Some(outbound), clamp_mss: false };
        site.database.set_tunnel(TUNNEL, tunnel).expect("a valid tunnel");
        site.publish();
        for kind in 133..=137 {
            let frame = site.peer_seals(&discovery(kind, PEER6, LOCAL6, PEER6));
            site.bed.send(1, &frame);
        }
        assert_eq!(site.bed.drops(), [(DropReason::NdMalformed, 5)]);
        for inner in [
            discovery(136, PEER6, group, PEER6),
            discovery(134, link_local, LOCAL6, link_local),
            discovery(135, PEER6, link_local, link_local),
            ping(link_local, LOCAL6),
            ping(PEER6, link_local),
            udp([10, 9, 0, 5], [255; 4]),
            udp([10, 9, 0, 5], [224, 0, 0, 1]),
            udp([169, 254, 0, 5], [10, 0, 1, 1]),
        ] {
            let frame = site.peer_seals(&inner);
            site.bed.send(1, &frame);
        }
        site.bed.assert_nothing_sent();
        assert!(site.bed.punts().is_empty());
        assert_eq!(site.bed.drops(), [(DropReason::NdMalformed, 5), (DropReason::EspBadInner, 8)]);
        // An ordinary packet for the node is taken.
        let frame = site.peer_seals(&ping("2001:db8:1009::5", LOCAL6));
        site.bed.send(1, &frame);
        assert_eq!(site.bed.sent(1).len(), 1);
        site.bed.assert_balanced();
    }
}
