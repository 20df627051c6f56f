//! The virtio drivers against a model of the machine: memory, PCI function, device side of the queues.
//!
//! The device side of split queues is rust-vmm's `virtio-queue`, which nobody here wrote; of packed queues it
//! is our own, after the text of the specification.

mod hostile;
mod model;
mod net;
mod requests;
mod reset;
mod rings;
