//! Control's turn: everything that is not forwarding, in order, a bounded amount of each.

use crate::beginning::{self, Beginning, PortAtStart, Remainder};
use crate::dhcp;
use crate::drops::ControlDrop;
use crate::net::{
    self, Stack,
    direct::{Direct, Stream},
    echo,
    prober::Prober,
    reassembly::{self, Reassembler},
    server::Server,
};
use crate::node::Node;
use crate::platform::{Boot, Platform};
use alloc::{boxed::Box, sync::Arc, vec::Vec};
use buffer::{Buf, BufferCache, Flags, PortControl};
use core::net::IpAddr;
use dataplane::{Inject, InjectTo, InterfaceId, Punt, Refusal, Shared, TokenBucket};
use fib::{Fib4Writer, Fib6Writer};
use router::Output;
use zeroize::{Zeroize, Zeroizing};

/// Punted packets handled in one turn.
const PUNTS_PER_POLL: usize = 256;
/// Packets that this node sends in one turn.
const PACKETS_PER_POLL: usize = 512;
/// How often the ports are asked for their links.
const LINK_EVERY_NS: u64 = 100_000_000;
/// Trace records that are kept for whoever asks.
const MAX_TRACE_RECORDS: usize = 8192;

/// An Ethernet header without VLAN tag.
const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// What control is made of.
pub struct Parts {
    /// The machine.
    pub platform: Box<dyn Platform>,
    /// What workers and control share; it was made with the tables of `fib4` and `fib6`.
    pub shared: Arc<Shared>,
    /// Writer of the IPv4 route table.
    pub fib4: Fib4Writer,
    /// Writer of the IPv6 route table.
    pub fib6: Fib6Writer,
    /// The ports; a port's place is its [`InterfaceId`].
    pub ports: Vec<Box<dyn PortControl>>,
    /// Buffers for the packets that this node sends.
    pub cache: BufferCache,
    /// What the node was started with.
    pub boot: Boot,
}

/// The management plane of a node.
pub struct Control {
    node: Node,
    stack: Stack,
    server: Server<Node>,
    direct: Direct<Node>,
    prober: Prober,
    cache: BufferCache,
    shared: Arc<Shared>,
    /// Link of each port when it was last asked.
    links: Vec<bool>,
    links_due_ns: u64,
    reassembler: Reassembler,
    /// Packets that nobody takes, whose senders are told.
    refusals: TokenBucket,
    /// Pings that came in fragments, which cost more than others.
    echo_replies: TokenBucket,
}

impl Control {
    /// Chooses a configuration, puts it in force and listens. `now_ns` is monotonic.
    pub fn new(parts: Parts, now_ns: u64) -> Self {
        let Parts { platform, shared, fib4, fib6, mut ports, cache, boot } = parts;
        let at_start = ports.iter_mut().map(|port| PortAtStart::of(&mut **port, now_ns)).collect();
        let (beginning, remainder) = Self::begin(platform, shared, (fib4, fib6), at_start, now_ns);
        remainder.finish(ports, cache, Box::new(|| beginning.run(boot)), now_ns)
    }

    /// [`Control::new`] in two parts: the first may run on another core while the second is prepared and ports are opened,
    /// of which no more has to be known yet than a [`PortAtStart`] says.
    pub fn begin(
        platform: Box<dyn Platform>,
        shared: Arc<Shared>,
        fibs: (Fib4Writer, Fib6Writer),
        ports: Vec<PortAtStart>,
        now_ns: u64,
    ) -> (Beginning, Remainder) {
        beginning::divide(platform, shared, fibs, ports, now_ns)
    }

    pub(crate) fn made_of(
        node: Node,
        stack: Stack,
        server: Server<Node>,
        cache: BufferCache,
        shared: Arc<Shared>,
        links: Vec<bool>,
        now_ns: u64,
    ) -> Self {
        let (mut node, mut seed) = (node, [0; 8]);
        node.platform.random(&mut seed);
        Self {
            node,
            stack,
            server,
            direct: Direct::new(),
            prober: Prober::new(u64::from_le_bytes(seed)),
            cache,
            shared,
            links,
            links_due_ns: now_ns + LINK_EVERY_NS,
            reassembler: Reassembler::default(),
            refusals: TokenBucket::new(1000, 100),
            echo_replies: TokenBucket::new(100, 20),
        }
    }

