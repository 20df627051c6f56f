//! From one cluster to the next: what has changed is compiled, everything else is taken over as it is.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::cmp::Ordering;

use config::Problem;
use pace::Pace;

use super::{
    Cluster, Entry, Known, Made, OwnedId, Parsed, Pass, endpoints, everything_else, failsafe, identity,
    supersedes, tiers,
};
use crate::api::{Resource, calico};
use crate::model::{Endpoint, EndpointKind, Model, Networks, Policy, Profile, Tier};
use crate::problem::Problems;

/// What one resource costs in one pass.
const UNITS_PER_RESOURCE: u64 = 2;
/// Parts that are taken over for a unit of work.
const PARTS_PER_UNIT: usize = 32;

/// Kind, namespace and name of a part of a model.
type Id<'a> = (&'static str, Option<&'a str>, &'a str);

/// A part of a model, in the order in which they are.
trait Part: PartialEq {
    fn id(&self) -> Id<'_>;
    fn compare(&self, other: &Self) -> Ordering;
}

/// Takes `namespace/name` apart.
fn split(name: &str) -> (Option<&str>, &str) {
    name.split_once('/').map_or((None, name), |(namespace, name)| (Some(namespace), name))
}

impl Part for Policy {
    fn id(&self) -> Id<'_> {
        (self.id.kind, self.id.namespace.as_deref(), &self.id.name)
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.order.compare(other.order).then_with(|| self.id.cmp(&other.id))
    }
}

impl Part for Endpoint {
    fn id(&self) -> Id<'_> {
        let (namespace, name) = split(&self.name);
        let kind = match self.kind {
            EndpointKind::Host => "HostEndpoint",
            EndpointKind::Workload if self.from_workload_endpoint => "WorkloadEndpoint",
            EndpointKind::Workload => "Pod",
        };
        (kind, namespace, name)
    }

    fn compare(&self, other: &Self) -> Ordering {
        let is_host = |endpoint: &Endpoint| endpoint.kind == EndpointKind::Host;
        is_host(self).cmp(&is_host(other)).then_with(|| self.id().cmp(&other.id()))
    }
}

impl Part for Networks {
    fn id(&self) -> Id<'_> {
        let (namespace, name) = split(&self.name);
        (if self.node { "Node" } else { "NetworkSet" }, namespace, name)
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.id().cmp(&other.id())
    }
}

/// Who the part that a resource makes is.
fn id_of(resource: &Resource) -> Option<Id<'_>> {
    let kind = match resource {
        Resource::Pod(_) => "Pod",
        Resource::WorkloadEndpoint(_) => "WorkloadEndpoint",
        Resource::HostEndpoint(_) => "HostEndpoint",
        Resource::Node(_) => "Node",
        Resource::NetworkSet(_) | Resource::GlobalNetworkSet(_) => "NetworkSet",
        Resource::NetworkPolicy(_) => "KubernetesNetworkPolicy",
        Resource::CalicoNetworkPolicy(_) => "NetworkPolicy",
        Resource::GlobalNetworkPolicy(_) => "GlobalNetworkPolicy",
        Resource::StagedNetworkPolicy(_) => "StagedNetworkPolicy",
        Resource::StagedGlobalNetworkPolicy(_) => "StagedGlobalNetworkPolicy",
        Resource::StagedKubernetesNetworkPolicy(_) => "StagedKubernetesNetworkPolicy",
        Resource::AdminNetworkPolicy(_) => "AdminNetworkPolicy",
        Resource::BaselineAdminNetworkPolicy(_) => "BaselineAdminNetworkPolicy",
        Resource::ClusterNetworkPolicy(_) => "ClusterNetworkPolicy",
        Resource::Namespace(_)
        | Resource::ServiceAccount(_)
        | Resource::EndpointSlice(_)
        | Resource::Tier(_)
        | Resource::Profile(_)
        | Resource::FelixConfiguration(_)
        | Resource::Other => return None,
    };
    let (metadata, namespaced) = identity(resource)?;
    Some((kind, namespaced.then(|| metadata.namespace()), &metadata.name))
}

