//! The Kubernetes objects in force: changed as a whole, checked as a whole, and made into what workers read.
//!
//! Two pieces of work, each in short turns, so that a core that also forwards does not stand still for them:
//! 1. an edit makes another set of objects and compiles it; what is impossible in it refuses the edit, and nothing changes;
//! 2. a set that was taken is made into tables of services and of policy, which are then published.
//!
//! A set that was taken while another is on its way waits; of several only the last is made.

use crate::health::{self, Health, Healthy, InForce};
use crate::node::Node;
use ::health::Monitor;
use alloc::{format, rc::Rc, string::String, sync::Arc, vec::Vec};
use balancer::{Builder, Settings};
use core::cell::RefCell;
use pace::{Pace, Task};
use policy::classifier::{Classifier, Compiler, OutOfMemory};
use policy::model::Model;
use resources::{Change, Compiled, Edit, Fault, Object, Set};
use services::Site;

/// Objects at most.
pub(crate) const MAX_OBJECTS: usize = 1 << 17;
/// Length of all objects in JSON at most.
pub(crate) const MAX_BYTES: usize = 128 << 20;
/// Backends of a pool that are looked at in a unit of work.
pub(crate) const BACKENDS_PER_UNIT: u64 = 8;
/// Units of work in one turn of each kind: about so many microseconds.
pub(crate) const UNITS_PER_TURN: u64 = 200;

/// Addresses that are moved to other sets in one turn.
const ADDRESSES_PER_TURN: usize = 32;

/// What an edit came to.
pub(crate) enum Outcome {
    /// It is done, or would be; the generation in force after it, and what is different in it.
    Done(u64, Vec<Change>),
    /// These are impossible.
    Refused(Vec<Fault>),
    /// There would be too many objects.
    TooMany(String),
}

/// Where the outcome of an edit will be.
pub(crate) type Pending = Rc<RefCell<Option<Outcome>>>;

/// The objects in force.
#[derive(Default)]
pub(crate) struct Objects {
    set: Arc<Set>,
    generation: u64,
    /// Generation that the store holds.
    pub saved_generation: Option<u64>,
    compiled: Arc<Compiled>,
    /// Generation that workers were given last.
    published_generation: u64,
    site: Site,
    edit: Option<RunningEdit>,
    publishing: Option<Task<Made>>,
    waiting: Parts,
    /// What has compiled the policy in force; None without any, or while it is at work.
    compiler: Option<Compiler>,
    /// Workers that have reached this generation have the policy published last.
    policy_since: u64,
    /// What is published as soon as all addresses are on the way to where it has them, and the generation that it is of.
    next_policy: Option<(Classifier, u64)>,
}

struct RunningEdit {
    task: Task<Result<Edited, Outcome>>,
    pending: Pending,
    dry_run: bool,
}

/// What an edit begins with.
struct From {
    set: Arc<Set>,
    compiled: Arc<Compiled>,
    site: Site,
    generation: u64,
}

/// What an edit makes.
struct Edited {
    set: Set,
    compiled: Compiled,
    changes: Vec<Change>,
}

/// What is to be made anew.
#[derive(Clone, Copy, Default)]
struct Parts {
    services: bool,
    policy: bool,
}

impl Parts {
    fn any(self) -> bool {
        self.services || self.policy
    }
}

/// What was made for workers.
struct Made {
    generation: u64,
    compiled: Arc<Compiled>,
    services: Option<(Builder, Option<balancer::Snapshot>, Option<Healthy>)>,
    policy: Option<Option<(Compiler, Classifier)>>,
}

