//! The health of the services' backends: who is checked, what a change of it does, and what is told of it.

use crate::node::Node;
use alloc::{rc::Rc, sync::Arc, vec::Vec};
use core::cell::RefCell;
use health::{Check, Event, Monitor, Status, Target};
use resources::Compiled;
use services::{Pool, PoolKey, State};

/// The health of backends, and what the tables in force were made of.
pub(crate) struct Health {
    /// Shared with the work that makes tables.
    pub monitor: Rc<RefCell<Monitor>>,
    /// What the monitor was aimed at last.
    aimed_at: Arc<services::Compiled>,
    /// When shares change because of time alone.
    shares_due_ns: u64,
    /// What workers were given last.
    in_force: Rc<InForce>,
}

/// What the tables of workers were made of.
#[derive(Default)]
pub(crate) struct InForce {
    /// What the objects said.
    pub compiled: Arc<Compiled>,
    /// What health has made of it; None if that is the same.
    pub healthy: Option<Healthy>,
}

/// What health made of services.
pub(crate) struct Healthy {
    /// The pools as tables were built of them, and the same frontends.
    pub services: services::Compiled,
    /// Places of pools of which so few backends are up that all are used.
    panicking: Vec<usize>,
    /// When it was so.
    at_ns: u64,
}

impl InForce {
    /// The pool that the table of a place was built of.
    pub fn pool(&self, place: usize) -> Option<&Pool> {
        let services = self.healthy.as_ref().map_or(&*self.compiled.services, |healthy| &healthy.services);
        services.pools.get(place)
    }

    /// Whether a pool has so few backends that are up that all are used.
    pub fn panics(&self, place: usize) -> bool {
        self.healthy.as_ref().is_some_and(|healthy| healthy.panicking.contains(&place))
    }
}

impl Health {
    pub fn new(seed: u64) -> Self {
        Self {
            monitor: Rc::new(RefCell::new(Monitor::new(seed))),
            aimed_at: Arc::default(),
            shares_due_ns: u64::MAX,
            in_force: Rc::default(),
        }
    }

    /// What workers were given last.
    pub fn in_force(&self) -> &Rc<InForce> {
        &self.in_force
    }

    /// Checks the backends of these services from now on.
    pub fn aim(&mut self, services: &Arc<services::Compiled>, now_ns: u64) {
        if !Arc::ptr_eq(services, &self.aimed_at) {
            self.aimed_at = services.clone();
            self.monitor.borrow_mut().set_targets(services.pools.iter().filter_map(target), now_ns);
        }
    }

    /// What health makes of services, pool by pool; None if it is not looked at.
    pub fn begin(monitor: &Rc<RefCell<Monitor>>, now_ns: u64) -> Option<Healthy> {
        (!monitor.borrow().is_idle()).then(|| Healthy {
            services: services::Compiled::default(),
            panicking: Vec::new(),
            at_ns: now_ns,
        })
    }

    /// Notes what workers were given, and says what has changed of pools that have too few backends.
    pub fn take(&mut self, in_force: InForce) {
        let at_ns = in_force.healthy.as_ref().map(|healthy| healthy.at_ns);
        self.shares_due_ns = at_ns.map_or(u64::MAX, |at_ns| self.monitor.borrow().next_share_ns(at_ns));
        let before = core::mem::replace(&mut self.in_force, Rc::new(in_force));
        let (before, after) = (panicking(&before), panicking(&self.in_force));
        for key in after.iter().filter(|key| !before.contains(key)) {
            log::warn!(target: "health", "{key}: too few backends are up, all are used");
        }
        for key in before.iter().filter(|key| !after.contains(key)) {
            log::info!(target: "health", "{key}: enough backends are up, health is looked at again");
        }
    }
}

impl Healthy {
    /// Adds the next pool.
    pub fn add(&mut self, monitor: &Rc<RefCell<Monitor>>, pool: &Pool) {
        let mut pool = pool.clone();
        if monitor.borrow().shares(&mut pool, self.at_ns) {
            self.panicking.push(self.services.pools.len());
        }
        self.services.pools.push(pool);
    }
}

impl Node {
    /// Does what the ends of probes ask for.
    pub fn take_health_events(&mut self, events: &[Event]) {
        for event in events {
            let Event { pool, backend, change } = event;
            match (change.to, change.why) {
                (Status::Up, _) => log::info!(target: "health", "{pool}: {backend} is up"),
                (Status::Down, Some(why)) => log::warn!(target: "health", "{pool}: {backend} is down: {why}"),
                (Status::Down, None) => {}
            }
        }
        if !events.is_empty() {
            self.objects.renew_services();
        }
    }

    /// Has tables made again when time has changed what they are made of; when it does so next.
    pub fn tick_health(&mut self) -> u64 {
        if self.now_ns >= self.health.shares_due_ns {
            self.health.shares_due_ns = u64::MAX;
            self.objects.renew_services();
        }
        self.health.shares_due_ns
    }
}

fn panicking(in_force: &InForce) -> Vec<&PoolKey> {
    let healthy = in_force.healthy.iter();
    let places = healthy.flat_map(|healthy| healthy.panicking.iter().map(move |place| (healthy, *place)));
    places.filter_map(|(healthy, place)| Some(&healthy.services.pools.get(place)?.key)).collect()
}

/// What is to be watched of a pool, if anything is.
fn target(pool: &Pool) -> Option<Target> {
    let check = Check::new(&pool.health_check, pool.key.protocol);
    let backends = pool.backends.iter().map(|backend| (backend.address, backend.state == State::Draining));
    let drains = check.drain_ns > 0 && pool.backends.iter().any(|backend| backend.state == State::Draining);
    (check.kind.is_some() || drains).then(|| Target {
        pool: pool.key.clone(),
        check,
        backends: backends.collect(),
    })
}
