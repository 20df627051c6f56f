//! The packet trace: what every node did with the next few packets.
//!
//! Control arms it with a [`TraceRequest`]. Sources mark packets that match until the request's number is used up;
//! after each node a [`TraceRecord`] is kept of every marked packet. Control takes the records and prints them. Which
//! packets will be dropped no source knows: who asks for drops gets one record of each, by the node that dropped it.
//! While nothing is armed, a worker looks at one number per poll.

use crate::DropReason;
use crate::context::Context;
use crate::graph::Node;
use crate::nodes::{Upper, upper_layer};
use crate::tables::{InterfaceId, Tables};
use buffer::{Buf, Flags, Vector};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use crossbeam_queue::ArrayQueue;
use packet::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Ethernet, VlanTag};
use packet::ipv4::Ipv4;
use packet::ipv6::Ipv6;
use packet::protocol;
use policy::classifier::CounterId;
use spin::Once;
use spin::mutex::SpinMutex;
use zerocopy::FromBytes;

/// Packets that a request may ask for at most.
pub const MAX_TRACED_PACKETS: u32 = 256;
/// Bytes of a packet that a record keeps.
pub const TRACED_BYTES: usize = 64;
/// Records that wait for control at most; more are lost.
const RECORDS: usize = 2048;

/// Which packets to trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceRequest {
    /// How many, up to [`MAX_TRACED_PACKETS`].
    pub packets: u32,
    /// Only what comes in for this interface: tagged frames for a sub-interface, others for a port. None: any, and what
    /// control injects.
    pub interface: Option<InterfaceId>,
    /// Only from or to an address within this prefix.
    pub address: Option<(IpAddr, u8)>,
    /// Only this protocol above IP.
    pub protocol: Option<u8>,
    /// Only from or to this port of TCP, UDP or SCTP.
    pub port: Option<u16>,
    /// Only packets that are dropped, and of these only the last step.
    pub drops: Option<TracedDrops>,
}

/// Which dropped packets to trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracedDrops {
    /// All.
    Any,
    /// Those that are dropped for this reason.
    For(DropReason),
}

/// What one node did with one traced packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceRecord {
    /// Identifies the packet.
    pub packet: u16,
    /// The worker that had it.
    pub worker: u16,
    /// Monotonic time of the worker's poll.
    pub time_ns: u64,
    /// The node that handled it.
    pub node: Node,
    /// Where the node sent it.
    pub next: Node,
    /// Why it is dropped, if it is.
    pub drop_reason: Option<DropReason>,
    /// What of policy denies it, if policy does.
    pub denied_by: Option<CounterId>,
    /// The interface it came in on; None until that is known.
    pub rx_interface: Option<InterfaceId>,
    /// The interface it leaves by; None until that is known.
    pub tx_interface: Option<InterfaceId>,
    /// Bytes of the packet as it is after the node, all segments.
    pub length: u32,
    captured: u8,
    bytes: [u8; TRACED_BYTES],
}

impl TraceRecord {
    /// The first bytes of the packet as it is after the node.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.captured)).unwrap_or_default()
    }

    fn new(cx: &Context<'_>, node: Node, next: Node, packet: &Buf) -> Self {
        let meta = packet.meta();
        let known = |is_known, id| if is_known { Some(InterfaceId(id)) } else { None };
        let dropped = is_drop(next);
        let mut bytes = [0; TRACED_BYTES];
        let captured = packet.copy_out(0, &mut bytes) as u8;
        Self {
            packet: meta.trace_id,
            worker: cx.worker as u16,
            time_ns: cx.now_ns,
            node,
            next,
            drop_reason: DropReason::from_number(meta.drop_reason).filter(|_| dropped),
            denied_by: (dropped && meta.drop_reason == DropReason::PolicyDenied as u8)
                .then_some(CounterId(meta.opaque[0] as u32)),
            rx_interface: known(node != Node::PortInput && meta.rx_interface != u16::MAX, meta.rx_interface),
            tx_interface: known(matches!(next, Node::InterfaceOutput | Node::Unresolved), meta.tx_interface),
            length: packet.total_len() as u32,
            captured,
            bytes,
        }
    }

    /// True if the packet starts at its Ethernet header.
    fn is_frame(&self) -> bool {
        matches!(self.next, Node::EthernetInput | Node::InterfaceOutput)
            || (matches!(self.node, Node::EthernetInput | Node::InterfaceOutput) && self.next == Node::Drop)
    }
}

