//! The far end of a `-netdev dgram`: raw frames in and out over Unix sockets, without root.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::Nic;

/// Larger than any frame that QEMU sends (its own limit is 64 KiB plus headers).
const MAX_FRAME_BYTES: usize = 70_000;

/// How long the machine may leave a frame unread before sending another fails.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// A wire with a machine at one end and this program at the other. Frames carry no FCS.
#[derive(Debug)]
pub struct FrameSocket {
    socket: UnixDatagram,
    machine: PathBuf,
    directory: TempDir,
}

impl FrameSocket {
    /// Makes both ends' socket names, in a directory that goes with the wire.
    ///
    /// # Errors
    /// The directory or the socket in it cannot be made.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("fairlead-wire-").tempdir()?;
        let socket = UnixDatagram::bind(directory.path().join("host"))?;
        socket.set_write_timeout(Some(SEND_LIMIT))?;
        let machine = directory.path().join("machine");
        Ok(Self { socket, machine, directory })
    }

    /// The machine's end.
    pub fn nic(&self) -> Nic {
        Nic::dgram(&self.machine, self.directory.path().join("host"))
    }

    /// Puts one frame on the wire. Waits while the machine has hundreds unread.
    ///
    /// # Errors
    /// Nobody is at the other end, or the machine does not read what it was sent.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = self.socket.send_to(frame, &self.machine);
        sent.map(drop).context("the machine does not take frames")
    }

    /// The next frame from the machine, or `None` at the deadline.
    ///
    /// # Errors
    /// The socket fails; silence is no error.
    pub fn receive(&self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left))?;
        self.receive_now()
    }

    /// A frame that has already arrived, if there is one.
    ///
    /// # Errors
    /// The socket fails.
    pub fn take_waiting(&self) -> Result<Option<Vec<u8>>> {
        self.socket.set_nonblocking(true)?;
        let received = self.receive_now();
        self.socket.set_nonblocking(false)?;
        received
    }

    fn receive_now(&self) -> Result<Option<Vec<u8>>> {
        let mut frame = vec![0; MAX_FRAME_BYTES];
        match self.socket.recv(&mut frame) {
            Ok(length) => {
                frame.truncate(length);
                Ok(Some(frame))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error).context("cannot receive a frame"),
        }
    }

    /// The next frame for which `wanted` gives something; frames passed over are lost. `None` at the deadline.
    ///
    /// # Errors
    /// As [`FrameSocket::receive`].
    pub fn receive_some<T>(
        &self,
        limit: Duration,
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + limit;
        while let Some(frame) = self.receive(deadline)? {
            if let Some(found) = wanted(&frame) {
                return Ok(Some(found));
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_cross_in_both_directions() {
        let wire = FrameSocket::new().unwrap();
        let machine = UnixDatagram::bind(&wire.machine).unwrap();
        wire.send(b"to the machine").unwrap();
        let mut buffer = [0; 64];
        let length = machine.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"to the machine");

        let host = wire.directory.path().join("host");
        for frame in [b"first", b"other", b"third"] {
            let _ = machine.send_to(frame, &host).unwrap();
        }
        let soon = Duration::from_secs(10);
        let third =
            wire.receive_some(soon, |frame| frame.starts_with(b"th").then(|| frame.to_vec())).unwrap();
        assert_eq!(third.unwrap(), b"third");
        assert_eq!(wire.receive(Instant::now()).unwrap(), None);
    }

    #[test]
    fn nobody_at_the_other_end_is_an_error() {
        assert!(FrameSocket::new().unwrap().send(b"frame").is_err());
    }
}
