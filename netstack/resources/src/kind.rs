//! Every kind of object that a node knows.

use alloc::string::String;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(u8);

struct Facts {
    api_version: &'static str,
    name: &'static str,
    is_namespaced: bool,
}

const fn namespaced(api_version: &'static str, name: &'static str) -> Facts {
    Facts { api_version, name, is_namespaced: true }
}

const fn global(api_version: &'static str, name: &'static str) -> Facts {
    Facts { api_version, name, is_namespaced: false }
}

const CALICO: &str = "projectcalico.org/v3";

/// In the order in which objects are shown: what others refer to first.
const FACTS: [Facts; 22] = [
    global("v1", "Namespace"),
    global("v1", "Node"),
    namespaced("v1", "ServiceAccount"),
    namespaced("v1", "Pod"),
    namespaced("v1", "Service"),
    namespaced("discovery.k8s.io/v1", "EndpointSlice"),
    namespaced("networking.k8s.io/v1", "NetworkPolicy"),
    global("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
    global("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"),
    global("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
    global(CALICO, "Tier"),
    global(CALICO, "Profile"),
    global(CALICO, "FelixConfiguration"),
    global(CALICO, "HostEndpoint"),
    namespaced(CALICO, "WorkloadEndpoint"),
    namespaced(CALICO, "NetworkSet"),
    global(CALICO, "GlobalNetworkSet"),
    namespaced(CALICO, "NetworkPolicy"),
    global(CALICO, "GlobalNetworkPolicy"),
    namespaced(CALICO, "StagedNetworkPolicy"),
    global(CALICO, "StagedGlobalNetworkPolicy"),
    namespaced(CALICO, "StagedKubernetesNetworkPolicy"),
];

impl Kind {
    /// How many there are.
    pub const COUNT: usize = FACTS.len();

    /// All of them.
    pub fn all() -> impl Iterator<Item = Kind> {
        (0..Self::COUNT as u8).map(Kind)
    }

    /// The kind of a name in an API version.
    pub fn find(api_version: &str, name: &str) -> Option<Kind> {
        Self::all().find(|kind| kind.api_version() == api_version && kind.name() == name)
    }

    /// `projectcalico.org/v3` and the like.
    pub fn api_version(self) -> &'static str {
        self.facts().api_version
    }

    /// `NetworkPolicy` and the like; kinds of different groups can have the same name.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Whether its objects are in namespaces.
    pub fn is_namespaced(self) -> bool {
        self.facts().is_namespaced
    }

    /// Whether a person who writes `word` means this kind: its name in any case, one or many, `policies` for `policy`.
    pub fn is_called(self, word: &str) -> bool {
        let (word, name) = (word.to_ascii_lowercase(), self.name().to_ascii_lowercase());
        let many = match name.strip_suffix('y') {
            Some(stem) => String::from(stem) + "ies",
            None => name.clone() + "s",
        };
        word == name || word == many
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    fn facts(self) -> &'static Facts {
        // A kind is only made of an index of the table.
        FACTS.get(self.index()).unwrap_or(&FACTS[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names() {
        for kind in Kind::all() {
            assert_eq!(Kind::find(kind.api_version(), kind.name()), Some(kind));
        }
        assert_eq!(Kind::find("v1", "Deployment"), None);
        let called = |word: &str| Kind::all().filter(|kind| kind.is_called(word)).count();
        assert_eq!(called("networkpolicies"), 2);
        assert_eq!(called("EndpointSlices"), 1);
        assert_eq!(called("pod"), 1);
        assert_eq!(called("policy"), 0);
    }
}