    /// Serves the API over a stream that `peer` has opened to the machine rather than to the node's own addresses.
    pub fn adopt(&mut self, stream: Box<dyn Stream>, peer: IpAddr, now_ns: u64) {
        self.direct.adopt(stream, peer, now_ns);
    }

    /// Does what there is to do, a bounded amount. Returns when to poll again at the latest; earlier when a worker wakes
    /// control.
    pub fn poll(&mut self, now_ns: u64) -> u64 {
        self.node.now_ns = now_ns;
        let node_ns = self.node.tick();
        let is_busy = self.node.advance_objects();
        self.ask_links(now_ns);
        let punts = self.take_punts(now_ns);
        let dhcp_ns = self.poll_dhcp(now_ns);
        let fragments_ns = self.expire_fragments(now_ns);
        self.node.router.poll(now_ns);
        for (reason, packets) in self.node.router.take_drops() {
            self.node.drops.add(ControlDrop::Router(reason), packets);
        }
        self.listen();
        let probes_ns = self.poll_probes(now_ns);
        let server_ns = self.server.poll(&mut self.stack, &mut self.node, now_ns);
        let direct_ns = self.direct.poll(&mut self.node, now_ns);
        let flows_ns = self.node.poll_flow_log();
        let sent = self.send();
        self.collect_trace();
        self.shared.free_retired();
        if is_busy || punts == PUNTS_PER_POLL || sent == PACKETS_PER_POLL {
            return now_ns;
        }
        let router_ns = self.node.router.next_deadline_ns(now_ns).unwrap_or(u64::MAX);
        [
            node_ns,
            self.links_due_ns,
            dhcp_ns,
            fragments_ns,
            probes_ns,
            server_ns,
            direct_ns,
            router_ns,
            flows_ns,
        ]
        .into_iter()
        .fold(u64::MAX, u64::min)
    }

    fn ask_links(&mut self, now_ns: u64) {
        if now_ns < self.links_due_ns {
            return;
        }
        self.links_due_ns = now_ns + LINK_EVERY_NS;
        let (mut changed, mut faults) = (false, false);
        for (index, was_up) in self.links.iter_mut().enumerate() {
            let Some(port) = self.node.ports.get_mut(index) else { break };
            let is_up = port.link_up(now_ns);
            faults |= port.fault().is_some();
            if core::mem::replace(was_up, is_up) == is_up {
                continue;
            }
            changed = true;
            let name = port.info().name.clone();
            self.node.router.set_link(InterfaceId(index as u16), is_up, now_ns);
            if is_up {
                self.node.wake_dhcp_clients(&name);
            }
        }
        if faults {
            self.shared.wake_workers();
        }
        if changed {
            // The workers must know of the link before DHCP clients send over it.
            self.node.router.poll(now_ns);
        }
    }

    fn take_punts(&mut self, now_ns: u64) -> usize {
        for count in 0..PUNTS_PER_POLL {
            let Some(punt) = self.shared.next_punt() else { return count };
            if let Some(local) = self.node.router.handle_punt(punt, now_ns) {
                self.take_local(local, now_ns);
            }
        }
        PUNTS_PER_POLL
    }

    fn take_local(&mut self, punt: Punt, now_ns: u64) {
        let bytes = Zeroizing::new(bytes_of(&punt.packet));
        if reassembly::is_fragment(&bytes) {
            let interface = punt.interface;
            let link_header = self.link_header(punt);
            if let Some(whole) = self.reassembler.receive(&bytes, now_ns) {
                self.take_reassembled(&whole, interface, link_header, now_ns);
            }
            self.node.drops.add(ControlDrop::Fragment, self.reassembler.take_lost());
            return;
        }
        let is_to_group = punt.packet.meta().flags.contains(Flags::LINK_MULTICAST);
        match self.offer(&bytes, punt.interface, now_ns) {
            Some(refusal) if !is_to_group && self.refusals.take(now_ns) => {
                self.pass(Inject { packet: punt.packet, to: InjectTo::Refuse(refusal) });
            }
            _ => free_cleared(&mut self.cache, punt.packet),
        }
    }

