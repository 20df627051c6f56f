//! Everything CI runs, step by step.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::outcome::{Outcome, last_lines};
use crate::packages::{self, Program};
use crate::{cargo, fuzz, image};

/// The longest that any step may take: one that hangs is ended and reported. The longest step takes ten minutes on two
/// quiet cores; slower machines are to finish it as well.
const STEP_LIMIT: Duration = Duration::from_secs(40 * 60);

/// What timeout(1) ends with when it had to end the command.
const ENDED_BY_TIMEOUT: i32 = 124;

/// One step of `cargo xtask test`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// Formatting
    Format,
    /// Clippy, with warnings denied
    Clippy,
    /// Unit tests, driver models and documentation examples
    Unit,
    /// Fuzz targets: the kept inputs, and some seconds of mutations of them
    Fuzz,
    /// Licences, bans, duplicate versions, advisories
    Deny,
    /// Documentation, with warnings denied
    Doc,
    /// The image, as it is shipped
    Image,
    /// The image under QEMU
    Qemu,
}

impl Step {
    /// In the order in which they are run: what fails soonest comes first.
    pub const ALL: &[Self] =
        &[Self::Format, Self::Clippy, Self::Unit, Self::Fuzz, Self::Deny, Self::Doc, Self::Image, Self::Qemu];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Clippy => "clippy",
            Self::Unit => "unit tests",
            Self::Fuzz => "fuzz targets",
            Self::Deny => "licences and bans",
            Self::Doc => "documentation",
            Self::Image => "image",
            Self::Qemu => "QEMU tests",
        }
    }

    /// Carries the step out, and ends it at the deadline.
    pub fn run(self, deadline: Instant) -> Result<Outcome> {
        let check = |command: &Command| check(self, command, deadline);
        let tests = |command: &Command| tests(self, command, deadline);
        let _ = limit(deadline)?;
        match self {
            Self::Format => {
                let workspace = check(&cargo::command(["fmt", "--all", "--check"]))?;
                if !workspace.failed.is_empty() {
                    return Ok(workspace);
                }
                let apart = check(&fuzz::format_command()?)?;
                Ok(Outcome { passed: workspace.passed + apart.passed, ..apart })
            }
            Self::Clippy => {
                let all = ["clippy", "--workspace", "--all-targets", "--features", "kernel/image", "--quiet"];
                check(cargo::command(all).args(["--", "-D", "warnings"]))
            }
            Self::Unit => {
                packages::ensure(&[Program::Qemu, Program::Ip])?;
                let all = ["test", "--workspace", "--exclude", "qemu-tests", "--no-fail-fast"];
                tests(&cargo::command(all))
            }
            Self::Fuzz => fuzz(deadline),
            Self::Deny => deny_until(deadline),
            Self::Doc => check(&doc_command(false)),
            Self::Image => {
                let build = |command: Command| {
                    let run = logged(self.name(), &command, deadline)?;
                    ensure!(run.succeeded, "{}", last_lines(&run.output, 100));
                    Ok(true)
                };
                let image = image::build_by(image::Profile::Release, build)?;
                image::check_size(&image).map(|()| Outcome::pass())
            }
            Self::Qemu => {
                packages::ensure(Program::ALL)?;
                // Of the whole workspace, so that crates have the features that they have been compiled with before.
                tests(&cargo::command(["test", "--workspace", "--test", "qemu", "--no-fail-fast"]))
            }
        }
    }
}

/// How long a command that is begun now may take.
fn limit(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    // timeout(1) is told seconds, and takes 0 for no limit.
    ensure!(left.as_secs() > 0, "not begun: the time for the whole run is over");
    Ok(left.min(STEP_LIMIT))
}

