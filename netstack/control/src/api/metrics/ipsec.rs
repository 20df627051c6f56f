//! Families of IPsec: of each security association, and of each tunnel the sums over those that it has now.

use super::Family;
use crate::node::Node;
use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use config::AssociationDirection;
use ipsec::{EspError, SaCounters};
use router::{AssociationStatus, TunnelStatus};

/// Memory that the text of one association takes at most, its samples and reasons with it.
const BYTES_PER_ASSOCIATION: u64 = 4096;

/// What a tunnel's associations did.
#[derive(Clone, Copy, Default)]
struct Totals {
    tx_packets: u64,
    tx_bytes: u64,
    rx_packets: u64,
    rx_bytes: u64,
    errors: u64,
}

impl Totals {
    fn add(&mut self, association: &AssociationStatus) {
        let counters = &association.counters;
        let (packets, bytes) = match association.settings.direction {
            AssociationDirection::Out => (&mut self.tx_packets, &mut self.tx_bytes),
            AssociationDirection::In => (&mut self.rx_packets, &mut self.rx_bytes),
        };
        *packets += counters.packets;
        *bytes += counters.bytes;
        let errors = refused(counters).filter(|(error, _)| *error != EspError::Dummy);
        self.errors += errors.map(|(_, packets)| packets).sum::<u64>();
    }
}

/// Why packets did not pass, and how many. Dummy packets are among them, though no error.
fn refused(counters: &SaCounters) -> impl Iterator<Item = (EspError, u64)> {
    EspError::ALL.iter().copied().zip(counters.errors).filter(|(_, count)| *count > 0)
}

/// All of them; none if there is not the memory to tell.
pub(super) fn families(node: &Node) -> Vec<Family> {
    let count = node.router.association_count();
    let needed = (count as u64).saturating_mul(BYTES_PER_ASSOCIATION);
    if !node.can_spare(needed) {
        log::warn!(target: "api", "too little memory for the metrics of {count} associations");
        return Vec::new();
    }
    let associations = node.router.associations(node.now_ns);
    let mut totals: BTreeMap<&str, Totals> = BTreeMap::new();
    for association in &associations {
        totals.entry(&association.settings.tunnel).or_default().add(association);
    }
    let mut families = Vec::from(association_families(&associations));
    families.extend(tunnel_families(&node.router.tunnels(node.now_ns), &totals));
    families
}

fn association_labels(association: &AssociationStatus) -> Vec<(&'static str, String)> {
    let settings = &association.settings;
    let direction = match settings.direction {
        AssociationDirection::Out => "out",
        AssociationDirection::In => "in",
    };
    [
        ("tunnel", settings.tunnel.clone()),
        ("association", settings.name.clone()),
        ("direction", direction.into()),
        ("spi", format!("{:#010x}", settings.spi)),
    ]
    .into()
}

fn association_families(associations: &[AssociationStatus]) -> [Family; 3] {
    let counter = |name, help, value: fn(&SaCounters) -> u64| {
        let sample = |association: &AssociationStatus| {
            (association_labels(association), value(&association.counters) as f64)
        };
        Family { name, kind: "counter", help, samples: associations.iter().map(sample).collect() }
    };
    let errors = associations.iter().flat_map(|association| {
        refused(&association.counters).map(move |(error, packets)| {
            let mut labels = association_labels(association);
            labels.push(("reason", error.name().into()));
            (labels, packets as f64)
        })
    });
    [
        counter(
            "fairlead_ipsec_association_packets_total",
            "Packets that an association encrypted, or decrypted and accepted.",
            |c| c.packets,
        ),
        counter(
            "fairlead_ipsec_association_bytes_total",
            "Bytes of them, without what ESP adds in tunnel mode.",
            |c| c.bytes,
        ),
        Family {
            name: "fairlead_ipsec_association_errors_total",
            kind: "counter",
            help: "Packets that an association refused, by reason; those that never happened are left out.",
            samples: errors.collect(),
        },
    ]
}

type TunnelMetric = (&'static str, &'static str, fn(&Totals) -> u64);