    /// The Ethernet header of an answer by way of whoever sent this; None where none came before the packet.
    fn link_header(&mut self, punt: Punt) -> Option<[u8; ETHERNET_BYTES]> {
        let mut packet = punt.packet;
        let header_bytes = self.shared.tables().link_header_bytes(punt.interface);
        let header = header_bytes.and_then(|bytes| packet.push_front(bytes).ok()?.first_chunk().copied());
        self.cache.free_one(packet);
        let header: [u8; ETHERNET_BYTES] = header?;
        [&header[6..12], &header[..6], &ETHERTYPE_IPV6].concat().try_into().ok()
    }

    fn take_reassembled(
        &mut self,
        packet: &[u8],
        interface: InterfaceId,
        link_header: Option<[u8; ETHERNET_BYTES]>,
        now_ns: u64,
    ) {
        let is_v6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
        let to = if is_v6 { InjectTo::Forward6 } else { InjectTo::Forward4 };
        if let Some(reply) = echo::reply(packet) {
            if !self.echo_replies.take(now_ns) {
                self.node.drops.add(ControlDrop::EchoLimited, 1);
            } else if echo::is_link_local(packet) {
                // No route leads there.
                let header = link_header.as_ref().map_or(&[][..], |header| header);
                for piece in echo::pieces6(&reply).iter().filter(|_| !header.is_empty()) {
                    self.inject(&[header, piece].concat(), InjectTo::Transmit(interface));
                }
            } else {
                self.inject(&reply, to);
            }
        } else if net::is_for_dataplane(packet, |port| self.shared.ipsec().is_nat_t_port(port)) {
            if let Some(mut inject) = Inject::copy(&mut self.cache, packet, to) {
                let meta = inject.packet.meta_mut();
                (meta.flags, meta.rx_interface) = (Flags::empty(), interface.0);
                self.pass(inject);
            } else {
                self.node.drops.add(ControlDrop::NotSent, 1);
            }
        } else if let Some(refusal) = self.offer(packet, interface, now_ns) {
            self.refuse(packet, refusal, now_ns);
        }
    }

    /// Gives a whole packet to whom it is for. Returns why nobody takes it, if its sender is to be told.
    fn offer(&mut self, packet: &[u8], interface: InterfaceId, now_ns: u64) -> Option<Refusal> {
        if dhcp::is_for_client(packet)
            && let Some(client) = self.node.dhcp.get_mut(&interface)
        {
            let (output, event) = client.receive(packet, now_ns);
            self.take_dhcp(interface, output, event);
            return None;
        }
        if self.prober.take_answer(packet) {
            return None;
        }
        let is_asked_for = self.prober.expects(packet);
        if let Some(reason) = self.stack.receive(packet.to_vec(), is_asked_for) {
            self.node.drops.add(reason, 1);
        }
        net::refusal(packet)
    }

    /// Has the sender of a packet that is in no buffer any more told that nobody takes it.
    fn refuse(&mut self, packet: &[u8], refusal: Refusal, now_ns: u64) {
        if self.refusals.take(now_ns)
            && let Some(mut inject) = Inject::copy(&mut self.cache, packet, InjectTo::Refuse(refusal))
        {
            let meta = inject.packet.meta_mut();
            (meta.flags, meta.rx_interface) = (Flags::empty(), u16::MAX);
            self.pass(inject);
        }
    }

    /// Gives up packets whose fragments did not come; when to look again.
    fn expire_fragments(&mut self, now_ns: u64) -> u64 {
        while let Some(first) = self.reassembler.expire(now_ns) {
            if !first.is_empty() {
                self.refuse(&first, Refusal::ReassemblyTime, now_ns);
            }
        }
        self.node.drops.add(ControlDrop::Fragment, self.reassembler.take_lost());
        self.reassembler.next_deadline_ns()
    }

