//! What the API and time act upon: the platform, the running configuration, the router, the ports, DHCP.

use crate::auth::Auth;
use crate::balancing::Balancing;
use crate::beginning::Begun;
use crate::boot;
use crate::dhcp::{Client, Event, Lease};
use crate::drops::ControlDrops;
use crate::flow_log::FlowLog;
use crate::health::Health;
use crate::net::Filter;
use crate::objects::Objects;
use crate::platform::Platform;
use crate::running::Running;
use crate::store::{Behind, Checksum, Saved, Store, StoreError};
use alloc::{boxed::Box, collections::BTreeMap, format, string::String, sync::Arc, vec::Vec};
use buffer::PortControl;
use config::{Config, PortFacts, Problem};
use core::net::{IpAddr, Ipv4Addr};
use dataplane::{InterfaceId, Shared, TraceRecord};
use resources::Object;
use router::{DhcpLease, Router};
use services::Site;

/// After a restart is asked for: time to send the answer.
const REBOOT_DELAY_NS: u64 = 500_000_000;

/// Free memory that no request may take: what the node itself needs at its busiest.
const RESERVED_BYTES: u64 = 6 << 20;

/// What came of saving.
pub(crate) struct Kept {
    pub config: Result<(), StoreError>,
    /// Good if there are none.
    pub objects: Result<(), StoreError>,
}

/// The state of the management plane, its connections apart.
pub(crate) struct Node {
    pub platform: Box<dyn Platform>,
    pub shared: Arc<Shared>,
    pub router: Router,
    /// In the order of their interface identifiers.
    pub ports: Vec<Box<dyn PortControl>>,
    pub running: Running,
    pub objects: Objects,
    pub balancing: Balancing,
    pub health: Health,
    pub auth: Auth,
    /// Clients of the interfaces that want a lease.
    pub dhcp: BTreeMap<InterfaceId, Client>,
    pub trace: Vec<TraceRecord>,
    pub drops: ControlDrops,
    pub flow_log: FlowLog,
    pub started_ns: u64,
    /// Time of the present poll.
    pub now_ns: u64,
    pub reboot_at_ns: Option<u64>,
    /// How the API listens changed: the stack is to be told.
    pub listen_changed: bool,
    /// Text of the API's description once it was asked for, as it takes milliseconds to make.
    pub description: Option<Vec<u8>>,
    /// Token of the command line.
    boot_token: Option<String>,
    /// Token made for want of another one.
    made_token: Option<String>,
    boot_module: Checksum,
}

impl Node {
    /// How long the node runs, in milliseconds' steps.
    pub fn uptime_seconds(&self) -> f64 {
        (self.now_ns.saturating_sub(self.started_ns) / 1_000_000) as f64 / 1000.0
    }

    /// A node with the configuration that was chosen, which its router has already.
    pub fn new(
        platform: Box<dyn Platform>,
        shared: Arc<Shared>,
        begun: Begun,
        ports: Vec<Box<dyn PortControl>>,
        now_ns: u64,
    ) -> Self {
        let Begun { mut router, start, boot } = begun;
        let mut platform = platform;
        for reason in &start.reasons {
            log::info!(target: "config", "{reason}");
        }
        let config = start.config;
        // Workers begin with no IPsec.
        if config.ipsec != config::Ipsec::default() {
            configure_ipsec(&mut router, &mut *platform, &config, now_ns);
        }
        if platform.store().is_none() {
            // No objects to wait for: the first tables, which workers take while the rest is made.
            router.apply_changes(now_ns);
        }
        let mut seed = [0; 8];
        platform.random(&mut seed);
        let mut node = Self {
            platform,
            shared,
            router,
            ports,
            running: Running::new(config.clone(), start.generation, start.source),
            objects: Objects::default(),
            balancing: Balancing::new(),
            health: Health::new(u64::from_le_bytes(seed)),
            auth: Auth::new(String::new()),
            dhcp: BTreeMap::new(),
            trace: Vec::new(),
            drops: ControlDrops::default(),
            flow_log: FlowLog::default(),
            started_ns: now_ns,
            now_ns,
            reboot_at_ns: None,
            listen_changed: true,
            description: None,
            boot_module: boot::module_checksum(&boot),
            boot_token: boot.token.filter(is_token),
            made_token: None,
        };
        node.follow(&config);
        node.restore_objects();
        node
    }

