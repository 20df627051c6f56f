//! A Linux network namespace: a host of its own on this machine, where real programs run.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{self, Finished};

/// The longest that one `ip` command may take.
const IP_LIMIT: Duration = Duration::from_secs(20);

/// What every namespace of this laboratory is called, before the number of the process that made it.
const PREFIX: &str = "fairlead-";

/// A namespace with nothing in it but its loopback interface. Dropping it removes it with all its devices.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one; `label` helps a person who looks at `ip netns`.
    ///
    /// # Errors
    /// `ip` or a setting of the kernel is refused, as it is without privileges.
    pub fn new(label: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}-{label}", std::process::id());
        let _ = ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        let _ = namespace.ip(&["link", "set", "lo", "up"])?;
        // Tests say which addresses there are and when they may be used.
        namespace.sysctl("net/ipv6/conf/default/accept_ra", "0")?;
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        Ok(namespace)
    }

    /// Removes namespaces that killed processes left behind.
    ///
    /// # Errors
    /// The namespaces cannot be listed.
    pub fn sweep() -> Result<()> {
        for line in ip(&["netns", "list"])?.lines() {
            let name = line.split_ascii_whitespace().next().unwrap_or_default();
            let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
                // Another run may be sweeping too.
                let _ = ip(&["netns", "del", name]);
            }
        }
        Ok(())
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program that will run in it, killed when the thread that started it ends.
    pub fn command(&self, program: &str) -> Command {
        let mut command = process::tethered("nsenter");
        let _ = command.args([&format!("--net=/run/netns/{}", self.name), "--", program]);
        command
    }

    /// Runs a program in it to its end, or kills it after `limit`.
    ///
    /// # Errors
    /// `words` is empty, or the program cannot be started or was killed; how it ended is no error.
    pub fn run(&self, words: &[&str], limit: Duration) -> Result<Finished> {
        let (program, arguments) = words.split_first().context("no program")?;
        process::run(self.command(program).args(arguments), limit)
    }

    /// Runs `ip` in it.
    ///
    /// # Errors
    /// `ip` fails: shows all it printed.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Writes a kernel setting of it (`net/ipv4/ip_forward`).
    ///
    /// # Errors
    /// There is no such setting, or it does not take the value.
    pub fn sysctl(&self, setting: &str, value: &str) -> Result<()> {
        let script = format!("echo {value} > /proc/sys/{setting}");
        self.run(&["sh", "-c", &script], IP_LIMIT)?.succeeded().map(drop)
    }

    /// Takes a device of the surrounding namespace, such as a machine's TAP, and brings it up with these addresses.
    ///
    /// # Errors
    /// There is no such device, or it does not take an address.
    pub fn adopt(&self, device: &str, addresses: &[&str]) -> Result<()> {
        let _ = ip(&["link", "set", device, "netns", &self.name])?;
        self.bring_up(device, addresses)
    }

    /// Brings a device of this namespace up with these addresses.
    ///
    /// # Errors
    /// There is no such device, or it does not take an address.
    pub fn bring_up(&self, device: &str, addresses: &[&str]) -> Result<()> {
        let _ = self.ip(&["link", "set", device, "up"])?;
        for address in addresses {
            // `nodad` is for IPv6; of IPv4 it changes nothing.
            let _ = self.ip(&["addr", "add", address, "dev", device, "nodad"])?;
        }
        Ok(())
    }

    /// Joins two namespaces by a cable whose ends are called `device` in both.
    ///
    /// # Errors
    /// `ip` refuses the cable, as it does where one of them has a device of this name.
    pub fn join(&self, other: &Self, device: &str) -> Result<()> {
        let peer = ["peer", "name", device, "netns", &other.name];
        self.ip(&[["link", "add", device, "type", "veth"].as_slice(), &peer].concat()).map(drop)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    process::run(Command::new("ip").args(arguments), IP_LIMIT)?.succeeded()
}
