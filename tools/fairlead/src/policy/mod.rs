//! `fairlead policy`: what network policies mean, computed here from resources as users write them, or by a node ([`live`]).
//!
//! [`resources`] reads files and directories, [`flows`] the questions, and the `policy` crate answers.

mod flows;
mod live;
mod resources;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use policy::classifier::Classifier;
use policy::model::{Direction, Packet};
use policy::{Cluster, flow};
use serde::Serialize;
use serde_json::Value;

use crate::cli::Format;
use crate::failure::{Failure, Message, Result};
use crate::manage::client::Node;
use crate::output::{self, Colour, paint};
use flows::Flow;

/// `fairlead policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the node's endpoints with the policies that select them
    Endpoints {
        /// Only this one: `NAMESPACE/POD`, or a host endpoint
        name: Option<String>,
    },
    /// Show the node's policies with what each rule has decided
    Rules {
        /// Only policies of this name: `NAME` or `NAMESPACE/NAME`
        name: Option<String>,
    },
    /// Check policies without a node, and ask which flows they allow
    Test(TestArgs),
    /// Say what policies do with one flow, and why
    Explain(ExplainArgs),
    /// Say for all pods who reaches whom on a port
    Matrix(MatrixArgs),
}

/// `fairlead policy matrix`.
#[derive(Debug, Args)]
pub struct MatrixArgs {
    /// Files, or directories of them, as for `policy test`; left out, the node is asked
    #[arg(short, long = "file", num_args = 1.., value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Port and protocol, such as `443/tcp`; or a protocol without ports, such as `icmp`
    #[arg(long, value_name = "PORT/PROTOCOL")]
    pub port: String,
}

/// `fairlead policy explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Files, or directories of them, as for `policy test`; left out, the node is asked
    #[arg(short, long = "file", num_args = 1.., value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Who sends: `NAMESPACE/POD` or an address
    #[arg(long, value_name = "END")]
    pub from: String,
    /// Who receives: `NAMESPACE/POD` or an address
    #[arg(long, value_name = "END")]
    pub to: String,
    /// Port and protocol, such as `443/tcp`; or a protocol without ports, such as `icmp`
    #[arg(long, value_name = "PORT/PROTOCOL")]
    pub port: String,
}

/// `fairlead policy test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Files, or directories of them, in YAML or JSON: namespaces, pods, network sets, host endpoints, policies; `-` is standard input
    #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// File of one flow a line, such as {"from": "ns/pod", "to": "10.0.0.1", "protocol": "TCP", "port": 80}; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub flows: Option<PathBuf>,
    /// Answer in JSON, one object a line; the default where standard output is no terminal
    #[arg(long)]
    pub json: bool,
}

/// Carries out one command; `node` is asked for where there must be one.
pub fn carry_out(command: &PolicyCommand, format: Format, node: impl Fn() -> Result<Node>) -> Result<()> {
    match command {
        PolicyCommand::Endpoints { name } => live::endpoints(&node()?, format, name.as_deref()),
        PolicyCommand::Rules { name } => live::rules(&node()?, format, name.as_deref()),
        PolicyCommand::Explain(args) if args.files.is_empty() => live::explain(&node()?, format, args),
        PolicyCommand::Matrix(args) if args.files.is_empty() => live::matrix(&node()?, format, args),
        PolicyCommand::Test(args) => test(args, format),
        PolicyCommand::Explain(args) => explain(args, format),
        PolicyCommand::Matrix(args) => matrix(args, format),
    }
}

/// The answer about one flow.
#[derive(Serialize)]
struct Answer<'a> {
    verdict: &'static str,
    egress: &'static str,
    ingress: &'static str,
    /// What decided.
    rule: String,
    #[serde(rename = "egressRule")]
    egress_rule: String,
    #[serde(rename = "ingressRule")]
    ingress_rule: String,
    #[serde(flatten)]
    flow: &'a Flow,
}

fn test(args: &TestArgs, format: Format) -> Result<()> {
    let stdin = |path: &PathBuf| path.as_os_str() == "-";
    if args.files.iter().chain(&args.flows).filter(|path| stdin(path)).count() > 1 {
        return Err(Failure::operation("standard input can be read once only"));
    }
    let cluster = resources::read(&args.files)?;
    let Some(path) = &args.flows else {
        let model = &cluster.model;
        let policies: usize = model.tiers.iter().map(|tier| tier.policies.len()).sum();
        return output::emit(&format!(
            "{policies} policies and {} endpoints are valid\n",
            model.endpoints.len()
        ));
    };
    let asked = flows::read(path, &cluster)?;
    let classifier = compile(cluster)?;
    let json = args.json || format == Format::Json || !std::io::stdout().is_terminal();
    let mut text = String::new();
    let mut unexpected = Vec::new();
    for (line, flow, packet) in &asked {
        let judgement = flow::classify(&classifier, packet);
        let answer = answer(flow, &judgement);
        if flow.expect.as_deref().is_some_and(|expected| expected != answer.verdict) {
            unexpected.push(format!("{}:{line}: {} by {}", path.display(), answer.verdict, answer.rule));
        }
        text += &if json { line_of_json(&answer)? } else { line_of_text(&answer) };
    }
    output::emit(&text)?;
    if unexpected.is_empty() {
        return Ok(());
    }
    let message = Message::new(format!("{} of {} flows are not as expected", unexpected.len(), asked.len()));
    Err(Failure::Operation(message.details(unexpected)))
}

