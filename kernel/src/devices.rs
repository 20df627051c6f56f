//! The devices that the node makes use of, found on the bus and opened.

use crate::bus::PciDevice;
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use buffer::{PortControl, PortQueue};
use drivers::virtio::blk::BlockDevice;
use drivers::virtio::net::{self, NetOptions};
use drivers::virtio::rng::EntropySource;
use drivers::virtio::{self, DeviceKind};
use log::{info, warn};

/// Most ports that are used.
const MAX_PORTS: usize = 64;

/// Descriptors of each queue, where memory suffices.
const QUEUE_SIZE: u16 = 512;

/// Opened network cards.
pub struct Ports {
    /// Control's handles: `eth0` and so on, in the order of the bus.
    pub controls: Vec<Box<dyn PortControl>>,
    /// Of each port the queue pairs: as many for each port as there are workers.
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

/// Opens every network card with a queue pair for each of up to `workers` workers. Every worker sends on
/// every port, so the card with the fewest queue pairs decides how many workers there can be.
pub fn ports(devices: &[Arc<PciDevice>], workers: u16, memory_bytes: u64) -> Ports {
    let cards: Vec<_> = of_kind(devices, DeviceKind::Net).take(MAX_PORTS).collect();
    let queue_size = queue_size(cards.len() as u64 * u64::from(workers), memory_bytes);
    let ports = open_ports(&cards, workers, queue_size);
    let fewest = ports.controls.iter().map(|port| port.info().queues).min().unwrap_or(workers);
    let ports = if fewest < workers {
        info!(target: "devices", "cards have {fewest} queue pairs: as many workers are used");
        drop(ports);
        open_ports(&cards, fewest, queue_size)
    } else {
        ports
    };
    for port in &ports.controls {
        let info = port.info();
        let [a, b, c, d, e, f] = info.mac;
        info!(
            target: "devices",
            "{}: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, {} queue pairs of {queue_size}, MTU up to {}",
            info.name, info.queues, info.max_mtu
        );
    }
    ports
}

fn open_ports(cards: &[&Arc<PciDevice>], queue_pairs: u16, queue_size: u16) -> Ports {
    let mut ports = Ports { controls: Vec::new(), queues: Vec::new() };
    for (index, card) in cards.iter().enumerate() {
        // Packed rings do not pay where the device is QEMU's, and do not survive a link that goes down there.
        let options = NetOptions { name: format!("eth{index}"), queue_pairs, queue_size, packed: false };
        match net::open((*card).clone(), &options) {
            Ok((control, queues)) => {
                ports.controls.push(control);
                ports.queues.push(queues);
            }
            Err(error) => warn!(target: "devices", "{}, {}: {error}", card.address(), options.name),
        }
    }
    ports
}

/// The largest queues whose buffers take at most an eighth of the memory.
fn queue_size(queue_pairs: u64, memory_bytes: u64) -> u16 {
    const LEAST: u16 = 64;
    let fits = |size: &u16| {
        let buffers = 2 * queue_pairs * u64::from(*size);
        buffers * buffer::BUFFER_BYTES as u64 <= memory_bytes / 8
    };
    core::iter::successors(Some(QUEUE_SIZE), |size| Some(size / 2))
        .find(|size| *size <= LEAST || fits(size))
        .unwrap_or(LEAST)
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
