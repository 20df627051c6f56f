//! Carries connections between a TCP port of localhost and a Unix socket, which crosses network namespaces.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Result;

/// Offers a port of localhost whose connections go to the Unix socket at `path`; returns the port.
///
/// # Errors
/// No port or no thread can be had.
pub fn tcp_to_unix(path: PathBuf) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let _ = thread::Builder::new().name("relay".into()).spawn(move || {
        for tcp in listener.incoming().flatten() {
            if let Ok(unix) = UnixStream::connect(&path) {
                // A connection that cannot be carried is closed, which is all that its peer can be told.
                let _ = carry(tcp, unix);
            }
        }
    })?;
    Ok(port)
}

/// Listens at the Unix socket `path` and carries its connections to the TCP address `to`.
///
/// # Errors
/// The socket cannot be made, for example because `path` exists, or no thread can be had.
pub fn unix_to_tcp(path: &Path, to: String) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    let _ = thread::Builder::new().name("relay".into()).spawn(move || {
        for unix in listener.incoming().flatten() {
            if let Ok(tcp) = TcpStream::connect(&to) {
                let _ = carry(tcp, unix);
            }
        }
    })?;
    Ok(())
}

/// Copies in both directions, each in a thread of its own, until both ends have said all.
fn carry(tcp: TcpStream, unix: UnixStream) -> io::Result<()> {
    let (mut tcp_reader, mut unix_reader) = (tcp.try_clone()?, unix.try_clone()?);
    let (mut tcp_writer, mut unix_writer) = (tcp, unix);
    let _ = thread::spawn(move || {
        copy(&mut tcp_reader, &mut unix_writer);
        let _ = unix_writer.shutdown(Shutdown::Write);
    });
    let _ = thread::spawn(move || {
        copy(&mut unix_reader, &mut tcp_writer);
        let _ = tcp_writer.shutdown(Shutdown::Write);
    });
    Ok(())
}

/// An end that goes away ends the copy: there is nobody left to be told.
fn copy(from: &mut impl Read, to: &mut impl Write) {
    let _ = io::copy(from, to);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_carried_both_ways_through_both_relays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("relay");
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        unix_to_tcp(&path, server.local_addr().unwrap().to_string()).unwrap();
        let port = tcp_to_unix(path).unwrap();
        let echo = thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).unwrap();
        });
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"over and back").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "OVER AND BACK");
        echo.join().unwrap();
    }
}