    /// Puts the objects of the store in force, before the first packet comes.
    fn restore_objects(&mut self) {
        let Some(device) = self.platform.store() else { return };
        let mut part = Behind::new(device);
        let saved = match Store::open_objects(&mut part).and_then(|mut store| store.load()) {
            Ok(Some(saved)) => saved,
            // A disk that is too small for them has none.
            Ok(None) | Err(StoreError::TooSmall { .. }) => return,
            Err(error) => return log::error!(target: "resources", "the store cannot be read: {error}"),
        };
        let lines = saved.document.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let read = |line| {
            let value = serde_json::from_slice(line).map_err(|error| format!("{error}"))?;
            Object::read(value).map(Arc::new).map_err(|error| format!("{:?}", error.0))
        };
        let restored = lines.map(read).collect::<Result<Vec<_>, String>>();
        match restored.and_then(|objects| self.objects.restore(objects, saved.generation)) {
            Ok(()) => self.finish_objects(),
            Err(why) => log::error!(target: "resources", "the objects of the store are not taken: {why}"),
        }
    }

    /// Writes the objects to the store, if they are not there.
    fn save_objects(&mut self) -> Result<(), StoreError> {
        let generation = self.objects.generation();
        let is_new = self.objects.set().is_empty() && self.objects.saved_generation.is_none();
        let Some(device) = self.platform.store().filter(|_| !is_new) else { return Ok(()) };
        if self.objects.saved_generation == Some(generation) {
            return Ok(());
        }
        let mut part = Behind::new(device);
        let mut store = Store::open_objects(&mut part)?;
        let document_bytes = self.objects.set().bytes() + self.objects.set().len();
        store.check_length(document_bytes)?;
        let mut document = Vec::with_capacity(document_bytes);
        for object in self.objects.set().iter() {
            document.extend_from_slice(object.text().as_bytes());
            document.push(b'\n');
        }
        store.save(&Saved { generation, module: self.boot_module, document: document.into() })?;
        self.objects.saved_generation = Some(generation);
        log::info!(target: "resources", "generation {generation} is in the store");
        Ok(())
    }

    /// Holds `config` against the ports and the memory of this machine.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, config: &Config) -> Result<(), Vec<Problem>> {
        let mut faults = config::validate_ports(config, &port_facts(&self.ports));
        faults.extend(self.check_flows(config));
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// Replaces the running configuration by one that was validated; it comes back unless confirmed in time.
    pub fn replace_config(&mut self, config: Config, confirm_seconds: Option<u64>) {
        let changes = config::diff(self.running.config(), &config);
        let confirm_by_ns = confirm_seconds.map(|seconds| self.now_ns + seconds * 1_000_000_000);
        self.put_in_force(&config);
        self.running.replace(config, confirm_by_ns);
        log::info!(target: "config", "generation {} is in force, {} changes", self.running.generation(), changes.len());
        for change in changes.iter().take(100) {
            log::info!(target: "config", "{change}");
        }
    }

    /// Takes an unconfirmed change back.
    pub fn roll_back(&mut self, why: &str) {
        if let Some(previous) = self.running.previous().cloned() {
            self.put_in_force(&previous);
            self.running.roll_back();
            log::warn!(target: "config", "rolled back, {why}: generation {} is in force", self.running.generation());
        }
    }

    /// Writes the running configuration and the objects to the store, each whether or not the other can be kept; None if
    /// there is no store.
    pub fn save_config(&mut self) -> Option<Kept> {
        let mut config = self.running.config().clone();
        if config.api.token.is_none() {
            // Whoever saved can still get in after a restart.
            config.api.token.clone_from(&self.made_token);
        }
        let saved = Saved {
            generation: self.running.generation(),
            module: self.boot_module,
            document: config.to_json(),
        };
        let _ = self.platform.store()?;
        // Whoever reads the configuration finds the objects that were there with it.
        let objects = self.save_objects();
        if let Err(error) = &objects {
            log::error!(target: "resources", "not saved: {error}");
        }
        let config = Store::open(self.platform.store()?).and_then(|mut store| store.save(&saved));
        match &config {
            Ok(()) => {
                self.running.saved_generation = Some(saved.generation);
                log::info!(target: "config", "generation {} is in the store", saved.generation);
            }
            Err(error) => log::error!(target: "config", "not saved: {error}"),
        }
        Some(Kept { config, objects })
    }

