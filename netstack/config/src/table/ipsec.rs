//! IPsec, field by field.

use super::field;
use crate::schema::{Format, Presence, Schema};
use Presence::{Default, Optional, Required, Secret};

/// Tunnels of a node at most.
const MAX_TUNNELS: usize = 4000;
/// Associations of a configuration at most; more come by the API.
const MAX_ASSOCIATIONS: usize = 16_384;
/// Policies at most: each packet is held against all of them.
const MAX_POLICIES: usize = 1024;
/// Networks that must be encrypted at most: each packet is held against all of them.
const MAX_MUST_ENCRYPT: usize = 1024;
/// Selectors of a tunnel at most.
const MAX_SELECTORS: usize = 64;

/// The `ipsec` section.
pub(super) static IPSEC: Schema = Schema::Object(&[
    field(
        "tunnels",
        &Schema::List { items: &TUNNEL, key: &["name"], max: MAX_TUNNELS },
        Default("[]"),
        "Pairs of outer addresses that are encrypted between; interfaces, unless route_based is false.",
    ),
    field(
        "associations",
        &Schema::List { items: &ASSOCIATION, key: &["name"], max: MAX_ASSOCIATIONS },
        Default("[]"),
        "Security associations with their keys. Of several outbound ones of a tunnel, the last encrypts.",
    ),
    field(
        "policies",
        &Schema::List { items: &POLICY, key: &["name"], max: MAX_POLICIES },
        Default("[]"),
        "Security policies in order: the first of a direction that matches decides. What none matches passes.",
    ),
    field(
        "must_encrypt",
        &Schema::List { items: &Schema::Text(Format::Network), key: &[], max: MAX_MUST_ENCRYPT },
        Default("[]"),
        "Networks that are never sent to in the clear, whatever else is configured or down.",
    ),
]);

static TUNNEL: Schema = Schema::Object(&[
    field("name", &Schema::Text(Format::InterfaceName), Required, "Its name; an interface's, if it is one."),
    field("description", &Schema::Text(Format::Description), Optional, "A note for people."),
    field("enabled", &Schema::Boolean, Default("true"), "Whether packets pass."),
    field(
        "mode",
        &Schema::Choice(&["tunnel", "transport"]),
        Default("\"tunnel\""),
        "Wrap whole packets, or the payload of packets between local and remote.",
    ),
    field("local", &Schema::Text(Format::Address), Required, "The node's outer address."),
    field("remote", &Schema::Text(Format::Address), Required, "The peer's outer address."),
    field(
        "route_based",
        &Schema::Boolean,
        Default("true"),
        "Be an interface that routes lead to. False: only policies lead here.",
    ),
    field(
        "mtu",
        &Schema::Integer(576, 9216),
        Optional,
        "Longest inner packet in bytes. Left out, what fits the outer path.",
    ),
    field(
        "addresses",
        &Schema::List { items: &Schema::Text(Format::InterfaceAddress), key: &[], max: 16 },
        Default("[]"),
        "The node's addresses on the tunnel's interface.",
    ),
    field("nat_traversal", &NAT_TRAVERSAL, Optional, "ESP in UDP (RFC 3948). Left out, plain ESP."),
    field("dscp", &Schema::Integer(0, 63), Optional, "Outer DSCP. Left out, the inner packet's."),
    field(
        "ecn",
        &Schema::Choice(&["copy", "clear"]),
        Default("\"copy\""),
        "Outer ECN: RFC 6040's normal mode, or none. What arrives is combined either way.",
    ),
    field("df", &Schema::Choice(&["copy", "set", "clear"]), Default("\"copy\""), "Outer don't-fragment bit."),
    field("ttl", &Schema::Integer(0, 255), Default("64"), "Outer TTL or hop limit; 0: the inner packet's."),
    field(
        "clamp_mss",
        &Schema::Boolean,
        Default("true"),
        "Lower the MSS of TCP connections to what fits the tunnel.",
    ),
    field(
        "tfc_padding",
        &Schema::Integer(1, 9216),
        Optional,
        "Pad inner packets to this many bytes (RFC 4303 §2.7), as far as the path takes them.",
    ),
    field(
        "selectors",
        &Schema::List { items: &SELECTOR, key: &["local", "remote"], max: MAX_SELECTORS },
        Default("[]"),
        "What inner packets must be between; what is not is dropped. Empty: anything.",
    ),
    field(
        "rekey_overlap_seconds",
        &Schema::Integer(0, 3600),
        Default("10"),
        "How long inbound associations that were replaced still decrypt.",
    ),
]);

