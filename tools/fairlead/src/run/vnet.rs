//! The virtio-net header that Linux puts before frames of TAP queues and packet sockets (VIRTIO 1.3 §5.1.6, of the
//! machine's own byte order here), and what it says in the terms of [`buffer`].

use buffer::{Buf, Flags};

/// `linux/virtio_net.h`: the checksum is partial and must be completed.
const NEEDS_CSUM: u8 = 1;
/// `linux/virtio_net.h`: the checksum was verified.
const DATA_VALID: u8 = 2;

/// The fields up to `csum_offset`; a TAP queue's header has a number of buffers after them, which is 0 here.
pub const HEADER_BYTES: usize = 10;

/// Why a received frame is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It holds several segments of a stream, or is longer than a buffer.
    Merged,
    /// The header is cut short or points outside of the frame.
    Malformed,
}

/// Writes the header of a frame that is about to be sent.
pub fn encode<const N: usize>(packet: &Buf) -> [u8; N] {
    let mut header = [0; N];
    let meta = packet.meta();
    if meta.flags.contains(Flags::TX_CSUM) {
        let start = usize::from(meta.csum_start).saturating_sub(packet.start()) as u16;
        header[0] = NEEDS_CSUM;
        header[6..8].copy_from_slice(&start.to_ne_bytes());
        header[8..10].copy_from_slice(&meta.csum_offset.to_ne_bytes());
    }
    header
}

/// The header of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`NEEDS_CSUM`] and [`DATA_VALID`].
    pub flags: u8,
    /// 0, or what kind of stream the frame has several segments of.
    pub kind: u8,
    /// Bytes of payload of each segment.
    pub segment_bytes: u16,
    /// Where a partial checksum starts, from the start of the frame.
    pub checksum_start: u16,
    /// Where its result goes, from there.
    pub checksum_offset: u16,
}

impl Header {
    /// Takes the header of `header_bytes` off a received frame.
    pub fn take(packet: &mut Buf, header_bytes: usize) -> Result<Header, Unusable> {
        let Some(&[flags, kind, _, _, s0, s1, c0, c1, o0, o1]) = packet.data().first_chunk::<HEADER_BYTES>()
        else {
            return Err(Unusable::Malformed);
        };
        packet.pull_front(header_bytes).map_err(|_| Unusable::Malformed)?;
        let number = u16::from_ne_bytes;
        let (segment_bytes, checksum_start, checksum_offset) =
            (number([s0, s1]), number([c0, c1]), number([o0, o1]));
        Ok(Header { flags, kind, segment_bytes, checksum_start, checksum_offset })
    }

    /// Notes in the metadata of a frame of one segment what the header says.
    pub fn apply(&self, packet: &mut Buf) -> Result<(), Unusable> {
        if self.kind != 0 {
            return Err(Unusable::Merged);
        }
        packet.meta_mut().flags = Flags::empty();
        if self.flags & NEEDS_CSUM != 0 {
            let field = usize::from(self.checksum_start) + usize::from(self.checksum_offset);
            if field + 2 > packet.len() {
                return Err(Unusable::Malformed);
            }
            let start = packet.start() + usize::from(self.checksum_start);
            let meta = packet.meta_mut();
            meta.flags = Flags::TX_CSUM | Flags::RX_CSUM_GOOD;
            (meta.csum_start, meta.csum_offset) = (start as u16, self.checksum_offset);
        } else if self.flags & DATA_VALID != 0 {
            packet.meta_mut().flags = Flags::RX_CSUM_GOOD;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use buffer::BufferPool;

    use super::*;

    fn decode(packet: &mut Buf, header_bytes: usize) -> Result<(), Unusable> {
        Header::take(packet, header_bytes)?.apply(packet)
    }

    fn packet(header: [u8; 10], frame_bytes: usize) -> Buf {
        let mut packet = BufferPool::from_heap(1).cache().allocate().expect("the pool has a buffer");
        packet.append(&header).expect("there is room");
        packet.append(&vec![7; frame_bytes]).expect("there is room");
        packet
    }

    #[test]
    fn a_partial_checksum_survives_both_ways() {
        let mut header = [0; 10];
        header[0] = NEEDS_CSUM;
        header[6] = 34;
        header[8] = 16;
        let mut p = packet(header, 60);
        assert_eq!(decode(&mut p, 10), Ok(()));
        assert_eq!(p.len(), 60);
        assert!(p.meta().flags.contains(Flags::TX_CSUM));
        assert_eq!(encode::<10>(&p), header);
        // A header pushed later does not move the place.
        let _ = p.push_front(4).expect("there is headroom");
        assert_eq!(encode::<12>(&p)[6], 38);
    }

    #[test]
    fn lies_are_refused() {
        let mut header = [0; 10];
        header[0] = NEEDS_CSUM;
        header[6] = 43;
        header[8] = 16;
        assert_eq!(decode(&mut packet(header, 60), 10), Err(Unusable::Malformed));
        header[6..8].copy_from_slice(&[255; 2]);
        assert_eq!(decode(&mut packet(header, 60), 10), Err(Unusable::Malformed));
        assert_eq!(decode(&mut packet([0, 1, 0, 0, 0, 0, 0, 0, 0, 0], 60), 10), Err(Unusable::Merged));
        let mut short = packet([0; 10], 0);
        assert_eq!(decode(&mut short, 12), Err(Unusable::Malformed));
    }

    #[test]
    fn a_verified_checksum_is_noted() {
        let mut p = packet([DATA_VALID, 0, 0, 0, 0, 0, 0, 0, 0, 0], 60);
        assert_eq!(decode(&mut p, 10), Ok(()));
        assert_eq!(p.meta().flags, Flags::RX_CSUM_GOOD);
        assert_eq!(encode::<10>(&p), [0; 10]);
    }
}
