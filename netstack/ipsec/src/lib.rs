//! ESP (RFC 4303): security associations, their databases, encapsulation and decapsulation of vectors of packets.
//!
//! Main path:
//! 1. control describes a security association ([`SaParameters`]), and [`Sa::new`] checks it and makes its keys ready;
//! 2. it keeps them in a [`Database`] with tunnels and policies, and publishes a [`Snapshot`] of it after each change;
//! 3. workers find the SA of a packet in the snapshot and hand whole vectors to [`encapsulate`] and [`decapsulate`];
//!    Packets that fill several buffers go one by one through a worker's [`Long`];
//! 4. control asks [`Database::poll`] what expired, and reads each SA's [`SaCounters`].
//!
//! An [`Sa`] is shared by all workers and by successive snapshots: its sequence numbers and its anti-replay window are
//! atomics in it, so that a packet of one SA may be worked on by any core.
//!
//! Before changing it read RFC 4301, 4303, 4106, 3948, 6040 and 6479.
//!
//! What it does not do: negotiate keys, route packets, reassemble fragments, or AH.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod cipher;
mod database;
mod decapsulate;
mod encapsulate;
mod error;
mod inner;
mod jobs;
mod long;
mod mss;
mod outer;
mod params;
mod path_mtu;
mod peer;
mod policy;
mod replay;
mod rules;
mod sa;
mod secret;
mod selector;
mod sequence;
mod snapshot;
mod table;

pub use database::{Database, DatabaseError, Event, EventKind};
pub use decapsulate::decapsulate;
pub use encapsulate::encapsulate;
pub use error::EspError;
pub use long::Long;
pub use mss::clamp_mss;
pub use params::{
    Algorithm, DfPolicy, Direction, DscpPolicy, EcnPolicy, Lifetimes, Limits, MAX_REPLAY_WINDOW,
    MIN_REPLAY_WINDOW, Mode, NatT, SaError, SaId, SaParameters, TtlPolicy, TunnelId,
};
pub use policy::{Action, Policy};
pub use replay::Window;
pub use sa::{Entropy, Sa, SaCounters};
pub use secret::SecretBytes;
pub use selector::{PacketFacts, Selector};
pub use sequence::{Claimant, Sequence};
pub use snapshot::{Snapshot, Tunnel};
