//! Kubernetes and Calico objects as a node keeps them.
//!
//! Main path:
//! 1. [`Object::read`] takes one object as its author wrote it, in JSON; [`flatten`] takes a `List` apart. What is unknown or
//!    impossible in an object is a [`config::Problem`] with a JSON pointer ([`Kind::all`] is every kind that is known);
//! 2. [`Set::change`] makes another set of one set and some objects: sets do not change;
//! 3. [`compile`] makes what decides for packets of a set: services, and the model of policy. What is impossible between
//!    objects is a [`Fault`].
//!
//! All of it that takes long is in short pieces (crate `pace`). It reads no YAML, watches no API server, keeps nothing on disks,
//! and does not know who applies what.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod compile;
mod diff;
mod kind;
mod object;
mod set;
#[cfg(test)]
mod tests;

pub use compile::{Compiled, Fault, compile};
pub use diff::{FieldChange, FieldOp, MAX_FIELDS, differences};
pub use kind::Kind;
pub use object::{Identity, Key, Object, ReadError, flatten};
pub use set::{Change, ChangeOp, Edit, Set};
