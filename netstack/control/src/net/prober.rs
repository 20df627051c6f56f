//! Makes the probes that crate `health` wants: TCP connections, HTTP requests and echo requests of the node's own.
//!
//! Each probe over TCP has a socket of the stack for as long as it lasts. There are [`PROBES`] at most, whatever the number
//! of backends: who cannot be probed yet waits, the longest due first.

use super::{Stack, echo, filter::tcp_ends};
use alloc::{format, vec, vec::Vec};
use core::net::{IpAddr, SocketAddr};
use core::ops::RangeInclusive;
use health::{Event, Failure, Kind, Monitor, Probe};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};

/// Probes at once.
pub(super) const PROBES: usize = 128;
/// Buffers of a probe's socket. A request has a path of 255 bytes at most; of an answer only the first line counts.
const RECEIVE_BUFFER_BYTES: usize = 1024;
const SEND_BUFFER_BYTES: usize = 512;
/// Their source ports: none of full NAT, which ends below.
const PORTS: RangeInclusive<u16> = 61_000..=65_535;
/// How long a backend may take to end a connection whose probe is over.
const GOODBYE_NS: u64 = 1_000_000_000;

/// The probes under way.
pub(crate) struct Prober {
    running: Vec<Running>,
    next_port: u16,
    /// Identifier and sequence number of the next echo request.
    next_echo: u32,
}

/// One probe.
struct Running {
    probe: Probe,
    way: Way,
    /// Its result was told: only its connection is still to end.
    is_told: bool,
    /// It failed, or its connection is given up, if it still goes on then.
    until_ns: u64,
}

enum Way {
    /// With identifier and sequence number, and whether it was answered.
    Echo(u32, bool),
    Tcp(Connection),
}

struct Connection {
    socket: SocketHandle,
    local: SocketAddr,
    remote: SocketAddr,
    has_asked: bool,
    /// What the socket still had to send is on its way: it can go.
    is_last: bool,
}

impl Prober {
    /// No probes yet. With a random number to count from.
    pub fn new(random: u64) -> Self {
        let ports = PORTS.end() - PORTS.start();
        Self {
            running: Vec::new(),
            next_port: PORTS.start() + random as u16 % ports,
            next_echo: (random >> 32) as u32,
        }
    }

    /// Probes under way.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Whether a packet is a segment from a backend that is being probed.
    pub fn expects(&self, packet: &[u8]) -> bool {
        let Some((from, to)) = tcp_ends(packet, &PORTS) else { return false };
        self.running.iter().any(|running| {
            matches!(&running.way, Way::Tcp(connection) if connection.remote == from && connection.local == to)
        })
    }

    /// Takes a packet if it answers an echo request of ours.
    pub fn take_answer(&mut self, packet: &[u8]) -> bool {
        let Some(answer) = echo::answer(packet) else { return false };
        let asked = self.running.iter_mut().find_map(|running| match &mut running.way {
            Way::Echo(rest, is_answered) if (running.probe.backend.ip(), *rest) == answer => {
                Some(is_answered)
            }
            _ => None,
        });
        asked.map(|is_answered| *is_answered = true).is_some()
    }

    /// Ends probes that have a result, and begins those that are due; `source` says which address of the node asks another.
    /// Returns when to poll again.
    pub fn poll(
        &mut self,
        (stack, monitor): (&mut Stack, &mut Monitor),
        source: &dyn Fn(IpAddr) -> Option<IpAddr>,
        events: &mut Vec<Event>,
        now_ns: u64,
    ) -> u64 {
        let mut index = 0;
        while let Some(running) = self.running.get_mut(index) {
            if let Some(result) = running.result(stack, now_ns) {
                events.extend(monitor.report(running.probe.number, result, now_ns));
            }
            if running.is_over(stack, now_ns) {
                drop(self.running.swap_remove(index));
            } else {
                index += 1;
            }
        }
        while self.running.len() < PROBES
            && let Some(probe) = monitor.poll(now_ns, events)
        {
            let number = probe.number;
            if self.start(stack, probe, source).is_none() {
                events.extend(monitor.report(number, Err(Failure::NoAddress), now_ns));
            }
        }
        let due_ns = if self.running.len() < PROBES { monitor.next_ns() } else { u64::MAX };
        self.running.iter().map(|running| running.until_ns).fold(due_ns, u64::min)
    }

