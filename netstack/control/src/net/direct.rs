//! Connections to the API that come by another way than the node's own TCP/IP: where the node is a process, a socket of
//! its host.

use crate::http::{Connection, Next, Service, Wire};
use alloc::{boxed::Box, vec::Vec};
use core::net::IpAddr;

/// Connections at most. For a further one that gives way which is worth least; if none may, it is closed at once.
const MAX_CONNECTIONS: usize = 16;
/// When a stream that took less than it was given is tried again.
const RETRY_NS: u64 = 2_000_000;

/// A byte stream that never waits.
pub trait Stream {
    /// Moves received bytes into `out`; how many.
    fn read(&mut self, out: &mut [u8]) -> usize;
    /// True when the peer has closed its side and everything was read.
    fn read_closed(&self) -> bool;
    /// Takes bytes to send; how many.
    fn write(&mut self, data: &[u8]) -> usize;
    /// Sends nothing more; what was taken is still sent.
    fn close(&mut self);
}

/// The connections.
pub(crate) struct Direct<S>(Vec<(Connection<S>, Box<dyn Stream>)>);

impl<S: Service> Direct<S> {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Serves `stream`, which `peer` has opened.
    pub fn adopt(&mut self, stream: Box<dyn Stream>, peer: IpAddr, now_ns: u64) {
        if self.0.len() >= MAX_CONNECTIONS {
            let ranked = self.0.iter().enumerate().filter_map(|(index, (connection, _))| {
                Some((connection.worth(now_ns)?, connection.opened_ns(), index))
            });
            let Some((_, _, index)) = ranked.min() else { return };
            drop(self.0.remove(index));
        }
        self.0.push((Connection::new(peer, now_ns), stream));
    }

    /// Serves every connection, a bounded amount. Returns when to poll again at the latest; earlier when a stream has
    /// something to read.
    pub fn poll(&mut self, service: &mut S, now_ns: u64) -> u64 {
        let mut next_ns = u64::MAX;
        self.0.retain_mut(|(connection, stream)| {
            let mut wire = StreamWire { stream: &mut **stream, is_full: false };
            let next = connection.poll(service, &mut wire, now_ns);
            if wire.is_full {
                next_ns = next_ns.min(now_ns + RETRY_NS);
            }
            match next {
                Next::Now => next_ns = now_ns,
                Next::At(at_ns) => next_ns = next_ns.min(at_ns),
                Next::Finish(at_ns) => {
                    stream.close();
                    next_ns = next_ns.min(at_ns);
                }
                Next::Gone => return false,
            }
            true
        });
        next_ns
    }
}

struct StreamWire<'a> {
    stream: &'a mut dyn Stream,
    /// It took less than it was given.
    is_full: bool,
}

impl Wire for StreamWire<'_> {
    fn read(&mut self, out: &mut [u8]) -> usize {
        self.stream.read(out).min(out.len())
    }

    fn read_closed(&self) -> bool {
        self.stream.read_closed()
    }

    fn write(&mut self, data: &[u8]) -> usize {
        let taken = self.stream.write(data).min(data.len());
        self.is_full |= taken < data.len();
        taken
    }

    fn unacknowledged(&self) -> usize {
        0
    }
}
