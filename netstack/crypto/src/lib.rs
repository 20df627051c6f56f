//! AEADs in place over packets, many at a time.
#![no_std]
