//! The devices that the node makes use of, found on the bus and opened.

use crate::bus::PciDevice;
use crate::random;
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use buffer::{PortControl, PortQueue};
use drivers::virtio::blk::BlockDevice;
use drivers::virtio::net::{self, NetOptions, Opening};
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

/// Network cards that are being opened.
pub struct OpeningPorts<'a> {
    /// What was planned for.
    pub plan: Plan,
    cards: Vec<&'a Arc<PciDevice>>,
    begun: Vec<Result<Opening, virtio::Error>>,
    packed: bool,
}

/// Begins to open every network card with a queue pair for each of up to `workers` workers, or as many as it has, and plans
/// for fewer workers where memory does not suffice for their queues.
pub fn begin_ports(
    devices: &[Arc<PciDevice>],
    workers: u16,
    free_bytes: u64,
    packed: bool,
) -> OpeningPorts<'_> {
    let cards: Vec<_> = of_kind(devices, DeviceKind::Net).take(MAX_PORTS).collect();
    let plan = sizing::plan(free_bytes, cards.len() as u16, workers);
    if plan.workers < workers {
        info!(target: "devices", "memory suffices for {} workers on {} cards", plan.workers, cards.len());
    }
    let mut opening = OpeningPorts { plan, cards, begun: Vec::new(), packed };
    opening.begin_from(0, 0);
    opening
}

impl OpeningPorts<'_> {
    /// Begins with the cards from number `from` on; those before them have `dealt` queue pairs.
    fn begin_from(&mut self, from: usize, mut dealt: usize) {
        let workers = self.plan.workers;
        // A second beginning would disturb the first: that is dropped before.
        self.begun.clear();
        for (index, card) in self.cards.iter().enumerate().skip(from) {
            let options = NetOptions {
                name: format!("eth{index}"),
                queue_pairs: workers,
                // Pairs are dealt to the workers in this order, see `dataplane::deal`.
                first_worker: (dealt % usize::from(workers)) as u16,
                workers,
                queue_size: self.plan.ring,
                packed: self.packed,
                fallback_mac: random_mac(),
            };
            let opening = net::begin((*card).clone(), &options);
            dealt += opening.as_ref().map_or(0, |opening| usize::from(opening.queue_pairs()));
            self.begun.push(opening);
        }
    }

    /// Waits until the cards run, and says what was opened.
    pub fn finish(mut self) -> Ports {
        let mut ports = Ports { controls: Vec::new(), queues: Vec::new() };
        let mut done = 0;
        while done < self.cards.len() {
            let (first, begun) = (done, core::mem::take(&mut self.begun));
            for (card, opening) in self.cards.iter().skip(first).zip(begun) {
                done += 1;
                let begins = opening.is_ok();
                match opening.and_then(Opening::finish) {
                    Ok((control, queues)) => {
                        say_opened(&*control, self.plan.ring);
                        ports.controls.push(control);
                        ports.queues.push(queues);
                    }
                    Err(error) => {
                        warn!(target: "devices", "{}, eth{}: {error}", card.address(), done - 1);
                        if begins {
                            // The pairs of those after it are not the workers' that were thought.
                            break;
                        }
                    }
                }
            }
            if done < self.cards.len() {
                self.begin_from(done, ports.queues.iter().map(Vec::len).sum());
            }
        }
        ports
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