/// One line, with the number of an interface: `w0 #3 ip4-lookup -> ip4-rewrite, 84 bytes, in 1, 10.0.0.1 -> 10.0.1.2
/// protocol 1 ttl 64`. See [`TraceRecord::named`] for one with its name.
impl fmt::Display for TraceRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named(&|_| None).fmt(f)
    }
}

/// A record that prints interfaces by their names: see [`TraceRecord::named`].
pub struct NamedRecord<'a> {
    record: &'a TraceRecord,
    name: &'a dyn Fn(InterfaceId) -> Option<&'a str>,
}

impl fmt::Display for NamedRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.record.write_line(f, self.name)
    }
}

impl TraceRecord {
    /// The line of this record, with interfaces by the names that they have; one without a name by its number.
    pub fn named<'a>(&'a self, name: &'a dyn Fn(InterfaceId) -> Option<&'a str>) -> NamedRecord<'a> {
        NamedRecord { record: self, name }
    }

    fn write_line<'a>(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &dyn Fn(InterfaceId) -> Option<&'a str>,
    ) -> fmt::Result {
        write!(f, "w{} #{} {} -> {}", self.worker, self.packet, self.node.name(), self.next.name())?;
        if let Some(reason) = self.drop_reason {
            write!(f, " ({})", reason.name())?;
        }
        write!(f, ", {} bytes", self.length)?;
        for (way, interface) in [("in", self.rx_interface), ("out", self.tx_interface)] {
            match interface.map(|id| (id, name(id))) {
                Some((_, Some(name))) => write!(f, ", {way} {name}")?,
                Some((InterfaceId(id), None)) => write!(f, ", {way} {id}")?,
                None => (),
            }
        }
        let bytes = self.bytes();
        let (ethertype, packet) = if self.is_frame() { ethertype(bytes) } else { (None, bytes) };
        if let (true, Ok((header, _))) = (self.is_frame(), Ethernet::ref_from_prefix(bytes)) {
            let [source, destination] = [header.source, header.destination].map(Mac);
            write!(
                f,
                ", {source} -> {destination} type {:#06x}",
                ethertype.unwrap_or(header.ethertype.get())
            )?;
        }
        if let Some(ip) = IpSummary::of(packet) {
            let IpSummary { source, destination, protocol, ttl, ports } = ip;
            write!(f, ", {source} -> {destination} protocol {protocol} ttl {ttl}")?;
            if let Some([source, destination]) = ports {
                write!(f, " ports {source} -> {destination}")?;
            }
        }
        Ok(())
    }
}

/// True if a packet that goes to this node is dropped.
fn is_drop(next: Node) -> bool {
    matches!(next, Node::Drop | Node::Icmp4Error | Node::Icmp6Error)
}

struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What matters of an IP header.
struct IpSummary {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ttl: u8,
    /// Source and destination port, of protocols that have them.
    ports: Option<[u16; 2]>,
}

impl IpSummary {
    /// None if the bytes are not an IP header.
    fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let (header, _) = Ipv4::ref_from_prefix(packet).ok()?;
                let is_first = header.fragment_offset_bytes() == 0;
                let ports = ports(packet, header.protocol, header.header_len()).filter(|_| is_first);
                let [source, destination] = [header.source, header.destination].map(Ipv4Addr::from);
                let (source, destination) = (source.into(), destination.into());
                Some(Self { source, destination, protocol: header.protocol, ttl: header.ttl, ports })
            }
            6 => {
                let (header, _) = Ipv6::ref_from_prefix(packet).ok()?;
                let (protocol, ports) = match upper_layer(packet) {
                    Upper::Protocol(protocol, at) => (protocol, ports(packet, protocol, at)),
                    _ => (header.next_header, None),
                };
                let [source, destination] = [header.source, header.destination].map(Ipv6Addr::from);
                let (source, destination) = (source.into(), destination.into());
                Some(Self { source, destination, protocol, ttl: header.hop_limit, ports })
            }
            _ => None,
        }
    }
}

