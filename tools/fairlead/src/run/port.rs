//! What every hosted port is made of: the parts that control, workers and sleep get, and its counters.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use buffer::{DATA_ROOM, Offloads, PortControl, PortInfo, PortQueue, PortStats};

use super::sys;
use super::vnet::Unusable;

/// Bytes of the Ethernet header and one VLAN tag.
const ETHERNET_BYTES: usize = 18;

/// The largest MTU of a hosted port: frames fill one buffer.
const MAX_MTU: u16 = (DATA_ROOM - ETHERNET_BYTES) as u16;

/// A port that was opened.
pub struct Port {
    /// For control.
    pub control: Box<dyn PortControl>,
    /// For workers, one each.
    pub queues: Vec<Queue>,
}

/// One queue of a port.
pub struct Queue {
    /// What moves frames.
    pub queue: Box<dyn PortQueue>,
    /// Readable when the queue has frames.
    pub readable: Arc<OwnedFd>,
}

/// What one queue counted. Only its worker writes.
#[derive(Debug, Default)]
pub struct QueueCounters {
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    rx_no_buffer: AtomicU64,
    rx_errors: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    tx_errors: AtomicU64,
    merged: AtomicU64,
}

impl QueueCounters {
    pub fn received(&self, bytes: usize) {
        add(&self.rx_packets, 1);
        add(&self.rx_bytes, bytes as u64);
    }

    pub fn no_buffer(&self) {
        add(&self.rx_no_buffer, 1);
    }

    pub fn unusable(&self, why: Unusable) {
        add(&self.rx_errors, 1);
        if why == Unusable::Merged {
            add(&self.merged, 1);
        }
    }

    pub fn sent(&self, bytes: usize) {
        add(&self.tx_packets, 1);
        add(&self.tx_bytes, bytes as u64);
    }

    pub fn not_sent(&self) {
        add(&self.tx_errors, 1);
    }
}

/// There is a single writer, so that no locked instruction is needed.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Where a port's link is seen.
pub enum Link {
    /// At the interface of this name.
    Interface(String),
    /// At a queue of the TAP device, which goes with it when somebody moves it into a namespace.
    Tap(Arc<OwnedFd>),
    /// Nowhere: a wire in memory is always up.
    Memory,
}

/// Control's handle to a port.
pub struct InterfaceControl {
    info: PortInfo,
    link: Link,
    counters: Vec<Arc<QueueCounters>>,
    told_merged: bool,
}

impl InterfaceControl {
    /// The handle to a port that the dataplane calls `name`, whose device has this MTU.
    pub fn new(
        name: String,
        link: Link,
        mac: [u8; 6],
        mtu: u32,
        counters: Vec<Arc<QueueCounters>>,
    ) -> InterfaceControl {
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).min(MAX_MTU);
        let queues = counters.len() as u16;
        let info =
            PortInfo { name, mac, max_mtu: mtu, offloads: Offloads { tx_csum: true, rx_csum: true }, queues };
        InterfaceControl { info, link, counters, told_merged: false }
    }
}

impl PortControl for InterfaceControl {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn link_up(&mut self, _: u64) -> bool {
        if !self.told_merged && self.counters.iter().any(|c| c.merged.load(Relaxed) > 0) {
            self.told_merged = true;
            log::warn!("{}: frames above the MTU come in and are dropped", self.info.name);
        }
        match &self.link {
            Link::Interface(name) => sys::is_running(name).unwrap_or(false),
            Link::Tap(fd) => sys::is_writable(fd.as_fd()),
            Link::Memory => true,
        }
    }

    fn stats(&self) -> PortStats {
        let sum =
            |of: fn(&QueueCounters) -> &AtomicU64| self.counters.iter().map(|c| of(c).load(Relaxed)).sum();
        PortStats {
            rx_packets: sum(|c| &c.rx_packets),
            rx_bytes: sum(|c| &c.rx_bytes),
            rx_no_buffer: sum(|c| &c.rx_no_buffer),
            rx_errors: sum(|c| &c.rx_errors),
            tx_packets: sum(|c| &c.tx_packets),
            tx_bytes: sum(|c| &c.tx_bytes),
            tx_errors: sum(|c| &c.tx_errors),
            interrupts: 0,
            resets: 0,
        }
    }
}
