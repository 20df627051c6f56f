//! The dataplane: a graph of nodes over vectors of packets, its counters, drop reasons and trace.
//!
//! Main path:
//! 1. control describes interfaces, adjacencies and next-hop groups, [`Tables::new`] compiles them, and
//!    [`Shared::publish`] hands them to the workers; routes are in the tables of crate `fib`;
//! 2. [`Worker::poll`] takes a vector from each port, and runs the graph over it;
//! 3. packets for control come out of [`Shared::next_punt`], its own go in by [`Shared::inject`];
//! 4. [`Shared`] gives counters and drop totals to whoever asks.
//!
//! What it does not do: resolve neighbours, choose routes, or know a device; see crates `router` and `drivers`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod context;
mod counters;
mod drop_reason;
mod exchange;
mod flow_events;
mod flow_hash;
mod flows;
mod graph;
mod handoff;
mod held;
mod nodes;
mod policing;
mod published;
mod shared;
mod tables;
mod token_bucket;
mod trace;
mod worker;

pub use counters::{
    BackendCounters, Combined, FlowCounters, InterfaceCounters, NodeCounters, PacketTotals, RuleCounters,
};
pub use drop_reason::DropReason;
pub use exchange::{Inject, InjectTo, Punt, PuntReason, Refusal};
pub use flow_events::{End, FlowEvent, FlowEventKind, Traffic};
pub use flows::{FULL_NAT_PORTS, Flows};
pub use graph::Node;
pub use handoff::MAX_WORKERS;
pub use policing::Policy;
pub use rewrite::Tuple;
pub use shared::{Shared, Sleepless, Wake};
pub use tables::{
    Adjacency, AdjacencyId, Attachment, GroupId, Interface, InterfaceId, MAX_ADJACENCIES, MAX_INTERFACES,
    MAX_MTU, MAX_NEXT_HOPS, MIN_MTU, NextHopGroup, Tables, TablesError,
};
pub use token_bucket::TokenBucket;
pub use trace::{MAX_TRACED_PACKETS, NamedRecord, TRACED_BYTES, TraceRecord, TraceRequest, TracedDrops};
pub use worker::{Worker, deal};
