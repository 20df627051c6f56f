//! `fairlead lb`: the load balancer's tables.

mod files;
mod plan;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::Format;
use crate::failure::Result;

/// `fairlead lb`.
#[derive(Debug, Subcommand)]
pub enum LbCommand {
    /// Show the table shares of services, and what a change of them would move, without a node
    Plan(PlanArgs),
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

/// Carries out one command.
pub fn carry_out(format: Format, command: &LbCommand) -> Result<()> {
    match command {
        LbCommand::Plan(args) => plan::plan(if args.json { Format::Json } else { format }, args),
    }
}
