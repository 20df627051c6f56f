//! The node's own TCP/IP: a smoltcp interface that sees IP packets only.
//!
//! Packets for the node come from the dataplane ([`Stack::receive`]) and its own go back to it ([`Stack::transmit`]), which
//! routes them and resolves neighbours: there is one route table and one ARP in the house. [`reassembly`] makes packets of
//! fragments before, [`echo`] answers such pings. [`server`] runs HTTP
//! connections over a fixed pool of sockets, [`direct`] those that come by another way. [`prober`] asks backends how they are.

mod device;
pub(crate) mod direct;
pub(crate) mod echo;
mod filter;
pub(crate) mod prober;
#[cfg(test)]
mod prober_tests;
pub(crate) mod reassembly;
pub(crate) mod server;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use crate::drops::ControlDrop;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};
use device::PacketQueues;
pub(crate) use filter::{Filter, is_for_dataplane, refusal};
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::HardwareAddress;
use zeroize::Zeroizing;

/// Packets handled in one poll.
const PACKETS_PER_POLL: usize = 256;

/// An IP interface with its queues and sockets.
pub(crate) struct Stack {
    interface: Interface,
    queues: PacketQueues,
    sockets: SocketSet<'static>,
    filter: Filter,
}

impl Stack {
    /// A stack without addresses of its own: which packets are for the node, the dataplane has decided.
    pub fn new(random_seed: u64, now_ns: u64) -> Self {
        let mut queues = PacketQueues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random_seed;
        let mut interface = Interface::new(config, &mut queues, instant(now_ns));
        interface.set_any_ip(true);
        // Every destination is reachable as far as this interface is concerned. The gateways are never looked at.
        let _ = interface.routes_mut().add_default_ipv4_route(Ipv4Addr::LOCALHOST);
        let _ = interface.routes_mut().add_default_ipv6_route(Ipv6Addr::LOCALHOST);
        Self { interface, queues, sockets: SocketSet::new(Vec::new()), filter: Filter::default() }
    }

    /// Which packets are taken from now on.
    pub fn set_filter(&mut self, filter: Filter) {
        self.filter = filter;
    }

    /// Segments leave in packets of at most this many bytes from now on.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.queues.mtu = mtu;
    }

    /// Takes an IP packet for the node, one that is not asked for only if the filter lets it pass. Returns why it is
    /// dropped, if it is: not for this stack, or the queue is full.
    pub fn receive(&mut self, packet: Vec<u8>, is_asked_for: bool) -> Option<ControlDrop> {
        let packet = Zeroizing::new(packet);
        if !is_asked_for && !self.filter.accepts(&packet) {
            return Some(ControlDrop::NotTaken);
        }
        (!self.queues.push_received(packet)).then_some(ControlDrop::QueueFull)
    }

    /// The next IP packet that the node sends.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.queues.pop_sent()
    }

    /// Sends a packet that is no socket's, if there is room for it.
    pub fn send(&mut self, packet: Vec<u8>) {
        self.queues.push_sent(packet);
    }

    /// Hands received packets to the sockets, a bounded number.
    pub fn poll_ingress(&mut self, now_ns: u64) {
        for _ in 0..PACKETS_PER_POLL {
            let result =
                self.interface.poll_ingress_single(instant(now_ns), &mut self.queues, &mut self.sockets);
            if matches!(result, PollIngressSingleResult::None) {
                break;
            }
        }
    }

    /// Lets the sockets send. Bounded by the room of the queue.
    fn poll_egress(&mut self, now_ns: u64) {
        while self.interface.poll_egress(instant(now_ns), &mut self.queues, &mut self.sockets)
            == PollResult::SocketStateChanged
        {}
    }

    /// When a socket wants to send, or packets wait to be taken or handed on.
    fn next_deadline_ns(&mut self, now_ns: u64) -> u64 {
        if self.queues.is_busy() {
            return now_ns;
        }
        match self.interface.poll_at(instant(now_ns), &self.sockets) {
            Some(at) => u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000),
            None => u64::MAX,
        }
    }
}

fn instant(now_ns: u64) -> Instant {
    Instant::from_micros(i64::try_from(now_ns / 1000).unwrap_or(i64::MAX))
}
