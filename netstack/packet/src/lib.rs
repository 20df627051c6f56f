//! Wire formats and checksums of the fast path.
#![no_std]
#![forbid(unsafe_code)]

pub mod ethernet;
