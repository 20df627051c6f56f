//! Memory: page frames, the page tables in use, the heap, stacks.

use crate::image;
use boot::{BootInfo, PhysicalMemory};
use core::alloc::Layout;
use core::arch::x86_64::__cpuid;
use core::ops::Range;
use core::ptr::NonNull;
use kernel::frames::{FRAME_BYTES, FrameAllocator};
use kernel::page_table::{Access, PageTable, Table};
use log::warn;
use spin::mutex::SpinMutex;
use talc::base::{Talc, binning::Binning};
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags, Efer, EferFlags};
use x86_64::structures::paging::PhysFrame;

/// Where the record of a crash survives a restart: below the image, touched by no loader.
pub const CRASH_RECORD: Range<u64> = 0x10_0000..0x11_0000;

/// The heap grows by at least this much, and by at least this part of what it has.
const HEAP_STEP_BYTES: u64 = 1 << 20;
const HEAP_STEP_PART: u64 = 8;

/// The boot code's page tables map this much.
const BOOT_MAPPED: u64 = 4 << 30;

/// Gives the page tables memory.
type NewTable = fn() -> Option<NonNull<Table>>;

static FRAMES: spin::Mutex<FrameAllocator> = spin::Mutex::new(FrameAllocator::new());
static TABLES: SpinMutex<Option<PageTable<NewTable>>> = SpinMutex::new(None);

#[global_allocator]
static HEAP: talc::TalcLock<spin::Mutex<()>, HeapSource> =
    talc::TalcLock::new(HeapSource { end: None, bytes: 0 });

/// Physical memory while the boot code's page tables are in use, which map everything below 4 GiB.
pub struct EarlyMemory(());

impl EarlyMemory {
    /// # Safety
    /// The boot code's page tables are in use until [`protect`] takes the value back.
    pub unsafe fn new() -> Self {
        Self(())
    }
}

impl PhysicalMemory for EarlyMemory {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let end = address.checked_add(len as u64)?;
        if address == 0 || end > BOOT_MAPPED {
            return None;
        }
        // SAFETY: everything below 4 GiB is mapped as long as this value lives, and what loader and
        // firmware left is not written meanwhile: no frame of it is handed out.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, len) })
    }
}

/// Gives the free memory to the frame allocator; from here on the heap works.
pub fn init(boot_info: &BootInfo) {
    let mut free = boot_info.free_memory.clone();
    let unused_bytes = boot_info.unused_bytes + free.remove_at_least(reserved());
    if unused_bytes > 0 {
        warn!(target: "boot", "memory is in too many pieces: {} KiB stay unused", unused_bytes / 1024);
    }
    let added = FRAMES.lock().add(free.iter());
    assert!(added.is_ok(), "the frame allocator holds more pieces than a memory map");
}

/// What is in memory before anybody allocates: the record of a crash and the image.
pub fn reserved() -> Range<u64> {
    CRASH_RECORD.start..image::all().end
}

/// Physical addresses end here: the CPU has no more bits, or page tables of four levels do not.
pub fn address_limit() -> u64 {
    const LOWER_HALF: u64 = 1 << 47;
    let bits = __cpuid(0x8000_0008).eax & 0xff;
    1u64.checked_shl(bits.max(36)).unwrap_or(LOWER_HALF).min(LOWER_HALF)
}

/// Replaces the boot code's page tables: constants and code read-only, everything but code not
/// executable, nothing at address zero, a guard page below the boot stack, nothing but RAM mapped.
pub fn protect(_done: EarlyMemory, boot_info: &BootInfo) {
    const GIGABYTE_PAGES: u32 = 1 << 26;
    let gigabyte_pages = __cpuid(0x8000_0001).edx & GIGABYTE_PAGES != 0;
    let allocate: NewTable = || frames_for_ever(FRAME_BYTES).map(NonNull::cast);
    let table = PageTable::new(allocate, gigabyte_pages).and_then(|mut table| {
        for ram in boot_info.ram.iter() {
            table.set(ram, Access::ReadWrite)?;
        }
        table.set(0..FRAME_BYTES, Access::Absent)?;
        table.set(image::text(), Access::Execute)?;
        table.set(image::rodata(), Access::ReadOnly)?;
        table.set(image::boot_stack_guard()..image::boot_stack_guard() + FRAME_BYTES, Access::Guard)?;
        Ok(table)
    });
    let Ok(table) = table else { panic!("no memory for page tables") };
    let root = PhysFrame::containing_address(PhysAddr::new(table.root()));
    *TABLES.lock() = Some(table);
    // SAFETY: the tables map code, data and the stack in use, with the no-execute bit switched on first.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr3::write(root, Cr3Flags::empty());
    }
}

/// The page tables in use, for a core that starts: below 4 GiB, as memory is handed out lowest first.
pub fn page_tables() -> u32 {
    let root = Cr3::read().0.start_address().as_u64();
    u32::try_from(root).unwrap_or_else(|_| panic!("page tables at {root:#x}, above 4 GiB"))
}

/// What `address` may be used for; `None` before [`protect`].
///
/// A crash asks this, and it may have stopped a core in the middle of a change: then the tables are read as they are.
pub fn access(address: u64) -> Option<Access> {
    if let Some(tables) = TABLES.try_lock() {
        return tables.as_ref().map(|tables| tables.access(address));
    }
    // SAFETY: the core that holds the lock is the one that crashed or was stopped by the crash, so that nobody writes.
    // Entries are whole words, and the tables that they lead to are never freed.
    let tables = unsafe { (*TABLES.as_mut_ptr()).as_ref() };
    tables.map(|tables| tables.access(address))
}

