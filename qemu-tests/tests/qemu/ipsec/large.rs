//! Packets that are longer than a buffer of the node, or than the way of their outer packet: Linux encrypts what it sends itself in
//! whole, and fragments the outer packet; so does the node in transport mode.

use anyhow::{Result, ensure};
use serde_json::json;

use super::case::Case;
use super::site::{BEHIND4, BEHIND6, LIMIT, Site, ensure_clean};

/// Bytes of data: some more than a buffer, and as many as jumbo frames have.
const LENGTHS: [u32; 2] = [3000, 9000];

/// Both ways, through the node and to it, of both families, over both.
pub fn longer_than_a_buffer(site: &mut Site) -> Result<()> {
    let plain = |suite, number| Case::plain(suite, true, number);
    let cases = [
        Case { transport: true, ..plain(0, 219) },
        Case { transport: true, outer6: true, ..plain(1, 225) },
        Case { transport: true, outer6: true, port: Some(4500), ..plain(2, 226) },
        plain(0, 220),
        Case { outer6: true, ..plain(8, 221) },
        Case { port: Some(4500), ..plain(2, 222) },
    ];
    for case in cases {
        let done = one(site, &case);
        if let Err(error) = done {
            let evidence = site.evidence();
            return Err(error.context(format!("case {}: {evidence}", case.name())));
        }
    }
    ensure!(site.dropped("esp-too-long")? == 0, "something was too long");
    Ok(())
}

/// Over a link that leaves the tunnel less than IPv6 needs: what every link carries passes all the same, in an outer packet that
/// the node cuts, and nobody is told to send less.
pub fn the_least_mtu(site: &mut Site) -> Result<()> {
    for (outer6, number) in [(false, 227), (true, 228)] {
        let case = Case { outer6, ..Case::plain(0, true, number) };
        site.arrange(&case)?;
        let mut config = case.config();
        config["interfaces"][2]["mtu"] = json!(1290);
        let _ = site.api.put("/v1/config", &config)?.accepted()?;
        let before = site.association("out")?["packets"].as_u64();
        site.ping(&[(BEHIND6, 1232)])?;
        let after = site.association("out")?["packets"].as_u64();
        ensure!(after == before.map(|count| count + 1), "not in one packet: {before:?}, {after:?}");
        ensure_clean(site)?;
        // The host remembers what it is told once.
        if outer6 {
            continue;
        }
        let refused = site.host.run(&["ping", "-M", "do", "-c1", "-W5", "-s", "1233", BEHIND6], LIMIT)?;
        let text = format!("{}{}", refused.stdout, refused.stderr).replace(' ', "");
        ensure!(text.contains("mtu=1280"), "another MTU: {text}");
    }
    Ok(())
}

fn one(site: &mut Site, case: &Case) -> Result<()> {
    site.arrange(case)?;
    for length in LENGTHS {
        if case.transport {
            one_packet(site, &format!("ping -c 1 -W 5 -s {length} {}", case.ends().0))?;
            continue;
        }
        site.echo_long(0, length, &[BEHIND4, BEHIND6])?;
        site.ping(&[(BEHIND4, length)])?;
        // To a host, and to the node itself.
        for to in ["10.1.0.2", "10.1.0.1"] {
            one_packet(site, &format!("ping -c 1 -W 5 -s {length} -I {BEHIND4} {to}"))?;
        }
    }
    ensure_clean(site)
}

/// Has the guest ping, by a single packet of ESP.
fn one_packet(site: &mut Site, ping: &str) -> Result<()> {
    let before = site.association("in")?["packets"].as_u64();
    let _ = site.guest.sh(ping)?;
    let after = site.association("in")?["packets"].as_u64();
    ensure!(after == before.map(|count| count + 1), "not in one packet: {before:?}, {after:?}");
    Ok(())
}
