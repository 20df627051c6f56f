//! The configuration schema, its validation and its differences.
#![no_std]
#![forbid(unsafe_code)]
