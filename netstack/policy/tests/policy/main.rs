//! What policies mean: public conformance cases, and the compiled classifier against the reference.

mod calico_rules;
mod change;
mod classifier;
mod cluster_policies;
mod common;
mod cyclonus;
mod failsafe;
mod large_sets;
mod selectors;
mod staged;
mod workloads;
