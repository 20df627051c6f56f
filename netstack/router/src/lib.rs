//! What decides where packets go: routes, neighbours, router advertisements, compiled to dataplane tables.
//!
//! Main path:
//! 1. [`Router::configure`], [`Router::set_link`], [`Router::set_lease`] and [`Router::set_route`] say what should be;
//! 2. [`Router::handle_punt`] takes ARP, neighbour discovery, queries for listeners and packets whose neighbour is not resolved;
//! 3. [`Router::poll`] lets timers run out, publishes tables when something changed, and brings the route tables into line;
//! 4. [`Router::next_output`] gives frames to send and packets to route again.
//!
//! A route names a *group* of next hops, a group names *adjacencies*, and an adjacency is rewritten in place
//! when its neighbour changes: a million routes follow a neighbour's new MAC address with one new snapshot. A change
//! reaches the route tables only after every worker has the tables that it refers to (see `changes`).
//!
//! What it does not do: look at packets that are forwarded, speak a routing protocol, or know time and devices: these are
//! given to it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod adjacencies;
mod advertise;
mod arp;
mod associations;
mod buckets;
mod changes;
mod configure;
mod discovery;
mod groups;
mod links;
mod listener;
mod nd;
mod neighbour;
mod neighbours;
mod rib;
mod router;
mod routes;
mod services;
mod status;
mod types;

pub use associations::{
    AssociationState, AssociationStatus, Finding, IpsecError, IpsecEvent, IpsecEventKind, Random,
    TunnelStatus, Verdict, Verification,
};
pub use router::Router;
pub use types::{
    DhcpLease, InterfaceStatus, Limits, NeighbourState, NeighbourStatus, NextHopStatus, Output, Port,
    RouteCursor, RouteError, RouteStatus, RouterDrop, Source, TargetStatus,
};
