//! What should be: configuration, links, leases.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::net::{IpAddr, Ipv6Addr};

use config::{Config, IpNet, Ipv4Net};
use dataplane::{Adjacency, Attachment, InterfaceId, MAX_NEXT_HOPS};
use packet::ipv6::MIN_MTU;

use crate::{
    DhcpLease, Router, Source,
    adjacencies::Owner,
    advertise::Advertiser,
    groups::{Target, Via},
    links::{Link, Probe, Settings},
};

impl Router {
    /// Makes the node what a validated configuration says. Dynamic routes and leases stay.
    pub fn configure(&mut self, config: &Config, now_ns: u64) {
        self.remove_missing(config, now_ns);
        // Ports first: sub-interfaces take their MAC addresses from them.
        let (ports, others): (Vec<_>, Vec<_>) =
            config.interfaces.iter().partition(|interface| interface.parent.is_none());
        for interface in ports.into_iter().chain(others) {
            self.configure_interface(interface, now_ns);
        }
        tunnels(config).for_each(|tunnel| self.configure_tunnel(tunnel));
        self.static_routes.clone_from(&config.routes);
        self.static_neighbours.clone_from(&config.neighbours);
        self.refresh(now_ns);
    }

    fn remove_missing(&mut self, config: &Config, now_ns: u64) {
        let wanted: BTreeSet<&str> = config
            .interfaces
            .iter()
            .map(|interface| interface.name.as_str())
            .chain(tunnels(config).map(|t| t.name.as_str()))
            .collect();
        for id in self.links.ids() {
            let Some(link) = self.links.get_mut(id).filter(|link| !wanted.contains(link.name.as_str()))
            else {
                continue;
            };
            if link.is_up() && link.advertiser.is_some() {
                let gone = link.advertised_prefixes();
                self.say_goodbye(id, &gone, now_ns);
            }
            let Some(link) = self.links.get_mut(id) else { continue };
            link.settings = None;
            link.lease = None;
            link.advertiser = None;
            self.forget_neighbours_of(id);
            if let Some(adjacency) = self.gleans.remove(&id) {
                self.adjacencies.remove(adjacency);
            }
            self.links.remove(id);
        }
    }

    fn configure_interface(&mut self, interface: &config::Interface, now_ns: u64) {
        let attachment = match (interface.parent.as_deref().map(|name| self.links.id(name)), interface.vlan) {
            (Some(Some(parent)), Some(vlan_id)) => Attachment::Vlan { parent, vlan_id },
            (None, _) => Attachment::Port,
            _ => return log::error!("interface {} has no port below", interface.name),
        };
        let parent_mac = match attachment {
            Attachment::Vlan { parent, .. } => self.links.get(parent).map(Link::mac),
            Attachment::Port | Attachment::Ipsec { .. } => None,
        };
        let id = match self.links.id(&interface.name) {
            Some(id) => Some(id),
            None if attachment == Attachment::Port => None,
            None => {
                let groups = &self.groups;
                let is_named = |id| groups.names_interface(id);
                let link = Link::new(interface.name.clone(), attachment, parent_mac.unwrap_or_default());
                self.links.add(link, is_named)
            }
        };
        let Some((id, link)) = id.and_then(|id| Some((id, self.links.get_mut(id)?))) else {
            return log::error!("there is no interface {}", interface.name);
        };
        let settings = Settings {
            enabled: interface.enabled,
            mac: interface.mac.map(|mac| mac.0).or(parent_mac).unwrap_or(link.device_mac),
            mtu: interface.mtu,
            addresses: interface.addresses.clone(),
            dhcp4: interface.dhcp4,
            advertisements: interface.router_advertisements.clone(),
        };
        self.leave_what_changes(id, attachment, &settings, now_ns);
        let Some(link) = self.links.get_mut(id) else { return };
        let advertised = link.advertiser.as_ref().map(Advertiser::settings);
        let advertise_anew = advertised != settings.advertisements.as_ref()
            || link.settings.as_ref().map(|before| &before.addresses) != Some(&settings.addresses);
        if advertise_anew {
            link.advertiser = settings.advertisements.clone().map(|say| Advertiser::new(say, now_ns));
        }
        link.settings = Some(settings);
    }

