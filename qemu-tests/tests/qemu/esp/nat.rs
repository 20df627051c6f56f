//! A peer behind a NAT, which has its outer addresses changed on the way, and in time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qemu_tests::Experiment;
use serde_json::{Value, json};

use super::site::{LIMIT, Site, Variant, checksum};

const TUNNEL: Variant = Variant {
    algorithm: "aes128gcm16",
    key_bytes: 20,
    esn: true,
    tunnel: true,
    outer6: false,
    port: Some(14_500),
    number: 1,
};
const TRANSPORT: Variant = Variant { tunnel: false, port: Some(4500), number: 2, ..TUNNEL };

/// The SA of packets that come from there.
fn moved(variant: &Variant, address: &str, port: u16) -> Value {
    let mut sa = variant.sa(false);
    sa["source"] = json!(address);
    sa["ports"][0] = json!(port);
    sa
}

/// Address and UDP port that an outer IPv4 packet goes to.
fn destination(outer: &[u8]) -> (IpAddr, u16) {
    let address: [u8; 4] = outer[16..20].try_into().expect("four bytes");
    (address.into(), u16::from_be_bytes([outer[22], outer[23]]))
}

/// Followed are address and port, by the newest authentic packet alone, and over a rekey.
pub fn a_moved_peer_is_followed(experiment: &Experiment) -> Result<()> {
    const PLACE: &str = "198.51.100.7";
    let mut site = Site::new(experiment, &[TUNNEL, TRANSPORT])?;
    let home = TUNNEL.ends().1;
    let there: IpAddr = PLACE.parse()?;
    receive(&mut site, &TUNNEL.sa(false), 10, &json!({}), true)?;
    receive(&mut site, &moved(&TUNNEL, PLACE, 40_000), 11, &json!({"flip": -1}), false)?;
    receive(&mut site, &moved(&TUNNEL, PLACE, 40_000), 9, &json!({}), true)?;
    // Longer than control takes to look.
    std::thread::sleep(Duration::from_secs(1));
    sends_to(&mut site, (home, 4500)).context("before the move")?;
    receive(&mut site, &moved(&TUNNEL, PLACE, 40_000), 12, &json!({}), true)?;
    let event = wait_for_move(&site)?;
    ensure!((&event["address"], &event["port"]) == (&json!(PLACE), &json!(40_000)), "{event}");
    sends_to(&mut site, (there, 40_000)).context("after the move")?;
    receive(&mut site, &moved(&TUNNEL, PLACE, 40_001), 13, &json!({}), true)?;
    let _ = wait_for(LIMIT, || {
        let all = site.api.json("/v1/ipsec/associations")?;
        let own = all["associations"].as_array().into_iter().flatten().find(|one| one["name"] == "out1");
        Ok(own.filter(|own| own["peer_port"] == 40_001).cloned())
    })?;
    sends_to(&mut site, (there, 40_001)).context("after the second move")?;
    // A key daemon's rekey.
    let mut rekeyed = TUNNEL.association(true);
    rekeyed["name"] = json!("out1b");
    let _ = site
        .api
        .post("/v1/ipsec/associations", "application/json", rekeyed.to_string().as_bytes())?
        .accepted()?;
    sends_to(&mut site, (there, 40_001)).context("after a rekey")?;
    keepalives_are_sent(&mut site).context("keepalives")?;
    checksums_are_renewed(&mut site).context("transport mode")
}

fn receive(site: &mut Site, sa: &Value, sequence: u64, change: &Value, passes: bool) -> Result<()> {
    let inner = site.inner(&TUNNEL, 40);
    let sent = site.scapy.seal(sa, &inner.packet, sequence, change)?;
    site.send(&sent)?;
    if passes {
        return site.expect(&TUNNEL, &inner).with_context(|| format!("sequence {sequence}"));
    }
    site.wait_for_marker()
}