const TUNNEL_METRICS: [TunnelMetric; 5] = [
    ("fairlead_ipsec_tunnel_transmit_packets", "Packets encrypted by the associations of now.", |t| {
        t.tx_packets
    }),
    ("fairlead_ipsec_tunnel_transmit_bytes", "Bytes encrypted by the associations of now.", |t| t.tx_bytes),
    ("fairlead_ipsec_tunnel_receive_packets", "Packets decrypted by the associations of now.", |t| {
        t.rx_packets
    }),
    ("fairlead_ipsec_tunnel_receive_bytes", "Bytes decrypted by the associations of now.", |t| t.rx_bytes),
    ("fairlead_ipsec_tunnel_errors", "Packets that the associations of now refused.", |t| t.errors),
];

/// The sums are gauges: they fall when an association goes.
fn tunnel_families(tunnels: &[TunnelStatus], totals: &BTreeMap<&str, Totals>) -> Vec<Family> {
    let gauge = |name, help, value: &dyn Fn(&TunnelStatus) -> Option<f64>| {
        let sample =
            |tunnel: &TunnelStatus| Some(([("tunnel", tunnel.settings.name.clone())].into(), value(tunnel)?));
        Family { name, kind: "gauge", help, samples: tunnels.iter().filter_map(sample).collect() }
    };
    let mut families = Vec::from([
        gauge(
            "fairlead_ipsec_tunnel_up",
            "Has an association to encrypt with that has not expired: 1.",
            &|tunnel| Some(f64::from(tunnel.outbound.is_some())),
        ),
        gauge(
            "fairlead_ipsec_tunnel_mtu_bytes",
            "Longest inner packet, of a tunnel that is an interface.",
            &|tunnel| tunnel.mtu.map(f64::from),
        ),
    ]);
    families.extend(TUNNEL_METRICS.iter().map(|(name, help, value)| {
        gauge(name, help, &|tunnel| {
            Some(value(&totals.get(tunnel.settings.name.as_str()).copied().unwrap_or_default()) as f64)
        })
    }));
    families
}

#[cfg(test)]
mod tests {
    use super::*;

    fn association(name: &str, direction: &str, errors: &[(EspError, u64)]) -> AssociationStatus {
        let text = format!(
            r#"{{"name": "{name}", "tunnel": "ipsec0", "direction": "{direction}", "spi": 4097, "algorithm": "aes128gcm16"}}"#
        );
        let mut counters = SaCounters {
            packets: 7,
            bytes: 700,
            last_sequence: 7,
            errors: [0; EspError::ALL.len()],
            last_error: None,
            last_used_ns: 0,
        };
        for (error, count) in errors {
            counters.errors[*error as usize] = *count;
        }
        AssociationStatus {
            settings: config::parse_association(text.as_bytes()).unwrap(),
            is_dynamic: false,
            state: router::AssociationState::Active,
            age_ns: 0,
            counters,
            peer: None,
            path_mtu: None,
        }
    }

    #[test]
    fn each_association_tells_its_packets_and_why_it_refused_some() {
        let inward = association("i", "in", &[(EspError::Replayed, 3), (EspError::Dummy, 2)]);
        let mut text = String::new();
        for family in association_families(&[inward, association("o", "out", &[])]) {
            family.write(&mut text);
        }
        let labels = |name: &str, direction: &str| {
            format!(r#"{{tunnel="ipsec0",association="{name}",direction="{direction}",spi="0x00001001""#)
        };
        for line in [
            format!("fairlead_ipsec_association_packets_total{}}} 7", labels("o", "out")),
            format!("fairlead_ipsec_association_bytes_total{}}} 700", labels("i", "in")),
            format!("fairlead_ipsec_association_errors_total{},reason=\"replayed\"}} 3", labels("i", "in")),
            format!("fairlead_ipsec_association_errors_total{},reason=\"dummy\"}} 2", labels("i", "in")),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("reason=").count(), 2, "{text}");
    }

    #[test]
    fn a_tunnel_sums_its_associations_by_direction() {
        let mut totals = Totals::default();
        for direction in ["in", "in", "out"] {
            totals.add(&association("a", direction, &[(EspError::Expired, 1), (EspError::Dummy, 5)]));
        }
        let Totals { tx_packets, tx_bytes, rx_packets, rx_bytes, errors } = totals;
        assert_eq!((tx_packets, tx_bytes, rx_packets, rx_bytes, errors), (7, 700, 14, 1400, 3));
    }
}
