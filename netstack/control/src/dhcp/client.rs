//! The state machine of RFC 2131 §4.4, figure 5, without INIT-REBOOT.

use super::{
    datagram::Request,
    message,
    message::Message,
    terms::{self, MIN_LEASE_SECONDS, Times},
};
use alloc::{string::String, vec::Vec};
use config::Ipv4Net;
use core::net::Ipv4Addr;
use smoltcp::wire::DhcpMessageType;

const SECOND_NS: u64 = 1_000_000_000;

/// RFC 2131 §4.1: the first repetition after 4 s, then twice as long each time, up to 64 s.
const FIRST_REPEAT_NS: u64 = 4 * SECOND_NS;
const LAST_REPEAT_NS: u64 = 64 * SECOND_NS;
/// A server that offered but does not acknowledge is given up after so many requests.
const REQUESTS: u32 = 4;
/// RFC 2131 §4.4.5: renewals are not repeated faster.
const MIN_RENEW_REPEAT_NS: u64 = 60 * SECOND_NS;
/// Before a client begins again whose server said no.
const NAK_PAUSE_NS: u64 = SECOND_NS;

/// What a server lent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address with the length of its network's prefix.
    pub address: Ipv4Net,
    /// Routes with their next hops.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// The link's MTU, if the server knows better.
    pub mtu: Option<u16>,
    /// Who lent it.
    pub server: Ipv4Addr,
    /// For how long from when it was lent or renewed; None: for ever.
    pub seconds: Option<u32>,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a lease, or it says something new.
    Bound(Lease),
    /// There is none any more.
    Lost,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// An Ethernet frame, out of the client's interface.
    Frame(Vec<u8>),
    /// An IPv4 packet, routed.
    Packet(Vec<u8>),
}

/// The client of one interface.
pub struct Client {
    mac: [u8; 6],
    hostname: String,
    /// State of the generator of transaction identifiers and jitter.
    random: u64,
    transaction: u32,
    began_ns: u64,
    state: State,
    /// When something is sent or happens next.
    next_ns: u64,
}

#[derive(Clone, Debug)]
enum State {
    Init,
    Selecting { repeat_ns: u64 },
    Requesting { address: Ipv4Addr, server: Ipv4Addr, sent: u32, repeat_ns: u64 },
    Bound { lease: Lease, times: Times },
    Renewing { lease: Lease, times: Times },
    Rebinding { lease: Lease, times: Times },
}

impl Client {
    /// A client that begins at once. `seed` makes its transactions differ from those of others.
    pub fn new(mac: [u8; 6], hostname: &str, seed: u64, now_ns: u64) -> Self {
        Self {
            mac,
            hostname: hostname.into(),
            random: seed,
            transaction: 0,
            began_ns: now_ns,
            state: State::Init,
            next_ns: now_ns,
        }
    }

    /// The hardware address it asks for.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// When to poll next.
    pub fn next_deadline_ns(&self) -> u64 {
        self.next_ns
    }

