//! One connection: requests in order, replies in order, deadlines for a peer that is slow or gone.

use super::{
    Pull, Service, Sink, Source, Start,
    body::{Decoder, Piece},
    head::{self, Head, MAX_HEAD_BYTES, Method},
    reply::{self, Body, Framing, Reply},
};
use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::net::IpAddr;
use zeroize::{Zeroize, Zeroizing};

const SECOND_NS: u64 = 1_000_000_000;

/// From the first byte of a header section to its last.
const HEAD_TIMEOUT_NS: u64 = 10 * SECOND_NS;
/// Within this a client that has a token shows it.
const STRANGER_NS: u64 = SECOND_NS;
/// Between requests.
const IDLE_TIMEOUT_NS: u64 = 60 * SECOND_NS;
/// A peer that neither sends the next piece of a body nor takes the next piece of a reply.
const STALL_TIMEOUT_NS: u64 = 30 * SECOND_NS;
/// Bytes of a body that must have come in each second on the average, after [`STALL_TIMEOUT_NS`].
const MIN_BODY_BYTES_PER_SECOND: u64 = 1024;
/// What is read and thrown away after the last reply, so that it is not lost to a reset (RFC 9112 §9.6).
const LINGER_TIMEOUT_NS: u64 = 2 * SECOND_NS;
/// How soon a source that has nothing now is asked again.
const SOURCE_WAIT_NS: u64 = SECOND_NS / 10;
/// How soon a sink that is busy is asked again.
const SINK_WAIT_NS: u64 = SECOND_NS / 1000;

/// Input that is kept: a whole header section, or a piece of a body.
const MAX_INPUT_BYTES: usize = 2 * MAX_HEAD_BYTES;
/// No more is made while so much waits for the peer.
const MAX_OUTPUT_BYTES: usize = 64 << 10;
/// Steps of one poll; each handles at most one request, or one piece of a body.
const STEPS_PER_POLL: usize = 8;

/// The transport under a connection, non-blocking.
pub(crate) trait Wire {
    /// Moves received bytes into `out`; how many.
    fn read(&mut self, out: &mut [u8]) -> usize;
    /// True when the peer has closed its side and everything was read.
    fn read_closed(&self) -> bool;
    /// Takes bytes to send; how many.
    fn write(&mut self, data: &[u8]) -> usize;
    /// Bytes taken that the peer has not acknowledged.
    fn unacknowledged(&self) -> usize;
}

/// When a connection wants to be polled next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At once: there is more to do.
    Now,
    /// When the wire has something, and at this time at the latest.
    At(u64),
    /// Everything was sent: close this side of the wire, go on polling.
    Finish(u64),
    /// It is over: drop the wire.
    Gone,
}

/// The state of one connection.
pub(crate) struct Connection<S> {
    peer: IpAddr,
    /// What was read and not used yet, and zeros up to [`MAX_INPUT_BYTES`]: bodies hold keys.
    buffer: Zeroizing<Vec<u8>>,
    input_bytes: usize,
    output: VecDeque<Vec<u8>>,
    /// Bytes of the front of `output` that were sent.
    sent: usize,
    state: State<S>,
    /// When the present state is too old.
    deadline_ns: u64,
    /// When the peer last took something.
    taken_ns: u64,
    opened_ns: u64,
    /// The peer has shown the right token.
    is_known: bool,
}

/// How a connection ranks when there is room for one more only if one gives way: the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Worth {
    /// It is over, but for the last words.
    Over,
    /// Whoever it is has had time to show a token.
    Stranger,
    /// The peer is known, and nothing is lost if the connection goes.
    Idle,
    /// It has only just begun.
    New,
}

impl Worth {
    /// Of a connection without a token that began then.
    pub fn of_stranger(opened_ns: u64, now_ns: u64) -> Self {
        if now_ns.saturating_sub(opened_ns) >= STRANGER_NS { Self::Stranger } else { Self::New }
    }
}

enum State<S> {
    /// Between requests, or in a header section.
    Head { begun: bool },
    /// In a body.
    Read(Reading<S>),
    /// In a reply that is made while it is sent.
    Send(Sending<S>),
    /// Everything to send is in `output`.
    Flush,
    /// The wire has everything; the peer's last words are read over.
    Linger,
}

/// A body that is coming in.
struct Reading<S> {
    sink: Box<dyn Sink<S>>,
    decoder: Decoder,
    after: After,
    since_ns: u64,
    bytes: u64,
}

