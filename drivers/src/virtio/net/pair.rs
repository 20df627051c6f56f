//! One queue pair of a network card: what a worker polls.
//!
//! Receive: take back used buffers, read the header of each frame, post fresh buffers, ring once.
//! Transmit: take back sent buffers, put a header before each frame, post them, ring once.

use alloc::sync::Arc;

use buffer::{Buf, BufferCache, DATA_ROOM, PortQueue, Vector};

use super::counters::Counters;
use super::exchange::{Exchange, Rings};
use super::header::{HEADER_BYTES, Header};
use crate::virtio::ring::{Fault, Ring, Segment};

/// Used buffers that are looked at together, so that their cache lines come in side by side.
const BURST: usize = 32;

/// Segments that a frame has at most in either direction: 64 KiB and a bit.
pub(super) const MAX_SEGMENTS: usize = 34;

/// An Ethernet header: nothing shorter is a frame.
const MIN_FRAME_BYTES: usize = 14;

type Burst = heapless::Vec<(Buf, u32), BURST>;

/// What was agreed on with the device, as far as a worker cares.
#[derive(Clone, Copy)]
pub(super) struct Agreed {
    /// A received frame may span several buffers.
    pub(super) mergeable: bool,
    /// Headers of received frames speak of checksums.
    pub(super) rx_csum: bool,
    /// The device completes checksums.
    pub(super) tx_csum: bool,
}

/// One receive and one transmit queue.
pub(super) struct Pair<R: Ring<Buf>> {
    /// Without an interrupt the device cannot wake the worker, which must not sleep then.
    rings: Rings<R>,
    /// Where other rings come from once these are broken.
    exchange: Arc<Exchange<R>>,
    agreed: Agreed,
    /// What the transmit queue takes at most as one frame.
    max_segments: usize,
    /// Free descriptors at which the receive queue is filled up again.
    refill_at: usize,
    counters: Arc<Counters>,
    /// Sent frames on their way back to the cache; empty between calls.
    sent: Vector,
}

impl<R: Ring<Buf>> Pair<R> {
    pub(super) fn new(
        rings: Rings<R>,
        exchange: Arc<Exchange<R>>,
        agreed: Agreed,
        counters: Arc<Counters>,
    ) -> Self {
        let sent = Vector::new();
        let mut pair = Self { rings, exchange, agreed, max_segments: 0, refill_at: 1, counters, sent };
        pair.measure();
        pair
    }

    /// Looks how large fresh rings are.
    fn measure(&mut self) {
        self.max_segments = usize::from(self.rings.tx.free()).min(MAX_SEGMENTS);
        self.refill_at = BURST.min(usize::from(self.rings.rx.free() / 4)).max(1);
    }

    /// Looks for other rings in place of broken ones. True: there were some.
    #[cold]
    fn exchange(&mut self) -> bool {
        let exchanged = self.exchange.swap(&mut self.rings);
        if exchanged {
            self.measure();
        }
        exchanged
    }

    /// Takes up to `room` frames of at most one burst, and returns how many used buffers there were.
    #[inline(always)]
    fn receive_burst(&mut self, cache: &mut BufferCache, out: &mut Vector, room: usize) -> usize {
        let mut burst = Burst::new();
        while burst.len() < room.min(BURST) {
            let Some((buf, written)) = self.rings.rx.pop() else { break };
            buf.prefetch();
            let _ = burst.push((buf, written));
        }
        let taken = burst.len();
        let mut bytes = 0;
        let before = out.len();
        let mut used = burst.into_iter();
        while let Some((buf, written)) = used.next() {
            let Some(frame) = self.frame(cache, buf, written, &mut used) else {
                self.refuse_all_if_broken(cache, &mut used);
                continue;
            };
            bytes += frame.total_len() as u64;
            if let Err(frame) = out.push(frame) {
                // Not reached: a burst is not larger than the room.
                cache.free_one(frame);
            }
        }
        self.counters.rx_packets.add((out.len() - before) as u64);
        self.counters.rx_bytes.add(bytes);
        taken
    }

