//! From resources to the [`Model`]: what each field means, and what is impossible.

mod calico;
mod change;
mod cluster;
mod endpoints;
mod failsafe;
mod kubernetes;
mod values;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::{net::IpAddr, ops::Bound};

use config::Problem;
use pace::Pace;
use serde_json::Value;

use crate::api::{self, Resource, meta::Metadata};
use crate::model::{DefaultAction, Model, Order, Policy, Standing, Tier};
use crate::problem::Problems;
use crate::selector::Labels;

pub use change::Referred;

/// Label of an endpoint: its namespace.
pub(crate) const NAMESPACE: &str = "projectcalico.org/namespace";
/// Label of an endpoint: its service account.
pub(crate) const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Label of a pod: `k8s`.
pub(crate) const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// Before the labels that an endpoint has from its namespace.
pub(crate) const OF_NAMESPACE: &str = "pcns.";
/// Before the labels that an endpoint has from its service account.
pub(crate) const OF_SERVICE_ACCOUNT: &str = "pcsa.";

/// Resources, from which [`Inventory::build`] makes a model.
#[derive(Debug, Default)]
pub struct Inventory {
    entries: Vec<Entry>,
    names: BTreeSet<(String, String, String)>,
}

#[derive(Debug)]
struct Entry {
    document: usize,
    pointer: String,
    resource: Arc<Resource>,
}

/// A resource that was read, whether or not it is possible together with others.
#[derive(Clone, Debug)]
pub struct Parsed(Arc<Resource>);

impl Parsed {
    /// Reads one resource that says who it is; none if it is of a kind that says nothing about policy.
    ///
    /// # Errors
    /// It does not say what it is, is not made as its kind is, or is of an unknown kind that may be a policy misspelt.
    pub fn read(value: &Value) -> Result<Option<Parsed>, Problem> {
        Ok(match api::read(value)? {
            Resource::Other => None,
            resource => Some(Parsed(resource.into())),
        })
    }
}

/// True if objects of this kind say nothing about policy; a kind that may be one of policy misspelt is not.
pub fn is_foreign(api_version: &str, kind: &str) -> bool {
    api::other(api_version, kind).is_ok()
}

/// What the resources say.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Policies and endpoints.
    pub model: Arc<Model>,
    /// Pods in the network of their host, to which no policy of pods applies: `namespace/pod` and addresses.
    pub host_network_pods: Arc<BTreeMap<String, Vec<IpAddr>>>,
    known: Known,
}

impl Cluster {
    /// The cluster after some resources have gone and others have come; one that has changed is among both, and so is one that
    /// refers to what has ([`Referred`]). Parts of the model that are as they were are the same ones.
    ///
    /// # Errors
    /// What is impossible, with the place in `come`.
    pub async fn change(
        &self,
        gone: &[Parsed],
        come: &[Parsed],
        pace: &Pace,
    ) -> Result<Cluster, Vec<(usize, Problem)>> {
        if gone.is_empty() && come.is_empty() {
            return Ok(self.clone());
        }
        let gone: Vec<&Resource> = gone.iter().map(|Parsed(resource)| &**resource).collect();
        let entry = |(document, Parsed(resource)): (usize, &Parsed)| Entry {
            document,
            pointer: String::new(),
            resource: resource.clone(),
        };
        let come: Vec<Entry> = come.iter().enumerate().map(entry).collect();
        change::change(self, &gone, &come, pace).await
    }
}

/// What resources are made into, before it comes to what others were.
#[derive(Default)]
struct Made {
    model: Model,
    host_network_pods: BTreeMap<String, Vec<IpAddr>>,
}

