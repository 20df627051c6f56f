//! What workers read of the databases: immutable, replaced as a whole.

use crate::policy::Spd;
use crate::table::{SpiTable, TunnelTable};
use crate::{Action, Direction, PacketFacts, Sa, SaId, TunnelId};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use crypto::Suite;
use crypto::gcm::Gcm;
use packet::udp::PORT_IPSEC_NAT_T;

/// A tunnel as control describes it: where encrypted packets go out and decrypted ones come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// The interface that decrypted packets come in on (dataplane's number); None for policies alone, where they keep the
    /// interface that they came in on.
    pub interface: Option<u16>,
    /// The SA that encrypts. None: what is sent here is dropped.
    pub outbound: Option<SaId>,
    /// Lowers the TCP MSS of connections through the tunnel to what fits without fragments.
    pub clamp_mss: bool,
}

/// A tunnel as workers see it, in one cache line.
#[repr(align(32))]
#[derive(Clone, Debug)]
pub(crate) struct TunnelRow {
    pub(crate) outbound: Option<Arc<Sa>>,
    pub(crate) description: Tunnel,
}

const _: () = assert!(size_of::<Option<TunnelRow>>() == 32);

/// The databases as workers read them. Copies share what they have in common.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) inbound: SpiTable,
    /// SPIs of these are the peers', and not unique.
    pub(crate) outbound: SpiTable,
    pub(crate) tunnels: TunnelTable,
    pub(crate) spd: Arc<Spd>,
    /// UDP ports of the node where ESP comes in besides 4500, in order.
    pub(crate) nat_t_ports: Arc<Vec<u16>>,
    pub(crate) suite: Suite,
}

impl Snapshot {
    /// Nothing: every ESP packet is of an unknown SA.
    pub fn empty() -> Self {
        Self {
            inbound: SpiTable::default(),
            outbound: SpiTable::default(),
            tunnels: TunnelTable::default(),
            spd: Arc::default(),
            nat_t_ports: Arc::default(),
            suite: Suite::beside(Gcm::best()),
        }
    }

    /// The inbound SA of an SPI.
    #[inline]
    pub fn inbound(&self, spi: u32) -> Option<&Sa> {
        self.inbound.find(spi, |_| true)
    }

    /// The outbound SA with an SPI of a peer.
    pub fn outbound_to(&self, spi: u32, peer: IpAddr) -> Option<&Sa> {
        self.outbound.find(spi, |sa| sa.remote() == peer)
    }

    /// Asks for the cache line that [`Snapshot::inbound`] will look at.
    #[inline]
    pub(crate) fn prefetch_inbound(&self, spi: u32) {
        self.inbound.prefetch(spi);
    }

    /// Asks for the line that [`Snapshot::tunnel`] will look at.
    #[inline]
    pub(crate) fn prefetch_tunnel(&self, tunnel: TunnelId) {
        self.tunnels.prefetch(tunnel.0);
    }

    /// The SA that encrypts for a tunnel.
    #[inline]
    pub fn outbound(&self, tunnel: TunnelId) -> Option<&Sa> {
        self.row(tunnel)?.outbound.as_deref()
    }

    /// What control said of a tunnel.
    #[inline]
    pub fn tunnel(&self, tunnel: TunnelId) -> Option<&Tunnel> {
        self.row(tunnel).map(|row| &row.description)
    }

    /// Both at once: what control said of a tunnel, and the SA that encrypts for it.
    #[inline]
    pub fn way_into(&self, tunnel: TunnelId) -> Option<(&Tunnel, &Sa)> {
        let row = self.row(tunnel)?;
        Some((&row.description, row.outbound.as_deref()?))
    }

    #[inline]
    fn row(&self, tunnel: TunnelId) -> Option<&TunnelRow> {
        self.tunnels.row(tunnel.0)
    }

    /// True if ESP in UDP may come to this port of the node.
    #[inline]
    pub fn is_nat_t_port(&self, port: u16) -> bool {
        port == PORT_IPSEC_NAT_T || self.nat_t_ports.binary_search(&port).is_ok()
    }

    /// True if there is any policy or must-encrypt prefix.
    #[inline]
    pub fn has_policies(&self) -> bool {
        !self.spd.is_empty()
    }

    /// What the policies say of a packet; None: nothing.
    #[inline]
    pub fn decide(&self, direction: Direction, packet: &PacketFacts) -> Option<Action> {
        self.spd.decide(direction, packet)
    }

    /// True if the packet's destination is marked as never to be reached in the clear.
    #[inline]
    pub fn must_encrypt(&self, packet: &PacketFacts) -> bool {
        self.spd.must_encrypt(packet)
    }

    /// The AES-GCM implementation in use.
    #[inline]
    pub fn gcm(&self) -> &Gcm {
        &self.suite.gcm
    }

    /// The implementations in use.
    #[inline]
    pub fn suite(&self) -> &Suite {
        &self.suite
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("tunnels", &self.tunnels).finish_non_exhaustive()
    }
}
