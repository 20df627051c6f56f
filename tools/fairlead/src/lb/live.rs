//! `fairlead lb`, `fairlead lb services` and `fairlead lb explain`: what a node balances.

use std::fmt::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{Format, TopArgs};
use crate::failure::Result;
use crate::manage::client::Node;
use crate::output::{self, CLEAR, Colour};

/// Shows the services that a node balances.
pub fn services(node: &Node, format: Format, filter: Option<&str>) -> Result<()> {
    let mut answer = node.get("/v1/services")?;
    if let (Some(text), Some(services)) = (filter, answer["services"].as_array_mut()) {
        services.retain(|service| service.to_string().contains(text));
    }
    output::show(format, &answer, |answer| {
        let services: String = match items(&answer["services"]) {
            [] => "the node balances no service\n".into(),
            services => services.iter().map(text).collect(),
        };
        under_way(answer) + &services
    })
}

/// A line that says that other services than these are about to be in force; empty if none are.
fn under_way(answer: &Value) -> String {
    match (answer["generation"].as_u64(), answer["in_force"].as_u64()) {
        (Some(taken), Some(in_force)) if in_force < taken => {
            format!("generation {taken} of the objects is not in force yet; this is generation {in_force}\n")
        }
        _ => String::new(),
    }
}

fn text(service: &Value) -> String {
    let word = |field: &str| output::cell(&service[field]);
    let (namespace, name, port) = (word("namespace"), word("service"), word("port"));
    let (protocol, family, scope) = (word("protocol"), word("family"), word("scope"));
    let mut text = format!("{namespace}/{name} port {port} {protocol} {family} {scope}\n");
    for frontend in items(&service["frontends"]) {
        let address = frontend["address"].as_str().unwrap_or("every address of the node");
        let _ = writeln!(
            text,
            "  at {address} port {} ({})",
            frontend["port"],
            output::cell(&frontend["exposure"])
        );
    }
    if service["panic"] == true {
        text.push_str("  too few backends are up: all are used\n");
    }
    let backends = items(&service["backends"]);
    if backends.is_empty() {
        text.push_str("  nobody serves\n");
    } else {
        let fields = ["weight", "slots", "flows", "packets", "bytes", "resets"];
        let row = |backend: &Value| {
            let address = format!("  {}", output::cell(&backend["address"]));
            let begin = [address, output::cell(&backend["state"]), health(backend), share(backend)];
            let rest = fields.iter().map(|field| output::cell(&backend[*field]));
            begin.into_iter().chain(rest).collect()
        };
        let headings = [&["  backend", "state", "health", "share"], &fields[..]].concat();
        let numbers = [&["share"], &fields[..]].concat();
        let mut rows: Vec<Vec<String>> = backends.iter().map(row).collect();
        if backends.len() > 1 {
            let total = |field: &str| service["total"].get(field).map(output::cell).unwrap_or_default();
            let begin = ["  all", "", "", ""].map(str::to_owned).into_iter();
            rows.push(begin.chain(fields.map(total)).collect());
        }
        text.push_str(&output::table(&headings, &numbers, rows));
    }
    text.push('\n');
    text
}

fn share(backend: &Value) -> String {
    format!("{:.3} %", backend["share"].as_f64().unwrap_or_default() * 100.0)
}

/// Whether a backend is up and for how long, and why it is not.
fn health(backend: &Value) -> String {
    let health = &backend["health"];
    let Some(status) = health["status"].as_str() else { return "-".into() };
    let last = items(&health["history"]).last();
    let since = last.and_then(|change| change["seconds_ago"].as_f64());
    let since = since.map(|seconds| format!(" for {}", output::duration(seconds as u64))).unwrap_or_default();
    let why = last.filter(|_| status == "down").and_then(|change| change["why"].as_str());
    format!("{status}{since}{}", why.map(|why| format!(": {why}")).unwrap_or_default())
}

/// Shows services and backends with their rates until interrupted, or once.
pub fn watch(node: &Node, format: Format, args: &TopArgs) -> Result<()> {
    let interval = Duration::from_secs_f64(args.interval);
    let read = || -> Result<(Instant, Value)> { Ok((Instant::now(), node.get("/v1/services")?)) };
    let mut before = read()?;
    loop {
        thread::sleep(interval);
        let after = read()?;
        let seconds = after.0.duration_since(before.0).as_secs_f64().max(1e-3);
        let rates = Rates { before: &before.1, after: &after.1, seconds };
        match format {
            Format::Table if args.once => output::emit(&rates.table(node.name()))?,
            Format::Table => output::emit(&format!("{CLEAR}{}", rates.table(node.name())))?,
            format => output::show(format, &rates.value(), |_| String::new())?,
        }
        if args.once {
            return Ok(());
        }
        before = after;
    }
}

/// What is counted of a backend, and is a rate per second here.
const COUNTED: [&str; 6] = ["flows", "packets", "bytes", "answer_bytes", "resets", "answer_packets"];
/// Those that have columns.
const SHOWN: usize = 5;

/// Services at two moments.
struct Rates<'a> {
    before: &'a Value,
    after: &'a Value,
    seconds: f64,
}