/// What several resources need to know of others. Clusters share what does not differ.
#[derive(Clone, Debug, Default)]
struct Known {
    namespaces: Arc<BTreeMap<String, Labels>>,
    service_accounts: Arc<BTreeMap<(String, String), Labels>>,
    /// Of each profile that is written.
    profile_labels: Arc<BTreeMap<String, Labels>>,
    /// Address, protocol and port of each endpoint of a slice, by `namespace/service/slice`.
    services: Arc<BTreeMap<Arc<str>, ServiceMembers>>,
    /// Those that are written.
    tiers: Arc<BTreeMap<String, (Order, DefaultAction)>>,
    /// How many pods with policy each namespace has, if any.
    workloads: Arc<BTreeMap<Arc<str>, usize>>,
    /// By the names of the configurations that say it.
    failsafes: Arc<BTreeMap<String, failsafe::Written>>,
    /// The policies whose place staged ones would take, or that they would delete.
    leaving: Arc<BTreeSet<OwnedId>>,
}

/// Kind, namespace and name of a policy.
type OwnedId = (&'static str, Option<String>, String);

/// The policy that a staged one replaces or deletes, if there is one of that name.
fn supersedes(resource: &Resource) -> Option<OwnedId> {
    let (kind, metadata, action) = match resource {
        Resource::StagedNetworkPolicy(r) => ("NetworkPolicy", &r.metadata, &r.spec.staged_action),
        Resource::StagedGlobalNetworkPolicy(r) => ("GlobalNetworkPolicy", &r.metadata, &r.spec.staged_action),
        Resource::StagedKubernetesNetworkPolicy(r) => {
            ("KubernetesNetworkPolicy", &r.metadata, &r.spec.staged_action)
        }
        _ => return None,
    };
    let namespace = (kind != "GlobalNetworkPolicy").then(|| metadata.namespace().to_string());
    (action.as_deref() != Some("Ignore")).then(|| (kind, namespace, metadata.name.clone()))
}

type ServiceMembers = Arc<[(IpAddr, u8, u16)]>;

impl Known {
    /// The standing of an enforced policy.
    fn standing(&self, kind: &'static str, namespace: Option<&str>, name: &str) -> Standing {
        let is_leaving = !self.leaving.is_empty()
            && self.leaving.contains(&(kind, namespace.map(ToString::to_string), name.to_string()));
        if is_leaving { Standing::Leaving } else { Standing::Enforced }
    }

    /// Takes back what was learnt of a resource.
    fn forget(&mut self, resource: &Resource) {
        if let Some(id) = supersedes(resource) {
            let _ = Arc::make_mut(&mut self.leaving).remove(&id);
        }
        match resource {
            Resource::Namespace(r) => drop(Arc::make_mut(&mut self.namespaces).remove(&r.metadata.name)),
            Resource::ServiceAccount(r) => {
                let key = (r.metadata.namespace().to_string(), r.metadata.name.clone());
                drop(Arc::make_mut(&mut self.service_accounts).remove(&key));
            }
            Resource::Profile(r) => drop(Arc::make_mut(&mut self.profile_labels).remove(&r.metadata.name)),
            Resource::Tier(r) => drop(Arc::make_mut(&mut self.tiers).remove(&r.metadata.name)),
            Resource::FelixConfiguration(r) => {
                drop(Arc::make_mut(&mut self.failsafes).remove(&r.metadata.name));
            }
            Resource::EndpointSlice(r) => {
                if let Some(key) = endpoints::slice_key(r) {
                    drop(Arc::make_mut(&mut self.services).remove(&*key));
                }
            }
            Resource::Pod(r) if !r.spec.host_network => self.forget_workload(r.metadata.namespace()),
            Resource::WorkloadEndpoint(r) => self.forget_workload(r.metadata.namespace()),
            _ => {}
        }
    }

    /// A namespace has one workload more.
    fn learn_workload(&mut self, namespace: &str) {
        let workloads = Arc::make_mut(&mut self.workloads);
        match workloads.get_mut(namespace) {
            Some(count) => *count += 1,
            None => drop(workloads.insert(namespace.into(), 1)),
        }
    }

    fn forget_workload(&mut self, namespace: &str) {
        let workloads = Arc::make_mut(&mut self.workloads);
        if let Some(count) = workloads.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                let _ = workloads.remove(namespace);
            }
        }
    }

    /// All tiers in the order in which they are asked, without policies.
    fn tiers(&self) -> Vec<Tier> {
        let builtin = BUILTIN_TIERS.iter().map(|(name, order, action)| (*name, Order(Some(*order)), *action));
        let written = self.tiers.iter().map(|(name, (order, action))| (name.as_str(), *order, *action));
        let tier = |(name, order, default_action): (&str, Order, DefaultAction)| Tier {
            name: name.to_string(),
            order,
            default_action,
            policies: Vec::new(),
        };
        let mut model = Model { tiers: builtin.chain(written).map(tier).collect(), ..Model::default() };
        model.sort();
        model.tiers
    }

    /// Address, protocol and port of each endpoint of a service.
    fn service(&self, namespace: &str, name: &str) -> Vec<(IpAddr, u8, u16)> {
        let slices = format!("{namespace}/{name}/");
        let from = (Bound::Included(slices.as_str()), Bound::Unbounded);
        let of_service = self.services.range::<str, _>(from).take_while(|(key, _)| key.starts_with(&*slices));
        of_service.flat_map(|(_, members)| members.iter().copied()).collect()
    }
}

