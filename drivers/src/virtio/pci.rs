//! virtio over PCI (VIRTIO 1.3 §4.1): finding the device's structures, bringing it to life, taking it down.
//!
//! Only the modern layout. A transitional device is driven by its modern half.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use super::feature;
use super::queue::Queue;
use super::ring::{Fault, MAX_QUEUE_SIZE, Ring};
use crate::bus::{Device, Registers};
use crate::virtio::Error;

/// How often a register is read while waiting for a device at boot: a read takes 0.1 to 2 us, so about a second.
pub(super) const PATIENT: u32 = 1_000_000;

/// And once the node forwards: some milliseconds, which a worker on the same core may have to wait.
pub(super) const QUICK: u32 = 4_000;

/// PCI configuration space (PCI 3.0 §6.1, §6.7).
const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS: u16 = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const CAPABILITIES: u16 = 0x34;
const FIRST_CAPABILITY: u16 = 0x40;
const CAPABILITY_VENDOR: u8 = 0x09;
/// As many as fit beside the header: a longer list is a loop.
const MAX_CAPABILITIES: usize = 48;

/// `cfg_type` of a virtio capability (§4.1.4).
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_DEVICE: u8 = 4;
const CAP_BYTES: u8 = 16;
const CAP_NOTIFY_BYTES: u8 = 20;

/// The common configuration structure (§4.1.4.3).
mod common {
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    pub const DEVICE_FEATURE: usize = 4;
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    pub const DRIVER_FEATURE: usize = 12;
    pub const CONFIG_MSIX_VECTOR: usize = 16;
    pub const NUM_QUEUES: usize = 18;
    pub const DEVICE_STATUS: usize = 20;
    pub const CONFIG_GENERATION: usize = 21;
    pub const QUEUE_SELECT: usize = 22;
    pub const QUEUE_SIZE: usize = 24;
    pub const QUEUE_MSIX_VECTOR: usize = 26;
    pub const QUEUE_ENABLE: usize = 28;
    pub const QUEUE_NOTIFY_OFF: usize = 30;
    pub const QUEUE_DESC: usize = 32;
    pub const QUEUE_DRIVER: usize = 40;
    pub const QUEUE_DEVICE: usize = 48;
    pub const BYTES: usize = 56;
}

/// Device status bits (§2.1).
mod status {
    pub const ACKNOWLEDGE: u8 = 1;
    pub const DRIVER: u8 = 2;
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 64;
    pub const FAILED: u8 = 128;
}

/// An MSI-X vector field that names none.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// A device's part of a BAR.
#[derive(Clone)]
struct Window {
    registers: Arc<dyn Registers>,
    offset: usize,
    len_bytes: usize,
}

impl Window {
    /// Where in the BAR `width` bytes at `offset` are, if they are in the window.
    fn at(&self, offset: usize, width: usize) -> Option<usize> {
        (offset.checked_add(width)? <= self.len_bytes).then_some(self.offset + offset)
    }

    fn read8(&self, offset: usize) -> u8 {
        self.at(offset, 1).map_or(u8::MAX, |at| self.registers.read8(at))
    }

    fn read16(&self, offset: usize) -> u16 {
        self.at(offset, 2).map_or(u16::MAX, |at| self.registers.read16(at))
    }

    fn read32(&self, offset: usize) -> u32 {
        self.at(offset, 4).map_or(u32::MAX, |at| self.registers.read32(at))
    }

    fn write8(&self, offset: usize, value: u8) {
        if let Some(at) = self.at(offset, 1) {
            self.registers.write8(at, value);
        }
    }

