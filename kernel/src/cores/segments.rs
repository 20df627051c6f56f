//! Segment descriptors and the task state segment of one core.
//!
//! Source: Intel SDM volume 3A, sections 3.4.5 and 8.7.

use crate::traps::{self, stack};
use x86_64::PrivilegeLevel;
use x86_64::VirtAddr;
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment, SegmentSelector};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::tss::TaskStateSegment;

/// Index of the code segment; the task state segment follows and takes two entries.
const CODE: u16 = 1;
const TASK_STATE: u16 = 2;

static INTERRUPTS: spin::Once<traps::Table> = spin::Once::new();

/// One core's descriptors. They must not move once loaded.
pub struct Segments {
    descriptors: spin::Once<[u64; 4]>,
    task_state: TaskStateSegment,
}

impl Segments {
    /// Descriptors with these upper ends of the interrupt stacks.
    pub fn new(stacks: [u64; stack::COUNT]) -> Self {
        let mut task_state = TaskStateSegment::new();
        // The table has entries that are not used, and the structure is packed: it is filled as a whole.
        let top = |index: usize| VirtAddr::new(stacks.get(index).copied().unwrap_or(0));
        task_state.interrupt_stack_table = core::array::from_fn(top);
        Self { descriptors: spin::Once::new(), task_state }
    }

    /// The upper end of an interrupt stack, by its number from 1.
    pub fn stack(&self, number: u8) -> u64 {
        let stacks = self.task_state.interrupt_stack_table;
        stacks[usize::from(number) - 1].as_u64()
    }

    /// Makes the running core use these.
    pub fn load(&'static self) {
        const CODE_64: u64 = 0x00af_9b00_0000_ffff;
        let selector = |index| SegmentSelector::new(index, PrivilegeLevel::Ring0);
        let descriptors = self.descriptors.call_once(|| {
            let [low, high] = task_state_descriptor(&raw const self.task_state as u64);
            [0, CODE_64, low, high]
        });
        let interrupts = INTERRUPTS.call_once(|| traps::Table::new(selector(CODE).0));
        // SAFETY: both tables and the task state stay for ever, and their entries point to code and
        // stacks that do; the data segments of long mode may be null.
        unsafe {
            lgdt(&pointer(descriptors));
            CS::set_reg(selector(CODE));
            SS::set_reg(SegmentSelector::NULL);
            DS::set_reg(SegmentSelector::NULL);
            ES::set_reg(SegmentSelector::NULL);
            load_tss(selector(TASK_STATE));
            lidt(&pointer(interrupts));
        }
    }
}

fn pointer<T>(table: &'static T) -> DescriptorTablePointer {
    DescriptorTablePointer { limit: (size_of::<T>() - 1) as u16, base: VirtAddr::from_ptr(table) }
}

/// An available 64-bit task state segment at `base`.
fn task_state_descriptor(base: u64) -> [u64; 2] {
    const PRESENT_AVAILABLE_TSS: u64 = 0x89 << 40;
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    let low = limit | (base & 0xff_ffff) << 16 | PRESENT_AVAILABLE_TSS | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}
