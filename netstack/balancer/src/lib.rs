//! A worker's load balancer: which backend a packet goes to, and how it gets there.
//!
//! Main path:
//! 1. control compiles services to a [`Snapshot`] with [`Builder::build`]: frontends, Maglev tables, numbered backends;
//! 2. a worker gives its [`Balancer`] vectors of packets with [`Balancer::process`], which finds their flows, chooses backends for
//!    new ones and rewrites the packets;
//! 3. each packet's [`Verdict`] says what is to be done with it.
//!
//! A flow that the worker's table knows stays with its backend as long as that lives. Any other packet goes where the table
//! of its service says, which is the same on every node, so that nothing breaks when a flow meets another
//! node, or a table that is full.
//!
//! It does not receive, send or route packets, check their lengths and checksums, decrement their TTL, or watch backends' health.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod balancer;
mod builder;
mod decide;
mod fragments;
mod passes;
mod quic;
mod snapshot;

pub use balancer::{Balancer, Decided, Encapsulation, EndedFlow, FlowTallies, Observer, Passed, Verdict};
pub use builder::{Builder, Settings};
pub use decide::Reason;
pub use snapshot::{Backend, Choice, Owner, Snapshot};
