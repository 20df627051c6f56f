//! Access to PCI configuration space: memory-mapped where ACPI says so, else by the legacy ports.

use crate::memory;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use kernel::acpi::Ecam;
use kernel::page_table::Access;
use kernel::pci::{Address, ConfigSpace, Width};
use x86_64::instructions::port::{Port, PortRead, PortWrite};

/// Bytes of a function's configuration space, and those that the ports reach.
const FUNCTION_BYTES: u16 = 4096;
const LEGACY_BYTES: u16 = 256;

/// Configuration space of the machine.
pub enum Space {
    /// PCI Express (PCI Express Base 6.0, section 7.2.2).
    MemoryMapped(Vec<Ecam>),
    /// Ports `CF8h` and `CFCh`, of which one core at a time can make use (PCI Local Bus 3.0, section 3.2.2.3.2).
    Legacy(spin::Mutex<()>),
}

impl Space {
    /// The space that `ecam` describes, or, if that is empty, the one behind the ports.
    pub fn new(ecam: &[Ecam]) -> Self {
        if ecam.is_empty() {
            return Self::Legacy(spin::Mutex::new(()));
        }
        for ecam in ecam {
            memory::set_access(ecam.range(), Access::Device);
        }
        Self::MemoryMapped(ecam.to_vec())
    }

    /// The buses that it reaches, by segment.
    pub fn buses(&self) -> Vec<(u16, RangeInclusive<u8>)> {
        match self {
            Self::MemoryMapped(ecam) => ecam.iter().map(|ecam| (ecam.segment, ecam.buses.clone())).collect(),
            Self::Legacy(_) => Vec::from([(0, 0..=u8::MAX)]),
        }
    }

    /// One body for all registers: boot under emulation takes as long as there is different code.
    #[inline(never)]
    fn load<T: PortRead>(&self, at: Address, offset: u16, nothing: T) -> T {
        match self {
            Self::MemoryMapped(ecam) => match register(ecam, at, offset) {
                // SAFETY: `new` mapped the range, and the register lies within it, aligned.
                Some(register) => unsafe { (register as *const T).read_volatile() },
                None => nothing,
            },
            Self::Legacy(lock) => {
                let _guard = lock.lock();
                match select(at, offset) {
                    // SAFETY: reading configuration space has no side effect on memory.
                    Some(port) => unsafe { Port::<T>::new(port).read() },
                    None => nothing,
                }
            }
        }
    }

    #[inline(never)]
    fn store<T: PortWrite>(&self, at: Address, offset: u16, value: T) {
        match self {
            Self::MemoryMapped(ecam) => {
                if let Some(register) = register(ecam, at, offset) {
                    // SAFETY: as in `load`; what a device does then is the driver's responsibility.
                    unsafe { (register as *mut T).write_volatile(value) };
                }
            }
            Self::Legacy(lock) => {
                let _guard = lock.lock();
                if let Some(port) = select(at, offset) {
                    // SAFETY: as above.
                    unsafe { Port::<T>::new(port).write(value) };
                }
            }
        }
    }
}

/// The address of a memory-mapped register.
fn register(ecam: &[Ecam], at: Address, offset: u16) -> Option<u64> {
    let ecam = ecam.iter().find(|ecam| ecam.segment == at.segment && ecam.buses.contains(&at.bus))?;
    let function =
        u64::from(at.bus) << 20 | u64::from(at.device & 31) << 15 | u64::from(at.function & 7) << 12;
    (offset < FUNCTION_BYTES).then_some(ecam.base + function + u64::from(offset))
}

/// Points the data port at a register; the port to access it by.
fn select(at: Address, offset: u16) -> Option<u16> {
    const ADDRESS: u16 = 0xcf8;
    const DATA: u16 = 0xcfc;
    const ENABLE: u32 = 1 << 31;
    if at.segment != 0 || offset >= LEGACY_BYTES {
        return None;
    }
    let function =
        u32::from(at.bus) << 16 | u32::from(at.device & 31) << 11 | u32::from(at.function & 7) << 8;
    // SAFETY: the port only selects; the caller holds the lock.
    unsafe { Port::<u32>::new(ADDRESS).write(ENABLE | function | u32::from(offset & 0xfc)) };
    Some(DATA + (offset & 3))
}

impl ConfigSpace for Space {
    fn read(&self, at: Address, offset: u16, width: Width) -> u32 {
        let offset = aligned(offset, width);
        match width {
            Width::Byte => self.load(at, offset, u8::MAX).into(),
            Width::Word => self.load(at, offset, u16::MAX).into(),
            Width::Doubleword => self.load(at, offset, u32::MAX),
        }
    }

    fn write(&self, at: Address, offset: u16, width: Width, value: u32) {
        let offset = aligned(offset, width);
        match width {
            Width::Byte => self.store(at, offset, value as u8),
            Width::Word => self.store(at, offset, value as u16),
            Width::Doubleword => self.store(at, offset, value),
        }
    }
}

fn aligned(offset: u16, width: Width) -> u16 {
    offset & !(width as u16 - 1)
}
