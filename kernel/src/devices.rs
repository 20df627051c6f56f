//! The devices that the node makes use of, found on the bus and opened.

use crate::bus::PciDevice;
use crate::random;
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use buffer::{PortControl, PortInfo, PortQueue, PortStats};
use control::PortAtStart;
use drivers::virtio::blk::BlockDevice;
use drivers::virtio::net::{self, Found, NetOptions};
use drivers::virtio::rng::EntropySource;
use drivers::virtio::{self, DeviceKind};
use kernel::pci;
use kernel::sizing::{self, Plan};
use log::{info, warn};

/// Most ports that are used.
const MAX_PORTS: usize = 64;

/// Opened network cards.
pub struct Ports {
    /// Control's handles: `eth0` and so on, in the order of the bus.
    pub controls: Vec<Box<dyn PortControl>>,
    /// Of each port the queue pairs, not more than there are workers.
    pub queues: Vec<Vec<Box<dyn PortQueue>>>,
}

/// The first entropy source that works.
pub fn entropy(devices: &[Arc<PciDevice>]) -> Option<EntropySource> {
    open_first(devices, DeviceKind::Entropy, EntropySource::open)
}

/// The first disk that works and can be written.
pub fn disk(devices: &[Arc<PciDevice>]) -> Option<BlockDevice> {
    open_first(devices, DeviceKind::Block, |device| {
        let disk = BlockDevice::open(device)?;
        if disk.is_read_only() { Err(virtio::Error::ReadOnly) } else { Ok(disk) }
    })
}

/// Network cards that said what they are, and are not set up yet.
pub struct FoundPorts {
    /// What was planned for.
    pub plan: Plan,
    cards: Vec<(pci::Address, Found)>,
}

/// Finds every network card, to be opened with a queue pair for each of up to `workers` workers, or as many as it has, and
/// plans for fewer workers where memory does not suffice for their queues. What is no card that can be used is left out.
pub fn find_ports(devices: &[Arc<PciDevice>], workers: u16, free_bytes: u64, packed: bool) -> FoundPorts {
    let mut devices: Vec<_> = of_kind(devices, DeviceKind::Net).collect();
    for left_out in devices.drain(devices.len().min(MAX_PORTS)..) {
        warn!(target: "devices", "{} is not used: there are {MAX_PORTS} cards before it", left_out.address());
    }
    let plan = sizing::plan(free_bytes, devices.len() as u16, workers);
    if plan.workers < workers {
        info!(target: "devices", "memory suffices for {} workers on {} cards", plan.workers, devices.len());
    }
    let mut cards = Vec::with_capacity(devices.len());
    for (index, device) in devices.into_iter().enumerate() {
        let options = NetOptions {
            name: format!("eth{index}"),
            queue_pairs: plan.workers,
            first_worker: 0,
            workers: plan.workers,
            queue_size: plan.ring,
            packed,
            fallback_mac: random_mac(),
        };
        match net::find(device.clone(), &options) {
            Ok(found) => cards.push((device.address(), found)),
            Err(error) => warn!(target: "devices", "{}, eth{index}: {error}", device.address()),
        }
    }
    FoundPorts { plan, cards }
}

impl FoundPorts {
    /// The ports that there will be.
    pub fn ports(&self) -> Vec<PortAtStart> {
        let port = |(_, found): &(_, Found)| {
            let info = found.info();
            let (name, mac, max_mtu) = (info.name.clone(), info.mac, info.max_mtu);
            PortAtStart { name, mac, max_mtu, is_up: found.link_up() }
        };
        self.cards.iter().map(port).collect()
    }

    /// Opens them all. A card that does not let itself be set up is a port out of use.
    pub fn open(self) -> Ports {
        let Plan { workers, ring, .. } = self.plan;
        let mut dealt = 0;
        let mut begun = Vec::with_capacity(self.cards.len());
        for (address, found) in self.cards {
            let info = found.info().clone();
            // Pairs are dealt to the workers in this order, see `dataplane::deal`.
            let opening = found.begin(dealt);
            if opening.is_ok() {
                dealt = (dealt + info.queues) % workers;
            }
            begun.push((address, info, opening));
        }
        let mut ports = Ports { controls: Vec::new(), queues: Vec::new() };
        for (address, info, opening) in begun {
            let name = info.name.clone();
            let ((control, queues), told) = match opening {
                Ok(opening) => opening.finish(),
                Err(error) => ((Box::new(Unusable(info)) as _, Vec::new()), Err(error)),
            };
            match told {
                Ok(()) => say_opened(&*control, ring),
                Err(error) => warn!(target: "devices", "{address}, {name}: {error}"),
            }
            ports.controls.push(control);
            ports.queues.push(queues);
        }
        ports
    }
}

/// A card that did not let itself be set up.
struct Unusable(PortInfo);

impl PortControl for Unusable {
    fn info(&self) -> &PortInfo {
        &self.0
    }

    fn link_up(&mut self, _: u64) -> bool {
        false
    }

    fn fault(&self) -> Option<&'static str> {
        Some("it does not let itself be set up")
    }

    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

fn say_opened(port: &dyn PortControl, ring: u16) {
    let info = port.info();
    let [a, b, c, d, e, f] = info.mac;
    info!(
        target: "devices",
        "{}: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, {} queue pairs of {ring}, MTU up to {}",
        info.name, info.queues, info.max_mtu
    );
}

/// An address of local administration that nobody else is likely to have.
fn random_mac() -> [u8; 6] {
    let mut mac = [0; 6];
    random::fill(&mut mac);
    mac[0] = mac[0] & !net::MULTICAST | net::LOCALLY_ADMINISTERED;
    mac
}

fn of_kind(devices: &[Arc<PciDevice>], kind: DeviceKind) -> impl Iterator<Item = &Arc<PciDevice>> {
    devices.iter().filter(move |device| virtio::identify(&***device) == Some(kind))
}

fn open_first<T>(
    devices: &[Arc<PciDevice>],
    kind: DeviceKind,
    open: impl Fn(Arc<dyn drivers::bus::Device>) -> Result<T, virtio::Error>,
) -> Option<T> {
    of_kind(devices, kind).find_map(|device| match open(device.clone()) {
        Ok(opened) => Some(opened),
        Err(error) => {
            warn!(target: "devices", "{}: {error}", device.address());
            None
        }
    })
}
