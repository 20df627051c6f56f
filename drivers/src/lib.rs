//! Device drivers written once over a bus: bare PCI in the image, VFIO on Linux, a model in tests.
#![no_std]

extern crate alloc;

pub mod bus;
