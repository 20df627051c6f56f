//! Network policy: Calico's and Kubernetes' resources, what they mean, and what decides for packets.
//!
//! Main path:
//! 1. [`Inventory::add`] takes resources as JSON values; a field that is unknown or impossible is a [`Problem`] with a
//!    JSON pointer;
//! 2. [`Inventory::build`] compiles all of them into one [`model::Model`]: tiers of ordered policies of rules, and the
//!    endpoints and sets they are about; [`Cluster::change`] makes the next one of what has changed;
//! 3. [`classifier::Classifier`] compiles the model into tables that decide for packets, and says what decided;
//! 4. [`reference::judge`] says what the documents say about a packet, slowly and obviously: the classifier is held to it;
//! 5. [`flow::judge`] asks either about both ends of a packet.
//!
//! It does not track connections (a packet here is the first of its flow), does not translate addresses, and knows nothing of
//! HTTP, domain names and where a user's YAML comes from.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod api;
pub mod classifier;
mod compile;
mod failsafe;
pub mod flow;
pub mod model;
mod problem;
pub mod reference;
pub mod selector;
mod verdict;

pub use compile::{Cluster, Inventory, Parsed, Referred, is_foreign};
pub use config::Problem;
pub use failsafe::{Failsafe, OpenPort};
pub use selector::{Labels, Selector, SelectorError};
pub use verdict::{Reason, Verdict};
