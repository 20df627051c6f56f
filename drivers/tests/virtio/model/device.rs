//! A virtio PCI function: configuration space, registers, MSI-X, and what is behind the queues.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use drivers::bus::{BusError, Device, DmaRegion, Interrupt, InterruptTarget, Registers};
use drivers::virtio::feature;

use super::{Chain, DeviceQueue, Memory};

pub const MSIX_ENTRIES: u16 = 8;

/// Offsets in the common configuration structure (VIRTIO 1.3 §4.1.4.3).
pub mod common {
    pub const DEVICE_STATUS: usize = 20;
    pub const NUM_QUEUES: usize = 18;
    pub const QUEUE_SIZE: usize = 24;
    pub const QUEUE_NOTIFY_OFF: usize = 30;
    pub const DEVICE_FEATURE: usize = 4;
    pub const CONFIG_VECTOR: usize = 16;
    pub const QUEUE_VECTOR: usize = 26;
}

/// Where the structures are in BAR 4, all on pages of their own.
const BAR: u8 = 4;
const BAR_BYTES: usize = 0x4000;
const COMMON_AT: usize = 0;
const CONFIG_AT: usize = 0x2000;
const NOTIFY_AT: usize = 0x3000;
const NOTIFY_MULTIPLIER: u32 = 4;

/// What the device does with chains by itself when its doorbell rings.
pub enum Kind {
    /// Nothing but control commands of the last queue.
    Net,
    /// Serves a disk.
    Block(Vec<u8>),
    /// Fills requests with a counting byte.
    Entropy,
}

/// What a device is made of.
pub struct Setup {
    pub kind: Kind,
    pub features: u64,
    pub queues: usize,
    pub queue_size: u16,
    pub config: Vec<u8>,
    pub msix: bool,
}

struct QueueState {
    size: u16,
    vector: u16,
    areas: [u64; 3],
    live: Option<DeviceQueue>,
    rings: usize,
}

pub struct State {
    kind: Kind,
    features: u64,
    driver_features: u64,
    selects: [u32; 2],
    status: u8,
    config_vector: u16,
    selected: u16,
    queues: Vec<QueueState>,
    queue_size: u16,
    pub config: Vec<u8>,
    pub generation: u8,
    /// Configuration changes whenever the driver looks.
    pub restless: bool,
    fired: Vec<Arc<AtomicBool>>,
    /// Entries of the MSI-X table.
    pub vectors: u16,
    /// Registers of BAR 4 that answer what they like, by offset.
    lies: HashMap<usize, u64>,
    /// With a seed, all registers answer noise.
    pub noise: Option<u64>,
    /// Queues that are not served.
    pub stalled: bool,
    /// A disk reads less than it was asked for, and says so.
    pub short_reads: bool,
    /// What a disk or card answers instead of success.
    pub answer: Option<u8>,
    pub commands: Vec<Vec<u8>>,
    /// Who the entries of the MSI-X table wake.
    pub targets: Vec<InterruptTarget>,
}

pub struct Model {
    me: Weak<Model>,
    config_space: Mutex<[u8; 256]>,
    live_regions: Arc<AtomicUsize>,
    state: Mutex<State>,
}

impl Model {
    pub fn new(setup: Setup) -> Arc<Self> {
        let device_id = match setup.kind {
            Kind::Net => 0x1041,
            Kind::Block(_) => 0x1042,
            Kind::Entropy => 0x1044,
        };
        let queue = |_| QueueState { size: 0, vector: 0xffff, areas: [0; 3], live: None, rings: 0 };
        let state = State {
            kind: setup.kind,
            features: setup.features | feature::VERSION_1,
            driver_features: 0,
            selects: [0; 2],
            status: 0,
            config_vector: 0xffff,
            selected: 0,
            queues: (0..setup.queues).map(queue).collect(),
            queue_size: setup.queue_size,
            config: setup.config,
            generation: 0,
            restless: false,
            vectors: if setup.msix { MSIX_ENTRIES } else { 0 },
            fired: (0..MSIX_ENTRIES).map(|_| Arc::default()).collect(),
            lies: HashMap::new(),
            noise: None,
            stalled: false,
            short_reads: false,
            answer: None,
            commands: Vec::new(),
            targets: Vec::new(),
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            config_space: Mutex::new(config_space(device_id)),
            live_regions: Arc::default(),
            state: Mutex::new(state),
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic inside")
    }

    /// Changes configuration space, as a hostile device may.
    pub fn config_space(&self, change: impl FnOnce(&mut [u8; 256])) {
        change(&mut self.config_space.lock().expect("no panic inside"));
    }

    /// Has a register of BAR 4 answer `value` from now on, whatever was written there.
    pub fn lie(&self, offset: usize, value: u64) {
        let _ = self.state().lies.insert(offset, value);
    }

    /// How much memory of the driver's the device can still reach.
    pub fn live_regions(&self) -> usize {
        self.live_regions.load(Ordering::Relaxed)
    }

    /// Whether interrupt `vector` fired and nobody took it yet.
    pub fn fired(&self, vector: u16) -> bool {
        self.state().fired[usize::from(vector)].load(Ordering::Relaxed)
    }
}

impl State {
    /// Sets `DEVICE_NEEDS_RESET` and tells the driver (VIRTIO 1.3 §2.1.2).
    pub fn ask_for_reset(&mut self) {
        self.status |= 64;
        self.fire(self.config_vector);
    }

