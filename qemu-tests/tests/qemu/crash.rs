//! Crashes: each kind is reported, survived, and known to the next run.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_tests::Experiment;

const LIMIT: Duration = Duration::from_secs(60);

/// Every kind of crash that the command line can ask for, and what its report says.
const KINDS: &[(&str, &str)] = &[
    ("panic", "on purpose"),
    ("stack", "stack overflow"),
    ("read", "page fault reading 0x10:"),
    ("write", "page fault writing"),
    ("execute", "page fault executing"),
    ("double", "double fault"),
];

pub fn every_kind_is_reported_and_survived(experiment: &Experiment) -> Result<()> {
    for (kind, says) in KINDS {
        for core in [0, 1] {
            let name = format!("{kind}-{core}");
            let machine = experiment.machine(&name).smp(2).argument(&format!("crash={kind}@{core}"));
            let vm = machine.start()?;
            survived(&vm, says).with_context(|| format!("crash={kind}@{core}\n{}", vm.console().tail()))?;
        }
    }
    Ok(())
}

fn survived(vm: &lab::Vm, says: &str) -> Result<()> {
    let report = vm.console().wait_for(r"crash (.*)$", LIMIT)?;
    let expected = regex_lite::Regex::new(&format!("(?i){says}"))?;
    ensure!(expected.is_match(&report), "the report is \"{report}\"");
    let frame = vm.console().wait_for(r"crash +0 (0x[0-9a-f]+.*)$", LIMIT).context("no backtrace")?;
    // What is executed as code and is none has no function, and so no caller.
    if !report.contains("executing") {
        ensure!(frame.contains("kernel::"), "a frame without a function's name: {frame}");
        let _ = vm.console().wait_for(r"crash +1 0x[0-9a-f]+ .*\w::\w", LIMIT).context("no caller")?;
    }
    let _ = vm.console().wait_for(r"Fairlead \d", LIMIT).context("no restart")?;
    let _ = vm.console().wait_for(r"the run before crashed", LIMIT).context("the next run knows nothing")?;
    Ok(())
}
