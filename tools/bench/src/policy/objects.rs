//! Workloads `policy-change/object-*`: from a request to the API to the policy that workers read, in a whole node.
//!
//! [`Site`] is control and one worker in turn, as on a node with one core, over a stream in memory. A change begins with its request
//! and ends when it is answered and the worker has the policy that came of it: HTTP, the turns of control and the steps in
//! which addresses move are all in it. Nothing else is to be done.

use super::site::Site;
use super::{ENDPOINTS, POLICIES, Row};
use anyhow::{Result, ensure};
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
    /// The lines of each request.
    change: fn(usize) -> Vec<String>,
    requests: usize,
}

pub(super) fn all() -> Vec<(String, Workload)> {
    let of = |before, change| Workload { before, change, requests: CHANGES_OF_ONE };
    let one_policy: fn(usize) -> Vec<String> = |number| vec![policy(number * 37 % POLICIES, 50_000 + number)];
    let members: fn(usize) -> Vec<String> =
        |number| vec![networks_of(number * 37 % SETS, 1 + number / SETS, MEMBERS)];
    let of_one: fn(usize) -> Vec<String> = |number| vec![networks_of(0, number, LARGE)];
    [
        ("policy", of(cluster, one_policy)),
        ("policy-storm-of-1000", Workload { requests: 1_000, ..of(cluster, one_policy) }),
        ("pod", of(cluster, |number| vec![pod(number * 37 % ENDPOINTS, number)])),
        ("namespace", of(cluster, |number| vec![namespace(number % NAMESPACES, number)])),
        ("100-of-1000000-members", Workload { requests: 300, ..of(networks, members) }),
        (
            "100-of-50000-members-of-one-set",
            of(|| vec![pod(1, 0), block(), networks_of(0, 0, LARGE)], of_one),
        ),
    ]
    .map(|(name, workload)| (format!("object-{name}"), workload))
    .into()
}

pub(super) fn measure(name: String, workload: Workload) -> Result<Row> {
    let mut site = Site::new()?;
    let before = site.resident_bytes()?;
    let objects = (workload.before)();
    let body = objects.join("\n");
    let loading = site.apply(&body)?;
    drop(body);
    let turns = core::mem::take(&mut site.turns);
    println!(
        "{name}: {} objects from nothing in {:.0} ms of which the longest turn of control took {:.0} us; {:.0} MiB",
        objects.len(),
        ms(loading),
        us(turns.control),
        (site.resident_bytes()?.saturating_sub(before)) as f64 / f64::from(1 << 20),
    );
    drop(objects);
    let (mut times, mut turns) = (Vec::new(), Vec::new());
    for number in 1..=workload.requests {
        times.push(site.apply(&(workload.change)(number).join("\n"))?);
        turns.push(core::mem::take(&mut site.turns));
    }
    ensure!(site.changed == 1 + workload.requests, "{} of the requests changed something", site.changed);
    let all: Duration = times.iter().sum();
    times.sort_unstable();
    turns.sort_unstable_by_key(|turns| turns.control);
    let [common, rare] = [turns.len() / 2, turns.len() - 1].map(|at| us(turns[at].control));
    let of_worker = turns.iter().map(|turns| turns.worker).max().unwrap_or_default();
    let [best, median, longest] = [0, times.len() / 2, times.len() - 1].map(|at| times[at]);
    println!(
        "{name}: median {:.2} ms, longest {:.2} ms; {} requests in {:.0} ms; longest turn of control in one {common:.0} us (median), in all {rare:.0} us, of the worker {:.0} us; {:.0} MiB",
        ms(median),
        ms(longest),
        times.len(),
        ms(all),
        us(of_worker),
        (site.resident_bytes()?.saturating_sub(before)) as f64 / f64::from(1 << 20),
    );
    Ok(Row { name, clocks: None, clocks_median: None, milliseconds: Some(ms(best)) })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
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
    let source = json!({"action": "Deny", "source": {"selector": "list == 'blocked'"}});
    let spec = json!({"selector": "app == '1'", "ingress": [source]});
    calico("GlobalNetworkPolicy", "block", &json!({}), &spec)
}

/// With each version others than before are [`EXCHANGED`].
fn networks_of(index: usize, version: usize, members: usize) -> String {
    let steps = members / EXCHANGED;
    let net = |member: usize| {
        let turn = (version + steps - 1 - member / EXCHANGED) / steps;
        let net = ((40 + turn % 8) << 24) + index * members + member;
        format!("{}/32", Ipv4Addr::from_bits(net as u32))
    };
    let nets: Vec<String> = (0..members).map(net).collect();
    calico("GlobalNetworkSet", &format!("set-{index}"), &json!({"list": "blocked"}), &json!({"nets": nets}))
}
