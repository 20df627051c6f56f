//! The bus that drivers are written over: PCI configuration space, registers, DMA memory, MSI-X.

mod config;

use crate::traps::{self, Waiter};
use crate::{apic, cores, memory};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use boot::{BootInfo, RangeSet};
use config::Space;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};
use drivers::bus::{BusError, Device, DmaRegion, Interrupt, InterruptTarget, Registers};
use kernel::acpi::{Acpi, Ecam};
use kernel::page_table::Access;
use kernel::pci::{self, Bar, ConfigSpace, Function, Msix, Tree};
use log::{debug, warn};

static SPACE: spin::Once<Space> = spin::Once::new();

/// Finds the machine's devices, gives those an address that firmware gave none, and takes it from those whose address
/// is another's.
pub fn init(acpi: &Acpi, boot_info: &BootInfo) -> Vec<Arc<PciDevice>> {
    let limit = memory::address_limit();
    let ecam: Vec<Ecam> = acpi.ecam.iter().filter(|ecam| usable(ecam, boot_info, limit)).cloned().collect();
    let space = SPACE.call_once(|| Space::new(&ecam));
    let mut trees: Vec<Tree> =
        space.buses().into_iter().map(|(segment, buses)| pci::scan(space, segment, buses)).collect();
    if trees.iter().all(|tree| tree.functions.is_empty()) {
        warn!(
            target: "pci",
            "no devices, so no network cards: ACPI's MCFG table names {} configuration spaces. A bus that only ACPI's \
             byte code describes, as QEMU's microvm has it, is not found",
            ecam.len()
        );
    }
    assign(space, &ecam, boot_info, &mut trees);
    let mut functions: Vec<Function> = trees.into_iter().flat_map(|tree| tree.functions).collect();
    for refused in pci::refuse_conflicts(&mut functions, &taken(acpi, &ecam, boot_info), limit) {
        warn!(target: "pci", "{refused}");
    }
    let mut devices = Vec::new();
    for function in functions {
        let (vendor, device) = function.id;
        let entries = function.msix.map_or(0, |msix| msix.entries);
        debug!(target: "pci", "{} is {vendor:04x}:{device:04x}, {entries} MSI-X entries", function.at);
        devices.push(Arc::new(PciDevice { function, space, mapped: AtomicU8::new(0) }));
    }
    devices
}

/// Whether configuration space can be where ACPI says.
fn usable(ecam: &Ecam, boot_info: &BootInfo, limit: u64) -> bool {
    let usable = ecam.is_plausible(&boot_info.ram, limit);
    if !usable {
        let Range { start, end } = ecam.range();
        warn!(target: "pci", "configuration space at {start:#x} to {end:#x} is not used: no place for it");
    }
    usable
}

/// Gives what has no address one.
fn assign(space: &Space, ecam: &[Ecam], boot_info: &BootInfo, trees: &mut [Tree]) {
    let unassigned =
        |tree: &Tree| tree.functions.iter().flat_map(|f| f.bars).flatten().any(|bar| bar.address == 0);
    if !trees.iter().any(unassigned) {
        return;
    }
    trees.iter_mut().for_each(|tree| pci::measure(space, &mut tree.functions));
    let mut free = free_addresses(ecam, boot_info);
    for range in trees.iter().flat_map(|tree| pci::assigned(&tree.functions)) {
        let _ = free.remove_at_least(range);
    }
    for tree in trees {
        let failed = pci::assign(space, tree, &mut free);
        if failed != 0 {
            warn!(target: "pci", "{failed} BARs have no address");
        }
    }
}

/// What no BAR may overlap: memory, configuration space, interrupt controllers.
fn taken(acpi: &Acpi, ecam: &[Ecam], boot_info: &BootInfo) -> Vec<Range<u64>> {
    /// Where interrupts are sent to, and each core's own controller by default.
    const MESSAGES: Range<u64> = 0xfee0_0000..0xfef0_0000;
    const IO_APIC_BYTES: u64 = 0x1000;
    let io_apics = acpi.io_apics.iter().map(|&at| at..at.saturating_add(IO_APIC_BYTES));
    boot_info.ram.iter().chain(ecam.iter().map(Ecam::range)).chain(io_apics).chain([MESSAGES]).collect()
}

/// Addresses that neither memory nor configuration space has.
fn free_addresses(ecam: &[Ecam], boot_info: &BootInfo) -> RangeSet<512> {
    const GIB: u64 = 1 << 30;
    /// I/O APIC, local APIC and firmware, to 4 GiB.
    const FIXED_DEVICES: u64 = 0xfec0_0000;
    let ram_end =
        |limit: u64| boot_info.ram.iter().map(|ram| ram.end).filter(|&end| end <= limit).max().unwrap_or(0);
    let mut free = RangeSet::new();
    // A quarter of a gigabyte above memory is what chipsets keep for themselves.
    let low = ram_end(4 * GIB).next_multiple_of(GIB / 4)..FIXED_DEVICES;
    let high = ram_end(u64::MAX).max(4 * GIB).next_multiple_of(GIB)..memory::address_limit();
    for range in [low, high] {
        let _ = free.insert_largest(range.start..range.end.max(range.start));
    }
    for ecam in ecam {
        let _ = free.remove_at_least(ecam.range());
    }
    free
}

/// One function of the machine's PCI buses.
pub struct PciDevice {
    function: Function,
    space: &'static Space,
    /// The BARs that are mapped, a bit each.
    mapped: AtomicU8,
}

impl PciDevice {
    /// Where the function is.
    pub fn address(&self) -> pci::Address {
        self.function.at
    }

