//! Ports over TAP: the far end is an interface of this Linux host, made when the port is opened.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use buffer::{Buf, BufferCache, DATA_ROOM, HEADROOM, PortQueue, Vector};

use super::port::{InterfaceControl, Link, Port, Queue, QueueCounters};
use super::sys::{self, TAP_HEADER_BYTES};
use super::vnet::{self, Unusable};

/// Most segments of a frame that is sent.
const MAX_SEGMENTS: usize = 8;

/// Opens the TAP device `tap` with as many queues as there are workers, as the port `name`.
pub fn open(name: String, tap: &str, queues: usize) -> io::Result<Port> {
    let mut fds = Vec::new();
    let mut true_name = tap.to_owned();
    for _ in 0..queues.max(1) {
        let (fd, opened) = sys::open_tap(&true_name, queues > 1)?;
        true_name = opened;
        fds.push(Arc::new(fd));
    }
    sys::set_up(&true_name)?;
    // The host's end has an address of its own; ours differs from it in one bit and is as unique.
    let mut mac = sys::mac_address(&true_name)?;
    mac[0] = mac[0] & !1 | 2;
    mac[5] ^= 0x80;
    let (mtu, link) = (sys::mtu(&true_name)?, Link::Tap(fds[0].clone()));
    let counters: Vec<_> = fds.iter().map(|_| Arc::new(QueueCounters::default())).collect();
    let queues = fds.into_iter().zip(&counters).map(|(fd, counters)| {
        let queue = TapQueue { fd: fd.clone(), counters: counters.clone() };
        Queue { queue: Box::new(queue), readable: fd }
    });
    let queues = queues.collect();
    Ok(Port { control: Box::new(InterfaceControl::new(name, link, mac, mtu, counters)), queues })
}

/// One queue of a TAP device.
struct TapQueue {
    fd: Arc<OwnedFd>,
    counters: Arc<QueueCounters>,
}

impl TapQueue {
    /// Receives one frame into `packet`. None: there is none.
    fn receive_into(&self, packet: &mut Buf) -> Option<Result<(), Unusable>> {
        // The device's header goes before the place where frames start.
        let room = packet
            .set_start(HEADROOM - TAP_HEADER_BYTES)
            .and_then(|()| packet.set_len(TAP_HEADER_BYTES + DATA_ROOM));
        if room.is_err() {
            return Some(Err(Unusable::Malformed));
        }
        let len = match sys::read(self.fd.as_fd(), packet.data_mut()) {
            Ok(len) => len,
            Err(_) => return None,
        };
        // A TAP read says nothing of a frame that was cut; one that fills the buffer was.
        if len >= TAP_HEADER_BYTES + DATA_ROOM || packet.set_len(len).is_err() {
            return Some(Err(Unusable::Malformed));
        }
        Some(vnet::Header::take(packet, TAP_HEADER_BYTES).and_then(|header| header.apply(packet)))
    }

    fn send(&self, packet: &Buf) -> io::Result<()> {
        let header = vnet::encode::<TAP_HEADER_BYTES>(packet);
        let mut segments = heapless::Vec::<IoSlice<'_>, { MAX_SEGMENTS + 1 }>::new();
        for part in std::iter::once(&header[..]).chain(packet.segments()) {
            segments.push(IoSlice::new(part)).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        }
        sys::write_segments(self.fd.as_fd(), &segments).map(drop)
    }
}

impl PortQueue for TapQueue {
    fn receive(&mut self, cache: &mut BufferCache, out: &mut Vector) -> usize {
        let mut received = 0;
        // Frames that are refused are work too.
        for _ in 0..sys::BATCH {
            if out.is_full() {
                break;
            }
            let Some(mut packet) = cache.allocate() else {
                self.counters.no_buffer();
                break;
            };
            match self.receive_into(&mut packet) {
                Some(Ok(())) => {
                    self.counters.received(packet.len());
                    let _ = out.push(packet);
                    received += 1;
                }
                Some(Err(why)) => {
                    self.counters.unusable(why);
                    cache.free_one(packet);
                }
                None => {
                    cache.free_one(packet);
                    break;
                }
            }
        }
        received
    }

    fn transmit(&mut self, cache: &mut BufferCache, packets: &mut Vector) {
        let mut taken = 0;
        for packet in packets.iter() {
            match self.send(packet) {
                Ok(()) => self.counters.sent(packet.total_len()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.counters.not_sent(),
            }
            taken += 1;
        }
        for packet in packets.drain(..taken) {
            cache.free_one(packet);
        }
    }

    fn arm(&mut self) -> bool {
        // The descriptor stays readable until everything is read: nothing to ask for, nothing to miss.
        sys::wait_readable(&[self.fd.as_raw_fd()], 0)
    }

    fn disarm(&mut self) {}
}
