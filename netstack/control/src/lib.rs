//! The management plane: the API server with its TCP/IP stack, the DHCP client, the configuration store.
//!
//! Everything is polled by one thread and knows no platform: [`Platform`] is the machine.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod api;
mod auth;
mod boot;
mod control;
mod dhcp;
mod http;
mod net;
mod node;
mod platform;
mod running;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use control::{Control, Parts};
pub use net::direct::Stream;
pub use platform::{
    BlockDevice, BlockError, Boot, BootStage, Core, CoreRole, Memory, Platform, SECTOR_BYTES, Sector,
};