    fn start(
        &mut self,
        stack: &mut Stack,
        probe: Probe,
        source: &dyn Fn(IpAddr) -> Option<IpAddr>,
    ) -> Option<()> {
        let (to, until_ns) = (probe.backend, probe.deadline_ns);
        let from = source(to.ip())?;
        let way = match probe.check.kind {
            Some(Kind::Tcp { port } | Kind::Http { port, .. }) => {
                let remote = SocketAddr::new(to.ip(), port.unwrap_or(to.port()));
                Way::Tcp(self.connect(stack, from, remote)?)
            }
            _ => {
                self.next_echo = self.next_echo.wrapping_add(1);
                stack.send(echo::request(from, to.ip(), self.next_echo));
                Way::Echo(self.next_echo, false)
            }
        };
        self.running.push(Running { probe, way, is_told: false, until_ns });
        Some(())
    }

    fn connect(&mut self, stack: &mut Stack, from: IpAddr, remote: SocketAddr) -> Option<Connection> {
        self.next_port = if self.next_port == *PORTS.end() { *PORTS.start() } else { self.next_port + 1 };
        let local = SocketAddr::new(from, self.next_port);
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(RECEIVE_BUFFER_BYTES), buffer(SEND_BUFFER_BYTES));
        let (to, via) = (IpEndpoint::from(remote), IpListenEndpoint::from(local));
        socket.connect(stack.interface.context(), to, via).ok()?;
        let socket = stack.sockets.add(socket);
        Some(Connection { socket, local, remote, has_asked: false, is_last: false })
    }
}

impl Running {
    /// What came out of it, once.
    fn result(&mut self, stack: &mut Stack, now_ns: u64) -> Option<Result<(), Failure>> {
        if self.is_told {
            return None;
        }
        let result = match &mut self.way {
            Way::Echo(_, is_answered) => is_answered.then_some(Ok(())),
            Way::Tcp(connection) => {
                let socket = stack.sockets.get_mut::<Socket<'_>>(connection.socket);
                connection.advance(socket, self.probe.check.kind.as_ref())
            }
        };
        let is_late = now_ns >= self.until_ns;
        let result = result.or_else(|| is_late.then_some(Err(Failure::Timeout)))?;
        self.is_told = true;
        if result != Err(Failure::Timeout) {
            self.until_ns = now_ns + GOODBYE_NS;
        }
        Some(result)
    }

    /// Whether nothing of it is left; its connection is brought to an end meanwhile.
    fn is_over(&mut self, stack: &mut Stack, now_ns: u64) -> bool {
        let Way::Tcp(connection) = &mut self.way else { return self.is_told };
        if !self.is_told {
            return false;
        }
        if connection.is_last {
            drop(stack.sockets.remove(connection.socket));
            return true;
        }
        let socket = stack.sockets.get_mut::<Socket<'_>>(connection.socket);
        while socket.recv(|data| (data.len(), data.len())).is_ok_and(|bytes| bytes > 0) {}
        if !socket.may_recv() || matches!(self.probe.check.kind, Some(Kind::Tcp { .. })) {
            socket.close();
        }
        if now_ns >= self.until_ns {
            socket.abort();
        }
        if matches!(socket.state(), State::Closed | State::TimeWait) {
            // Its last segment goes at the end of this turn.
            connection.is_last = true;
            self.until_ns = now_ns;
        }
        false
    }
}

impl Connection {
    fn advance(&mut self, socket: &mut Socket<'_>, kind: Option<&Kind>) -> Option<Result<(), Failure>> {
        match socket.state() {
            State::SynSent => return None,
            State::Closed if !self.has_asked => return Some(Err(Failure::Refused)),
            _ => {}
        }
        let Some(Kind::Http { path, status, .. }) = kind else { return Some(Ok(())) };
        if !self.has_asked && socket.may_send() {
            let host = self.remote;
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: fairlead\r\nConnection: close\r\n\r\n"
            );
            // The buffer has room for the longest one.
            self.has_asked = socket.send_slice(request.as_bytes()).is_ok();
        }
        const LINE_BYTES: usize = 12;
        let line = socket.peek(LINE_BYTES).unwrap_or_default();
        if line.len() == LINE_BYTES {
            return Some(judge(line, *status));
        }
        // No more comes; what is there is too little.
        let is_ended = !matches!(socket.state(), State::Established | State::FinWait1 | State::FinWait2);
        is_ended.then_some(Err(Failure::Closed))
    }
}

/// What the beginning of an answer says, "HTTP/1.1 200" (RFC 9112 §4).
fn judge(line: &[u8], (first, last): (u16, u16)) -> Result<(), Failure> {
    let code = line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(1..)?.strip_prefix(b" "));
    let code = code.and_then(|digits| core::str::from_utf8(digits).ok()?.parse().ok());
    match code {
        Some(code) if (first..=last).contains(&code) => Ok(()),
        Some(code) => Err(Failure::Status(code)),
        None => Err(Failure::NotHttp),
    }
}
