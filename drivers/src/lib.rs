//! Device drivers, written once over a bus: bare PCI in the image, a model in tests.
//!
//! Main path:
//! 1. [`bus::Device`] is what the platform gives: registers, DMA memory, interrupts of one PCI function;
//! 2. [`virtio::identify`] tells what it is;
//! 3. [`virtio::net::open`] makes ports of it, [`virtio::blk::BlockDevice`] a disk,
//!    [`virtio::rng::EntropySource`] a source of entropy;
//! 4. `virtio/pci.rs` brings the device to life, [`virtio::split`] and [`virtio::packed`] are its rings,
//!    `virtio/net/pair.rs` is what a worker polls.
//!
//! Not here: finding functions on the bus, assigning BARs, programming interrupt controllers (the platform),
//! and legacy virtio.
#![no_std]

extern crate alloc;

pub mod bus;
pub mod virtio;