/// Makes the cluster in which some resources are gone and some have come. What has changed is in both.
pub(super) async fn change(
    before: &Cluster,
    gone: &[&Resource],
    come: &[Entry],
    pace: &Pace,
) -> Result<Cluster, Vec<(usize, Problem)>> {
    let (mut known, mut all, mut made) = (before.known.clone(), Vec::new(), Made::default());
    for resource in gone {
        pace.spend(1).await;
        known.forget(resource);
    }
    let passes: [Pass; 3] = [endpoints::learn, tiers, everything_else];
    for (number, pass) in passes.into_iter().enumerate() {
        // By then all are known, and policies look for theirs.
        if number + 1 == passes.len() {
            made.model.tiers = known.tiers();
        }
        for entry in come {
            pace.spend(UNITS_PER_RESOURCE).await;
            let mut problems = Problems::default();
            pass(&entry.resource, &mut known, &mut made, &mut problems);
            all.extend(problems.into_vec().into_iter().map(|problem| {
                (entry.document, Problem { pointer: entry.pointer.clone() + &problem.pointer, ..problem })
            }));
        }
    }
    if !all.is_empty() {
        return Err(all);
    }
    let host_network_pods = host_network_pods(before, gone, made.host_network_pods);
    let mut gone: BTreeSet<Id<'_>> = gone.iter().filter_map(|resource| id_of(resource)).collect();
    let old = &before.model;
    let mut model = made.model;
    for tier in &mut model.tiers {
        let known = old.tiers.iter().find(|known| known.name == tier.name);
        let known = known.map_or(&[][..], |known| &known.policies);
        tier.policies = merged(known, &mut gone, core::mem::take(&mut tier.policies), pace).await;
    }
    model.endpoints = merged(&old.endpoints, &mut gone, model.endpoints, pace).await;
    model.networks = merged(&old.networks, &mut gone, model.networks, pace).await;
    model.profiles = profiles(before, &known, model.profiles);
    let model = if is_same(old, &model) { old.clone() } else { Arc::new(model) };
    Ok(Cluster { model, host_network_pods, known })
}

/// A list without what is gone, and with what is new. What says the same as the part that it takes the place of is that part.
async fn merged<'a, T: Part>(
    old: &'a [Arc<T>],
    gone: &mut BTreeSet<Id<'a>>,
    mut new: Vec<Arc<T>>,
    pace: &Pace,
) -> Vec<Arc<T>> {
    pace.spend((old.len() / PARTS_PER_UNIT) as u64).await;
    new.sort_by(|a, b| a.compare(b));
    let mut all: Vec<Arc<T>> = Vec::with_capacity(old.len() + new.len());
    let places: Vec<Result<usize, usize>> =
        new.iter().map(|part| old.binary_search_by(|known| known.compare(part))).collect();
    for (part, place) in new.iter_mut().zip(&places) {
        let Some(known) = place.ok().and_then(|place| old.get(place)) else { continue };
        if known == part {
            *part = known.clone();
        }
        let _ = gone.remove(&known.id());
    }
    let mut at = 0;
    for (part, place) in new.into_iter().zip(places) {
        let (end, next) = place.map_or_else(|place| (place, place), |place| (place, place + 1));
        keep(old.get(at..end), gone, &mut all);
        all.push(part);
        at = next;
    }
    keep(old.get(at..), gone, &mut all);
    all
}

fn keep<T: Part>(old: Option<&[Arc<T>]>, gone: &BTreeSet<Id<'_>>, all: &mut Vec<Arc<T>>) {
    let old = old.unwrap_or_default();
    if gone.is_empty() {
        return all.extend_from_slice(old);
    }
    all.extend(old.iter().filter(|part| !gone.contains(&part.id())).cloned());
}

