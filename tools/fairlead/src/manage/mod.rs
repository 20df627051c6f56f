//! The commands that manage a node: one module each, over [`client`].

pub mod client;
pub mod context;
pub mod source;

mod apply;
mod flows;
mod get;
mod ipsec;
mod logs;
mod objects;
mod routes;
mod top;
mod trace;
pub mod view;

use std::io::{self, IsTerminal};

use clap::CommandFactory;
use serde_json::json;

use crate::cli::{Cli, Command, ConfigCommand, Format, Global};
use crate::failure::{Failure, Result};
use crate::output;
use client::Node;

/// Carries out one command.
pub fn carry_out(arguments: Cli) -> Result<()> {
    let global = &arguments.global;
    match arguments.command {
        Command::Apply(args) => apply::apply(&node(global)?, global.output, &args),
        Command::Delete(args) => objects::delete(&node(global)?, global.output, &args),
        Command::Confirm => apply::confirm(&node(global)?, global.output),
        Command::Rollback => apply::rollback(&node(global)?, global.output),
        Command::Config(ConfigCommand::Validate { file }) => apply::validate(&file),
        Command::Config(ConfigCommand::Convert { file }) => apply::convert(&file, global.output),
        Command::Context(command) => context::carry_out(global, command),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "fairlead", &mut io::stdout());
            Ok(())
        }
        Command::Version => version(global),
        Command::Status => get::status(&node(global)?, global.output),
        Command::Get(args) => get::get(&node(global)?, global.output, &args),
        Command::Crash => get::crash(&node(global)?, global.output, None),
        Command::Top(args) => top::top(&node(global)?, global.output, &args),
        Command::Trace(args) => trace::trace(&node(global)?, global.output, &args),
        Command::Flows(args) => flows::flows(&node(global)?, global.output, &args),
        Command::Logs(args) => logs::logs(&node(global)?, global.output, &args),
        Command::Lb(command) => crate::lb::carry_out(global.output, &command, || node(global)),
        Command::Routes(command) => routes::carry_out(&node(global)?, global.output, &command),
        Command::Ipsec(command) => ipsec::carry_out(&node(global)?, global.output, &command),
        Command::Policy(command) => crate::policy::carry_out(&command, global.output, || node(global)),
        Command::Run(args) => crate::run::run(&args, context::token(global)),
        Command::Save => save(&node(global)?, global.output),
        Command::Reboot { yes } => reboot(&node(global)?, global.output, yes),
    }
}

fn node(global: &Global) -> Result<Node> {
    Ok(Node::new(context::target(global)?))
}

fn save(node: &Node, format: Format) -> Result<()> {
    let answer = node.post("/v1/store")?;
    output::show(format, &answer, |_| "the running configuration is in the store\n".into())
}

fn reboot(node: &Node, format: Format, yes: bool) -> Result<()> {
    if !yes {
        if !io::stdin().is_terminal() {
            return Err(Failure::operation("say --yes to restart a node without being asked"));
        }
        eprint!("restart {}, and stop its traffic meanwhile? [y/N] ", node.name());
        let mut answer = String::new();
        let _ = io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failure::operation("nothing was done"));
        }
    }
    let answer = node.post("/v1/reboot")?;
    output::show(format, &answer, |_| format!("{} restarts\n", node.name()))
}

fn version(global: &Global) -> Result<()> {
    let mut versions = json!({"fairlead": env!("CARGO_PKG_VERSION")});
    if let Some(target) = context::find(global)? {
        versions["node"] = Node::new(target).get("/v1/status")?["version"].clone();
    }
    output::show(global.output, &versions, |versions| {
        let mut text = format!("fairlead {}\n", output::cell(&versions["fairlead"]));
        if let Some(node) = versions.get("node") {
            text.push_str(&format!("node     {}\n", output::cell(node)));
        }
        text
    })
}
