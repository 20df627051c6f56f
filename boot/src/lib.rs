//! How an image starts: entry code per boot protocol, linker script, boot information.
//!
//! The main path, in order:
//!
//! 1. `image.ld` lays the image out at 2 MiB, one page-aligned segment per protection.
//! 2. [`entry!`] is the code a loader jumps to: 32-bit protected mode to long mode, then Rust.
//! 3. [`BootInfo::read`] turns what the loader handed over, by [`pvh`] or [`multiboot`], into one shape.
//! 4. [`RangeSet`] keeps the memory that is free to use; the kernel's frame allocator goes on from there.
//!
//! Before all that, module `pack` (a feature, for build tools) finished the file: what a [`backtrace`] is made of is compressed.
//!
//! It parses no ACPI, sets up no memory protection beyond what long mode needs, and starts no other core.
//!
//! # Starting the image
//!
//! `cargo xtask image` packs the ELF file that `cargo build -p kernel --release` leaves in `target/release/kernel` into
//! `target/image/fairlead.elf`, which QEMU, Firecracker, Cloud Hypervisor and iPXE load. With QEMU:
//!
//! ```text
//! qemu-system-x86_64 -M q35 -m 64M -smp 2 -kernel target/image/fairlead.elf \
//!     -append 'log=debug' -initrd config.json \
//!     -serial stdio -display none -no-reboot -nic none
//! ```
//!
//! `-append` is the command line and the first `-initrd` file the configuration; both may be left out.
//! The console is the first serial port. `-no-reboot` makes QEMU exit where the node would restart.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "pack")]
extern crate alloc;

pub mod backtrace;
mod entry;
mod info;
pub mod multiboot;
#[cfg(feature = "pack")]
pub mod pack;
pub mod pvh;
mod ranges;
pub mod symbols;

pub use entry::BOOT_STACK_BYTES;
pub use info::{
    BootError, BootInfo, COMMAND_LINE_BYTES, MEMORY_PIECES, MODULES, ModuleError, PhysicalMemory, Protocol,
};
pub use ranges::{RangeSet, RangesFull};
