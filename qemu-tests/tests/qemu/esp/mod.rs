//! ESP packet by packet, by an implementation nobody here wrote: each packet's verdict is held against the drop reason that
//! the node counts, and each inner packet against its bytes.

mod kernels;
mod nat;
mod path_mtu;
mod scapy;
mod site;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use qemu_tests::Experiment;
use serde_json::{Value, json};

use site::{Site, Variant};

pub use kernels::each_passes_traffic;
pub use nat::a_moved_peer_is_followed;
pub use path_mtu::a_routers_word_is_honoured;

/// Algorithm, and bytes of its key.
const SUITES: [(&str, usize); 5] = [
    ("aes128gcm16", 20),
    ("aes256gcm16", 36),
    ("chacha20poly1305", 36),
    ("aes128-sha256", 48),
    ("aes256-sha512", 96),
];

/// Verdicts.
const PASSES: &str = "";
const REPLAYED: &str = "esp-replayed";
const FORGED: &str = "esp-authentication-failed";
const MALFORMED: &str = "esp-malformed";
const PADDING: &str = "esp-bad-padding";
const BAD_INNER: &str = "esp-bad-inner";
const UNKNOWN: &str = "esp-unknown-spi";
const DUMMY: &str = "esp-dummy";

fn variants() -> Vec<Variant> {
    let mut variants = Vec::new();
    for (place, (algorithm, key_bytes)) in SUITES.into_iter().enumerate() {
        let plain = [(true, true), (false, true), (place % 2 == 0, false)];
        let plain = plain.map(|(esn, tunnel)| (esn, tunnel, false, None));
        // The outer header has little to do with the suite.
        let other: &[_] = match place {
            0 => &[(true, true, true, None), (true, true, false, Some(4500))],
            1 => &[(false, true, true, Some(14_500))],
            3 => &[(true, false, true, None)],
            _ => &[],
        };
        for (esn, tunnel, outer6, port) in plain.into_iter().chain(other.iter().copied()) {
            let number = variants.len() as u8 + 1;
            variants.push(Variant { algorithm, key_bytes, esn, tunnel, outer6, port, number });
        }
    }
    variants
}

/// Every case of every variant.
pub fn packet_by_packet(experiment: &Experiment) -> Result<()> {
    let variants = variants();
    let mut site = Site::new(experiment, &variants)?;
    let mut packets = 0;
    for variant in &variants {
        let mut run = Run { site: &mut site, variant, told: BTreeMap::new(), packets: 0 };
        run.all().with_context(|| format!("{variant:?}"))?;
        packets += run.packets;
    }
    experiment.measured(format!("{packets} packets in {} variants", variants.len()));
    Ok(())
}

