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
//! miss. Below, *compact* nodes keep one value per run of equal slots and find it by counting bits: 64 bytes for a
//! node with one route in place of 1 KiB, so that a million scattered host routes take 126 MB, not 1 GB. In IPv6 they skip the bits that
//! all routes below share, so a lookup passes as many nodes as paths part, not one for each octet.
//!
//! Compact nodes from bit 16 on were tried for IPv4: a fifth of the memory for a million /24 routes (12.5 against 64 MB), but 6 to
//! 9 clocks more per lookup (15 against 6 with 1,000 routes, 25 against 19 with a million, at 2.7 GHz), and each change
//! allocates. For IPv6 compact nodes there cost 50 clocks more with 200,000 routes (one more miss) than dense ones.
//!
//! Routes of at most 16 bits are not copied into nodes: an address that matches nothing in its node falls back to a second
//! table of first halves, then to the default route. So a short route's change costs a store per first half it covers, the
//! default route's a single one.
//!
//! `cargo run --release -p fib --example lookup` measures; on a 2.7 GHz Sapphire Rapids guest, random destinations, vectors of 256,
//! clocks per lookup: 1 default route 2, 1,000 /24 8, 60,000 /24 20, 1 M /24 33, 65,536 /32 in one /16 23; IPv6
//! 1,000 /48 31, 200,000 /48 61. A vector for one destination costs 2. An insertion takes about 1 us.
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
