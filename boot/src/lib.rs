//! How an image starts: entry code per boot protocol, linker script, boot information.
#![no_std]