/// A reply that is made while it is sent.
struct Sending<S> {
    source: Box<dyn Source<S>>,
    framing: Framing,
    keep_alive: bool,
}

/// What of a request its reply depends on.
#[derive(Clone, Copy)]
struct After {
    keep_alive: bool,
    is_head: bool,
    is_http10: bool,
}

impl After {
    const CLOSE: Self = Self { keep_alive: false, is_head: false, is_http10: false };
}

/// What a step came to.
enum Step {
    Progress,
    /// The same, and enough for a turn.
    Enough,
    /// Only the peer or time can change something.
    Blocked,
    /// The same, and a source or sink is to be asked again after so many nanoseconds.
    Waiting(u64),
}

impl<S: Service> Connection<S> {
    /// A connection that `peer` has opened.
    pub fn new(peer: IpAddr, now_ns: u64) -> Self {
        Self {
            peer,
            buffer: Zeroizing::default(),
            input_bytes: 0,
            output: VecDeque::new(),
            sent: 0,
            state: State::Head { begun: false },
            deadline_ns: now_ns + HEAD_TIMEOUT_NS,
            taken_ns: now_ns,
            opened_ns: now_ns,
            is_known: false,
        }
    }

    /// Its rank among those that may give way; None: it may not.
    pub fn worth(&self, now_ns: u64) -> Option<Worth> {
        match (self.is_known, self.is_idle()) {
            (true, idle) => idle.then_some(Worth::Idle),
            (false, _) => Some(Worth::of_stranger(self.opened_ns, now_ns)),
        }
    }

    pub fn opened_ns(&self) -> u64 {
        self.opened_ns
    }

