//! What workers read of the databases: immutable, replaced as a whole.

use crate::policy::Spd;
use crate::{Action, Direction, PacketFacts, Sa, SaId, TunnelId};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use crypto::gcm::Gcm;

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

/// A tunnel as workers see it.
#[derive(Debug)]
pub(crate) struct TunnelRow {
    pub(crate) outbound: Option<Arc<Sa>>,
    pub(crate) description: Tunnel,
}

/// The databases as workers read them.
pub struct Snapshot {
    inbound: SpiTable,
    /// SPIs of these are the peers', and not unique.
    outbound: SpiTable,
    tunnels: Box<[Option<TunnelRow>]>,
    spd: Spd,
    gcm: Gcm,
}

impl Snapshot {
    /// Nothing: every ESP packet is of an unknown SA.
    pub fn empty() -> Self {
        Self {
            inbound: SpiTable::default(),
            outbound: SpiTable::default(),
            tunnels: Box::default(),
            spd: Spd::default(),
            gcm: Gcm::best(),
        }
    }

    pub(crate) fn new(
        inbound: Vec<Arc<Sa>>,
        outbound: Vec<Arc<Sa>>,
        tunnels: Box<[Option<TunnelRow>]>,
        spd: Spd,
        gcm: Gcm,
    ) -> Self {
        Self { inbound: SpiTable::new(inbound), outbound: SpiTable::new(outbound), tunnels, spd, gcm }
    }

    /// The inbound SA of an SPI.
    #[inline]
    pub fn inbound(&self, spi: u32) -> Option<&Sa> {
        self.inbound.find(spi, |_| true)
    }

    /// The outbound SA with an SPI of a peer.
    pub fn outbound_to(&self, spi: u32, peer: IpAddr) -> Option<&Sa> {
        self.outbound.find(spi, |sa| sa.parameters().remote == peer)
    }

    /// Asks for the cache line that [`Snapshot::inbound`] will look at.
    #[inline]
    pub(crate) fn prefetch_inbound(&self, spi: u32) {
        self.inbound.prefetch(spi);
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

    #[inline]
    fn row(&self, tunnel: TunnelId) -> Option<&TunnelRow> {
        self.tunnels.get(tunnel.0 as usize)?.as_ref()
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
        &self.gcm
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

/// Slots of a bucket, so that it is one cache line.
const SLOTS: usize = 4;

/// SAs by SPI: a hash table of buckets, a line each. Where one is full, the next takes over.
#[derive(Default)]
struct SpiTable {
    /// A power of two, or none.
    buckets: Box<[Bucket]>,
}

#[repr(C, align(64))]
#[derive(Default)]
struct Bucket {
    slots: [Slot; SLOTS],
}

#[derive(Default)]
struct Slot {
    spi: u32,
    sa: Option<Arc<Sa>>,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl SpiTable {
    fn new(sas: Vec<Arc<Sa>>) -> Self {
        if sas.is_empty() {
            return Self::default();
        }
        // At most half full, so that a probe ends.
        let count = (sas.len() * 2).div_ceil(SLOTS).next_power_of_two();
        let mut table = Self { buckets: (0..count).map(|_| Bucket::default()).collect() };
        for sa in sas {
            let spi = sa.parameters().spi;
            let mut at = table.start(spi);
            loop {
                let free = table.buckets[at].slots.iter_mut().find(|slot| slot.sa.is_none());
                if let Some(slot) = free {
                    *slot = Slot { spi, sa: Some(sa) };
                    break;
                }
                at = (at + 1) & (table.buckets.len() - 1);
            }
        }
        table
    }

    #[inline]
    fn start(&self, spi: u32) -> usize {
        // Fibonacci hashing: SPIs that follow each other spread.
        let hash = u64::from(spi).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        hash as usize & self.buckets.len().wrapping_sub(1)
    }

    #[inline]
    fn find(&self, spi: u32, is_meant: impl Fn(&Sa) -> bool) -> Option<&Sa> {
        let mut at = self.start(spi);
        loop {
            for slot in &self.buckets.get(at)?.slots {
                let sa = slot.sa.as_deref()?;
                if slot.spi == spi && is_meant(sa) {
                    return Some(sa);
                }
            }
            at = (at + 1) & (self.buckets.len() - 1);
        }
    }

    #[inline]
    fn prefetch(&self, spi: u32) {
        if let Some(bucket) = self.buckets.get(self.start(spi)) {
            buffer::prefetch_read(bucket);
        }
    }
}
