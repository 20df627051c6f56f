//! Every kernel against vectors, against the portable one, and in streams of packets.

mod cbc_hmac;
mod chacha;
mod common;
mod gcm_kernels;
mod gcm_vectors;
mod nist;