fn host_network_pods(
    before: &Cluster,
    gone: &[&Resource],
    made: BTreeMap<String, Vec<core::net::IpAddr>>,
) -> Arc<BTreeMap<String, Vec<core::net::IpAddr>>> {
    let mut pods = before.host_network_pods.clone();
    for resource in gone {
        if let Resource::Pod(pod) = resource
            && pod.spec.host_network
        {
            let name = alloc::format!("{}/{}", pod.metadata.namespace(), pod.metadata.name);
            let _ = Arc::make_mut(&mut pods).remove(&name);
        }
    }
    if !made.is_empty() {
        Arc::make_mut(&mut pods).extend(made);
    }
    pods
}

/// Those that are written, those that were, and those that are there because nobody has written them.
fn profiles(
    before: &Cluster,
    known: &Known,
    made: BTreeMap<String, Arc<Profile>>,
) -> BTreeMap<String, Arc<Profile>> {
    let old = &before.model.profiles;
    let is_as_before = Arc::ptr_eq(&known.profile_labels, &before.known.profile_labels)
        && known.workloads.keys().eq(before.known.workloads.keys());
    if is_as_before && made.is_empty() && !old.is_empty() {
        return old.clone();
    }
    let mut profiles = made;
    for name in known.profile_labels.keys() {
        if let Some(profile) = old.get(name) {
            let _ = profiles.entry(name.clone()).or_insert_with(|| profile.clone());
        }
    }
    endpoints::builtin_profiles(known, &mut profiles);
    for (name, profile) in &mut profiles {
        if let Some(old) = old.get(name).filter(|old| *old == profile) {
            *profile = old.clone();
        }
    }
    profiles
}

/// True if nothing but the same parts is in both.
fn is_same(old: &Model, new: &Model) -> bool {
    fn same<T>(old: &[Arc<T>], new: &[Arc<T>]) -> bool {
        old.len() == new.len() && old.iter().zip(new).all(|(old, new)| Arc::ptr_eq(old, new))
    }
    let head = |tier: &Tier| (tier.name.clone(), tier.order.0, tier.default_action);
    old.tiers.iter().map(head).eq(new.tiers.iter().map(head))
        && old.tiers.iter().zip(&new.tiers).all(|(old, new)| same(&old.policies, &new.policies))
        && same(&old.endpoints, &new.endpoints)
        && same(&old.networks, &new.networks)
        && old.profiles.len() == new.profiles.len()
        && old
            .profiles
            .iter()
            .zip(&new.profiles)
            .all(|(old, new)| old.0 == new.0 && Arc::ptr_eq(old.1, new.1))
}

/// What other resources refer to by name, and has changed.
#[derive(Debug, Default)]
pub struct Referred<'a> {
    namespaces: BTreeSet<&'a str>,
    accounts: BTreeSet<(&'a str, &'a str)>,
    tiers: BTreeSet<&'a str>,
    profiles: BTreeSet<&'a str>,
    /// Configurations of failsafe ports.
    failsafes: BTreeSet<&'a str>,
    /// Policies, by what is staged for them.
    policies: BTreeSet<OwnedId>,
    /// Namespace and name.
    services: BTreeSet<(&'a str, &'a str)>,
}

impl<'a> Referred<'a> {
    /// What of these, which have come, changed or gone, others may refer to.
    pub fn to(changed: impl IntoIterator<Item = &'a Parsed>) -> Self {
        let mut referred = Self::default();
        for Parsed(resource) in changed {
            referred.policies.extend(supersedes(resource));
            let _ = match &**resource {
                Resource::Namespace(r) => referred.namespaces.insert(&r.metadata.name),
                Resource::ServiceAccount(r) => {
                    referred.accounts.insert((r.metadata.namespace(), &r.metadata.name))
                }
                Resource::Tier(r) => referred.tiers.insert(&r.metadata.name),
                Resource::Profile(r) => referred.profiles.insert(&r.metadata.name),
                Resource::FelixConfiguration(r) => referred.failsafes.insert(&r.metadata.name),
                Resource::EndpointSlice(r) => endpoints::service_of(r)
                    .is_some_and(|service| referred.services.insert((r.metadata.namespace(), service))),
                _ => false,
            };
        }
        referred
    }

