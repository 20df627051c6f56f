//! What travels with a packet besides its bytes.

/// What nodes say to each other about a packet.
///
/// Only `flags` is reset when a buffer is freed. The receiving node writes what it and later nodes need.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// What is true of the packet.
    pub flags: Flags,
    /// The interface it came in on.
    pub rx_interface: u16,
    /// The interface it leaves by.
    pub tx_interface: u16,
    /// Where the checksum of [`Flags::TX_CSUM`] starts, counted from the start of the headroom (see [`Buf::start`](crate::Buf::start)),
    /// so that headers pushed later do not move it.
    pub csum_start: u16,
    /// Where its result goes, counted from `csum_start`.
    pub csum_offset: u16,
    /// Identifies a packet with [`Flags::TRACED`] in the trace.
    pub trace_id: u16,
    /// The adjacency that lookup chose.
    pub adjacency: u32,
    /// Why it is dropped, on its way to the drop node.
    pub drop_reason: u8,
    /// Why it goes to control, on its way to the punt node.
    pub punt_reason: u8,
    /// What a node tells the next of its feature.
    pub opaque: [u64; 2],
}

bitflags::bitflags! {
    /// What is true of a packet.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u16 {
        /// The device verified the transport checksum.
        const RX_CSUM_GOOD = 1 << 0;
        /// The transport checksum holds the pseudo-header's sum only: whoever sends the packet completes it
        /// ([`Meta::csum_start`], [`Meta::csum_offset`]; as in VIRTIO 1.3 §5.1.6).
        const TX_CSUM = 1 << 1;
        /// Nodes record what they do with it.
        const TRACED = 1 << 2;
        /// It was addressed to a group or to everybody at the link layer.
        const LINK_MULTICAST = 1 << 3;
        /// This node made it: its TTL is not decremented.
        const ORIGINATED = 1 << 4;
        /// It was encrypted here: what it carries needs no more protection.
        const ENCAPSULATED = 1 << 5;
        /// It was encrypted twice here; a third time would be a loop.
        const NESTED = 1 << 6;
        /// It came out of an IPsec tunnel, whose number is in [`Meta::opaque`], second word.
        const DECRYPTED = 1 << 7;
        /// Another worker handed it over because this one has its flow.
        const HANDED_OVER = 1 << 8;
        /// It is in a tunnel to a backend of a service, whose outer header has as many bytes as [`Meta::opaque`] says,
        /// second word: errors about it are for the sender of what is inside.
        const TUNNELLED = 1 << 9;
        /// It was inside of an ESP packet as a whole: no link brought it, whatever interface it is said to have come in on.
        const INNER = 1 << 10;
        /// Besides [`Flags::HANDED_OVER`]: the other worker is that where the fragments of its packet meet, and need not
        /// have its flow.
        const TO_MEET = 1 << 11;
    }
}

const _: () = assert!(size_of::<Meta>() == 40);
