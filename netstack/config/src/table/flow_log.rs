//! The flow log, field by field.

use super::field;
use crate::schema::{Format, Presence, Schema};
use Presence::{Default, Required};

/// Collectors at most.
const MAX_COLLECTORS: usize = 4;

/// The `flow_log` section.
pub(super) static FLOW_LOG: Schema = Schema::Object(&[
    field(
        "always",
        &Schema::Boolean,
        Default("false"),
        "Follow flows even while nobody watches and there is no collector, so that the last ones can be asked for.",
    ),
    field(
        "collectors",
        &Schema::List { items: &COLLECTOR, key: &["address", "port"], max: MAX_COLLECTORS },
        Default("[]"),
        "Collectors that get flows as IPFIX over UDP (RFC 7011).",
    ),
]);

static COLLECTOR: Schema = Schema::Object(&[
    field("address", &Schema::Text(Format::Address), Required, "Its address."),
    field("port", &Schema::Integer(1, 65_535), Default("4739"), "Its UDP port."),
    field(
        "observation_domain",
        &Schema::Integer(0, u32::MAX),
        Default("1"),
        "The observation domain that messages to it name.",
    ),
]);
