//! What policy has to do with this node: which of its interfaces are host endpoints, and what denies, in words.

use crate::node::Node;
use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::net::IpAddr;
use dataplane::Policy;
use policy::classifier::{Classifier, CounterId, Part, Source};

impl Node {
    /// Has workers decide by a classifier, or without policy. Returns the generation that they must reach for it.
    pub fn police(&mut self, classifier: Option<Classifier>) -> u64 {
        let Some(classifier) = classifier else { return self.shared.publish_policy(None::<Policy>) };
        self.ensure_flows();
        let config = self.running.config();
        let node = config.cluster.node.as_ref().unwrap_or(&config.hostname);
        let host = |interface: router::InterfaceStatus| {
            let addresses: Vec<IpAddr> = interface.addresses.iter().map(config::IpNet::addr).collect();
            Some((interface.id, classifier.host(node, &interface.name, &addresses)?))
        };
        let hosts: Vec<_> = self.router.interfaces().into_iter().filter_map(host).collect();
        self.shared.publish_policy(Some(Policy::new(classifier, hosts)))
    }

    /// Has workers decide as before while addresses are moved for the next policy. Returns the generation that they must reach.
    pub fn await_policy(&mut self) -> u64 {
        let policy = self.shared.policy();
        let compiler = self.objects.compiler();
        let same = policy.as_ref().as_ref().zip(compiler).map(|(policy, compiler)| policy.awaiting(compiler));
        self.shared.publish_same_policy(same)
    }

    /// The part of the policy in force that has a number.
    pub fn policy_rule(&self, counter: CounterId) -> Option<(Arc<Source>, Part)> {
        let policy = self.shared.policy();
        let (source, part) = policy.as_ref().as_ref()?.classifier().source(counter)?;
        Some((source.clone(), part))
    }

    /// All that is counted of the policy in force.
    pub fn policy_sources(&self) -> Vec<Arc<Source>> {
        let policy = self.shared.policy();
        policy.as_ref().iter().flat_map(|policy| policy.classifier().sources()).cloned().collect()
    }

    /// What denies packets under a number, in words.
    pub fn policy_reason(&self, counter: CounterId) -> String {
        let named = match counter {
            CounterId::NOTHING => Some("its headers are not there as a whole".into()),
            CounterId::END_OF_PROFILES => Some("no policy and no profile allows it".into()),
            _ => {
                self.policy_rule(counter).and_then(|(source, part)| Some(format!("{}", source.reason(part)?)))
            }
        };
        named.unwrap_or_else(|| format!("a rule that is gone, number {}", counter.0))
    }
}
