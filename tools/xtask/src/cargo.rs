//! Cargo, run from the top of the workspace.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The top of the workspace.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// Where builds go.
pub fn target_directory() -> PathBuf {
    let set = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    workspace().join(set.unwrap_or_else(|| "target".into()))
}

/// A cargo command to be run at the top of the workspace.
pub fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let _ = command.args(arguments).current_dir(workspace());
    // What `cargo run` tells xtask about itself must not reach the crates that it builds.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            let _ = command.env_remove(name);
        }
    }
    command
}

/// Runs a command on this terminal; whether it succeeded.
pub fn run(mut command: Command) -> Result<bool> {
    let line = lab::process::command_line(&command);
    Ok(command.status().with_context(|| format!("cannot start `{line}`"))?.success())
}