    /// The interface of an IPsec tunnel. Its MTU, if that is automatic, follows when its associations are known.
    fn configure_tunnel(&mut self, tunnel: &config::Tunnel) {
        let attachment = Attachment::Ipsec { tunnel: self.ipsec.tunnel_id(&tunnel.name) };
        let id = match self.links.id(&tunnel.name) {
            Some(id) => Some(id),
            None => {
                let groups = &self.groups;
                let is_named = |id| groups.names_interface(id);
                self.links.add(Link::new(tunnel.name.clone(), attachment, [0; 6]), is_named)
            }
        };
        let Some(link) = id.and_then(|id| self.links.get_mut(id)) else {
            return log::error!("there is no room for tunnel {}", tunnel.name);
        };
        // Until more is known, what any IPv6 link carries.
        let mtu = tunnel.mtu.or(link.settings.as_ref().map(|settings| settings.mtu)).unwrap_or(MIN_MTU);
        link.attachment = attachment;
        link.settings = Some(Settings {
            enabled: tunnel.enabled,
            mac: [0; 6],
            mtu,
            addresses: tunnel.addresses.clone(),
            dhcp4: false,
            advertisements: None,
        });
    }

    /// An interface gets new settings: hosts are told what is no longer true, and what was so on another link, or of
    /// another MAC address, is forgotten.
    fn leave_what_changes(
        &mut self,
        id: InterfaceId,
        attachment: Attachment,
        settings: &Settings,
        now_ns: u64,
    ) {
        let Some(link) = self.links.get(id) else { return };
        let moves = link.attachment != attachment;
        let stays = settings.enabled && !moves;
        let is_gone = |network: &Ipv6Addr| {
            let kept = settings.addresses.iter().any(|kept| kept.contains(&IpAddr::V6(*network)));
            !(stays && kept)
        };
        let gone: Vec<_> = link.advertised_prefixes().into_iter().filter(is_gone).collect();
        if link.is_up() && link.advertiser.is_some() {
            if !stays || settings.advertisements.is_none() || settings.mac != link.mac() {
                self.say_goodbye(id, &gone, now_ns);
            } else if !gone.is_empty() {
                self.advertise(id, false, &gone, now_ns);
            }
        }
        if moves {
            self.forget_neighbours_of(id);
        }
        let Some(link) = self.links.get_mut(id) else { return };
        if moves || !settings.dhcp4 {
            link.lease = None;
        }
        if moves || settings.mac != link.mac() {
            // Neighbours hear of the addresses again (RFC 5227 §2.3, RFC 4861 §7.2.6).
            link.probed.clear();
            link.probing.clear();
            link.duplicates.clear();
        }
        link.attachment = attachment;
    }

    /// Says which ports have a link, by their numbers, before the first configuration.
    pub fn begin_with_links(&mut self, up: &[bool]) {
        for (id, &is_up) in (0..).map(InterfaceId).zip(up) {
            if let Some(link) = self.links.get_mut(id).filter(|_| is_up) {
                link.port_up = true;
                log::info!("{}: link up", link.name);
            }
        }
    }

    /// The link of a port came up or went down.
    pub fn set_link(&mut self, port: InterfaceId, is_up: bool, now_ns: u64) {
        if let Some(link) = self.links.get_mut(port).filter(|link| link.port_up != is_up) {
            link.port_up = is_up;
            log::info!("{}: link {}", link.name, if is_up { "up" } else { "down" });
            self.refresh(now_ns);
        }
    }

    /// A DHCP server gave an interface an address, or the lease ended.
    pub fn set_lease(&mut self, interface: InterfaceId, lease: Option<DhcpLease>, now_ns: u64) {
        if let Some(link) = self.links.get_mut(interface).filter(|link| link.lease != lease) {
            link.lease = lease;
            self.refresh(now_ns);
        }
    }

    /// Derives all that follows from interfaces, addresses and links.
    fn refresh(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.changes.mark_dirty();
        let is_up = |router: &Self| {
            let links = router.links.iter().filter(|(_, link)| link.is_up());
            links.map(|(id, _)| id).collect::<BTreeSet<_>>()
        };
        let were_up = is_up(self);
        for id in self.links.ids() {
            self.refresh_link(id, now_ns);
        }
        let came_up = is_up(self).difference(&were_up).next().is_some();
        self.listen(now_ns);
        self.links_due_ns = self.links.due_ns();
        // Before the networks they are in: so their own routes do not come after those of all networks.
        self.refresh_static_neighbours(now_ns);
        let routes = self.connected_routes();
        self.replace_routes(Source::Connected, routes);
        let routes = self.static_routes();
        self.replace_routes(Source::Static, routes);
        let routes = self.leased_routes();
        self.replace_routes(Source::Dhcp, routes);
        let groups: Vec<_> = self.groups.ids().collect();
        groups.into_iter().for_each(|id| self.resolve_group(id));
        self.forget_unreachable();
        self.select_again();
        self.reconsider_neighbours();
        self.refresh_services(came_up, now_ns);
    }

