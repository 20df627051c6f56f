//! The API on an address of the host: sockets of this process whose bytes control serves as it serves its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use control::{Control, Stream};

use crate::failure::{Failure, Result};

/// Connections accepted in one turn.
const ACCEPTS_PER_POLL: usize = 16;

/// The listener, and the connections that control still serves.
pub struct HostApi {
    listener: TcpListener,
    connections: Vec<Arc<TcpStream>>,
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
        self.connections.retain(|connection| Arc::strong_count(connection) > 1);
        for _ in 0..ACCEPTS_PER_POLL {
            let Ok((socket, peer)) = self.listener.accept() else { break };
            if socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true)).is_err() {
                continue;
            }
            let socket = Arc::new(socket);
            self.connections.push(socket.clone());
            control.adopt(Box::new(HostStream { socket, is_over: false }), peer.ip(), now_ns);
        }
    }

    /// What is readable when there is something to do.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let connections = self.connections.iter().map(AsRawFd::as_raw_fd);
        std::iter::once(self.listener.as_raw_fd()).chain(connections).collect()
    }
}

struct HostStream {
    socket: Arc<TcpStream>,
    /// Nothing more comes.
    is_over: bool,
}

impl Stream for HostStream {
    fn read(&mut self, out: &mut [u8]) -> usize {
        match (&*self.socket).read(out) {
            Ok(0) if !out.is_empty() => self.is_over = true,
            Ok(count) => return count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.is_over = true,
        }
        0
    }

    fn read_closed(&self) -> bool {
        self.is_over
    }

    fn write(&mut self, data: &[u8]) -> usize {
        match (&*self.socket).write(data) {
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
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}