    /// Makes a frame of a used buffer, and of those after it that it extends over. None: refused and counted.
    #[inline(always)]
    fn frame(
        &mut self,
        cache: &mut BufferCache,
        mut frame: Buf,
        written: u32,
        used: &mut impl Iterator<Item = (Buf, u32)>,
    ) -> Option<Buf> {
        // The ring has checked that the device wrote no more than the buffer holds.
        let filled = frame.set_len(written as usize);
        let header = filled.ok().and_then(|()| Header::read(frame.data()));
        let Some(header) = header else { return self.refuse(cache, frame) };
        if self.agreed.mergeable
            && header.num_buffers() != 1
            && !self.merge(&mut frame, header.num_buffers(), used)
        {
            self.rings.rx.fail(Fault::BufferCount);
            return self.refuse(cache, frame);
        }
        let valid = frame.pull_front(HEADER_BYTES).is_ok()
            && frame.len() >= MIN_FRAME_BYTES
            && (!self.agreed.rx_csum || header.mark(&mut frame));
        if valid { Some(frame) } else { self.refuse(cache, frame) }
    }

    /// Appends the other buffers of a frame. False when the device did not use as many as it claims, all at
    /// once (VIRTIO 1.3 §5.1.6.4.1).
    #[inline(never)]
    fn merge(
        &mut self,
        frame: &mut Buf,
        num_buffers: u16,
        used: &mut impl Iterator<Item = (Buf, u32)>,
    ) -> bool {
        if num_buffers == 0 || usize::from(num_buffers) > MAX_SEGMENTS {
            return false;
        }
        for _ in 1..num_buffers {
            let Some((mut segment, written)) = used.next().or_else(|| self.rings.rx.pop()) else {
                return false;
            };
            let filled = segment.set_len(written as usize);
            frame.append_segment(segment);
            if filled.is_err() {
                return false;
            }
        }
        true
    }

    /// After a fault nobody knows where a frame begins.
    #[cold]
    fn refuse_all_if_broken(&mut self, cache: &mut BufferCache, used: &mut impl Iterator<Item = (Buf, u32)>) {
        if self.rings.rx.is_broken() {
            for (buf, _) in used {
                let _ = self.refuse(cache, buf);
            }
        }
    }

    #[cold]
    fn refuse(&mut self, cache: &mut BufferCache, frame: Buf) -> Option<Buf> {
        self.counters.rx_errors.add(1);
        cache.free_one(frame);
        None
    }

    /// Posts fresh buffers, once there is room for a burst of them. False: there were not enough.
    #[inline(always)]
    fn refill(&mut self, cache: &mut BufferCache) -> bool {
        let free = usize::from(self.rings.rx.free());
        let empty = self.rings.rx.outstanding() == 0;
        if self.rings.rx.is_broken() || (free < self.refill_at && !empty) {
            return true;
        }
        let mut filled = true;
        for _ in 0..free {
            let Some(buf) = cache.allocate() else {
                self.counters.rx_no_buffer.add(1);
                filled = false;
                break;
            };
            let segment =
                Segment { iova: buf.iova_of_data(), len_bytes: DATA_ROOM as u32, device_writes: true };
            if let Err(buf) = self.rings.rx.push(buf, &[segment]) {
                cache.free_one(buf);
                break;
            }
        }
        self.rings.rx.publish();
        filled
    }

    /// Gives sent frames back to the cache.
    #[inline(always)]
    fn reclaim(&mut self, cache: &mut BufferCache) {
        while let Some((buf, _)) = self.rings.tx.pop() {
            if let Err(buf) = self.sent.push(buf) {
                cache.free(&mut self.sent);
                cache.free_one(buf);
            }
        }
        cache.free(&mut self.sent);
    }