    /// True between requests: nothing is lost if the connection goes.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head { begun: false }) && self.output.is_empty()
    }

    /// Does what can be done now, a bounded amount.
    pub fn poll(&mut self, service: &mut S, wire: &mut dyn Wire, now_ns: u64) -> Next {
        if now_ns >= self.deadline_ns && !self.time_out(service, now_ns) {
            return Next::Gone;
        }
        for _ in 0..STEPS_PER_POLL {
            self.write(wire, now_ns);
            if matches!(self.state, State::Flush) && self.output.is_empty() {
                self.enter(State::Linger, now_ns + STALL_TIMEOUT_NS);
                return Next::Finish(now_ns + LINGER_TIMEOUT_NS);
            }
            match self.step(service, wire, now_ns) {
                Step::Progress => {}
                Step::Enough => return Next::Now,
                Step::Blocked => return self.next(wire, u64::MAX, now_ns),
                Step::Waiting(wait_ns) => {
                    self.write(wire, now_ns);
                    // A stream without end is of no use to a peer that said goodbye.
                    if matches!(self.state, State::Send(_)) && self.output.is_empty() && wire.read_closed() {
                        return Next::Gone;
                    }
                    return self.next(wire, now_ns + wait_ns, now_ns);
                }
            }
        }
        Next::Now
    }

    fn step(&mut self, service: &mut S, wire: &mut dyn Wire, now_ns: u64) -> Step {
        match core::mem::replace(&mut self.state, State::Flush) {
            State::Head { begun } => self.step_head(begun, service, wire, now_ns),
            State::Read(reading) => self.step_read(reading, service, wire, now_ns),
            State::Send(sending) => self.step_send(sending, service, now_ns),
            State::Flush => Step::Blocked,
            State::Linger => {
                self.state = State::Linger;
                self.consume(usize::MAX);
                if wire.unacknowledged() == 0 {
                    self.deadline_ns = self.deadline_ns.min(now_ns + LINGER_TIMEOUT_NS);
                }
                if self.fill(wire) > 0 { Step::Progress } else { Step::Blocked }
            }
        }
    }

    /// The present state is too old. False: nobody is owed an answer.
    fn time_out(&mut self, service: &mut S, now_ns: u64) -> bool {
        let owed = matches!(self.state, State::Head { begun: true } | State::Read(_));
        if owed {
            let reply = service.refuse(408, "the request did not arrive in time");
            self.reply(reply, After::CLOSE, now_ns);
        }
        owed
    }

    fn step_head(&mut self, begun: bool, service: &mut S, wire: &mut dyn Wire, now_ns: u64) -> Step {
        self.state = State::Head { begun };
        // A client that sends requests and takes no replies gets no further.
        if self.output_bytes() >= MAX_OUTPUT_BYTES {
            return Step::Blocked;
        }
        let read = self.fill(wire);
        // RFC 9112 §2.2: an empty line before a request is ignored.
        let blank = self.input().iter().take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
        self.consume(blank);
        if !begun && !self.input().is_empty() {
            self.enter(State::Head { begun: true }, now_ns + HEAD_TIMEOUT_NS);
        }
        match head::parse(self.input()) {
            _ if self.input().is_empty() && read == 0 => Step::Blocked,
            Ok(None) if read == 0 => Step::Blocked,
            Ok(None) => Step::Progress,
            Ok(Some((head, length))) => {
                self.consume(length);
                self.begin(&head, service, now_ns);
                Step::Progress
            }
            Err((status, detail)) => {
                let reply = service.refuse(status, detail);
                self.reply(reply, After::CLOSE, now_ns);
                Step::Progress
            }
        }
    }

    fn begin(&mut self, head: &Head, service: &mut S, now_ns: u64) {
        let after = After {
            keep_alive: head.keep_alive,
            is_head: head.method == Method::Head,
            is_http10: head.is_http10,
        };
        let start = service.start(head, self.peer, now_ns);
        let is_denied = matches!(&start, Start::Reply(reply) if matches!(reply.status, 401 | 429));
        self.is_known |= !is_denied && service.knows(head);
        match start {
            Start::Reply(reply) => {
                // A body that nobody wants would be taken for the next request.
                let keep_alive = after.keep_alive && head.body == head::BodyLength::None;
                self.reply(reply, After { keep_alive, ..after }, now_ns);
            }
            Start::Read(sink) => {
                if head.expect_continue && self.input().is_empty() {
                    self.output.push_back(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec());
                }
                let decoder = Decoder::new(head.body);
                let reading = Reading { sink, decoder, after, since_ns: now_ns, bytes: 0 };
                self.enter(State::Read(reading), now_ns + STALL_TIMEOUT_NS);
            }
        }
    }

    fn step_read(
        &mut self,
        mut reading: Reading<S>,
        service: &mut S,
        wire: &mut dyn Wire,
        now_ns: u64,
    ) -> Step {
        if !reading.sink.ready(service) {
            // That is not the peer's fault.
            self.enter(State::Read(reading), now_ns + STALL_TIMEOUT_NS);
            return Step::Waiting(SINK_WAIT_NS);
        }
        let read = self.fill(wire);
        let mut pushed = false;
        let used = match reading.decoder.decode(self.input()) {
            Piece::Malformed => {
                let reply = service.refuse(400, "the body is not chunked as it should be");
                self.reply(reply, After::CLOSE, now_ns);
                return Step::Progress;
            }
            Piece::End(framing) => {
                self.consume(framing);
                if !reading.sink.is_done(service) {
                    self.enter(State::Read(reading), now_ns + STALL_TIMEOUT_NS);
                    return Step::Waiting(SINK_WAIT_NS);
                }
                let reply = reading.sink.end(service);
                self.reply(reply, reading.after, now_ns);
                return Step::Progress;
            }
            Piece::Data(framing, []) => framing,
            Piece::Data(framing, data) => {
                if let Err(reply) = reading.sink.push(service, data) {
                    self.reply(reply, After { keep_alive: false, ..reading.after }, now_ns);
                    return Step::Progress;
                }
                pushed = true;
                framing + data.len()
            }
        };
        self.consume(used);
        if read > 0 {
            reading.bytes = reading.bytes.saturating_add(read as u64);
            self.deadline_ns = reading.slowest_ns().min(now_ns + STALL_TIMEOUT_NS);
        }
        self.state = State::Read(reading);
        match (pushed, read > 0 || used > 0) {
            // What the sink makes of it takes longer than reading it.
            (true, _) => Step::Enough,
            (false, true) => Step::Progress,
            (false, false) => Step::Blocked,
        }
    }

    fn step_send(&mut self, mut sending: Sending<S>, service: &mut S, now_ns: u64) -> Step {
        if self.output_bytes() >= MAX_OUTPUT_BYTES {
            self.state = State::Send(sending);
            return Step::Blocked;
        }
        let mut piece = Vec::new();
        let pull = sending.source.pull(service, &mut piece);
        let is_chunked = sending.framing == Framing::Chunked;
        if !piece.is_empty() {
            self.push(if is_chunked { reply::chunk(&piece) } else { piece }, now_ns);
        }
        match pull {
            Pull::End => {
                if is_chunked {
                    self.push(reply::LAST_CHUNK.to_vec(), now_ns);
                }
                self.end_reply(sending.keep_alive, now_ns);
                return Step::Progress;
            }
            Pull::More | Pull::Wait => self.state = State::Send(sending),
        }
        if pull == Pull::More { Step::Progress } else { Step::Waiting(SOURCE_WAIT_NS) }
    }

    fn reply(&mut self, reply: Reply<S>, after: After, now_ns: u64) {
        let framing = reply.framing(after.is_http10);
        let keep_alive = after.keep_alive && framing != Framing::Close;
        self.push(reply.head(framing, keep_alive), now_ns);
        match reply.body {
            Body::Stream(source) if !after.is_head => {
                self.enter(State::Send(Sending { source, framing, keep_alive }), u64::MAX);
            }
            Body::Bytes(bytes) if !after.is_head && !bytes.is_empty() => {
                self.push(bytes, now_ns);
                self.end_reply(keep_alive, now_ns);
            }
            _ => self.end_reply(keep_alive, now_ns),
        }
    }

    fn end_reply(&mut self, keep_alive: bool, now_ns: u64) {
        if keep_alive {
            self.enter(State::Head { begun: false }, now_ns + IDLE_TIMEOUT_NS);
        } else {
            self.enter(State::Flush, u64::MAX);
        }
    }

    fn enter(&mut self, state: State<S>, deadline_ns: u64) {
        self.state = state;
        self.deadline_ns = deadline_ns;
    }

    fn push(&mut self, bytes: Vec<u8>, now_ns: u64) {
        if self.output.is_empty() {
            self.taken_ns = now_ns;
        }
        self.output.push_back(bytes);
    }

    pub(super) fn output_bytes(&self) -> usize {
        self.output.iter().map(Vec::len).sum::<usize>() - self.sent
    }

    /// Sends what the wire takes.
    fn write(&mut self, wire: &mut dyn Wire, now_ns: u64) {
        while let Some(front) = self.output.front() {
            let rest = front.get(self.sent..).unwrap_or_default();
            let n = wire.write(rest);
            if n > 0 {
                self.taken_ns = now_ns;
            }
            if n < rest.len() {
                self.sent += n;
                return;
            }
            self.sent = 0;
            let _ = self.output.pop_front();
        }
    }

    /// What was read and not used yet.
    fn input(&self) -> &[u8] {
        self.buffer.get(..self.input_bytes).unwrap_or_default()
    }

    /// Takes the first bytes of the input away.
    fn consume(&mut self, count: usize) {
        let count = count.min(self.input_bytes);
        let left = self.input_bytes - count;
        self.buffer.copy_within(count..self.input_bytes, 0);
        self.buffer.get_mut(left..self.input_bytes).unwrap_or_default().zeroize();
        self.input_bytes = left;
    }

    /// Reads what the wire has and there is room for; how much.
    fn fill(&mut self, wire: &mut dyn Wire) -> usize {
        self.buffer.resize(MAX_INPUT_BYTES, 0);
        let n = wire.read(self.buffer.get_mut(self.input_bytes..).unwrap_or_default());
        self.input_bytes += n;
        n
    }

    /// What happens next when nothing can be done before `wake_ns` unless the peer acts; with `u64::MAX` it is its turn.
    fn next(&mut self, wire: &dyn Wire, wake_ns: u64, now_ns: u64) -> Next {
        let stall_ns =
            if self.output.is_empty() { u64::MAX } else { self.taken_ns.saturating_add(STALL_TIMEOUT_NS) };
        // A peer that closed its side may still wait for a reply, but will not send the rest of a request.
        let is_its_turn = wake_ns == u64::MAX && !matches!(self.state, State::Send(_) | State::Flush);
        let is_over = self.output.is_empty() && is_its_turn;
        if now_ns >= stall_ns || (is_over && wire.read_closed()) {
            return Next::Gone;
        }
        Next::At(self.deadline_ns.min(stall_ns).min(wake_ns))
    }
}

impl<S> Reading<S> {
    /// When a body that comes in at the least bearable rate would have got as far.
    fn slowest_ns(&self) -> u64 {
        let earned_ns = (self.bytes / MIN_BODY_BYTES_PER_SECOND).saturating_mul(SECOND_NS);
        self.since_ns.saturating_add(STALL_TIMEOUT_NS).saturating_add(earned_ns)
    }
}
