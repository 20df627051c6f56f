//! AEADs in place over packets, many at a time.
//!
//! A caller collects [`Job`]s, one a packet, each with its own key, and hands them to an [`Aead`] in one
//! call. The main path:
//!
//! 1. [`gcm::Gcm::best`] looks at the CPU ([`cpu::Features`]) and picks a kernel, once.
//! 2. [`gcm::Key::new`] makes a key ready: schedule and powers of the hash key, 512 bytes.
//! 3. [`Job::new`] lends nonce, AAD, text and tag of a packet.
//! 4. [`Aead::seal`] encrypts and writes tags; [`Aead::open`] verifies and decrypts.
//!
//! [`chacha::ChaChaPoly`] is an [`Aead`] as well; [`cbc_hmac`] has an interface of its own, as its MAC is made
//! differently. [`Suite`] has the kernel of each that goes with the one that was chosen, or forced, for AES-GCM.
//!
//! It does not make nonces, does not remember them, and knows no packet format: that is ESP's.
#![no_std]

pub mod aead;
pub mod cbc_hmac;
pub mod chacha;
pub mod cpu;
pub mod gcm;
mod schedule;
mod suite;
mod transpose;

pub use aead::{Aead, Job, NONCE_BYTES, TAG_BYTES};
pub use suite::Suite;
