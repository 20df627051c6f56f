//! Ports over packet sockets: the port is an interface that the Linux host already has.
//!
//! The interface goes on to be the host's too, so it should have no addresses there. What the kernel leaves to
//! devices is undone or passed on: partial checksums travel in the virtio-net header, VLAN tags are put back into the
//! frame, merging of received packets is switched off, and what a sender on a virtual cable did not cut is cut here.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use buffer::{Buf, BufferCache, DATA_ROOM, HEADROOM, PortQueue, Vector};

use super::port::{InterfaceControl, Link, Port, Queue, QueueCounters};
use super::segments;
use super::sys::{self, BATCH, PACKET_HEADER_BYTES, Received};
use super::vnet::{self, Header, Unusable};

/// Most segments of a frame that is sent.
const MAX_SEGMENTS: usize = 8;
/// What a frame of several segments can have beyond a buffer.
const OVERFLOW_BYTES: usize = 65_536 + 64 - DATA_ROOM;
/// Bytes of the two MAC addresses, after which a VLAN tag stands.
const MAC_BYTES: usize = 12;
const VLAN_TAG_BYTES: usize = 4;

/// Opens the interface with as many queues as there are workers, as the port `name`.
pub fn open(name: String, interface: &str, queues: usize) -> io::Result<Port> {
    sys::set_up(interface)?;
    if let Err(error) = sys::disable_receive_merging(interface) {
        log::debug!("{interface}: merging of received packets stays as it is: {error}");
    }
    let fanout = (queues > 1).then(|| std::process::id() as u16 ^ fingerprint(interface));
    let mut fds = Vec::new();
    for _ in 0..queues.max(1) {
        fds.push(Arc::new(sys::open_packet_socket(interface, fanout)?));
    }
    let (mac, mtu) = (sys::mac_address(interface)?, sys::mtu(interface)?);
    let link = Link::Interface(interface.to_owned());
    let counters: Vec<_> = fds.iter().map(|_| Arc::new(QueueCounters::default())).collect();
    let queues = fds.into_iter().zip(&counters).map(|(fd, counters)| {
        let queue = PacketQueue::new(fd.clone(), counters.clone());
        Queue { queue: Box::new(queue), readable: fd }
    });
    let queues = queues.collect();
    Ok(Port { control: Box::new(InterfaceControl::new(name, link, mac, mtu, counters)), queues })
}

/// Tells fanout groups of one process apart; a clash shows as an error when the second one is opened.
fn fingerprint(interface: &str) -> u16 {
    interface.bytes().fold(0x811c, |hash: u16, byte| (hash ^ u16::from(byte)).wrapping_mul(0x0193))
}

/// One packet socket.
struct PacketQueue {
    fd: Arc<OwnedFd>,
    counters: Arc<QueueCounters>,
    /// Buffers waiting for frames.
    spare: Vector,
    /// For each frame of a batch, the room for what its buffer has no room for.
    overflow: Box<[u8]>,
    /// A frame of several segments, in one piece.
    whole: Vec<u8>,
    /// Packets that a vector had no room for.
    pending: VecDeque<Buf>,
}

impl PacketQueue {
    fn new(fd: Arc<OwnedFd>, counters: Arc<QueueCounters>) -> PacketQueue {
        let overflow = vec![0; BATCH * OVERFLOW_BYTES].into();
        PacketQueue {
            fd,
            counters,
            spare: Vector::new(),
            overflow,
            whole: Vec::new(),
            pending: VecDeque::new(),
        }
    }

    /// Has up to `wanted` buffers ready, each with room for the device's header before the frame.
    fn prepare(&mut self, cache: &mut BufferCache, wanted: usize) {
        while self.spare.len() < wanted {
            let Some(mut packet) = cache.allocate() else {
                self.counters.no_buffer();
                return;
            };
            let start = packet.set_start(HEADROOM - PACKET_HEADER_BYTES);
            if start.and_then(|()| packet.set_len(PACKET_HEADER_BYTES + DATA_ROOM)).is_err() {
                return;
            }
            let _ = self.spare.push(packet);
        }
    }

