//! Destination MAC address, VLAN, EtherType.
//!
//! Leaves data at the layer-3 header. The whole vector came in by one port.

use super::{PREFETCH_AHEAD, drop_for};
use crate::DropReason;
use crate::context::Context;
use crate::counters::Combined;
use crate::graph::{Nexts, Node};
use crate::tables::{InterfaceId, InterfaceRow, Tables};
use buffer::{Buf, Flags, Vector};
use packet::ethernet::{
    BROADCAST, ETHERTYPE_ARP, ETHERTYPE_FLOW_CONTROL, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_LLDP,
    ETHERTYPE_MIN, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_SLOW, ETHERTYPE_VLAN, Ethernet, VlanTag,
};
use zerocopy::FromBytes;

const ETHERNET_LEN: usize = size_of::<Ethernet>();
const TAGGED_LEN: usize = ETHERNET_LEN + size_of::<VlanTag>();
/// The destination address and the group bit of the source address, in the first 8 bytes read as little endian.
const ADDRESS_MASK: u64 = 0x0001_ffff_ffff_ffff;

#[inline(never)]
pub(crate) fn run(cx: &mut Context<'_>, packets: &mut Vector, nexts: &mut Nexts) {
    let Some(port) = cx.ports.get(cx.rx_port).map(|port| port.interface) else { return };
    let row = cx.tables.row(port).filter(|row| row.up);
    // What no frame's first bytes can equal: the port is down, every frame takes the slow way.
    let ours = row.map_or(u64::MAX, |row| address_key(row.description.mac));

    let mut bytes = 0;
    // What belongs to sub-interfaces: a frame is counted once.
    let mut elsewhere = Combined::default();
    for index in 0..packets.len() {
        if let Some(ahead) = packets.get(index + PREFETCH_AHEAD) {
            ahead.prefetch();
        }
        let packet = &mut packets[index];
        let length = packet.total_len();
        bytes += length;
        packet.meta_mut().rx_interface = port.0;
        let (addresses, ethertype) = addresses_and_type(packet);
        let next = ip_input(ethertype);
        nexts[index] = if addresses == ours && next != Node::Drop {
            // The header was read above.
            let _ = packet.pull_front(ETHERNET_LEN);
            next
        } else {
            let next = tagged(packet, row, cx.tables).unwrap_or_else(|| classify(packet, row, cx.tables));
            let interface = packet.meta().rx_interface;
            if interface != port.0 {
                count_received(cx, interface, 1, length as u64);
                elsewhere = elsewhere + Combined { packets: 1, bytes: length as u64 };
            }
            next
        };
    }
    count_received(cx, port.0, packets.len() as u64 - elsewhere.packets, bytes as u64 - elsewhere.bytes);
}

#[inline(always)]
fn count_received(cx: &Context<'_>, interface: u16, packets: u64, bytes: u64) {
    if let Some(counter) = cx.counters.interfaces.get(usize::from(interface)) {
        counter.rx.add(packets, bytes);
    }
}

/// The node that takes packets of an EtherType of IP; drop for others.
#[inline(always)]
fn ip_input(ethertype: u16) -> Node {
    match ethertype {
        ETHERTYPE_IPV4 => Node::Ip4Input,
        ETHERTYPE_IPV6 => Node::Ip6Input,
        _ => Node::Drop,
    }
}

/// Takes a tagged IP packet to the address of the sub-interface that it is for. None: it is something else, and stays as
/// it is.
#[inline]
fn tagged(packet: &mut Buf, port: Option<&InterfaceRow>, tables: &Tables) -> Option<Node> {
    let header = *packet.data().first_chunk::<TAGGED_LEN>()?;
    let [.., t0, t1, c0, c1, e0, e1] = header;
    let next = ip_input(u16::from_be_bytes([e0, e1]));
    let id = port?.vlan(u16::from_be_bytes([c0, c1]))?;
    let row = tables.row(id).filter(|row| row.up)?;
    let addresses = u64::from_le_bytes(*header.first_chunk()?) & ADDRESS_MASK;
    let plain = u16::from_be_bytes([t0, t1]) == ETHERTYPE_VLAN
        && next != Node::Drop
        && addresses == address_key(row.description.mac);
    if !plain {
        return None;
    }
    packet.meta_mut().rx_interface = id.0;
    packet.pull_front(TAGGED_LEN).ok().map(|()| next)
}