    fn write16(&self, offset: usize, value: u16) {
        if let Some(at) = self.at(offset, 2) {
            self.registers.write16(at, value);
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        if let Some(at) = self.at(offset, 4) {
            self.registers.write32(at, value);
        }
    }

    /// Low half first (§4.1.3.1: 64-bit fields are accessed by halves).
    fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

/// Rings a queue's bell (§4.1.5.2). Anybody may, at any time.
#[derive(Clone)]
pub(super) struct Doorbell {
    registers: Arc<dyn Registers>,
    offset: usize,
    queue: u16,
}

impl Doorbell {
    /// Tells the device that there are new chains.
    #[inline]
    pub(super) fn ring(&self) {
        self.registers.write16(self.offset, self.queue);
    }
}

/// One virtio function: its registers, and whether it can still be trusted.
pub(super) struct Transport {
    device: Arc<dyn Device>,
    common: Window,
    notify: Window,
    notify_multiplier: u32,
    config: Option<Window>,
    features: u64,
    /// A [`Fault`], or 0.
    fault: AtomicU8,
    /// One of [`life`].
    life: AtomicU8,
    /// How often a register is read while waiting.
    max_polls: AtomicU32,
}

/// What may still happen to memory that a device was given.
mod life {
    /// The device reads and writes it.
    pub const RUNNING: u8 = 0;
    /// It confirmed that it stopped.
    pub const STOPPED: u8 = 1;
    /// It was told to stop and has not confirmed yet.
    pub const STUCK: u8 = 2;
}

impl Transport {
    /// Finds the structures of a device, resets it and agrees on features: virtio 1, and those that `wanted`
    /// makes of what is offered (§3.1.1 steps 1 to 6).
    ///
    /// `max_polls` is how long to wait for it, in reads of a register.
    ///
    /// Event indices are not taken with packed rings. QEMU (to 10.0 at least) moves the event of a packed ring
    /// only when it goes to sleep, not when it takes descriptors after that, as its network card does after a
    /// peer was slow: then the event stays behind for ever, and a driver that believes it never notifies.
    ///
    /// # Errors
    /// The device is not what it should be; it is left reset.
    pub(super) fn start(
        device: Arc<dyn Device>,
        max_polls: u32,
        wanted: impl FnOnce(u64) -> u64,
    ) -> Result<Self, Error> {
        // No bus master yet: firmware may have left the device with rings of its own.
        let command = device.config_read16(COMMAND) | COMMAND_MEMORY | COMMAND_INTX_DISABLE;
        device.config_write16(COMMAND, command & !COMMAND_BUS_MASTER);
        let capabilities = Capabilities::read(&*device);
        let (common, _) = capabilities
            .find(&*device, CFG_COMMON, common::BYTES)
            .ok_or(Error::NoStructure("common configuration"))?;
        let (notify, notify_multiplier) =
            capabilities.find(&*device, CFG_NOTIFY, 2).ok_or(Error::NoStructure("notification"))?;
        let config = capabilities.find(&*device, CFG_DEVICE, 1).map(|(window, _)| window);
        let mut transport = Self {
            device,
            common,
            notify,
            notify_multiplier,
            config,
            features: 0,
            fault: AtomicU8::new(0),
            life: AtomicU8::new(life::RUNNING),
            max_polls: AtomicU32::new(max_polls),
        };
        if !transport.reset() {
            return Err(Error::ResetTimeout);
        }
        transport.device.config_write16(COMMAND, command | COMMAND_BUS_MASTER);
        match transport.negotiate(wanted) {
            Ok(features) => transport.features = features,
            Err(error) => {
                transport.add_status(status::FAILED);
                let _ = transport.stop();
                return Err(error);
            }
        }
        Ok(transport)
    }

    fn negotiate(&self, wanted: impl FnOnce(u64) -> u64) -> Result<u64, Error> {
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        let mut offered = 0;
        for half in 0..2 {
            self.common.write32(common::DEVICE_FEATURE_SELECT, half);
            offered |= u64::from(self.common.read32(common::DEVICE_FEATURE)) << (32 * half);
        }
        if offered & feature::VERSION_1 == 0 {
            return Err(Error::Legacy);
        }
        let mut features = feature::VERSION_1 | (wanted(offered) & offered);
        if features & feature::RING_PACKED != 0 {
            features &= !feature::EVENT_IDX;
        }
        for half in 0..2 {
            self.common.write32(common::DRIVER_FEATURE_SELECT, half);
            self.common.write32(common::DRIVER_FEATURE, (features >> (32 * half)) as u32);
        }
        self.add_status(status::FEATURES_OK);
        if self.common.read8(common::DEVICE_STATUS) & status::FEATURES_OK == 0 {
            return Err(Error::FeaturesRefused(features));
        }
        Ok(features)
    }

    fn add_status(&self, bit: u8) {
        self.common.write8(common::DEVICE_STATUS, self.common.read8(common::DEVICE_STATUS) | bit);
    }

    /// How often to read a register, or to look at a ring, while waiting for the device.
    pub(super) fn max_polls(&self) -> u32 {
        self.max_polls.load(Ordering::Relaxed)
    }

    /// From now on the device is not waited for long.
    pub(super) fn set_quick(&self) {
        self.max_polls.store(QUICK, Ordering::Relaxed);
    }

    /// What was agreed on.
    pub(super) fn features(&self) -> u64 {
        self.features
    }

    /// Whether all of `features` were agreed on.
    pub(super) fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// The platform's side of the device.
    pub(super) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Sets up one queue of at most `max_size` descriptors (§4.1.5.1.3), which interrupts by `vector`.
    ///
    /// # Errors
    /// The device does not have that queue, or describes it wrongly.
    pub(super) fn queue<T, R: Ring<T>>(
        self: &Arc<Self>,
        index: u16,
        max_size: u16,
        vector: u16,
    ) -> Result<Queue<T, R>, Error> {
        if index >= self.common.read16(common::NUM_QUEUES) {
            return Err(Error::NoQueue(index));
        }
        self.common.write16(common::QUEUE_SELECT, index);
        let size = self.choose_size(index, max_size)?;
        self.common.write16(common::QUEUE_SIZE, size);
        let doorbell = self.doorbell(index)?;
        self.common.write16(common::QUEUE_MSIX_VECTOR, vector);
        if vector != NO_VECTOR && self.common.read16(common::QUEUE_MSIX_VECTOR) != vector {
            return Err(Error::VectorRefused { queue: Some(index) });
        }
        let ring = R::new(&**self.device(), size, self.has(feature::EVENT_IDX))?;
        let [descriptors, driver, device] = ring.areas();
        self.common.write64(common::QUEUE_DESC, descriptors);
        self.common.write64(common::QUEUE_DRIVER, driver);
        self.common.write64(common::QUEUE_DEVICE, device);
        self.common.write16(common::QUEUE_ENABLE, 1);
        Ok(Queue::new(ring, doorbell, self.clone()))
    }

    /// Size of the selected queue: the device's, made smaller to `max_size`.
    fn choose_size(&self, queue: u16, max_size: u16) -> Result<u16, Error> {
        let offered = self.common.read16(common::QUEUE_SIZE);
        let packed = self.has(feature::RING_PACKED);
        match offered {
            0 => Err(Error::NoQueue(queue)),
            // §2.7: a power of two. A packed queue may have any size (§2.8.10.1), but ours are powers of two.
            _ if offered > 1 << 15 || !(packed || offered.is_power_of_two()) => {
                Err(Error::QueueSize { queue, size: offered })
            }
            _ => Ok(1 << offered.min(max_size).clamp(1, MAX_QUEUE_SIZE).ilog2()),
        }
    }

    fn doorbell(&self, queue: u16) -> Result<Doorbell, Error> {
        let slot = u64::from(self.common.read16(common::QUEUE_NOTIFY_OFF));
        let offset = slot * u64::from(self.notify_multiplier);
        let at = usize::try_from(offset).ok().and_then(|offset| self.notify.at(offset, 2));
        match at {
            Some(offset) if offset % 2 == 0 => {
                Ok(Doorbell { registers: self.notify.registers.clone(), offset, queue })
            }
            _ => Err(Error::NotifyOutOfRange { queue, offset }),
        }
    }

    /// Lets configuration changes interrupt by `vector`.
    ///
    /// # Errors
    /// The device refuses the vector.
    pub(super) fn set_config_vector(&self, vector: u16) -> Result<(), Error> {
        self.common.write16(common::CONFIG_MSIX_VECTOR, vector);
        if self.common.read16(common::CONFIG_MSIX_VECTOR) == vector {
            Ok(())
        } else {
            Err(Error::VectorRefused { queue: None })
        }
    }

    /// All is set up: the device may work (§3.1.1 step 8).
    pub(super) fn driver_ok(&self) {
        self.add_status(status::DRIVER_OK);
    }

    /// Reads device configuration, again if the device changed it meanwhile (§2.5.1).
    pub(super) fn config<V>(&self, read: impl Fn(&Config<'_>) -> V) -> V {
        const MAX_CHANGES: usize = 16;
        let config = Config(self.config.as_ref());
        let mut generation = self.common.read8(common::CONFIG_GENERATION);
        let mut value = read(&config);
        for _ in 0..MAX_CHANGES {
            let now = self.common.read8(common::CONFIG_GENERATION);
            if now == generation {
                break;
            }
            generation = now;
            value = read(&config);
        }
        value
    }

    /// The first fault of the device, if it was seen to commit one.
    pub(super) fn fault(&self) -> Option<Fault> {
        Fault::from_code(self.fault.load(Ordering::Relaxed))
    }

    /// Records a fault. Only the first counts.
    #[cold]
    pub(super) fn report(&self, fault: Fault) {
        let _ = self.fault.compare_exchange(0, fault as u8, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Reads the status register: finds out about a device that asks to be reset.
    pub(super) fn check_status(&self) {
        let now = self.common.read8(common::DEVICE_STATUS);
        // All ones: the function is gone from the bus.
        if now & status::NEEDS_RESET != 0 {
            self.report(Fault::NeedsReset);
        }
    }

    /// Stops the device for good. True when it has confirmed, and so will touch no memory any more; one that has not
    /// may be asked again.
    pub(super) fn stop(&self) -> bool {
        let confirmed = match self.life.load(Ordering::Acquire) {
            life::STOPPED => return true,
            life::STUCK => self.is_reset(),
            _ => self.reset(),
        };
        let command = self.device.config_read16(COMMAND);
        self.device.config_write16(COMMAND, command & !COMMAND_BUS_MASTER);
        self.life.store(if confirmed { life::STOPPED } else { life::STUCK }, Ordering::Release);
        confirmed
    }

    /// §4.1.4.3.2: after writing 0, wait until it reads 0.
    fn reset(&self) -> bool {
        self.common.write8(common::DEVICE_STATUS, 0);
        self.is_reset()
    }

    fn is_reset(&self) -> bool {
        (0..self.max_polls()).any(|_| self.common.read8(common::DEVICE_STATUS) == 0)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// The device-specific configuration structure. What is not there reads all ones.
pub(super) struct Config<'a>(Option<&'a Window>);

impl Config<'_> {
    /// Reads 8 bits.
    pub(super) fn read8(&self, offset: usize) -> u8 {
        self.0.map_or(u8::MAX, |window| window.read8(offset))
    }

    /// Reads 16 bits.
    pub(super) fn read16(&self, offset: usize) -> u16 {
        self.0.map_or(u16::MAX, |window| window.read16(offset))
    }

    /// Reads 32 bits.
    pub(super) fn read32(&self, offset: usize) -> u32 {
        self.0.map_or(u32::MAX, |window| window.read32(offset))
    }
}

/// The virtio capabilities of a function, as found in its list.
struct Capabilities {
    found: heapless::Vec<Capability, MAX_CAPABILITIES>,
}

struct Capability {
    cfg_type: u8,
    bar: u8,
    offset: u32,
    len_bytes: u32,
    notify_multiplier: u32,
}

impl Capabilities {
    /// Walks the list (PCI 3.0 §6.7). A list that loops ends, one that points into the header too.
    fn read(device: &dyn Device) -> Self {
        let mut found = heapless::Vec::new();
        if device.config_read16(STATUS) & STATUS_CAPABILITIES == 0 {
            return Self { found };
        }
        let mut at = u16::from(device.config_read8(CAPABILITIES) & !3);
        for _ in 0..MAX_CAPABILITIES {
            if at < FIRST_CAPABILITY {
                break;
            }
            if let Some(capability) = Capability::read(device, at) {
                let _ = found.push(capability);
            }
            at = u16::from(device.config_read8(at + 1) & !3);
        }
        Self { found }
    }

    /// The first usable structure of a type, of at least `min_bytes` (§4.1.4: the driver takes the first that
    /// it can use), and its notification multiplier.
    fn find(&self, device: &dyn Device, cfg_type: u8, min_bytes: usize) -> Option<(Window, u32)> {
        let of_type = self.found.iter().filter(|capability| capability.cfg_type == cfg_type);
        of_type.into_iter().find_map(|capability| {
            let registers = device.map_bar(capability.bar).ok()?;
            let offset = usize::try_from(capability.offset).ok()?;
            let len_bytes = usize::try_from(capability.len_bytes).ok()?;
            let fits = offset.checked_add(len_bytes)? <= registers.len_bytes() && len_bytes >= min_bytes;
            // §4.1.4.3.1, §4.1.4.4.1, §4.1.4.6.1: aligned to 4 bytes, notifications to 2.
            let aligned = offset % if cfg_type == CFG_NOTIFY { 2 } else { 4 } == 0;
            (fits && aligned)
                .then_some((Window { registers, offset, len_bytes }, capability.notify_multiplier))
        })
    }
}

impl Capability {
    /// Reads the capability at `at`, if it is a virtio one (§4.1.4) on an existing BAR.
    fn read(device: &dyn Device, at: u16) -> Option<Self> {
        let cfg_type = device.config_read8(at + 3);
        let min_bytes = if cfg_type == CFG_NOTIFY { CAP_NOTIFY_BYTES } else { CAP_BYTES };
        let bar = device.config_read8(at + 4);
        let is_ours = device.config_read8(at) == CAPABILITY_VENDOR
            && device.config_read8(at + 2) >= min_bytes
            && at + u16::from(min_bytes) <= 0x100
            && bar <= 5;
        is_ours.then(|| Self {
            cfg_type,
            bar,
            offset: device.config_read32(at + 8),
            len_bytes: device.config_read32(at + 12),
            notify_multiplier: if cfg_type == CFG_NOTIFY { device.config_read32(at + 16) } else { 0 },
        })
    }
}
