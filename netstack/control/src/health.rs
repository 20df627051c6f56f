//! The health of the services' backends: who is checked, what a change of it does, and what is told of it.

use crate::node::Node;
use crate::objects::BACKENDS_PER_UNIT;
use alloc::{collections::BTreeMap, rc::Rc, sync::Arc, vec::Vec};
use core::cell::RefCell;
use health::{Check, Event, Monitor, Status, Target};
use pace::Pace;
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
    /// When time alone changes it, if it does.
    until_ns: Option<u64>,
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

    /// Notes whose backends are to be checked from now on. True if those are others than before: [`aim`] is to be called.
    pub fn is_new(&mut self, services: &Arc<services::Compiled>) -> bool {
        let is_new = !Arc::ptr_eq(services, &self.aimed_at);
        self.aimed_at = services.clone();
        is_new
    }

    /// What health makes of services, pool by pool; None if it is not looked at.
    pub fn begin(monitor: &Rc<RefCell<Monitor>>, now_ns: u64) -> Option<Healthy> {
        (!monitor.borrow().is_idle()).then(|| Healthy {
            services: services::Compiled::default(),
            panicking: Vec::new(),
            at_ns: now_ns,
            until_ns: None,
        })
    }

    /// Notes what workers were given, and says what has changed of pools that have too few backends.
    pub fn take(&mut self, in_force: InForce) {
        let until_ns = in_force.healthy.as_ref().and_then(|healthy| healthy.until_ns);
        self.shares_due_ns = until_ns.unwrap_or(u64::MAX);
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
        let shares = monitor.borrow_mut().shares(&mut pool, self.at_ns);
        if shares.panics {
            self.panicking.push(self.services.pools.len());
        }
        self.until_ns = self.until_ns.into_iter().chain(shares.until_ns).min();
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

/// Checks the backends of these services from now on, pool by pool.
pub(crate) async fn aim(
    monitor: &Rc<RefCell<Monitor>>,
    services: &services::Compiled,
    now_ns: u64,
    pace: &Pace,
) {
    let mut gone: BTreeMap<_, _> =
        monitor.borrow().pools().map(|(pool, backends)| (pool.clone(), backends)).collect();
    pace.spend(gone.len() as u64 / BACKENDS_PER_UNIT).await;
    for pool in &services.pools {
        pace.spend(1 + pool.backends.len() as u64 / BACKENDS_PER_UNIT).await;
        if let Some(target) = target(pool) {
            let _ = gone.remove(&pool.key);
            monitor.borrow_mut().set_target(target, now_ns);
        }
    }
    for (pool, backends) in gone {
        pace.spend(1 + backends as u64 / BACKENDS_PER_UNIT).await;
        monitor.borrow_mut().remove_target(&pool);
    }
}

/// What is to be watched of a pool, if anything is.
fn target(pool: &Pool) -> Option<Target> {
    let check = Check::new(&pool.health_check, pool.key.protocol);
    let backends = pool.backends.iter().map(|backend| (backend.address, backend.state));
    let drains = check.drain_ns > 0 && pool.backends.iter().any(|backend| backend.state == State::Draining);
    (check.kind.is_some() || drains || check.slow_start_ns > 0).then(|| Target {
        pool: pool.key.clone(),
        check,
        backends: backends.collect(),
    })
}

#[cfg(test)]
mod tests {
    use crate::objects::{BACKENDS_PER_UNIT, UNITS_PER_TURN};
    use alloc::{format, vec::Vec};
    use resources::Object;
    use serde_json::json;
    use std::sync::Arc;

    const POOLS: u8 = 200;
    const BACKENDS: u8 = 40;

    /// Services that are checked, with some endpoints each.
    fn objects() -> Vec<Arc<Object>> {
        let each = |number: u8| {
            let metadata = json!({"name": format!("s{number}"), "annotations": {
                "fairlead.dev/health-check": "tcp", "fairlead.dev/table-size": "251",
                "fairlead.dev/health-check-slow-start": "1m"}});
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": {"clusterIP": format!("10.96.0.{number}"), "ports": [{"port": 80}]},
            });
            let endpoint = |host: u8| json!({"addresses": [format!("10.1.{number}.{host}")]});
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": format!("s{number}"), "labels": {"kubernetes.io/service-name": format!("s{number}")}},
                "ports": [{"port": 80}], "endpoints": (0..BACKENDS).map(endpoint).collect::<Vec<_>>(),
            });
            [service, slice].map(|value| Arc::new(Object::read(value).unwrap()))
        };
        (0..POOLS).flat_map(each).collect()
    }

    #[test]
    fn whoever_is_checked_comes_and_goes_a_bounded_number_a_turn() {
        const MOST_A_TURN: usize = (UNITS_PER_TURN * BACKENDS_PER_UNIT) as usize + BACKENDS as usize;
        let mut node = crate::testing::Machine::default().start(crate::Boot::default());
        let all = usize::from(POOLS) * usize::from(BACKENDS);
        for (objects, generation, wanted) in [(objects(), 1, all), (Vec::new(), 2, 0)] {
            node.objects.restore(objects, generation).unwrap();
            let watched = |node: &crate::node::Node| -> usize {
                node.health.monitor.borrow().pools().map(|(_, backends)| backends).sum()
            };
            let (mut turns, mut before) = (0, watched(&node));
            loop {
                let goes_on = node.advance_objects();
                let now = watched(&node);
                assert!(now.abs_diff(before) <= MOST_A_TURN, "{before} to {now} in one turn");
                turns += usize::from(now != before);
                before = now;
                if !goes_on {
                    break;
                }
            }
            assert_eq!(before, wanted);
            assert!(turns >= all / MOST_A_TURN, "{turns} turns");
        }
    }
}
