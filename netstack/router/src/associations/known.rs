//! The associations that there are, by name, with what finds them by number and by tunnel: there may be ten thousand.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
};

use config::AssociationDirection;
use ipsec::SaId;

use super::KnownAssociation;

/// Associations by name.
#[derive(Default)]
pub(crate) struct Associations {
    by_name: BTreeMap<String, KnownAssociation>,
    names: BTreeMap<SaId, String>,
    by_tunnel: BTreeMap<String, BTreeSet<String>>,
}

impl Associations {
    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&KnownAssociation> {
        self.by_name.get(name)
    }

    /// The association of a number.
    pub(super) fn find(&self, id: SaId) -> Option<&KnownAssociation> {
        self.by_name.get(self.names.get(&id)?)
    }

    /// What is known of an association may change, except its name, number and tunnel.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut KnownAssociation> {
        self.by_name.get_mut(name)
    }

    /// All, in order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &KnownAssociation)> {
        self.by_name.iter()
    }

    /// Those of a tunnel and a direction, in order of their names.
    pub(super) fn of_tunnel(
        &self,
        tunnel: &str,
        direction: AssociationDirection,
    ) -> impl Iterator<Item = &KnownAssociation> {
        let names = self.by_tunnel.get(tunnel).into_iter().flatten();
        let all = names.filter_map(|name| self.by_name.get(name));
        all.filter(move |known| known.settings.direction == direction)
    }

    /// Names of all associations of a tunnel.
    pub(super) fn names_of(&self, tunnel: &str) -> impl Iterator<Item = &String> {
        self.by_tunnel.get(tunnel).into_iter().flatten()
    }

    /// Adds one, whose name is not there.
    pub(super) fn insert(&mut self, known: KnownAssociation) {
        let config::Association { name, tunnel, .. } = &known.settings;
        let _ = self.names.insert(known.id, name.clone());
        let _ = self.by_tunnel.entry(tunnel.clone()).or_default().insert(name.clone());
        let _ = self.by_name.insert(name.clone(), known);
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<KnownAssociation> {
        let known = self.by_name.remove(name)?;
        let _ = self.names.remove(&known.id);
        let tunnel = &known.settings.tunnel;
        if let Some(names) = self.by_tunnel.get_mut(tunnel) {
            let _ = names.remove(name);
            if names.is_empty() {
                let _ = self.by_tunnel.remove(tunnel);
            }
        }
        Some(known)
    }
}
