//! How far a flow has come, and how long it may be silent.

/// TCP flags (RFC 9293 §3.1).
mod flag {
    pub(super) const FIN: u8 = 1;
    pub(super) const SYN: u8 = 2;
    pub(super) const RST: u8 = 4;
    pub(super) const ACK: u8 = 16;
}

/// The state of a flow. Where both directions pass here, each has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// No flow.
    #[default]
    Free,
    /// TCP whose other end has not been seen, or that began before we were there.
    TcpOpening,
    /// TCP between two ends that both take part.
    TcpEstablished,
    /// TCP of which this direction has said FIN.
    TcpClosing,
    /// TCP after a RST.
    TcpClosed,
    /// Another protocol, a single packet so far or no answer.
    Opening,
    /// Another protocol, more than one packet.
    Established,
}

/// What a packet says about its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// TCP, with the flags of its header's 14th byte.
    Tcp(u8),
    /// Anything else: UDP, SCTP, ICMP.
    Other,
}

/// How long a flow may be silent in each state, in milliseconds, up to a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// [`State::TcpOpening`].
    pub tcp_opening_ms: u32,
    /// [`State::TcpEstablished`].
    pub tcp_established_ms: u32,
    /// [`State::TcpClosing`].
    pub tcp_closing_ms: u32,
    /// [`State::TcpClosed`].
    pub tcp_closed_ms: u32,
    /// [`State::Opening`].
    pub opening_ms: u32,
    /// [`State::Established`].
    pub established_ms: u32,
}

/// The longest timeout: ticks wrap around after 52 days.
pub(crate) const MAX_TIMEOUT_MS: u32 = 24 * 3600 * 1000;

impl Default for Timeouts {
    /// Half an hour for established TCP; UDP as RFC 4787 §4.3 wants it, more than two minutes.
    fn default() -> Self {
        Timeouts {
            tcp_opening_ms: 30_000,
            tcp_established_ms: 1_800_000,
            tcp_closing_ms: 120_000,
            tcp_closed_ms: 10_000,
            opening_ms: 30_000,
            established_ms: 180_000,
        }
    }
}

/// Timeouts in ticks, by state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeoutTicks([u32; 7]);

impl TimeoutTicks {
    pub(crate) fn new(timeouts: &Timeouts) -> Self {
        let Timeouts { tcp_opening_ms, tcp_established_ms, tcp_closing_ms, tcp_closed_ms, .. } = *timeouts;
        let all = [
            0,
            tcp_opening_ms,
            tcp_established_ms,
            tcp_closing_ms,
            tcp_closed_ms,
            timeouts.opening_ms,
            timeouts.established_ms,
        ];
        TimeoutTicks(all.map(|ms| ticks(u64::from(ms.min(MAX_TIMEOUT_MS)) * 1_000_000).max(1)))
    }

    #[inline(always)]
    pub(crate) fn of(&self, state: State) -> u32 {
        self.0[state as usize]
    }

    /// How long a flow may be silent whose directions are in these states: as long as either of them, and after a RST as if the
    /// other one were closing too.
    pub(crate) fn of_both(&self, [one, other]: [State; 2]) -> u32 {
        match (one, other) {
            (State::TcpClosed, _) | (_, State::TcpClosed) => self.of(State::TcpClosing),
            _ => self.of(one).max(self.of(other)),
        }
    }
}

/// Nanoseconds in ticks of about a millisecond (2^20 ns), without a division. Wraps around.
#[inline(always)]
pub(crate) fn ticks(ns: u64) -> u32 {
    (ns >> 20) as u32
}

impl State {
    /// The state after a flow's first packet.
    pub(crate) fn first(observed: Observed) -> State {
        match observed {
            Observed::Tcp(_) => State::TcpOpening,
            Observed::Other => State::Opening,
        }
    }

    /// True if an attacker with forged addresses can have made the flow: it gives way to others.
    #[inline(always)]
    pub fn is_unproven(self) -> bool {
        matches!(self, State::TcpOpening | State::Opening)
    }

    /// True if a packet begins another flow with the addresses and ports of this one (RFC 6191). A SYN in an established
    /// flow does not: it may be forged, and the ends settle that themselves (RFC 5961 §4).
    #[inline(always)]
    pub(crate) fn is_over(self, observed: Observed) -> bool {
        let is_syn = matches!(observed, Observed::Tcp(flags) if flags & (flag::SYN | flag::ACK) == flag::SYN);
        is_syn && matches!(self, State::TcpClosing | State::TcpClosed)
    }

    /// True if a flow is established, and a packet leaves it so: nearly every packet of nearly every flow.
    #[inline(always)]
    pub(crate) fn goes_on(self, observed: Observed) -> bool {
        match observed {
            Observed::Tcp(flags) => self == State::TcpEstablished && flags & (flag::RST | flag::FIN) == 0,
            Observed::Other => self == State::Established,
        }
    }

    /// The state after one more packet. `proves`: further packets of this direction show that the other end takes part, as
    /// the other direction does not pass here.
    #[inline(always)]
    pub(crate) fn after(self, observed: Observed, proves: bool) -> State {
        let Observed::Tcp(flags) = observed else {
            return if self == State::Opening && proves { State::Established } else { self };
        };
        let is_reset = flags & flag::RST != 0;
        let is_end = flags & flag::FIN != 0;
        match self {
            // Neither SYN, RST nor FIN alone proves anything: whoever forges one forges the other.
            State::TcpOpening if !proves || is_reset || !acknowledges(flags) => State::TcpOpening,
            State::TcpOpening if is_end => State::TcpClosing,
            State::TcpOpening => State::TcpEstablished,
            State::TcpEstablished | State::TcpClosing if is_reset => State::TcpClosed,
            State::TcpEstablished if is_end => State::TcpClosing,
            // A RST may be forged (RFC 5961 §3): if the ends go on, the flow lives on.
            State::TcpClosed if !is_reset => State::TcpClosing,
            state => state,
        }
    }

    /// True if a packet of the answering direction shows that the asking end exists: a server under attack answers
    /// forged SYNs, but acknowledges nothing more.
    #[inline(always)]
    pub(crate) fn is_proof(observed: Observed) -> bool {
        match observed {
            Observed::Tcp(flags) => acknowledges(flags) && flags & flag::RST == 0,
            Observed::Other => true,
        }
    }

    /// The state after the other direction has had a packet.
    #[inline(always)]
    pub(crate) fn after_answer(self) -> State {
        match self {
            State::TcpOpening => State::TcpEstablished,
            State::Opening => State::Established,
            state => state,
        }
    }
}

/// True of what follows the first packets: an ACK without SYN.
#[inline(always)]
fn acknowledges(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK) == flag::ACK
}
