//! The `fairlead` command: manages appliances over their HTTP API, and runs the same dataplane as a Linux process.
//!
//! A reader's way through: [`cli`] is every command and flag; [`manage`] carries out what talks to a node, over
//! [`manage::client`] (HTTP) and [`manage::source`] (YAML and JSON with positions); [`output`] is how things are shown. [`policy`] answers questions
//! about network policies without a node.
//!
//! It does not keep state of its own besides a file of contexts, and decides nothing that the node decides:
//! validation here is the node's own `config` crate.

#![deny(unsafe_code)]

mod cli;
mod failure;
mod lb;
mod manage;
mod output;
mod policy;
mod run;

use std::process::ExitCode;

use clap::Parser;

use failure::Failure;

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    output::choose_colour(arguments.color);
    match manage::carry_out(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // `fairlead get routes | head` is not a failure.
        Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(failure) => {
            eprint!("{}", failure.report());
            failure.exit_code()
        }
    }
}
