//! `top`: rates out of two readings of the node's counters, again and again.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::client::Node;
use crate::cli::{Format, TopArgs};
use crate::failure::{Failure, Result};
use crate::output::{self, CLEAR, Colour, emit, paint, rate};

/// The node of the graph that every received packet enters first.
const FIRST_NODE: &str = "ethernet-input";

/// Shows rates until interrupted, or once.
pub fn top(node: &Node, format: Format, args: &TopArgs) -> Result<()> {
    let interval = Duration::from_secs_f64(args.interval);
    let mut before = Reading::take(node)?;
    loop {
        thread::sleep(interval);
        let after = Reading::take(node)?;
        let rates = Rates::between(&before, &after);
        let text = match format {
            Format::Table => rates.table(node.name()),
            Format::Json | Format::Yaml => {
                let value =
                    serde_json::to_value(&rates).map_err(|error| Failure::operation(error.to_string()))?;
                if format == Format::Json {
                    output::json(&value)
                } else {
                    format!("---\n{}", output::yaml(&value)?)
                }
            }
        };
        let redraw = format == Format::Table && !args.once;
        emit(&if redraw { format!("{CLEAR}{text}") } else { text })?;
        if args.once {
            return Ok(());
        }
        before = after;
    }
}

/// The counters at one moment.
struct Reading {
    at: Instant,
    counters: Counters,
    drops: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Counters {
    interfaces: Vec<Interface>,
    workers: Vec<Worker>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
    rx_drops: u64,
    tx_drops: u64,
    punts: u64,
}

#[derive(Deserialize)]
struct Worker {
    worker: u64,
    nodes: Vec<GraphNode>,
}

#[derive(Deserialize)]
struct GraphNode {
    node: String,
    packets: u64,
    vectors: u64,
    clocks: u64,
}

#[derive(Deserialize)]
struct Drops {
    drops: Vec<Drop>,
}

#[derive(Deserialize)]
struct Drop {
    reason: String,
    packets: u64,
}

impl Reading {
    fn take(node: &Node) -> Result<Reading> {
        let unreadable = |error: serde_json::Error| {
            Failure::operation(format!("{} sent counters that cannot be read: {error}", node.name()))
        };
        let counters = serde_json::from_value(node.get("/v1/counters")?).map_err(unreadable)?;
        let at = Instant::now();
        let drops: Drops = serde_json::from_value(node.get("/v1/drops")?).map_err(unreadable)?;
        let drops = drops.drops.into_iter().map(|drop| (drop.reason, drop.packets)).collect();
        Ok(Reading { at, counters, drops })
    }
}

/// What happened per second between two readings.
#[derive(Debug, PartialEq, Serialize)]
struct Rates {
    seconds: f64,
    interfaces: Vec<InterfaceRates>,
    workers: Vec<WorkerRates>,
    drops: Vec<DropRate>,
}

#[derive(Debug, PartialEq, Serialize)]
struct InterfaceRates {
    name: String,
    rx_packets: f64,
    rx_bits: f64,
    tx_packets: f64,
    tx_bits: f64,
    drops: f64,
    punts: f64,
}

#[derive(Debug, PartialEq, Serialize)]
struct WorkerRates {
    worker: u64,
    packets: f64,
    packets_per_vector: f64,
    clocks_per_packet: f64,
    /// Clocks spent on packets, of those that the core has.
    busy_clocks: f64,
}

#[derive(Debug, PartialEq, Serialize)]
struct DropRate {
    reason: String,
    packets: f64,
    total: u64,
}

impl Rates {
    fn between(before: &Reading, after: &Reading) -> Rates {
        let seconds = after.at.duration_since(before.at).as_secs_f64().max(1e-3);
        // A node that was restarted counts from 0 again.
        let per_second = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
        let interfaces = after.counters.interfaces.iter().filter_map(|new| {
            let old = before.counters.interfaces.iter().find(|old| old.name == new.name)?;
            Some(InterfaceRates {
                name: new.name.clone(),
                rx_packets: per_second(old.rx_packets, new.rx_packets),
                rx_bits: 8.0 * per_second(old.rx_bytes, new.rx_bytes),
                tx_packets: per_second(old.tx_packets, new.tx_packets),
                tx_bits: 8.0 * per_second(old.tx_bytes, new.tx_bytes),
                drops: per_second(old.rx_drops + old.tx_drops, new.rx_drops + new.tx_drops),
                punts: per_second(old.punts, new.punts),
            })
        });
        let workers = after.counters.workers.iter().filter_map(|new| {
            let old = before.counters.workers.iter().find(|old| old.worker == new.worker)?;
            Some(worker_rates(old, new, seconds))
        });
        let drops = after.drops.iter().map(|(reason, total)| {
            let packets = per_second(before.drops.get(reason).copied().unwrap_or(0), *total);
            DropRate { reason: reason.clone(), packets, total: *total }
        });
        Rates {
            seconds,
            interfaces: interfaces.collect(),
            workers: workers.collect(),
            drops: drops.collect(),
        }
    }

