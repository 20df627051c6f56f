//! Boots the real image under QEMU against real peers.
//!
//! The tests are under `tests/qemu`, listed in its `main.rs`; this library is what runs them. A test is a function of
//! an [`Experiment`], which gives it a directory for all that its machines leave behind, and takes the figures that it
//! measures. A test that fails shows the end of each console and where the captures are; one that cannot be run on
//! this machine is reported as not run. Nothing here passes or fails on a figure of time: figures are printed.

#![forbid(unsafe_code)]

mod experiment;
mod runner;

pub use experiment::Experiment;
pub use runner::{NotRun, Test, main};
