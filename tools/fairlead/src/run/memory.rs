//! Ports whose wire is memory of this process: two of one name are joined, one alone leads nowhere. They need no rights.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buffer::{BufferCache, DATA_ROOM, Flags, PortQueue, Vector};

use super::port::{InterfaceControl, Link, Port, Queue, QueueCounters};
use super::sys;
use super::vnet::Unusable;

/// Frames that wait for one end at most; what comes then stays with its sender.
const WIRE_FRAMES: usize = 1024;

/// The wires by name, each with what waits for its two ends.
#[derive(Default)]
pub struct Wires(HashMap<String, [Arc<Inbox>; 2]>);

/// What waits for one end of a wire.
struct Inbox {
    /// A port has this end. Ports are opened before the first frame, so that it does not change under way.
    taken: AtomicBool,
    frames: Mutex<VecDeque<Vec<u8>>>,
    /// Readable while frames wait.
    event: Arc<OwnedFd>,
}

impl Inbox {
    fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            taken: AtomicBool::new(false),
            frames: Mutex::default(),
            event: Arc::new(sys::event()?),
        }))
    }

    /// No code that holds the lock can fail.
    fn frames(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wires {
    /// Takes an end of the wire of this name as the `index`th port, called `name`.
    pub fn open(&mut self, name: String, wire: &str, index: usize) -> io::Result<Port> {
        let ends = match self.0.entry(wire.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert([Inbox::new()?, Inbox::new()?]),
        };
        let [mine, peer] = match ends.each_ref().map(|end| end.taken.load(Relaxed)) {
            [false, _] => [ends[0].clone(), ends[1].clone()],
            [true, false] => [ends[1].clone(), ends[0].clone()],
            [true, true] => return Err(io::Error::other("both its ends are taken")),
        };
        mine.taken.store(true, Relaxed);
        let readable = mine.event.clone();
        let counters = Arc::new(QueueCounters::default());
        let queue = Box::new(MemoryQueue { mine, peer, counters: counters.clone() });
        // Locally administered, and its own in this process.
        let mac = [0x02, 0xfa, 0x6d, 0, (index >> 8) as u8, index as u8];
        let control = InterfaceControl::new(name, Link::Memory, mac, u32::MAX, vec![counters]);
        Ok(Port { control: Box::new(control), queues: vec![Queue { queue, readable }] })
    }
}

/// The queue of a port.
struct MemoryQueue {
    mine: Arc<Inbox>,
    peer: Arc<Inbox>,
    counters: Arc<QueueCounters>,
}

impl PortQueue for MemoryQueue {
    fn receive(&mut self, cache: &mut BufferCache, out: &mut Vector) -> usize {
        let mut frames = self.mine.frames();
        let before = out.len();
        while !out.is_full() {
            let Some(frame) = frames.pop_front() else { break };
            let Some(mut packet) = cache.allocate() else {
                self.counters.no_buffer();
                frames.push_front(frame);
                break;
            };
            if packet.append(&frame).is_err() {
                self.counters.unusable(Unusable::Malformed);
                cache.free_one(packet);
                continue;
            }
            self.counters.received(frame.len());
            let _ = out.push(packet);
        }
        if frames.is_empty() && out.len() > before {
            sys::clear(self.mine.event.as_fd());
        }
        out.len() - before
    }

    fn transmit(&mut self, cache: &mut BufferCache, packets: &mut Vector) {
        let leads_nowhere = !self.peer.taken.load(Relaxed);
        let mut frames = self.peer.frames();
        let room = if leads_nowhere { packets.len() } else { WIRE_FRAMES.saturating_sub(frames.len()) };
        let count = packets.len().min(room);
        for mut packet in packets.drain(..count) {
            let complete =
                !packet.meta().flags.contains(Flags::TX_CSUM) || packet.complete_checksum().is_ok();
            if !complete || packet.total_len() > DATA_ROOM {
                self.counters.not_sent();
            } else {
                self.counters.sent(packet.total_len());
                if !leads_nowhere {
                    frames.push_back(packet.segments().collect::<Vec<_>>().concat());
                }
            }
            cache.free_one(packet);
        }
        if !frames.is_empty() {
            sys::signal(self.peer.event.as_fd());
        }
    }

    fn arm(&mut self) -> bool {
        !self.mine.frames().is_empty()
    }

    fn disarm(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use buffer::BufferPool;

    use super::*;

    fn packets(cache: &mut BufferCache, count: usize, len: usize) -> Vector {
        let mut vector = Vector::new();
        assert_eq!(cache.allocate_into(&mut vector, count), count);
        for (index, packet) in vector.iter_mut().enumerate() {
            packet.append(&vec![index as u8; len]).expect("it fits");
        }
        vector
    }

    #[test]
    fn two_of_a_name_are_joined_and_a_third_is_refused() {
        let mut wires = Wires::default();
        let mut open = |index| wires.open(format!("eth{index}"), "w", index);
        let (mut left, mut right) = (open(0).expect("it opens"), open(1).expect("it opens"));
        assert!(open(2).is_err());
        assert_ne!(left.control.info().mac, right.control.info().mac);
        let mut cache = BufferPool::from_heap(4096).cache();
        for count in [1, 2, 67, 256] {
            let (left, right) = (&mut left.queues[0], &mut right.queues[0]);
            assert!(!right.queue.arm());
            let mut sent = packets(&mut cache, count, 60);
            left.queue.transmit(&mut cache, &mut sent);
            assert!(right.queue.arm() && sys::wait_readable(&[right.readable.as_raw_fd()], 0));
            let mut received = Vector::new();
            assert_eq!(right.queue.receive(&mut cache, &mut received), count);
            for (index, packet) in received.iter().enumerate() {
                assert_eq!(packet.data(), vec![index as u8; 60]);
            }
            assert!(!sys::wait_readable(&[right.readable.as_raw_fd()], 0));
            cache.free(&mut received);
        }
        assert_eq!(left.control.stats().tx_packets, 326);
        assert_eq!(right.control.stats().rx_packets, 326);
    }

    #[test]
    fn a_full_wire_leaves_frames_and_a_loose_one_swallows_them() {
        let mut wires = Wires::default();
        let mut loose = wires.open("eth0".into(), "loose", 0).expect("it opens");
        let mut full = wires.open("eth1".into(), "full", 1).expect("it opens");
        let _other_end = wires.open("eth2".into(), "full", 2).expect("it opens");
        let mut cache = BufferPool::from_heap(4096).cache();
        for _ in 0..2 * WIRE_FRAMES / 256 {
            let mut vector = packets(&mut cache, 256, 60);
            loose.queues[0].queue.transmit(&mut cache, &mut vector);
            assert!(vector.is_empty());
        }
        let mut left = 0;
        for _ in 0..WIRE_FRAMES / 256 + 1 {
            let mut vector = packets(&mut cache, 256, 60);
            full.queues[0].queue.transmit(&mut cache, &mut vector);
            left += vector.len();
            cache.free(&mut vector);
        }
        assert_eq!(left, 256);
    }
}