    pub fn is_running(&self) -> bool {
        self.status & 4 != 0
    }

    pub fn negotiated(&self, features: u64) -> bool {
        self.driver_features & features == features
    }

    /// How often a queue's doorbell rang.
    pub fn rings(&self, queue: usize) -> usize {
        self.queues[queue].rings
    }

    /// Places of a queue's rings.
    pub fn areas(&self, queue: usize) -> ([u64; 3], u16) {
        (self.queues[queue].areas, self.queues[queue].size)
    }

    pub fn queue(&mut self, queue: usize) -> &mut DeviceQueue {
        self.queues[queue].live.as_mut().expect("the driver has set up this queue")
    }

    pub fn is_live(&self, queue: usize) -> bool {
        self.queues[queue].live.is_some()
    }

    /// Uses a chain, and interrupts where the driver wants it.
    pub fn give_back(&mut self, queue: usize, chain: &Chain, written: u32) {
        if self.queue(queue).give_back(chain, written) {
            self.fire(self.queues[queue].vector);
        }
    }

    fn fire(&self, vector: u16) {
        if let Some(flag) = self.fired.get(usize::from(vector)) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    /// Changes device configuration and tells the driver.
    pub fn change_config(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.config);
        self.generation = self.generation.wrapping_add(1);
        self.fire(self.config_vector);
    }

    fn reset(&mut self) {
        self.status = 0;
        self.driver_features = 0;
        self.config_vector = 0xffff;
        for queue in &mut self.queues {
            *queue = QueueState { size: 0, vector: 0xffff, areas: [0; 3], live: None, rings: queue.rings };
        }
    }

    fn read(&mut self, offset: usize, width: usize) -> u64 {
        if let Some(noise) = &mut self.noise {
            // Any generator will do: this is splitmix64.
            *noise = noise.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = *noise;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            return word ^ (word >> 31);
        }
        if let Some(&lie) = self.lies.get(&offset) {
            return lie;
        }
        if offset >= CONFIG_AT {
            let bytes = (0..width).map(|byte| self.config.get(offset - CONFIG_AT + byte).copied());
            return bytes.rev().fold(0, |word, byte| word << 8 | u64::from(byte.unwrap_or(0xff)));
        }
        self.read_common(offset)
    }

