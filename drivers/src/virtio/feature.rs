//! Feature bits that belong to no device type (VIRTIO 1.3 §6).

/// Used and available indices say when to notify and to interrupt.
pub const EVENT_IDX: u64 = 1 << 29;
/// The device is a virtio 1 one.
pub const VERSION_1: u64 = 1 << 32;
/// The device's addresses are the bus's, possibly behind an IOMMU. Ours always are.
pub const ACCESS_PLATFORM: u64 = 1 << 33;
/// Packed virtqueues.
pub const RING_PACKED: u64 = 1 << 34;
/// Memory ordering as between a CPU and a real device. On x86 that asks nothing more of us.
pub const ORDER_PLATFORM: u64 = 1 << 36;

/// What every driver here takes where it is offered.
pub const COMMON: u64 = EVENT_IDX | ACCESS_PLATFORM | ORDER_PLATFORM;
