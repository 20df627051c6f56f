//! ESP of two databases with each other, and against packets of somebody else's.

mod common;
mod lifetimes;
mod numbers;
mod replay;
mod round_trips;
mod trailers;
mod vectors;
