//! Packets to services, and their answers.

mod changes;
mod errors;
mod fragments;
mod kubernetes;
pub mod support;
mod there_and_back;
mod ways;