    fn receive_batch(&mut self, wanted: usize, received: &mut [Received; BATCH]) -> usize {
        let mut buffers = heapless::Vec::<[IoSliceMut<'_>; 2], BATCH>::new();
        let overflow = self.overflow.chunks_exact_mut(OVERFLOW_BYTES);
        for (packet, overflow) in self.spare.iter_mut().zip(overflow).take(wanted) {
            let _ = buffers.push([IoSliceMut::new(packet.data_mut()), IoSliceMut::new(overflow)]);
        }
        sys::receive_frames(self.fd.as_fd(), &mut buffers, received).unwrap_or(0)
    }

    /// Makes packets of what was received into `packet` and the room for its overflow, at `index` of the batch.
    fn finish(&mut self, mut packet: Buf, index: usize, received: Received, cache: &mut BufferCache) {
        match whole_packet(&mut packet, received) {
            Ok(None) => {
                self.counters.received(packet.len());
                return self.pending.push_back(packet);
            }
            Ok(Some(header)) => {
                if let Err(why) = self.cut(&packet, header, index, received, cache) {
                    self.counters.unusable(why);
                }
            }
            Err(why) => self.counters.unusable(why),
        }
        cache.free_one(packet);
    }

    /// Cuts a frame apart that has several segments.
    fn cut(
        &mut self,
        packet: &Buf,
        header: Header,
        index: usize,
        received: Received,
        cache: &mut BufferCache,
    ) -> Result<(), Unusable> {
        let beyond = received.len.saturating_sub(PACKET_HEADER_BYTES + DATA_ROOM);
        let overflow = self.overflow.get(index * OVERFLOW_BYTES..).and_then(|rest| rest.get(..beyond));
        self.whole.clear();
        self.whole.extend_from_slice(packet.data());
        self.whole.extend_from_slice(overflow.ok_or(Unusable::Malformed)?);
        let (counters, pending) = (&self.counters, &mut self.pending);
        let _ = segments::cut(&self.whole, &header, cache, |mut segment| {
            match put_tag(&mut segment, received.vlan) {
                Ok(()) => {
                    counters.received(segment.len());
                    pending.push_back(segment);
                }
                Err(why) => counters.unusable(why),
            }
        })?;
        Ok(())
    }
}

/// Makes a packet of what was received into its buffer. If the frame has several segments, the buffer keeps its first
/// bytes, and its header is returned.
fn whole_packet(packet: &mut Buf, received: Received) -> Result<Option<Header>, Unusable> {
    if received.truncated {
        return Err(Unusable::Merged);
    }
    let in_buffer = received.len.min(PACKET_HEADER_BYTES + DATA_ROOM);
    packet.set_len(in_buffer).map_err(|_| Unusable::Malformed)?;
    let header = Header::take(packet, PACKET_HEADER_BYTES)?;
    if header.kind != 0 {
        return Ok(Some(header));
    }
    if in_buffer < received.len {
        return Err(Unusable::Merged);
    }
    header.apply(packet)?;
    put_tag(packet, received.vlan)?;
    Ok(None)
}

/// Puts a tag back that the kernel took out of the frame.
fn put_tag(packet: &mut Buf, tag: Option<(u16, u16)>) -> Result<(), Unusable> {
    let Some((tpid, tci)) = tag else { return Ok(()) };
    // The place of a partial checksum is kept from the start of the headroom, so this does not move it.
    let frame = packet.push_front(VLAN_TAG_BYTES).map_err(|_| Unusable::Malformed)?;
    if frame.len() < MAC_BYTES + VLAN_TAG_BYTES {
        return Err(Unusable::Malformed);
    }
    frame.copy_within(VLAN_TAG_BYTES..VLAN_TAG_BYTES + MAC_BYTES, 0);
    frame[MAC_BYTES..MAC_BYTES + 2].copy_from_slice(&tpid.to_be_bytes());
    frame[MAC_BYTES + 2..MAC_BYTES + 4].copy_from_slice(&tci.to_be_bytes());
    Ok(())
}

impl PortQueue for PacketQueue {
    fn receive(&mut self, cache: &mut BufferCache, out: &mut Vector) -> usize {
        if self.pending.is_empty() {
            let wanted = BATCH.min(out.capacity() - out.len());
            self.prepare(cache, wanted);
            let mut received = [Received::default(); BATCH];
            let frames = self.receive_batch(wanted, &mut received).min(self.spare.len());
            // What was not used stays for the next batch.
            let mut batch: heapless::Vec<Buf, BATCH> = self.spare.drain(..frames).collect();
            for (index, (packet, received)) in batch.drain(..).zip(received).enumerate() {
                self.finish(packet, index, received, cache);
            }
        }
        let count = self.pending.len().min(out.capacity() - out.len());
        out.extend(self.pending.drain(..count));
        count
    }