impl Rates<'_> {
    /// The services as they are now, with rates in the place of counters.
    fn value(&self) -> Value {
        let mut now = self.after.clone();
        for service in now["services"].as_array_mut().into_iter().flatten() {
            let key = |service: &Value| {
                ["namespace", "service", "port", "protocol", "family", "scope"]
                    .map(|field| service[field].clone())
            };
            let old = items(&self.before["services"]).iter().find(|old| key(old) == key(service));
            let old = old.map(|old| items(&old["backends"])).unwrap_or_default();
            let mut total = [0.0; COUNTED.len()];
            for backend in service["backends"].as_array_mut().into_iter().flatten() {
                let old = old.iter().find(|old| old["address"] == backend["address"]);
                for (field, total) in COUNTED.iter().zip(&mut total) {
                    let count = |backend: &Value| backend[field].as_u64().unwrap_or_default();
                    // A backend that is new, or a node that was restarted, counts from 0.
                    let passed = count(backend).saturating_sub(old.map_or(0, count));
                    let rate = passed as f64 / self.seconds;
                    *total += rate;
                    backend[field] = rate.into();
                }
            }
            service["total"] = COUNTED.iter().zip(total).map(|(field, rate)| (*field, rate)).collect();
        }
        now
    }

    fn table(&self, name: &str) -> String {
        let now = self.value();
        let title = format!("{name}, over {:.1} s", self.seconds);
        let mut text = format!("{}\n\n", output::paint(Colour::Bold, &title));
        let columns: [&str; 10] = [
            "service",
            "backend",
            "state",
            "health",
            "share",
            "flow/s",
            "packet/s",
            "byte/s",
            "answer byte/s",
            "reset/s",
        ];
        let mut rows: Vec<Vec<String>> = Vec::new();
        for service in items(&now["services"]) {
            let word = |field: &str| output::cell(&service[field]);
            let panic = if service["panic"] == true { " (all used)" } else { "" };
            // A port has a table for each protocol, family and policy.
            let which = ["protocol", "family", "scope"].map(word).join(" ");
            let mut named =
                format!("{}/{}:{} {which}{panic}", word("namespace"), word("service"), word("port"));
            if items(&service["backends"]).is_empty() {
                rows.push([vec![named.clone(), "nobody serves".into()], vec![String::new(); 8]].concat());
            }
            let rates = |counted: &Value| {
                let rate = |field: &&str| output::rate(counted[*field].as_f64().unwrap_or_default());
                COUNTED.iter().take(SHOWN).map(rate).collect::<Vec<_>>()
            };
            if items(&service["backends"]).len() > 1 {
                let all = ["all", "", "", ""].map(str::to_owned).to_vec();
                rows.push([vec![std::mem::take(&mut named)], all, rates(&service["total"])].concat());
            }
            for backend in items(&service["backends"]) {
                let address = output::cell(&backend["address"]);
                let state = output::cell(&backend["state"]);
                let row = [std::mem::take(&mut named), address, state, health(backend), share(backend)];
                rows.push([row.to_vec(), rates(backend)].concat());
            }
        }
        text += &output::table(&columns, &columns[4..], rows);
        text
    }
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Says which backend a flow gets.
pub fn explain(
    node: &Node,
    format: Format,
    protocol: &str,
    client: SocketAddr,
    service: SocketAddr,
) -> Result<()> {
    let answer = node.get(&format!(
        "/v1/services/explain?protocol={protocol}&source={}&source_port={}&destination={}&port={}",
        client.ip(),
        client.port(),
        service.ip(),
        service.port()
    ))?;
    output::show(format, &answer, |answer| {
        let why = output::cell(&answer["why"]);
        let Some(name) = answer["service"].as_str() else { return format!("not balanced: {why}\n") };
        let backend = answer["backend"].as_str().unwrap_or("nobody");
        let slot = answer["slot"].as_u64().map(|slot| format!(", slot {slot}")).unwrap_or_default();
        let namespace = output::cell(&answer["namespace"]);
        format!("{namespace}/{name} port {}: {backend}{slot}\n  {why}\n", answer["port"])
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_live_is_rates_and_health() {
        let services = |flows: u64| {
            json!({"services": [{
            "namespace": "default", "service": "web", "port": 80, "protocol": "TCP", "family": "IPv4",
            "scope": "Cluster", "panic": true, "frontends": [], "total": {"flows": flows + 4}, "backends": [
                {"address": "10.0.0.1:80", "state": "active", "share": 1.0, "flows": flows, "weight": 1},
                {"address": "10.0.0.2:80", "state": "draining", "share": 0.0, "flows": 4, "health": {
                    "status": "down", "history": [{"seconds_ago": 75.2, "to": "down", "why": "no answer in time"}]}},
            ]}]})
        };
        let (before, after) = (services(10), services(50));
        let rates = Rates { before: &before, after: &after, seconds: 2.0 };
        assert_eq!(rates.value()["services"][0]["backends"][0]["flows"], 20.0);
        assert_eq!(rates.value()["services"][0]["backends"][1]["flows"], 0.0);
        assert_eq!(rates.value()["services"][0]["total"]["flows"], 20.0);
        let text = rates.table("node");
        assert!(text.contains("default/web:80 TCP IPv4 Cluster (all used)"), "{text}");
        assert!(text.contains("down for 1m 15s: no answer in time"), "{text}");
        assert_eq!(under_way(&json!({"generation": 3, "in_force": 3})), "");
        assert!(under_way(&json!({"generation": 3, "in_force": 2})).contains("this is generation 2"));
        let nobody = json!({"services": [{"namespace": "a", "service": "b", "backends": []}]});
        let text = Rates { before: &nobody, after: &nobody, seconds: 1.0 }.table("node");
        assert!(text.contains("nobody serves"), "{text}");
        let text = super::text(&after["services"][0]);
        assert!(text.contains("too few backends are up") && text.contains("no answer in time"), "{text}");
        let all = text.lines().find(|line| line.trim_start().starts_with("all"));
        assert_eq!(all.map(str::trim_end).map(|line| line.ends_with("54")), Some(true), "{text}");
    }
}