    fn read_common(&mut self, offset: usize) -> u64 {
        let queue = self.queues.get(usize::from(self.selected));
        match offset {
            4 => self.features >> (32 * self.selects[0]) & 0xffff_ffff,
            16 => self.config_vector.into(),
            18 => self.queues.len() as u64,
            20 => self.status.into(),
            21 => {
                self.generation = self.generation.wrapping_add(u8::from(self.restless));
                self.generation.into()
            }
            22 => self.selected.into(),
            24 => queue.map_or(0, |queue| if queue.size > 0 { queue.size } else { self.queue_size }).into(),
            26 => queue.map_or(0xffff, |queue| queue.vector).into(),
            30 => self.selected.into(),
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: usize, value: u64) {
        let selected = usize::from(self.selected);
        let half = |word: u64, high: bool| {
            if high { word & 0xffff_ffff | value << 32 } else { word >> 32 << 32 | value }
        };
        match offset {
            0 => self.selects[0] = value as u32,
            8 => self.selects[1] = value as u32,
            12 => self.driver_features = half(self.driver_features, self.selects[1] == 1),
            16 => self.config_vector = value as u16,
            20 if value == 0 => self.reset(),
            20 => {
                let honest = !self.lies.contains_key(&common::DEVICE_STATUS);
                let kept = value as u8 & self.status == self.status;
                assert!(kept || !honest, "§2.1.1: a driver clears no status bit");
                let unknown = self.driver_features & !self.features;
                let refused = if unknown != 0 { 8 } else { 0 };
                self.status = value as u8 & !refused;
            }
            22 => self.selected = value as u16,
            _ => {
                let Some(queue) = self.queues.get_mut(selected) else { return };
                match offset {
                    24 => queue.size = value as u16,
                    26 => queue.vector = if value < u64::from(self.vectors) { value as u16 } else { 0xffff },
                    28 => self.enable(selected),
                    32..56 => {
                        let area = &mut queue.areas[(offset - 32) / 8];
                        *area = half(*area, offset % 8 == 4);
                    }
                    _ => panic!("the driver writes {value:#x} to {offset}"),
                }
            }
        }
    }

    fn enable(&mut self, queue: usize) {
        let packed = self.negotiated(feature::RING_PACKED);
        let event_index = self.negotiated(feature::EVENT_IDX);
        let state = &mut self.queues[queue];
        state.live = Some(DeviceQueue::new(packed, state.size, state.areas, event_index));
    }

    fn ring(&mut self, queue: usize) {
        assert!(self.is_running(), "§3.1.1: no notification before DRIVER_OK");
        self.queues[queue].rings += 1;
        let serves = match self.kind {
            Kind::Net => self.queues.len() % 2 == 1 && queue + 1 == self.queues.len(),
            Kind::Block(_) | Kind::Entropy => true,
        };
        while serves && !self.stalled {
            let Some(chain) = self.queue(queue).take() else {
                if self.queue(queue).enable_notification() {
                    continue;
                }
                break;
            };
            let written = self.serve(&chain);
            self.give_back(queue, &chain, written);
        }
    }

    /// Serves its control queue again after it was stalled.
    pub fn resume(&mut self) {
        self.stalled = false;
        self.ring(self.queues.len() - 1);
    }

    /// Does what a chain asks for, and returns how much was written into it.
    fn serve(&mut self, chain: &Chain) -> u32 {
        let request = chain.readable_bytes();
        let answer = self.answer.unwrap_or(0);
        match &mut self.kind {
            Kind::Net => {
                self.commands.push(request);
                chain.write(&[answer])
            }
            Kind::Entropy => {
                let len: u32 = chain.pieces.iter().map(|piece| piece.len).sum();
                // As much as it likes: less than was asked.
                let given = len.div_ceil(2);
                chain.write(&(0..given).map(|byte| byte as u8 ^ answer).collect::<Vec<_>>())
            }
            Kind::Block(disk) => {
                let kind = u32::from_le_bytes(request[..4].try_into().expect("a header"));
                let sector = u64::from_le_bytes(request[8..16].try_into().expect("a header"));
                let at = sector as usize * 512;
                if self.driver_features & 1 << 6 != 0 {
                    let block = u64::from_le_bytes([self.config[20], self.config[21], 0, 0, 0, 0, 0, 0]);
                    let data = chain.pieces.iter().map(|p| u64::from(p.len)).sum::<u64>() - 17;
                    assert!(sector * 512 % block == 0 && data % block == 0, "whole blocks only");
                }
                let room: usize =
                    chain.pieces.iter().filter(|p| p.device_writes).map(|p| p.len as usize).sum();
                let mut reply = Vec::new();
                match kind {
                    0 => reply.extend_from_slice(&disk[at..at + room - 1]),
                    1 => disk[at..at + request.len() - 16].copy_from_slice(&request[16..]),
                    4 => {}
                    other => panic!("unknown request {other}"),
                }
                self.commands.push(request[..16].to_vec());
                reply.push(answer);
                let written = chain.write(&reply);
                if self.short_reads { 1 } else { written }
            }
        }
    }
}

/// A type 0 header with the four virtio capabilities (VIRTIO 1.3 §4.1.4), and one before them that is not ours.
fn config_space(device_id: u16) -> [u8; 256] {
    let mut space = [0; 256];
    space[0..2].copy_from_slice(&0x1af4u16.to_le_bytes());
    space[2..4].copy_from_slice(&device_id.to_le_bytes());
    space[6] = 0x10;
    space[0x34] = 0x40;
    // A power management capability.
    space[0x40..0x42].copy_from_slice(&[0x01, 0x48]);
    let mut at = 0x48;
    let structures = VecDeque::from([
        (5, 0, 0, 4),
        (1, BAR, COMMON_AT, 64),
        (2, BAR, NOTIFY_AT, 0x1000),
        (4, BAR, CONFIG_AT, 64),
    ]);
    for (cfg_type, bar, offset, len) in structures {
        let next = if cfg_type == 4 { 0 } else { at + 20 };
        space[at..at + 5].copy_from_slice(&[0x09, next as u8, 20, cfg_type, bar]);
        space[at + 8..at + 12].copy_from_slice(&(offset as u32).to_le_bytes());
        space[at + 12..at + 16].copy_from_slice(&(len as u32).to_le_bytes());
        space[at + 16..at + 20].copy_from_slice(&NOTIFY_MULTIPLIER.to_le_bytes());
        at += 20;
    }
    space
}

impl Device for Model {
    fn config_read8(&self, offset: u16) -> u8 {
        let space = self.config_space.lock().expect("no panic inside");
        space.get(usize::from(offset)).copied().unwrap_or(0xff)
    }