    fn transmit(&mut self, cache: &mut BufferCache, packets: &mut Vector) {
        let mut taken = 0;
        while taken < packets.len() {
            match send_batch(&self.fd, &packets[taken..]) {
                Ok(sent) => {
                    packets[taken..taken + sent]
                        .iter()
                        .for_each(|packet| self.counters.sent(packet.total_len()));
                    taken += sent;
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => break,
                // The first one cannot be sent: too long for the device, or the device is down.
                Err(_) => {
                    self.counters.not_sent();
                    taken += 1;
                }
            }
        }
        for packet in packets.drain(..taken) {
            cache.free_one(packet);
        }
    }

    fn arm(&mut self) -> bool {
        // The descriptor stays readable until everything is read: nothing to ask for, nothing to miss.
        !self.pending.is_empty() || sys::wait_readable(&[self.fd.as_raw_fd()], 0)
    }

    fn disarm(&mut self) {}
}

/// Sends up to a batch, and returns how many the kernel took. An error is about the first.
fn send_batch(fd: &OwnedFd, packets: &[Buf]) -> io::Result<usize> {
    let packets = &packets[..packets.len().min(BATCH)];
    let headers: heapless::Vec<[u8; PACKET_HEADER_BYTES], BATCH> = packets.iter().map(vnet::encode).collect();
    let mut parts = heapless::Vec::<heapless::Vec<IoSlice<'_>, { MAX_SEGMENTS + 1 }>, BATCH>::new();
    for (packet, header) in packets.iter().zip(&headers) {
        let mut segments = heapless::Vec::new();
        let whole = std::iter::once(&header[..])
            .chain(packet.segments())
            .all(|part| segments.push(IoSlice::new(part)).is_ok());
        if !whole {
            break;
        }
        let _ = parts.push(segments);
    }
    if parts.is_empty() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let frames: heapless::Vec<&[IoSlice<'_>], BATCH> = parts.iter().map(|segments| &segments[..]).collect();
    sys::send_frames(fd.as_fd(), &frames)
}

#[cfg(test)]
mod tests {
    use buffer::{BufferPool, Flags};

    use super::*;

    #[test]
    fn a_tag_that_the_kernel_took_out_is_put_back() {
        let mut packet = BufferPool::from_heap(1).cache().allocate().expect("the pool has a buffer");
        packet.set_start(HEADROOM - PACKET_HEADER_BYTES).expect("there is room");
        let mut frame = vec![0u8; PACKET_HEADER_BYTES];
        frame[0] = 1; // partial checksum at 34 + 16
        frame[6] = 34;
        frame[8] = 16;
        frame.extend((1..=12).chain([0x08, 0x00]).chain([9; 50]));
        packet.append(&frame).expect("there is room");
        let received = Received { len: frame.len(), truncated: false, vlan: Some((0x8100, 100)) };
        assert_eq!(whole_packet(&mut packet, received), Ok(None));
        assert_eq!(packet.data()[..18], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x81, 0, 0, 100, 8, 0]);
        assert!(packet.meta().flags.contains(Flags::TX_CSUM));
        assert_eq!(vnet::encode::<10>(&packet)[6], 38);
    }

    #[test]
    fn a_cut_frame_is_refused() {
        let mut packet = BufferPool::from_heap(1).cache().allocate().expect("the pool has a buffer");
        packet.append(&[0; 100]).expect("there is room");
        let cut = Received { len: 100, truncated: true, vlan: None };
        assert_eq!(whole_packet(&mut packet, cut), Err(Unusable::Merged));
    }
}
