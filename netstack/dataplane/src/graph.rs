//! The graph: every node in order, and where each may send a packet next.
//!
//! A vector enters at a source ([`Node::PortInput`], [`Node::Inject`], [`Node::HandoffInput`], [`Node::HeldFragments`]) and the graph runs until
//! nothing is pending, always the earliest node that has packets. So at most one vector is under way, and what the
//! fragmenting nodes, the last ones, make in addition goes out before they make more: no node ever gets more than a
//! vector holds. For that to be so, drop comes before interface-output, both before ip-fragment, and that before
//! tunnel-fragment, whose fragments may have to be cut again once they are encrypted.

use crate::context::Context;
use crate::nodes;
use crate::{DropReason, trace};
use alloc::boxed::Box;
use buffer::{VECTOR_SIZE, Vector, clocks};
use core::array;

macro_rules! graph {
    ($($(#[doc = $doc:literal])+ $node:ident = $name:literal, $module:ident => [$($next:ident),*];)+) => {
        /// A node of the graph.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Node {
            $($(#[doc = $doc])+ $node,)+
        }

        impl Node {
            /// All nodes, in order.
            pub const ALL: &'static [Node] = &[$(Node::$node,)+];

            /// Its name in counters and traces.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$node => $name,)+
                }
            }

            /// Where it may send a packet.
            pub const fn nexts(self) -> &'static [Node] {
                match self {
                    $(Self::$node => &[$(Node::$next,)*],)+
                }
            }
        }

        /// Hands a vector to a node.
        #[inline(always)]
        fn run_node(node: Node, cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
            match node {
                $(Node::$node => nodes::$module::run(cx, packets, nexts),)+
            }
        }
    };
}