    /// Whether a link is up, its probes, and the adjacency of its networks.
    fn refresh_link(&mut self, id: InterfaceId, now_ns: u64) {
        let Some(link) = self.links.get(id) else { return };
        let link_up = match link.attachment {
            Attachment::Port => link.port_up,
            Attachment::Ipsec { .. } => true,
            Attachment::Vlan { parent, .. } => self.links.get(parent).is_some_and(|parent| {
                parent.port_up && parent.settings.as_ref().is_none_or(|settings| settings.enabled)
            }),
        };
        let Some(link) = self.links.get_mut(id) else { return };
        link.link_up = link_up;
        let is_up = link.is_up();
        let mut own: BTreeSet<IpAddr> = link.addresses().map(|network| network.addr()).collect();
        let _ = own.insert(IpAddr::V6(link.link_local()));
        if !is_up || link.is_tunnel() {
            // Nobody at the other end of a tunnel asks for addresses.
            own.clear();
        }
        if !is_up && let Some(advertiser) = &mut link.advertiser {
            *advertiser = Advertiser::new(advertiser.settings().clone(), now_ns);
        }
        link.duplicates.retain(|address| own.contains(address));
        let services = &self.services;
        link.probing.retain(|address, _| own.contains(address) || services.have(*address));
        for address in own.difference(&link.probed) {
            let _ = link.probing.insert(*address, Probe { left: 2, due_ns: now_ns });
        }
        link.probed = own;
        if link.settings.is_some() && !self.gleans.contains_key(&id) {
            let adjacency = match link.attachment {
                Attachment::Ipsec { .. } => Adjacency::Ipsec { interface: id },
                Attachment::Port | Attachment::Vlan { .. } => Adjacency::Unresolved { interface: id },
            };
            let adjacency = self.adjacencies.add(Owner::Interface(id), adjacency);
            let _ = self.gleans.insert(id, adjacency);
        }
    }

    /// Own addresses are local while their interface is enabled; networks are connected while its link is up.
    fn connected_routes(&self) -> Vec<(IpNet, Target)> {
        let mut routes = Vec::new();
        for (id, link) in self.links.iter() {
            let enabled = link.settings.as_ref().is_some_and(|settings| settings.enabled);
            for network in link.addresses().filter(|network| enabled && !is_link_local(network)) {
                if link.is_up() && network.prefix_len() < network.max_prefix_len() {
                    routes.push((network.trunc(), Target::Connected(id)));
                }
            }
        }
        for (_, link) in self.links.iter() {
            let enabled = link.settings.as_ref().is_some_and(|settings| settings.enabled);
            let own = link.addresses().filter(|network| enabled && !is_link_local(network));
            routes.extend(own.map(|network| (IpNet::from(network.addr()), Target::Local)));
        }
        routes
    }

    fn static_routes(&self) -> Vec<(IpNet, Target)> {
        let resolved = self.static_routes.iter().filter_map(|route| match self.target(route) {
            Ok(target) => Some((route.prefix, target)),
            Err(error) => {
                log::error!("route {} is left out: {error}", route.prefix);
                None
            }
        });
        resolved.collect()
    }

    /// The routes that leases name; those of several leases for the same network are one.
    fn leased_routes(&self) -> Vec<(IpNet, Target)> {
        let mut hops: BTreeMap<Ipv4Net, Vec<Via>> = BTreeMap::new();
        for (id, link) in self.links.iter() {
            for (network, router) in link.lease.iter().flat_map(|lease| &lease.routes) {
                let via = Via { address: (*router).into(), interface: Some(id), weight: 1 };
                let hops = hops.entry(*network).or_default();
                if hops.len() < MAX_NEXT_HOPS && !hops.contains(&via) {
                    hops.push(via);
                }
            }
        }
        hops.into_iter().map(|(network, hops)| (network.into(), Target::Via(hops))).collect()
    }
}

/// The tunnels that are interfaces.
fn tunnels(config: &Config) -> impl Iterator<Item = &config::Tunnel> {
    config.ipsec.tunnels.iter().filter(|tunnel| tunnel.route_based)
}

/// Link-local addresses mean something on their own link only, so the route tables do not have them.
fn is_link_local(network: &IpNet) -> bool {
    matches!(network, IpNet::V6(network) if network.addr().is_unicast_link_local())
}