/// Changes what a range may be used for, on this core at once, on others when they next load CR3.
pub fn set_access(range: Range<u64>, access: Access) {
    let mut tables = TABLES.lock();
    let changed = tables.as_mut().map(|tables| tables.set(range, access));
    assert!(changed == Some(Ok(())), "no memory for page tables");
    x86_64::instructions::tlb::flush_all();
}

/// Contiguous, zeroed page frames, which the caller owns until it hands them to [`free_frames`].
pub fn frames(bytes: u64, align: u64) -> Option<NonNull<u8>> {
    let pointer = stale_frames(bytes, align)?;
    // SAFETY: the frames are ours alone, and all RAM is identity-mapped.
    unsafe { pointer.write_bytes(0, usize::try_from(bytes).ok()?) };
    Some(pointer)
}

/// As [`frames`], with whatever was there before in them.
pub fn stale_frames(bytes: u64, align: u64) -> Option<NonNull<u8>> {
    let start = FRAMES.lock().allocate(bytes, align, u64::MAX)?;
    NonNull::new(start as *mut u8)
}

/// Contiguous page frames that are never given back, with whatever was there before in them.
fn frames_for_ever(bytes: u64) -> Option<NonNull<u8>> {
    let start = FRAMES.lock().allocate_for_ever(bytes, u64::MAX)?;
    NonNull::new(start as *mut u8)
}

/// Gives frames back.
///
/// # Safety
/// `start` came from [`frames`] for `bytes`, and nothing uses the memory any more.
pub unsafe fn free_frames(start: NonNull<u8>, bytes: u64) {
    FRAMES.lock().free(start.as_ptr() as u64, bytes);
}

/// A stack of `bytes` that stays for ever, with a guard page below it. Returns its upper end.
pub fn stack(bytes: u64) -> u64 {
    let Some(guard) = frames_for_ever(FRAME_BYTES + bytes) else { panic!("no memory for a stack") };
    let guard = guard.as_ptr() as u64;
    set_access(guard..guard + FRAME_BYTES, Access::Guard);
    guard + FRAME_BYTES + bytes
}

/// Free page frames (the heap's own reserve does not count) and all that were free at boot, in bytes.
pub fn usage() -> (u64, u64) {
    let frames = FRAMES.lock();
    (frames.free_bytes(), frames.total_bytes())
}

/// The content of the first boot module, if there is a usable one.
pub fn module(boot_info: &BootInfo) -> Option<&'static [u8]> {
    match boot_info.first_module(&[reserved()]) {
        // SAFETY: it is RAM that the frame allocator never had, without the image and the crash record, and nothing
        // writes to it.
        Ok(Some(range)) => Some(unsafe {
            core::slice::from_raw_parts(range.start as *const u8, (range.end - range.start) as usize)
        }),
        Ok(None) => None,
        Err(error) => {
            warn!(target: "boot", "{error}: it is not used");
            None
        }
    }
}

/// What firmware left, wherever it is, with the kernel's page tables in use: mapped read-only when it is looked at.
pub struct FirmwareMemory;

impl PhysicalMemory for FirmwareMemory {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let end = address.checked_add(len as u64).filter(|&end| end <= address_limit())?;
        for page in (address / FRAME_BYTES * FRAME_BYTES..end).step_by(FRAME_BYTES as usize) {
            match access(page)? {
                Access::Absent if page != 0 => set_access(page..page + FRAME_BYTES, Access::ReadOnly),
                Access::ReadWrite | Access::ReadOnly => {}
                _ => return None,
            }
        }
        // SAFETY: the pages are mapped, and what firmware left is not written meanwhile: no frame of it is handed out.
        Some(unsafe { core::slice::from_raw_parts(address as *const u8, len) })
    }
}

/// Bytes of the heap that are in use.
pub fn heap_used() -> u64 {
    HEAP.lock().counters().allocated_bytes as u64
}

/// Gives the heap page frames when it runs out.
#[derive(Debug)]
struct HeapSource {
    /// Where the newest piece of the heap ends.
    end: Option<NonNull<u8>>,
    /// All that the heap was given.
    bytes: u64,
}

// SAFETY: the pointer names memory that is the heap's whichever core asks.
unsafe impl Send for HeapSource {}

// SAFETY: neither the frame allocator nor this code allocates from the heap.
unsafe impl talc::source::Source for HeapSource {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // Room for the allocator's own bookkeeping and for alignment.
        let wanted = (layout.size() + layout.align()) as u64 + FRAME_BYTES;
        let generous = wanted.max(talc.source.bytes / HEAP_STEP_PART).next_multiple_of(HEAP_STEP_BYTES);
        let mut frames = FRAMES.lock();
        let (start, bytes) = [generous, wanted.next_multiple_of(FRAME_BYTES)]
            .into_iter()
            .find_map(|bytes| Some((frames.allocate_for_ever(bytes, u64::MAX)?, bytes)))
            .ok_or(())?;
        drop(frames);
        talc.source.bytes += bytes;
        let start = start as *mut u8;
        let end = start.wrapping_add(bytes as usize);
        // SAFETY: the frames are the heap's alone from here on; `source.end` is where it ends.
        talc.source.end = unsafe {
            match talc.source.end {
                Some(heap_end) if heap_end.as_ptr() == start => Some(talc.extend(heap_end, end)),
                _ => Some(talc.claim(start, end as usize - start as usize).ok_or(())?),
            }
        };
        Ok(())
    }
}
