//! Several tunnels for one network: its route has as many ways, and flows are spread over them.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::case::Case;
use super::site::{BEHIND4, LIMIT, PYTHON, Site};

const FLOWS: u64 = 64;
/// Packets of a single flow.
const PACKETS: u64 = 20;

/// Echo of datagrams at port 7002: of as many sockets as the first number says, of each as many as the second says.
const SENDER: &str = r#"
import socket, sys
flows, packets = int(sys.argv[1]), int(sys.argv[2])
for _ in range(flows):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.settimeout(10)
        own.connect((sys.argv[3], 7002))
        for number in range(packets):
            own.send(b"%d" % number)
            assert own.recv(100) == b"%d" % number
"#;

/// Two tunnels between the same ends, with associations of their own.
pub fn tunnels_share_a_route(site: &mut Site) -> Result<()> {
    let (first, second) = (Case::plain(0, true, 223), Case::plain(6, true, 224));
    site.encapsulate(None)?;
    site.xfrm(&format!("{}{}", first.xfrm(), second.states("add")))?;
    let (mut config, mut other) = (first.config(), second.config());
    other["ipsec"]["tunnels"][0]["name"] = json!("ipsec1");
    other["ipsec"]["tunnels"][0]["addresses"] = json!([]);
    for association in other["ipsec"]["associations"].as_array_mut().context("no associations")? {
        association["tunnel"] = json!("ipsec1");
        association["name"] = json!(format!("{}1", association["name"].as_str().unwrap_or_default()));
    }
    for kind in ["tunnels", "associations"] {
        let more = other["ipsec"][kind].as_array().cloned().context("a list")?;
        config["ipsec"][kind].as_array_mut().context("a list")?.extend(more);
    }
    config["routes"][0]["via"] = json!([{"interface": "ipsec0"}, {"interface": "ipsec1"}]);
    let _ = site.api.put("/v1/config", &config)?.accepted()?;
    let before = counters(site)?;
    send(site, FLOWS, 1)?;
    let [tx, rx] = since(site, before)?;
    ensure!(tx.iter().sum::<u64>() == FLOWS && tx.iter().all(|count| *count >= FLOWS / 8), "sent: {tx:?}");
    ensure!(rx.iter().sum::<u64>() == FLOWS, "received: {rx:?}");
    // Packets of one flow keep their order: they take one way.
    let before = counters(site)?;
    send(site, 1, PACKETS)?;
    let [tx, _] = since(site, before)?;
    ensure!(tx.contains(&PACKETS) && tx.contains(&0), "sent: {tx:?}");
    let verified = site.api.json("/v1/ipsec/verify?prefix=10.9.0.0/16")?;
    let by: Vec<&Value> =
        verified["findings"].as_array().into_iter().flatten().map(|one| &one["association"]).collect();
    ensure!(verified["encrypted"] == true && by == ["out", "out1"], "{verified}");
    Ok(())
}

fn send(site: &Site, flows: u64, packets: u64) -> Result<()> {
    let (flows, packets) = (flows.to_string(), packets.to_string());
    site.host.run(&[PYTHON, "-c", SENDER, &flows, &packets, BEHIND4], LIMIT)?.succeeded().map(drop)
}

/// Packets sent by both tunnels, and received.
fn counters(site: &Site) -> Result<[[u64; 2]; 2]> {
    let all = site.api.json("/v1/ipsec/tunnels")?;
    let of = |field: &str| {
        let count = |tunnel: usize| all["tunnels"][tunnel][field].as_u64();
        Some([count(0)?, count(1)?])
    };
    of("tx_packets").zip(of("rx_packets")).map(|(tx, rx)| [tx, rx]).with_context(|| format!("{all}"))
}

fn since(site: &Site, before: [[u64; 2]; 2]) -> Result<[[u64; 2]; 2]> {
    let now = counters(site)?;
    Ok([0, 1].map(|kind| [0, 1].map(|tunnel| now[kind][tunnel] - before[kind][tunnel])))
}
