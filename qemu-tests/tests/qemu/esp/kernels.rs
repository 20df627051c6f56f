//! Each implementation of the ciphers in the image, as far as the machine's CPU runs it, with scapy as the peer.

use anyhow::{Context, Result, ensure};
use qemu_tests::Experiment;
use serde_json::json;

use super::SUITES;
use super::site::{Site, Variant};

/// `crypto=`, and what goes with it: ChaCha20-Poly1305, AES-CBC with HMAC-SHA2.
const KERNELS: [(&str, &str, &str); 5] = [
    ("portable", "portable", "portable"),
    ("aesni", "portable", "aesni"),
    ("vaes256-pclmul", "avx2", "aesni"),
    ("vaes256", "avx2", "aesni"),
    ("vaes512", "avx512", "avx512"),
];
/// What QEMU's emulation lacks: it has VAES, but neither VPCLMULQDQ nor AVX-512. These run on a processor that has them.
const NOT_EMULATED: [&str; 2] = ["vaes256", "vaes512"];
/// What QEMU 7.2 emulates wrongly, and this version emulates well.
const WELL_EMULATED: (&str, u64) = ("vaes256-pclmul", 10);
/// Bytes of data in packets that are sent at once: around the blocks of all widths, and long ones.
const LENGTHS: [usize; 30] = [
    0, 1, 3, 4, 5, 15, 20, 33, 36, 37, 47, 64, 65, 99, 100, 101, 128, 129, 191, 228, 229, 300, 484, 485, 512,
    513, 800, 1023, 1025, 1390,
];

pub fn each_passes_traffic(experiment: &Experiment) -> Result<()> {
    let mut run = Vec::new();
    for (gcm, chacha, cbc) in KERNELS {
        if passes_traffic(experiment, gcm, chacha, cbc).with_context(|| format!("crypto={gcm}"))? {
            run.push(gcm);
        }
    }
    experiment.measured(format!("of {} implementations the CPU runs {}", KERNELS.len(), run.join(", ")));
    Ok(())
}

/// False: the CPU does not run it, the node says so and goes on with the best that it runs.
fn passes_traffic(experiment: &Experiment, gcm: &str, chacha: &str, cbc: &str) -> Result<bool> {
    let variants: Vec<Variant> = (1..)
        .zip(SUITES)
        .map(|(number, (algorithm, key_bytes))| Variant {
            algorithm,
            key_bytes,
            esn: number % 2 == 0,
            tunnel: true,
            outer6: false,
            port: None,
            number,
        })
        .collect();
    let mut site = Site::with(experiment, &variants, gcm, &format!("crypto={gcm}"))?;
    let status = site.api.json("/v1/status")?;
    let version = site.vm.qmp().execute("query-version", &json!({}))?;
    let is_old = version["qemu"]["major"].as_u64().is_none_or(|major| major < WELL_EMULATED.1);
    let may_lack = NOT_EMULATED.contains(&gcm) || gcm == WELL_EMULATED.0 && is_old;
    if may_lack && status["crypto"] != gcm {
        let log = site.api.get("/v1/log")?.accepted()?.body;
        let used = status["crypto"].as_str().unwrap_or_default();
        let refused = format!("this CPU does not run crypto={gcm}; {used} is used");
        ensure!(log.contains(&refused), "no `{refused}` in {log}");
        return Ok(false);
    }
    let expected = json!({"aes-gcm": gcm, "chacha20-poly1305": chacha, "aes-cbc-hmac-sha2": cbc});
    ensure!(status["crypto"] == gcm && status["ciphers"] == expected, "{status}");
    for variant in &variants {
        both_ways(&mut site, variant).with_context(|| variant.algorithm)?;
    }
    Ok(true)
}

fn both_ways(site: &mut Site, variant: &Variant) -> Result<()> {
    let (mut sent, mut inners) = (Vec::new(), Vec::new());
    for (sequence, length) in (1..).zip(LENGTHS) {
        let inner = site.inner(variant, length);
        sent.extend(site.scapy.seal(&variant.sa(false), &inner.packet, sequence, &json!({}))?);
        inners.push(inner);
    }
    // One that is forged among them.
    let forged = site.inner(variant, 200);
    let forged = site.scapy.seal(&variant.sa(false), &forged.packet, 99, &json!({"flip": -200}))?;
    drop(sent.splice(9..9, forged));
    site.send(&sent)?;
    site.expect_all(&inners)?;
    let drops = site.new_drops()?;
    ensure!(drops.len() == 1 && drops.get("esp-authentication-failed") == Some(&1), "{drops:?}");
    site.outbound_at_once(variant, &LENGTHS)
}