/// The ports at the start of a transport header.
fn ports(packet: &[u8], protocol: u8, at: usize) -> Option<[u16; 2]> {
    let has_ports = matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    let bytes = packet.get(at..)?.first_chunk::<4>().filter(|_| has_ports)?;
    Some([u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]])])
}

/// The EtherType behind at most one VLAN tag, and what follows it.
fn ethertype(frame: &[u8]) -> (Option<u16>, &[u8]) {
    let Ok((header, rest)) = Ethernet::ref_from_prefix(frame) else { return (None, &[]) };
    match header.ethertype.get() {
        ETHERTYPE_VLAN => VlanTag::ref_from_prefix(rest)
            .map_or((None, &[]), |(tag, rest)| (Some(tag.ethertype.get()), rest)),
        ethertype => (Some(ethertype), rest),
    }
}

impl TraceRequest {
    /// True if a packet that a source just gave is to be marked; `port` is where frames come in.
    fn wants_from(&self, tables: &Tables, node: Node, port: InterfaceId, packet: &Buf) -> bool {
        let at_port = node == Node::PortInput;
        let came_in = |interface| at_port && is_for(tables, interface, port, packet.data());
        let is_frame = at_port || packet.data().first().is_none_or(|byte| !matches!(byte >> 4, 4 | 6));
        self.drops.is_none() && self.interface.is_none_or(came_in) && self.matches(packet.data(), is_frame)
    }

    /// True if a packet that a node drops is to be recorded.
    fn wants_drop(&self, node: Node, next: Node, packet: &Buf) -> bool {
        // What becomes of a packet that an error was to be made of, the node before has said.
        let is_new = is_drop(next) && !matches!(node, Node::Icmp4Error | Node::Icmp6Error);
        let meta = packet.meta();
        let is_wanted = match self.drops.filter(|_| is_new) {
            None => false,
            Some(TracedDrops::Any) => true,
            Some(TracedDrops::For(reason)) => meta.drop_reason == reason as u8,
        };
        let is_frame = matches!(node, Node::EthernetInput | Node::InterfaceOutput);
        is_wanted
            && self.interface.is_none_or(|interface| interface.0 == meta.rx_interface)
            && self.matches(packet.data(), is_frame)
    }

    /// True if the headers are as wanted.
    fn matches(&self, data: &[u8], is_frame: bool) -> bool {
        let bytes = match ethertype(data) {
            _ if !is_frame => data,
            (Some(ETHERTYPE_IPV4 | ETHERTYPE_IPV6), bytes) => bytes,
            _ => &[],
        };
        let ip = IpSummary::of(bytes);
        let is = |test: &dyn Fn(&IpSummary) -> bool| ip.as_ref().is_some_and(test);
        self.protocol.is_none_or(|wanted| is(&|ip| ip.protocol == wanted))
            && self.port.is_none_or(|wanted| is(&|ip| ip.ports.is_some_and(|ports| ports.contains(&wanted))))
            && self.address.is_none_or(|prefix| {
                is(&|ip| contains(prefix, ip.source) || contains(prefix, ip.destination))
            })
    }
}

/// True if a frame that comes in by a port is for this interface, by its VLAN tag.
fn is_for(tables: &Tables, interface: InterfaceId, port: InterfaceId, frame: &[u8]) -> bool {
    let tag = Ethernet::ref_from_prefix(frame).ok().and_then(|(header, rest)| {
        let (tag, _) = VlanTag::ref_from_prefix(rest).ok()?;
        (header.ethertype.get() == ETHERTYPE_VLAN).then(|| tag.vlan_id())
    });
    tables.row(interface).is_some_and(|row| row.port == port && row.vlan_id == tag.unwrap_or(0))
}

