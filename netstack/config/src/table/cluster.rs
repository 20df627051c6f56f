//! The node in its cluster, field by field.

use super::field;
use crate::cluster::{FLOW_TIMEOUT_MS, TcpWindow};
use crate::health::{DRAIN_MS, HealthKind, IN_A_ROW, INTERVAL_MS, SLOW_START_MS, TIMEOUT_MS};
use crate::schema::{Format, Presence, Schema};
use Presence::{Default, Optional, Secret};

/// Addresses of a list at most.
const MAX_ADDRESSES: usize = 64;
/// Flows of a worker at least and at most.
const FLOWS: (u32, u32) = (1024, 1 << 26);

const fn addresses(max: usize) -> Schema {
    Schema::List { items: &Schema::Text(Format::Address), key: &[], max }
}

const fn networks() -> Schema {
    Schema::List { items: &Schema::Text(Format::Network), key: &[], max: MAX_ADDRESSES }
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
        "masquerade",
        &const { networks() },
        Default("[]"),
        "Clients in these networks get a source address of full NAT on their way to backends, unless the traffic policy is Local.",
    ),
    field(
        "masquerade_except",
        &const { networks() },
        Default("[]"),
        "Clients in these networks, which are parts of those in masquerade, keep their addresses.",
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
        "Flows of each family that a worker knows at most; one that is translated counts twice. Left out, what an eighth of the free memory takes. A change takes effect at the next start.",
    ),
    field(
        "tcp_window",
        &Schema::Choice(TcpWindow::NAMES),
        Default("\"liberal\""),
        "What is made of TCP's windows: strict drops segments that a flow's have no place for. A change takes effect at the next start.",
    ),
    field(
        "flow_timeouts",
        &FLOW_TIMEOUTS,
        Default(
            r#"{"tcp_opening_ms":30000,"tcp_established_ms":1800000,"tcp_closing_ms":120000,"tcp_closed_ms":10000,"opening_ms":30000,"established_ms":180000}"#,
        ),
        "How long flows may be silent before they are forgotten.",
    ),
    field(
        "health_check",
        &HEALTH_CHECK,
        Default(
            r#"{"kind":"none","path":"/","status":"200-399","interval_ms":5000,"timeout_ms":2000,"rise":2,"fall":3,"panic_percent":50,"slow_start_ms":0,"drain_ms":300000}"#,
        ),
        "How the backends of services are checked from this node; annotations of a Service go before it.",
    ),
]);

const fn number(limits: (u32, u32)) -> Schema {
    Schema::Integer(limits.0, limits.1)
}

static FLOW_TIMEOUTS: Schema = Schema::Object(&[
    field("tcp_opening_ms", &TIMEOUT, Default("30000"), "TCP whose other end has not been heard."),
    field("tcp_established_ms", &TIMEOUT, Default("1800000"), "TCP between two ends that both take part."),
    field("tcp_closing_ms", &TIMEOUT, Default("120000"), "TCP after a FIN."),
    field("tcp_closed_ms", &TIMEOUT, Default("10000"), "TCP after a RST."),
    field("opening_ms", &TIMEOUT, Default("30000"), "Other protocols, before there was an answer."),
    field("established_ms", &TIMEOUT, Default("180000"), "Other protocols, after."),
]);

static TIMEOUT: Schema = number(FLOW_TIMEOUT_MS);

static HEALTH_CHECK: Schema = Schema::Object(&[
    field(
        "kind",
        &Schema::Choice(HealthKind::NAMES),
        Default("\"none\""),
        "What a probe does: open a TCP connection, an HTTP/1.1 GET, an ICMP echo request; none, and every backend is up.",
    ),
    field(
        "port",
        &Schema::Integer(1, 65_535),
        Optional,
        "Port of probes by tcp and http. Left out, the backend's own; of UDP and SCTP services none then.",
    ),
    field("path", &Schema::Text(Format::Path), Default("\"/\""), "Path and query of the request."),
    field(
        "status",
        &Schema::Text(Format::Statuses),
        Default("\"200-399\""),
        "Status code, or range of them, that is good.",
    ),
    field(
        "interval_ms",
        &const { number(INTERVAL_MS) },
        Default("5000"),
        "Time from one probe of a backend to the next.",
    ),
    field(
        "timeout_ms",
        &const { number(TIMEOUT_MS) },
        Default("2000"),
        "Time after which a probe has failed; the interval at most.",
    ),
    field(
        "rise",
        &const { number(IN_A_ROW) },
        Default("2"),
        "Successes in a row after which a backend that is down is up.",
    ),
    field(
        "fall",
        &const { number(IN_A_ROW) },
        Default("3"),
        "Failures in a row after which a backend that is up is down.",
    ),
    field(
        "panic_percent",
        &Schema::Integer(0, 100),
        Default("50"),
        "If less than this percentage of a service's weight is up, all its backends are used.",
    ),
    field(
        "slow_start_ms",
        &const { number(SLOW_START_MS) },
        Default("0"),
        "Time in which the share of a backend that has come up grows to its whole, in four steps.",
    ),
    field(
        "drain_ms",
        &const { number(DRAIN_MS) },
        Default("300000"),
        "Time for which a backend that is down or terminating keeps its flows, which are forgotten then; 0, as long as it is there.",
    ),
]);
