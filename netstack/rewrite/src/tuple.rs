//! A flow's key as both families have it.

use core::net::SocketAddr;

use flow::{Key, V4, V6};

use crate::plain::Plain;

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
    #[inline]
    pub fn reversed(&self) -> Tuple {
        match self {
            Tuple::V4(key) => Tuple::V4(key.reversed()),
            Tuple::V6(key) => Tuple::V6(key.reversed()),
        }
    }

    /// The same flow from another source; `None` if that is of the other family.
    #[must_use]
    #[inline]
    pub fn with_source(self, source: SocketAddr) -> Option<Tuple> {
        Some(self.reversed().with_destination(source)?.reversed())
    }

    /// The same flow to another destination; `None` if that is of the other family.
    #[must_use]
    #[inline]
    pub fn with_destination(self, destination: SocketAddr) -> Option<Tuple> {
        match self {
            Tuple::V4(key) => key.with_destination(destination).map(Tuple::V4),
            Tuple::V6(key) => key.with_destination(destination).map(Tuple::V6),
        }
    }

    /// The same addresses with these ports.
    #[must_use]
    pub fn with_ports(self, (source_port, destination_port): (u16, u16)) -> Tuple {
        match self {
            Tuple::V4(key) => Tuple::V4(V4 { source_port, destination_port, ..key }),
            Tuple::V6(key) => Tuple::V6(V6 { source_port, destination_port, ..key }),
        }
    }

    /// Source address and port.
    #[inline]
    pub fn source(&self) -> SocketAddr {
        match self {
            Tuple::V4(key) => SocketAddr::new(key.source.into(), key.source_port),
            Tuple::V6(key) => SocketAddr::new(key.source.into(), key.source_port),
        }
    }

    /// Destination address and port.
    #[inline]
    pub fn destination(&self) -> SocketAddr {
        match self {
            Tuple::V4(key) => key.destination(),
            Tuple::V6(key) => key.destination(),
        }
    }

    /// Source and destination port.
    #[inline]
    pub fn ports(&self) -> (u16, u16) {
        match self {
            Tuple::V4(key) => (key.source_port, key.destination_port),
            Tuple::V6(key) => (key.source_port, key.destination_port),
        }
    }

    /// The protocol.
    #[inline]
    pub fn protocol(&self) -> u8 {
        match self {
            Tuple::V4(key) => key.protocol,
            Tuple::V6(key) => key.protocol,
        }
    }
}

impl From<V4> for Tuple {
    #[inline]
    fn from(key: V4) -> Self {
        Tuple::V4(key)
    }
}

impl From<V6> for Tuple {
    #[inline]
    fn from(key: V6) -> Self {
        Tuple::V6(key)
    }
}

impl TryFrom<Tuple> for V4 {
    /// It is the other one.
    type Error = Tuple;

    #[inline]
    fn try_from(tuple: Tuple) -> Result<Self, Tuple> {
        match tuple {
            Tuple::V4(key) => Ok(key),
            Tuple::V6(_) => Err(tuple),
        }
    }
}

impl TryFrom<Tuple> for V6 {
    /// It is the other one.
    type Error = Tuple;

    #[inline]
    fn try_from(tuple: Tuple) -> Result<Self, Tuple> {
        match tuple {
            Tuple::V6(key) => Ok(key),
            Tuple::V4(_) => Err(tuple),
        }
    }
}
