//! What a node has at hand while it runs.

use crate::DropReason;
use crate::counters::WorkerCounters;
use crate::flows::Flows;
use crate::handoff::Outbox;
use crate::held::Held;
use crate::policing::{Beginning, Generation, Policy};
use crate::shared::Shared;
use crate::tables::{InterfaceId, Tables};
use crate::token_bucket::TokenBucket;
use crate::trace::WorkerTrace;
use alloc::boxed::Box;
use alloc::vec::Vec;
use buffer::{Buf, BufferCache, PortQueue, VECTOR_SIZE, Vector};
use core::array;
use policy::classifier::Judged;

/// What a node has at hand while it runs.
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) tables: &'a Tables,
    pub(crate) ipsec: &'a ipsec::Snapshot,
    pub(crate) services: &'a balancer::Snapshot,
    pub(crate) policy: Option<&'a Policy>,
    pub(crate) policy_generation: Generation,
    /// The worker's flows, while there is anything that they are for: packets pass the flow node then.
    pub(crate) flows: Option<&'a mut Flows>,
    pub(crate) counters: &'a WorkerCounters,
    pub(crate) cache: &'a mut BufferCache,
    pub(crate) ports: &'a mut Vec<WorkerPort>,
    pub(crate) scratch: &'a mut Scratch,
    /// What a node makes in addition to what it was given; goes to interface-output, or to esp-encrypt if
    /// tunnel-fragment makes it.
    pub(crate) made: &'a mut Box<Vector>,
    /// Fragments that wait for the first one of their packet.
    pub(crate) held: &'a mut Held,
    /// What a node has for other workers.
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) limits: &'a mut Limits,
    pub(crate) trace: &'a mut WorkerTrace,
    /// Packets that entered and left, to see that none is lost.
    pub(crate) balance: &'a mut Balance,
    /// The port (place in `ports`) whose frames are under way.
    pub(crate) rx_port: usize,
    /// The worker that handed over what is under way, if one did.
    pub(crate) from_worker: usize,
    /// How many packets from control may be taken.
    pub(crate) injects: usize,
    pub(crate) worker: usize,
    pub(crate) now_ns: u64,
}

/// A port as a worker sees it.
pub(crate) struct WorkerPort {
    pub(crate) interface: InterfaceId,
    pub(crate) queue: Box<dyn PortQueue>,
    /// What of a mixed vector goes out here; empty between nodes.
    pub(crate) waiting: Box<Vector>,
}

/// Columns of a vector, so that nodes need not clear some of their own.
pub(crate) struct Scratch {
    /// An input node left the destinations of the vector that it sent to lookup as a whole.
    pub(crate) has_destinations: bool,
    pub(crate) destinations4: [u32; VECTOR_SIZE],
    pub(crate) destinations6: [u128; VECTOR_SIZE],
    pub(crate) groups: [u32; VECTOR_SIZE],
    /// Of packets that go to a neighbour as they are, the groups of the routes to it.
    pub(crate) neighbours: [u32; VECTOR_SIZE],
    pub(crate) lengths: [u32; VECTOR_SIZE],
    pub(crate) interfaces: [u16; VECTOR_SIZE],
    /// Of the next IPv6 packet that is cut.
    pub(crate) identification: u32,
    /// What policy needs to know of packets that begin flows.
    pub(crate) beginning: Beginning,
    /// Where packets of several segments are encrypted and decrypted.
    pub(crate) long: ipsec::Long,
    /// Has SAs whose packets no other worker encrypts.
    pub(crate) claimant: ipsec::Claimant,
    /// What policies with `doNotTrack` say of each packet of a vector.
    pub(crate) untracked: [Option<Judged>; VECTOR_SIZE],
}

impl Scratch {
    /// Of the worker with this number.
    pub(crate) fn new(worker: usize) -> Box<Self> {
        Box::new(Self {
            has_destinations: false,
            destinations4: [0; VECTOR_SIZE],
            destinations6: [0; VECTOR_SIZE],
            groups: [0; VECTOR_SIZE],
            neighbours: [0; VECTOR_SIZE],
            lengths: [0; VECTOR_SIZE],
            interfaces: [0; VECTOR_SIZE],
            identification: worker as u32,
            beginning: Beginning::new(),
            long: ipsec::Long::new(),
            claimant: ipsec::Claimant::new(),
            untracked: [None; VECTOR_SIZE],
        })
    }
}

const UNRESOLVED_BUCKETS: usize = 16;

/// How often a worker does what a stranger makes it do.
pub(crate) struct Limits {
    /// ICMP and ICMPv6 errors (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
    icmp_errors: TokenBucket,
    /// Those that tell an MTU: without them a sender's packets vanish for good (RFC 2923 §2.1), so that other errors
    /// must not use them up.
    too_big_errors: TokenBucket,
    /// Packets for neighbours that control must resolve, by the interface they came in on (modulo so many), so that who
    /// scans a network from one does not keep others' neighbours from being resolved.
    unresolved: [TokenBucket; UNRESOLVED_BUCKETS],
}

impl Limits {
    pub(crate) fn new() -> Self {
        Self {
            icmp_errors: TokenBucket::new(1000, 100),
            too_big_errors: TokenBucket::new(1000, 100),
            unresolved: array::from_fn(|_| TokenBucket::new(1000, 128)),
        }
    }

    /// Takes a token for a packet whose neighbour is not resolved.
    pub(crate) fn take_unresolved(&mut self, packet: &Buf, now_ns: u64) -> bool {
        let bucket = usize::from(packet.meta().rx_interface) % UNRESOLVED_BUCKETS;
        self.unresolved[bucket].take(now_ns)
    }

    /// Takes a token for the error about a packet, by the reason that it is dropped for.
    pub(crate) fn take_icmp_error(&mut self, packet: &Buf, now_ns: u64) -> bool {
        let bucket = match DropReason::from_number(packet.meta().drop_reason) {
            Some(DropReason::Ip4FragmentationNeeded | DropReason::Ip6PacketTooBig) => {
                &mut self.too_big_errors
            }
            _ => &mut self.icmp_errors,
        };
        bucket.take(now_ns)
    }
}

/// Packets that entered and left a worker's graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) entered: u64,
    pub(crate) left: u64,
}