    fn table(&self, name: &str) -> String {
        let title = format!("{name}, over {:.1} s", self.seconds);
        let columns =
            ["interface", "rx packet/s", "rx bit/s", "tx packet/s", "tx bit/s", "drop/s", "to control/s"];
        let interfaces = self.interfaces.iter().map(|i| {
            let rates = [i.rx_packets, i.rx_bits, i.tx_packets, i.tx_bits, i.drops, i.punts];
            std::iter::once(i.name.clone()).chain(rates.map(rate)).collect()
        });
        let mut text = format!("{}\n\n", paint(Colour::Bold, &title));
        text += &output::table(&columns, &columns[1..], interfaces.collect());
        let columns = ["worker", "packet/s", "packets/vector", "clocks/packet", "busy clocks/s"];
        let workers = self.workers.iter().map(|w| {
            let figures = [format!("{:.1}", w.packets_per_vector), format!("{:.0}", w.clocks_per_packet)];
            let [per_vector, per_packet] = figures;
            vec![w.worker.to_string(), rate(w.packets), per_vector, per_packet, rate(w.busy_clocks)]
        });
        text += &format!("\n{}", output::table(&columns, &columns[1..], workers.collect()));
        if !self.drops.is_empty() {
            let columns = ["drop reason", "packet/s", "total"];
            let drops =
                self.drops.iter().map(|d| vec![d.reason.clone(), rate(d.packets), d.total.to_string()]);
            text += &format!("\n{}", output::table(&columns, &columns[1..], drops.collect()));
        }
        text
    }
}

fn worker_rates(old: &Worker, new: &Worker, seconds: f64) -> WorkerRates {
    let sum = |worker: &Worker, of: fn(&GraphNode) -> u64| worker.nodes.iter().map(of).sum::<u64>();
    let first = |worker: &Worker, of: fn(&GraphNode) -> u64| {
        worker.nodes.iter().find(|node| node.node == FIRST_NODE).map_or(0, of)
    };
    let packets = first(new, |n| n.packets).saturating_sub(first(old, |n| n.packets)) as f64;
    let vectors = first(new, |n| n.vectors).saturating_sub(first(old, |n| n.vectors)) as f64;
    let clocks = sum(new, |n| n.clocks).saturating_sub(sum(old, |n| n.clocks)) as f64;
    let ratio = |part: f64, whole: f64| if whole == 0.0 { 0.0 } else { part / whole };
    WorkerRates {
        worker: new.worker,
        packets: packets / seconds,
        packets_per_vector: ratio(packets, vectors),
        clocks_per_packet: ratio(clocks, packets),
        busy_clocks: clocks / seconds,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(at: Instant, packets: u64, dropped: u64) -> Reading {
        let counters = json!({
            "interfaces": [{"name": "eth0", "rx_packets": packets, "rx_bytes": packets * 100, "tx_packets": 0, "tx_bytes": 0,
                "rx_drops": dropped, "tx_drops": 0, "punts": 0}],
            "workers": [{"worker": 0, "nodes": [
                {"node": "ethernet-input", "packets": packets, "vectors": packets / 50, "clocks": packets * 10},
                {"node": "ip4-input", "packets": packets, "vectors": packets / 50, "clocks": packets * 20}]}],
        });
        let drops = BTreeMap::from([("ip4-no-route".to_owned(), dropped)]);
        Reading { at, counters: serde_json::from_value(counters).expect("the shape is right"), drops }
    }

    #[test]
    fn rates_are_per_second() {
        let now = Instant::now();
        let rates = Rates::between(&reading(now, 1000, 5), &reading(now + Duration::from_secs(2), 5000, 15));
        assert_eq!((rates.interfaces[0].rx_packets, rates.interfaces[0].rx_bits), (2000.0, 1_600_000.0));
        assert_eq!((rates.interfaces[0].drops, rates.drops[0].packets, rates.drops[0].total), (5.0, 5.0, 15));
        let worker = &rates.workers[0];
        assert_eq!((worker.packets, worker.packets_per_vector), (2000.0, 50.0));
        assert_eq!((worker.clocks_per_packet, worker.busy_clocks), (30.0, 60_000.0));
        let text = rates.table("gw1");
        let row = |name| {
            text.lines()
                .find(|line| line.starts_with(name))
                .map(|line| line.split_whitespace().collect::<Vec<_>>())
        };
        let eth0 = ["eth0", "2.00", "k", "1.60", "M", "0", "0", "5.0", "0"];
        assert_eq!(row("eth0"), Some(eth0.to_vec()), "{text}");
        assert_eq!(row("ip4-no-route"), Some(["ip4-no-route", "5.0", "15"].to_vec()), "{text}");
    }

    #[test]
    fn a_restart_is_no_negative_rate() {
        let now = Instant::now();
        let rates = Rates::between(&reading(now, 1000, 5), &reading(now + Duration::from_secs(1), 10, 0));
        assert_eq!((rates.interfaces[0].rx_packets, rates.workers[0].packets), (0.0, 0.0));
    }
}
