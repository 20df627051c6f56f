//! Whose an address is, by the model in force. From one model to the next only what differs is touched.

use alloc::{collections::BTreeMap, sync::Arc};
use core::net::IpAddr;
use policy::model::{Endpoint, Model};

/// The endpoints of a model by their addresses.
#[derive(Default)]
pub(super) struct Endpoints {
    of: Arc<Model>,
    /// By address and where the endpoint is in memory: several may have one address.
    all: BTreeMap<(IpAddr, usize), Arc<Endpoint>>,
}

impl Endpoints {
    /// The endpoint of a model that has an address.
    pub fn at(&mut self, model: &Arc<Model>, address: IpAddr) -> Option<Arc<Endpoint>> {
        if !Arc::ptr_eq(&self.of, model) {
            self.follow(model);
        }
        let mut found = self.all.range((address, 0)..=(address, usize::MAX));
        found.next_back().map(|(_, endpoint)| endpoint.clone())
    }

    /// Models have their endpoints in one order, and share those that are as they were.
    fn follow(&mut self, model: &Arc<Model>) {
        let before = core::mem::replace(&mut self.of, model.clone());
        let (old, new) = (before.endpoints.as_slice(), model.endpoints.as_slice());
        let is_same = |(old, new): &(&Arc<Endpoint>, &Arc<Endpoint>)| Arc::ptr_eq(old, new);
        let first = old.iter().zip(new).take_while(is_same).count();
        let (old, new) = (old.get(first..).unwrap_or_default(), new.get(first..).unwrap_or_default());
        let last = old.iter().rev().zip(new.iter().rev()).take_while(is_same).count();
        let key = |address: &IpAddr, endpoint: &Arc<Endpoint>| (*address, Arc::as_ptr(endpoint) as usize);
        for endpoint in old.iter().take(old.len() - last) {
            for address in &endpoint.addresses {
                let _ = self.all.remove(&key(address, endpoint));
            }
        }
        for endpoint in new.iter().take(new.len() - last) {
            for address in &endpoint.addresses {
                let _ = self.all.insert(key(address, endpoint), endpoint.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::Inventory;
    use serde_json::json;

    /// Pods of these names, each with addresses 10.0.0.n.
    fn model(pods: &[(&str, &[u8])]) -> Model {
        let mut inventory = Inventory::default();
        for (name, hosts) in pods {
            let ips: Vec<_> = hosts.iter().map(|host| json!({"ip": format!("10.0.0.{host}")})).collect();
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "status": {"podIPs": ips}});
            inventory.add(0, &pod).unwrap();
        }
        inventory.build().unwrap().model.as_ref().clone()
    }

    #[test]
    fn names_follow_the_model() {
        let mut before = Model::default();
        let mut endpoints = Endpoints::default();
        let models: [&[(&str, &[u8])]; 6] = [
            &[("a", &[1]), ("b", &[2, 3]), ("c", &[4])],
            &[("a", &[1]), ("b", &[3]), ("c", &[4])],
            &[("a", &[1]), ("a2", &[5]), ("b", &[3]), ("c", &[4])],
            // Two have one address for a while.
            &[("a", &[1]), ("b", &[3]), ("c", &[4]), ("d", &[1])],
            &[("b", &[3]), ("c", &[4]), ("d", &[1])],
            &[],
        ];
        for pods in models {
            let mut next = model(pods);
            for endpoint in &mut next.endpoints {
                if let Some(known) = before.endpoints.iter().find(|known| *known == endpoint) {
                    *endpoint = known.clone();
                }
            }
            before = next.clone();
            let next = Arc::new(next);
            for host in 1..6 {
                let owners = |name: &str| {
                    pods.iter().any(|(pod, hosts)| name == format!("default/{pod}") && hosts.contains(&host))
                };
                let found = endpoints.at(&next, [10, 0, 0, host].into());
                let is_there = pods.iter().any(|(_, hosts)| hosts.contains(&host));
                assert_eq!(found.is_some(), is_there, "{pods:?} {host}");
                assert!(found.is_none_or(|endpoint| owners(&endpoint.name)), "{pods:?} {host}");
            }
        }
        assert!(endpoints.all.is_empty());
    }
}
