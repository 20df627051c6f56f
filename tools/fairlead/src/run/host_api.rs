//! The API on an address of the host: sockets of this process whose bytes control serves as it serves its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use control::{Control, Stream};

use crate::failure::{Failure, Result};

/// Connections accepted in one turn.
const ACCEPTS_PER_POLL: usize = 16;

/// The listener, and the connections that control still serves.
pub struct HostApi {
    listener: TcpListener,
    connections: Vec<Watched>,
}

/// A connection, to be waited for.
struct Watched {
    socket: Arc<Socket>,
    /// What had been read when bytes, or the end, were last seen to wait.
    waiting_at: Option<u64>,
}

/// A socket, and how often it was read.
struct Socket {
    stream: TcpStream,
    reads: AtomicU64,
}

impl Watched {
    /// Whether to wake up when there is something to read: not if control has seen to the connection since, and left what
    /// waits there, as it does with the end of a stream while it still sends.
    fn wakes(&mut self) -> bool {
        let reads = self.socket.reads.load(Ordering::Relaxed);
        let is_waiting = self.socket.stream.peek(&mut [0]).is_ok();
        let was_left = is_waiting && self.waiting_at == Some(reads);
        self.waiting_at = is_waiting.then_some(reads);
        !was_left
    }
}

impl HostApi {
    /// Listens on `address`.
    pub fn listen(address: SocketAddr) -> Result<HostApi> {
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let bound = listener.local_addr()?;
            Ok((listener, bound))
        };
        let (listener, bound) = listen().map_err(|error: std::io::Error| {
            Failure::operation(format!("cannot serve the API on {address}: {error}"))
        })?;
        log::info!("the API is served on http://{bound}");
        Ok(HostApi { listener, connections: Vec::new() })
    }

    /// Hands new connections to control.
    pub fn poll(&mut self, control: &mut Control, now_ns: u64) {
        // What control has let go is over.
        self.connections.retain(|connection| Arc::strong_count(&connection.socket) > 1);
        for _ in 0..ACCEPTS_PER_POLL {
            let Ok((socket, peer)) = self.listener.accept() else { break };
            if socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true)).is_err() {
                continue;
            }
            let socket = Arc::new(Socket { stream: socket, reads: AtomicU64::new(0) });
            self.connections.push(Watched { socket: socket.clone(), waiting_at: None });
            control.adopt(Box::new(HostStream { socket, is_over: false }), peer.ip(), now_ns);
        }
    }

    /// What is readable when there is something to do.
    pub fn descriptors(&mut self) -> Vec<RawFd> {
        let waited_for = self.connections.iter_mut().filter_map(|watched| {
            let descriptor = watched.socket.stream.as_raw_fd();
            watched.wakes().then_some(descriptor)
        });
        std::iter::once(self.listener.as_raw_fd()).chain(waited_for).collect()
    }
}

struct HostStream {
    socket: Arc<Socket>,
    /// Nothing more comes.
    is_over: bool,
}

impl Stream for HostStream {
    fn read(&mut self, out: &mut [u8]) -> usize {
        let _ = self.socket.reads.fetch_add(1, Ordering::Relaxed);
        match (&self.socket.stream).read(out) {
            Ok(0) if !out.is_empty() => self.is_over = true,
            Ok(count) => return count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.is_over = true,
        }
        0
    }

    fn read_closed(&self) -> bool {
        // The end may wait where nobody reads while there is something to send.
        self.is_over || matches!(self.socket.stream.peek(&mut [0]), Ok(0))
    }

    fn write(&mut self, data: &[u8]) -> usize {
        match (&self.socket.stream).write(data) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => {
                self.is_over = true;
                // Nobody takes it any more.
                data.len()
            }
        }
    }

    fn close(&mut self) {
        // It fails if the peer has gone already.
        let _ = self.socket.stream.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_nobody_reads_wakes_nobody_twice() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let socket = Arc::new(Socket { stream, reads: AtomicU64::new(0) });
        let mut watched = Watched { socket: socket.clone(), waiting_at: None };
        let mut served = HostStream { socket, is_over: false };
        assert!(watched.wakes() && watched.wakes() && !served.read_closed(), "nothing is there");
        client.write_all(b"x").unwrap();
        while served.socket.stream.peek(&mut [0]).is_err() {}
        assert!(watched.wakes(), "it is new");
        assert_eq!(served.read(&mut [0; 8]), 1);
        assert!(watched.wakes());
        client.shutdown(Shutdown::Write).unwrap();
        while served.socket.stream.peek(&mut [0]).is_err() {}
        assert!(watched.wakes() && !watched.wakes() && !watched.wakes(), "seen, then left");
        assert!(served.read_closed());
        assert_eq!(served.read(&mut [0; 8]), 0);
    }
}