    /// The lease, if there is one.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound { lease, .. } | State::Renewing { lease, .. } | State::Rebinding { lease, .. } => {
                Some(lease)
            }
            State::Init | State::Selecting { .. } | State::Requesting { .. } => None,
        }
    }

    /// The state's name as RFC 2131 has it.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Init => "init",
            State::Selecting { .. } => "selecting",
            State::Requesting { .. } => "requesting",
            State::Bound { .. } => "bound",
            State::Renewing { .. } => "renewing",
            State::Rebinding { .. } => "rebinding",
        }
    }

    /// The link came up: whoever has no lease asks at once, whoever has one asks whether it still holds.
    pub fn link_up(&mut self, now_ns: u64) {
        match &mut self.state {
            State::Bound { times, .. } => {
                times.renew_ns = now_ns;
                self.next_ns = now_ns;
            }
            State::Renewing { .. } | State::Rebinding { .. } => self.next_ns = now_ns,
            _ => self.begin(now_ns),
        }
    }

    /// Does what time asks for.
    pub fn poll(&mut self, now_ns: u64) -> (Option<Output>, Option<Event>) {
        if now_ns < self.next_ns {
            return (None, None);
        }
        match core::mem::replace(&mut self.state, State::Init) {
            State::Init => {
                self.transaction = self.next_random() as u32;
                self.began_ns = now_ns;
                (Some(self.discover(FIRST_REPEAT_NS, now_ns)), None)
            }
            State::Selecting { repeat_ns } => {
                (Some(self.discover((repeat_ns * 2).min(LAST_REPEAT_NS), now_ns)), None)
            }
            State::Requesting { sent: REQUESTS.., .. } => {
                self.begin(now_ns);
                (None, None)
            }
            State::Requesting { address, server, sent, repeat_ns } => {
                (Some(self.request(address, server, sent, (repeat_ns * 2).min(LAST_REPEAT_NS), now_ns)), None)
            }
            State::Bound { lease, times }
            | State::Renewing { lease, times }
            | State::Rebinding { lease, times } => self.extend(lease, times, now_ns),
        }
    }

    /// Takes an IPv4 packet that came in on the client's interface.
    pub fn receive(&mut self, packet: &[u8], now_ns: u64) -> (Option<Output>, Option<Event>) {
        let Some(message) = message::parse(packet, self.mac, self.transaction) else { return (None, None) };
        match (&self.state, message.kind) {
            (State::Selecting { .. }, Some(DhcpMessageType::Offer)) => {
                let (Some(address), Some(server)) = (message.address, message.server) else {
                    return (None, None);
                };
                // What could not be taken is not asked for: another server may offer better.
                if terms::network_of(&message).is_none() {
                    return (None, None);
                }
                (Some(self.request(address, server, 0, FIRST_REPEAT_NS, now_ns)), None)
            }
            (State::Requesting { server, .. }, Some(DhcpMessageType::Ack)) => {
                let server = *server;
                (None, self.bind(message, server, now_ns))
            }
            (State::Renewing { lease, .. } | State::Rebinding { lease, .. }, Some(DhcpMessageType::Ack)) => {
                let server = lease.server;
                (None, self.bind(message, server, now_ns))
            }
            (
                State::Requesting { .. } | State::Renewing { .. } | State::Rebinding { .. },
                Some(DhcpMessageType::Nak),
            ) => {
                let lost = self.lease().map(|_| Event::Lost);
                self.begin(now_ns + NAK_PAUSE_NS);
                (None, lost)
            }
            _ => (None, None),
        }
    }

    fn begin(&mut self, at_ns: u64) {
        self.state = State::Init;
        self.next_ns = at_ns;
    }

    fn discover(&mut self, repeat_ns: u64, now_ns: u64) -> Output {
        self.state = State::Selecting { repeat_ns };
        self.next_ns = now_ns + self.jittered(repeat_ns);
        Output::Frame(self.message(DhcpMessageType::Discover, now_ns).broadcast_frame())
    }

    fn request(
        &mut self,
        address: Ipv4Addr,
        server: Ipv4Addr,
        sent: u32,
        repeat_ns: u64,
        now_ns: u64,
    ) -> Output {
        self.state = State::Requesting { address, server, sent: sent + 1, repeat_ns };
        self.next_ns = now_ns + self.jittered(repeat_ns);
        let message = self.message(DhcpMessageType::Request, now_ns);
        Output::Frame(Request { requested: Some(address), server: Some(server), ..message }.broadcast_frame())
    }

    /// A lease is due for renewal, rebinding or its end (RFC 2131 §4.4.5).
    fn extend(&mut self, lease: Lease, times: Times, now_ns: u64) -> (Option<Output>, Option<Event>) {
        if now_ns >= times.expire_ns {
            self.begin(now_ns);
            return (None, Some(Event::Lost));
        }
        let is_rebinding = now_ns >= times.rebind_ns;
        let until_ns = if is_rebinding { times.expire_ns } else { times.rebind_ns };
        self.next_ns = until_ns.min(now_ns + ((until_ns - now_ns) / 2).max(MIN_RENEW_REPEAT_NS));
        let address = lease.address.addr();
        let message = Request { address: Some(address), ..self.message(DhcpMessageType::Request, now_ns) };
        let output = if is_rebinding {
            Output::Frame(message.broadcast_frame())
        } else {
            Output::Packet(message.unicast_packet(lease.server))
        };
        self.state =
            if is_rebinding { State::Rebinding { lease, times } } else { State::Renewing { lease, times } };
        (Some(output), None)
    }

    /// A server acknowledged. What it says may differ from the lease before.
    fn bind(&mut self, message: Message, server: Ipv4Addr, now_ns: u64) -> Option<Event> {
        let (address, seconds) = (terms::network_of(&message)?, message.lease_seconds?);
        let seconds = seconds.max(MIN_LEASE_SECONDS);
        let lease = Lease {
            address,
            routes: terms::usable_routes(message.routes, address),
            mtu: message.mtu,
            server: message.server.unwrap_or(server),
            seconds: (seconds != u32::MAX).then_some(seconds),
        };
        let times = Times::of(seconds, message.t1_seconds, message.t2_seconds, now_ns);
        let is_news = self.lease() != Some(&lease);
        self.next_ns = times.renew_ns;
        self.state = State::Bound { lease: lease.clone(), times };
        is_news.then_some(Event::Bound(lease))
    }

    fn message(&self, kind: DhcpMessageType, now_ns: u64) -> Request<'_> {
        let seconds = (now_ns.saturating_sub(self.began_ns) / SECOND_NS).min(u16::MAX.into()) as u16;
        Request {
            kind,
            mac: self.mac,
            hostname: &self.hostname,
            transaction: self.transaction,
            seconds,
            address: None,
            requested: None,
            server: None,
        }
    }

    /// RFC 2131 §4.1: give or take a second.
    fn jittered(&mut self, duration_ns: u64) -> u64 {
        duration_ns - SECOND_NS + self.next_random() % (2 * SECOND_NS)
    }

    /// The generator of Steele, Lea and Flood, "Fast splittable pseudorandom number generators".
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
