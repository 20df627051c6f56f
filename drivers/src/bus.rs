//! The bus: all that a driver asks of the platform under it.
//!
//! The image implements these traits over PCI Express configuration space and physical memory, tests over a model; they are
//! cut so that a Linux process can do it over VFIO (regions, a DMA map and eventfds). What a device answers through
//! them is hostile input; the platform vouches only for bounds.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;

/// One PCI function, to be driven by one driver.
///
/// Configuration space reads outside the 4096 bytes, or of registers that the function does not have, answer
/// all ones, as on the wire; such writes do nothing. `offset` is a multiple of the width.
pub trait Device: Send + Sync {
    /// Reads 8 bits of configuration space.
    fn config_read8(&self, offset: u16) -> u8;
    /// Reads 16 bits of configuration space.
    fn config_read16(&self, offset: u16) -> u16;
    /// Reads 32 bits of configuration space.
    fn config_read32(&self, offset: u16) -> u32;
    /// Writes 8 bits of configuration space.
    fn config_write8(&self, offset: u16, value: u8);
    /// Writes 16 bits of configuration space.
    fn config_write16(&self, offset: u16, value: u16);
    /// Writes 32 bits of configuration space.
    fn config_write32(&self, offset: u16, value: u32);

    /// Maps a memory BAR, whole and uncached. A 64-bit BAR goes by the lower of its two numbers.
    ///
    /// # Errors
    /// There is no memory BAR of this number, or it has no address.
    fn map_bar(&self, bar: u8) -> Result<Arc<dyn Registers>, BusError>;

    /// Allocates memory that this device may read and write: contiguous in its address space, cached, zeroed,
    /// aligned to `align` bytes (a power of two, at most 4096) on both sides.
    ///
    /// # Errors
    /// There is not so much memory that the device can reach.
    fn dma_alloc(&self, len_bytes: usize, align: usize) -> Result<DmaRegion, BusError>;

    /// How many entries the MSI-X table has; 0 when the device cannot interrupt by MSI-X.
    fn msix_table_len(&self) -> u16;

    /// Programs one MSI-X table entry per target, from entry 0 on, unmasks them and turns MSI-X on.
    ///
    /// # Errors
    /// More targets than [`Device::msix_table_len`], a capability that makes no sense, or no interrupt vectors left.
    fn enable_msix(&self, targets: &[InterruptTarget]) -> Result<Vec<Box<dyn Interrupt>>, BusError>;
}

/// Who an interrupt is to wake. The platform knows which core that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptTarget {
    /// The control core.
    Control,
    /// The worker of this index.
    Worker(u16),
}

/// One enabled MSI-X table entry.
pub trait Interrupt: Send {
    /// Whether it fired since the last call. May say so without cause, must not miss one.
    fn take(&mut self) -> bool;
}

/// A mapped BAR. Every access is one volatile access of exactly that width, in program order.
///
/// An access that is misaligned or not wholly inside reads all ones and writes nothing.
pub trait Registers: Send + Sync {
    /// Size of the BAR.
    fn len_bytes(&self) -> usize;
    /// Reads 8 bits.
    fn read8(&self, offset: usize) -> u8;
    /// Reads 16 bits.
    fn read16(&self, offset: usize) -> u16;
    /// Reads 32 bits.
    fn read32(&self, offset: usize) -> u32;
    /// Reads 64 bits.
    fn read64(&self, offset: usize) -> u64;
    /// Writes 8 bits.
    fn write8(&self, offset: usize, value: u8);
    /// Writes 16 bits.
    fn write16(&self, offset: usize, value: u16);
    /// Writes 32 bits.
    fn write32(&self, offset: usize, value: u32);
    /// Writes 64 bits.
    fn write64(&self, offset: usize, value: u64);
}

/// Memory shared with a device. It is given back when dropped, so the device must have been told to leave it
/// alone by then (virtio: reset).
pub struct DmaRegion {
    ptr: NonNull<u8>,
    iova: u64,
    len_bytes: usize,
    release: Option<Release>,
}

/// What gives a region's memory back to the platform.
pub type Release = Box<dyn FnOnce(NonNull<u8>, usize) + Send>;

// SAFETY: a region is the only owner of its memory (`DmaRegion::new`), and `release` is `Send`.
unsafe impl Send for DmaRegion {}
// SAFETY: through `&DmaRegion` only the address and length can be read.
unsafe impl Sync for DmaRegion {}

impl DmaRegion {
    /// Wraps memory that the platform allocated.
    ///
    /// # Safety
    /// `ptr` is valid for reads and writes of `len_bytes` until `release` is called with it, nobody else uses
    /// that memory but the device, which sees it at `iova`, and no Rust reference into it exists.
    #[must_use]
    pub unsafe fn new(ptr: NonNull<u8>, iova: u64, len_bytes: usize, release: Release) -> Self {
        Self { ptr, iova, len_bytes, release: Some(release) }
    }

    /// Where the CPU finds it. The device may write there at any time: use volatile or atomic accesses.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Where the device finds it.
    #[must_use]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Its size.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

impl Drop for DmaRegion {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release(self.ptr, self.len_bytes);
        }
    }
}

impl fmt::Debug for DmaRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaRegion({:p}, iova {:#x}, {} bytes)", self.ptr, self.iova, self.len_bytes)
    }
}

/// Why the platform could not do what a driver asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusError {
    /// There is no memory BAR of this number, or it has no address.
    NoBar(u8),
    /// No memory that the device can reach.
    OutOfDmaMemory {
        /// How much was asked for.
        len_bytes: usize,
    },
    /// The MSI-X table is smaller than asked, or its capability makes no sense.
    NoMsix {
        /// How many entries were asked for.
        wanted: u16,
    },
    /// The platform has no interrupt vectors left.
    OutOfVectors,
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBar(bar) => write!(f, "no usable memory BAR {bar}"),
            Self::OutOfDmaMemory { len_bytes } => write!(f, "no DMA memory for {len_bytes} bytes"),
            Self::NoMsix { wanted } => write!(f, "no MSI-X table with {wanted} entries"),
            Self::OutOfVectors => write!(f, "out of interrupt vectors"),
        }
    }
}

impl core::error::Error for BusError {}
