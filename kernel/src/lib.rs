//! The appliance's bare-metal platform: the part of it that needs no hardware, so that it is tested on
//! the host. What touches the machine, and the image's main, is the binary beside this library.
//!
//! In the order in which a booting image uses it:
//!
//! 1. [`clock`] turns counter values into time, [`calendar`] a real-time clock's registers, [`command_line`] says what is asked for.
//! 2. [`frames`] hands out physical memory, [`page_table`] maps it.
//! 3. [`acpi`] says which cores and buses there are, [`pci`] which devices.
//! 4. [`sizing`] shares memory out among the cards. [`entropy`] makes random numbers of what the machine has; [`log_ring`] keeps what the console said, for the API.
//! 5. [`unwind`] walks the stack when something went wrong, [`crash`] keeps the report for the next run.
//!
//! It forwards no packet: `dataplane`, `router` and `control` do, and the binary gives them cores, time,
//! entropy and devices.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod acpi;
pub mod calendar;
pub mod clock;
pub mod command_line;
pub mod crash;
pub mod entropy;
pub mod frames;
pub mod log_ring;
pub mod mem;
pub mod page_table;
pub mod pci;
pub mod sizing;
pub mod unwind;
