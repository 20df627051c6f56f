//! Feeds the fuzz targets on the stable toolchain: the kept corpus, and mutations of it for some seconds.
#![forbid(unsafe_code)]

use std::panic;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use fuzz_targets::corpus::{self, Input};
use fuzz_targets::mutate::Mutator;
use fuzz_targets::{TARGETS, Target};

/// Longer than any input may take, on the slowest machine.
const HANG: Duration = Duration::from_secs(20);

/// Feeds the fuzz targets on the stable toolchain.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the names of all targets
    List,
    /// Run every kept input
    Replay {
        /// Only these targets
        targets: Vec<String>,
    },
    /// Run mutations of kept inputs
    Mutate {
        /// Time for all targets together
        seconds: u64,
        /// Only these targets
        targets: Vec<String>,
        /// The same seed makes the same inputs
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Write every kept input to a file of its own, as libFuzzer reads them
    Unpack {
        /// The target
        target: String,
        /// Where to
        directory: PathBuf,
    },
    /// Run one file, such as a find
    Run {
        /// The target
        target: String,
        /// The file
        file: PathBuf,
    },
}

/// The input that runs, for the record that a panic leaves.
static CURRENT: Mutex<Option<(&'static str, Vec<u8>)>> = Mutex::new(None);
/// How many inputs have run, for the watchdog.
static EXECUTIONS: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    record_finds();
    match arguments.command {
        Command::List => TARGETS.iter().for_each(|target| println!("{}", target.name)),
        Command::Replay { targets } => replay(&chosen(&targets)?)?,
        Command::Mutate { seconds, targets, seed } => {
            mutate(&chosen(&targets)?, Duration::from_secs(seconds), seed)?;
        }
        Command::Unpack { target, directory } => {
            for (index, input) in corpus::load(&target)?.iter().enumerate() {
                let file = directory.join(format!("kept-{index}"));
                std::fs::write(&file, &input.data)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
        Command::Run { target, file } => {
            let data = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            for target in chosen(&[target])? {
                execute(target, &data);
            }
        }
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    names
        .iter()
        .map(|name| fuzz_targets::target(name).with_context(|| format!("there is no target {name}")))
        .collect()
}

fn replay(targets: &[&'static Target]) -> Result<()> {
    for target in targets {
        let inputs = corpus::load(target.name)?;
        inputs.iter().for_each(|input| execute(target, &input.data));
        println!("{:16} {:>9} kept inputs", target.name, inputs.len());
    }
    Ok(())
}

fn mutate(targets: &[&'static Target], time: Duration, seed: u64) -> Result<()> {
    let share = time / targets.len().max(1) as u32;
    for target in targets {
        let inputs = corpus::load(target.name)?;
        let executions = mutate_one(target, &inputs, share, seed);
        if executions == 0 {
            bail!("{}: no input ran within {share:?}", target.name);
        }
        println!("{:16} {executions:>9} mutated inputs, seed {seed}", target.name);
    }
    Ok(())
}

fn mutate_one(target: &'static Target, inputs: &[Input], time: Duration, seed: u64) -> u64 {
    let mut mutator = Mutator::new(seed);
    let start = Instant::now();
    let mut executions = 0;
    let mut data = Vec::new();
    while start.elapsed() < time {
        let (one, other) = (&inputs[mutator.below(inputs.len())], &inputs[mutator.below(inputs.len())]);
        data.clone_from(&one.data);
        mutator.change(&mut data, &other.data);
        execute(target, &data);
        executions += 1;
    }
    executions
}

fn execute(target: &'static Target, data: &[u8]) {
    if let Ok(mut current) = CURRENT.lock() {
        let (name, kept) = current.get_or_insert((target.name, Vec::new()));
        *name = target.name;
        kept.clear();
        kept.extend_from_slice(data);
    }
    (target.run)(data);
    let _ = EXECUTIONS.fetch_add(1, Ordering::Relaxed);
}

/// Has a panic, and an input that never ends, leave its input in a file, with the command that runs it again.
fn record_finds() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        keep_current("panics");
    }));
    let _ = std::thread::spawn(|| {
        let mut seen = u64::MAX;
        loop {
            std::thread::sleep(HANG);
            let now = EXECUTIONS.load(Ordering::Relaxed);
            if now == seen && CURRENT.lock().is_ok_and(|current| current.is_some()) {
                keep_current("hangs");
                std::process::exit(1);
            }
            seen = now;
        }
    });
}

fn keep_current(what: &str) {
    let Ok(current) = CURRENT.lock() else { return };
    let Some((target, data)) = &*current else { return };
    let file = std::env::temp_dir().join(format!("fairlead-fuzz-{target}-{}", std::process::id()));
    match std::fs::write(&file, data) {
        Ok(()) => eprintln!(
            "{target} {what} on {0}; again: cargo run -p fuzz-targets -- run {target} {0}",
            file.display()
        ),
        Err(error) => eprintln!("{target} {what} on {data:02x?}, which could not be kept: {error}"),
    }
}
