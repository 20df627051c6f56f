//! The packet graph: nodes over vectors of packets, counters, drop reasons, trace.
#![no_std]
#![forbid(unsafe_code)]
