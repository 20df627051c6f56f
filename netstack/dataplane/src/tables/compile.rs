//! Checks what control describes and compiles it into the rows that nodes use.

use super::{
    Adjacency, AdjacencyId, AdjacencyRow, Attachment, GroupId, GroupRow, Interface, InterfaceId,
    InterfaceRow, MAX_ADJACENCIES, MAX_BUCKETS, MAX_INTERFACES, MAX_MTU, MAX_NEXT_HOPS, MIN_MTU,
    NO_INTERFACE, NextHopGroup, Tables, TablesError,
};
use crate::DropReason;
use crate::graph::Node;
use alloc::boxed::Box;
use alloc::vec::Vec;
use ipsec::TunnelId;
use packet::ethernet::ETHERTYPE_VLAN;

impl Tables {
    /// Checks and compiles a snapshot. An interface that does not exist (any more) is None; adjacency and group
    /// numbers are places in their slices, and group 0 stays empty.
    ///
    /// # Errors
    /// Too many interfaces, adjacencies or next hops, an impossible interface, an adjacency at an interface that does not
    /// exist, or a group whose next hops do not exist or weigh nothing. Group 0 must be empty.
    pub fn new(
        interfaces: Vec<Option<Interface>>,
        adjacencies: &[Adjacency],
        groups: &[NextHopGroup],
    ) -> Result<Self, TablesError> {
        let interfaces = compile_interfaces(interfaces)?;
        if adjacencies.len() >= MAX_ADJACENCIES {
            return Err(TablesError::TooMany { what: "adjacencies", limit: MAX_ADJACENCIES - 1 });
        }
        let mut rows = Vec::with_capacity(adjacencies.len() + 1);
        for (index, adjacency) in adjacencies.iter().enumerate() {
            rows.push(
                compile_adjacency(adjacency, &interfaces)
                    .ok_or(TablesError::Adjacency(AdjacencyId(index as u32)))?,
            );
        }
        // Groups without next hops lead to one more adjacency that says so.
        let no_route = rows.len() as u32;
        rows.push(AdjacencyRow::NO_ROUTE);

        let mut buckets = Vec::new();
        let mut group_rows = Vec::with_capacity(groups.len().max(1));
        for (index, group) in groups.iter().enumerate() {
            let valid = group.next_hops.iter().all(|&(id, weight)| id.0 < no_route && weight > 0);
            if !valid || group.next_hops.len() > MAX_NEXT_HOPS || (index == 0 && !group.next_hops.is_empty())
            {
                return Err(TablesError::Group(GroupId(index as u32)));
            }
            group_rows.push(compile_group(group, no_route, &mut buckets));
        }
        if group_rows.is_empty() {
            group_rows.push(GroupRow { first: no_route, mask: 0 });
        }
        Ok(Self {
            expects_dhcp: interfaces.iter().flatten().any(|row| row.description.dhcp_client),
            interfaces: interfaces.into(),
            adjacencies: rows.into(),
            groups: group_rows.into(),
            buckets: buckets.into(),
        })
    }
}

fn compile_interfaces(interfaces: Vec<Option<Interface>>) -> Result<Vec<Option<InterfaceRow>>, TablesError> {
    if interfaces.len() > MAX_INTERFACES {
        return Err(TablesError::TooMany { what: "interfaces", limit: MAX_INTERFACES });
    }
    let mut rows: Vec<Option<InterfaceRow>> = Vec::with_capacity(interfaces.len());
    for (index, interface) in interfaces.into_iter().enumerate() {
        let id = InterfaceId(index as u16);
        rows.push(interface.map(|description| InterfaceRow::new(id, description)));
    }
    for index in 0..rows.len() {
        let interface = InterfaceId(index as u16);
        let refuse = |problem| Err(TablesError::Interface { interface, problem });
        let Some(row) = &mut rows[index] else { continue };
        if !(MIN_MTU..=MAX_MTU).contains(&row.description.mtu) {
            return refuse("its MTU is out of range");
        }
        if row.description.mac[0] & 1 != 0 {
            return refuse("its MAC address is a group address");
        }
        let Attachment::Vlan { parent, vlan_id } = row.description.attachment else { continue };
        if !(1..=4094).contains(&vlan_id) {
            return refuse("its VLAN id is not between 1 and 4094");
        }
        row.port = parent;
        row.vlan_id = vlan_id;
        let port = rows.get_mut(usize::from(parent.0)).and_then(Option::as_mut);
        let Some(port) = port.filter(|port| port.description.attachment == Attachment::Port) else {
            return refuse("its parent is not a port");
        };
        let vlans = port.vlans.get_or_insert_with(|| Box::new([NO_INTERFACE; 4096]));
        if vlans[usize::from(vlan_id)] != NO_INTERFACE {
            return refuse("its VLAN is taken");
        }
        vlans[usize::from(vlan_id)] = interface.0;
        let parent_up = port.description.up;
        if let Some(row) = &mut rows[index] {
            row.up &= parent_up;
        }
    }
    Ok(rows)
}

