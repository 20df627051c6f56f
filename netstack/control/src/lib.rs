//! The management plane: the API server with its TCP/IP stack, the DHCP client, the configuration store.
//!
//! Main path:
//! 1. [`Control::new`] takes the [`Parts`], chooses what to start with (`boot`, [`store`]) and puts it in force (`beginning`, `node`);
//! 2. [`Control::poll`] (`control`) is control's turn: links, punted packets, DHCP (`dhcp`), the router, the server, what is to
//!    be sent;
//! 3. TCP segments for the node pass smoltcp (`net`) and become requests (`http`);
//! 4. `api` finds each request's endpoint in its one list, checks the token (`auth`), and answers;
//! 5. a new configuration is validated by crate `config`, and put in force with a way back (`running`).
//!
//! Everything is polled by one thread, in bounded steps, and knows no platform: [`Platform`] is the machine.
//!
//! What it does not do: resolve neighbours or keep routes (`router`), TLS, name resolution, more than one user.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod api;
mod auth;
mod balancing;
mod beginning;
mod boot;
mod control;
mod date;
pub mod dhcp;
mod drops;
mod flow_log;
mod health;
mod http;
mod net;
mod node;
mod objects;
mod platform;
mod policing;
mod running;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use beginning::{Beginning, Begun, PortAtStart, Remainder};
pub use boot::ModuleRead;
pub use control::{Control, Parts};
pub use date::Date;
pub use net::direct::Stream;
pub use platform::{
    BlockDevice, BlockError, Boot, BootStage, Core, CoreRole, Memory, Platform, SECTOR_BYTES, Sector,
};
