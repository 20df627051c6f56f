//! Kubernetes' and Calico's objects, one a line, and what is done with those before a line that says `apply`, `replace` or
//! `delete`: read, changed as a set, compiled to services and policy.
//!
//! A set after an edit is what a map would be; what was compiled step by step is what the last set alone compiles to, and
//! decides about packets as the reference evaluator does; what is refused names a field of an object. The compiler of policy is
//! kept from input to input, as making its tables takes longer than most inputs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use balancer::{Builder, Settings};
use maglev::TableSize;
use policy::classifier::Compiler;
use policy::flow;
use policy::model::{Model, Packet, protocol};
use resources::{Change, ChangeOp, Compiled, Edit, Fault, Key, Object, Set};
use serde_json::Value;
use services::{Exposure, Site, State};

use crate::object;

/// More objects find nothing that fewer do not.
const MAX_OBJECTS: usize = 16;
const MAX_EDITS: usize = 4;
/// Addresses of endpoints that are asked about.
const MAX_ADDRESSES: usize = 3;
/// Slots of the tables of services, in the place of what the service wants: to fill a large one takes long.
const TABLE_SLOTS: u32 = 13;

thread_local! {
    static COMPILER: RefCell<Option<(Compiler, u64)>> = const { RefCell::new(None) };
}

/// Does what `data` says.
pub fn run(data: &[u8]) {
    let kept = COMPILER.take();
    let node = act(data, kept);
    COMPILER.set(Some((node.compiler, node.publications)));
}

fn act(data: &[u8], compiler: Option<(Compiler, u64)>) -> Node {
    let mut node = Node::new(compiler);
    let mut batch = Vec::new();
    let mut room = MAX_OBJECTS;
    for line in data.split(|byte| *byte == b'\n') {
        match line {
            b"apply" => node.edit(&Edit::Apply(std::mem::take(&mut batch))),
            b"replace" => node.edit(&Edit::Replace(std::mem::take(&mut batch))),
            b"delete" => {
                let keys = batch.drain(..).map(|object: Arc<Object>| object.key().clone()).collect();
                node.edit(&Edit::Delete(keys));
            }
            line => batch.extend(read(line, &mut room)),
        }
        if node.edits == MAX_EDITS || room == 0 {
            break;
        }
    }
    node.edit(&Edit::Apply(batch));
    node.finish();
    node
}

/// The objects of a line that are accepted.
fn read(line: &[u8], room: &mut usize) -> Vec<Arc<Object>> {
    let Ok(value) = serde_json::from_slice::<Value>(line) else { return Vec::new() };
    let values = resources::flatten(value.clone()).into_iter().take(*room);
    let mut objects = Vec::new();
    for (pointer, item) in values {
        *room -= 1;
        assert_eq!(value.pointer(&pointer), Some(&item), "{pointer} is another item of the list");
        objects.extend(object::read(&item));
    }
    objects
}

fn change(set: &Set, edit: &Edit) -> (Set, Vec<Change>) {
    pace::at_once(|pace| async {
        let pace = pace;
        set.change(edit, &pace).await
    })
}

/// What a node keeps of objects.
struct Node {
    set: Set,
    compiled: Compiled,
    /// What the set should be, as texts.
    expected: BTreeMap<Key, String>,
    compiler: Compiler,
    /// How often the compiler was used.
    publications: u64,
    builder: Builder,
    site: Site,
    edits: usize,
}

impl Node {
    fn new(compiler: Option<(Compiler, u64)>) -> Self {
        let (compiler, publications) = compiler.unwrap_or_else(|| match Compiler::new() {
            Ok(compiler) => (compiler, 0),
            Err(_) => panic!("nothing needs no memory"),
        });
        let mut node = Self {
            set: Set::default(),
            compiled: Compiled::default(),
            expected: BTreeMap::new(),
            compiler,
            publications,
            builder: Builder::new(Settings::default()),
            site: Site { node: Some("node-a".into()), zone: Some("zone-a".into()), ..Site::default() },
            edits: 0,
        };
        match node.compile(&node.set, &[], &Compiled::default()) {
            Ok(compiled) => node.compiled = compiled,
            Err(faults) => panic!("nothing is refused: {faults:?}"),
        }
        node
    }

