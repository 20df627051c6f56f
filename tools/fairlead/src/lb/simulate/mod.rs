//! `fairlead lb simulate`: how many connections break when backends and nodes come and go, counted on the tables that nodes
//! run; beside other ways to choose a backend.

mod choice;
mod nodes;
mod tables;

use std::fmt::Write;

use serde::Serialize;

use choice::Choices;
use nodes::Nodes;
use tables::TableRow;

use crate::output;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections.
    pub flows: u32,
    /// Backends.
    pub backends: u16,
    /// Slots of the table.
    pub table_size: maglev::TableSize,
    /// Seeds over which properties of tables are taken.
    pub seeds: u64,
}

/// What came out.
#[derive(Debug, Serialize)]
pub struct Report {
    flows: u32,
    backends: u16,
    table_slots: u32,
    events: Vec<EventRow>,
    seeds: u64,
    tables: Vec<TableRow>,
}

/// One event, and the connections that it broke although their backend lived.
#[derive(Debug, Serialize)]
struct EventRow {
    event: &'static str,
    /// Connections that ended because their backend did.
    ended: u64,
    /// Connection tables and Maglev: counted on [`balancer::Balancer`].
    fairlead: u64,
    /// Maglev without connection tables.
    maglev_alone: u64,
    /// A ring of consistent hashing, at first with as many points as the table has slots, with connection tables, and without.
    ring: Broken,
    /// The hash modulo the number of backends, likewise.
    modulo: Broken,
}

/// Connections broken, with a connection table on each node, and without.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Broken {
    with_tables: u64,
    alone: u64,
}

