//! The flows that are asked about: one JSON object a line.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use policy::Cluster;
use policy::model::{Packet, protocol};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{Failure, Message, Result};
use crate::manage::source::read_text;

/// The source port of a flow that does not name one: the first of the dynamic ones (RFC 6335 §6).
const SOURCE_PORT: u16 = 49_152;

/// A flow as its author wrote it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Flow {
    /// `namespace/pod` or an address.
    from: String,
    /// `namespace/pod` or an address.
    to: String,
    /// A name or a number.
    #[serde(default = "tcp")]
    protocol: Value,
    /// Destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    /// Of an ICMP message; echo request unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    icmp_type: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    icmp_code: Option<u8>,
    /// `allow` or `deny`: anything else is a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
}

fn tcp() -> Value {
    "TCP".into()
}

impl Flow {
    /// A flow of the command line: `port` is `443/tcp`, or a protocol alone.
    pub fn between(from: &str, to: &str, port: &str) -> Flow {
        let (port, protocol) = match port.split_once('/') {
            Some((port, protocol)) => (port.parse().ok(), protocol),
            None => port.parse().map_or((None, port), |number| (Some(number), "tcp")),
        };
        Flow {
            from: from.into(),
            to: to.into(),
            protocol: protocol.into(),
            port,
            source_port: None,
            icmp_type: None,
            icmp_code: None,
            expect: None,
        }
    }

    /// The packet that opens it.
    pub fn packet(&self, cluster: &Cluster) -> std::result::Result<Packet, String> {
        let (sources, destinations) = (addresses(&self.from, cluster)?, addresses(&self.to, cluster)?);
        let pairs = sources.iter().flat_map(|source| destinations.iter().map(move |to| (*source, *to)));
        let Some((source, destination)) = pairs.into_iter().find(|(from, to)| from.is_ipv4() == to.is_ipv4())
        else {
            return Err(format!("{} and {} have no addresses of the same IP version", self.from, self.to));
        };
        if let Some(other) = self.expect.as_deref().filter(|expected| !matches!(*expected, "allow" | "deny"))
        {
            return Err(format!("expect is allow or deny, not {other:?}"));
        }
        let protocol = protocol_number(&self.protocol, source.is_ipv4())?;
        let has_ports =
            matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE);
        let is_icmp = matches!(protocol, protocol::ICMP | protocol::ICMPV6);
        if has_ports && self.port.is_none() {
            return Err("port is missing".into());
        }
        if !is_icmp && (self.icmp_type.is_some() || self.icmp_code.is_some()) {
            return Err("icmpType and icmpCode belong to protocol ICMP or ICMPv6".into());
        }
        let echo_request = if protocol == protocol::ICMP { 8 } else { 128 };
        Ok(Packet {
            source,
            destination,
            protocol,
            source_port: if has_ports { self.source_port.unwrap_or(SOURCE_PORT) } else { 0 },
            destination_port: if has_ports { self.port.unwrap_or_default() } else { 0 },
            icmp: if is_icmp {
                (self.icmp_type.unwrap_or(echo_request), self.icmp_code.unwrap_or_default())
            } else {
                (0, 0)
            },
        })
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.as_str().map_or_else(|| self.protocol.to_string(), str::to_owned);
        write!(f, "{} -> {} {protocol}", self.from, self.to)?;
        self.port.map_or(Ok(()), |port| write!(f, "/{port}"))
    }
}

/// Reads a file of flows: line, flow, and the packet that opens it.
pub fn read(path: &Path, cluster: &Cluster) -> Result<Vec<(usize, Flow, Packet)>> {
    let (name, text) = read_text(path)?;
    let mut flows = Vec::new();
    let mut wrong = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = serde_json::from_str::<Flow>(line).map_err(|error| error.to_string());
        match parsed.and_then(|flow| flow.packet(cluster).map(|packet| (flow, packet))) {
            Ok((flow, packet)) => flows.push((index + 1, flow, packet)),
            Err(problem) => wrong.push(format!("{name}:{}: {problem}", index + 1)),
        }
    }
    if wrong.is_empty() {
        return Ok(flows);
    }
    Err(Failure::Invalid(Message::new(format!("{name} has flows that are not valid")).details(wrong)))
}

/// The addresses of an end.
fn addresses(end: &str, cluster: &Cluster) -> std::result::Result<Vec<IpAddr>, String> {
    if let Ok(address) = end.parse() {
        return Ok(vec![address]);
    }
    let endpoint = cluster.model.endpoints.iter().find(|endpoint| endpoint.name == end);
    let addresses = endpoint.map(|endpoint| &endpoint.addresses).or(cluster.host_network_pods.get(end));
    match addresses {
        Some(addresses) if addresses.is_empty() => Err(format!("{end} has no address in status.podIPs")),
        Some(addresses) => Ok(addresses.clone()),
        None => Err(format!("{end:?} is neither an IP address nor a pod, as namespace/name, of these files")),
    }
}

fn protocol_number(value: &Value, ipv4: bool) -> std::result::Result<u8, String> {
    let name = value.as_str().map_or_else(|| value.to_string(), str::to_ascii_uppercase);
    Ok(match name.as_str() {
        "TCP" => protocol::TCP,
        "UDP" => protocol::UDP,
        "SCTP" => protocol::SCTP,
        "UDPLITE" => protocol::UDP_LITE,
        "ICMP" if ipv4 => protocol::ICMP,
        "ICMPV6" if !ipv4 => protocol::ICMPV6,
        "ICMP" | "ICMPV6" => return Err(format!("{name} is not a protocol of these addresses")),
        number => number.parse().map_err(|_| {
            format!(
                "protocol {value} is none of TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite and no number up to 255"
            )
        })?,
    })
}