/// The first 8 bytes of a frame under [`ADDRESS_MASK`], and its EtherType. Of a frame that is too short, what is none.
#[inline(always)]
fn addresses_and_type(packet: &Buf) -> (u64, u16) {
    let Some(header) = packet.data().first_chunk::<ETHERNET_LEN>() else { return (0, 0) };
    let (Some(addresses), Some(ethertype)) = (header.first_chunk(), header.last_chunk()) else {
        return (0, 0);
    };
    (u64::from_le_bytes(*addresses) & ADDRESS_MASK, u16::from_be_bytes(*ethertype))
}

/// A MAC address as the first 8 bytes of a frame to it show it under [`ADDRESS_MASK`].
fn address_key(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Everything but an IP packet to our own address.
#[cold]
fn classify(packet: &mut Buf, port: Option<&InterfaceRow>, tables: &Tables) -> Node {
    let Some(port) = port else { return drop_for(packet, DropReason::InterfaceDown) };
    let Ok((header, rest)) = Ethernet::read_from_prefix(packet.data()) else {
        return drop_for(packet, DropReason::EthernetTooShort);
    };
    if header.source[0] & 1 != 0 {
        return drop_for(packet, DropReason::EthernetSourceGroup);
    }
    let (row, ethertype) = match header.ethertype.get() {
        ETHERTYPE_VLAN => {
            let Ok((tag, _)) = VlanTag::read_from_prefix(rest) else {
                return drop_for(packet, DropReason::EthernetTooShort);
            };
            match sub_interface(port, &tag, tables) {
                Ok((id, row)) => {
                    packet.meta_mut().rx_interface = id.0;
                    (row, tag.ethertype.get())
                }
                Err(reason) => return drop_for(packet, reason),
            }
        }
        ethertype => (port, ethertype),
    };
    if header.destination[0] & 1 != 0 {
        if header.destination != BROADCAST && !row.groups.contains(&header.destination) {
            let reason = foreign(ethertype).unwrap_or(DropReason::EthernetNotOurs);
            return drop_for(packet, reason);
        }
        packet.meta_mut().flags.insert(Flags::LINK_MULTICAST);
    } else if header.destination != row.description.mac {
        return drop_for(packet, DropReason::EthernetNotOurs);
    }
    let next = match ethertype {
        ETHERTYPE_IPV4 => Node::Ip4Input,
        ETHERTYPE_IPV6 => Node::Ip6Input,
        ETHERTYPE_ARP => Node::ArpInput,
        _ => return drop_for(packet, foreign(ethertype).unwrap_or(DropReason::EthernetUnknownType)),
    };
    // The header that stays before the data is as long as the interface's always are.
    if header.ethertype.get() == ETHERTYPE_VLAN && !row.is_tagged() {
        remove_tag(packet);
    }
    match packet.pull_front(row.header_len()) {
        Ok(()) => next,
        Err(_) => drop_for(packet, DropReason::EthernetTooShort),
    }
}

/// Takes the tag out of a frame that has one.
fn remove_tag(packet: &mut Buf) {
    packet.data_mut().copy_within(..12, size_of::<VlanTag>());
    // The frame has two addresses and a tag at least.
    let _ = packet.pull_front(size_of::<VlanTag>());
}

/// The interface that a tag belongs to. VLAN 0 carries a priority only (IEEE 802.1Q §9.6): that is the port itself.
fn sub_interface<'a>(
    port: &'a InterfaceRow,
    tag: &VlanTag,
    tables: &'a Tables,
) -> Result<(InterfaceId, &'a InterfaceRow), DropReason> {
    if matches!(tag.ethertype.get(), ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN) {
        return Err(DropReason::VlanNested);
    }
    if tag.vlan_id() == 0 {
        return Ok((port.port, port));
    }
    let id = port.vlan(tag.vlan_id()).ok_or(DropReason::VlanUnknown)?;
    let row = tables.row(id).filter(|row| row.up).ok_or(DropReason::InterfaceDown)?;
    Ok((id, row))
}

/// Why a frame of a protocol that this node does not speak is dropped; None for those that it may.
fn foreign(ethertype: u16) -> Option<DropReason> {
    match ethertype {
        0..ETHERTYPE_MIN => Some(DropReason::EthernetLlc),
        ETHERTYPE_LLDP | ETHERTYPE_SLOW | ETHERTYPE_FLOW_CONTROL => Some(DropReason::EthernetLinkControl),
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 | ETHERTYPE_ARP => None,
        ETHERTYPE_SERVICE_VLAN => Some(DropReason::VlanNested),
        _ => Some(DropReason::EthernetUnknownType),
    }
}
