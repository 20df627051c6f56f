//! A flow's key as both families have it.

use flow::{V4, V6};

/// The key of an IPv4 or an IPv6 flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuple {
    /// IPv4.
    V4(V4),
    /// IPv6.
    V6(V6),
}

impl Tuple {
    /// The flow of the answers.
    #[must_use]
    pub fn reversed(&self) -> Tuple {
        match *self {
            Tuple::V4(V4 { source, destination, source_port, destination_port, protocol }) => Tuple::V4(V4 {
                source: destination,
                destination: source,
                source_port: destination_port,
                destination_port: source_port,
                protocol,
            }),
            Tuple::V6(V6 { source, destination, source_port, destination_port, protocol }) => Tuple::V6(V6 {
                source: destination,
                destination: source,
                source_port: destination_port,
                destination_port: source_port,
                protocol,
            }),
        }
    }

    /// Source and destination port.
    pub fn ports(&self) -> (u16, u16) {
        match self {
            Tuple::V4(key) => (key.source_port, key.destination_port),
            Tuple::V6(key) => (key.source_port, key.destination_port),
        }
    }

    /// The protocol.
    pub fn protocol(&self) -> u8 {
        match self {
            Tuple::V4(key) => key.protocol,
            Tuple::V6(key) => key.protocol,
        }
    }
}
