//! Longest-prefix-match tables for IPv4 and IPv6 that are read while they change.
//!
//! Main path:
//! 1. workers hold an `Arc<Fib4>` and an `Arc<Fib6>` and call [`Fib::lookup_batch`] with the destinations of a vector;
//! 2. control holds the one [`Writer`] of each and calls [`Writer::insert`] and [`Writer::remove`]; a lookup that runs
//!    meanwhile gives the value from before or from after the change;
//! 3. what a change unlinks may still be read by a lookup that began earlier: [`Writer::retire`] says which generation all
//!    readers must reach before it is used again, [`Writer::reclaim`] that they have reached it.
//!
//! It does not know what a value means: a number from 1 to [`VALUE_MAX`] given by whoever inserts; 0 is "no route".
//!
//! # Why it looks as it does
//!
//! A lookup costs its cache misses, and a vector of them can overlap. So: a direct table for the first 16 bits (256 KiB, in
//! the second-level cache), then a *dense* node of 256 slots for the next 8 bits. Most IPv4 routes end there, after a single
//! miss. Nodes below keep one value per run of equal slots. With up to 8 runs all of a node is in one cache line, and the run is
//! found by comparing eight bytes at once; with more by counting bits; with more than 96 the node has a slot each.
//! So a million scattered host routes take 126 MB, not 1 GB. In IPv6 they skip the bits that all routes below share, so a
//! lookup passes as many nodes as paths part, not one for each octet. What names a node says its kind and level too, so that
//! a reader asks for all lines that it will need at once.
//!
//! Nodes of runs from bit 16 on were tried for IPv4: a fifth of the memory for a million /24 routes (12.5 against 64 MB), but 6 to
//! 9 clocks more per lookup, and each change allocates. For IPv6 they cost 50 clocks more with 200,000 routes (one more miss).
//!
//! A lookup whose value comes from one place, a slot, needs no more care. One that matched nothing there looks at several places in
//! turn; if a second change began meanwhile, it starts again, because it may have missed both what went and what came for it.
//!
//! A table at the end of its memory can be changed and emptied. A node's block is as large as the node can become while
//! routes only go, so what replaces it is never larger; it takes a larger free block where its own size has none, and a page for
//! each size is kept back from new routes. What a change unlinks comes back with [`Writer::reclaim`], and so a removal waits at most
//! for that.
//!
//! Routes of at most 16 bits are not copied into nodes: an address that matches nothing in its node falls back to a second
//! table of first halves, then to the default route. So a short route's change costs a store per first half it covers, the
//! default route's a single one.
//!
//! `cargo run --release -p fib --example lookup` measures.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod arena;
mod node;
mod prefix;
mod table;
mod writer;

pub use prefix::{Key, Prefix};
pub use table::{Fib, Fib4, Fib6, NO_ROUTE};
pub use writer::{Error, Fib4Writer, Fib6Writer, Memory, VALUE_MAX, Writer};
