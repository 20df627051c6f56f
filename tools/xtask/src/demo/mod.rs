//! `cargo xtask demo`: the image does its main job on real packets, for whoever sees Fairlead for the first time.
//!
//! [`Stage`] is the booted node between two hosts with the API open. An act ([`acts`]) shows one capability on it and
//! checks what it shows; a new capability adds an act to [`acts::ALL`]. [`tunnel`] and [`balancing`] have nodes of their own. `--once` plays all acts and prints the table
//! of their checks; otherwise [`live`] keeps traffic going and shows what happens.

mod acts;
mod balancing;
mod first_packet;
mod live;
mod policing;
mod stage;
mod tunnel;

use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use lab::{Netns, host, relay};

use crate::packages::{self, Program};
use crate::{cargo, image};
use stage::Stage;

/// Where the process outside a user namespace tells the one inside to offer the API.
const RELAY_SOCKET: &str = "FAIRLEAD_DEMO_RELAY";
/// The port of localhost at which it appears outside.
const RELAY_PORT: &str = "FAIRLEAD_DEMO_PORT";

/// How the demo is run.
#[derive(Args)]
pub struct Demo {
    /// Run the scenario once, print a table of checks, and fail if one of them does
    #[arg(long)]
    once: bool,
}

/// How a check of an act came out.
#[derive(Debug)]
pub struct Check {
    /// What was to be shown.
    pub what: String,
    /// The figure, what went wrong, or why it cannot be told here.
    pub measured: String,
    /// Whether it was.
    pub verdict: Verdict,
}

/// Whether what was to be shown was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was.
    Passed,
    /// It was not.
    Failed,
    /// This machine cannot show it.
    NotShown,
}

impl Verdict {
    /// For the table.
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Failed => "FAILED",
            Self::NotShown => "-",
        }
    }
}

impl Demo {
    /// Runs the demo; whether all checks passed.
    pub fn run(self) -> Result<bool> {
        if !host::in_user_namespace() {
            packages::ensure(Program::DEMO)?;
            let image = image::build(image::Profile::Release)?;
            println!("image: {} ({} KiB)", image.display(), image.metadata()?.len() / 1024);
            if !host::can_make_hosts() && host::user_namespaces_work() {
                println!("without root's capabilities: the two hosts live in a user namespace");
                return inside_user_namespace();
            }
        }
        if host::can_make_hosts() {
            Netns::sweep()?;
        } else {
            println!(
                "without root's capabilities or user namespaces: the two hosts are programs at frame sockets"
            );
        }
        let stage = Stage::set(&cargo::target_directory())?;
        let api = offered_api(&stage)?;
        println!("{}", stage::PICTURE);
        println!("API: {api}  (Authorization: Bearer {})", lab::gateway::TOKEN);
        println!("  curl -H 'Authorization: Bearer {}' {api}/v1/status\n", lab::gateway::TOKEN);
        if self.once { play_once(&stage) } else { live::show(&stage, &api).map(|()| true) }
    }
}

/// Plays every act and prints the table of their checks.
fn play_once(stage: &Stage) -> Result<bool> {
    let mut checks = Vec::new();
    for act in acts::ALL {
        println!("{} ...", act.title);
        checks.extend((act.play)(stage).unwrap_or_else(|error| vec![acts::check(act.title, Err(error))]));
    }
    println!("\n{}", table(&checks));
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let failed = count(Verdict::Failed);
    if failed > 0 {
        println!("end of the node's console:\n{}", stage.vm().console().tail());
    }
    print!("{} passed, {failed} failed", count(Verdict::Passed));
    match count(Verdict::NotShown) {
        0 => println!(),
        not_shown => println!(", {not_shown} not shown here"),
    }
    Ok(failed == 0)
}

fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.what.len()).max().unwrap_or(0);
    let row = |Check { what, measured, verdict }: &Check| {
        format!("{:<6}  {what:<width$}  {measured}\n", verdict.word())
    };
    checks.iter().map(row).collect()
}

/// Where a person reaches the API: the machine's own port, or what is outside the user namespace.
fn offered_api(stage: &Stage) -> Result<String> {
    let (Some(socket), Some(port)) = (std::env::var_os(RELAY_SOCKET), std::env::var_os(RELAY_PORT)) else {
        return Ok(stage.api().base().to_owned());
    };
    let address = stage.api().base().trim_start_matches("http://").to_owned();
    relay::unix_to_tcp(socket.as_ref(), address)?;
    Ok(format!("http://127.0.0.1:{}", port.to_string_lossy()))
}

/// Plays the demo in a user namespace. Its network is its own, so this process stays outside and hands requests to the
/// API in over a Unix socket.
fn inside_user_namespace() -> Result<bool> {
    let directory = tempfile::Builder::new().prefix("fairlead-demo-").tempdir()?;
    let socket = directory.path().join("api");
    let port = relay::tcp_to_unix(socket.clone())?;
    let mut again: Command = host::in_user_namespace_command()?;
    let _ = again.env(RELAY_SOCKET, &socket).env(RELAY_PORT, port.to_string());
    // Ctrl-C is for the demo inside; this process must outlive it to tidy up.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGINT, std::sync::Arc::default())?;
    Ok(again.status().context("cannot enter a user namespace")?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_shown_here_is_neither_good_nor_bad() {
        let checks = [
            acts::check("ping", Ok("0% lost".into())),
            acts::check("TCP", Err(anyhow::anyhow!("lost"))),
            acts::not_shown("policy", "it needs network namespaces"),
        ];
        let rows = [
            "ok      ping    0% lost\n",
            "FAILED  TCP     lost\n",
            "-       policy  not shown here: it needs network namespaces\n",
        ];
        assert_eq!(table(&checks), rows.concat());
    }
}
