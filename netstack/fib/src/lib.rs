//! Longest-prefix-match tables for IPv4 and IPv6 that are read while they change.
//!
//! Workers hold an `Arc<Fib4>` or `Arc<Fib6>` and call [`Fib::lookup_batch`] with the destinations of a vector.
//! Control holds the one [`Writer`] of each table and calls [`Writer::insert`] and [`Writer::remove`]. A lookup
//! that runs while a route changes gives the value from before or from after the change.
//!
//! What a change unlinks may still be read by a lookup that began earlier. [`Writer::retire`] says which generation
//! the workers must reach before it may be used again, [`Writer::reclaim`] that they have reached it.
//!
//! It does not know what a value means: it is a number from 1 to [`VALUE_MAX`] given by whoever inserts; 0 is "no route".
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod prefix;
mod table;

pub use prefix::{Key, Prefix};
pub use table::{Error, Fib, Fib4, Fib4Writer, Fib6, Fib6Writer, Memory, NO_ROUTE, VALUE_MAX, Writer};