static NAT_TRAVERSAL: Schema = Schema::Object(&[
    field("local_port", &Schema::Integer(1, 65_535), Default("4500"), "The node's UDP port."),
    field(
        "remote_port",
        &Schema::Integer(1, 65_535),
        Default("4500"),
        "The peer's UDP port; followed when authentic packets come from another.",
    ),
    field(
        "keepalive_seconds",
        &Schema::Integer(0, 3600),
        Default("20"),
        "Time between NAT keepalives; 0: none are sent.",
    ),
]);

static SELECTOR: Schema = Schema::Object(&[
    field("local", &Schema::Text(Format::Network), Required, "Network behind this node."),
    field("remote", &Schema::Text(Format::Network), Required, "Network behind the peer."),
]);

/// One association.
pub(super) static ASSOCIATION: Schema = Schema::Object(&[
    field("name", &Schema::Text(Format::Label), Required, "Its name."),
    field("tunnel", &Schema::Text(Format::InterfaceName), Required, "The tunnel it belongs to."),
    field("direction", &DIRECTION, Required, "in: decrypts. out: encrypts."),
    field(
        "spi",
        &Schema::Integer(256, u32::MAX),
        Required,
        "Security parameters index; those of inbound associations are unique in the node.",
    ),
    field(
        "algorithm",
        &Schema::Choice(&[
            "aes128gcm16",
            "aes256gcm16",
            "chacha20poly1305",
            "aes128-sha256",
            "aes128-sha384",
            "aes128-sha512",
            "aes256-sha256",
            "aes256-sha384",
            "aes256-sha512",
        ]),
        Required,
        "Cipher and integrity.",
    ),
    field(
        "key",
        &Schema::Text(Format::Key),
        Secret,
        "Key material in hexadecimal: cipher key, then salt (4 bytes) or authentication key. Never given back; left \
         out, the key of the association of this name, direction, SPI and algorithm stays.",
    ),
    field("esn", &Schema::Boolean, Default("true"), "Extended, 64-bit sequence numbers."),
    field(
        "replay_window",
        &Schema::Integer(64, 8192),
        Default("1024"),
        "Anti-replay window in packets; of inbound associations.",
    ),
    field(
        "sequence_after",
        &Schema::Count,
        Optional,
        "The last sequence number that its packets had before, sent or received: it goes on behind. Left out, it is new.",
    ),
    field("lifetime", &LIFETIME, Optional, "When it expires. Left out, never."),
]);

static LIFETIME: Schema = Schema::Object(&[
    field("soft_seconds", &Schema::Count, Optional, "Seconds until it should be replaced."),
    field("hard_seconds", &Schema::Count, Optional, "Seconds until it stops."),
    field("soft_bytes", &Schema::Count, Optional, "Bytes until it should be replaced."),
    field("hard_bytes", &Schema::Count, Optional, "Bytes until it stops."),
    field("soft_packets", &Schema::Count, Optional, "Packets until it should be replaced."),
    field("hard_packets", &Schema::Count, Optional, "Packets until it stops."),
]);

static DIRECTION: Schema = Schema::Choice(&["in", "out"]);

static POLICY: Schema = Schema::Object(&[
    field("name", &Schema::Text(Format::Label), Required, "Its name."),
    field("direction", &DIRECTION, Required, "out: of packets that leave. in: of packets that come in."),
    field(
        "action",
        &Schema::Choice(&["protect", "bypass", "discard"]),
        Required,
        "protect: only encrypted by, or decrypted out of, its tunnel. bypass: in the clear. discard: dropped.",
    ),
    field("tunnel", &Schema::Text(Format::InterfaceName), Optional, "The tunnel that protects."),
    field("source", &Schema::Text(Format::Network), Required, "Source network."),
    field("destination", &Schema::Text(Format::Network), Required, "Destination network."),
    field("protocol", &Schema::Integer(0, 255), Optional, "Protocol above IP. Left out, any."),
    field("source_ports", &Schema::Text(Format::Ports), Optional, "Source ports. Left out, any."),
    field("destination_ports", &Schema::Text(Format::Ports), Optional, "Destination ports. Left out, any."),
]);
