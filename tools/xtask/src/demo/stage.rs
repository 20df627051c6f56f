//! What acts are played on: the booted node, a host on each side, the API.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::gateway::{self, Hosts, Stations};
use lab::{Api, Nic, Vm, host};

/// How long the node may take until its API answers.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// What is set up.
pub const PICTURE: &str = "
  left host  10.1.0.2        +--------------------+        right host  10.2.0.2
  2001:db8:1::2       -------| eth1  Fairlead eth2|-------        2001:db8:2::2
                             +--------eth0--------+
                                       | management API
";

/// The hosts at the ends of the two wires.
#[derive(Debug)]
pub enum Ends {
    /// Linux network namespaces with real programs in them.
    Hosts(Hosts),
    /// Stations on frame sockets.
    Stations(Stations),
}

/// A booted node between two hosts.
#[derive(Debug)]
pub struct Stage {
    vm: Vm,
    api: Api,
    ends: Ends,
}

impl Stage {
    /// Boots the image in `target` between two hosts.
    pub fn set(target: &Path) -> Result<Self> {
        let logs = target.join("demo");
        let machine = Vm::builder("node", &logs)
            .image(&target.join("image/fairlead.elf"))
            .config(gateway::config())
            .smp(2);
        let (machine, ends) = if host::can_make_hosts() {
            let hosts = Hosts::new()?;
            (hosts.plug(machine, Nic::without_capture), Ends::Hosts(hosts))
        } else {
            let stations = Stations::new()?;
            (stations.plug(machine, Nic::without_capture), Ends::Stations(stations))
        };
        let vm = machine.start()?;
        if let Ends::Hosts(hosts) = &ends {
            hosts.join()?;
        }
        let api = vm.api(gateway::TOKEN)?;
        if let Err(error) = api.wait_until_healthy(BOOT_LIMIT) {
            return Err(error)
                .with_context(|| format!("the node does not come up:\n{}", vm.console().tail()));
        }
        Ok(Self { vm, api, ends })
    }

    /// The machine.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Its management API.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The hosts.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }
}