    fn poll_dhcp(&mut self, now_ns: u64) -> u64 {
        let due: Vec<InterfaceId> = self
            .node
            .dhcp
            .iter()
            .filter(|(_, client)| client.next_deadline_ns() <= now_ns)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if let Some((output, event)) = self.node.dhcp.get_mut(&id).map(|client| client.poll(now_ns)) {
                self.take_dhcp(id, output, event);
            }
        }
        self.node.dhcp.values().map(dhcp::Client::next_deadline_ns).min().unwrap_or(u64::MAX)
    }

    fn take_dhcp(&mut self, id: InterfaceId, output: Option<dhcp::Output>, event: Option<dhcp::Event>) {
        if let Some(event) = event {
            self.node.take_dhcp_event(id, event);
        }
        match output {
            Some(dhcp::Output::Frame(frame)) => self.inject(&frame, InjectTo::Transmit(id)),
            Some(dhcp::Output::Packet(packet)) => self.inject(&packet, InjectTo::Forward4),
            None => {}
        }
    }

    /// Asks backends how they are; when to come again.
    fn poll_probes(&mut self, now_ns: u64) -> u64 {
        self.stack.poll_ingress(now_ns);
        let (mut events, monitor) = (Vec::new(), self.node.health.monitor.clone());
        let source = |address| self.node.router.source_for(address);
        let parts = (&mut self.stack, &mut *monitor.borrow_mut());
        let next_ns = self.prober.poll(parts, &source, &mut events, now_ns);
        self.node.take_health_events(&events);
        next_ns
    }

    /// Tells the stack how the API listens, when that changed.
    fn listen(&mut self) {
        if core::mem::take(&mut self.node.listen_changed) {
            let (filter, port) = self.node.listen();
            self.stack.set_filter(filter);
            self.stack.set_mtu(self.node.mtu());
            self.server.set_port(&mut self.stack, port);
        }
    }

    /// Sends what the router and the stack have to send; how many packets.
    fn send(&mut self) -> usize {
        for count in 0..PACKETS_PER_POLL {
            if let Some(output) = self.node.router.next_output() {
                match output {
                    Output::Transmit { interface, frame } => {
                        self.inject(&frame, InjectTo::Transmit(interface));
                    }
                    Output::Send(packet) => self.inject_packet(&packet),
                    Output::Forward4(packet) => self.pass(Inject { packet, to: InjectTo::Forward4 }),
                    Output::Forward6(packet) => self.pass(Inject { packet, to: InjectTo::Forward6 }),
                }
            } else if let Some(packet) = self.stack.transmit().or_else(|| self.node.flow_log.next_packet()) {
                self.inject_packet(&packet);
            } else {
                return count;
            }
        }
        PACKETS_PER_POLL
    }

    /// Has a packet of this node routed.
    fn inject_packet(&mut self, packet: &[u8]) {
        let is_v6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
        self.inject(packet, if is_v6 { InjectTo::Forward6 } else { InjectTo::Forward4 });
    }

    /// Gives bytes to the workers. Lost if there is no buffer or no room, as on any wire.
    fn inject(&mut self, bytes: &[u8], to: InjectTo) {
        match Inject::copy(&mut self.cache, bytes, to) {
            Some(inject) => self.pass(inject),
            None => self.node.drops.add(ControlDrop::NotSent, 1),
        }
    }

    fn pass(&mut self, inject: Inject) {
        if !self.shared.inject(inject) {
            self.node.drops.add(ControlDrop::NotSent, 1);
        }
    }

    fn collect_trace(&mut self) {
        while self.node.trace.len() < MAX_TRACE_RECORDS
            && let Some(record) = self.shared.next_trace_record()
        {
            self.node.trace.push(record);
        }
    }
}

/// Gives back a packet in which somebody may have sent a key to the API.
fn free_cleared(cache: &mut BufferCache, mut packet: Buf) {
    loop {
        let rest = packet.truncate(packet.len());
        packet.data_mut().zeroize();
        cache.free_one(packet);
        match rest {
            Some(rest) => packet = rest,
            None => return,
        }
    }
}

/// All segments of a packet.
fn bytes_of(packet: &Buf) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packet.total_len());
    packet.segments().for_each(|segment| bytes.extend_from_slice(segment));
    bytes
}