graph! {
    /// Takes a vector of frames from a port.
    PortInput = "port-input", port_input => [EthernetInput];
    /// Takes packets from control.
    Inject = "inject", inject => [Flow, Ip4Lookup, Ip6Lookup, InterfaceOutput, Icmp4Error, Icmp6Error, Drop];
    /// Takes a vector from another worker: frames of whose port it has no queue, packets whose flow this worker has.
    HandoffInput = "handoff-input", handoff_input => [Flow, Ip4Lookup, Ip6Lookup, InterfaceOutput];
    /// Takes fragments that need not wait any more for the first one of their packet.
    HeldFragments = "held-fragments", held_fragments => [Flow, Ip4Lookup, Ip6Lookup, Drop];
    /// Destination MAC address, VLAN, EtherType.
    EthernetInput = "ethernet-input", ethernet_input => [ArpInput, Ip4Input, Ip6Input, Drop];
    /// ARP for control.
    ArpInput = "arp-input", arp_input => [Punt, Drop];
    /// IPv4 header validation (RFC 1812 §5.2.2).
    Ip4Input = "ip4-input", ip4_input => [Flow, Ip4Lookup, Ip4Local, IpsecPolicy, Icmp4Error, Drop];
    /// IPv6 header validation (RFC 8200 §3, §4.3; RFC 4291).
    Ip6Input = "ip6-input", ip6_input => [Flow, Ip6Lookup, Ip6Local, IpsecPolicy, Icmp6Error, Drop];
    /// Finds the packet's flow: services and their backends. Packets come here only if there are services or policies.
    Flow = "flow", flow => [Ip4Lookup, Ip6Lookup, Ip4Local, Ip6Local, Ip4Rewrite, Ip6Rewrite, IpsecPolicy, Icmp4Error, Icmp6Error, Drop];
    /// IPv4 route lookup, choice of next hop.
    Ip4Lookup = "ip4-lookup", ip4_lookup => [Ip4Rewrite, IpsecPolicy, Ip4Local, Unresolved, Icmp4Error, Drop];
    /// IPv4 packets for this node: echo, everything else to control.
    Ip4Local = "ip4-local", ip4_local => [Ip4Lookup, EspDecrypt, Punt, Icmp4Error, Icmp6Error, Drop];
    /// TTL, checksum, MTU, Ethernet header or tunnel.
    Ip4Rewrite = "ip4-rewrite", ip4_rewrite => [InterfaceOutput, EspEncrypt, IpFragment, TunnelFragment, Icmp4Error, Drop];
    /// IPv6 route lookup, choice of next hop.
    Ip6Lookup = "ip6-lookup", ip6_lookup => [Ip6Rewrite, IpsecPolicy, Ip6Local, Unresolved, Icmp6Error, Drop];
    /// IPv6 packets for this node: echo, neighbour discovery and everything else to control.
    Ip6Local = "ip6-local", ip6_local => [Ip6Lookup, InterfaceOutput, EspDecrypt, Punt, Icmp4Error, Icmp6Error, Drop];
    /// Hop limit, MTU, Ethernet header or tunnel.
    Ip6Rewrite = "ip6-rewrite", ip6_rewrite => [InterfaceOutput, EspEncrypt, IpFragment, TunnelFragment, Icmp6Error, Drop];
    /// Encrypts by the tunnel's SA (RFC 4303); what comes out is a packet of this node.
    EspEncrypt = "esp-encrypt", esp_encrypt => [InterfaceOutput, Ip4Lookup, Ip6Lookup, IpFragment, TunnelFragment, Icmp4Error, Icmp6Error, Drop];
    /// Decrypts ESP packets to this node; what comes out came in by the tunnel.
    EspDecrypt = "esp-decrypt", esp_decrypt => [Ip4Input, Ip6Input, Drop];
    /// IPsec policies and must-encrypt prefixes; packets come here only if there are any.
    IpsecPolicy = "ipsec-policy", ipsec_policy => [Ip4Rewrite, Ip6Rewrite, Ip4Local, Ip6Local, EspEncrypt, TunnelFragment, Unresolved, Icmp4Error, Icmp6Error, Drop];
    /// Makes an ICMP error of a dropped packet (RFC 1812 §4.3).
    Icmp4Error = "icmp4-error", icmp4_error => [Flow, Ip4Lookup, Icmp6Error, Drop];
    /// Makes an ICMPv6 error of a dropped packet (RFC 4443 §2.4).
    Icmp6Error = "icmp6-error", icmp6_error => [Flow, Ip6Lookup, Icmp4Error, Drop];
    /// Packets whose neighbour control must resolve.
    Unresolved = "unresolved", unresolved => [Punt, Drop];
    /// Hands packets to control.
    Punt = "punt", punt => [Drop];
    /// Counts why packets are dropped, and frees them.
    Drop = "drop", drop => [];
    /// Interface state, MTU and counters, then the transmit queue of the port that an interface stands on,
    /// or the worker that has one.
    InterfaceOutput = "interface-output", interface_output => [Drop];
    /// Cuts packets to the MTU: IPv4 (RFC 791 §3.2), and IPv6 that this node made (RFC 8200 §4.5). Fragments, which it makes
    /// in addition, go to interface-output.
    IpFragment = "ip-fragment", ip_fragment => [IpFragment, Drop];
    /// Cuts such packets to what a tunnel takes. Fragments go to esp-encrypt.
    TunnelFragment = "tunnel-fragment", tunnel_fragment => [TunnelFragment, Drop];
}

/// Number of nodes.
pub(crate) const NODES: usize = Node::ALL.len();
const _: () = assert!(NODES <= 64, "a node is a bit of `Graph::pending`");

/// Where a node sends each packet of its vector.
pub(crate) type Nexts = [Node; VECTOR_SIZE];

/// The vectors under way between nodes of one worker.
pub(crate) struct Graph {
    /// What waits at each node.
    frames: [Box<Vector>; NODES],
    /// One bit for each node that has something to do.
    pending: u64,
    nexts: Box<Nexts>,
    /// An empty vector.
    spare: Box<Vector>,
    /// Steps on with every run, see [`Graph::is_sample`].
    phase: u32,
}

/// Packets of a run that is always timed. To read the clock at each node costs as much as some packets do.
const TIMED_PACKETS: usize = 128;

/// Of smaller runs, and of sources, one in this many is timed and stands for all.
const TIMED_EVERY: u32 = 16;

impl Graph {
    pub(crate) fn new() -> Self {
        Self {
            frames: array::from_fn(|_| Box::default()),
            pending: 0,
            nexts: Box::new([Node::Drop; VECTOR_SIZE]),
            spare: Box::default(),
            phase: 0,
        }
    }