/// What happens to two nodes that share the connections.
#[derive(Clone, Copy, Debug)]
struct Event {
    name: &'static str,
    backends: Backends,
    /// Then one of the nodes dies, and the other one has all connections.
    node_dies: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backends {
    Stay,
    OneGoes,
    OneComes,
    /// One in a hundred, one at least.
    HundredthGoes,
}

const EVENTS: [Event; 6] = [
    Event { name: "a node dies", backends: Backends::Stay, node_dies: true },
    Event { name: "a backend goes", backends: Backends::OneGoes, node_dies: false },
    Event { name: "a backend comes", backends: Backends::OneComes, node_dies: false },
    Event { name: "a backend has gone, then a node dies", backends: Backends::OneGoes, node_dies: true },
    Event { name: "a backend has come, then a node dies", backends: Backends::OneComes, node_dies: true },
    Event {
        name: "1 % of backends have gone, then a node dies",
        backends: Backends::HundredthGoes,
        node_dies: true,
    },
];

impl Backends {
    /// The backends' numbers afterwards; those before are 0 to `count`.
    fn after(self, count: u16) -> Vec<u16> {
        match self {
            Backends::Stay => (0..count).collect(),
            Backends::OneGoes => (0..count).filter(|number| *number != count / 2).collect(),
            Backends::OneComes => (0..=count).collect(),
            Backends::HundredthGoes => (0..count).filter(|number| number % 100 != 50 % count).collect(),
        }
    }
}

/// Simulates.
pub fn simulate(settings: &Settings) -> Report {
    Report {
        flows: settings.flows,
        backends: settings.backends,
        table_slots: settings.table_size.slots(),
        events: EVENTS.iter().map(|event| simulate_event(settings, event)).collect(),
        seeds: settings.seeds,
        tables: if settings.seeds > 0 { tables::measure(settings.seeds) } else { Vec::new() },
    }
}

fn simulate_event(settings: &Settings, event: &Event) -> EventRow {
    let before: Vec<u16> = (0..settings.backends).collect();
    let after = event.backends.after(settings.backends);
    let points = (settings.table_size.slots() / u32::from(settings.backends)).max(1);
    let choices = |backends: &[u16]| Choices::new(settings.table_size, points, backends);
    let (old, new) = (choices(&before), choices(&after));
    let mut nodes = Nodes::new(settings, &before);
    nodes.establish(settings.flows, |flow| old.maglev(flow));
    nodes.change(&after);
    let lives: Vec<bool> = (0..settings.backends).map(|number| after.contains(&number)).collect();
    let was = |flow| Some(old.maglev(flow)).filter(|was| lives[usize::from(*was)]);
    let fairlead = nodes.broken(settings.flows, event.node_dies, was);

    let mut row = EventRow {
        event: event.name,
        ended: 0,
        fairlead,
        maglev_alone: 0,
        ring: Broken::default(),
        modulo: Broken::default(),
    };
    for flow in 0..settings.flows {
        // Who has a connection table loses it only for the connections of the node that dies.
        let forgotten = event.node_dies && nodes::home(flow) == nodes::DYING;
        row.ended += u64::from(!lives[usize::from(old.maglev(flow))]);
        let broken = |was: u16, is: u16| u64::from(lives[usize::from(was)] && was != is);
        row.maglev_alone += broken(old.maglev(flow), new.maglev(flow));
        let ring = broken(old.ring(flow), new.ring(flow));
        let modulo = broken(old.modulo(flow), new.modulo(flow));
        row.ring.alone += ring;
        row.modulo.alone += modulo;
        row.ring.with_tables += ring * u64::from(forgotten);
        row.modulo.with_tables += modulo * u64::from(forgotten);
    }
    row
}

/// The report in words and tables.
pub fn text(report: &Report) -> String {
    let Report { flows, backends, table_slots, seeds, .. } = report;
    let mut text = format!(
        "{flows} connections through two nodes to {backends} backends, tables of {table_slots} slots\n\
         connections broken although their backend lives:\n\n"
    );
    let columns =
        ["ended", "fairlead", "Maglev alone", "ring + table", "ring alone", "modulo + table", "modulo alone"];
    let headings: Vec<&str> = ["event"].into_iter().chain(columns).collect();
    let share = |count: u64| match count {
        0 => "0".to_owned(),
        count => format!("{count} ({:.3} %)", count as f64 * 100.0 / f64::from(*flows)),
    };
    let row = |row: &EventRow| {
        let EventRow { ended, fairlead, maglev_alone, ring, modulo, .. } = *row;
        let counts =
            [ended, fairlead, maglev_alone, ring.with_tables, ring.alone, modulo.with_tables, modulo.alone];
        [row.event.to_owned()].into_iter().chain(counts.map(share)).collect()
    };
    text.push_str(&output::table(&headings, &columns, report.events.iter().map(row).collect()));
    if report.tables.is_empty() {
        return text;
    }
    let _ = write!(text, "\ntables over {seeds} seeds; largest share over the mean one (worst seed):\n\n");
    let columns = [
        "Maglev",
        "ring",
        "rendezvous",
        "paper: Maglev / ring / rendezvous",
        "moved, one goes",
        "1 % go",
        "one comes",
    ];
    let headings: Vec<&str> = ["slots", "backends"].into_iter().chain(columns).collect();
    let rows = report.tables.iter().map(TableRow::cells).collect();
    text.push_str(&output::table(&headings, &headings, rows));
    text.push_str(
        "\nmoved: slots of backends that stay, to another one (mean). The paper: Eisenbud et al., NSDI 2016, section 5.3.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_tables_and_maglev_break_only_what_is_forgotten_and_moved() {
        let table_size = maglev::TableSize::new(4099).unwrap();
        let settings = Settings { flows: 20_000, backends: 10, table_size, seeds: 1 };
        for event in &EVENTS {
            let row = simulate_event(&settings, event);
            let changes = event.backends != Backends::Stay;
            assert_eq!(row.ended > 0, changes && event.backends != Backends::OneComes, "{row:?}");
            assert_eq!(row.fairlead > 0, changes && event.node_dies, "{row:?}");
            assert!(row.fairlead <= row.maglev_alone, "{row:?}");
            assert!(row.modulo.alone >= row.maglev_alone, "{row:?}");
            if changes && event.node_dies {
                assert!(row.fairlead * 5 < row.modulo.with_tables, "{row:?}");
            }
        }
    }
}
