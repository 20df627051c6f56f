//! What else is between the node and Linux: a peer that a NAT moves, the MTU of a tunnel, policies in place of routes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::gateway::RIGHT;
use serde_json::{Value, json};

use super::arrangements::through_tunnel;
use super::case::Case;
use super::site::{BEHIND4, LIMIT, Site};

/// A second address of the guest behind the tunnel.
const ALSO_BEHIND4: &str = "10.9.0.2";
/// Where the guest's NAT may be thought to have moved it.
const MOVED_PORT: u16 = 4555;
const BULK_BYTES: u32 = 300_000;

/// The same SAs, and another UDP port of the guest: as if its NAT had forgotten it.
pub fn a_port_that_changes(site: &mut Site) -> Result<()> {
    let case = Case { port: Some(4500), ..Case::plain(6, false, 210) };
    site.arrange(&case)?;
    site.pings()?;
    let moved = Case { port: Some(MOVED_PORT), ..case };
    site.encapsulate(moved.port)?;
    site.xfrm(&moved.states("update"))?;
    let before = site.association("in")?["packets"].clone();
    // The answer to the first goes where the peer was.
    let _ = site.guest.sh_until("ping -c 1 -W 2 -I 10.9.0.1 10.1.0.2", LIMIT)?;
    let _ = site.guest.sh("ping -c 3 -W 5 -I 10.9.0.1 10.1.0.2")?;
    let (own, told) = (site.association("out")?, site.association("in")?);
    ensure!(own["peer_port"] == MOVED_PORT && told["packets"].as_u64() > before.as_u64(), "{own} {told}");
    site.echo(BULK_BYTES, &[BEHIND4])
}

/// What is too long for the tunnel is refused with the MTU that its interface has, and that MTU fits.
pub fn the_tunnels_mtu(site: &mut Site) -> Result<()> {
    site.arrange(&Case::plain(2, true, 211))?;
    through_tunnel(site, 0)?;
    let tunnels = site.api.json("/v1/ipsec/tunnels")?;
    let mtu = tunnels["tunnels"][0]["mtu"].as_u64().context("the tunnel has no MTU")?;
    let ping = |site: &Site, bytes: u64| {
        let size = (bytes - 28).to_string();
        site.host.run(&["ping", "-M", "do", "-c1", "-W5", "-s", &size, BEHIND4], LIMIT)
    };
    let refused = ping(site, mtu + 1)?;
    let told = format!("mtu = {mtu}");
    let text = format!("{}{}", refused.stdout, refused.stderr);
    ensure!(text.contains(&told) || text.contains(&told.replace(' ', "")), "no `{told}`: {text}");
    let _ = ping(site, mtu)?.succeeded()?;
    Ok(())
}

/// The node's configuration for policies in place of routes: one address behind the guest is protected, one is passed, one
/// port is closed.
fn config(case: &Case) -> Value {
    let mut config = case.config();
    config["ipsec"]["tunnels"][0]["route_based"] = json!(false);
    config["ipsec"]["tunnels"][0]["addresses"] = json!([]);
    config["routes"] = json!([{"prefix": "10.9.0.0/16", "via": [{"address": RIGHT.host4}]}]);
    let rule = |name: &str, direction: &str, action: &str, source: &str, destination: &str| json!({"name": name, "direction": direction, "action": action, "source": source, "destination": destination});
    let mut closed = rule("closed", "out", "discard", "10.1.0.0/24", "10.9.0.1/32");
    closed["protocol"] = json!(6);
    closed["destination_ports"] = json!("7003");
    let open = rule("open", "out", "bypass", "10.1.0.0/24", "10.9.0.2/32");
    let mut protected = rule("protected", "out", "protect", "10.1.0.0/24", "10.9.0.0/16");
    protected["tunnel"] = json!("ipsec0");
    let mut wanted = rule("wanted", "in", "protect", "10.9.0.1/32", "10.1.0.0/24");
    wanted["tunnel"] = json!("ipsec0");
    config["ipsec"]["policies"] = json!([closed, open, protected, wanted]);
    config["ipsec"]["must_encrypt"] = json!([]);
    config
}

/// Protect, bypass and discard by selectors; what must come encrypted does not come in otherwise.
pub fn policies(site: &mut Site) -> Result<()> {
    let case = Case::plain(0, true, 212);
    let lines = format!(
        "xfrm state flush\nxfrm policy flush\n{2}\
         addr add {ALSO_BEHIND4}/32 dev behind\n\
         xfrm policy add src {BEHIND4} dst 10.1.0.0/24 dir out tmpl src {0} dst {1} proto esp reqid 1 mode tunnel\n\
         xfrm policy add src 10.1.0.0/24 dst {BEHIND4} dir in tmpl src {1} dst {0} proto esp reqid 1 mode tunnel\n",
        RIGHT.host4,
        RIGHT.node4,
        case.states("add"),
    );
    site.xfrm(&lines)?;
    let _ = site.api.put("/v1/config", &config(&case))?.accepted()?;
    site.ping(&[(BEHIND4, 56)])?;
    let packets = |site: &Site| Ok::<_, anyhow::Error>(site.association("out")?["packets"].as_u64());
    let encrypted = packets(site)?;
    ensure!(encrypted >= Some(1), "{encrypted:?}");
    site.ping(&[(ALSO_BEHIND4, 56)]).context("what is passed")?;
    ensure!(packets(site)? == encrypted, "what is to pass in the clear was encrypted");
    site.echo(BULK_BYTES, &[BEHIND4]).context("what is protected")?;
    let discarded = site.dropped("ipsec-discarded")?;
    let busybox = site.busybox.display().to_string();
    let _ = site.guest.sh("nc -l -p 7003 >/dev/null 2>&1 & usleep 300000")?;
    let refused = site.host.run(&[&busybox, "nc", "-w", "2", BEHIND4, "7003"], LIMIT)?;
    ensure!(!refused.status.success(), "the closed port is open");
    ensure!(site.dropped("ipsec-discarded")? > discarded, "nothing was discarded");
    // The guest forgets its policies, and sends in the clear.
    let before = site.dropped("ipsec-unprotected")?;
    let _ = site.guest.sh("ip xfrm policy flush; ping -c 2 -W 1 -I 10.9.0.1 10.1.0.2; true")?;
    std::thread::sleep(Duration::from_millis(200));
    ensure!(site.dropped("ipsec-unprotected")? >= before + 2, "what came in the clear was let in");
    Ok(())
}
