//! The interfaces: what the configuration, the ports and DHCP say about each.

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    string::String,
    vec::Vec,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use config::{IpNet, RouterAdvertisements};
use dataplane::{Attachment, Interface, InterfaceId, MAX_INTERFACES, MAX_MTU, MIN_MTU};

use crate::{DhcpLease, Port, advertise::Advertiser, listener::Listener, nd, services::Services};

/// Group of all IPv4 systems of a link (RFC 1112).
const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// A port or sub-interface.
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) attachment: Attachment,
    pub(crate) device_mac: [u8; 6],
    /// Whether the port has a link; of no meaning for a sub-interface.
    pub(crate) port_up: bool,
    /// Whether this, or the port below, has a link.
    pub(crate) link_up: bool,
    /// None: not configured.
    pub(crate) settings: Option<Settings>,
    pub(crate) lease: Option<DhcpLease>,
    pub(crate) advertiser: Option<Advertiser>,
    pub(crate) listener: Listener,
    /// Own addresses that are being told to the link, or asked about.
    pub(crate) probing: BTreeMap<IpAddr, Probe>,
    /// Own addresses that have been, or are.
    pub(crate) probed: BTreeSet<IpAddr>,
    /// Own addresses that somebody else uses.
    pub(crate) duplicates: Vec<IpAddr>,
    /// When an address was last defended (RFC 5227 §2.4).
    pub(crate) defended_ns: Option<u64>,
}

/// What is left of probing for duplicates of an own address (RFC 4862 §5.4), or of announcing it (RFC 5227 §2.3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// Packets to send.
    pub(crate) left: u8,
    pub(crate) due_ns: u64,
}

/// What the configuration says about an interface.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) enabled: bool,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u16,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) dhcp4: bool,
    pub(crate) advertisements: Option<RouterAdvertisements>,
}

impl Link {
    pub(crate) fn new(name: String, attachment: Attachment, device_mac: [u8; 6]) -> Self {
        Self {
            name,
            attachment,
            device_mac,
            port_up: false,
            link_up: false,
            settings: None,
            lease: None,
            advertiser: None,
            listener: Listener::default(),
            probing: BTreeMap::new(),
            probed: BTreeSet::new(),
            duplicates: Vec::new(),
            defended_ns: None,
        }
    }

    /// Whether it is a tunnel: there are no frames, and only one at the other end.
    pub(crate) fn is_tunnel(&self) -> bool {
        matches!(self.attachment, Attachment::Ipsec { .. })
    }

    pub(crate) fn mac(&self) -> [u8; 6] {
        self.settings.as_ref().map_or(self.device_mac, |settings| settings.mac)
    }

    /// Whether packets pass.
    pub(crate) fn is_up(&self) -> bool {
        self.link_up && self.settings.as_ref().is_some_and(|settings| settings.enabled)
    }

    pub(crate) fn mtu(&self) -> u16 {
        let configured = self.settings.as_ref().map_or(1500, |settings| settings.mtu);
        let leased = self.lease.as_ref().and_then(|lease| lease.mtu).unwrap_or(u16::MAX);
        configured.min(leased).clamp(MIN_MTU, MAX_MTU)
    }

