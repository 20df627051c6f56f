//! `fairlead run`: its flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Flags of `fairlead run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Configuration in YAML or JSON. Without it the store's is used, or else the first port asks for an address by DHCP
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Port, in the order of their names eth0, eth1, ...: tap:NAME makes a TAP device, af-packet:INTERFACE takes an interface of this host, memory:NAME is an end of a wire in memory
    #[arg(long = "port", value_name = "KIND:NAME")]
    pub ports: Vec<PortSpec>,
    /// Threads that move packets; each has a queue of every port that has so many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// Serve the API on this address of the host too
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub api: Option<SocketAddr>,
    /// Directory that keeps the saved configuration and the record of the last crash
    #[arg(long, value_name = "DIRECTORY")]
    pub state: Option<PathBuf>,
    /// Packet buffers, of 2.3 KiB each
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1024..=4_000_000))]
    pub buffers: u32,
    /// Implementation of AES-GCM: portable, aesni, vaes256-pclmul, vaes256 or vaes512 [default: the best of this CPU]
    #[arg(long, value_name = "NAME")]
    pub crypto: Option<crypto::gcm::Kernel>,
}

/// What a port stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSpec {
    /// A TAP device of this name, which may hold `%d`.
    Tap(String),
    /// An interface of the host.
    AfPacket(String),
    /// An end of the wire of this name in memory.
    Memory(String),
}

impl FromStr for PortSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<PortSpec, String> {
        match text.split_once(':') {
            Some((_, name)) if name.is_empty() || name.len() > 15 => {
                Err("the name of an interface or a wire has 1 to 15 characters".into())
            }
            Some(("tap", name)) => Ok(PortSpec::Tap(name.into())),
            Some(("af-packet", name)) => Ok(PortSpec::AfPacket(name.into())),
            Some(("memory", name)) => Ok(PortSpec::Memory(name.into())),
            _ => Err("give tap:NAME, af-packet:INTERFACE or memory:NAME".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_told_apart() {
        assert_eq!("tap:fl0".parse(), Ok(PortSpec::Tap("fl0".into())));
        assert_eq!("af-packet:enp1s0".parse(), Ok(PortSpec::AfPacket("enp1s0".into())));
        assert_eq!("memory:w".parse(), Ok(PortSpec::Memory("w".into())));
        for wrong in ["", "tap", "tap:", "tap:a-name-that-is-too-long", "dpdk:0"] {
            assert!(wrong.parse::<PortSpec>().is_err(), "{wrong}");
        }
    }
}
