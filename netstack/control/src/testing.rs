//! A machine for tests.

use crate::beginning::{Beginning, PortAtStart};
use crate::platform::{
    BlockDevice, BlockError, Boot, BootStage, Core, CoreRole, Memory, Platform, SECTOR_BYTES, Sector,
};
use buffer::{MemoryControl, PortControl, PortInfo};
use dataplane::{Shared, Sleepless};
use fib::{Fib4Writer, Fib6Writer};
use router::{Limits, Port, Router};
use std::sync::{Arc, Mutex};

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What the test machine takes for the time: 2026-01-01.
pub(crate) const UNIX_NS: u64 = 1_767_225_600_000_000_000;

/// What outlives a restart, and what tests look at.
#[derive(Clone, Default)]
pub(crate) struct Machine(Arc<Mutex<Inside>>);

#[derive(Default)]
pub(crate) struct Inside {
    pub log: Vec<String>,
    pub level: config::LogLevel,
    pub crash: Option<String>,
    pub reboots: usize,
    pub disk: Option<Vec<Sector>>,
    /// Memory that something else has taken of the 64 MiB there are.
    pub taken_bytes: u64,
    random: u8,
}

impl Machine {
    /// A machine with a store.
    pub fn with_store() -> Self {
        let machine = Self::default();
        machine.inside().disk = Some(vec![[0; SECTOR_BYTES]; 256]);
        machine
    }

    /// A machine with a store that has room for objects.
    pub fn with_large_store() -> Self {
        let machine = Self::default();
        machine.inside().disk = Some(vec![[0; SECTOR_BYTES]; 8192 + 256]);
        machine
    }

    pub fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }

    pub fn platform(&self) -> Box<dyn Platform> {
        Box::new(TestPlatform { machine: self.clone(), disk: TestDisk(self.clone()) })
    }

    /// A node on this machine, with `eth0` and `eth1`.
    pub fn start(&self, boot: Boot) -> crate::node::Node {
        let (fib4, fib6) = (Fib4Writer::new().unwrap(), Fib6Writer::new().unwrap());
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, [1, 2], Box::new(Sleepless));
        let mut platform = self.platform();
        let saved = crate::node::load(&mut *platform);
        let mut ports = vec![port(0), port(1)];
        let router_port = |info: &PortInfo| Port { name: info.name.clone(), mac: info.mac };
        let router_ports: Vec<_> = ports.iter().map(|port| router_port(port.info())).collect();
        let router = Router::new(shared.clone(), fib4, fib6, &router_ports, Limits::default(), 1);
        let router = core::mem::ManuallyDrop::new(router);
        let at_start = ports.iter_mut().map(|port| PortAtStart::of(&mut **port, 0)).collect();
        let beginning = Beginning { router, saved, ports: at_start, now_ns: 0 };
        crate::node::Node::new(platform, shared, beginning.run(boot), ports, 0)
    }
}

/// The control handle of `eth0` and so on.
pub(crate) fn port(index: u8) -> Box<dyn PortControl> {
    let mut control = MemoryControl::new(format!("eth{index}"), [0x52, 0x54, 0, 0, 0, index], 9000);
    control.stats.rx_packets = 7;
    Box::new(control)
}

struct TestPlatform {
    machine: Machine,
    disk: TestDisk,
}

impl Platform for TestPlatform {
    fn version(&self) -> &str {
        "1.2.3"
    }

    fn random(&mut self, out: &mut [u8]) {
        let mut inside = self.machine.inside();
        for byte in out {
            inside.random = inside.random.wrapping_mul(5).wrapping_add(7);
            *byte = inside.random;
        }
    }

    fn unix_ns(&mut self) -> Option<u64> {
        Some(UNIX_NS)
    }

    fn reboot(&mut self) {
        self.machine.inside().reboots += 1;
    }

    fn last_crash(&self) -> Option<String> {
        self.machine.inside().crash.clone()
    }

    fn log_since(&self, from: u64, each: &mut dyn FnMut(u64, &str) -> bool) {
        let inside = self.machine.inside();
        let _ = (0..)
            .zip(&inside.log)
            .filter(|(number, _)| *number >= from)
            .all(|(number, line)| each(number, line));
    }

    fn log_next(&self) -> u64 {
        self.machine.inside().log.len() as u64
    }

    fn set_log_level(&mut self, level: config::LogLevel) {
        self.machine.inside().level = level;
    }

    fn boot_stages(&self) -> Vec<BootStage> {
        vec![BootStage { stage: "memory".into(), at_microseconds: 100 }]
    }

    fn memory(&self) -> Memory {
        let total_bytes = 64 << 20;
        let free_bytes = total_bytes - self.machine.inside().taken_bytes;
        Memory { total_bytes, free_bytes, heap_used_bytes: 1 << 20 }
    }

    fn cores(&self) -> Vec<Core> {
        vec![Core { id: 0, role: CoreRole::Both }]
    }

    fn store(&mut self) -> Option<&mut dyn BlockDevice> {
        let has_disk = self.machine.inside().disk.is_some();
        has_disk.then_some(&mut self.disk as &mut dyn BlockDevice)
    }
}

struct TestDisk(Machine);

impl BlockDevice for TestDisk {
    fn sectors(&self) -> u64 {
        self.0.inside().disk.as_ref().map_or(0, |disk| disk.len() as u64)
    }

    fn read(&mut self, sector: u64, out: &mut Sector) -> Result<(), BlockError> {
        *out = self.0.inside().disk.as_ref().unwrap()[sector as usize];
        Ok(())
    }

    fn write(&mut self, sector: u64, data: &Sector) -> Result<(), BlockError> {
        self.0.inside().disk.as_mut().unwrap()[sector as usize] = *data;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
}
