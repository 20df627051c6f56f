//! Fuzz targets: the kept inputs and some seconds of mutations on the stable toolchain, libFuzzer on a nightly one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cargo;

/// Mutations of one run of all tests, all targets together.
const MUTATE_SECONDS: u64 = 40;

/// Runs libFuzzer on one target, or on all one after the other.
#[derive(clap::Args)]
pub struct Fuzz {
    /// Target, by its name in tools/fuzz-targets; all of them without one
    target: Option<String>,
    /// Executions of each
    #[arg(long, default_value_t = 10_000_000)]
    runs: u64,
    /// End each target after this time, whatever it has run
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// The commands of the stable toolchain: everything kept, then mutations of it.
pub fn stable_commands() -> [Command; 2] {
    // A test of the whole workspace, so that crates have the features that they have been compiled with before.
    let kept = ["test", "--quiet", "--workspace", "--exclude", "qemu-tests", "--test", "kept"];
    let mut mutate = Command::new(cargo::target_directory().join("debug/fuzz-targets"));
    let _ = mutate.arg("mutate").arg(MUTATE_SECONDS.to_string()).current_dir(cargo::workspace());
    [cargo::command(kept), mutate]
}

/// Checks the format of libFuzzer's programs, which are a workspace of their own.
pub fn format_command() -> Result<Command> {
    let mut command = Command::new("rustfmt");
    let _ = command.args(["--check", "--edition", "2024"]).current_dir(cargo::workspace());
    for entry in fs::read_dir(cargo::workspace().join("fuzz/fuzz_targets"))? {
        let _ = command.arg(entry?.path());
    }
    Ok(command)
}

impl Fuzz {
    /// Runs until a find, or until all executions are done; whether there was no find.
    pub fn run(self) -> Result<bool> {
        ensure_cargo_fuzz()?;
        let targets = match self.target {
            Some(target) => vec![target],
            None => all()?,
        };
        for target in &targets {
            if !cargo::run(libfuzzer(target, self.runs, self.seconds)?)? {
                println!(
                    "{target}: a find; its input is in fuzz/artifacts/{target}, and belongs into fuzz/corpus/{target} with its mend"
                );
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Inputs go to a directory of the build, so that the kept corpus stays small; it is where they start from.
fn libfuzzer(target: &str, runs: u64, seconds: Option<u64>) -> Result<Command> {
    let found = cargo::target_directory().join("fuzz-corpus").join(target);
    fs::create_dir_all(&found)?;
    let unpack = ["run", "--quiet", "--package", "fuzz-targets", "--", "unpack", target];
    let mut unpack = cargo::command(unpack);
    let _ = unpack.arg(&found);
    if !cargo::run(unpack)? {
        bail!("cannot read the kept inputs of {target}");
    }
    let mut command = Command::new("cargo");
    // Watching every comparison, and weighing inputs by how rare their features are, both cost more than the code under
    // test, and the kept inputs have the words that matter.
    let options = ["--debug-assertions", "--sanitizer", "none", "--no-trace-compares"];
    let _ = command.args(["+nightly", "fuzz", "run"]).args(options).arg(target);
    let _ = command.arg(found).arg("--").arg(format!("-runs={runs}")).args(["-timeout=20", "-entropic=0"]);
    let _ = command.arg(format!("-max_len={}", max_bytes(target)));
    let _ = command.args(dictionary(target).map(|file| format!("-dict={}", file.display())));
    let _ = command.args(seconds.map(|seconds| format!("-max_total_time={seconds}")));
    // The toolchain that runs xtask must not be inherited by the one that is asked for.
    let _ = command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").current_dir(cargo::workspace());
    let _ = command.env("CARGO_TARGET_DIR", cargo::target_directory().join("fuzz"));
    Ok(command)
}

/// Words that inputs of a target are made of, if they are made of words.
fn dictionary(target: &str) -> Option<PathBuf> {
    let name = match target {
        "object" | "resources" => "objects",
        other => other,
    };
    Some(cargo::workspace().join("fuzz/dictionaries").join(name)).filter(|file| file.exists())
}

/// The longest input: what is longer says nothing new, but takes longer.
fn max_bytes(target: &str) -> usize {
    match target {
        "frame" | "node" | "discovery" | "esp" | "object" | "resources" | "tunnels" => 2048,
        "flows" | "rewrite" | "pci" | "conversation" => 512,
        "selector" | "command_line" | "crash_record" => 256,
        "http" | "config_json" | "store_slots" => 4096,
        _ => 1024,
    }
}

fn all() -> Result<Vec<String>> {
    let mut list = cargo::command(["run", "--quiet", "--package", "fuzz-targets", "--", "list"]);
    let output = list.output().context("cannot list the fuzz targets")?;
    if !output.status.success() {
        bail!("cannot list the fuzz targets: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

fn ensure_cargo_fuzz() -> Result<()> {
    let minute = Duration::from_secs(60);
    let works = |command: &mut Command| {
        lab::process::run(command.env_remove("RUSTUP_TOOLCHAIN"), minute)
            .is_ok_and(|finished| finished.status.success())
    };
    if !works(Command::new("cargo").args(["+nightly", "--version"])) {
        bail!("libFuzzer needs a nightly toolchain: rustup toolchain install nightly --profile minimal");
    }
    if works(Command::new("cargo").args(["fuzz", "--version"])) {
        return Ok(());
    }
    println!("missing on this machine: cargo-fuzz; building it once into the cargo home (some minutes)");
    if !cargo::run(cargo::command(["install", "--locked", "--quiet", "cargo-fuzz"]))? {
        bail!("cargo-fuzz could not be installed");
    }
    Ok(())
}
