//! A router on the outer path that says that a packet was too big (RFC 4301 §8.2): believed if it shows an SPI of ours, and
//! passed on to who sent the inner packet.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::frame::{self, Payload, Reassembly, Seen};
use lab::gateway::RIGHT;
use qemu_tests::Experiment;

use super::site::{LIMIT, Site, Variant, checksum};

const OVER4: Variant = Variant {
    algorithm: "aes128gcm16",
    key_bytes: 20,
    esn: true,
    tunnel: true,
    outer6: false,
    port: None,
    number: 1,
};
const OVER6: Variant =
    Variant { algorithm: "aes256-sha512", key_bytes: 96, outer6: true, number: 2, ..OVER4 };

/// Bytes of inner packets that are too long after the router spoke.
const LONG: usize = 1350;
const PORT: u16 = 7001;

pub fn a_routers_word_is_honoured(experiment: &Experiment) -> Result<()> {
    let mut site = Site::new(experiment, &[OVER4, OVER6])?;
    // Outer header, ESP header, IV, ICV; then the text in whole blocks, two bytes of which are the trailer.
    let over4 = (1000 - 20 - 8 - 8 - 16) / 4 * 4 - 2;
    let over6 = (1300 - 40 - 8 - 16 - 32) / 16 * 16 - 2;
    for (variant, outer_mtu, inner_mtu) in [(OVER4, 1000, over4), (OVER6, 1300, over6)] {
        check(&mut site, &variant, outer_mtu, inner_mtu).with_context(|| format!("{variant:?}"))?;
    }
    Ok(())
}

fn check(site: &mut Site, variant: &Variant, outer_mtu: u16, inner_mtu: u16) -> Result<()> {
    let (outer, _) = site.outbound(variant, LONG - 28)?;
    let mut foreign = outer.clone();
    let spi_at = if variant.outer6 { 40 } else { 20 };
    foreign[spi_at] ^= 1;
    site.send(&[too_big(&foreign, outer_mtu)])?;
    site.wait_for_marker()?;
    let _ = site.outbound(variant, LONG - 28).context("after a router's word about an SPI of nobody")?;
    site.send(&[too_big(&outer, outer_mtu)])?;
    site.wait_for_marker()?;
    // "Don't fragment": its sender is told.
    let ends = site.towards(variant);
    let mut long = frame::udp(&ends, PORT, PORT, &[7; LONG - 28]);
    frame::set_dont_fragment(&mut long, true);
    site.stations.left.wire().send(&long)?;
    let told = site.stations.left.receive(LIMIT, |seen| match seen {
        Seen::Ip(_, Payload::Icmp { kind: 3, code: 4, rest: [_, _, high, low], .. }) => {
            Some(u16::from_be_bytes([*high, *low]))
        }
        _ => None,
    })?;
    ensure!(told == Some(inner_mtu), "told {told:?}, not {inner_mtu}");
    // May be cut: it is, before it is encrypted, and each piece fits.
    frame::set_dont_fragment(&mut long, false);
    site.stations.left.wire().send(&long)?;
    let mut whole = Reassembly::default();
    loop {
        let outer = site.next_esp(variant)?;
        ensure!(outer.len() <= usize::from(outer_mtu), "an outer packet of {} bytes", outer.len());
        let piece = site.scapy.open(&variant.sa(true), &outer, 0)?;
        let frame = [&[0; 12][..], &[8, 0], &piece].concat();
        if let Some(done) = whole.add(&frame, usize::from(inner_mtu)) {
            ensure!(done?.ends_with(&[7; LONG - 28]), "another datagram");
            break;
        }
    }
    // Longer than control takes to look: the interface of the tunnel shows it.
    std::thread::sleep(Duration::from_secs(1));
    let tunnels = site.api.json("/v1/ipsec/tunnels")?;
    let own = tunnels["tunnels"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|one| one["name"] == variant.name().as_str());
    ensure!(own.is_some_and(|own| own["mtu"] == inner_mtu), "{own:?}");
    Ok(())
}

/// What a router sends that cannot pass `outer` on.
fn too_big(outer: &[u8], mtu: u16) -> Vec<u8> {
    let quoted = &outer[..outer.len().min(200)];
    let [high, low] = mtu.to_be_bytes();
    if outer[0] >> 4 == 4 {
        let mut icmp = [&[3, 4, 0, 0, 0, 0, high, low][..], quoted].concat();
        let sum = checksum(&[&icmp]);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let length = (20 + icmp.len()) as u16;
        let [l0, l1] = length.to_be_bytes();
        let mut header = vec![0x45, 0, l0, l1, 0, 0, 0, 0, 64, 1, 0, 0];
        header.extend(RIGHT.host4.octets());
        header.extend(&outer[12..16]);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        return [header, icmp].concat();
    }
    let router6 = RIGHT.host6;
    let mut icmp = [&[2, 0, 0, 0, 0, 0, high, low][..], quoted].concat();
    let length = (icmp.len() as u16).to_be_bytes();
    let own: Ipv6Addr = <[u8; 16]>::try_from(&outer[8..24]).expect("16 bytes").into();
    let sum = checksum(&[&router6.octets(), &own.octets(), &[0, 0], &length, &[0, 0, 0, 58], &icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [&[0x60, 0, 0, 0][..], &length, &[58, 64], &router6.octets(), &own.octets()].concat();
    [header, icmp].concat()
}