fn sends_to(site: &mut Site, expected: (IpAddr, u16)) -> Result<()> {
    let (outer, inner) = site.outbound(&TUNNEL, 60)?;
    let to = destination(&outer);
    ensure!(to == expected, "it sends to {to:?}, not {expected:?}");
    // scapy does not see where a packet went: it opens what is in it.
    let mut sa = TUNNEL.sa(true);
    sa["destination"] = json!(to.0);
    ensure!(site.scapy.open(&sa, &outer, 0)? == inner, "another inner packet");
    Ok(())
}

fn wait_for_move(site: &Site) -> Result<Value> {
    wait_for(LIMIT, || {
        let events = site.api.json("/v1/ipsec/events")?;
        let mut all = events["events"].as_array().into_iter().flatten();
        Ok(all.find(|event| event["event"] == "peer-moved").cloned())
    })
}

fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "it does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A TCP SYN whose checksum is of the peer's private address, which the NAT has replaced: the node answers it.
fn checksums_are_renewed(site: &mut Site) -> Result<()> {
    let (node, peer) = TRANSPORT.ends();
    let (IpAddr::V4(node), IpAddr::V4(peer)) = (node, peer) else { unreachable!() };
    let private: [u8; 4] = [192, 168, 7, 7];
    let mut tcp = vec![0x30, 0x39, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 0x02, 0x20, 0, 0, 0, 0, 0];
    let checksum = checksum(&[&private, &node.octets(), &[0, 6, 0, tcp.len() as u8], &tcp]);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    // scapy fills in the header's checksum as it seals.
    let header = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    let packet = [&header[..], &peer.octets(), &node.octets(), &tcp].concat();
    let sent = site.scapy.seal(&TRANSPORT.sa(false), &packet, 1, &json!({}))?;
    site.send(&sent)?;
    let outer = site.next_esp(&TRANSPORT).context("no answer to the SYN")?;
    let answer = site.scapy.open(&TRANSPORT.sa(true), &outer, 0)?;
    let flags = answer.get(33).copied().unwrap_or_default();
    ensure!(answer.get(9) == Some(&6) && flags == 0x12, "no SYN and ACK: {answer:02x?}");
    Ok(())
}

/// At their interval while nothing else is sent, and none while something is (RFC 3948 §4).
fn keepalives_are_sent(site: &mut Site) -> Result<()> {
    const INTERVAL: Duration = Duration::from_secs(2);
    /// The node looks this often; the rest is the emulation's.
    const TOLERANCE: Duration = Duration::from_millis(500);
    let mut config = site.api.json("/v1/config")?;
    config["ipsec"]["tunnels"][0]["nat_traversal"]["keepalive_seconds"] = json!(INTERVAL.as_secs());
    let _ = site.api.put("/v1/config", &config)?.accepted()?;
    let mut times = Vec::new();
    while times.len() < 3 {
        ensure!(is_keepalive_seen(site, LIMIT)?, "{} keepalives come", times.len());
        times.push(Instant::now());
    }
    let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    ensure!(gaps.iter().all(|gap| *gap + TOLERANCE >= INTERVAL), "after {gaps:?}");
    let until = Instant::now() + 2 * INTERVAL;
    while Instant::now() < until {
        let _ = site.outbound(&TUNNEL, 60)?;
        ensure!(!is_keepalive_seen(site, INTERVAL / 8)?, "a keepalive beside other packets");
    }
    Ok(())
}

/// Waits for one from the tunnel's port to where the peer is now.
fn is_keepalive_seen(site: &Site, limit: Duration) -> Result<bool> {
    let ports = [14_500u16.to_be_bytes(), 40_001u16.to_be_bytes()].concat();
    let seen = site.stations.right.receive_frame(limit, |frame| {
        let is_one = frame.get(23) == Some(&17)
            && frame.get(34..38) == Some(&ports)
            && frame.get(38..40) == Some(&[0, 9])
            && frame.get(42) == Some(&0xff);
        is_one.then_some(())
    })?;
    Ok(seen.is_some())
}