    /// True if there is nothing.
    pub fn is_empty(&self) -> bool {
        let Self { namespaces, accounts, tiers, profiles, failsafes, policies, services } = self;
        let has_names = [namespaces, tiers, profiles, failsafes].into_iter().any(|names| !names.is_empty());
        !has_names && accounts.is_empty() && policies.is_empty() && services.is_empty()
    }

    /// True if what a resource means depends on it.
    pub fn is_by(&self, Parsed(resource): &Parsed) -> bool {
        let is_staged_for = |(kind, namespace, name): Id<'_>| {
            self.policies.iter().any(|(k, of, n)| (*k, of.as_deref(), n.as_str()) == (kind, namespace, name))
        };
        if !self.policies.is_empty() && id_of(resource).is_some_and(is_staged_for) {
            return true;
        }
        let policy = |tier: &Option<String>, namespace: Option<&str>, rules: Rules<'_>| {
            tier.as_deref().is_some_and(|tier| self.tiers.contains(tier)) || self.are_served(namespace, rules)
        };
        match &**resource {
            Resource::Pod(pod) => {
                let namespace = pod.metadata.namespace();
                let account = (namespace, endpoints::account(pod));
                self.namespaces.contains(namespace) || self.accounts.contains(&account)
            }
            Resource::NetworkSet(set) => self.namespaces.contains(set.metadata.namespace()),
            Resource::WorkloadEndpoint(endpoint) => {
                let (namespace, spec) = (endpoint.metadata.namespace(), &endpoint.spec);
                let account = spec.service_account_name.as_deref().map(|account| (namespace, account));
                let mut profiles = spec.profiles.iter().flatten();
                self.namespaces.contains(namespace)
                    || account.is_some_and(|account| self.accounts.contains(&account))
                    || profiles.any(|name| self.profiles.contains(name.as_str()))
            }
            Resource::HostEndpoint(host) => {
                let mut profiles = host.spec.profiles.iter().flatten();
                let node = host.spec.node.as_deref();
                profiles.any(|name| self.profiles.contains(name.as_str()))
                    || self.failsafes.iter().any(|name| failsafe::is_for(name, node))
            }
            Resource::Profile(profile) => {
                self.are_served(None, [&profile.spec.ingress, &profile.spec.egress])
            }
            Resource::CalicoNetworkPolicy(p) => {
                policy(&p.spec.tier, Some(p.metadata.namespace()), [&p.spec.ingress, &p.spec.egress])
            }
            Resource::GlobalNetworkPolicy(p) => policy(&p.spec.tier, None, [&p.spec.ingress, &p.spec.egress]),
            Resource::StagedNetworkPolicy(p) => {
                policy(&p.spec.tier, Some(p.metadata.namespace()), [&p.spec.ingress, &p.spec.egress])
            }
            Resource::StagedGlobalNetworkPolicy(p) => {
                policy(&p.spec.tier, None, [&p.spec.ingress, &p.spec.egress])
            }
            _ => false,
        }
    }

    /// True if some rule of a policy of a namespace is about one of the services.
    fn are_served(&self, namespace: Option<&str>, rules: Rules<'_>) -> bool {
        if self.services.is_empty() {
            return false;
        }
        let ends = rules.into_iter().flatten().flatten().flat_map(|rule| [&rule.source, &rule.destination]);
        ends.flatten().filter_map(|end| end.services.as_ref()).any(|service| {
            let namespace = service.namespace.as_deref().filter(|name| !name.is_empty()).or(namespace);
            namespace.is_some_and(|namespace| self.services.contains(&(namespace, service.name.as_str())))
        })
    }
}

/// Those for ingress and for egress.
type Rules<'a> = [&'a Option<Vec<calico::Rule>>; 2];
