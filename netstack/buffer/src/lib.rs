//! Packet buffers, vectors of them, the pool, and the port trait that moves them.
#![no_std]