impl Objects {
    pub fn set(&self) -> &Arc<Set> {
        &self.set
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Generation that workers were given last.
    pub fn published_generation(&self) -> u64 {
        self.published_generation
    }

    /// What the objects say.
    pub fn compiled(&self) -> &Arc<Compiled> {
        &self.compiled
    }

    /// True while there is an edit.
    pub fn is_editing(&self) -> bool {
        self.edit.is_some()
    }

    /// Begins an edit; None while there is another one. A dry run only says what would change.
    pub fn begin(&mut self, edit: Edit, dry_run: bool) -> Option<Pending> {
        if self.edit.is_some() {
            return None;
        }
        let from = self.from();
        let pending = Pending::default();
        let task = Task::new(|pace| async move { run(&from, &edit, &pace).await });
        self.edit = Some(RunningEdit { task, pending: pending.clone(), dry_run });
        Some(pending)
    }

    fn from(&self) -> From {
        From {
            set: self.set.clone(),
            compiled: self.compiled.clone(),
            site: self.site.clone(),
            generation: self.generation,
        }
    }

    /// Takes what the node is started with.
    ///
    /// # Errors
    /// What is impossible in it.
    pub fn restore(&mut self, objects: Vec<Arc<Object>>, generation: u64) -> Result<(), String> {
        let from = self.from();
        let edit = Edit::Replace(objects);
        match pace::at_once(|pace| async move { run(&from, &edit, &pace).await }) {
            Ok(edited) => drop(self.take(edited)),
            Err(Outcome::Refused(faults)) => {
                return Err(faults.first().map_or_else(String::new, |fault| format!("{fault}")));
            }
            Err(Outcome::TooMany(why)) => return Err(why),
            Err(Outcome::Done(..)) => {}
        }
        (self.generation, self.saved_generation) = (generation, Some(generation));
        Ok(())
    }

    /// Services are to be made again: what they depend on besides objects has changed.
    pub fn renew_services(&mut self) {
        self.waiting.services = true;
    }

    /// The same of policy.
    pub fn renew_policy(&mut self) {
        self.waiting.policy |= !self.compiled.model().endpoints.is_empty();
    }

    /// What has compiled the newest policy.
    pub fn compiler(&self) -> Option<&Compiler> {
        self.compiler.as_ref()
    }

    /// Takes what the node is in its cluster.
    pub fn set_site(&mut self, site: Site) {
        if site == self.site {
            return;
        }
        self.site = site;
        self.see_again();
    }

    /// Compiles the objects as the site sees them that the node has come to.
    fn see_again(&mut self) {
        let from = self.from();
        let compiled = pace::at_once(|pace| async move {
            resources::compile(&from.set, &[], &from.site, &from.compiled, &pace).await
        });
        match compiled {
            Ok(compiled) => {
                self.compiled = compiled.into();
                self.waiting = Parts { services: true, policy: true };
            }
            // What is possible in one place is so in another.
            Err(faults) => faults.iter().for_each(|fault| log::error!(target: "resources", "{fault}")),
        }
    }

    /// True while there is something to work on.
    fn is_busy(&self) -> bool {
        self.is_editing() || self.publishing.is_some() || self.waiting.any() || self.is_settling()
    }

    /// True while addresses are on the way to where the newest policy has them.
    fn is_settling(&self) -> bool {
        self.compiler.as_ref().is_some_and(Compiler::has_pending)
    }

    fn advance_edit(&mut self, units: u64) {
        let Some(running) = &mut self.edit else { return };
        let Some(result) = running.task.advance(units) else { return };
        let (pending, dry_run) = (running.pending.clone(), running.dry_run);
        self.edit = None;
        let outcome = match result {
            Ok(edited) if dry_run => Outcome::Done(self.generation, edited.changes),
            Ok(edited) => {
                let changes = self.take(edited);
                Outcome::Done(self.generation, changes)
            }
            Err(outcome) => outcome,
        };
        *pending.borrow_mut() = Some(outcome);
    }

    /// Puts what an edit made in the place of what was; what is different in it.
    fn take(&mut self, edited: Edited) -> Vec<Change> {
        let Edited { set, compiled, changes } = edited;
        self.generation += 1;
        let (count, changed, generation) = (set.len(), changes.len(), self.generation);
        log::info!(target: "resources", "generation {generation}: {count} objects, {changed} changed");
        self.waiting.services |= !Arc::ptr_eq(&compiled.services, &self.compiled.services);
        self.waiting.policy |= !Arc::ptr_eq(compiled.model(), self.compiled.model());
        let is_elsewhere = *compiled.site() != self.site;
        (self.set, self.compiled) = (set.into(), compiled.into());
        if is_elsewhere {
            self.see_again();
        }
        self.note_published(self.published_generation);
        changes
    }

    /// Notes that workers were given a generation. What came after it without a change for them is in force with it.
    fn note_published(&mut self, generation: u64) {
        let is_last = !self.waiting.any() && self.publishing.is_none() && self.next_policy.is_none();
        self.published_generation = if is_last { self.generation } else { generation };
    }
}

impl Node {
    /// Works on the objects for a turn. True: there is more to do.
    pub fn advance_objects(&mut self) -> bool {
        self.objects.advance_edit(UNITS_PER_TURN);
        self.advance_publishing(UNITS_PER_TURN);
        self.objects.is_busy()
    }

    /// Works on the objects until what they say is in force.
    pub fn finish_objects(&mut self) {
        while self.objects.is_busy() {
            self.objects.advance_edit(u64::MAX);
            self.advance_publishing(u64::MAX);
        }
    }

    fn advance_publishing(&mut self, units: u64) {
        self.settle_policy();
        if !self.objects.is_settling() && self.objects.publishing.is_none() && self.objects.waiting.any() {
            let parts = core::mem::take(&mut self.objects.waiting);
            let builder = if parts.services { self.balancing.take_builder() } else { None };
            let balanced = builder.map(|builder| (builder, self.settings(), self.health.monitor.clone()));
            let (compiled, generation) = (self.objects.compiled.clone(), self.objects.generation);
            let aims = self.health.is_new(&compiled.services);
            let (now_ns, monitor) = (self.now_ns, self.health.monitor.clone());
            let compiler = self.objects.compiler.take_if(|_| parts.policy);
            self.objects.publishing = Some(Task::new(|pace| async move {
                if aims {
                    health::aim(&monitor, &compiled.services, now_ns, &pace).await;
                }
                let policy = parts.policy.then_some(compiler);
                make((compiled, generation, now_ns), balanced, policy, &pace).await
            }));
        }
        let made = self.objects.publishing.as_mut().and_then(|task| task.advance(units));
        if let Some(made) = made {
            self.objects.publishing = None;
            self.publish(made);
        }
    }

