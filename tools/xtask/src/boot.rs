//! `cargo xtask boot`: the image in the foreground, its console on this terminal.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use lab::{Nic, Vm};
use serde_json::Value;

use crate::packages::{self, Program};
use crate::{cargo, image};

/// Where a node's API is unless its configuration says otherwise.
const NODE_PORT: u16 = 80;

/// What to boot, and how.
#[derive(Args)]
pub struct Boot {
    /// Configuration of the node, a YAML or JSON file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Interfaces in order: tap:NAME, dgram:LOCAL,REMOTE (socket paths) or user [default: user]
    #[arg(long = "nic", value_name = "NIC")]
    nics: Vec<String>,
    /// Cores
    #[arg(long, default_value_t = 2, value_name = "N")]
    smp: u16,
    /// Memory in MiB
    #[arg(long = "mem", default_value = "256", value_parser = memory_mib, value_name = "SIZE")]
    memory_mib: u32,
    /// Port of localhost where the management API appears, through the first `user` interface [default: a free one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    api_port: Option<u16>,
    /// Word for the kernel command line
    #[arg(long = "append", value_name = "WORD")]
    words: Vec<String>,
    /// Boot the image that is quick to build
    #[arg(long)]
    dev: bool,
    /// Arguments for QEMU itself
    #[arg(last = true, value_name = "QEMU ARGS")]
    qemu: Vec<String>,
}

impl Boot {
    /// Becomes QEMU; returns only if that fails.
    pub fn run(self) -> Result<()> {
        // What is wrong with the command is said before anything is built.
        let config = self.config.as_deref().map(read_config).transpose()?;
        let node_port = config.as_ref().map_or(NODE_PORT, api_port_of);
        let (nics, api_port) = nics(self.nics, self.api_port, node_port)?;
        packages::ensure(&[Program::Qemu])?;
        let image = image::build(if self.dev { image::Profile::Dev } else { image::Profile::Release })?;
        let logs = cargo::target_directory().join("boot");
        std::fs::create_dir_all(&logs)?;
        let mut builder = Vm::builder("boot", &logs).image(&image).smp(self.smp).memory_mib(self.memory_mib);
        if let Some(config) = config {
            builder = builder.config(config);
        }
        for word in &self.words {
            builder = builder.argument(word);
        }
        for nic in nics {
            builder = builder.nic(nic.without_capture());
        }
        if let Some(port) = api_port {
            println!("management API: http://127.0.0.1:{port}");
        }
        println!("console follows; Ctrl-A X ends");
        let mut command = Command::new("qemu-system-x86_64");
        let _ = command.args(builder.qemu_arguments()?).args(["-serial", "mon:stdio"]).args(self.qemu);
        bail!("cannot start QEMU: {}", command.exec())
    }
}

/// A configuration, checked by the node's own rules.
fn read_config(path: &Path) -> Result<Value> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    // YAML contains JSON.
    let config: Value = serde_saphyr::from_str(&text).with_context(|| name.to_string())?;
    match config::parse(config.to_string().as_bytes()) {
        Ok(_) => Ok(config),
        Err(problems) => {
            let faults: Vec<String> = problems.iter().map(ToString::to_string).collect();
            bail!("{name} is not a valid configuration\n  {}", faults.join("\n  "))
        }
    }
}

/// The interfaces that the command line names, and the port of localhost that leads to the API: through one of them only,
/// the first in QEMU's own network.
fn nics(names: Vec<String>, api_port: Option<u16>, node_port: u16) -> Result<(Vec<Nic>, Option<u16>)> {
    let names = if names.is_empty() { vec!["user".to_owned()] } else { names };
    let first_user = names.iter().position(|name| name == "user");
    let api_port = match (first_user, api_port) {
        (Some(_), None) => Some(free_port()?),
        (None, Some(_)) => {
            bail!("--api-port leads through an interface in QEMU's own network: add --nic user")
        }
        (_, port) => port,
    };
    let nic = |(index, name): (usize, &String)| {
        let forward = api_port.filter(|_| first_user == Some(index)).map(|port| (port, node_port));
        parse_nic(name, forward)
    };
    Ok((names.iter().enumerate().map(nic).collect::<Result<_>>()?, api_port))
}

/// The port that the node's API has by this configuration.
fn api_port_of(config: &Value) -> u16 {
    config["api"]["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(NODE_PORT)
}

/// An interface; `forward` is the port of localhost where the API appears through it, and the API's own.
fn parse_nic(text: &str, forward: Option<(u16, u16)>) -> Result<Nic> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    match kind {
        "user" if text == kind => Ok(match forward {
            Some((api_port, node_port)) => Nic::user_to(api_port, node_port),
            None => Nic::user_unreachable(),
        }),
        "tap" if !rest.is_empty() => Ok(Nic::tap(rest)),
        "dgram" => {
            let (local, remote) =
                rest.split_once(',').context("dgram wants two socket paths: LOCAL,REMOTE")?;
            Ok(Nic::dgram(local, remote))
        }
        _ => bail!("`{text}` is none of tap:NAME, dgram:LOCAL,REMOTE, user"),
    }
}

/// `64`, `64M` or `1G` in MiB.
fn memory_mib(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let mib = number.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    mib.filter(|mib| *mib > 0).ok_or_else(|| "a size is a number of MiB, or ends in M or G".to_owned())
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!((memory_mib("64"), memory_mib("64M"), memory_mib("2G")), (Ok(64), Ok(64), Ok(2048)));
        for wrong in ["", "0", "M", "-1", "1T", "9999999G"] {
            assert!(memory_mib(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_port_for_the_api_needs_an_interface_that_it_leads_through() {
        let taps = || vec!["tap:t0".to_owned()];
        assert!(nics(taps(), Some(8080), 80).unwrap_err().to_string().contains("--nic user"));
        assert_eq!(nics(taps(), None, 80).unwrap().1, None);
        assert_eq!(nics(Vec::new(), Some(8080), 80).unwrap().1, Some(8080));
    }

    #[test]
    fn a_configuration_is_checked_before_anything_is_booted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "interfaces:\n  - name: eth0\n    mtu: 20\n").unwrap();
        let fault = read_config(file.path()).unwrap_err().to_string();
        assert!(fault.contains("/interfaces/0/mtu: "), "{fault}");
        std::fs::write(file.path(), "hostname: gw1\n").unwrap();
        assert_eq!(read_config(file.path()).unwrap()["hostname"], "gw1");
    }

    #[test]
    fn interfaces_are_understood_or_refused() {
        for right in ["user", "tap:t0", "dgram:/a,/b"] {
            assert!(parse_nic(right, None).is_ok(), "{right}");
        }
        for wrong in ["tap:", "tap", "user:", "user:1", "dgram:/a", "", "vde:x"] {
            assert!(parse_nic(wrong, Some((1, 80))).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_port_of_localhost_leads_to_where_the_configuration_puts_the_api() {
        assert_eq!(api_port_of(&serde_json::json!({ "hostname": "gw" })), 80);
        assert_eq!(api_port_of(&serde_json::json!({ "api": { "port": 8443 } })), 8443);
        let arguments = |forward| {
            let nic = parse_nic("user", forward).unwrap();
            Vm::builder("boot", std::path::Path::new(".")).nic(nic).qemu_arguments().unwrap().join(" ")
        };
        let first = arguments(Some((9000, 8443)));
        assert!(first.contains("user,id=net0,hostfwd=tcp:127.0.0.1:9000-10.0.2.15:8443"), "{first}");
        let second = arguments(None);
        assert!(second.contains("user,id=net0 ") && !second.contains("hostfwd"), "{second}");
    }
}