    /// Changes the set if what comes of it is possible.
    fn edit(&mut self, edit: &Edit) {
        self.edits += 1;
        let (next, changes) = change(&self.set, edit);
        let expected = self.expect(edit);
        let texts = next.iter().map(|object| (object.key().clone(), object.text().to_string()));
        assert_eq!(texts.collect::<BTreeMap<_, _>>(), expected, "the set is not what the edit makes");
        assert_eq!(next.bytes(), expected.values().map(String::len).sum::<usize>());
        assert_eq!(next.len(), next.count_by_kind().iter().map(|(_, count)| count).sum::<usize>());
        for change in &changes {
            let before = self.expected.get(&change.key);
            let after = expected.get(&change.key);
            assert_ne!(before, after, "{} has changed to what it was", change.key);
            let op = match (before, after) {
                (None, _) => ChangeOp::Add,
                (_, None) => ChangeOp::Remove,
                _ => ChangeOp::Change,
            };
            assert_eq!(change.op, op);
            if let (Some(before), Some(after)) = (before, after) {
                let values = [before, after].map(|text| serde_json::from_str::<Value>(text).ok());
                let [Some(before), Some(after)] = values else { panic!("what was JSON is none") };
                let fields = resources::differences(&before, &after);
                assert!(!fields.is_empty() && fields.len() <= resources::MAX_FIELDS);
                assert!(
                    fields
                        .iter()
                        .all(|f| before.pointer(&f.pointer).is_some() || after.pointer(&f.pointer).is_some())
                );
            }
        }
        let keys = self.expected.keys().chain(expected.keys());
        let different = keys.filter(|key| self.expected.get(*key) != expected.get(*key));
        let different: std::collections::BTreeSet<&Key> = different.collect();
        assert_eq!(different.len(), changes.len(), "changes are missing");
        match self.compile(&next, &changes, &self.compiled) {
            Ok(compiled) => {
                (self.set, self.compiled, self.expected) = (next, compiled, expected);
                self.publish();
            }
            Err(faults) => assert_found(&next, &faults),
        }
    }

    fn expect(&self, edit: &Edit) -> BTreeMap<Key, String> {
        let mut expected = self.expected.clone();
        let entry = |object: &Arc<Object>| (object.key().clone(), object.text().to_string());
        match edit {
            Edit::Apply(objects) => expected.extend(objects.iter().map(entry)),
            Edit::Replace(objects) => expected = objects.iter().map(entry).collect(),
            Edit::Delete(keys) => keys.iter().for_each(|key| drop(expected.remove(key))),
        }
        expected
    }

    fn compile(&self, set: &Set, changes: &[Change], before: &Compiled) -> Result<Compiled, Vec<Fault>> {
        pace::at_once(|pace| async {
            let pace = pace;
            resources::compile(set, changes, &self.site, before, &pace).await
        })
    }

    /// What workers would be given decides as the documents say.
    fn publish(&mut self) {
        self.balance();
        // There is no model yet. To go there and back again would make all tables anew, which takes longer than most inputs.
        if self.compiled.model().tiers.is_empty() {
            return;
        }
        let Ok(classifier) = self.compiler.update(self.compiled.model().clone()) else {
            panic!("a few objects need little memory")
        };
        assert!(self.compiler.apply().is_ok(), "a few objects need little memory");
        self.publications += 1;
        self.compiler.retire(self.publications);
        self.compiler.reclaim(self.publications);
        let addresses = addresses(self.compiled.model());
        for (source, destination) in
            addresses.iter().flat_map(|from| addresses.iter().map(move |to| (*from, *to)))
        {
            if source.is_ipv4() != destination.is_ipv4() {
                continue;
            }
            for (protocol, port) in ports(self.compiled.model()) {
                let icmp =
                    if matches!(protocol, protocol::ICMP | protocol::ICMPV6) { (8, 0) } else { (0, 0) };
                let ports = if protocol == protocol::ICMP { (0, 0) } else { (40_000, port) };
                let (source_port, destination_port) = ports;
                let packet = Packet { source, destination, protocol, source_port, destination_port, icmp };
                let expected = flow::judge(self.compiled.model(), &packet);
                assert_eq!(flow::classify(&classifier, &packet), expected, "{packet:?}");
            }
        }
    }

