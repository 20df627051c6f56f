//! What happens to packets between two stations on frame sockets.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::frame::{self, Payload, Seen};
use lab::gateway::{self, LEFT, RIGHT, Stations};
use qemu_tests::Experiment;

const LIMIT: Duration = Duration::from_secs(10);

/// UDP port of all datagrams here.
const PORT: u16 = 4000;

pub fn both_families_on_one_core(experiment: &Experiment) -> Result<()> {
    let (_vm, stations) = experiment.gateway()?;
    datagrams_cross(&stations)?;
    listens_to_groups(&stations)
}

/// A switch that asks on the link who listens to which groups (RFC 2710) is told (RFC 3810).
fn listens_to_groups(stations: &Stations) -> Result<()> {
    let left = &stations.left;
    let to_all = [0x33, 0x33, 0, 0, 0, 1];
    let ethernet = [&to_all[..], &left.mac, &[0x86, 0xdd]].concat();
    let (source, destination): (Ipv6Addr, Ipv6Addr) = ("fe80::1".parse()?, "ff02::1".parse()?);
    let ipv6 = [&[0x60, 0, 0, 0, 0, 32, 0, 1][..], &source.octets(), &destination.octets()].concat();
    // A router alert, and the question about every group, to be answered at once.
    let message = [58, 0, 5, 2, 0, 0, 1, 0, 130, 0, 0x80, 0x27, 0, 0, 0, 0];
    left.wire().send(&[&ethernet, &ipv6, &message[..], &[0; 16]].concat())?;
    let IpAddr::V6(node) = LEFT.nodes()[1] else { bail!("the second address is of IPv6") };
    let own = node.octets();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, own[13], own[14], own[15]];
    let record = [&[2, 0, 0, 0][..], &group].concat();
    let told = left.receive_frame(LIMIT, |frame| {
        let is_report = frame.get(20) == Some(&0) && frame.get(62) == Some(&143);
        (is_report && frame.windows(record.len()).any(|window| window == record)).then_some(())
    })?;
    told.context("nobody says that the node listens to the group of its address")
}

pub fn both_families_on_two_cores(experiment: &Experiment) -> Result<()> {
    let (_vm, stations) = experiment.gateway_with(|machine| machine.smp(2), |nic| nic)?;
    datagrams_cross(&stations)
}

/// Two workers, one queue pair in each card: what one routes, the other sends.
pub fn both_families_on_two_workers(experiment: &Experiment) -> Result<()> {
    let (vm, stations) = experiment.gateway_with(|machine| machine.smp(3), |nic| nic)?;
    datagrams_cross(&stations)?;
    let counters = vm.api(gateway::TOKEN)?.json("/v1/counters")?;
    let workers = counters["workers"].as_array().context("no workers")?;
    ensure!(workers.len() == 2, "{} workers on three cores", workers.len());
    for worker in workers {
        let mut nodes = worker["nodes"].as_array().context("no nodes")?.iter();
        let handed = nodes.find(|node| node["node"] == "handoff-input").context("no handoff-input")?;
        ensure!(handed["packets"].as_u64() > Some(0), "nothing was handed over: {worker}");
    }
    Ok(())
}

