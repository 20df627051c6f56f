//! Packets to services, and their answers, through a whole worker.

#[path = "../common/mod.rs"]
mod common;

mod changes;
mod errors;
mod fragments;
mod kubernetes;
mod support;
mod ways;