/// `cargo doc` of every crate of the workspace, warnings denied.
pub fn doc_command(open: bool) -> Command {
    let arguments = ["doc", "--workspace", "--no-deps"].into_iter().chain(open.then_some("--open"));
    let mut command = cargo::command(arguments);
    let _ = command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// cargo-deny on deny.toml. Advisories come from a database on the network: without it they are not checked.
pub fn deny() -> Result<Outcome> {
    deny_until(Instant::now() + STEP_LIMIT)
}

fn deny_until(deadline: Instant) -> Result<Outcome> {
    packages::ensure_cargo_deny()?;
    let offline = cargo::command(["deny", "check", "licenses", "bans", "sources"]);
    let checked = check(Step::Deny, &offline, deadline)?;
    if !checked.failed.is_empty() {
        return Ok(checked);
    }
    let fetched = logged("advisory database", &cargo::command(["deny", "fetch", "db"]), deadline)?;
    if !fetched.succeeded {
        let not_run = vec!["advisories (the advisory database cannot be reached)".to_owned()];
        return Ok(Outcome { not_run, ..checked });
    }
    let advisories = check(Step::Deny, &cargo::command(["deny", "check", "advisories"]), deadline)?;
    Ok(Outcome { passed: checked.passed + advisories.passed, ..advisories })
}

/// The fuzz targets on this toolchain; libFuzzer has a verb of its own.
fn fuzz(deadline: Instant) -> Result<Outcome> {
    let mut all = Outcome::default();
    for command in fuzz::stable_commands() {
        let one = check(Step::Fuzz, &command, deadline)?;
        all = Outcome { passed: all.passed + one.passed, ..one };
        if !all.failed.is_empty() {
            break;
        }
    }
    Ok(all)
}

/// A step that is one check.
fn check(step: Step, command: &Command, deadline: Instant) -> Result<Outcome> {
    let run = logged(step.name(), command, deadline)?;
    if run.succeeded {
        return Ok(Outcome::pass());
    }
    Ok(Outcome::fail(step.name(), last_lines(&run.output, 100)))
}

/// A step that is many tests.
fn tests(step: Step, command: &Command, deadline: Instant) -> Result<Outcome> {
    let run = logged(step.name(), command, deadline)?;
    Ok(Outcome::of_cargo_test(&run.output, run.succeeded))
}

struct Run {
    succeeded: bool,
    output: String,
}

/// Runs a command with all it prints going to target/xtask-logs/NAME.log.
fn logged(name: &str, command: &Command, deadline: Instant) -> Result<Run> {
    let limit = limit(deadline)?;
    let directory = cargo::target_directory().join("xtask-logs");
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{}.log", name.replace(' ', "-")));
    let log = fs::File::create(&path)?;
    let status = bounded(command, limit)
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| format!("cannot start `{}`", lab::process::command_line(command)))?;
    let mut output = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    if status.code() == Some(ENDED_BY_TIMEOUT) {
        output += &format!("\nerror: still running after {limit:.0?}; {}\n", path.display());
    }
    Ok(Run { succeeded: status.success(), output })
}

/// The same command under timeout(1), which ends all of its descendants when the limit or this process ends.
fn bounded(command: &Command, limit: Duration) -> Command {
    let mut bounded = Command::new("setpriv");
    let _ = bounded.args(["--pdeathsig", "TERM", "--", "timeout", "--kill-after=10"]);
    let _ = bounded.arg(limit.as_secs().to_string()).arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        let _ = bounded.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        let _ = match value {
            Some(value) => bounded.env(name, value),
            None => bounded.env_remove(name),
        };
    }
    bounded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_what_is_left_of_the_run_and_no_more_than_its_own_limit() {
        let now = Instant::now();
        assert_eq!(limit(now + 2 * STEP_LIMIT).unwrap(), STEP_LIMIT);
        assert!(limit(now + Duration::from_secs(60)).unwrap() <= Duration::from_secs(60));
        assert!(limit(now).unwrap_err().to_string().contains("not begun"));
        assert!(Step::Format.run(now).is_err());
    }

    #[test]
    fn a_command_is_ended_when_its_time_is_over() {
        let mut forever = Command::new("sleep");
        let _ = forever.arg("1000");
        let status = bounded(&forever, Duration::from_secs(1)).status().unwrap();
        assert_eq!(status.code(), Some(ENDED_BY_TIMEOUT));
    }
}
