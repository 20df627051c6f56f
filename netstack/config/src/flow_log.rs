//! What is told of flows, and to whom.

use alloc::vec::Vec;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// What is told of flows, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowLog {
    /// Follow flows even while nobody watches and there is no collector.
    pub always: bool,
    /// Collectors of IPFIX (RFC 7011).
    pub collectors: Vec<Collector>,
}

/// A collector of IPFIX messages over UDP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collector {
    /// Its address.
    pub address: IpAddr,
    /// Its UDP port.
    #[serde(default = "ipfix_port")]
    pub port: u16,
    /// The observation domain that messages to it name.
    #[serde(default = "one")]
    pub observation_domain: u32,
}

/// The port that IANA has assigned to IPFIX.
fn ipfix_port() -> u16 {
    4739
}

fn one() -> u32 {
    1
}
