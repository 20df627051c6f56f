//! Runs tests, with the command line and the output of Rust's own test harness.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use lab::host;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::Experiment;

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    name: &'static str,
    needs_namespaces: bool,
    mostly_waits: bool,
    body: fn(&Experiment) -> Result<()>,
}

impl Test {
    /// A test that any user can run.
    pub const fn new(name: &'static str, body: fn(&Experiment) -> Result<()>) -> Self {
        Self { name, needs_namespaces: false, mostly_waits: false, body }
    }

    /// A test with network namespaces and TAP devices: it needs root, or user namespaces that allow them.
    pub const fn with_hosts(name: &'static str, body: fn(&Experiment) -> Result<()>) -> Self {
        Self { name, needs_namespaces: true, mostly_waits: false, body }
    }

    /// A test that any user can run and that waits for time to pass: others are run beside it.
    pub const fn waiting(name: &'static str, body: fn(&Experiment) -> Result<()>) -> Self {
        Self { name, needs_namespaces: false, mostly_waits: true, body }
    }

    fn run(&self, target: &Path) -> (Result<Completion, Failed>, Vec<String>) {
        let image =
            std::env::var_os("FAIRLEAD_IMAGE").map_or_else(|| target.join("image/fairlead.elf"), Into::into);
        let logs = target.join("qemu-tests").join(self.name);
        let experiment = match Experiment::new(self.name, &image, logs) {
            Ok(experiment) => experiment,
            Err(error) => return (Err(format!("{error:#}").into()), Vec::new()),
        };
        let result = present(&image).and_then(|()| (self.body)(&experiment));
        let result = match result {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast::<NotRun>() {
                Ok(NotRun(reason)) => Ok(Completion::ignored_with(reason)),
                Err(error) => Err(format!("{error:#}\n{}", experiment.evidence()).into()),
            },
        };
        (result, experiment.figures())
    }
}

/// What a test gives as its error when it finds that this machine cannot show what is to be tested; the text says why.
#[derive(Debug)]
pub struct NotRun(pub String);

impl std::fmt::Display for NotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not run: {}", self.0)
    }
}

impl std::error::Error for NotRun {}

fn present(image: &Path) -> Result<()> {
    ensure!(image.exists(), "no image at {}: `cargo xtask image` builds it", image.display());
    Ok(())
}

/// Runs the tests that the command line chooses; `target` is cargo's target directory.
pub fn main(target: &Path, tests: &'static [Test]) -> ExitCode {
    match run(target, tests) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(target: &Path, tests: &'static [Test]) -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    if !arguments.list && !host::can_make_hosts() && host::user_namespaces_work() {
        let _ = host::enter_user_namespace()?;
    }
    let hosts_can_be_made = host::can_make_hosts();
    if !arguments.list && hosts_can_be_made {
        lab::Netns::sweep().context("cannot look for leftovers of earlier runs")?;
    }
    // One works at a time, for machines that share two processors spoil each other's figures; and one waits beside it.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let working = Arc::new(Mutex::new(()));
    let figures = Arc::new(Mutex::new(Vec::new()));
    let trials = tests.iter().map(|test| {
        let (target, figures, working) = (target.to_owned(), Arc::clone(&figures), Arc::clone(&working));
        let body = move || {
            if test.needs_namespaces && !hosts_can_be_made {
                return Ok(Completion::ignored_with("needs root, or user namespaces with TAP devices"));
            }
            let working =
                (!test.mostly_waits).then(|| working.lock().unwrap_or_else(PoisonError::into_inner));
            let (result, measured) = test.run(&target);
            drop(working);
            figures.lock().unwrap_or_else(PoisonError::into_inner).extend(measured);
            result
        };
        Trial::ignorable_test(test.name, body)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    for figure in figures.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("measured {figure}");
    }
    Ok(conclusion.exit_code())
}
