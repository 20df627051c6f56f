//! Management: the API server, its TCP/IP stack, metrics, the configuration store.
#![no_std]
#![forbid(unsafe_code)]