    /// How many of the frames fit, from the first on. One that can never be sent needs no room.
    #[inline(always)]
    fn fitting(&self, packets: &Vector) -> usize {
        let mut free = usize::from(self.rings.tx.free());
        for (count, packet) in packets.iter().enumerate() {
            let segments = if packet.is_chained() { packet.segments().count() } else { 1 };
            if segments <= self.max_segments {
                match free.checked_sub(segments) {
                    Some(left) => free = left,
                    None => return count,
                }
            }
        }
        packets.len()
    }

    /// Stages one frame. False: refused, and given back to the cache.
    #[inline(always)]
    fn stage(&mut self, cache: &mut BufferCache, mut frame: Buf) -> bool {
        let staged = match Header::prepend(&mut frame, self.agreed.tx_csum) {
            Ok(()) if !frame.is_chained() => {
                let segment = readable(&frame);
                self.rings.tx.push(frame, &[segment])
            }
            Ok(()) => self.stage_chain(frame),
            Err(_) => Err(frame),
        };
        staged.map_err(|frame| cache.free_one(frame)).is_ok()
    }

    #[inline(never)]
    fn stage_chain(&mut self, frame: Buf) -> Result<(), Buf> {
        let mut segments = heapless::Vec::<Segment, MAX_SEGMENTS>::new();
        let mut next = Some(&frame);
        while let Some(buf) = next {
            if !buf.is_empty() && segments.push(readable(buf)).is_err() {
                return Err(frame);
            }
            next = buf.next();
        }
        self.rings.tx.push(frame, &segments)
    }
}

/// The data of one segment, for the device to read.
#[inline(always)]
fn readable(buf: &Buf) -> Segment {
    Segment { iova: buf.iova_of_data(), len_bytes: buf.len() as u32, device_writes: false }
}

impl<R: Ring<Buf>> PortQueue for Pair<R> {
    fn receive(&mut self, cache: &mut BufferCache, out: &mut Vector) -> usize {
        if self.rings.rx.is_broken() && !self.exchange() {
            return 0;
        }
        let before = out.len();
        loop {
            let room = out.capacity() - out.len();
            if room == 0 || self.receive_burst(cache, out, room) < BURST {
                break;
            }
        }
        let filled = self.refill(cache);
        // Buffers must not lie in a transmit ring that nothing is sent by any more, least of all when there are none.
        let received = out.len() - before;
        if (received == 0 || !filled) && self.rings.tx.outstanding() > 0 && !self.rings.tx.is_broken() {
            self.reclaim(cache);
        }
        received
    }

    fn transmit(&mut self, cache: &mut BufferCache, packets: &mut Vector) {
        if self.rings.tx.is_broken() {
            return;
        }
        self.reclaim(cache);
        let fitting = self.fitting(packets);
        let (mut sent, mut bytes) = (0, 0);
        for frame in packets.drain(..fitting) {
            let len = frame.total_len() as u64;
            if self.stage(cache, frame) {
                sent += 1;
                bytes += len;
            }
        }
        self.rings.tx.publish();
        self.counters.tx_packets.add(sent);
        self.counters.tx_bytes.add(bytes);
        self.counters.tx_errors.add(fitting as u64 - sent);
    }

    fn arm(&mut self) -> bool {
        if self.rings.rx.is_broken() {
            // A sleeper would not see the rings that take the place of these.
            return self.exchange.is_open();
        }
        // Of fewer posted buffers than that, a frame may need more than there are: then no interrupt comes.
        let short_of_buffers = usize::from(self.rings.rx.free()) >= self.refill_at;
        self.rings.interrupt.is_none() || self.rings.rx.arm() || short_of_buffers
    }

    fn disarm(&mut self) {
        self.rings.rx.disarm();
        if self.rings.interrupt.as_mut().is_some_and(|interrupt| interrupt.take()) {
            self.counters.interrupts.add(1);
        }
    }
}
