//! The real image under QEMU against real peers: `cargo test -p qemu-tests [NAME]`, after `cargo xtask image`.

mod boot;
mod crash;
mod lab_itself;

use std::path::Path;
use std::process::ExitCode;

use qemu_tests::{Test, main as run};

const TESTS: &[Test] = &[
    Test::with_hosts("lab_namespaces_reach_each_other", lab_itself::namespaces_reach_each_other),
    Test::new("boot_on_both_machine_types_and_many_cores", boot::on_both_machine_types_and_many_cores),
    Test::new("boot_on_an_old_processor", boot::on_an_old_processor),
    Test::new("boot_over_the_network", boot::over_the_network),
    Test::new("crash_every_kind_is_reported_and_survived", crash::every_kind_is_reported_and_survived),
];

fn main() -> ExitCode {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    run(scratch.parent().unwrap_or(scratch), TESTS)
}
