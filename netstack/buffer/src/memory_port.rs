//! A port whose wire is memory: for tests, benchmarks of software and programs that feed packets themselves.

use crate::{Buf, BufferCache, Offloads, PortControl, PortInfo, PortQueue, PortStats, Vector};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::mutex::SpinMutex;

/// Frames a wire keeps in each direction at most.
const WIRE_FRAMES: usize = 4096;

/// The far end of a [`MemoryPort`]. Clones are the same wire.
#[derive(Clone, Default)]
pub struct MemoryWire(Arc<SpinMutex<Directions>>);

#[derive(Default)]
struct Directions {
    to_port: VecDeque<Vec<u8>>,
    from_port: VecDeque<Vec<u8>>,
}

impl MemoryWire {
    /// Puts a frame on the wire towards the port. False: the wire is full, the frame is lost.
    pub fn send(&self, frame: &[u8]) -> bool {
        let mut wire = self.0.lock();
        let room = wire.to_port.len() < WIRE_FRAMES;
        if room {
            wire.to_port.push_back(frame.to_vec());
        }
        room
    }

    /// Takes the oldest frame that the port sent.
    pub fn receive(&self) -> Option<Vec<u8>> {
        self.0.lock().from_port.pop_front()
    }
}

/// The port at the near end of a [`MemoryWire`].
pub struct MemoryPort(MemoryWire);

impl MemoryPort {
    /// A port and its wire.
    pub fn new() -> (Self, MemoryWire) {
        let wire = MemoryWire::default();
        (Self(wire.clone()), wire)
    }
}

impl PortQueue for MemoryPort {
    fn receive(&mut self, cache: &mut BufferCache, out: &mut Vector) -> usize {
        let mut wire = self.0.0.lock();
        let before = out.len();
        while !out.is_full() {
            let Some(frame) = wire.to_port.pop_front() else { break };
            let Some(packet) = packet_of(&frame, cache) else {
                wire.to_port.push_front(frame);
                break;
            };
            let _ = out.push(packet);
        }
        out.len() - before
    }

    fn transmit(&mut self, cache: &mut BufferCache, packets: &mut Vector) {
        let mut wire = self.0.0.lock();
        let n = packets.len().min(WIRE_FRAMES - wire.from_port.len());
        for packet in packets.drain(..n) {
            wire.from_port.push_back(packet.segments().collect::<Vec<_>>().concat());
            cache.free_one(packet);
        }
    }

    fn arm(&mut self) -> bool {
        !self.0.0.lock().to_port.is_empty()
    }

    fn disarm(&mut self) {}
}

/// The control handle of a port that is always up.
pub struct MemoryControl {
    info: PortInfo,
    /// What the device is said to have counted.
    pub stats: PortStats,
}

impl MemoryControl {
    /// That of a port with one queue, whose device does nothing for us.
    pub fn new(name: String, mac: [u8; 6], max_mtu: u16) -> Self {
        let info = PortInfo { name, mac, max_mtu, offloads: Offloads::default(), queues: 1 };
        Self { info, stats: PortStats::default() }
    }
}

impl PortControl for MemoryControl {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn link_up(&mut self, _: u64) -> bool {
        true
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}

/// Copies a frame into as many buffers as it needs. None when the pool is exhausted.
fn packet_of(frame: &[u8], cache: &mut BufferCache) -> Option<Buf> {
    let mut packet = cache.allocate()?;
    let mut parts = frame.chunks(crate::DATA_ROOM);
    packet.append(parts.next().unwrap_or_default()).ok()?;
    for part in parts {
        let mut segment = cache.allocate()?;
        segment.append(part).ok()?;
        packet.append_segment(segment);
    }
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BufferPool;

    #[test]
    fn frames_pass_both_ways() {
        let mut cache = BufferPool::from_heap(1000).cache();
        let (mut port, wire) = MemoryPort::new();
        let frames: Vec<Vec<u8>> = [1, 60, 2048, 2049, 9000].iter().map(|&n| vec![n as u8; n]).collect();
        for count in [1, 2, 67, 256] {
            for index in 0..count {
                assert!(wire.send(&frames[index % frames.len()]));
            }
            assert!(port.arm());
            let mut vector = Vector::new();
            let mut received = 0;
            while port.receive(&mut cache, &mut vector) > 0 {
                received += vector.len();
                port.transmit(&mut cache, &mut vector);
                assert!(vector.is_empty());
            }
            assert_eq!(received, count);
            for index in 0..count {
                assert_eq!(wire.receive().as_ref(), Some(&frames[index % frames.len()]));
            }
        }
        assert!(!port.arm());
    }
}
