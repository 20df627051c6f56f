//! A machine with one virtio function in it.

mod card;
mod device;
mod memory;
mod packed;
mod queue;

pub use card::{Card, HEADER_BYTES, MAC, PAIRS, RINGS, model, offer, options};
pub use device::{Kind, Model, Setup, common};
pub use memory::Memory;
pub use packed::PackedDevice;
pub use queue::{Chain, DeviceQueue, Piece};
