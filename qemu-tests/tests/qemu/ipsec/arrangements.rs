//! Every algorithm in every mode over both families, with and without ESN and UDP.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use super::case::{Case, SUITES};
use super::site::{BEHIND4, BEHIND6, LINES, Site, ensure_clean};

/// Bytes of a bulk transfer, each way.
const BULK_BYTES: u32 = 300_000;
/// The guest's UDP port.
const PORT: u16 = 4500;
/// A UDP port of the node where nobody listens.
const CLOSED_PORT: u16 = 7009;

/// How many there are.
pub fn all(site: &mut Site) -> Result<usize> {
    let mut number = 0;
    // What takes longest to change at the guest changes least.
    for in_udp in [false, true] {
        for (place, suite) in SUITES.iter().enumerate() {
            for bits in 0..8 {
                number += 1;
                let [esn, outer6, transport] = [1, 2, 4].map(|bit| bits & bit != 0);
                let port = in_udp.then_some(PORT);
                let case = Case { suite, esn, outer6, transport, port, start: 0, number };
                // Bulk goes by each suite in each mode, and by every combination of the rest with several suites.
                let is_bulk = (bits & 3) as usize == (place + usize::from(in_udp)) % 4;
                let done = one(site, &case, is_bulk);
                if done.is_err() {
                    let evidence = site.evidence();
                    done.with_context(|| format!("case {}: {evidence}", case.name()))?;
                }
            }
        }
    }
    Ok(number as usize)
}

fn one(site: &mut Site, case: &Case, is_bulk: bool) -> Result<()> {
    site.arrange(case)?;
    if case.transport {
        between_ends(site, case, is_bulk)?;
    } else {
        through_tunnel(site, if is_bulk { BULK_BYTES } else { 0 })?;
    }
    ensure_clean(site)
}

/// Between the host and what is behind the guest, of both families.
pub fn through_tunnel(site: &Site, bulk_bytes: u32) -> Result<()> {
    site.pings()?;
    site.echo(bulk_bytes, &[BEHIND4, BEHIND6])?;
    let verified = site.api.json("/v1/ipsec/verify?prefix=10.9.0.0/16")?;
    let findings = verified["findings"].as_array().map_or(&[][..], Vec::as_slice);
    let by_it = findings.iter().all(|one| one["verdict"] == "encrypted" && one["association"] == "out");
    ensure!(verified["encrypted"] == true && !findings.is_empty() && by_it, "{verified}");
    Ok(())
}

/// Between the node itself and the guest: echo; a datagram to a closed port, of which the node tells; in bulk, a document of
/// the API and a body for it.
fn between_ends(site: &mut Site, case: &Case, is_bulk: bool) -> Result<()> {
    let (node, _) = case.ends();
    let [family, place] = match node.parse::<IpAddr>()? {
        IpAddr::V4(node) => {
            let octets = node.octets().map(|octet| octet.to_string()).join(", ");
            ["2".to_owned(), format!(r#"pack("SnC4x8", 2, {CLOSED_PORT}, {octets})"#)]
        }
        IpAddr::V6(node) => [
            "10".to_owned(),
            format!(r#"pack("SnNH32N", 10, {CLOSED_PORT}, 0, "{:032x}", 0)"#, node.to_bits()),
        ],
    };
    // 111: the connection is refused. The neighbour is looked for anew while the policies are in force.
    let _ = site.guest.sh(&format!(
        r#"ip neigh flush dev eth0
        ping -c 1 -W 5 -s 56 {node} && ping -c 1 -W 5 -s 1200 {node} || exit 1
        perl -e 'socket(S, {family}, 2, 17) && connect(S, {place}) && send(S, "x" x 500, 0) || die $!;
            vec($r, fileno(S), 1) = 1; select($r, undef, undef, 5) || die "nothing is told";
            die "an answer, or $!" if defined recv(S, $_, 10, 0) or $! != 111'"#
    ))?;
    if !is_bulk {
        return Ok(());
    }
    let expected = site.api.get("/openapi.json")?.accepted()?.body;
    let got = site.ask(&node, "GET /openapi.json", None)?;
    ensure!(got.ends_with(&expected), "{} bytes of {} came, or others", got.len(), expected.len());
    let answer = site.ask(&node, "POST /v1/routes", Some("/tmp/lines"))?;
    let added = format!("\"added\":{LINES}");
    ensure!(answer.contains(&added) && answer.contains("\"failed\":0"), "{answer}");
    Ok(())
}
