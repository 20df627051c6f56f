//! Kubernetes Services and `EndpointSlice`s, compiled to what a load balancer works with.
//!
//! Main path:
//! 1. [`Objects::add`] takes documents as `kubectl get -o yaml` prints them, a `List` too, and refuses what it does not
//!    know by field ([`object`] is every field that is known);
//! 2. [`compile`], or [`compile_paced`] in short pieces, makes [`Frontend`]s (an address, port and protocol that clients use) and [`Pool`]s (the backends of a
//!    service's port, for one address family and one scope) of them, as one [`Site`] sees them;
//! 3. [`Pool::table`] is a pool's Maglev table.
//!
//! It reads no YAML, allocates no cluster IPs and watches no API server; what it is given is the whole of it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod annotation;
mod check_service;
mod check_slice;
mod compile;
mod endpoints;
pub mod object;
mod objects;
#[cfg(test)]
mod tests;
mod virtual_service;

pub use compile::{compile, compile_paced};
pub use objects::{Fault, Objects, Parsed, Source};
pub use virtual_service::{
    Affinity, Backend, Compiled, Exposure, Forwarding, Frontend, Pool, PoolKey, Protocol, Scope, Site, State,
};
