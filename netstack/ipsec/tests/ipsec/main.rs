//! ESP of two databases with each other, and against packets of somebody else's.

mod common;
mod replay;
mod round_trips;
mod vectors;
