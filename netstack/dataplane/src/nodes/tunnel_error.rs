//! ICMP errors about packets that this node has put into tunnels to backends (RFC 2003 §5.1, RFC 2473 §8): whoever sent the
//! packet inside is told, as far as the error has enough of that.
//!
//! No state is kept: a client that is told what fits the tunnel sends no more than that.

use super::{IcmpError, icmp4_error, icmp6_error};
use crate::DropReason;
use crate::context::Context;
use crate::graph::Node;
use buffer::{Buf, Flags};
use packet::icmpv4::{self, TIME_EXCEEDED, UNREACHABLE, UNREACHABLE_FRAGMENTATION_NEEDED};
use packet::icmpv6;
use packet::ipv6::MIN_MTU;

/// Bytes of an ICMP header, after which an error has the start of the packet that it is about.
const HEADER_BYTES: usize = 8;

/// What is to be told of a packet in a tunnel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It does not fit: so many bytes would, 0 if that is not known.
    TooBig(u32),
    /// It did not get there.
    Unreachable,
}

impl Trouble {
    /// What an ICMP error says, if it is one that senders are told of.
    fn of(error: IcmpError, is_v6: bool) -> Option<Self> {
        if is_v6 { Self::of6(error) } else { Self::of4(error) }
    }

    fn of4(error: IcmpError) -> Option<Self> {
        match (error.kind, error.code) {
            // RFC 1191 §4: the MTU is the lower half.
            (UNREACHABLE, UNREACHABLE_FRAGMENTATION_NEEDED) => Some(Self::TooBig(error.rest & 0xffff)),
            (UNREACHABLE | TIME_EXCEEDED, _) => Some(Self::Unreachable),
            _ => None,
        }
    }

    fn of6(error: IcmpError) -> Option<Self> {
        match error.kind {
            icmpv6::PACKET_TOO_BIG => Some(Self::TooBig(error.rest)),
            icmpv6::UNREACHABLE | icmpv6::TIME_EXCEEDED => Some(Self::Unreachable),
            _ => None,
        }
    }

    /// The error for the sender of a packet that had `overhead_bytes` before it in the tunnel.
    pub(super) fn error(self, to_v6: bool, overhead_bytes: usize) -> IcmpError {
        let fits = |mtu: u32| mtu.saturating_sub(overhead_bytes as u32);
        let (kind, code, rest) = match (self, to_v6) {
            (Self::TooBig(mtu), true) => (icmpv6::PACKET_TOO_BIG, 0, fits(mtu).max(MIN_MTU.into())),
            (Self::TooBig(mtu), false) => (UNREACHABLE, UNREACHABLE_FRAGMENTATION_NEEDED, fits(mtu)),
            (Self::Unreachable, true) => (icmpv6::UNREACHABLE, icmpv6::UNREACHABLE_ADDRESS, 0),
            (Self::Unreachable, false) => (UNREACHABLE, icmpv4::UNREACHABLE_HOST, 0),
        };
        IcmpError { kind, code, rest }
    }
}

/// Takes a valid ICMP error to this node, whose header is at `at`: if it is about a packet in a tunnel to a backend, what is
/// left of that packet takes its place, and goes where its sender is told.
pub(super) fn pass_on(cx: &Context<'_>, packet: &mut Buf, at: usize, is_v6: bool) -> Option<Node> {
    let quoted_at = at + HEADER_BYTES;
    let header: [u8; HEADER_BYTES] = *packet.data().get(at..)?.first_chunk()?;
    let [kind, code, _, _, rest @ ..] = header;
    let trouble = Trouble::of(IcmpError { kind, code, rest: u32::from_be_bytes(rest) }, is_v6)?;
    let quoted = packet.data().get(quoted_at..)?;
    let overhead_bytes = cx.services.tunnelled(quoted)?;
    let to_v6 = quoted.get(overhead_bytes)? >> 4 == 6;
    packet.pull_front(quoted_at + overhead_bytes).ok()?;
    let IcmpError { kind, code, rest } = trouble.error(to_v6, overhead_bytes);
    let reason = DropReason::ServiceTunnelError;
    Some(if to_v6 {
        icmp6_error(packet, reason, kind, code, rest)
    } else {
        icmp4_error(packet, reason, kind, code, rest)
    })
}

/// Makes the error that is left with a packet in a tunnel one about the packet inside, whose sender is to be told: a
/// length loses what the tunnel takes. Returns where it goes if that is another node than `here`.
#[cold]
pub(super) fn leave_tunnel(packet: &mut Buf, here: Node) -> Option<Node> {
    let error = IcmpError::of(packet);
    let bytes = packet.meta().opaque[1] as usize;
    let flags = packet.meta().flags;
    packet.meta_mut().flags = flags.difference(Flags::TUNNELLED | Flags::ORIGINATED);
    if packet.pull_front(bytes).is_err() {
        return Some(Node::Drop);
    }
    let to_v6 = packet.data().first().is_some_and(|first| first >> 4 == 6);
    let trouble = Trouble::of(error, here == Node::Icmp6Error).unwrap_or(Trouble::Unreachable);
    packet.meta_mut().opaque[0] = trouble.error(to_v6, bytes).word();
    let next = if to_v6 { Node::Icmp6Error } else { Node::Icmp4Error };
    (next != here).then_some(next)
}
