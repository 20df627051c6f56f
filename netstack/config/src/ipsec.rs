//! IPsec as types: tunnels, security associations, policies. Every field is described in [`crate::table`].

use crate::Secret;
use alloc::{string::String, vec::Vec};
use core::net::IpAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// ESP: what is encrypted, how, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ipsec {
    /// Where packets are encrypted to and decrypted from.
    pub tunnels: Vec<Tunnel>,
    /// Security associations with their keys.
    pub associations: Vec<Association>,
    /// Policies; the first of a direction that matches decides.
    pub policies: Vec<SecurityPolicy>,
    /// Networks that are never sent to in the clear.
    pub must_encrypt: Vec<IpNet>,
}

/// A pair of outer addresses that security associations work between; with `route_based`, an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// Its name, and the interface's.
    pub name: String,
    /// A note for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Whether packets pass.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What is wrapped.
    #[serde(default)]
    pub mode: IpsecMode,
    /// The node's outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// It is an interface that routes lead to.
    #[serde(default = "yes")]
    pub route_based: bool,
    /// Longest inner packet in bytes. None: what fits the outer path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The node's addresses on the interface.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// UDP encapsulation. None: plain ESP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_traversal: Option<NatTraversal>,
    /// Outer DSCP. None: the inner packet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// What happens to ECN.
    #[serde(default)]
    pub ecn: EcnHandling,
    /// Outer don't-fragment bit.
    #[serde(default)]
    pub df: DfHandling,
    /// Outer TTL or hop limit; 0: the inner packet's.
    #[serde(default = "default_ttl")]
    pub ttl: u8,
    /// Lower the TCP MSS to what fits.
    #[serde(default = "yes")]
    pub clamp_mss: bool,
    /// Pad inner packets to this many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tfc_padding: Option<u16>,
    /// What inner packets must be between; empty: anything.
    #[serde(default)]
    pub selectors: Vec<TrafficSelector>,
    /// How long replaced inbound associations still decrypt.
    #[serde(default = "default_overlap")]
    pub rekey_overlap_seconds: u16,
}

/// What ESP wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpsecMode {
    /// Whole packets.
    #[default]
    Tunnel,
    /// The payload of packets between the outer addresses.
    Transport,
}

/// ECN at tunnel ends (RFC 6040).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EcnHandling {
    /// Normal mode.
    #[default]
    Copy,
    /// Compatibility mode: no ECN outside.
    Clear,
}

/// The outer don't-fragment bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DfHandling {
    /// The inner packet's.
    #[default]
    Copy,
    /// Set.
    Set,
    /// Not set.
    Clear,
}

/// UDP encapsulation (RFC 3948).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatTraversal {
    /// The node's port.
    pub local_port: u16,
    /// The peer's port; followed when authentic packets come from another.
    pub remote_port: u16,
    /// Time between keepalives while nothing else is sent; 0: none.
    pub keepalive_seconds: u16,
}

/// Networks whose packets a tunnel may carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficSelector {
    /// Behind this node.
    pub local: IpNet,
    /// Behind the peer.
    pub remote: IpNet,
}

/// One security association, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Association {
    /// Its name.
    pub name: String,
    /// The tunnel it belongs to.
    pub tunnel: String,
    /// Which way.
    pub direction: AssociationDirection,
    /// Security parameters index.
    pub spi: u32,
    /// Cipher and integrity.
    pub algorithm: IpsecAlgorithm,
    /// Key material in hexadecimal. None: the key of the association of this name stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// 64-bit sequence numbers.
    #[serde(default = "yes")]
    pub esn: bool,
    /// Anti-replay window in packets.
    #[serde(default = "default_window")]
    pub replay_window: u32,
    /// The last sequence number that its packets had before, sent or received. None: it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence_after: Option<u64>,
    /// When it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Lifetime>,
}

/// Which way an association works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AssociationDirection {
    /// It decrypts.
    In,
    /// It encrypts.
    Out,
}