    /// Configured and leased addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpNet> {
        let configured = self.settings.iter().flat_map(|settings| settings.addresses.iter().copied());
        configured.chain(self.lease.iter().map(|lease| IpNet::V4(lease.address)))
    }

    pub(crate) fn link_local(&self) -> Ipv6Addr {
        nd::link_local(self.mac())
    }

    /// Whether this is an address of the interface.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        address == IpAddr::V6(self.link_local()) || self.addresses().any(|network| network.addr() == address)
    }

    /// Whether the address belongs to a neighbour on this link.
    pub(crate) fn is_on_link(&self, address: IpAddr) -> bool {
        let usable = |network: &IpNet| match (network, address) {
            (IpNet::V4(network), IpAddr::V4(address)) => {
                network.contains(&address)
                    && (network.prefix_len() >= 31
                        || (address != network.network() && address != network.broadcast()))
            }
            _ => network.contains(&address),
        };
        let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        (link_local || self.addresses().any(|network| usable(&network))) && !self.owns(address)
    }

    /// The address to ask for an IPv4 neighbour with.
    pub(crate) fn source4(&self, target: Ipv4Addr) -> Option<Ipv4Addr> {
        let own = |network| if let IpNet::V4(network) = network { Some(network) } else { None };
        let same_network = self.addresses().filter_map(own).find(|network| network.contains(&target));
        same_network.or_else(|| self.addresses().find_map(own)).map(|network| network.addr())
    }

    /// What is advertised: the networks of 64 bits.
    pub(crate) fn advertised_prefixes(&self) -> Vec<Ipv6Addr> {
        let mut prefixes: Vec<Ipv6Addr> = self
            .addresses()
            .filter_map(|network| match network {
                IpNet::V6(network) if network.prefix_len() == 64 => Some(network.network()),
                _ => None,
            })
            .collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    }

    /// The IPv6 groups to listen to, but for that of all nodes.
    pub(crate) fn groups6(&self, services: &Services) -> BTreeSet<Ipv6Addr> {
        let own = self.addresses().filter_map(|network| match network {
            IpNet::V6(network) => Some(nd::solicited_node(network.addr())),
            IpNet::V4(_) => None,
        });
        let mut groups: BTreeSet<_> = own.chain(services.groups_of(self)).collect();
        groups.extend([nd::ALL_ROUTERS, nd::solicited_node(self.link_local())]);
        groups
    }

    /// For the tables. `carries_vlans`: a sub-interface needs it although it is not configured itself.
    pub(crate) fn compile(&self, carries_vlans: bool, services: &Services) -> Option<Interface> {
        if self.settings.is_none() && !carries_vlans {
            return None;
        }
        let mut ipv4 = Vec::new();
        let mut ipv6 = Vec::new();
        for network in self.addresses() {
            match network {
                IpNet::V4(network) => ipv4.push((network.addr(), network.prefix_len())),
                IpNet::V6(network) => ipv6.push((network.addr(), network.prefix_len())),
            }
        }
        let mut groups6 = Vec::new();
        if self.settings.is_some() && !self.is_tunnel() {
            ipv6.push((self.link_local(), 64));
            groups6.push(nd::ALL_NODES);
            groups6.extend(self.groups6(services));
        }
        let waits_for_lease =
            self.lease.is_none() && self.settings.as_ref().is_some_and(|settings| settings.dhcp4);
        Some(Interface {
            attachment: self.attachment,
            mac: self.mac(),
            mtu: self.mtu(),
            up: self.link_up && self.settings.as_ref().is_none_or(|settings| settings.enabled),
            dhcp_client: waits_for_lease || self.settings.as_ref().is_some_and(|settings| settings.dhcp4),
            ipv4,
            ipv6,
            groups4: if self.settings.is_some() && !self.is_tunnel() {
                [ALL_SYSTEMS].into()
            } else {
                Vec::new()
            },
            groups6,
        })
    }
}

/// All interfaces by number: the ports first, then sub-interfaces. A number outlives its interface in routes, in the
/// tables of workers and in counters: it comes back for an interface of the same name, and is given to another one only
/// when there is no new number left.
pub(crate) struct Links {
    links: Vec<Option<Link>>,
    /// Interfaces that are gone, the longest gone first.
    retired: VecDeque<(String, InterfaceId)>,
    ports: usize,
    names: BTreeMap<String, InterfaceId>,
}

impl Links {
    pub(crate) fn new(ports: &[Port]) -> Self {
        let link = |port: &Port| Link::new(port.name.clone(), Attachment::Port, port.mac);
        let links: Vec<_> = ports.iter().take(MAX_INTERFACES).map(|port| Some(link(port))).collect();
        let names = ports.iter().enumerate().map(|(n, port)| (port.name.clone(), InterfaceId(n as u16)));
        Self { ports: links.len(), names: names.collect(), links, retired: VecDeque::new() }
    }

