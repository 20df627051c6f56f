//! The kept inputs, by the program that also mutates them.

use std::process::Command;

#[test]
fn every_kept_input_is_survived() {
    let status = Command::new(env!("CARGO_BIN_EXE_fuzz-targets")).arg("replay").status();
    assert!(status.expect("the program starts").success());
}
