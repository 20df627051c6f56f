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
    /// The content of `.eh_frame` and the address that it was linked for.
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

#[cfg(test)]
mod tests {
    use super::*;
    use object::elf::FileHeader64;
    use object::read::elf::ElfFile;
    use object::{LittleEndian as Little, Object, ObjectSection, ObjectSymbol};
    use std::hint::black_box;

    /// Calls itself until `depth` is zero, then walks its own stack.
    #[inline(never)]
    fn descend(depth: u32, walk: &mut dyn FnMut(Registers)) -> u32 {
        if depth == 0 {
            return here(walk);
        }
        black_box(descend(depth - 1, walk)) + 1
    }

    /// Hands over its own registers, while its frame is alive.
    #[inline(never)]
    fn here(walk: &mut dyn FnMut(Registers)) -> u32 {
        let mut registers = [0; register::COUNT];
        // SAFETY: only reads registers into the array.
        unsafe {
            core::arch::asm!(
                "mov [{to} + 24], rbx",
                "mov [{to} + 48], rbp",
                "mov [{to} + 56], rsp",
                "mov [{to} + 96], r12",
                "mov [{to} + 104], r13",
                "mov [{to} + 112], r14",
                "mov [{to} + 120], r15",
                "lea {pc}, [rip]",
                "mov [{to} + 128], {pc}",
                to = in(reg) &raw mut registers,
                pc = out(reg) _,
            );
        }
        walk(registers);
        black_box(0)
    }

    /// The functions on the stack, innermost first, by the call frame information of this very program.
    fn walk(registers: Registers, frames: usize, readable: bool) -> Vec<String> {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = ElfFile::<FileHeader64<Little>>::parse(file.as_slice()).unwrap();
        let section = elf.section_by_name(".eh_frame").unwrap();
        let symbol = |name| elf.symbols().find(|symbol| symbol.name() == Ok(name)).unwrap().address();
        // The program is loaded somewhere: the distance is that of a function whose two addresses are known.
        let bias = unwind_test_anchor as *const () as u64 - symbol("unwind_test_anchor");
        let call_frames = CallFrames::new(section.data().unwrap(), section.address() + bias);

        let mut registers = registers;
        let mut pc = registers[register::RIP];
        let mut names = Vec::new();
        // SAFETY: the walk stays in frames that are alive.
        let read = |at: u64| readable.then(|| unsafe { (at as *const u64).read() });
        for _ in 0..frames {
            let at = pc - bias;
            let inside = |s: &object::read::elf::ElfSymbol<'_, '_, FileHeader64<Little>>| {
                (s.address()..s.address() + s.size()).contains(&at)
            };
            names.push(elf.symbols().find(inside).map_or(String::new(), |s| s.name().unwrap().to_owned()));
            let Some(caller) = call_frames.caller(&registers, pc, read) else { break };
            registers = caller;
            pc = registers[register::RIP] - 1;
        }
        names
    }

    #[unsafe(no_mangle)]
    extern "C" fn unwind_test_anchor() {}

    #[test]
    fn finds_every_caller() {
        let mut names = Vec::new();
        assert_eq!(descend(3, &mut |registers| names = walk(registers, 6, true)), 3);
        assert!(names[0].contains("here"), "{names:?}");
        assert!(names[1..5].iter().all(|name| name.contains("descend")), "{names:?}");
        assert!(names[5].contains("finds_every_caller"), "{names:?}");
    }

    #[test]
    fn ends_where_the_stack_cannot_be_read() {
        let mut names = Vec::new();
        let _ = descend(1, &mut |registers| names = walk(registers, 6, false));
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn damaged_information_ends_the_walk() {
        let registers = [0x1000; register::COUNT];
        for section in [&[][..], &[0xff; 64], &[1, 0, 0, 0, 0]] {
            assert_eq!(CallFrames::new(section, 0x1000).caller(&registers, 0x1000, Some), None);
        }
    }
}
