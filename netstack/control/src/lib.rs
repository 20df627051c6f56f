//! The management plane: the API server with its TCP/IP stack, the DHCP client, the configuration store.
//!
//! Everything is polled by one thread and knows no platform: [`Platform`] is the machine.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "the API follows")]

extern crate alloc;

mod auth;
mod http;
mod net;
mod platform;
mod running;
pub mod store;

pub use platform::{
    BlockDevice, BlockError, Boot, BootStage, Core, CoreRole, Memory, Platform, SECTOR_BYTES, Sector,
};