/// True if an address is within a prefix. Lengths beyond the address's count as all of it.
fn contains((network, len): (IpAddr, u8), address: IpAddr) -> bool {
    let differ = match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        _ => return false,
    };
    differ.leading_zeros() >= u32::from(len).min(if network.is_ipv4() { 32 } else { 128 })
}

/// The trace as workers and control share it.
pub(crate) struct Trace {
    /// Packets still to be marked.
    left: AtomicU32,
    /// Packets marked since it was armed.
    marked: AtomicU16,
    request: SpinMutex<TraceRequest>,
    /// Made when it is first armed.
    records: Once<ArrayQueue<TraceRecord>>,
}

impl Trace {
    pub(crate) const fn new() -> Self {
        let request = TraceRequest {
            packets: 0,
            interface: None,
            address: None,
            protocol: None,
            port: None,
            drops: None,
        };
        Self {
            left: AtomicU32::new(0),
            marked: AtomicU16::new(0),
            request: SpinMutex::new(request),
            records: Once::new(),
        }
    }

    /// Forgets old records and traces anew.
    pub(crate) fn arm(&self, request: TraceRequest) {
        self.left.store(0, Ordering::Release);
        let records = self.records.call_once(|| ArrayQueue::new(RECORDS));
        while records.pop().is_some() {}
        self.marked.store(0, Ordering::Relaxed);
        *self.request.lock() = request;
        self.left.store(request.packets.min(MAX_TRACED_PACKETS), Ordering::Release);
    }

    pub(crate) fn next_record(&self) -> Option<TraceRecord> {
        self.records.get()?.pop()
    }

    /// Takes one of the packets that are left.
    fn claim(&self) -> bool {
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }
}

/// A worker's part in the trace.
#[derive(Default)]
pub(crate) struct WorkerTrace {
    /// What to look for in this poll.
    request: Option<TraceRequest>,
    /// A marked packet came from another worker in this poll.
    follows: bool,
}

impl WorkerTrace {
    /// Looks whether the trace is armed, once a poll.
    #[inline]
    pub(crate) fn refresh(&mut self, trace: &Trace) {
        self.follows = false;
        let armed = trace.left.load(Ordering::Relaxed) != 0;
        if armed || self.request.is_some() {
            // If control is writing it this moment, the next poll sees it.
            self.request = armed.then(|| trace.request.try_lock().map(|request| *request)).flatten();
        }
    }

    /// Records what is marked in this poll, because a marked packet came from another worker.
    pub(crate) fn follow(&mut self) {
        self.follows = true;
    }

    #[inline(always)]
    pub(crate) fn is_active(&self) -> bool {
        self.request.is_some() | self.follows
    }
}

/// Marks what a source gave, and records what a node did with marked packets.
#[cold]
pub(crate) fn record(cx: &mut Context<'_>, node: Node, packets: &mut Vector, nexts: &[Node]) {
    let request = cx.trace.request;
    let port = cx.ports.get(cx.rx_port).map_or(InterfaceId(u16::MAX), |port| port.interface);
    let shared = cx.shared.trace();
    for (packet, &next) in packets.iter_mut().zip(nexts) {
        let is_source = matches!(node, Node::PortInput | Node::Inject);
        let marks = |request: TraceRequest| request.wants_from(cx.tables, node, port, packet);
        let drops = request.is_some_and(|request| request.wants_drop(node, next, packet));
        if drops && shared.claim() {
            packet.meta_mut().trace_id = shared.marked.fetch_add(1, Ordering::Relaxed);
            if let Some(records) = shared.records.get() {
                let _ = records.push(TraceRecord::new(cx, node, next, packet));
            }
            continue;
        }
        if is_source && request.is_some_and(marks) && shared.claim() {
            packet.meta_mut().flags.insert(Flags::TRACED);
            packet.meta_mut().trace_id = shared.marked.fetch_add(1, Ordering::Relaxed);
        }
        if packet.meta().flags.contains(Flags::TRACED)
            && let Some(records) = shared.records.get()
        {
            // Full: the newest are lost, and control sees the packet's way end early.
            let _ = records.push(TraceRecord::new(cx, node, next, packet));
        }
    }
}
