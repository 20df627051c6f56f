//! virtio 1.x devices (OASIS VIRTIO 1.3) over PCI.
//!
//! A device is hostile. What it says is read once, checked, then used; what decides which memory is whose is
//! kept where the device cannot write. A ring on which it commits a [`Fault`] is not looked at again, and
//! the device counts as broken.

pub mod blk;
pub mod feature;
mod memory;
pub mod net;
pub mod packed;
mod pci;
mod queue;
pub mod ring;
pub mod rng;
mod shared;
pub mod split;

use core::fmt;

pub use ring::Fault;

use crate::bus::{BusError, Device};

const VENDOR: u16 = 0x1af4;

/// What a function is, as far as there is a driver for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A network card: [`net::open`].
    Net,
    /// A disk: [`blk::BlockDevice::open`].
    Block,
    /// A source of entropy: [`rng::EntropySource::open`].
    Entropy,
}

/// Tells what a PCI function is by its identity (VIRTIO 1.3 §4.1.2, §5).
#[must_use]
pub fn identify(device: &dyn Device) -> Option<DeviceKind> {
    if device.config_read16(0) != VENDOR {
        return None;
    }
    match device.config_read16(2) {
        0x1041 | 0x1000 => Some(DeviceKind::Net),
        0x1042 | 0x1001 => Some(DeviceKind::Block),
        0x1044 | 0x1005 => Some(DeviceKind::Entropy),
        _ => None,
    }
}

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The platform failed.
    Bus(BusError),
    /// No capability points to this structure, or only to where no BAR is.
    NoStructure(&'static str),
    /// The device does not confirm its reset.
    ResetTimeout,
    /// The device is older than virtio 1.
    Legacy,
    /// The device offered features and then refused them.
    FeaturesRefused(u64),
    /// The device has no such queue.
    NoQueue(u16),
    /// The queue has an impossible size.
    QueueSize {
        /// Which queue.
        queue: u16,
        /// The size that the device reported.
        size: u16,
    },
    /// A queue's doorbell lies outside the device's notification structure.
    NotifyOutOfRange {
        /// Which queue.
        queue: u16,
        /// Where the device says its doorbell is.
        offset: u64,
    },
    /// The device has no resources for an MSI-X vector of a queue, or of configuration changes.
    VectorRefused {
        /// Which queue; none for configuration changes.
        queue: Option<u16>,
    },
    /// Device configuration that makes no sense.
    Config(&'static str),
    /// A request lies outside the device or is not a whole number of sectors.
    OutOfRange,
    /// The device cannot be written.
    ReadOnly,
    /// Another request is under way.
    Busy,
    /// The device failed the request.
    Io,
    /// The device does not support the request.
    Unsupported,
    /// The device committed a fault and is out of use.
    Broken(Fault),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus(error) => error.fmt(f),
            Self::NoStructure(name) => write!(f, "no {name} structure"),
            Self::ResetTimeout => f.write_str("device does not reset"),
            Self::Legacy => f.write_str("device is older than virtio 1"),
            Self::FeaturesRefused(bits) => write!(f, "device refuses the features {bits:#x} that it offered"),
            Self::NoQueue(queue) => write!(f, "device has no queue {queue}"),
            Self::QueueSize { queue, size } => write!(f, "queue {queue} has impossible size {size}"),
            Self::NotifyOutOfRange { queue, offset } => {
                write!(f, "doorbell of queue {queue} lies out of range, at {offset:#x}")
            }
            Self::VectorRefused { queue: Some(queue) } => {
                write!(f, "device refuses an MSI-X vector for queue {queue}")
            }
            Self::VectorRefused { queue: None } => {
                f.write_str("device refuses an MSI-X vector for configuration changes")
            }
            Self::Config(what) => write!(f, "device configuration: {what}"),
            Self::OutOfRange => f.write_str("request out of range"),
            Self::ReadOnly => f.write_str("read-only"),
            Self::Busy => f.write_str("another request is under way"),
            Self::Io => f.write_str("input/output error"),
            Self::Unsupported => f.write_str("request not supported by the device"),
            Self::Broken(fault) => write!(f, "device is broken: {fault}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<BusError> for Error {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}
