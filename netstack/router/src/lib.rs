//! What decides where packets go: routes, neighbours, router advertisements, compiled to dataplane tables.
#![no_std]
#![forbid(unsafe_code)]