    /// Has the node restart as soon as the answer is on its way.
    pub fn reboot_soon(&mut self) {
        self.reboot_at_ns = Some(self.now_ns + REBOOT_DELAY_NS);
    }

    /// Does what time asks for; returns when it asks again.
    pub fn tick(&mut self) -> u64 {
        if self.running.confirm_by_ns().is_some_and(|by_ns| self.now_ns >= by_ns) {
            self.roll_back("not confirmed in time");
        }
        if self.reboot_at_ns.is_some_and(|at_ns| self.now_ns >= at_ns) {
            self.reboot_at_ns = None;
            self.platform.reboot();
        }
        let at_ns = [self.running.confirm_by_ns(), self.reboot_at_ns, Some(self.tick_health())];
        at_ns.into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// The addresses that answer, and the port.
    pub fn listen(&self) -> (Filter, u16) {
        let api = &self.running.config().api;
        let addresses = api.interface.as_ref().map(|name| {
            let interfaces = self.router.interfaces().into_iter().filter(|interface| interface.name == *name);
            interfaces
                .flat_map(|interface| interface.addresses)
                .map(|net| net.addr())
                .collect::<Vec<IpAddr>>()
        });
        (Filter { addresses }, api.port)
    }

    /// The longest packet that every interface carries.
    pub fn mtu(&self) -> u16 {
        self.router.interfaces().iter().filter(|i| i.enabled).map(|i| i.mtu).min().unwrap_or(1500)
    }

    /// A DHCP client says something new.
    pub fn take_dhcp_event(&mut self, interface: InterfaceId, event: Event) {
        let name = self.name_of(interface);
        let lease = match event {
            Event::Bound(lease)
                if self.is_elsewhere(self.running.config(), interface, lease.address.addr()) =>
            {
                log::warn!(target: "dhcp", "{name}: {} from {} is an address of this node already", lease.address, lease.server);
                None
            }
            Event::Bound(lease) => {
                log::info!(target: "dhcp", "{name}: {} from {}", lease.address, lease.server);
                Some(lease)
            }
            Event::Lost => {
                log::warn!(target: "dhcp", "{name}: the lease is over");
                None
            }
        };
        self.router.set_lease(interface, lease.as_ref().map(router_lease), self.now_ns);
        self.listen_changed = true;
        self.objects.renew_services();
        self.objects.renew_policy();
    }

    /// Whether an address is one of another interface, or configured on this one.
    fn is_elsewhere(&self, config: &Config, leased_by: InterfaceId, address: Ipv4Addr) -> bool {
        let name = self.name_of(leased_by);
        let configured = config.interfaces.iter().flat_map(|i| &i.addresses);
        let others = self.router.interfaces().into_iter().filter(|interface| interface.name != name);
        let mut all = configured.copied().chain(others.flat_map(|interface| interface.addresses));
        all.any(|network| network.addr() == IpAddr::V4(address))
    }

    /// A port has a link again: the DHCP clients on it and on its sub-interfaces ask at once.
    pub fn wake_dhcp_clients(&mut self, port: &str) {
        let config = self.running.config();
        let is_on_port = |name: &str| {
            name == port
                || config.interfaces.iter().any(|i| i.name == name && i.parent.as_deref() == Some(port))
        };
        for interface in self.router.interfaces().iter().filter(|interface| is_on_port(&interface.name)) {
            if let Some(client) = self.dhcp.get_mut(&interface.id) {
                client.link_up(self.now_ns);
            }
        }
    }

    /// Whether a request may take this much more memory. The heap cannot refuse: what is not asked for here ends in a
    /// crash when there is none left.
    pub fn can_spare(&self, bytes: u64) -> bool {
        self.platform.memory().free_bytes >= bytes.saturating_add(RESERVED_BYTES)
    }

    /// Name of an interface, for people.
    pub fn name_of(&self, id: InterfaceId) -> String {
        let named = self.router.interfaces().into_iter().find(|interface| interface.id == id);
        named.map_or_else(|| format!("interface {}", id.0), |interface| interface.name)
    }

    fn put_in_force(&mut self, config: &Config) {
        self.router.configure(config, self.now_ns);
        configure_ipsec(&mut self.router, &mut *self.platform, config, self.now_ns);
        self.follow(config);
    }

    /// Does with a configuration what is left once the router and IPsec have it.
    fn follow(&mut self, config: &Config) {
        self.platform.set_log_level(config.log.level);
        self.keep_dhcp_clients(config);
        let token = self.token_for(config);
        self.auth.set_token(&token);
        self.listen_changed = true;
        let config::Cluster { node, zone, health_check, .. } = config.cluster.clone();
        self.objects.set_site(Site { node, zone, health_check: health_check.into() });
        self.follow_flow_timeouts();
        self.objects.renew_services();
        self.objects.renew_policy();
    }

    /// The command line goes before the configuration; without either a token is made, once.
    fn token_for(&mut self, config: &Config) -> String {
        if let Some(token) = self.boot_token.as_ref().or(config.api.token.as_ref()) {
            return token.clone();
        }
        if let Some(token) = &self.made_token {
            return token.clone();
        }
        let mut bytes = [0; 32];
        self.platform.random(&mut bytes);
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // An error, as it must be read whatever the level of the log is.
        log::error!(target: "api", "no token is configured; this one was made: {token}");
        self.made_token = Some(token.clone());
        token
    }

    /// Clients of interfaces that still want one stay as they are; others come and go.
    fn keep_dhcp_clients(&mut self, config: &Config) {
        let interfaces = self.router.interfaces();
        let wants = |name: &str| config.interfaces.iter().any(|i| i.name == name && i.enabled && i.dhcp4);
        let link_of = |config: &Config, name: &str| {
            let found = config.interfaces.iter().find(|interface| interface.name == name);
            found.map(|interface| (interface.parent.clone(), interface.vlan))
        };
        let renamed = config.hostname != self.running.config().hostname;
        let mut before = core::mem::take(&mut self.dhcp);
        for interface in interfaces.iter().filter(|interface| wants(&interface.name)) {
            let kept = before.remove(&interface.id).filter(|client| {
                let moved =
                    link_of(config, &interface.name) != link_of(self.running.config(), &interface.name);
                !renamed && !moved && Some(client.mac()) == interface.mac.map(|mac| mac.0)
            });
            let client = kept.unwrap_or_else(|| {
                let mut seed = [0; 8];
                self.platform.random(&mut seed);
                Client::new(
                    interface.mac.map_or([0; 6], |mac| mac.0),
                    &config.hostname,
                    u64::from_le_bytes(seed),
                    self.now_ns,
                )
            });
            let lease =
                client.lease().filter(|lease| !self.is_elsewhere(config, interface.id, lease.address.addr()));
            self.router.set_lease(interface.id, lease.map(router_lease), self.now_ns);
            let _ = self.dhcp.insert(interface.id, client);
        }
        for id in before.into_keys() {
            self.router.set_lease(id, None, self.now_ns);
        }
    }
}

/// Whether a token of the command line can be one: who guesses it must not have it easier than with one of the configuration.
#[expect(clippy::ptr_arg, reason = "the shape that filter wants")]
fn is_token(token: &String) -> bool {
    let fault = config::check_token(token).err();
    if let Some(fault) = &fault {
        // An error, as it must be read whatever the level of the log is.
        log::error!(target: "api", "the token of the command line is not in force, it {fault}");
    }
    fault.is_none()
}

fn configure_ipsec(router: &mut Router, platform: &mut dyn Platform, config: &Config, now_ns: u64) {
    router.configure_ipsec(&config.ipsec, &mut |bytes: &mut [u8]| platform.random(bytes), now_ns);
}

fn port_facts(ports: &[Box<dyn PortControl>]) -> Vec<PortFacts<'_>> {
    ports.iter().map(|port| PortFacts { name: &port.info().name, max_mtu: port.info().max_mtu }).collect()
}

pub(crate) fn load(platform: &mut dyn Platform) -> Option<Saved> {
    let device = platform.store()?;
    match Store::open(device).and_then(|mut store| store.load()) {
        Ok(saved) => saved,
        Err(error) => {
            log::error!(target: "config", "the store cannot be read: {error}");
            None
        }
    }
}

fn router_lease(lease: &Lease) -> DhcpLease {
    DhcpLease { address: lease.address, routes: lease.routes.clone(), mtu: lease.mtu }
}
