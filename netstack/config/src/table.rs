//! The configuration, field by field: names, limits, defaults, meanings. This is the one table.

mod cluster;
mod flow_log;
mod ipsec;

use crate::{
    schema::{Field, Format, Presence, Schema},
    validate::{MAX_NEXT_HOPS, MAX_WEIGHT},
};
use Presence::{Default, Optional, Required, Secret};

const fn field(name: &'static str, schema: &'static Schema, presence: Presence, doc: &'static str) -> Field {
    Field { name, schema, presence, doc }
}

/// A whole configuration.
pub static CONFIG: Schema = Schema::Object(&[
    field("hostname", &Schema::Text(Format::Hostname), Default("\"fairlead\""), "The node's name."),
    field("api", &API, Default(r#"{"port":80}"#), "The management API."),
    field("log", &LOG, Default(r#"{"level":"info"}"#), "The log."),
    field(
        "interfaces",
        &Schema::List { items: &INTERFACE, key: &["name"], max: 1024 },
        Default("[]"),
        "Ports of the machine and VLAN sub-interfaces. A port that is not listed stays down.",
    ),
    field(
        "routes",
        &Schema::List { items: &ROUTE, key: &["prefix"], max: 16_384 },
        Default("[]"),
        "Static routes. Networks of interface addresses are routed without being listed.",
    ),
    field(
        "neighbours",
        &Schema::List { items: &NEIGHBOUR, key: &["interface", "address"], max: 4096 },
        Default("[]"),
        "Static ARP and neighbour discovery entries.",
    ),
    field(
        "ipsec",
        &ipsec::IPSEC,
        Default(r#"{"tunnels":[],"associations":[],"policies":[],"must_encrypt":[]}"#),
        "ESP: tunnels, security associations, policies.",
    ),
    field(
        "cluster",
        &cluster::CLUSTER,
        Default(
            r#"{"masquerade":[],"masquerade_except":[],"node_addresses":[],"source_addresses":[],"tunnel_addresses":[],"gue_port":6080,"tcp_window":"liberal","flow_timeouts":{"tcp_opening_ms":30000,"tcp_established_ms":1800000,"tcp_closing_ms":120000,"tcp_closed_ms":10000,"opening_ms":30000,"established_ms":180000},"health_check":{"kind":"none","path":"/","status":"200-399","interval_ms":5000,"timeout_ms":2000,"rise":2,"fall":3,"panic_percent":50,"slow_start_ms":0,"drain_ms":300000}}"#,
        ),
        "What the node is in a Kubernetes cluster, whose services and policies it enforces.",
    ),
    field(
        "flow_log",
        &flow_log::FLOW_LOG,
        Default(r#"{"always":false,"collectors":[]}"#),
        "What is told of flows, and to whom.",
    ),
]);

static API: Schema = Schema::Object(&[
    field(
        "token",
        &Schema::Text(Format::Token),
        Secret,
        "Bearer token of 16 to 128 characters. Left out, the token in force stays; it is never given back.",
    ),
    field("port", &Schema::Integer(1, 65_535), Default("80"), "TCP port of the API."),
    field(
        "interface",
        &Schema::Text(Format::InterfaceName),
        Optional,
        "Answer only on the addresses of this interface. Left out, every address of the node answers.",
    ),
]);

static LOG: Schema = Schema::Object(&[field(
    "level",
    &Schema::Choice(&["error", "warn", "info", "debug", "trace"]),
    Default("\"info\""),
    "The least severe level that is kept.",
)]);

static INTERFACE: Schema = Schema::Object(&[
    field(
        "name",
        &Schema::Text(Format::InterfaceName),
        Required,
        "A port's name (eth0, eth1, ... in PCI order), or a sub-interface's own name, by custom PARENT.VLAN.",
    ),
    field("description", &Schema::Text(Format::Description), Optional, "A note for people."),
    field("enabled", &Schema::Boolean, Default("true"), "Whether packets pass."),
    field(
        "parent",
        &Schema::Text(Format::InterfaceName),
        Optional,
        "The port whose tagged frames this sub-interface takes.",
    ),
    field(
        "vlan",
        &Schema::Integer(1, 4094),
        Optional,
        "802.1Q VLAN identifier; given exactly when parent is.",
    ),
    field(
        "mac",
        &Schema::Text(Format::Mac),
        Optional,
        "MAC address. Left out, the device's own or the parent's.",
    ),
    field(
        "mtu",
        &Schema::Integer(576, 9216),
        Default("1500"),
        "Largest IP packet in bytes, without Ethernet and VLAN headers. IPv6 needs at least 1280.",
    ),
    field(
        "addresses",
        &Schema::List { items: &Schema::Text(Format::InterfaceAddress), key: &[], max: 16 },
        Default("[]"),
        "The node's addresses on this link, with the link's prefix length.",
    ),
    field("dhcp4", &Schema::Boolean, Default("false"), "Get an IPv4 address, routes and MTU by DHCP."),
    field(
        "router_advertisements",
        &ROUTER_ADVERTISEMENTS,
        Optional,
        "Advertise this node as IPv6 router, and every /64 of the interface's addresses for autonomous configuration.",
    ),
]);

static ROUTER_ADVERTISEMENTS: Schema = Schema::Object(&[
    field(
        "max_interval_seconds",
        &Schema::Integer(4, 1800),
        Default("600"),
        "Longest time between two unsolicited advertisements.",
    ),
    field(
        "router_lifetime_seconds",
        &Schema::Integer(0, 9000),
        Default("1800"),
        "How long hosts may use this node as default router; 0 means never.",
    ),
    field("managed", &Schema::Boolean, Default("false"), "M flag: hosts get addresses by DHCPv6."),
    field("other", &Schema::Boolean, Default("false"), "O flag: hosts get other configuration by DHCPv6."),
    field(
        "valid_lifetime_seconds",
        &Schema::Integer(0, u32::MAX),
        Default("2592000"),
        "How long an advertised prefix stays valid; 4294967295 means forever.",
    ),
    field(
        "preferred_lifetime_seconds",
        &Schema::Integer(0, u32::MAX),
        Default("604800"),
        "How long addresses of an advertised prefix stay preferred.",
    ),
    field(
        "dns_servers",
        &Schema::List { items: &Schema::Text(Format::Address), key: &[], max: 8 },
        Default("[]"),
        "IPv6 addresses of the recursive DNS servers that hosts are told of.",
    ),
]);

static ROUTE: Schema = Schema::Object(&[
    field("prefix", &Schema::Text(Format::Network), Required, "Destination network."),
    field(
        "via",
        &Schema::List { items: &NEXT_HOP, key: &["address", "interface"], max: MAX_NEXT_HOPS },
        Optional,
        "Next hops; flows are spread over them in proportion to their weights.",
    ),
    field(
        "blackhole",
        &Schema::Boolean,
        Default("false"),
        "Drop what goes there; given instead of next hops.",
    ),
]);

static NEXT_HOP: Schema = Schema::Object(&[
    field(
        "address",
        &Schema::Text(Format::Address),
        Optional,
        "Address of the next router, on the network of an interface. Left out where interface is a tunnel.",
    ),
    field(
        "interface",
        &Schema::Text(Format::InterfaceName),
        Optional,
        "Its interface; needed for an IPv6 link-local address, for a tunnel, and where DHCP gives the interface's network.",
    ),
    field("weight", &Schema::Integer(1, MAX_WEIGHT as u32), Default("1"), "Share of the flows."),
]);

static NEIGHBOUR: Schema = Schema::Object(&[
    field("interface", &Schema::Text(Format::InterfaceName), Required, "Interface the neighbour is on."),
    field("address", &Schema::Text(Format::Address), Required, "Its IPv4 or IPv6 address."),
    field("mac", &Schema::Text(Format::Mac), Required, "Its MAC address."),
]);

/// One route, as the configuration and the routes endpoint write it.
pub fn route() -> &'static Schema {
    &ROUTE
}

/// One security association, as the configuration and its endpoint write it.
pub fn association() -> &'static Schema {
    &ipsec::ASSOCIATION
}