    pub(crate) fn get(&self, id: InterfaceId) -> Option<&Link> {
        self.links.get(usize::from(id.0))?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: InterfaceId) -> Option<&mut Link> {
        self.links.get_mut(usize::from(id.0))?.as_mut()
    }

    pub(crate) fn is_tunnel(&self, id: InterfaceId) -> bool {
        self.get(id).is_some_and(Link::is_tunnel)
    }

    pub(crate) fn id(&self, name: &str) -> Option<InterfaceId> {
        self.names.get(name).copied()
    }

    pub(crate) fn name(&self, id: InterfaceId) -> String {
        self.get(id).map_or_else(String::new, |link| link.name.clone())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (InterfaceId, &Link)> {
        let numbered = self.links.iter().enumerate();
        numbered.filter_map(|(id, link)| Some((InterfaceId(id as u16), link.as_ref()?)))
    }

    pub(crate) fn ids(&self) -> Vec<InterfaceId> {
        self.iter().map(|(id, _)| id).collect()
    }

    /// When the first of them has something to send.
    pub(crate) fn due_ns(&self) -> u64 {
        let up = self.iter().map(|(_, link)| link).filter(|link| link.is_up());
        let due = up.flat_map(|link| {
            let probes = link.probing.values().map(|probe| probe.due_ns);
            let told = link.advertiser.iter().map(|advertiser| advertiser.deadline_ns);
            probes.chain(told).chain([link.listener.due_ns()])
        });
        due.min().unwrap_or(u64::MAX)
    }

    /// A new sub-interface; None if there are too many. `is_named`: a route leads to that number.
    pub(crate) fn add(&mut self, link: Link, is_named: impl Fn(InterfaceId) -> bool) -> Option<InterfaceId> {
        let returns = self.retired.iter().position(|(name, _)| *name == link.name);
        let reused = returns.or_else(|| {
            let is_full = self.links.len() >= MAX_INTERFACES;
            self.retired.iter().position(|(_, id)| is_full && !is_named(*id))
        });
        let id = match reused.and_then(|index| self.retired.remove(index)) {
            Some((_, id)) => id,
            None if self.links.len() < MAX_INTERFACES => {
                self.links.push(None);
                InterfaceId(self.links.len() as u16 - 1)
            }
            None => return None,
        };
        let _ = self.names.insert(link.name.clone(), id);
        *self.links.get_mut(usize::from(id.0))? = Some(link);
        Some(id)
    }

    /// Removes a sub-interface.
    pub(crate) fn remove(&mut self, id: InterfaceId) {
        if usize::from(id.0) >= self.ports
            && let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::take)
        {
            let _ = self.names.remove(&link.name);
            self.retired.push_back((link.name, id));
        }
    }

    /// The interface whose network `address` is in, of those that are up; link-local addresses are in none.
    pub(crate) fn towards(&self, address: IpAddr) -> Option<InterfaceId> {
        if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
            return None;
        }
        let on_link = |link: &Link| {
            let lens = link.addresses().filter(|network| network.contains(&address)).map(|n| n.prefix_len());
            if link.is_on_link(address) { lens.max() } else { None }
        };
        let links = self.iter().filter(|(_, link)| link.is_up());
        let candidates = links.filter_map(|(id, link)| Some((on_link(link)?, id)));
        candidates.max_by_key(|(len, _)| *len).map(|(_, id)| id)
    }

    /// For the tables.
    pub(crate) fn compile(&self, services: &Services) -> Vec<Option<Interface>> {
        let parent_of = |link: &Link| match link.attachment {
            Attachment::Vlan { parent, .. } => Some(parent),
            Attachment::Port | Attachment::Ipsec { .. } => None,
        };
        let carries_vlans = |id| self.iter().any(|(_, link)| parent_of(link) == Some(id));
        let numbered = self.links.iter().enumerate();
        numbered
            .map(|(n, link)| {
                link.as_ref().and_then(|link| link.compile(carries_vlans(InterfaceId(n as u16)), services))
            })
            .collect()
    }
}
