//! Longest-prefix-match tables for IPv4 and IPv6 that are read while they change.
#![no_std]
#![forbid(unsafe_code)]
