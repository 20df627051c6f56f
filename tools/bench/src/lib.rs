//! Measures the dataplane: clocks per packet, for each node and in total, on in-memory ports in one pinned thread.
//!
//! Main path:
//! 1. [`workload::all`] lists what can be measured;
//! 2. [`rig::Rig`] builds a router of two ports for one of them: route tables, adjacencies, a worker;
//! 3. [`generator::Generator`] is both ports: it makes frames and takes them back into the pool;
//! 4. [`measure::measure`] polls the worker in many short rounds and keeps the best;
//! 5. [`report`] prints a table, and JSON.
//!
//! [`aead`] is apart from that: the cipher alone, without a router.
//!
//! Clocks are those of the time stamp counter, from ethernet-input to the frames' return to the pool. The generator
//! (node port-input) is not part of the total.
//!
//! What it does not do: measure devices, or several workers.

pub mod aead;
pub mod calibration;
pub mod counters;
pub mod generator;
pub mod measure;
pub mod report;
pub mod rig;
pub mod workload;
