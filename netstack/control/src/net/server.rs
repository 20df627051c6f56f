//! HTTP over a fixed pool of sockets: every socket listens, has a connection, or is being freed for the next.

use super::Stack;
use crate::http::{Connection, Next, Service, Wire, Worth};
use alloc::{vec, vec::Vec};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Duration;
use zeroize::Zeroize;

/// Sockets of the pool: so many connections at most.
const SOCKETS: usize = 16;
/// How many there are at first, and how soon there is one more: they take 2 MiB, and a node that starts has more urgent
/// things to do than to clear them.
const FIRST_SOCKETS: usize = 2;
const SOCKET_EVERY_NS: u64 = 2_000_000;
/// Of each socket. Together with the round-trip time they bound the speed of one connection.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// A peer that acknowledges nothing for so long is gone.
const TCP_TIMEOUT: Duration = Duration::from_secs(30);
/// A peer that is silent is asked this often whether it is still there: who follows the log may have nothing to say.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long the end of a connection may take.
const GOODBYE_NS: u64 = 30_000_000_000;

/// The pool.
pub(crate) struct Server<S> {
    slots: Vec<Slot<S>>,
    port: u16,
    /// When there is to be one more.
    grow_ns: u64,
}

struct Slot<S> {
    socket: SocketHandle,
    connection: Option<Connection<S>>,
    /// When it last changed hands; the oldest goes first when sockets run out.
    since_ns: u64,
    next_ns: u64,
    /// When a socket whose connection is over is freed even if the peer never says goodbye.
    abort_ns: u64,
}

impl<S: Service> Server<S> {
    /// A pool on `stack` that listens on `port` from the first poll on.
    pub fn new(stack: &mut Stack, port: u16, now_ns: u64) -> Self {
        let slots = (0..FIRST_SOCKETS).map(|_| Slot::new(stack)).collect();
        Self { slots, port, grow_ns: now_ns + SOCKET_EVERY_NS }
    }

    /// Adds a socket if one is due; when the next one is.
    fn grow(&mut self, stack: &mut Stack, now_ns: u64) -> u64 {
        if now_ns >= self.grow_ns {
            self.slots.push(Slot::new(stack));
            let complete = self.slots.len() >= SOCKETS;
            self.grow_ns = if complete { u64::MAX } else { now_ns + SOCKET_EVERY_NS };
        }
        self.grow_ns
    }

    /// Listens on another port from now on; connections that exist stay.
    pub fn set_port(&mut self, stack: &mut Stack, port: u16) {
        self.port = port;
        for slot in &self.slots {
            let socket = stack.sockets.get_mut::<Socket<'_>>(slot.socket);
            if socket.is_listening() {
                socket.abort();
            }
        }
    }

    /// Handles received packets, serves connections, sends: a bounded amount. Returns when to poll again.
    pub fn poll(&mut self, stack: &mut Stack, service: &mut S, now_ns: u64) -> u64 {
        let grow_ns = self.grow(stack, now_ns);
        stack.poll_ingress(now_ns);
        for slot in &mut self.slots {
            let socket = stack.sockets.get_mut::<Socket<'_>>(slot.socket);
            slot.poll(socket, self.port, service, now_ns);
        }
        self.free_one(stack, now_ns);
        stack.poll_egress(now_ns);
        let connections_ns = self.slots.iter().map(|slot| slot.next_ns).min().unwrap_or(u64::MAX);
        connections_ns.min(grow_ns).min(stack.next_deadline_ns(now_ns))
    }

