//! A laboratory of virtual machines, network namespaces and captured wires, for demos and tests.
//!
//! What one is made of, in the order in which an experiment uses it:
//!
//! 1. [`host`]: what this machine allows (accelerator, privileges, user namespaces).
//! 2. [`Nic`]: one interface of a machine: a TAP device, a frame socket, or QEMU's own user-mode network.
//! 3. [`Vm`]: a booted image with its [`Console`], its [`Qmp`] control channel and its management [`Api`].
//! 4. [`Netns`]: a Linux network namespace at the far end of a TAP device, where real programs run.
//! 5. [`FrameSocket`]: the far end of a `-netdev dgram`, where a test sends and receives raw frames without root.
//! 6. [`Cable`]: two machines joined directly. [`Station`]: a small host on a frame socket. [`pcap`] and [`frame`]: captures, and frames made and taken apart
//!    by an implementation that is not ours.
//! 7. [`guest`]: a Debian kernel as a peer, with a shell to it.
//!
//! [`gateway`] is the setting that most experiments share; [`relay`] reaches into a namespace. Everything cleans up after itself when dropped. There are no
//! simulated networks here: frames cross real sockets and real devices.

#![forbid(unsafe_code)]

mod api;
mod cable;
mod console;
pub mod farm;
pub mod frame;
mod frame_socket;
pub mod gateway;
pub mod guest;
pub mod host;
mod netns;
mod nic;
pub mod pcap;
pub mod process;
mod qmp;
pub mod relay;
mod station;
mod vm;

pub use api::{Api, Reply};
pub use cable::Cable;
pub use console::Console;
pub use frame_socket::FrameSocket;
pub use netns::Netns;
pub use nic::Nic;
pub use qmp::Qmp;
pub use station::Station;
pub use vm::{Core, Vm, VmBuilder};
