//! The code a loader jumps to, and the headers by which it recognises the image.

/// Defines the image's entry point `boot_start`, its Multiboot header and its PVH note, and calls
/// `$main: extern "C" fn(magic: u32, address: u32, entry_tsc: u64) -> !` in long mode with IF = 0,
/// SSE on, paging on over the first 4 GiB (identity, 2 MiB pages, writable, executable) and a boot
/// stack of [`BOOT_STACK_BYTES`] with the page `boot_stack_guard` below it. `magic` and `address` are EAX and EBX as the loader left them,
/// `entry_tsc` the time-stamp counter at the first instruction.
///
/// Both protocols enter in 32-bit protected mode without paging (Multiboot 1 section 3.2; Xen,
/// `docs/misc/pvh.pandoc`), so one entry serves both.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        core::arch::global_asm!(
            // Multiboot header: page-align modules, memory map, a.out-kludge (load the file as one block).
            ".pushsection .boot.multiboot, \"a\"",
            ".balign 4",
            "boot_multiboot_header:",
            ".long {multiboot_magic}, {multiboot_flags}, -({multiboot_magic} + {multiboot_flags})",
            ".long boot_multiboot_header, image_start, load_end, image_end, boot_start",
            ".popsection",
            // PVH: XEN_ELFNOTE_PHYS32_ENTRY (18).
            ".pushsection .note.Xen, \"a\", @note",
            ".balign 4",
            ".long 4, 4, 18",
            ".asciz \"Xen\"",
            ".long boot_start",
            ".popsection",
            ".pushsection .boot.text, \"ax\"",
            ".code32",
            ".global boot_start",
            "boot_start:",
            "cli",
            "cld",
            "mov edi, eax",
            "mov esi, ebx",
            "rdtsc",
            "mov ebp, eax",
            "mov esp, edx",
            // Four page directories of 2 MiB pages: present, writable, page size.
            "xor ecx, ecx",
            "2:",
            "mov eax, ecx",
            "shl eax, 21",
            "or eax, 0x83",
            "mov [boot_page_directories + ecx * 8], eax",
            "mov dword ptr [boot_page_directories + ecx * 8 + 4], 0",
            "inc ecx",
            "cmp ecx, 2048",
            "jb 2b",
            "mov eax, offset boot_page_directories + 3",
            "mov [boot_pdpt], eax",
            "add eax, 4096",
            "mov [boot_pdpt + 8], eax",
            "add eax, 4096",
            "mov [boot_pdpt + 16], eax",
            "add eax, 4096",
            "mov [boot_pdpt + 24], eax",
            "mov eax, offset boot_pdpt + 3",
            "mov [boot_pml4], eax",
            // CR4: PAE, OSFXSR, OSXMMEXCPT. Rust uses SSE2 from its first instruction.
            "mov eax, cr4",
            "or eax, 0x620",
            "mov cr4, eax",
            "mov eax, offset boot_pml4",
            "mov cr3, eax",
            // EFER: LME.
            "mov ecx, 0xc0000080",
            "rdmsr",
            "or eax, 0x100",
            "wrmsr",
            // CR0: PG, WP, NE, MP, PE on; EM, TS, CD, NW off.
            "mov eax, cr0",
            "and eax, 0x9ffffff3",
            "or eax, 0x80010023",
            "mov cr0, eax",
            "mov edx, esp",
            "lgdt [boot_gdt_pointer]",
            "ljmp 8, offset boot_long_mode",
            ".code64",
            "boot_long_mode:",
            "xor eax, eax",
            "mov ss, eax",
            "mov ds, eax",
            "mov es, eax",
            "mov fs, eax",
            "mov gs, eax",
            "shl rdx, 32",
            "mov eax, ebp",
            "or rdx, rax",
            "mov esp, offset boot_stack + {stack_bytes}",
            "xor ebp, ebp",
            "mov edi, edi",
            "mov esi, esi",
            "call {main}",
            "ud2",
            ".balign 8",
            "boot_gdt:",
            // Null, 64-bit code.
            ".quad 0, 0x00af9b000000ffff",
            "boot_gdt_pointer:",
            ".word 15",
            ".long boot_gdt",
            ".popsection",
            ".pushsection .bss.boot, \"aw\", @nobits",
            ".balign 4096",
            "boot_pml4: .skip 4096",
            "boot_pdpt: .skip 4096",
            "boot_page_directories: .skip 4 * 4096",
            ".global boot_stack_guard",
            "boot_stack_guard: .skip 4096",
            "boot_stack: .skip {stack_bytes}",
            ".popsection",
            main = sym $main,
            multiboot_magic = const 0x1bad_b002u32,
            multiboot_flags = const 0x0001_0003u32,
            stack_bytes = const $crate::BOOT_STACK_BYTES,
        );
    };
}

/// Size of the stack that [`entry!`](crate::entry) starts on, in bytes.
pub const BOOT_STACK_BYTES: usize = 128 * 1024;