    fn config_read16(&self, offset: u16) -> u16 {
        u16::from_le_bytes([0, 1].map(|byte| self.config_read8(offset + byte)))
    }

    fn config_read32(&self, offset: u16) -> u32 {
        u32::from_le_bytes([0, 1, 2, 3].map(|byte| self.config_read8(offset + byte)))
    }

    fn config_write8(&self, offset: u16, value: u8) {
        self.config_space(|space| space[usize::from(offset)] = value);
    }

    fn config_write16(&self, offset: u16, value: u16) {
        self.config_space(|space| space[usize::from(offset)..][..2].copy_from_slice(&value.to_le_bytes()));
    }

    fn config_write32(&self, offset: u16, value: u32) {
        self.config_space(|space| space[usize::from(offset)..][..4].copy_from_slice(&value.to_le_bytes()));
    }

    fn map_bar(&self, bar: u8) -> Result<Arc<dyn Registers>, BusError> {
        let model = self.me.upgrade().expect("the model is alive");
        if bar == BAR { Ok(Arc::new(Bar(model))) } else { Err(BusError::NoBar(bar)) }
    }

    fn dma_alloc(&self, len_bytes: usize, align: usize) -> Result<DmaRegion, BusError> {
        assert!(align.is_power_of_two() && align <= 4096);
        Memory::get().allocate(len_bytes, &self.live_regions)
    }

    fn msix_table_len(&self) -> u16 {
        self.state().vectors
    }

    fn enable_msix(&self, targets: &[InterruptTarget]) -> Result<Vec<Box<dyn Interrupt>>, BusError> {
        assert!(targets.len() <= usize::from(self.msix_table_len()));
        self.state().targets = targets.to_vec();
        let fired = self.state().fired.clone().into_iter();
        Ok(fired.take(targets.len()).map(|flag| Box::new(Flag(flag)) as Box<dyn Interrupt>).collect())
    }
}

struct Flag(Arc<AtomicBool>);

impl Interrupt for Flag {
    fn take(&mut self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

struct Bar(Arc<Model>);

impl Bar {
    fn read(&self, offset: usize, width: usize) -> u64 {
        assert!(offset + width <= BAR_BYTES && offset.is_multiple_of(width));
        self.0.state().read(offset, width)
    }

    fn write(&self, offset: usize, width: usize, value: u64) {
        assert!(offset + width <= BAR_BYTES && offset.is_multiple_of(width));
        let mut state = self.0.state();
        if state.noise.is_some() {
            return;
        }
        if offset < 64 {
            state.write_common(offset, value);
        } else {
            let doorbell = NOTIFY_AT + value as usize * NOTIFY_MULTIPLIER as usize;
            if offset == doorbell {
                state.ring(value as usize);
            } else {
                // Who lies about where doorbells are is not rung.
                assert!(
                    state.lies.contains_key(&common::QUEUE_NOTIFY_OFF),
                    "{offset} is not the doorbell {doorbell}"
                );
            }
        }
    }
}

impl Registers for Bar {
    fn len_bytes(&self) -> usize {
        BAR_BYTES
    }
    fn read8(&self, offset: usize) -> u8 {
        self.read(offset, 1) as u8
    }
    fn read16(&self, offset: usize) -> u16 {
        self.read(offset, 2) as u16
    }
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, 4) as u32
    }
    fn read64(&self, offset: usize) -> u64 {
        self.read(offset, 8)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, 1, value.into());
    }
    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, 2, value.into());
    }
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, 4, value.into());
    }
    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, 8, value);
    }
}
