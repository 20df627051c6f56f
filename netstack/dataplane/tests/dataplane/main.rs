//! Packets through whole workers, whose ports are memory.

mod common;
mod control;
mod forwarding;
mod fragmentation;
mod hostile;
mod icmp;
mod ipsec;
mod malformed;
mod pair;
mod policy;
mod services;
mod workers;