/// None: it names an interface that does not exist, or one that cannot be meant.
fn compile_adjacency(adjacency: &Adjacency, interfaces: &[Option<InterfaceRow>]) -> Option<AdjacencyRow> {
    let on = |id: InterfaceId| interfaces.get(usize::from(id.0))?.as_ref();
    Some(match *adjacency {
        Adjacency::Neighbour { interface, mac } => neighbour(interface, on(interface)?, mac),
        Adjacency::Unresolved { interface } => AdjacencyRow {
            tx_interface: interface.0,
            mtu: on(interface)?.description.mtu,
            next4: Node::Unresolved,
            next6: Node::Unresolved,
            ..AdjacencyRow::NO_ROUTE
        },
        Adjacency::Ipsec { interface } => into_tunnel(interface, on(interface)?, None)?,
        Adjacency::IpsecPeer { interface, tunnel } => into_tunnel(interface, on(interface)?, Some(tunnel))?,
        Adjacency::Local => {
            AdjacencyRow { next4: Node::Ip4Local, next6: Node::Ip6Local, ..AdjacencyRow::NO_ROUTE }
        }
        Adjacency::Drop(DropReason::Ip4NoRoute | DropReason::Ip6NoRoute) => AdjacencyRow::NO_ROUTE,
        Adjacency::Drop(reason @ (DropReason::Unreachable | DropReason::Prohibited)) => {
            AdjacencyRow { drop4: reason, drop6: reason, ..AdjacencyRow::NO_ROUTE }
        }
        Adjacency::Drop(reason) => AdjacencyRow {
            next4: Node::Drop,
            next6: Node::Drop,
            drop4: reason,
            drop6: reason,
            ..AdjacencyRow::NO_ROUTE
        },
    })
}

fn neighbour(interface: InterfaceId, out: &InterfaceRow, mac: [u8; 6]) -> AdjacencyRow {
    let mut rewrite = [0; 16];
    rewrite[..6].copy_from_slice(&mac);
    rewrite[6..12].copy_from_slice(&out.description.mac);
    rewrite[12..14].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
    rewrite[14..].copy_from_slice(&out.vlan_id.to_be_bytes());
    AdjacencyRow {
        rewrite,
        tx_interface: interface.0,
        mtu: out.description.mtu,
        header_len: out.header_len() as u8,
        next4: Node::Ip4Rewrite,
        next6: Node::Ip6Rewrite,
        drop4: DropReason::Unspecified,
        drop6: DropReason::Unspecified,
    }
}

/// Into the tunnel of a peer, or the interface's own. None: the interface is no tunnel's.
fn into_tunnel(interface: InterfaceId, out: &InterfaceRow, peer: Option<TunnelId>) -> Option<AdjacencyRow> {
    let Attachment::Ipsec { tunnel } = out.description.attachment else { return None };
    let mut rewrite = [0; 16];
    rewrite[..4].copy_from_slice(&peer.unwrap_or(tunnel).0.to_ne_bytes());
    let up = out.description.up;
    let (next4, next6) = if up { (Node::Ip4Rewrite, Node::Ip6Rewrite) } else { (Node::Drop, Node::Drop) };
    Some(AdjacencyRow {
        rewrite,
        tx_interface: interface.0,
        mtu: out.description.mtu,
        header_len: 0,
        next4,
        next6,
        drop4: DropReason::InterfaceDown,
        drop6: DropReason::InterfaceDown,
    })
}

