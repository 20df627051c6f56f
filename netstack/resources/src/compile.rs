//! A set of objects becomes services and a model of policy.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use config::{MAX_PROBLEMS, Problem};
use pace::Pace;
use policy::model::Model;
use policy::{Cluster, Parsed, Referred};
use services::Site;

use crate::object::{Key, Object};
use crate::set::{Change, Set};

/// Objects that are looked at for a unit of work.
const OBJECTS_PER_UNIT: usize = 8;

/// What a set says.
#[derive(Debug, Default)]
pub struct Compiled {
    /// Frontends and pools.
    pub services: Arc<services::Compiled>,
    site: Site,
    policy: Cluster,
}

/// What is impossible in a set, and in which object of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The object.
    pub key: Key,
    /// What is wrong with it.
    pub problem: Problem,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

impl Compiled {
    /// Policies and endpoints.
    pub fn model(&self) -> &Arc<Model> {
        &self.policy.model
    }

    /// What services were seen by.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Pods in the network of their host, to which no policy of pods applies: `namespace/pod` and addresses.
    pub fn host_network_pods(&self) -> &BTreeMap<String, Vec<IpAddr>> {
        &self.policy.host_network_pods
    }
}

/// Compiles a set as `site` sees it. `changes` are what is different in it from the set that `before` was made of: only what they
/// touch is compiled, the other parts of the model are the same ones.
///
/// # Errors
/// Everything that is impossible, at most [`MAX_PROBLEMS`] faults.
pub async fn compile(
    set: &Set,
    changes: &[Change],
    site: &Site,
    before: &Compiled,
    pace: &Pace,
) -> Result<Compiled, Vec<Fault>> {
    let mut faults = Vec::new();
    let services = services(set, changes, site, before, &mut faults, pace).await;
    let policy = policy(set, changes, &before.policy, &mut faults, pace).await;
    if faults.is_empty() { Ok(Compiled { services, site: site.clone(), policy }) } else { Err(faults) }
}

fn note(faults: &mut Vec<Fault>, object: Option<&&Arc<Object>>, problem: Problem) {
    if let Some(object) = object
        && faults.len() < MAX_PROBLEMS
    {
        faults.push(Fault { key: object.key().clone(), problem });
    }
}

async fn services(
    set: &Set,
    changes: &[Change],
    site: &Site,
    before: &Compiled,
    faults: &mut Vec<Fault>,
    pace: &Pace,
) -> Arc<services::Compiled> {
    let versions = changes.iter().flat_map(|change| change.before.iter().chain(&change.after));
    if *site == before.site && versions.into_iter().all(|object| object.services.is_none()) {
        return before.services.clone();
    }
    let mut objects: Vec<&Arc<Object>> = Vec::new();
    let mut of_services = services::Objects::default();
    for (number, object) in set.iter().enumerate() {
        if number % OBJECTS_PER_UNIT == 0 {
            pace.spend(1).await;
        }
        if let Some(parsed) = &object.services {
            of_services.insert(objects.len(), parsed);
            objects.push(object);
        }
    }
    let compiled = services::compile_paced(&of_services, site, pace).await;
    let compiled = compiled.unwrap_or_else(|found| {
        found.into_iter().for_each(|fault| note(faults, objects.get(fault.document), fault.problem));
        services::Compiled::default()
    });
    if compiled == *before.services { before.services.clone() } else { compiled.into() }
}

async fn policy(
    set: &Set,
    changes: &[Change],
    before: &Cluster,
    faults: &mut Vec<Fault>,
    pace: &Pace,
) -> Cluster {
    let parsed = |object: &'_ Option<Arc<Object>>| object.as_ref().and_then(|object| object.policy.clone());
    let mut gone: Vec<Parsed> = changes.iter().filter_map(|change| parsed(&change.before)).collect();
    let objects = changes.iter().filter_map(|change| change.after.as_ref());
    let mut come: Vec<&Arc<Object>> = objects.filter(|object| object.policy.is_some()).collect();
    let changed: Vec<Parsed> =
        gone.iter().chain(come.iter().filter_map(|object| object.policy.as_ref())).cloned().collect();
    let referred = Referred::to(&changed);
    let others = set.iter().filter(|_| !referred.is_empty()).enumerate();
    for (number, object) in others {
        if number % OBJECTS_PER_UNIT == 0 {
            pace.spend(1).await;
        }
        let Some(parsed) = &object.policy else { continue };
        let is_changed = || changes.binary_search_by(|change| change.key.cmp(object.key())).is_ok();
        if referred.is_by(parsed) && !is_changed() {
            gone.push(parsed.clone());
            come.push(object);
        }
    }
    let new: Vec<Parsed> = come.iter().filter_map(|object| object.policy.clone()).collect();
    before.change(&gone, &new, pace).await.unwrap_or_else(|found| {
        found.into_iter().for_each(|(number, problem)| note(faults, come.get(number), problem));
        Cluster::default()
    })
}