/// Cipher and integrity, by strongSwan's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpsecAlgorithm {
    /// AES-128-GCM (RFC 4106).
    #[serde(rename = "aes128gcm16")]
    Aes128Gcm16,
    /// AES-256-GCM (RFC 4106).
    #[serde(rename = "aes256gcm16")]
    Aes256Gcm16,
    /// ChaCha20-Poly1305 (RFC 7634).
    #[serde(rename = "chacha20poly1305")]
    Chacha20Poly1305,
    /// AES-128-CBC and HMAC-SHA-256-128 (RFC 4868).
    #[serde(rename = "aes128-sha256")]
    Aes128Sha256,
    /// AES-128-CBC and HMAC-SHA-384-192.
    #[serde(rename = "aes128-sha384")]
    Aes128Sha384,
    /// AES-128-CBC and HMAC-SHA-512-256.
    #[serde(rename = "aes128-sha512")]
    Aes128Sha512,
    /// AES-256-CBC and HMAC-SHA-256-128.
    #[serde(rename = "aes256-sha256")]
    Aes256Sha256,
    /// AES-256-CBC and HMAC-SHA-384-192.
    #[serde(rename = "aes256-sha384")]
    Aes256Sha384,
    /// AES-256-CBC and HMAC-SHA-512-256.
    #[serde(rename = "aes256-sha512")]
    Aes256Sha512,
}

impl IpsecAlgorithm {
    /// All, as they are called in documents, with the bytes of key material of each: cipher key, then salt or
    /// authentication key.
    pub const ALL: [(Self, &'static str, usize); 9] = [
        (Self::Aes128Gcm16, "aes128gcm16", 20),
        (Self::Aes256Gcm16, "aes256gcm16", 36),
        (Self::Chacha20Poly1305, "chacha20poly1305", 36),
        (Self::Aes128Sha256, "aes128-sha256", 16 + 32),
        (Self::Aes128Sha384, "aes128-sha384", 16 + 48),
        (Self::Aes128Sha512, "aes128-sha512", 16 + 64),
        (Self::Aes256Sha256, "aes256-sha256", 32 + 32),
        (Self::Aes256Sha384, "aes256-sha384", 32 + 48),
        (Self::Aes256Sha512, "aes256-sha512", 32 + 64),
    ];

    /// Its name in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(algorithm, ..)| *algorithm == self).map_or("", |(_, name, _)| name)
    }

    /// Bytes of its key material.
    #[must_use]
    pub fn key_bytes(self) -> usize {
        Self::ALL.iter().find(|(algorithm, ..)| *algorithm == self).map_or(0, |(.., bytes)| *bytes)
    }
}

/// When an association asks to be replaced (soft) and when it stops (hard).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lifetime {
    /// Seconds until it should be replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_seconds: Option<u64>,
    /// Seconds until it stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_seconds: Option<u64>,
    /// Bytes until it should be replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_bytes: Option<u64>,
    /// Bytes until it stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_bytes: Option<u64>,
    /// Packets until it should be replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_packets: Option<u64>,
    /// Packets until it stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_packets: Option<u64>,
}

/// A rule of the security policy database (RFC 4301 §4.4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecurityPolicy {
    /// Its name.
    pub name: String,
    /// Of packets that leave, or that come in.
    pub direction: AssociationDirection,
    /// What happens to them.
    pub action: PolicyAction,
    /// The tunnel that protects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Source addresses.
    pub source: IpNet,
    /// Destination addresses.
    pub destination: IpNet,
    /// Protocol above IP, by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// First and last source port, `80` or `1000-2000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<String>,
    /// First and last destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ports: Option<String>,
}

/// What a policy demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyAction {
    /// Encrypted by its tunnel, or decrypted out of it.
    Protect,
    /// In the clear.
    Bypass,
    /// Dropped.
    Discard,
}

/// The ports of `80` or `1000-2000`; None if it is neither.
#[must_use]
pub fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

impl Default for NatTraversal {
    fn default() -> Self {
        Self { local_port: 4500, remote_port: 4500, keepalive_seconds: 20 }
    }
}

fn yes() -> bool {
    true
}

fn default_ttl() -> u8 {
    64
}

fn default_overlap() -> u16 {
    10
}

fn default_window() -> u32 {
    1024
}
