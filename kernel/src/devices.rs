//! The devices that the node makes use of, found on the bus and opened.

use crate::bus::PciDevice;
use crate::random;
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use buffer::{PortControl, PortQueue};
use drivers::virtio::blk::BlockDevice;
use drivers::virtio::net::{self, NetOptions};
use drivers::virtio::rng::EntropySource;
use drivers::virtio::{self, DeviceKind};
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
    let disk = open_first(devices, DeviceKind::Block, BlockDevice::open)?;
    if disk.is_read_only() {
        warn!(target: "devices", "the disk is read-only: the configuration cannot be stored");
        return None;
    }
    Some(disk)
}

/// Opens every network card with a queue pair for each of up to `workers` workers, or as many as it has, and says what was
/// planned for: fewer workers where memory does not suffice for their queues.
pub fn ports(devices: &[Arc<PciDevice>], workers: u16, free_bytes: u64, packed: bool) -> (Ports, Plan) {
    let cards: Vec<_> = of_kind(devices, DeviceKind::Net).take(MAX_PORTS).collect();
    let plan = sizing::plan(free_bytes, cards.len() as u16, workers);
    if plan.workers < workers {
        info!(target: "devices", "memory suffices for {} workers on {} cards", plan.workers, cards.len());
    }
    let ports = open_ports(&cards, &plan, packed);
    for port in &ports.controls {
        let info = port.info();
        let [a, b, c, d, e, f] = info.mac;
        info!(
            target: "devices",
            "{}: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, {} queue pairs of {}, MTU up to {}",
            info.name, info.queues, plan.ring, info.max_mtu
        );
    }
    (ports, plan)
}

fn open_ports(cards: &[&Arc<PciDevice>], plan: &Plan, packed: bool) -> Ports {
    let mut ports = Ports { controls: Vec::new(), queues: Vec::new() };
    // Pairs are dealt to the workers in this order, see `dataplane::deal`.
    let mut dealt = 0;
    for (index, card) in cards.iter().enumerate() {
        let options = NetOptions {
            name: format!("eth{index}"),
            queue_pairs: plan.workers,
            first_worker: (dealt % usize::from(plan.workers)) as u16,
            workers: plan.workers,
            queue_size: plan.ring,
            packed,
            fallback_mac: random_mac(),
        };
        match net::open((*card).clone(), &options) {
            Ok((control, queues)) => {
                dealt += queues.len();
                ports.controls.push(control);
                ports.queues.push(queues);
            }
            Err(error) => warn!(target: "devices", "{}, {}: {error}", card.address(), options.name),
        }
    }
    ports
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