/// Cards with one pair of queues each, which different workers have: a packet must wake the right one.
pub fn both_families_on_four_cores(experiment: &Experiment) -> Result<()> {
    let (_vm, stations) = experiment.gateway_with(|machine| machine.smp(4), |nic| nic)?;
    for _ in 0..3 {
        datagrams_cross(&stations)?;
        // Long enough for every worker to fall asleep.
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// Datagrams of many sizes cross in both directions, unchanged but for what a router changes.
pub fn datagrams_cross(stations: &Stations) -> Result<()> {
    let (left, right) = (&stations.left, &stations.right);
    for (from, to, near, far) in [(left, right, LEFT, RIGHT), (right, left, RIGHT, LEFT)] {
        for (node, destination) in near.nodes().into_iter().zip(far.hosts()) {
            let gateway_mac = from.resolve(node)?;
            for size in [0, 1, 18, 64, 511, 1000, 1452] {
                let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
                let sent = from.ends(gateway_mac, destination, 64);
                from.wire().send(&frame::udp(&sent, 1000, PORT, &data))?;
                let (got, received) = to
                    .receive_udp(PORT, LIMIT)?
                    .with_context(|| format!("{size} bytes to {destination} do not arrive"))?;
                ensure!(received == data, "{size} bytes to {destination} arrive changed");
                ensure!(
                    (got.source, got.destination) == (sent.source, sent.destination),
                    "addresses: {got:?}"
                );
                ensure!(got.hop_limit == 63, "hop limit: {got:?}");
                ensure!(got.destination_mac == to.mac, "not addressed to the host: {got:?}");
            }
        }
    }
    Ok(())
}

pub fn expired_hop_limit_is_reported(experiment: &Experiment) -> Result<()> {
    let (_vm, stations) = experiment.gateway()?;
    let left = &stations.left;
    for (node, destination) in LEFT.nodes().into_iter().zip(RIGHT.hosts()) {
        let ends = left.ends(left.resolve(node)?, destination, 1);
        left.wire().send(&frame::udp(&ends, 1000, PORT, b"one hop only"))?;
        let expected = match destination {
            IpAddr::V4(_) => frame::ICMP4_TIME_EXCEEDED,
            IpAddr::V6(_) => frame::ICMP6_TIME_EXCEEDED,
        };
        let (from, quoted) = left
            .receive(LIMIT, |seen| match seen {
                Seen::Ip(ends, Payload::Icmp { kind, code: 0, data, .. }) if *kind == expected => {
                    Some((ends.source, data.clone()))
                }
                _ => None,
            })?
            .with_context(|| format!("no time exceeded about {destination}"))?;
        ensure!(from == node, "time exceeded comes from {from}, not {node}");
        ensure!(contains(&quoted, b"\x03\xe8"), "the offending packet is not quoted");
    }
    Ok(())
}

pub fn node_answers_echo_requests(experiment: &Experiment) -> Result<()> {
    let (_vm, stations) = experiment.gateway()?;
    let left = &stations.left;
    // The address on this link and the one on the far side.
    for (near, target) in
        LEFT.nodes().into_iter().chain(LEFT.nodes()).zip(LEFT.nodes().into_iter().chain(RIGHT.nodes()))
    {
        let ends = left.ends(left.resolve(near)?, target, 64);
        left.wire().send(&frame::echo_request(&ends, 77, 5, b"are you there"))?;
        let expected = if target.is_ipv4() { frame::ICMP4_ECHO_REPLY } else { frame::ICMP6_ECHO_REPLY };
        let answer = left.receive(LIMIT, |seen| match seen {
            Seen::Ip(ends, Payload::Icmp { kind, rest: [0, 77, 0, 5], data, .. }) if *kind == expected => {
                Some((ends.source, data.clone()))
            }
            _ => None,
        })?;
        ensure!(answer == Some((target, b"are you there".to_vec())), "{target} answers {answer:?}");
    }
    Ok(())
}

/// Lowers the MTU of the right interface over the API.
fn gateway_with_small_right_mtu(experiment: &Experiment, mtu: u16) -> Result<(lab::Vm, Stations)> {
    let (vm, stations) = experiment.gateway()?;
    let mut config = gateway::config();
    config["interfaces"][2]["mtu"] = mtu.into();
    let _ = vm.api(gateway::TOKEN)?.put("/v1/config", &config)?.accepted()?;
    Ok((vm, stations))
}

pub fn ipv4_is_fragmented_or_refused(experiment: &Experiment) -> Result<()> {
    const MTU: u16 = 1280;
    let (_vm, stations) = gateway_with_small_right_mtu(experiment, MTU)?;
    let (left, right) = (&stations.left, &stations.right);
    let data: Vec<u8> = (0..1400_u32).map(|i| (i * 7) as u8).collect();
    let ends = left.ends(left.resolve(LEFT.node4.into())?, RIGHT.host4.into(), 64);
    // The neighbour is known before the MTU matters.
    left.wire().send(&frame::udp(&ends, 1000, PORT, b"fits"))?;
    ensure!(right.receive_udp(PORT, LIMIT)?.is_some(), "a small packet does not arrive");
    let mut whole = frame::udp(&ends, 1000, PORT, &data);

    frame::set_dont_fragment(&mut whole, true);
    left.wire().send(&whole)?;
    let refused = left.receive(LIMIT, |seen| match seen {
        Seen::Ip(ends, Payload::Icmp { kind: frame::ICMP4_UNREACHABLE, code: 4, rest, .. }) => {
            Some((ends.source, u16::from_be_bytes([rest[2], rest[3]])))
        }
        _ => None,
    })?;
    ensure!(refused == Some((LEFT.node4.into(), MTU)), "fragmentation needed: {refused:?}");

    frame::set_dont_fragment(&mut whole, false);
    left.wire().send(&whole)?;
    let mut fragments = lab::frame::Reassembly::default();
    let reassembled = right.wire().receive_some(LIMIT, |frame| fragments.add(frame, usize::from(MTU)))?;
    let reassembled = reassembled.context("the fragments do not make a whole")??;
    // What the fragments carry is the UDP header and the data.
    ensure!(reassembled[8..] == data, "the fragments make something else");
    Ok(())
}

pub fn ipv6_packet_too_big(experiment: &Experiment) -> Result<()> {
    const MTU: u16 = 1300;
    let (_vm, stations) = gateway_with_small_right_mtu(experiment, MTU)?;
    let (left, right) = (&stations.left, &stations.right);
    let ends = left.ends(left.resolve(LEFT.node6.into())?, RIGHT.host6.into(), 64);
    // A packet of exactly the MTU passes, one byte more does not.
    let fitting = vec![1; usize::from(MTU) - 40 - 8];
    left.wire().send(&frame::udp(&ends, 1000, PORT, &fitting))?;
    let received =
        right.receive_udp(PORT, LIMIT)?.context("a packet of the size of the MTU does not arrive")?;
    ensure!(received.1 == fitting, "it arrives changed");
    left.wire().send(&frame::udp(&ends, 1000, PORT, &vec![2; fitting.len() + 1]))?;
    let told = left.receive(LIMIT, |seen| match seen {
        Seen::Ip(ends, Payload::Icmp { kind: frame::ICMP6_PACKET_TOO_BIG, code: 0, rest, .. }) => {
            Some((ends.source, u32::from_be_bytes(*rest)))
        }
        _ => None,
    })?;
    ensure!(told == Some((LEFT.node6.into(), u32::from(MTU))), "packet too big: {told:?}");
    Ok(())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