    fn publish(&mut self, made: Made) {
        if let Some((builder, snapshot, healthy)) = made.services {
            self.balance(builder, snapshot, &made.compiled.services);
            self.health.take(InForce { compiled: made.compiled.clone(), healthy });
        }
        if let Some(policy) = made.policy {
            let (compiler, classifier) = policy.unzip();
            self.objects.compiler = compiler;
            if self.objects.is_settling() && self.shared.policy().is_some() {
                self.objects.next_policy = classifier.map(|classifier| (classifier, made.generation));
                self.objects.policy_since = self.await_policy();
                return;
            }
            self.objects.policy_since = self.police(classifier);
        }
        self.objects.note_published(made.generation);
    }

    /// Moves addresses from where the policy in force has them to where the next one does, and puts that in force in between;
    /// frees what nobody reads any more.
    fn settle_policy(&mut self) {
        let (objects, shared) = (&mut self.objects, &self.shared);
        let Some(compiler) = &mut objects.compiler else { return };
        let reached = shared.quiescent_generation();
        compiler.reclaim(reached);
        if !compiler.has_pending() || reached < objects.policy_since {
            return;
        }
        let moved = match objects.next_policy {
            Some(_) => compiler.enter_part(ADDRESSES_PER_TURN),
            None => compiler.apply_part(ADDRESSES_PER_TURN),
        };
        if moved == Err(OutOfMemory) {
            log::error!(target: "resources", "no memory for the addresses of policy: what is in force stays");
            objects.compiler = None;
            if let Some((_, generation)) = objects.next_policy.take() {
                objects.note_published(generation);
            }
            return;
        }
        compiler.retire(shared.advance());
        if !compiler.has_to_enter()
            && let Some((classifier, generation)) = objects.next_policy.take()
        {
            objects.note_published(generation);
            self.objects.policy_since = self.police(Some(classifier));
        }
    }
}

async fn run(from: &From, edit: &Edit, pace: &Pace) -> Result<Edited, Outcome> {
    let (next, changes) = from.set.change(edit, pace).await;
    if changes.is_empty() {
        return Err(Outcome::Done(from.generation, changes));
    }
    if next.len() > MAX_OBJECTS {
        let count = next.len();
        return Err(Outcome::TooMany(format!("there would be {count} objects; {MAX_OBJECTS} are possible")));
    }
    if next.bytes() > MAX_BYTES {
        let mib = MAX_BYTES >> 20;
        return Err(Outcome::TooMany(format!("the objects would have more than {mib} MiB in JSON")));
    }
    let compiled = resources::compile(&next, &changes, &from.site, &from.compiled, pace).await;
    let compiled = compiled.map_err(Outcome::Refused)?;
    Ok(Edited { set: next, compiled, changes })
}

async fn make(
    (compiled, generation, now_ns): (Arc<Compiled>, u64, u64),
    balanced: Option<(Builder, Settings, Rc<RefCell<Monitor>>)>,
    policy: Option<Option<Compiler>>,
    pace: &Pace,
) -> Made {
    let mut made = Made { generation, compiled, services: None, policy: None };
    let services = &made.compiled.services;
    if let Some((mut builder, settings, monitor)) = balanced {
        builder.configure(settings);
        let mut healthy = Health::begin(&monitor, now_ns);
        if let Some(healthy) = &mut healthy {
            for pool in &services.pools {
                pace.spend(1 + pool.backends.len() as u64 / BACKENDS_PER_UNIT).await;
                healthy.add(&monitor, pool);
            }
            healthy.services.frontends.clone_from(&services.frontends);
        }
        let services = healthy.as_ref().map_or(&**services, |healthy| &healthy.services);
        let has_any = !services.frontends.is_empty();
        let snapshot = if has_any { Some(builder.build_paced(services, pace).await) } else { None };
        made.services = Some((builder, snapshot, healthy));
    }
    if let Some(compiler) = policy {
        let model = made.compiled.model();
        if model.endpoints.is_empty() {
            made.policy = Some(None);
        } else {
            match classify(compiler, model, pace).await {
                Ok(classified) => made.policy = Some(Some(classified)),
                Err(OutOfMemory) => {
                    log::error!(target: "resources", "no memory for the tables of policy: what was in force before stays");
                }
            }
        }
    }
    made
}

async fn classify(
    compiler: Option<Compiler>,
    model: &Arc<Model>,
    pace: &Pace,
) -> Result<(Compiler, Classifier), OutOfMemory> {
    let mut compiler = compiler.map_or_else(Compiler::new, Ok)?;
    let classifier = compiler.update_paced(model.clone(), pace).await?;
    Ok((compiler, classifier))
}