    /// When no socket listens, frees the one that is missed least, so that the next client gets in.
    fn free_one(&mut self, stack: &mut Stack, now_ns: u64) {
        let sockets = &mut stack.sockets;
        if self.slots.iter().any(|slot| sockets.get::<Socket<'_>>(slot.socket).is_listening()) {
            return;
        }
        let rank = |slot: &Slot<S>| match (sockets.get::<Socket<'_>>(slot.socket).state(), &slot.connection) {
            (State::TimeWait | State::FinWait2, _) => Some(Worth::Over),
            (State::SynReceived, _) => Some(Worth::of_stranger(slot.since_ns, now_ns)),
            (_, Some(connection)) => connection.worth(now_ns),
            (_, None) => Some(Worth::Over),
        };
        let ranked = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| Some((rank(slot)?, slot.since_ns, index)));
        let Some((_, _, index)) = ranked.min() else { return };
        if let Some(slot) = self.slots.get_mut(index) {
            let socket = sockets.get_mut::<Socket<'_>>(slot.socket);
            socket.abort();
            slot.connection = None;
            slot.next_ns = now_ns;
        }
    }
}

impl<S: Service> Slot<S> {
    fn new(stack: &mut Stack) -> Self {
        let mut socket = Socket::new(
            SocketBuffer::new(vec![0; RECEIVE_BUFFER_BYTES]),
            SocketBuffer::new(vec![0; SEND_BUFFER_BYTES]),
        );
        socket.set_timeout(Some(TCP_TIMEOUT));
        socket.set_keep_alive(Some(TCP_KEEP_ALIVE));
        socket.set_nagle_enabled(false);
        Self {
            socket: stack.sockets.add(socket),
            connection: None,
            since_ns: 0,
            next_ns: u64::MAX,
            abort_ns: u64::MAX,
        }
    }

    fn poll(&mut self, socket: &mut Socket<'_>, port: u16, service: &mut S, now_ns: u64) {
        self.next_ns = u64::MAX;
        match socket.state() {
            State::Closed => {
                self.connection = None;
                self.abort_ns = u64::MAX;
                // Fails only for port 0, which no configuration has. The reset of an aborted connection leaves first.
                if socket.remote_endpoint().is_none() {
                    let _ = socket.listen(port);
                }
            }
            State::Listen => self.since_ns = now_ns,
            State::SynReceived => {}
            _ => self.serve(socket, service, now_ns),
        }
    }

    fn serve(&mut self, socket: &mut Socket<'_>, service: &mut S, now_ns: u64) {
        let Some(peer) = socket.remote_endpoint().map(|endpoint| endpoint.addr) else { return };
        // A socket whose connection is over has closed its side already.
        if self.connection.is_none() && matches!(socket.state(), State::Established | State::CloseWait) {
            self.connection = Some(Connection::new(peer.into(), now_ns));
            self.since_ns = now_ns;
        }
        let Some(connection) = &mut self.connection else {
            if now_ns >= self.abort_ns {
                socket.abort();
            }
            self.next_ns = self.abort_ns;
            return;
        };
        match connection.poll(service, &mut SocketWire(socket), now_ns) {
            Next::Now => self.next_ns = now_ns,
            Next::At(at_ns) => self.next_ns = at_ns,
            Next::Finish(at_ns) => {
                socket.close();
                self.next_ns = at_ns;
            }
            Next::Gone => {
                self.connection = None;
                self.abort_ns = now_ns.saturating_add(GOODBYE_NS);
                self.next_ns = self.abort_ns;
                // What the socket took is still sent.
                if socket.send_queue() > 0 || socket.state() == State::CloseWait {
                    socket.close();
                } else {
                    socket.abort();
                }
            }
        }
    }
}

struct SocketWire<'a, 'b>(&'a mut Socket<'b>);

impl Wire for SocketWire<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> usize {
        let mut count = 0;
        // The ring has two parts at most. What was read is cleared: it may have been a key.
        for _ in 0..2 {
            let rest = out.get_mut(count..).unwrap_or_default();
            let part = self.0.recv(|data| {
                let length = data.len().min(rest.len());
                rest[..length].copy_from_slice(&data[..length]);
                data[..length].zeroize();
                (length, length)
            });
            count += part.unwrap_or(0);
        }
        count
    }

    fn read_closed(&self) -> bool {
        !self.0.may_recv()
    }

    fn write(&mut self, data: &[u8]) -> usize {
        self.0.send_slice(data).unwrap_or(0)
    }

    fn unacknowledged(&self) -> usize {
        self.0.send_queue()
    }
}
