//! Why a packet was dropped. Every drop in the dataplane has one of these, and each has a counter.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All reasons; a reason's place is its number.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// Its name in counters and traces.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it means, in a sentence.
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)+
                }
            }
        }
    };
}

drop_reasons! {
    /// Nobody gave a reason; a defect of the dataplane.
    Unspecified = "unspecified",
    /// The frame is shorter than its Ethernet header.
    EthernetTooShort = "ethernet-too-short",
    /// The destination MAC address is neither the interface's nor a group it joined.
    EthernetNotOurs = "ethernet-not-ours",
    /// The source MAC address is a group address.
    EthernetSourceGroup = "ethernet-source-group",
    /// No protocol is spoken under this EtherType.
    EthernetUnknownType = "ethernet-unknown-type",
    /// An IEEE 802 length field in place of an EtherType (spanning tree, LLC).
    EthernetLlc = "ethernet-llc",
    /// A slow-protocol or discovery frame (LLDP, LACP, flow control) that ends at this link.
    EthernetLinkControl = "ethernet-link-control",
    /// No sub-interface has this VLAN.
    VlanUnknown = "vlan-unknown",
    /// A second VLAN tag.
    VlanNested = "vlan-nested",
    /// The interface, or the port that it stands on, is down or not configured.
    InterfaceDown = "interface-down",
    /// An IP packet to one host in a frame to a group or to everybody (RFC 1122 §3.3.6, RFC 1812 §5.3.4).
    UnicastInLinkGroup = "unicast-in-link-group",
    /// The sender left a checksum to be completed at a place where no TCP, UDP or ICMPv6 checksum is.
    ChecksumPlace = "checksum-place",
    /// The ARP packet is too short or not about IPv4 over Ethernet.
    ArpMalformed = "arp-malformed",
    /// The IPv4 packet is shorter than its header, or its lengths disagree.
    Ip4BadLength = "ip4-bad-length",
    /// The IPv4 version field is not 4, or the header length is below 5 words.
    Ip4BadHeader = "ip4-bad-header",
    /// The IPv4 header checksum is wrong.
    Ip4BadChecksum = "ip4-bad-checksum",
    /// An IPv4 source address that no host may send from (RFC 1812 §5.3.7).
    Ip4MartianSource = "ip4-martian-source",
    /// An IPv4 destination address that is never forwarded (RFC 1812 §5.3.7).
    Ip4MartianDestination = "ip4-martian-destination",
    /// A malformed IPv4 option, or source routing, which is refused (RFC 1812 §5.2.4.1, RFC 7126).
    Ip4BadOption = "ip4-bad-option",
    /// A fragment of a packet that would be longer than 65535 bytes.
    Ip4BadFragment = "ip4-bad-fragment",
    /// A packet from or to 169.254/16 that is not for this node (RFC 3927 §7).
    Ip4LinkLocalNotOurs = "ip4-link-local-not-ours",
    /// IPv4 multicast to a group that the interface has not joined; multicast is not routed.
    Ip4MulticastNotJoined = "ip4-multicast-not-joined",
    /// A directed broadcast (RFC 2644).
    Ip4DirectedBroadcast = "ip4-directed-broadcast",
    /// No route covers the IPv4 destination.
    Ip4NoRoute = "ip4-no-route",
    /// The TTL reached zero.
    Ip4TtlExpired = "ip4-ttl-expired",
    /// The packet is longer than the MTU and must not be fragmented.
    Ip4FragmentationNeeded = "ip4-fragmentation-needed",
    /// A fragment to a group or to everybody; only those to an address of this node are reassembled.
    Ip4FragmentForUs = "ip4-fragment-for-us",
    /// The IPv6 packet is shorter than its header, or its lengths disagree.
    Ip6BadLength = "ip6-bad-length",
    /// The IPv6 version field is not 6.
    Ip6BadHeader = "ip6-bad-header",
    /// An IPv6 source address that no host may send from (multicast, loopback).
    Ip6MartianSource = "ip6-martian-source",
    /// An IPv6 destination address that is never forwarded (unspecified, loopback, interface-local scope).
    Ip6MartianDestination = "ip6-martian-destination",
    /// A malformed hop-by-hop options header, or an option that asks to be dropped.
    Ip6BadHopByHop = "ip6-bad-hop-by-hop",
    /// A routing header that would have this node forward the packet (RFC 5095).
    Ip6RoutingHeader = "ip6-routing-header",
    /// A fragment of a packet that would be longer than 65535 bytes.
    Ip6BadFragment = "ip6-bad-fragment",
    /// IPv6 multicast to a group that the interface has not joined; multicast is not routed.
    Ip6MulticastNotJoined = "ip6-multicast-not-joined",
    /// A link-local packet that is not for this node (RFC 4291 §2.5.6).
    Ip6LinkLocalNotOurs = "ip6-link-local-not-ours",
    /// No route covers the IPv6 destination.
    Ip6NoRoute = "ip6-no-route",
    /// The hop limit reached zero.
    Ip6HopLimitExpired = "ip6-hop-limit-expired",
    /// The packet is longer than the MTU.
    Ip6PacketTooBig = "ip6-packet-too-big",
    /// A fragment to a group; only those to an address of this node are reassembled.
    Ip6FragmentForUs = "ip6-fragment-for-us",
    /// The route says to drop silently.
    Blackhole = "blackhole",
    /// The route says to drop and to tell the sender that it is administratively prohibited.
    Prohibited = "prohibited",
    /// The route says to drop and to tell the sender that the destination is unreachable.
    Unreachable = "unreachable",
    /// An ICMP packet for this node is malformed or its checksum is wrong.
    IcmpMalformed = "icmp-malformed",
    /// A neighbour discovery packet that crossed a router or came in a tunnel, or with a wrong code (RFC 4861 §6.1, §7.1).
    NdMalformed = "nd-malformed",
    /// UDP to a port of this node that nobody listens at.
    LocalPortUnreachable = "local-port-unreachable",
    /// A protocol above IP that this node does not speak.
    LocalProtocolUnreachable = "local-protocol-unreachable",
    /// Fragments of a packet for this node did not come in time.
    ReassemblyTimeout = "reassembly-timeout",
    /// The queue of packets of this kind for control is full.
    PuntQueueFull = "punt-queue-full",
    /// Too many packets for neighbours that are not resolved yet.
    PuntRateLimited = "punt-rate-limited",
    /// An injected packet names no interface, or is no frame or packet.
    InjectMalformed = "inject-malformed",
    /// No worker has a queue of the port.
    OutputNoPort = "output-no-port",
    /// The worker that has a queue of the port has not taken yet what it was handed before.
    HandoffFull = "handoff-full",
    /// The frame is longer than the interface's MTU allows.
    OutputTooLong = "output-too-long",
    /// The device's transmit ring is full.
    TransmitRingFull = "transmit-ring-full",
    /// No buffer was left for a packet that this node makes (fragments, errors).
    NoBuffer = "no-buffer",
    /// No room was left in the buffer for a header.
    NoHeadroom = "no-headroom",
    /// The ESP packet is shorter than its headers, or its ciphertext is no whole number of blocks.
    EspMalformed = "esp-malformed",
    /// No inbound security association has this SPI (RFC 4303 §3.4.2).
    EspUnknownSpi = "esp-unknown-spi",
    /// The tunnel has no security association to encrypt with (RFC 4303 §3.3.1).
    EspNoSa = "esp-no-sa",
    /// The security association has reached its hard lifetime.
    EspExpired = "esp-expired",
    /// All sequence numbers of the security association have been used (RFC 4303 §3.3.3).
    EspSequenceExhausted = "esp-sequence-exhausted",
    /// The sequence number was received before, or is older than the anti-replay window (RFC 4303 §3.4.3).
    EspReplayed = "esp-replayed",
    /// The integrity check failed (RFC 4303 §3.4.4).
    EspAuthenticationFailed = "esp-authentication-failed",
    /// The padding of an authentic ESP packet is wrong (RFC 4303 §2.4).
    EspBadPadding = "esp-bad-padding",
    /// A dummy packet for traffic flow confidentiality (RFC 4303 §2.6); not an error.
    EspDummy = "esp-dummy",
    /// A NAT keepalive (RFC 3948 §2.3); not an error.
    EspKeepalive = "esp-keepalive",
    /// An authentic ESP packet carries what its security association's mode does not, or what belongs to a link.
    EspBadInner = "esp-bad-inner",
    /// The decrypted packet is outside the selectors of its security association (RFC 4301 §5.2).
    EspSelectorMismatch = "esp-selector-mismatch",
    /// Congestion was experienced outside of a packet that does not take part in ECN (RFC 6040 §4.2).
    EspEcnDropped = "esp-ecn-dropped",
    /// The outer addresses or the UDP encapsulation are not those of the security association.
    EspWrongEncapsulation = "esp-wrong-encapsulation",
    /// The packet with what ESP adds does not fit into a buffer, or is longer than a datagram may be.
    EspTooLong = "esp-too-long",
    /// A fragment that ESP cannot treat (RFC 4303 §3.3.4, §3.4.1).
    EspFragment = "esp-fragment",
    /// Encrypted twice already: the route to a tunnel's peer leads through the tunnel itself.
    IpsecLoop = "ipsec-loop",
    /// The destination must only be reached encrypted, and this packet would have left in the clear.
    IpsecMustEncrypt = "ipsec-must-encrypt",
    /// An IPsec policy says to discard (RFC 4301 §5.1).
    IpsecDiscarded = "ipsec-discarded",
    /// An IPsec policy demands protection, and the packet came in without it (RFC 4301 §5.2).
    IpsecUnprotected = "ipsec-unprotected",
    /// Nobody serves: the service has no backend for new connections.
    ServiceNoBackend = "service-no-backend",
    /// The address is a service's, and no service has the port.
    ServiceNoPort = "service-no-port",
    /// The client is not in the service's source ranges.
    ServiceSourceRange = "service-source-range",
    /// No source address and port is free for full NAT, or the flow table is full of established flows.
    ServiceNoSource = "service-no-source",
    /// The node has no address for tunnels of the backend's family.
    ServiceNoTunnelAddress = "service-no-tunnel-address",
    /// The packet's addresses and ports cannot be translated.
    ServiceUntranslatable = "service-untranslatable",
    /// A later fragment of a packet whose first one, which alone says whose it is, did not come in time; or a first one of SCTP
    /// whose last one did not, without which its checksum cannot be updated.
    FragmentWithoutFirst = "fragment-without-first",
    /// A later fragment that waited for its packet's first one, and had to give its place to another.
    FragmentsHeldFull = "fragments-held-full",
    /// With the header of the tunnel to its backend the packet would be too long for any packet.
    ServiceTooLong = "service-too-long",
    /// The backend that is reached by the link layer is not a neighbour whose address is known.
    ServiceNotNeighbour = "service-not-neighbour",
    /// It was an error about a packet in a tunnel to a backend: that packet's sender was told instead.
    ServiceTunnelError = "service-tunnel-error",
    /// Policy refused the flow.
    PolicyDenied = "policy-denied",
    /// A segment of TCP that its flow's windows have no place for.
    TcpOutOfWindow = "tcp-out-of-window",
}

impl DropReason {
    /// The reason with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn numbers_and_names_identify() {
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(DropReason::from_number(number as u8), Some(*reason));
            assert_eq!(DropReason::from_name(reason.name()), Some(*reason));
        }
        assert_eq!(DropReason::from_number(DropReason::ALL.len() as u8), None);
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
