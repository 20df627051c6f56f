//! A worker's connection table: what it decided about a flow's first packet, kept for the others.
//!
//! Main path:
//! 1. [`FlowTable::new`] allocates all memory there will ever be;
//! 2. [`FlowTable::lookup_batch`] finds the flows of a vector of packets, misses overlapping, and follows their state by TCP flags
//!    and time ([`State`]);
//! 3. a miss is decided elsewhere (Maglev, policy) and kept by [`FlowTable::insert`], or by [`FlowTable::insert_pair`] where
//!    answers pass here too;
//! 4. [`FlowTable::expire`] walks a few lines at each poll and frees what has gone quiet;
//! 5. if they are to be, windows of TCP are followed, and a segment that does not fit is told: [`FlowTable::admits`];
//! 6. while somebody wants to know, [`Tallies`] count what flows carry, and tell of those that end.
//!
//! It stores for each flow what its owners give it: a binding (such as a backend), a policy's verdict. It does not parse
//! packets, translate them, or decide anything. A flow that it does not take is served without it: losing the table costs
//! consistency while backends change, never a packet.
//!
//! # Memory
//!
//! An IPv4 flow has 32 bytes, two in a cache line, an IPv6 flow a line of its own. One entry is of both directions where answers
//! come from where the flow goes to: hash and line are the same for both. Where addresses are translated on the way, answers have
//! an entry of their own, and each direction knows the other's slot. A flow lives in its home line, given by a keyed
//! hash, or in one of the next, at most 32 slots on. Each line counts the flows that had to pass it, so that a search ends at the first
//! line that nobody passed: nearly always the home line. Entries never move, so a slot's number is good as long as its
//! flow lives. What flows carry is counted beside their entries, in lines that are asked for together with those, and not at all
//! while nobody wants to know.
//!
//! # When it is full
//!
//! A flow is *unproven* until packets have shown that both ends take part. Unproven flows may have a quarter of the table: one
//! that comes when they have half of that takes the place of the one that came longest ago, at a cost that does not depend on the
//! table. Where no slot is free, a new flow takes the place of an unproven one or is not taken. An established flow is
//! never displaced: a SYN flood costs unproven flows their entries, and nobody else.
//!
//! `cargo run --release -p flow --example lookup` measures.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod entry;
mod key;
mod link;
mod probe;
mod side;
mod state;
mod table;
mod tally;
#[cfg(test)]
mod tests;
mod unproven;
mod window;

pub use key::{Home, Key, V4, V6};
pub use side::{Found, Side, Slot};
pub use state::{Observed, State, Timeouts};
pub use table::{Answers, Config, Counts, Error, FlowTable, Newcomer, Refused, Room};
pub use tally::{End, Ended, Tallies, Tally};
pub use window::Segment;
