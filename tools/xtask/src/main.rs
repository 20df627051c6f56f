//! One verb for each thing a contributor does: `cargo xtask VERB`.
//!
//! [`steps`] is the list of everything CI runs, [`suite`] runs it and sums it up, [`packages`] finds and installs
//! the programs of the machine that a verb needs, [`image`] builds what boots, [`boot`] boots it in the foreground, [`demo`] shows
//! what it does.
//! Nothing here is part of the product.

#![forbid(unsafe_code)]

mod boot;
mod cargo;
mod demo;
mod fuzz;
mod image;
mod outcome;
mod packages;
mod steps;
mod suite;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "One verb for each thing a contributor does.", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run everything that CI runs and sum it up, failures first
    Test {
        /// Run only these steps
        #[arg(value_enum)]
        steps: Vec<steps::Step>,
    },
    /// Show the image at its main job, on real packets, with a live view
    Demo(demo::Demo),
    /// Build the image, target/image/fairlead.elf
    Image {
        /// Quick to build rather than fast to run
        #[arg(long)]
        dev: bool,
    },
    /// Boot the image in the foreground, with its console on this terminal
    Boot(boot::Boot),
    /// Measure the dataplane: clocks per packet and node
    Bench {
        /// Arguments of the bench: workloads, --json FILE, --list
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// Run libFuzzer on the fuzz targets (needs a nightly toolchain)
    Fuzz(fuzz::Fuzz),
    /// Check licences, bans, duplicate versions, and advisories where the network allows
    Deny,
    /// Format all code
    Fmt {
        /// Change nothing, fail if something is not formatted
        #[arg(long)]
        check: bool,
    },
    /// Build the documentation of every crate; a warning is an error
    Doc {
        /// Open it in a browser
        #[arg(long)]
        open: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the verb found all in order.
fn run(verb: Verb) -> Result<bool> {
    match verb {
        Verb::Test { steps } => return suite::run(&steps),
        Verb::Image { dev } => {
            let image = image::build(if dev { image::Profile::Dev } else { image::Profile::Release })?;
            println!("{} ({} KiB)", image.display(), image.metadata()?.len() / 1024);
        }
        Verb::Demo(demo) => return demo.run(),
        Verb::Boot(boot) => boot.run()?,
        Verb::Bench { arguments } => {
            let run = ["run", "--quiet", "--release", "--package", "bench", "--"].map(String::from);
            let mut command = cargo::command(run.into_iter().chain(arguments));
            // Tables in pages of 2 MiB, as in the image.
            let _ = command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
            return cargo::run(command);
        }
        Verb::Fuzz(fuzz) => return fuzz.run(),
        Verb::Deny => return steps::deny().map(|outcome| outcome.print()),
        Verb::Fmt { check } => {
            let arguments = ["fmt", "--all"].into_iter().chain(check.then_some("--check"));
            return cargo::run(cargo::command(arguments));
        }
        Verb::Doc { open } => return cargo::run(steps::doc_command(open)),
    }
    Ok(true)
}