    /// Whether this run is timed whatever its size. By the golden ratio, so that it falls in step with no order of ports.
    fn is_sample(&mut self) -> bool {
        self.phase = self.phase.wrapping_add(0x9e37_79b9);
        self.phase < u32::MAX / TIMED_EVERY
    }

    /// Runs a source and then whatever has packets, until nothing has. Returns how many packets the source gave.
    pub(crate) fn run(&mut self, cx: &mut Context<'_>, source: Node) -> usize {
        let mut from_source = 0;
        // How many runs this one's clocks stand for; 0: it is not timed.
        let mut weight = if self.is_sample() { u64::from(TIMED_EVERY) } else { 0 };
        let mut clock = if weight > 0 { clocks() } else { 0 };
        self.pending = 1 << source as u64;
        while let Some(&node) = Node::ALL.get(self.pending.trailing_zeros() as usize) {
            self.pending &= self.pending - 1;
            let packets = &mut *self.frames[node as usize];
            let given = packets.len();
            run_node(node, cx, packets, &mut self.nexts);
            if node == source {
                from_source = packets.len();
            }
            let handled = given.max(packets.len());
            self.forward(node, cx);
            if !cx.made.is_empty() {
                // A node that makes packets comes after where they go, so that nothing waits there.
                let to = if node == Node::TunnelFragment { Node::EspEncrypt } else { Node::InterfaceOutput };
                core::mem::swap(&mut self.frames[to as usize], cx.made);
                self.pending |= 1 << to as u64;
            }
            let now = if weight > 0 { clocks() } else { clock };
            cx.counters.nodes[node as usize].record(handled, now.wrapping_sub(clock) * weight);
            clock = now;
            if node == source && from_source >= TIMED_PACKETS {
                clock = if weight > 0 { clock } else { clocks() };
                weight = 1;
            }
        }
        from_source
    }

    /// Moves what a node left in its vector to where it said.
    #[inline(always)]
    fn forward(&mut self, node: Node, cx: &mut Context<'_>) {
        let frame = &mut self.frames[node as usize];
        let nexts = &self.nexts[..frame.len()];
        let Some(&first) = nexts.first() else { return };
        debug_assert!(nexts.iter().all(|next| node.nexts().contains(next)), "{node:?} sends to {nexts:?}");
        if cx.trace.is_active() {
            trace::record(cx, node, frame, nexts);
        }
        let differ = nexts.iter().fold(0, |differ, next| differ | (*next as u8 ^ first as u8));
        if differ == 0 && self.frames[first as usize].is_empty() {
            self.frames.swap(node as usize, first as usize);
            self.pending |= 1 << first as u64;
        } else {
            self.scatter(node, cx);
        }
    }

    /// Moves packets one by one.
    fn scatter(&mut self, node: Node, cx: &mut Context<'_>) {
        core::mem::swap(&mut self.frames[node as usize], &mut self.spare);
        for (packet, &next) in self.spare.drain(..).zip(self.nexts.iter()) {
            self.pending |= 1 << next as u64;
            if let Err(packet) = self.frames[next as usize].push(packet) {
                debug_assert!(false, "more than a vector waits at {next:?}");
                cx.counters.drops[DropReason::Unspecified as usize].add(1);
                cx.balance.left += 1;
                cx.cache.free_one(packet);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn every_node_is_reached_and_every_way_ends() {
        let mut reached: BTreeSet<Node> =
            [Node::PortInput, Node::Inject, Node::HandoffInput, Node::HeldFragments].into();
        loop {
            let nexts: BTreeSet<Node> = reached.iter().flat_map(|node| node.nexts()).copied().collect();
            let before = reached.len();
            reached.extend(nexts);
            if reached.len() == before {
                break;
            }
        }
        assert_eq!(reached.len(), NODES);
        for node in Node::ALL {
            assert!(*node == Node::Drop || !node.nexts().is_empty(), "{node:?} sends nowhere");
        }
    }

    #[test]
    fn names_identify() {
        let names: BTreeSet<_> = Node::ALL.iter().map(|node| node.name()).collect();
        assert_eq!(names.len(), NODES);
    }
}