fn explain(args: &ExplainArgs, format: Format) -> Result<()> {
    let cluster = resources::read(&args.files)?;
    let flow = Flow::between(&args.from, &args.to, &args.port);
    let packet = flow.packet(&cluster).map_err(Failure::operation)?;
    let judgement = flow::classify(&compile(cluster)?, &packet);
    let answer = answer(&flow, &judgement);
    if format != Format::Table {
        let value = serde_json::to_value(&answer)
            .map_err(|error| Failure::operation(format!("cannot write JSON: {error}")))?;
        return output::show(format, &value, output::json);
    }
    let line = |end: &str, allow: bool, why: &str| format!("  {end:<8}  {:<5}  {why}\n", word(allow));
    output::emit(&format!(
        "{}{}{}",
        line_of_text(&answer),
        line("sender", judgement.egress.allow, &answer.egress_rule),
        line("receiver", judgement.ingress.allow, &answer.ingress_rule)
    ))
}

/// Rows send, columns receive.
fn matrix(args: &MatrixArgs, format: Format) -> Result<()> {
    let cluster = resources::read(&args.files)?;
    let ends = cluster.model.endpoints.iter().filter(|endpoint| !endpoint.addresses.is_empty());
    let ends: Vec<String> = ends.map(|endpoint| endpoint.name.clone()).collect();
    let packet = |from: &str, to: &str| Flow::between(from, to, &args.port).packet(&cluster);
    let mut packets = Vec::new();
    for from in &ends {
        for to in &ends {
            // Ends without addresses of the same version have no way to each other.
            packets.push(packet(from, to).ok());
        }
    }
    if let (Some(end), true) = (ends.first(), packets.iter().all(Option::is_none)) {
        let _ = packet(end, end).map_err(Failure::operation)?;
    }
    let classifier = compile(cluster)?;
    let reached = |packet: &Option<Packet>| packet.map(|packet| flow::classify(&classifier, &packet).allow());
    let reached: Vec<Option<bool>> = packets.iter().map(reached).collect();
    let rows = || ends.iter().zip(reached.chunks(ends.len().max(1)));
    if format != Format::Table {
        let row = |(from, row): (&String, &[Option<bool>])| {
            let cells =
                ends.iter().zip(row).filter_map(|(to, allow)| Some((to.clone(), word((*allow)?).into())));
            (from.clone(), Value::Object(cells.collect()))
        };
        return output::show(format, &Value::Object(rows().map(row).collect()), output::json);
    }
    let mark = |allow: &Option<bool>| match allow {
        Some(true) => ".".to_owned(),
        Some(false) => "X".to_owned(),
        None => "-".to_owned(),
    };
    let headings: Vec<&str> = ["from"].into_iter().chain(ends.iter().map(String::as_str)).collect();
    let cells = rows().map(|(from, row)| [from.clone()].into_iter().chain(row.iter().map(mark)).collect());
    output::emit(&output::table(&headings, &[], cells.collect()))
}

/// What decides for packets decides here.
fn compile(cluster: Cluster) -> Result<Classifier> {
    Classifier::new(cluster.model).map_err(|_| Failure::operation("no memory for the tables of addresses"))
}

fn word(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

fn answer<'a>(flow: &'a Flow, judgement: &flow::Judgement) -> Answer<'a> {
    let (direction, deciding) = judgement.deciding();
    let end = if direction == Direction::Egress { "sender" } else { "receiver" };
    Answer {
        verdict: word(judgement.allow()),
        egress: word(judgement.egress.allow),
        ingress: word(judgement.ingress.allow),
        rule: format!("{end}: {}", deciding.reason),
        egress_rule: judgement.egress.reason.to_string(),
        ingress_rule: judgement.ingress.reason.to_string(),
        flow,
    }
}

fn line_of_json(answer: &Answer<'_>) -> Result<String> {
    let mut line = serde_json::to_string(answer)
        .map_err(|error| Failure::operation(format!("cannot write JSON: {error}")))?;
    line.push('\n');
    Ok(line)
}

fn line_of_text(answer: &Answer<'_>) -> String {
    let colour = if answer.verdict == "allow" { Colour::Green } else { Colour::Red };
    let verdict = paint(colour, &format!("{:<5}", answer.verdict));
    format!("{verdict}  {}  ({})\n", answer.flow, answer.rule)
}