    fn bar(&self, number: u8) -> Option<Bar> {
        let bar = (*self.function.bars.get(usize::from(number))?)?;
        Some(bar).filter(|bar| bar.address != 0)
    }
}

impl Device for PciDevice {
    fn config_read8(&self, offset: u16) -> u8 {
        self.space.read8(self.function.at, offset)
    }

    fn config_read16(&self, offset: u16) -> u16 {
        self.space.read16(self.function.at, offset)
    }

    fn config_read32(&self, offset: u16) -> u32 {
        self.space.read32(self.function.at, offset)
    }

    fn config_write8(&self, offset: u16, value: u8) {
        self.space.write8(self.function.at, offset, value);
    }

    fn config_write16(&self, offset: u16, value: u16) {
        self.space.write16(self.function.at, offset, value);
    }

    fn config_write32(&self, offset: u16, value: u32) {
        self.space.write32(self.function.at, offset, value);
    }

    fn map_bar(&self, number: u8) -> Result<Arc<dyn Registers>, BusError> {
        let bar = self.bar(number).ok_or(BusError::NoBar(number))?;
        let len_bytes = usize::try_from(bar.bytes).map_err(|_| BusError::NoBar(number))?;
        // Every change of the page tables empties the cores' memory of them.
        if self.mapped.fetch_or(1 << number, Ordering::Relaxed) & 1 << number == 0 {
            memory::set_access(bar.address..bar.address + bar.bytes, Access::Device);
        }
        Ok(Arc::new(MappedBar { address: bar.address as usize, len_bytes }))
    }

    fn dma_alloc(&self, len_bytes: usize, align: usize) -> Result<DmaRegion, BusError> {
        let out_of_memory = BusError::OutOfDmaMemory { len_bytes };
        let memory = memory::frames(len_bytes as u64, align as u64).ok_or(out_of_memory)?;
        let release = Box::new(|memory: NonNull<u8>, len_bytes: usize| {
            // SAFETY: called once, when the region is dropped, with what `frames` returned.
            unsafe { memory::free_frames(memory, len_bytes as u64) };
        });
        // SAFETY: the frames are nobody else's, zeroed, and identity-mapped, so that devices see them where we do.
        Ok(unsafe { DmaRegion::new(memory, memory.as_ptr() as u64, len_bytes, release) })
    }

    fn msix_table_len(&self) -> u16 {
        // Other cores that no message reaches are not started; the first one is there whatever its number.
        let reachable = message_address(InterruptTarget::Control).is_some();
        self.function.msix.filter(|_| reachable).map_or(0, |msix| msix.entries)
    }

    fn enable_msix(&self, targets: &[InterruptTarget]) -> Result<Vec<Box<dyn Interrupt>>, BusError> {
        let no_msix = BusError::NoMsix { wanted: u16::try_from(targets.len()).unwrap_or(u16::MAX) };
        let msix =
            self.function.msix.filter(|msix| targets.len() <= usize::from(msix.entries)).ok_or(no_msix)?;
        let table = self.map_bar(msix.bar)?;
        let control = msix.capability + Msix::CONTROL;
        let value = self.config_read16(control) | Msix::ENABLE;
        self.config_write16(control, value | Msix::MASK_ALL);
        let mut interrupts: Vec<Box<dyn Interrupt>> = Vec::new();
        for (index, &target) in targets.iter().enumerate() {
            let vector = traps::allocate_vector();
            let at = msix.offset as usize + index * Msix::ENTRY_BYTES;
            table.write32(at, message_address(target).ok_or(BusError::OutOfVectors)?);
            table.write32(at + 4, 0);
            table.write32(at + 8, u32::from(vector));
            table.write32(at + 12, 0);
            interrupts.push(Box::new(MsixInterrupt(Waiter::new(vector))));
        }
        self.config_write16(control, value & !Msix::MASK_ALL);
        Ok(interrupts)
    }
}

/// Where a message goes to interrupt a core.
fn message_address(target: InterruptTarget) -> Option<u32> {
    let core = match target {
        InterruptTarget::Control => cores::control(),
        InterruptTarget::Worker(index) => cores::worker(usize::from(index)),
    };
    apic::message_address(core?.apic_id())
}

struct MsixInterrupt(Waiter);

impl Interrupt for MsixInterrupt {
    fn take(&mut self) -> bool {
        self.0.take()
    }
}

/// A BAR, identity-mapped.
struct MappedBar {
    address: usize,
    len_bytes: usize,
}

impl MappedBar {
    /// The register at `offset`, if it is aligned and wholly inside.
    fn register<T>(&self, offset: usize) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>())?;
        (end <= self.len_bytes && offset.is_multiple_of(size_of::<T>()))
            .then_some((self.address + offset) as *mut T)
    }

    fn read<T>(&self, offset: usize, nothing: T) -> T {
        // SAFETY: `map_bar` mapped the BAR as device registers, and the access is aligned and inside.
        self.register::<T>(offset).map_or(nothing, |register| unsafe { register.read_volatile() })
    }

    fn write<T>(&self, offset: usize, value: T) {
        if let Some(register) = self.register::<T>(offset) {
            // SAFETY: as in `read`; what a device does then is the driver's responsibility.
            unsafe { register.write_volatile(value) };
        }
    }
}

impl Registers for MappedBar {
    fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    fn read8(&self, offset: usize) -> u8 {
        self.read(offset, u8::MAX)
    }

    fn read16(&self, offset: usize) -> u16 {
        self.read(offset, u16::MAX)
    }

    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, u32::MAX)
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read(offset, u64::MAX)
    }

    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, value);
    }

    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, value);
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value);
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, value);
    }
}
