//! Workloads `policy-change/object-*`: from an object's line of JSON to the tables that workers read, as in the node.
//!
//! The way is that of control: read the object, make the next set, compile what it touches, update the classifier, move
//! addresses to their new classes. HTTP, and the turns that other work of control takes, are not in it.

use super::{ENDPOINTS, POLICIES, Row};
use anyhow::{Result, anyhow};
use policy::classifier::Compiler;
use resources::{Compiled, Edit, Object, Set, compile};
use serde_json::json;
use services::Site;
use std::sync::Arc;
use std::time::Instant;

const SETS: usize = 1_000;
const MEMBERS: usize = 1_000;
const NAMESPACES: usize = 10;

/// Lines before, and the lines of each change.
type Workload = (fn() -> Vec<String>, fn(usize) -> Vec<String>);

pub(super) const CHANGES: [(&str, Workload); 4] = [
    ("object-policy", (cluster, |number| vec![policy(number * 37 % POLICIES, 50_000 + number)])),
    ("object-pod", (cluster, |number| vec![pod(number * 37 % ENDPOINTS, number)])),
    ("object-namespace", (cluster, |number| vec![namespace(number % NAMESPACES, number)])),
    ("object-1000-of-1000000-members", (networks, |number| vec![networks_of(number * 37 % SETS, number)])),
];

struct Way {
    set: Set,
    compiled: Compiled,
    compiler: Compiler,
    generation: u64,
}

impl Way {
    fn change(&mut self, lines: &[String]) -> Result<()> {
        let read = |line: &String| {
            let object = Object::read(serde_json::from_str(line)?);
            object.map(Arc::new).map_err(|error| anyhow!("{:?}", error.0))
        };
        let edit = Edit::Apply(lines.iter().map(read).collect::<Result<_>>()?);
        let (set, compiled) = pace::at_once(|pace| {
            let (set, before) = (&self.set, &self.compiled);
            async move {
                let (next, changes) = set.change(&edit, &pace).await;
                let compiled = compile(&next, &changes, &Site::default(), before, &pace).await;
                compiled.map(|compiled| (next, compiled)).map_err(|faults| anyhow!("{}", faults[0]))
            }
        })?;
        let classifier = self.compiler.update(compiled.model().clone())?;
        self.compiler.apply()?;
        self.generation += 1;
        self.compiler.retire(self.generation);
        self.compiler.reclaim(self.generation);
        drop(classifier);
        (self.set, self.compiled) = (set, compiled);
        Ok(())
    }
}

pub(super) fn measure(name: String, (before, change): Workload) -> Result<Row> {
    let mut way =
        Way { set: Set::default(), compiled: Compiled::default(), compiler: Compiler::new()?, generation: 0 };
    let start = Instant::now();
    way.change(&before())?;
    println!(
        "{name}: {} objects from nothing in {:.0} ms",
        way.set.len(),
        start.elapsed().as_secs_f64() * 1e3
    );
    let mut times = Vec::new();
    for number in 1..60 {
        let lines = change(number);
        let start = Instant::now();
        way.change(&lines)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{name}: median {:.2} ms, longest {:.2} ms", times[times.len() / 2], times[times.len() - 1]);
    Ok(Row { name, clocks: None, clocks_median: None, milliseconds: times.first().copied() })
}

fn cluster() -> Vec<String> {
    let policies = (0..POLICIES).map(|index| policy(index, 1024 + index % 50_000));
    let namespaces = (0..NAMESPACES).map(|index| namespace(index, 0));
    namespaces.chain((0..ENDPOINTS).map(|index| pod(index, 0))).chain(policies).collect()
}

/// As in [`super::many_endpoints`].
fn policy(index: usize, port: usize) -> String {
    let zone =
        if index.is_multiple_of(2) { String::new() } else { format!(" && zone == '{}'", index / 200 % 10) };
    let rule = json!({
        "action": "Allow", "protocol": "TCP",
        "source": {"selector": format!("app == '{}'", index * 7 % 100)}, "destination": {"ports": [port]},
    });
    let spec = json!({"selector": format!("app == '{}'{zone}", index / 2 % 100), "ingress": [rule]});
    calico("GlobalNetworkPolicy", &format!("policy-{index}"), &json!({}), &spec)
}

fn calico(kind: &str, name: &str, labels: &serde_json::Value, spec: &serde_json::Value) -> String {
    let metadata = json!({"name": name, "labels": labels});
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec})
        .to_string()
}

fn pod(index: usize, version: usize) -> String {
    let labels = json!({
        "app": format!("{}", index % 100), "zone": format!("{}", index / 100 % 10),
        "name": format!("{index}"), "version": format!("{version}"),
    });
    let namespace = format!("namespace-{}", index % NAMESPACES);
    let address = std::net::Ipv4Addr::from_bits((10 << 24) + 1 + index as u32);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": format!("pod-{index}"), "labels": labels},
        "status": {"podIPs": [{"ip": address}]},
    })
    .to_string()
}

fn namespace(index: usize, version: usize) -> String {
    let metadata = json!({"name": format!("namespace-{index}"), "labels": {"version": format!("{version}")}});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}).to_string()
}

/// A thousand sets of a thousand networks, which are blocked for some pods.
fn networks() -> Vec<String> {
    let source = json!({"action": "Deny", "source": {"selector": "list == 'blocked'"}});
    let spec = json!({"selector": "app == '1'", "ingress": [source]});
    let block = calico("GlobalNetworkPolicy", "block", &json!({}), &spec);
    let pods = (0..ENDPOINTS).map(|index| pod(index, 0));
    (0..SETS).map(|index| networks_of(index, 0)).chain(pods).chain([block]).collect()
}

fn networks_of(index: usize, version: usize) -> String {
    let first = ((40 + version as u32 % 8) << 24) + (index * MEMBERS) as u32;
    let nets: Vec<String> = (0..MEMBERS as u32)
        .map(|member| format!("{}/32", std::net::Ipv4Addr::from_bits(first + member)))
        .collect();
    let labels = json!({"list": "blocked"});
    calico("GlobalNetworkSet", &format!("set-{index}"), &labels, &json!({"nets": nets}))
}
