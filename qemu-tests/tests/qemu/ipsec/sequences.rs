//! Sequence numbers at the end of 32 bits, with Linux at the other end.

use anyhow::{Context, Result, ensure};

use super::case::Case;
use super::site::{BEHIND4, LIMIT, Site};

/// Numbers that are left.
const LEFT: u32 = 20;

/// Without ESN: the node sends what numbers are left, then nothing, and says why.
pub fn numbers_end(site: &mut Site) -> Result<()> {
    let case = Case { start: u32::MAX - LEFT, ..Case::plain(0, false, 201) };
    site.arrange(&case)?;
    let before = site.dropped("esp-sequence-exhausted")?;
    let words = ["ping", "-c", "30", "-i", "0.05", "-W", "2", BEHIND4];
    let report = site.host.run(&words, LIMIT)?;
    ensure!(report.stdout.contains(&format!(" {LEFT} received")), "{}{}", report.stdout, report.stderr);
    let out = site.association("out")?;
    ensure!(out["packets"] == LEFT && out["last_sequence"] == u32::MAX && out["state"] == "expired", "{out}");
    ensure!(out["errors"]["sequence-exhausted"] == 10 && out["last_error"] == "sequence-exhausted", "{out}");
    ensure!(site.dropped("esp-sequence-exhausted")? == before + 10, "another number of drops");
    let events = site.api.json("/v1/ipsec/events")?;
    let is_told =
        |event: &serde_json::Value| event["association"] == "out" && event["event"] == "hard-expired";
    ensure!(events["events"].as_array().into_iter().flatten().any(is_told), "{events}");
    let states = site.guest.sh("ip -s xfrm state")?;
    ensure!(states.contains("seq 0xffffffff") && states.contains(&format!("{LEFT}(packets)")), "{states}");
    // A new association of the same tunnel, and it goes on.
    site.arrange(&Case::plain(0, false, 202))?;
    site.ping(&[(BEHIND4, 56)]).context("after a new association")
}

/// With ESN: both directions cross 2^32, in both kinds of algorithm.
pub fn extended_numbers_go_on(site: &mut Site) -> Result<()> {
    for (suite, number) in [(0, 203), (8, 204)] {
        let case = Case { start: u32::MAX - LEFT, ..Case::plain(suite, true, number) };
        site.arrange(&case)?;
        site.echo(100_000, &[BEHIND4])?;
        for name in ["in", "out"] {
            let one = site.association(name)?;
            ensure!(one["last_sequence"].as_u64() > Some(1 << 32), "{one}");
            ensure!(one["errors"] == serde_json::json!({}), "{one}");
        }
        let states = site.guest.sh("ip -s xfrm state")?;
        ensure!(states.contains(" seq-hi 0x1,") && states.contains("oseq-hi 0x1,"), "{states}");
    }
    Ok(())
}
