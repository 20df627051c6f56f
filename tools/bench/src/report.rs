//! What a person and a program read of a measurement.

use crate::measure::Measurement;
use crate::policy;
use crate::workload::FRAME_BYTES;
use crate::{aead, esp, lb};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What figures of different machines are compared by.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Machine {
    /// Rate of the time stamp counter, in GHz.
    pub tsc_ghz: f64,
    /// Clocks of one addition that waits for the one before.
    pub clocks_per_addition: f64,
    /// Clocks that reading the time stamp counter takes.
    pub clocks_per_reading: f64,
    /// The thread was kept on one core.
    pub pinned: bool,
    /// The system lets us count core cycles and instructions.
    pub core_counters: bool,
}

/// The line before all others.
pub fn calibration_line(machine: &Machine) -> String {
    format!(
        "TSC {:.3} GHz, a dependent addition takes {:.3} clocks, reading the TSC {:.0}{}{}",
        machine.tsc_ghz,
        machine.clocks_per_addition,
        machine.clocks_per_reading,
        if machine.pinned { "" } else { ", thread not pinned" },
        if machine.core_counters { "" } else { ", no counters of core cycles and instructions here" },
    )
}

/// What one workload costs, in three lines.
pub fn text(measurement: &Measurement) -> String {
    let Measurement { workload, nodes, clocks, clocks_per_poll, packets_per_vector, mpps, .. } = measurement;
    let mut text = format!(
        "{:<28} {FRAME_BYTES} B  {:6.1} clocks per packet (median {:.1}, max {:.1})  {clocks_per_poll:6.0} per poll  {mpps:5.1} Mpps  {packets_per_vector:.0} packets per vector\n    {}",
        workload.name(),
        clocks.min,
        clocks.median,
        clocks.max,
        workload.about,
    );
    if measurement.table_bytes > 0 {
        let _ = write!(
            text,
            "; nodes of the table {:.1} MiB",
            measurement.table_bytes as f64 / f64::from(1 << 20)
        );
    }
    text += &line_of_nodes(nodes.iter().map(|(node, clocks)| (node.name(), *clocks)));
    if let Some((cycles, instructions)) = measurement.core {
        let _ = write!(text, "; with generator {cycles:.0} core cycles, {instructions:.0} instructions");
    }
    text.push('\n');
    text
}

/// Clocks of each node, as the line below a row.
pub(crate) fn line_of_nodes(nodes: impl Iterator<Item = (&'static str, f64)>) -> String {
    let nodes: Vec<String> = nodes.map(|(node, clocks)| format!("{node} {clocks:.1}")).collect();
    format!("\n    {}", nodes.join(", "))
}

#[derive(Serialize)]
struct Json<'a> {
    machine: &'a Machine,
    workloads: Vec<JsonWorkload>,
    esp: &'a [esp::Row],
    maglev: &'a [lb::Row],
    aead: &'a [aead::Row],
    policy: &'a [policy::Row],
}

#[derive(Serialize)]
struct JsonWorkload {
    name: String,
    about: &'static str,
    frame_bytes: usize,
    clocks_per_packet: f64,
    clocks_per_packet_median: f64,
    clocks_per_packet_max: f64,
    clocks_per_poll: f64,
    mpps: f64,
    packets_per_vector: f64,
    table_bytes: usize,
    nodes: BTreeMap<&'static str, f64>,
    core_cycles_with_generator: Option<f64>,
    instructions_with_generator: Option<f64>,
}

/// Everything, for programs.
///
/// # Errors
/// A value that JSON cannot express.
pub fn json(
    machine: &Machine,
    measurements: &[Measurement],
    esp: &[esp::Row],
    maglev: &[lb::Row],
    aead: &[aead::Row],
    policy: &[policy::Row],
) -> serde_json::Result<String> {
    let workload = |measurement: &Measurement| JsonWorkload {
        name: measurement.workload.name(),
        about: measurement.workload.about,
        frame_bytes: FRAME_BYTES,
        clocks_per_packet: measurement.clocks.min,
        clocks_per_packet_median: measurement.clocks.median,
        clocks_per_packet_max: measurement.clocks.max,
        clocks_per_poll: measurement.clocks_per_poll,
        mpps: measurement.mpps,
        packets_per_vector: measurement.packets_per_vector,
        table_bytes: measurement.table_bytes,
        nodes: measurement.nodes.iter().map(|(node, clocks)| (node.name(), *clocks)).collect(),
        core_cycles_with_generator: measurement.core.map(|(cycles, _)| cycles),
        instructions_with_generator: measurement.core.map(|(_, instructions)| instructions),
    };
    serde_json::to_string_pretty(&Json {
        machine,
        workloads: measurements.iter().map(workload).collect(),
        esp,
        maglev,
        aead,
        policy,
    })
}
