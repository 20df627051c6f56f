//! A line of the flow log.

use alloc::{string::String, string::ToString, sync::Arc};
use config::IpNet;
use core::net::IpAddr;
use dataplane::{End, FlowEvent, FlowEventKind};
use policy::Reason;
use policy::classifier::{CounterId, Part, Source};
use policy::model::{Endpoint, protocol};
use serde::Serialize;

/// Something that happened to a flow, with names.
pub(crate) struct Record {
    pub sequence: u64,
    /// Milliseconds since 1970, or since the node's start if it does not know the time.
    pub start_ms: u64,
    pub end_ms: u64,
    /// Whose the addresses are, as policy sees them.
    pub from: Option<Arc<Endpoint>>,
    pub to: Option<Arc<Endpoint>>,
    /// What decided, if it was something written.
    pub rule: Option<(Arc<Source>, Part)>,
    pub event: FlowEvent,
}

/// A record as the API gives it.
#[derive(Serialize)]
pub(crate) struct Line<'a> {
    sequence: u64,
    event: &'static str,
    verdict: &'static str,
    start_ms: u64,
    end_ms: u64,
    #[serde(flatten)]
    ends: Ends,
    protocol: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_code: Option<u8>,
    /// The addresses that leave the node, if they are others.
    #[serde(skip_serializing_if = "Option::is_none")]
    translated: Option<Ends>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    packets: u64,
    bytes: u64,
    answer_packets: u64,
    answer_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    staged_denies: bool,
}

#[derive(Serialize)]
struct Ends {
    source: IpAddr,
    destination: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
}

impl Record {
    pub fn is_denied(&self) -> bool {
        self.event.kind == FlowEventKind::Denied
    }

    /// What decided; None if it is a rule that is gone.
    pub fn reason(&self) -> Option<Reason> {
        let (source, part) = self.rule.as_ref()?;
        source.reason(*part)
    }

    /// The same in words.
    pub fn reason_text(&self) -> Option<String> {
        Some(match self.event.by {
            CounterId::NOTHING => return None,
            CounterId::END_OF_PROFILES => Reason::EndOfProfiles.to_string(),
            CounterId::FAILSAFE => Reason::Failsafe.to_string(),
            CounterId::NOTHING_FORBIDS => Reason::NothingForbids { policies: true }.to_string(),
            _ => self.reason()?.to_string(),
        })
    }

    pub fn line(&self) -> Line<'_> {
        let event = &self.event;
        let (mut tier, mut policy, mut rule, mut rule_name) = (None, None, None, None);
        match self.reason() {
            Some(Reason::Rule { tier: of, policy: id, rule: number, rule_name: name, .. }) => {
                (tier, policy, rule, rule_name) = (Some(of), Some(id.to_string()), Some(number + 1), name);
            }
            Some(Reason::EndOfTier { tier: of, policy: id }) => {
                (tier, policy) = (Some(of), id.map(|id| id.to_string()));
            }
            _ => {}
        }
        let ends = |tuple: &dataplane::Tuple| {
            let port = |port: u16| event.has_ports().then_some(port);
            Ends {
                source: tuple.source().ip(),
                destination: tuple.destination().ip(),
                source_port: port(tuple.source().port()),
                destination_port: port(tuple.destination().port()),
            }
        };
        let has_icmp = !event.has_ports() && !matches!(event.kind, FlowEventKind::Ended(_));
        Line {
            sequence: self.sequence,
            event: match event.kind {
                FlowEventKind::Allowed => "start",
                FlowEventKind::Denied => "deny",
                FlowEventKind::Logged => "log",
                FlowEventKind::Ended(_) => "end",
            },
            verdict: if self.is_denied() { "deny" } else { "allow" },
            start_ms: self.start_ms,
            end_ms: self.end_ms,
            ends: ends(&event.asked),
            protocol: event.asked.protocol(),
            icmp_type: has_icmp.then_some(event.icmp.0),
            icmp_code: has_icmp.then_some(event.icmp.1),
            translated: (event.sent != event.asked).then(|| ends(&event.sent)),
            from: self.from.as_ref().map(|endpoint| endpoint.name.as_str()),
            to: self.to.as_ref().map(|endpoint| endpoint.name.as_str()),
            packets: event.asks.packets,
            bytes: event.asks.bytes,
            answer_packets: event.answers.packets,
            answer_bytes: event.answers.bytes,
            end: match event.kind {
                FlowEventKind::Ended(end) => Some(match end {
                    End::Idle => "idle",
                    End::Closed => "closed",
                    End::Forced => "policy",
                    End::Displaced => "displaced",
                }),
                _ => None,
            },
            tier,
            policy,
            rule,
            rule_name,
            reason: self.reason_text(),
            staged_denies: event.staged_denies,
        }
    }
}

/// Which records somebody wants to see: those for which all that is said holds.
#[derive(Default)]
pub(crate) struct Filter {
    pub denied: Option<bool>,
    /// Of either end.
    pub namespace: Option<String>,
    /// Either end.
    pub endpoint: Option<String>,
    /// Either end, before or after translation.
    pub network: Option<IpNet>,
    pub protocol: Option<&'static [u8]>,
    /// Either end's.
    pub port: Option<u16>,
    /// The policy's name, or its namespace and name.
    pub policy: Option<String>,
}

impl Filter {
    /// The numbers of a protocol.
    pub fn protocol(name: &str) -> Option<&'static [u8]> {
        Some(match name {
            "tcp" => &[protocol::TCP],
            "udp" => &[protocol::UDP],
            "sctp" => &[protocol::SCTP],
            "icmp" => &[protocol::ICMP, protocol::ICMPV6],
            _ => return None,
        })
    }

    pub fn takes(&self, record: &Record) -> bool {
        let event = &record.event;
        let endpoints = || [&record.from, &record.to].into_iter().flatten();
        let all =
            [event.asked.source(), event.asked.destination(), event.sent.source(), event.sent.destination()];
        let in_namespace = |namespace: &String| {
            endpoints().any(|e| e.name.split_once('/').is_some_and(|(of, _)| of == namespace))
        };
        let by_policy = |wanted: &String| match record.reason() {
            Some(Reason::Rule { policy, .. } | Reason::EndOfTier { policy: Some(policy), .. }) => {
                let (namespace, name) =
                    wanted.split_once('/').map_or((None, wanted.as_str()), |(a, b)| (Some(a), b));
                policy.name == name && (namespace.is_none() || policy.namespace.as_deref() == namespace)
            }
            _ => false,
        };
        self.denied.is_none_or(|denied| denied == record.is_denied())
            && self.namespace.as_ref().is_none_or(in_namespace)
            && self.endpoint.as_ref().is_none_or(|name| endpoints().any(|endpoint| endpoint.name == *name))
            && self.network.is_none_or(|network| all.iter().any(|end| network.contains(&end.ip())))
            && self.protocol.is_none_or(|numbers| numbers.contains(&event.asked.protocol()))
            && self.port.is_none_or(|port| event.has_ports() && all.iter().any(|end| end.port() == port))
            && self.policy.as_ref().is_none_or(by_policy)
    }
}
