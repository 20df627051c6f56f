//! The real image under QEMU against real peers: `cargo test -p qemu-tests [NAME]`, after `cargo xtask image`.

mod boot;
mod lab_itself;

use std::path::Path;
use std::process::ExitCode;

use qemu_tests::{Test, main as run};

const TESTS: &[Test] = &[
    Test::with_hosts("lab_namespaces_reach_each_other", lab_itself::namespaces_reach_each_other),
    Test::new("boot_starts_in_64_mib", boot::starts_in_64_mib),
];

fn main() -> ExitCode {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    run(scratch.parent().unwrap_or(scratch), TESTS)
}
