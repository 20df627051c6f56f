//! What a test gets to work with.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::gateway::{self, Hosts, Stations};
use lab::guest::{Guest, System};
use lab::{Nic, Vm, VmBuilder};

/// How long a machine may take from its start until its API answers. Emulation on a loaded machine is slow.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// How many lines of each log a failure shows.
const TAIL_LINES: usize = 40;

/// One run of one test.
#[derive(Debug)]
pub struct Experiment {
    name: String,
    image: PathBuf,
    logs: PathBuf,
    measured: Mutex<Vec<String>>,
}

impl Experiment {
    /// An experiment whose machines boot `image` and leave their logs in `logs`, which is emptied.
    pub(crate) fn new(name: &str, image: &Path, logs: PathBuf) -> Result<Self> {
        if logs.exists() {
            fs::remove_dir_all(&logs)?;
        }
        fs::create_dir_all(&logs)?;
        Ok(Self { name: name.to_owned(), image: image.to_owned(), logs, measured: Mutex::default() })
    }

    /// Where files of this experiment may be left.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The image under test.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// A machine that boots the image; `name` is unique within the experiment.
    pub fn machine(&self, name: &str) -> VmBuilder {
        Vm::builder(name, &self.logs).image(&self.image)
    }

    /// The gateway between two stations on frame sockets, booted and reachable. `shape` may change the machine, and
    /// `nic` the two interfaces.
    ///
    /// # Errors
    /// The sockets of the stations cannot be made, or the machine does not come up ([`Experiment::start`]).
    pub fn gateway_with(
        &self,
        shape: impl FnOnce(VmBuilder) -> VmBuilder,
        nic: impl Fn(Nic) -> Nic,
    ) -> Result<(Vm, Stations)> {
        let stations = Stations::new()?;
        let machine = stations.plug(shape(self.machine("gateway").config(gateway::config())), nic);
        let vm = self.start(machine)?;
        Ok((vm, stations))
    }

    /// The gateway as most tests want it.
    ///
    /// # Errors
    /// As [`Experiment::gateway_with`].
    pub fn gateway(&self) -> Result<(Vm, Stations)> {
        self.gateway_with(|machine| machine, |nic| nic)
    }

    /// The gateway between two network namespaces, booted and reachable.
    ///
    /// # Errors
    /// The namespaces cannot be made or given their devices, or the machine does not come up ([`Experiment::start`]).
    pub fn gateway_between_hosts(
        &self,
        shape: impl FnOnce(VmBuilder) -> VmBuilder,
        nic: impl Fn(Nic) -> Nic,
    ) -> Result<(Vm, Hosts)> {
        let hosts = Hosts::new()?;
        let machine = hosts.plug(shape(self.machine("gateway").config(gateway::config())), nic);
        let vm = self.start(machine)?;
        hosts.join()?;
        Ok((vm, hosts))
    }

    /// A guest with Debian's kernel in this machine, ready for scripts.
    ///
    /// # Errors
    /// As [`System::prepare`] and [`Guest::start`].
    pub fn guest(&self, machine: VmBuilder) -> Result<Guest> {
        Guest::start(&self.guest_system()?, machine)
    }

    /// What guests boot.
    ///
    /// # Errors
    /// As [`System::prepare`].
    pub fn guest_system(&self) -> Result<System> {
        // Beside the directories of the tests: all of them use the same.
        System::prepare(&self.logs.with_file_name("guest-system"))
    }

    /// A machine without an image; `name` is unique within the experiment.
    pub fn bare_machine(&self, name: &str) -> VmBuilder {
        Vm::builder(name, &self.logs)
    }

    /// Starts a machine with the gateway's token and waits until its API answers.
    ///
    /// # Errors
    /// QEMU does not start, the machine has no user-mode interface, or its API does not answer in time.
    pub fn start(&self, machine: VmBuilder) -> Result<Vm> {
        let vm = machine.start()?;
        vm.api(gateway::TOKEN)?.wait_until_healthy(BOOT_LIMIT).context("the node does not come up")?;
        Ok(vm)
    }

    /// Reports a figure: what was measured, with its unit.
    pub fn measured(&self, figure: impl AsRef<str>) {
        let mut measured = self.measured.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        measured.push(format!("{}: {}", self.name, figure.as_ref()));
    }

    /// What was reported.
    pub(crate) fn figures(&self) -> Vec<String> {
        self.measured.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// What a person needs who looks into a failure: the ends of the logs, and where the captures are.
    pub(crate) fn evidence(&self) -> String {
        let mut files: Vec<PathBuf> = fs::read_dir(&self.logs)
            .map_or_else(|_| Vec::new(), |files| files.flatten().map(|f| f.path()).collect());
        files.sort();
        let mut text = String::new();
        for file in files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("log") => text += &tail_of(&file),
                Some("pcap") => text += &format!("capture: {}\n", file.display()),
                _ => (),
            }
        }
        text
    }
}

fn tail_of(file: &Path) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return String::new();
    }
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    format!("---- end of {} ----\n{tail}\n", file.display())
}
