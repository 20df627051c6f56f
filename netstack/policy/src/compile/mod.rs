//! From resources to the [`Model`]: what each field means, and what is impossible.

mod calico;
mod cluster;
mod endpoints;
mod kubernetes;
mod values;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::net::IpAddr;

use config::Problem;
use pace::Pace;
use serde_json::Value;

use crate::api::{self, Resource, meta::Metadata};
use crate::model::{DefaultAction, Model, Order, Policy, Tier};
use crate::problem::Problems;
use crate::selector::Labels;

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
#[derive(Debug, Default)]
pub struct Cluster {
    /// Policies and endpoints.
    pub model: Model,
    /// Pods in the network of their host, to which no policy of pods applies: `namespace/pod` and addresses.
    pub host_network_pods: BTreeMap<String, Vec<IpAddr>>,
}

/// What several resources need to know of others.
#[derive(Default)]
struct Known {
    namespaces: BTreeMap<String, Labels>,
    service_accounts: BTreeMap<(String, String), Labels>,
    profile_labels: BTreeMap<String, Labels>,
    /// Address, protocol and port of each service, by namespace and name.
    services: BTreeMap<(String, String), ServiceMembers>,
}

type ServiceMembers = Vec<(IpAddr, u8, u16)>;

impl Inventory {
    /// Takes a document, which may be a list of resources. `document` is the caller's number for it.
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

    /// Takes a resource that was read before; the caller sees to it that there is only one of each name. `document` is the
    /// caller's number for it.
    pub fn insert(&mut self, document: usize, parsed: &Parsed) {
        self.entries.push(Entry { document, pointer: String::new(), resource: parsed.0.clone() });
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

    /// Makes the model, or says what is wrong with which document.
    pub fn build(&self) -> Result<Cluster, Vec<(usize, Problem)>> {
        pace::at_once(|pace| async move { self.build_paced(&pace).await })
    }

    /// The same in short pieces.
    pub async fn build_paced(&self, pace: &Pace) -> Result<Cluster, Vec<(usize, Problem)>> {
        let mut all = Vec::new();
        let mut cluster = Cluster::default();
        let mut known = Known::default();
        builtin_tiers(&mut cluster.model);
        let passes: [Pass; 3] = [endpoints::learn, tiers, everything_else];
        for pass in passes {
            for entry in &self.entries {
                pace.spend(UNITS_PER_RESOURCE).await;
                let mut problems = Problems::default();
                pass(&entry.resource, &mut known, &mut cluster, &mut problems);
                all.extend(problems.into_vec().into_iter().map(|problem| {
                    (entry.document, Problem { pointer: entry.pointer.clone() + &problem.pointer, ..problem })
                }));
            }
        }
        endpoints::builtin_profiles(&mut cluster.model);
        cluster.model.sort();
        if all.is_empty() { Ok(cluster) } else { Err(all) }
    }
}

/// What one resource costs in one pass.
const UNITS_PER_RESOURCE: u64 = 2;

type Pass = fn(&Resource, &mut Known, &mut Cluster, &mut Problems);

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
        Resource::Profile(r) => (&r.metadata, false),
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

fn builtin_tiers(model: &mut Model) {
    model.tiers = BUILTIN_TIERS
        .map(|(name, order, default_action)| Tier {
            name: name.to_string(),
            order: Order(Some(order)),
            default_action,
            policies: Vec::new(),
        })
        .into();
}

fn tiers(resource: &Resource, _known: &mut Known, cluster: &mut Cluster, problems: &mut Problems) {
    if let Resource::Tier(tier) = resource {
        calico::tier(tier, &mut cluster.model, problems);
    }
}

fn everything_else(resource: &Resource, known: &mut Known, cluster: &mut Cluster, problems: &mut Problems) {
    let model = &mut cluster.model;
    match resource {
        Resource::Pod(pod) => endpoints::pod(pod, known, cluster, problems),
        Resource::Node(node) => endpoints::node(node, model),
        Resource::NetworkSet(set) => endpoints::network_set(set, Some(known), model, problems),
        Resource::GlobalNetworkSet(set) => endpoints::network_set(set, None, model, problems),
        Resource::HostEndpoint(endpoint) => endpoints::host_endpoint(endpoint, known, model, problems),
        Resource::Profile(profile) => calico::profile(profile, known, model, problems),
        Resource::NetworkPolicy(policy) => kubernetes::policy(policy, model, problems),
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
