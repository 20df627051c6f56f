//! `fairlead lb`: the load balancer's tables.

mod files;
mod live;
mod plan;
mod simulate;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use maglev::TableSize;

use crate::cli::{Format, TopArgs};
use crate::failure::{Failure, Result};
use crate::manage::client::Node;
use crate::output;

/// `fairlead lb`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LbArgs {
    #[command(subcommand)]
    command: Option<LbCommand>,
    #[command(flatten)]
    live: TopArgs,
}

/// A command of `fairlead lb`.
#[derive(Debug, Subcommand)]
pub enum LbCommand {
    /// Show the node's services with their backends, shares of the tables and counters
    Services {
        /// Only services whose namespace, name, address or backends contain this text
        filter: Option<String>,
    },
    /// Say which backend a flow gets that no worker knows yet, and why
    Explain {
        /// Protocol
        #[arg(value_parser = ["tcp", "udp", "sctp"])]
        protocol: String,
        /// Address and port of the client, such as `192.0.2.1:4000` or `[2001:db8::1]:4000`
        client: SocketAddr,
        /// Address and port of the service
        service: SocketAddr,
    },
    /// Show the table shares of services, and what a change of them would move, without a node
    Plan(PlanArgs),
    /// Count the connections that break when backends and nodes come and go, on this machine and with a node's own tables
    Simulate(SimulateArgs),
}

/// `fairlead lb simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Connections; each takes about a hundred bytes of memory
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub flows: u32,
    /// Backends of the service
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    pub backends: u16,
    /// Slots of its table, a prime
    #[arg(long, value_name = "SLOTS", default_value_t = TableSize::default().slots())]
    pub table_size: u32,
    /// Seeds over which properties of tables are taken, 0 for none
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub seeds: u64,
    /// The same as --output json
    #[arg(long)]
    pub json: bool,
}

/// `fairlead lb plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Services and endpoint slices in YAML or JSON: a file, a directory or `-` for standard input; repeat for several
    #[arg(short, long, value_name = "FILE", required = true)]
    pub file: Vec<PathBuf>,
    /// The same after a change; repeat for several
    #[arg(long, value_name = "FILE")]
    pub to: Vec<PathBuf>,
    /// Name of the Kubernetes node whose view to take, for Local policies and hints
    #[arg(long, value_name = "NAME")]
    pub on_node: Option<String>,
    /// Zone whose view to take, for hints
    #[arg(long, value_name = "NAME")]
    pub in_zone: Option<String>,
    /// The same as --output json
    #[arg(long)]
    pub json: bool,
}

/// Carries out one command; `node` is asked for where there must be one.
pub fn carry_out(format: Format, args: &LbArgs, node: impl Fn() -> Result<Node>) -> Result<()> {
    let Some(command) = &args.command else { return live::watch(&node()?, format, &args.live) };
    match command {
        LbCommand::Services { filter } => live::services(&node()?, format, filter.as_deref()),
        LbCommand::Explain { protocol, client, service } => {
            live::explain(&node()?, format, protocol, *client, *service)
        }
        LbCommand::Plan(args) => plan::plan(if args.json { Format::Json } else { format }, args),
        LbCommand::Simulate(args) => simulate(if args.json { Format::Json } else { format }, args),
    }
}

fn simulate(format: Format, args: &SimulateArgs) -> Result<()> {
    let table_size =
        TableSize::new(args.table_size).map_err(|error| Failure::operation(error.to_string()))?;
    if u32::from(args.backends) >= table_size.slots() {
        return Err(Failure::operation("there must be more slots than backends"));
    }
    let settings =
        simulate::Settings { flows: args.flows, backends: args.backends, table_size, seeds: args.seeds };
    let report = simulate::simulate(&settings);
    let value = serde_json::to_value(&report).map_err(|error| Failure::operation(error.to_string()))?;
    output::show(format, &value, |_| simulate::text(&report))
}