impl Inventory {
    /// Takes a document, which may be a list of resources. `document` is the caller's number for it.
    ///
    /// # Errors
    /// All that is wrong with its resources: what [`Parsed::read`] refuses, names that are missing or given twice, and
    /// namespaces of kinds that have none. What could be read is taken all the same.
    pub fn add(&mut self, document: usize, value: &Value) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        for (pointer, item) in api::flatten(value) {
            let resource = match api::read(item) {
                Ok(resource) => resource,
                Err(problem) => {
                    problems.push(Problem { pointer: pointer.clone() + &problem.pointer, ..problem });
                    continue;
                }
            };
            if let Some(problem) = self.check_name(&resource, item) {
                problems.push(Problem { pointer: pointer.clone() + &problem.pointer, ..problem });
            }
            self.entries.push(Entry { document, pointer, resource: resource.into() });
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn check_name(&mut self, resource: &Resource, value: &Value) -> Option<Problem> {
        let (metadata, namespaced) = identity(resource)?;
        let problem =
            |pointer: &str, message: String| Some(Problem { pointer: pointer.to_string(), message });
        if metadata.name.is_empty() {
            return problem("/metadata", "name is missing".to_string());
        }
        if !namespaced && metadata.namespace.as_deref().is_some_and(|namespace| !namespace.is_empty()) {
            return problem("/metadata/namespace", "this kind has no namespace".to_string());
        }
        let kind =
            ["apiVersion", "kind"].map(|field| value.get(field).and_then(Value::as_str).unwrap_or_default());
        let namespace = if namespaced { metadata.namespace() } else { "" };
        let key = (kind.join(" "), namespace.to_string(), metadata.name.clone());
        if self.names.insert(key) {
            return None;
        }
        problem("/metadata/name", format!("a second {} of the name {}", kind[1], metadata.name))
    }

    /// Makes the model.
    ///
    /// # Errors
    /// All that is wrong, each with the number of its document.
    pub fn build(&self) -> Result<Cluster, Vec<(usize, Problem)>> {
        let nothing = Cluster::default();
        pace::at_once(|pace| async move { change::change(&nothing, &[], &self.entries, &pace).await })
    }
}

type Pass = fn(&Resource, &mut Known, &mut Made, &mut Problems);

/// The metadata of what must have a name, and whether it has a namespace.
fn identity(resource: &Resource) -> Option<(&Metadata, bool)> {
    Some(match resource {
        Resource::Namespace(r) => (&r.metadata, false),
        Resource::Pod(r) => (&r.metadata, true),
        Resource::Node(r) => (&r.metadata, false),
        Resource::ServiceAccount(r) => (&r.metadata, true),
        Resource::EndpointSlice(r) => (&r.metadata, true),
        Resource::NetworkPolicy(r) => (&r.metadata, true),
        Resource::AdminNetworkPolicy(r) => (&r.metadata, false),
        Resource::BaselineAdminNetworkPolicy(r) => (&r.metadata, false),
        Resource::ClusterNetworkPolicy(r) => (&r.metadata, false),
        Resource::CalicoNetworkPolicy(r) => (&r.metadata, true),
        Resource::GlobalNetworkPolicy(r) => (&r.metadata, false),
        Resource::StagedNetworkPolicy(r) => (&r.metadata, true),
        Resource::StagedGlobalNetworkPolicy(r) => (&r.metadata, false),
        Resource::StagedKubernetesNetworkPolicy(r) => (&r.metadata, true),
        Resource::Tier(r) => (&r.metadata, false),
        Resource::NetworkSet(r) => (&r.metadata, true),
        Resource::GlobalNetworkSet(r) => (&r.metadata, false),
        Resource::HostEndpoint(r) => (&r.metadata, false),
        Resource::WorkloadEndpoint(r) => (&r.metadata, true),
        Resource::Profile(r) => (&r.metadata, false),
        Resource::FelixConfiguration(r) => (&r.metadata, false),
        Resource::Other => return None,
    })
}

/// The tiers that are always there: their orders are Calico's.
const BUILTIN_TIERS: [(&str, f64, DefaultAction); 5] = [
    ("adminnetworkpolicy", 1_000.0, DefaultAction::Pass),
    ("kube-admin", 1_000.0, DefaultAction::Pass),
    ("default", 1_000_000.0, DefaultAction::Deny),
    ("baselineadminnetworkpolicy", 10_000_000.0, DefaultAction::Pass),
    ("kube-baseline", 10_000_000.0, DefaultAction::Pass),
];

fn tiers(resource: &Resource, known: &mut Known, _made: &mut Made, problems: &mut Problems) {
    if let Resource::Tier(tier) = resource {
        calico::tier(tier, Arc::make_mut(&mut known.tiers), problems);
    }
}

fn everything_else(resource: &Resource, known: &mut Known, made: &mut Made, problems: &mut Problems) {
    let model = &mut made.model;
    match resource {
        Resource::Pod(pod) => endpoints::pod(pod, known, made, problems),
        Resource::Node(node) => endpoints::node(node, model),
        Resource::NetworkSet(set) => endpoints::network_set(set, Some(known), model, problems),
        Resource::GlobalNetworkSet(set) => endpoints::network_set(set, None, model, problems),
        Resource::HostEndpoint(endpoint) => endpoints::host_endpoint(endpoint, known, model, problems),
        Resource::WorkloadEndpoint(endpoint) => endpoints::workload(endpoint, known, model, problems),
        Resource::Profile(profile) => calico::profile(profile, known, model, problems),
        Resource::NetworkPolicy(policy) => kubernetes::policy(policy, known, model, problems),
        Resource::StagedKubernetesNetworkPolicy(policy) => kubernetes::staged(policy, model, problems),
        Resource::AdminNetworkPolicy(policy) => cluster::admin(policy, model, problems),
        Resource::BaselineAdminNetworkPolicy(policy) => cluster::baseline(policy, model, problems),
        Resource::ClusterNetworkPolicy(policy) => cluster::cluster(policy, model, problems),
        Resource::CalicoNetworkPolicy(policy) => calico::policy(policy, known, model, problems),
        Resource::GlobalNetworkPolicy(policy) => calico::global_policy(policy, known, model, problems),
        Resource::StagedNetworkPolicy(policy) => calico::staged_policy(policy, known, model, problems),
        Resource::StagedGlobalNetworkPolicy(policy) => {
            calico::staged_global_policy(policy, known, model, problems);
        }
        Resource::Namespace(_)
        | Resource::ServiceAccount(_)
        | Resource::EndpointSlice(_)
        | Resource::Tier(_)
        | Resource::FelixConfiguration(_)
        | Resource::Other => {}
    }
}

/// Puts a policy into its tier.
fn place(model: &mut Model, tier: &str, policy: Policy, problems: &mut Problems) {
    match model.tiers.iter_mut().find(|candidate| candidate.name == tier) {
        Some(tier) => tier.policies.push(policy.into()),
        None => problems.within("spec", |p| p.add("tier", format!("there is no tier {tier}"))),
    }
}