/// The cases of one variant, on one pair of SAs.
struct Run<'a> {
    site: &'a mut Site,
    variant: &'a Variant,
    /// What the SA is to count.
    told: BTreeMap<String, u64>,
    packets: u64,
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        self.window().context("anti-replay window")?;
        self.forgeries().context("forgeries")?;
        self.truncated().context("truncated")?;
        self.trailers().context("padding and next header")?;
        self.nested().context("nested")?;
        self.fragments().context("fragments")?;
        if self.variant.tunnel {
            self.outbound().context("outbound")?;
        }
        self.wrap().context("sequence wrap")?;
        let all = self.site.api.json("/v1/ipsec/associations")?;
        let name = self.variant.association_name(false);
        let own =
            all["associations"].as_array().into_iter().flatten().find(|one| one["name"] == name.as_str());
        let counted = &own.context("the association is not listed")?["errors"];
        ensure!(*counted == json!(self.told), "the association counts {counted}, not {:?}", self.told);
        Ok(())
    }

    /// Sends one packet with what is to be wrong, and holds the node to the verdict.
    fn case(&mut self, sequence: u64, change: &Value, verdict: &str) -> Result<()> {
        self.case_of(50, sequence, change, verdict)
    }

    fn case_of(&mut self, bytes: usize, sequence: u64, change: &Value, verdict: &str) -> Result<()> {
        let inner = self.site.inner(self.variant, bytes);
        let sent = self.site.scapy.seal(&self.variant.sa(false), &inner.packet, sequence, change)?;
        let about = || format!("sequence {sequence:#x}, {change}, to be `{verdict}`");
        self.site.send(&sent)?;
        if verdict == PASSES {
            self.site.expect(self.variant, &inner).with_context(about)?;
        }
        self.decided(verdict, 1).with_context(about)?;
        if verdict != PASSES && verdict != UNKNOWN && change["keep"].as_i64() != Some(0) {
            *self.told.entry(verdict.trim_start_matches("esp-").to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// Everything sent so far was decided on, and of it this many were dropped, for that reason.
    fn decided(&mut self, verdict: &str, count: u64) -> Result<()> {
        self.packets += 1;
        if verdict != PASSES {
            self.site.wait_for_marker()?;
        }
        let expected = (verdict != PASSES).then(|| (verdict.to_owned(), count)).into_iter();
        let expected: BTreeMap<String, u64> = expected.collect();
        let seen = self.site.new_drops()?;
        ensure!(seen == expected, "dropped: {seen:?}");
        Ok(())
    }

    /// Replay, and reordering up to the edge of the window of 64 and one beyond.
    fn window(&mut self) -> Result<()> {
        let none = json!({});
        self.case(0, &none, REPLAYED)?;
        self.case(1, &none, PASSES)?;
        self.case(1, &none, REPLAYED)?;
        self.case(100, &none, PASSES)?;
        self.case(37, &none, PASSES)?;
        // With ESN it would be a number of the next subspace (RFC 4303 appendix A2.2).
        self.case(36, &none, if self.variant.esn { FORGED } else { REPLAYED })?;
        self.case(37, &none, REPLAYED)?;
        self.case(99, &none, PASSES)
    }

    /// Changed ICV, sequence number (to one that was not seen), IV and text; SPIs of nobody. None moves the window.
    fn forgeries(&mut self) -> Result<()> {
        for bit in [-1, -100, 7 * 8 + 1, 8 * 8, 24 * 8] {
            self.case(101, &json!({"flip": bit}), FORGED)?;
        }
        self.case(0x7000_0000, &json!({"flip": -1}), FORGED)?;
        self.case(101, &json!({"spi": 0x7777}), UNKNOWN)?;
        // In UDP, four zero bytes are not ESP but the mark of IKE.
        if self.variant.port.is_none() {
            self.case(101, &json!({"spi": 0}), UNKNOWN)?;
        }
        self.case(101, &json!({}), PASSES)
    }

    fn truncated(&mut self) -> Result<()> {
        if self.variant.port.is_none() {
            self.case(102, &json!({"keep": 0}), MALFORMED)?;
        }
        for keep in [4, 8, 16, 24, -1] {
            self.case(102, &json!({"keep": keep}), MALFORMED)?;
        }
        // A whole block less.
        self.case(102, &json!({"keep": -16}), FORGED)?;
        self.case(102, &json!({}), PASSES)
    }

    /// What is authentic and still not right. The sequence number counts as received.
    fn trailers(&mut self) -> Result<()> {
        // 14 bytes of padding fill the block of every algorithm behind a text of 64 or 48 bytes.
        let even = if self.variant.tunnel { 36 } else { 40 };
        self.case_of(even, 103, &json!({"padding": "00".repeat(14)}), PADDING)?;
        self.case_of(even, 103, &json!({}), REPLAYED)?;
        let counting: String = (1..=14).map(|number| format!("{number:02x}")).collect();
        self.case_of(even, 104, &json!({"padding": counting, "pad_length": 255}), PADDING)?;
        self.case_of(even, 105, &json!({"padding": counting}), PASSES)?;
        self.case(106, &json!({"next": 59}), DUMMY)?;
        if self.variant.tunnel {
            self.case(107, &json!({"next": 41}), BAD_INNER)?;
            self.case(108, &json!({"next": 17}), BAD_INNER)?;
            self.flow_padding()?;
        }
        Ok(())
    }

    /// Bytes behind the inner packet, for traffic flow confidentiality (RFC 4303 §2.7).
    fn flow_padding(&mut self) -> Result<()> {
        let inner = self.site.inner(self.variant, 20);
        let longer = [&inner.packet[..], &[0; 300]].concat();
        let sent = self.site.scapy.seal(&self.variant.sa(false), &longer, 109, &json!({}))?;
        self.site.send(&sent)?;
        self.site.expect(self.variant, &inner)?;
        self.decided(PASSES, 0)
    }

    /// ESP in ESP, both for the node.
    fn nested(&mut self) -> Result<()> {
        let inner = self.site.inner(self.variant, 30);
        let sa = self.variant.sa(false);
        let once = self.site.scapy.seal(&sa, &inner.packet, 110, &json!({}))?;
        let twice = self.site.scapy.seal(&sa, &once[0], 111, &json!({}))?;
        self.site.send(&twice)?;
        self.site.expect(self.variant, &inner)?;
        self.decided(PASSES, 0)
    }

    /// ESP that was fragmented on its way, in both orders, and with a piece missing.
    fn fragments(&mut self) -> Result<()> {
        for (sequence, reversed, gap) in [(112, false, false), (113, true, false), (114, false, true)] {
            let inner = self.site.inner(self.variant, 1000);
            let sa = self.variant.sa(false);
            let mut pieces = self.site.scapy.seal(&sa, &inner.packet, sequence, &json!({"fragment": 400}))?;
            ensure!(pieces.len() > 2, "{} pieces", pieces.len());
            if reversed {
                pieces.reverse();
            }
            if gap {
                let _ = pieces.remove(1);
            }
            self.site.send(&pieces)?;
            if gap {
                self.site.wait_for_marker()?;
            } else {
                self.site.expect(self.variant, &inner).with_context(|| format!("reversed: {reversed}"))?;
            }
            self.decided(PASSES, 0)?;
        }
        Ok(())
    }

    fn outbound(&mut self) -> Result<()> {
        for bytes in [0, 1, 50, 1000] {
            let (outer, inner) = self.site.outbound(self.variant, bytes)?;
            let opened = self.site.scapy.open(&self.variant.sa(true), &outer, 0)?;
            ensure!(opened == inner, "{bytes} bytes: {opened:02x?}");
        }
        Ok(())
    }

    /// The end of 32 bits: the end of the SA, or with ESN the next subspace.
    fn wrap(&mut self) -> Result<()> {
        const LAST: u64 = u32::MAX as u64;
        let none = json!({});
        self.case(LAST - 15, &none, PASSES)?;
        if self.variant.esn {
            self.case(LAST + 6, &none, PASSES)?;
            self.case(LAST, &none, PASSES)?;
            self.case(LAST, &none, REPLAYED)?;
            self.case(LAST + 7, &json!({"high": 0}), FORGED)?;
            self.case(LAST + 7, &none, PASSES)?;
            // 64 numbers back, over the edge between the subspaces.
            self.case(LAST + 7 - 63, &none, PASSES)?;
            // Once more back, it would be a number of the next subspace.
            return self.case(LAST + 7 - 64, &none, FORGED);
        }
        self.case(LAST, &none, PASSES)?;
        self.case(LAST + 1, &none, REPLAYED)?;
        self.case(LAST + 2, &none, REPLAYED)?;
        self.case(LAST - 63, &none, PASSES)?;
        self.case(LAST - 64, &none, REPLAYED)
    }
}
