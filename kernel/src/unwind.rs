//! Walks a stack by the call frame information that the compiler leaves in `.eh_frame`.
//!
//! It needs no frame pointers, costs nothing until it is used, and is exact for the function that an
//! exception interrupted. It allocates nothing and survives a damaged stack: every read may fail.
//!
//! Sources: DWARF 5 section 6.4; Linux Standard Base 5.0, section 10.6 (`.eh_frame`).

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EndianSlice, LittleEndian, Register, RegisterRule, UnwindContext,
    UnwindContextStorage, UnwindSection, UnwindTableRow,
};

/// DWARF numbers of registers (System V ABI for x86-64, figure 3.36).
pub mod register {
    /// RBX.
    pub const RBX: usize = 3;
    /// RBP.
    pub const RBP: usize = 6;
    /// RSP.
    pub const RSP: usize = 7;
    /// R12; R13 to R15 follow.
    pub const R12: usize = 12;
    /// The return address: the program counter of a frame.
    pub const RIP: usize = 16;
    /// How many registers a frame has.
    pub const COUNT: usize = 17;
    /// All of them.
    pub const ALL: [usize; COUNT] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, RIP];
    /// Those that a function preserves for its caller, and the program counter.
    pub const PRESERVED: [usize; 8] = [RBX, RBP, RSP, R12, R12 + 1, R12 + 2, R12 + 3, RIP];
}

/// The registers of one frame, by DWARF number.
pub type Registers = [u64; register::COUNT];

type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// Room for the rules of one function, without a heap.
struct Storage;

impl UnwindContextStorage<usize> for Storage {
    type Rules = [(Register, RegisterRule<usize>); 32];
    type Stack = [UnwindTableRow<usize, Self>; 2];
}

/// The image's call frame information.
#[derive(Debug, Clone, Copy)]
pub struct CallFrames<'a> {
    section: EhFrame<Reader<'a>>,
    address: u64,
}

impl<'a> CallFrames<'a> {
    /// The content of `.eh_frame` and the address it is loaded at.
    pub fn new(section: &'a [u8], address: u64) -> Self {
        Self { section: EhFrame::new(section, LittleEndian), address }
    }

    /// The registers of the caller. `pc` is the address to look up: the faulting instruction itself, or
    /// one byte before a return address. `read` reads a word of the stack. `None` ends the walk.
    pub fn caller(
        &self,
        registers: &Registers,
        pc: u64,
        read: impl Fn(u64) -> Option<u64>,
    ) -> Option<Registers> {
        let bases = BaseAddresses::default().set_eh_frame(self.address);
        let mut entries = self.section.entries(&bases);
        let description = loop {
            let entry = entries.next().ok()??;
            if let gimli::CieOrFde::Fde(partial) = entry {
                let description = partial.parse(EhFrame::cie_from_offset).ok()?;
                if description.contains(pc) {
                    break description;
                }
            }
        };
        let mut context = UnwindContext::<usize, Storage>::new_in();
        let row = description.unwind_info_for_address(&self.section, &bases, &mut context, pc).ok()?;
        let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { return None };
        let frame = registers.get(usize::from(register.0))?.wrapping_add_signed(offset);

        let mut caller = *registers;
        for (register, rule) in row.registers() {
            let Some(slot) = caller.get_mut(usize::from(register.0)) else { continue };
            *slot = match *rule {
                RegisterRule::Offset(offset) => read(frame.wrapping_add_signed(offset))?,
                RegisterRule::ValOffset(offset) => frame.wrapping_add_signed(offset),
                RegisterRule::SameValue => *slot,
                _ => 0,
            };
        }
        caller[register::RSP] = frame;
        // The outermost function has no caller to return to; a frame that does not grow is a damaged one.
        let ends = caller[register::RIP] == 0 || frame <= registers[register::RSP];
        (!ends).then_some(caller)
    }
}
