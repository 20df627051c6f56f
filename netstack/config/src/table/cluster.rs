//! The node in its cluster, field by field.

use super::field;
use crate::schema::{Format, Presence, Schema};
use Presence::{Default, Optional, Secret};

/// Addresses of a list at most.
const MAX_ADDRESSES: usize = 64;
/// Flows of a worker at least and at most.
const FLOWS: (u32, u32) = (1024, 1 << 26);

const fn addresses(max: usize) -> Schema {
    Schema::List { items: &Schema::Text(Format::Address), key: &[], max }
}

/// The `cluster` section.
pub(super) static CLUSTER: Schema = Schema::Object(&[
    field(
        "node",
        &Schema::Text(Format::Hostname),
        Optional,
        "The node's name in Kubernetes: what Local traffic policies and hints are about. Left out, no endpoint is local.",
    ),
    field("zone", &Schema::Text(Format::Label), Optional, "The node's zone: what hints are about."),
    field(
        "node_addresses",
        &const { addresses(MAX_ADDRESSES) },
        Default("[]"),
        "Addresses of this node that have node ports. Empty, all addresses of its interfaces.",
    ),
    field(
        "source_addresses",
        &const { addresses(MAX_ADDRESSES) },
        Default("[]"),
        "Source addresses of full NAT; answers to them must come back to this node.",
    ),
    field(
        "tunnel_addresses",
        &const { addresses(2) },
        Default("[]"),
        "Source addresses of IPIP and GUE to backends, one of each family at most.",
    ),
    field("gue_port", &Schema::Integer(1, 65_535), Default("6080"), "Destination UDP port of GUE."),
    field(
        "seed",
        &Schema::Text(Format::Key),
        Secret,
        "16 bytes in hexadecimal that key the tables of services: the same on all nodes that balance the same services. Left out, zeros, or the seed in force.",
    ),
    field(
        "flows_per_worker",
        &Schema::Integer(FLOWS.0, FLOWS.1),
        Optional,
        "Flows of each family that a worker knows at most. Left out, what an eighth of the free memory takes. A change takes effect at the next start.",
    ),
]);
