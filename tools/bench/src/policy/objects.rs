//! Workloads `policy-change/object-*`: from a request to the API to the policy that workers read, in a whole node.
//!
//! [`Site`] is control and one worker in turn, as on a node with one core, over a stream in memory. A change begins with its request
//! and ends when it is answered and the worker has the policy that came of it: HTTP, the turns of control and the steps in
//! which addresses move are all in it. Nothing else is to be done.

use super::site::{Cost, Site, resident_bytes};
use super::{ENDPOINTS, POLICIES, Row, ms, spread};
use anyhow::Result;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;

const SETS: usize = 1_000;
const MEMBERS: usize = 1_000;
/// Members that one change takes from a set, and that it adds to it.
const EXCHANGED: usize = 50;
/// Members of the one set where there is only one.
const LARGE: usize = 50_000;
const NAMESPACES: usize = 10;
const CHANGES_OF_ONE: usize = 60;

/// A node's objects, and what is done with them.
#[derive(Clone, Copy)]
pub(super) struct Workload {
    before: fn() -> Vec<String>,
    /// The object of each request.
    change: fn(usize) -> String,
    requests: usize,
}

pub(super) fn all() -> Vec<(String, Workload)> {
    let of = |before, change| Workload { before, change, requests: CHANGES_OF_ONE };
    let one_policy: fn(usize) -> String = |number| policy(number * 37 % POLICIES, 50_000 + number);
    let one_set: fn() -> Vec<String> = || vec![pod(1, 0), block(), networks_of(0, 0, LARGE)];
    [
        ("policy", of(cluster, one_policy)),
        ("policy-storm-of-1000", Workload { requests: 1_000, ..of(cluster, one_policy) }),
        ("pod", of(cluster, |number| pod(number * 37 % ENDPOINTS, number))),
        ("namespace", of(cluster, |number| namespace(number % NAMESPACES, number))),
        (
            "100-of-1000000-members",
            Workload {
                requests: 300,
                ..of(networks, |number| networks_of(number * 37 % SETS, 1 + number / SETS, MEMBERS))
            },
        ),
        ("100-of-50000-members-of-one-set", of(one_set, |number| networks_of(0, number, LARGE))),
    ]
    .map(|(name, workload)| (format!("object-{name}"), workload))
    .into()
}

pub(super) fn measure(name: String, workload: Workload) -> Result<Row> {
    let mut site = Site::new()?;
    let before = resident_bytes()?;
    let objects = (workload.before)();
    let loading = site.apply(&objects.join("\n"))?;
    println!(
        "{name}: {} objects from nothing in {:.0} ms of which the longest turn of control took {:.0} us; {:.0} MiB",
        objects.len(),
        ms(loading.time),
        us(loading.longest.control),
        mib_since(before)?,
    );
    drop(objects);
    let changes = (1..=workload.requests).map(|number| site.apply(&(workload.change)(number)));
    let costs = changes.collect::<Result<Vec<Cost>>>()?;
    let of = |what: fn(&Cost) -> Duration| costs.iter().map(what);
    let [best, median, longest] = spread(of(|cost| cost.time));
    let [_, control_median, control_longest] = spread(of(|cost| cost.longest.control));
    let [_, _, worker_longest] = spread(of(|cost| cost.longest.worker));
    println!(
        "{name}: median {:.2} ms, longest {:.2} ms; {} requests in {:.0} ms; longest turn of control in one {:.0} us (median), in all {:.0} us, of the worker {:.0} us; {:.0} MiB",
        ms(median),
        ms(longest),
        costs.len(),
        ms(of(|cost| cost.time).sum()),
        us(control_median),
        us(control_longest),
        us(worker_longest),
        mib_since(before)?,
    );
    Ok(Row::of_time(name, best))
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// How much more memory this process has.
fn mib_since(before_bytes: usize) -> Result<f64> {
    Ok(resident_bytes()?.saturating_sub(before_bytes) as f64 / f64::from(1 << 20))
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

fn calico(kind: &str, name: &str, labels: &Value, spec: &Value) -> String {
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
    let address = Ipv4Addr::from_bits((10 << 24) + 1 + index as u32);
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
    let pods = (0..ENDPOINTS).map(|index| pod(index, 0));
    (0..SETS).map(|index| networks_of(index, 0, MEMBERS)).chain(pods).chain([block()]).collect()
}

fn block() -> String {
    let rule = json!({"action": "Deny", "source": {"selector": "list == 'blocked'"}});
    let spec = json!({"selector": "app == '1'", "ingress": [rule]});
    calico("GlobalNetworkPolicy", "block", &json!({}), &spec)
}

/// In each version the next [`EXCHANGED`] members in turn are other networks than in the one before.
fn networks_of(index: usize, version: usize, members: usize) -> String {
    let steps = members / EXCHANGED;
    let net = |member: usize| {
        let exchanges = (version + steps - 1 - member / EXCHANGED) / steps;
        let address = ((40 + exchanges % 8) << 24) + index * members + member;
        format!("{}/32", Ipv4Addr::from_bits(address as u32))
    };
    let nets: Vec<String> = (0..members).map(net).collect();
    calico("GlobalNetworkSet", &format!("set-{index}"), &json!({"list": "blocked"}), &json!({"nets": nets}))
}