    /// Every frontend leads to an active backend of its pool, or to nobody if there is none.
    fn balance(&mut self) {
        let mut services = (*self.compiled.services).clone();
        let Ok(size) = TableSize::new(TABLE_SLOTS) else { panic!("13 is a prime") };
        services.pools.iter_mut().for_each(|pool| pool.table_size = size);
        let snapshot = self.builder.build(&services);
        for frontend in services.frontends.iter().filter(|frontend| frontend.exposure != Exposure::NodePort) {
            let Some(pool) = services.pools.get(frontend.pool) else { panic!("{frontend:?} has no pool") };
            let Some(address) = frontend.address else { panic!("{frontend:?} has no address") };
            let client: IpAddr = match address {
                IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 9).into(),
                IpAddr::V6(_) => Ipv6Addr::from([0x20; 16]).into(),
            };
            let (from, to) = (SocketAddr::new(client, 4000), SocketAddr::new(address, frontend.port));
            let Some(choice) = snapshot.choice(pool.key.protocol.number(), from, to) else {
                panic!("{frontend:?} is not served")
            };
            assert_eq!(choice.pool, frontend.pool, "{frontend:?} is another service's");
            let mut active = pool.backends.iter().filter(|b| b.state == State::Active && b.weight > 0);
            match choice.backend {
                Some(backend) => {
                    assert!(active.any(|b| b.address == backend), "{backend} is not in {pool:?}");
                }
                None => assert!(active.next().is_none(), "nobody of {pool:?} is chosen"),
            }
        }
    }

    /// What was compiled change by change is what the set alone is compiled to.
    fn finish(&self) {
        let objects = Edit::Replace(self.set.iter().cloned().collect());
        let (set, changes) = change(&Set::default(), &objects);
        let compiled = match self.compile(&set, &changes, &Compiled::default()) {
            Ok(compiled) => compiled,
            Err(faults) => panic!("what is in force is refused: {faults:?}"),
        };
        assert_eq!(compiled.services, self.compiled.services);
        assert_eq!(compiled.host_network_pods(), self.compiled.host_network_pods());
        // Of nothing that policy is about there is no model yet.
        if self.set.iter().all(|object| object.key().kind.name() == "Service") {
            return;
        }
        let (alone, in_force) = (compiled.model(), self.compiled.model());
        let with_policies = |model: &Model| {
            let tiers = model.tiers.iter().filter(|tier| !tier.policies.is_empty());
            tiers.cloned().collect::<Vec<_>>()
        };
        assert_eq!(with_policies(alone), with_policies(in_force));
        assert_eq!(alone.profiles, in_force.profiles);
        assert_eq!(alone.endpoints, in_force.endpoints);
        assert_eq!(alone.networks, in_force.networks);
    }
}

/// What is impossible is so in an object of the set, at a field of it.
fn assert_found(set: &Set, faults: &[Fault]) {
    assert!(!faults.is_empty(), "refused without a word");
    for fault in faults {
        let Some(object) = set.get(&fault.key) else { panic!("{fault} is not in the set") };
        let Ok(value) = serde_json::from_str(object.text()) else { panic!("what was JSON is none") };
        object::assert_names_a_field(&fault.problem, &value);
    }
}

fn addresses(model: &Model) -> Vec<IpAddr> {
    let all = model.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).copied();
    all.take(MAX_ADDRESSES).chain([[192, 0, 2, 1].into()]).collect()
}

/// Ports with names, and some that rules are often about.
fn ports(model: &Model) -> Vec<(u8, u16)> {
    let named = model.endpoints.iter().flat_map(|endpoint| &endpoint.ports).take(3);
    let named = named.map(|port| (port.protocol, port.port));
    named
        .chain([(protocol::TCP, 80), (protocol::UDP, 53), (protocol::SCTP, 81), (protocol::ICMP, 0)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is refused as a whole is never changed or compiled.
    #[test]
    fn kept_inputs_come_into_force() {
        let mut kinds = std::collections::BTreeSet::new();
        for input in crate::corpus::load("resources").unwrap() {
            let mut room = MAX_OBJECTS;
            let lines = input.data.split(|byte| *byte == b'\n');
            let objects: Vec<_> = lines.flat_map(|line| read(line, &mut room)).collect();
            let mut node = Node::new(None);
            node.edit(&Edit::Apply(objects.clone()));
            if !input.name.contains("wrong") {
                assert!(!node.set.is_empty(), "{}", input.name);
                kinds.extend(objects.iter().map(|object| object.key().kind));
            }
        }
        assert_eq!(kinds.len(), resources::Kind::COUNT, "{kinds:?}");
    }
}
