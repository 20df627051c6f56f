//! Boots the real image under QEMU against real peers.
