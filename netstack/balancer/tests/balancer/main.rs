//! Packets of clients and backends through balancers.

mod backends;
mod common;
mod frontends;
mod packets;
mod tables;
mod ways;