/// Gives every next hop buckets in proportion to its weight, at least one.
fn compile_group(group: &NextHopGroup, no_route: u32, buckets: &mut Vec<u32>) -> GroupRow {
    match *group.next_hops.as_slice() {
        [] => return GroupRow { first: no_route, mask: 0 },
        [(only, _)] => return GroupRow { first: only.0, mask: 0 },
        _ => {}
    }
    let total: u32 = group.next_hops.iter().map(|&(_, weight)| u32::from(weight)).sum();
    let equal = group.next_hops.iter().all(|hop| hop.1 == group.next_hops[0].1);
    let count = if equal && group.next_hops.len().is_power_of_two() {
        group.next_hops.len() as u32
    } else {
        MAX_BUCKETS
    };
    let spare = count - group.next_hops.len() as u32;
    let first = buckets.len() as u32;
    let mut weight_so_far = 0;
    for (index, &(adjacency, weight)) in group.next_hops.iter().enumerate() {
        weight_so_far += u32::from(weight);
        // Sums are rounded, not weights, so that the last next hop ends exactly at the last bucket.
        let end = first + index as u32 + 1 + spare * weight_so_far / total;
        buckets.resize(end as usize, adjacency.0);
    }
    GroupRow { first, mask: count - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn interface(attachment: Attachment) -> Interface {
        Interface {
            attachment,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            up: true,
            dhcp_client: false,
            ipv4: Vec::new(),
            ipv6: Vec::new(),
            groups4: Vec::new(),
            groups6: Vec::new(),
        }
    }

    fn vlan(parent: u16, vlan_id: u16) -> Option<Interface> {
        Some(interface(Attachment::Vlan { parent: InterfaceId(parent), vlan_id }))
    }

    fn refused(interfaces: Vec<Option<Interface>>) -> bool {
        matches!(Tables::new(interfaces, &[], &[]), Err(TablesError::Interface { .. }))
    }

    #[test]
    fn impossible_interfaces_are_refused() {
        let port = || Some(interface(Attachment::Port));
        assert!(!refused(vec![port(), None, vlan(0, 1), vlan(0, 4094)]));
        assert!(refused(vec![port(), vlan(0, 0)]));
        assert!(refused(vec![port(), vlan(0, 4095)]));
        assert!(refused(vec![port(), vlan(0, 7), vlan(0, 7)]), "a VLAN twice");
        assert!(refused(vec![port(), vlan(0, 7), vlan(1, 8)]), "a VLAN in a VLAN");
        assert!(refused(vec![vlan(1, 7), None]), "a parent that does not exist");
        assert!(refused(vec![Some(Interface { mtu: MIN_MTU - 1, ..interface(Attachment::Port) })]));
        assert!(refused(vec![Some(Interface { mtu: MAX_MTU + 1, ..interface(Attachment::Port) })]));
        assert!(refused(vec![Some(Interface { mac: [1, 0, 0, 0, 0, 1], ..interface(Attachment::Port) })]));
    }

    #[test]
    fn dangling_numbers_are_refused() {
        let towards = |id| Adjacency::Neighbour { interface: InterfaceId(id), mac: [2; 6] };
        let tables = |adjacency, groups: &[NextHopGroup]| {
            Tables::new(vec![Some(interface(Attachment::Port)), None], &[adjacency], groups).err()
        };
        assert_eq!(tables(towards(0), &[]), None);
        for id in [1, 2, u16::MAX] {
            assert_eq!(tables(towards(id), &[]), Some(TablesError::Adjacency(AdjacencyId(0))));
        }
        let single = |id| NextHopGroup::single(AdjacencyId(id));
        let none = NextHopGroup::default;
        assert_eq!(tables(towards(0), &[none(), single(0)]), None);
        assert_eq!(tables(towards(0), &[single(0)]), Some(TablesError::Group(GroupId(0))));
        assert_eq!(tables(towards(0), &[none(), single(1)]), Some(TablesError::Group(GroupId(1))));
        let weightless = NextHopGroup { next_hops: vec![(AdjacencyId(0), 0)] };
        assert_eq!(tables(towards(0), &[none(), weightless]), Some(TablesError::Group(GroupId(1))));
        let crowded = NextHopGroup { next_hops: vec![(AdjacencyId(0), 1); MAX_NEXT_HOPS + 1] };
        assert_eq!(tables(towards(0), &[none(), crowded]), Some(TablesError::Group(GroupId(1))));
    }

    proptest! {
        #[test]
        fn buckets_follow_weights(weights in prop::collection::vec(1u16.., 2..=MAX_NEXT_HOPS)) {
            let next_hops = (0..).map(AdjacencyId).zip(weights.iter().copied()).collect();
            let mut buckets = vec![77; 3];
            let row = compile_group(&NextHopGroup { next_hops }, 0, &mut buckets);
            let own = &buckets[row.first as usize..];
            prop_assert_eq!(own.len() as u32, row.mask + 1);
            prop_assert!(own.len().is_power_of_two());
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (index, weight) in weights.iter().enumerate() {
                let got = own.iter().filter(|bucket| **bucket == index as u32).count();
                let spare = (own.len() - weights.len()) as f64;
                let fair = 1.0 + spare * f64::from(*weight) / total;
                prop_assert!(got >= 1 && (got as f64 - fair).abs() < 1.0, "{} of {}", got, fair);
            }
        }
    }
}
