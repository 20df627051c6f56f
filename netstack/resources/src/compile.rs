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
use services::Site;

use crate::object::{Key, Object};
use crate::set::Set;

/// Objects that are taken up for a unit of work.
const OBJECTS_PER_UNIT: usize = 4;

/// What a set says.
#[derive(Debug, Default)]
pub struct Compiled {
    /// Frontends and pools.
    pub services: services::Compiled,
    /// Policies and endpoints.
    pub model: Arc<Model>,
    /// Pods in the network of their host, to which no policy of pods applies: `namespace/pod` and addresses.
    pub host_network_pods: BTreeMap<String, Vec<IpAddr>>,
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

/// Compiles a set as `site` sees it. Parts of the model that are as they were `before` are the same ones.
///
/// # Errors
/// Everything that is impossible, at most [`MAX_PROBLEMS`] faults.
pub async fn compile(set: &Set, site: &Site, before: &Model, pace: &Pace) -> Result<Compiled, Vec<Fault>> {
    let objects: Vec<&Arc<Object>> = set.iter().collect();
    let mut of_services = services::Objects::default();
    let mut inventory = policy::Inventory::default();
    for (number, object) in objects.iter().enumerate() {
        if number % OBJECTS_PER_UNIT == 0 {
            pace.spend(1).await;
        }
        if let Some(parsed) = &object.services {
            of_services.insert(number, parsed);
        }
        if let Some(parsed) = &object.policy {
            inventory.insert(number, parsed);
        }
    }
    let mut faults = Vec::new();
    let mut fault = |number: usize, problem: Problem| {
        if let Some(object) = objects.get(number)
            && faults.len() < MAX_PROBLEMS
        {
            faults.push(Fault { key: object.key().clone(), problem });
        }
    };
    let services = services::compile_paced(&of_services, site, pace).await;
    let services = services.unwrap_or_else(|found| {
        found.into_iter().for_each(|found| fault(found.document, found.problem));
        services::Compiled::default()
    });
    let cluster = inventory.build_paced(pace).await.unwrap_or_else(|found| {
        found.into_iter().for_each(|(number, problem)| fault(number, problem));
        policy::Cluster::default()
    });
    if !faults.is_empty() {
        return Err(faults);
    }
    let policy::Cluster { mut model, host_network_pods } = cluster;
    model.share_with(before, pace).await;
    Ok(Compiled { services, model: model.into(), host_network_pods })
}
