//! Packets of several segments, as long frames are.

use super::{Buf, Extent, NoRoom, ROOM};

impl Buf {
    /// Bytes of data in all segments.
    #[inline(always)]
    pub fn total_len(&self) -> usize {
        self.len() + self.header().rest_len as usize
    }

    /// True if the packet has more than one segment.
    #[inline(always)]
    pub fn is_chained(&self) -> bool {
        self.header().next.is_some()
    }

    /// Puts `tail`, which may be a chain, behind the last segment.
    pub fn append_segment(&mut self, mut tail: Buf) {
        self.header_mut().rest_len += tail.total_len() as u32;
        tail.header_mut().rest_len = 0;
        let mut last = self;
        while last.header().next.is_some() {
            let Some(next) = last.header_mut().next.as_mut() else { return };
            last = next;
        }
        last.header_mut().next = Some(tail);
    }

    /// The segment after the first one.
    #[inline(always)]
    pub fn next(&self) -> Option<&Buf> {
        self.header().next.as_ref()
    }

    /// Cuts the packet after `total` bytes. Segments that hold none of them are returned, for
    /// [`BufferCache::free_one`](crate::BufferCache::free_one): they are no packet any more.
    pub fn truncate(&mut self, total: usize) -> Option<Buf> {
        let first = self.len().min(total);
        let rest = (total - first).min(self.header().rest_len as usize);
        let header = self.header_mut();
        header.extent = Extent::new(header.extent.start(), first);
        header.rest_len = rest as u32;
        let mut left = rest;
        let mut last = self;
        while left > 0 {
            let next = last.header_mut().next.as_mut()?;
            let len = next.len().min(left);
            next.header_mut().extent = Extent::new(next.start(), len);
            left -= len;
            last = next;
        }
        last.header_mut().next.take()
    }

    /// Copies bytes from `offset` of the whole packet into `out`, and returns how many there were.
    pub fn copy_out(&self, mut offset: usize, out: &mut [u8]) -> usize {
        let mut copied = 0;
        for segment in self.segments() {
            let Some(bytes) = segment.get(offset..) else {
                offset -= segment.len();
                continue;
            };
            offset = 0;
            let n = bytes.len().min(out.len() - copied);
            out[copied..copied + n].copy_from_slice(&bytes[..n]);
            copied += n;
        }
        copied
    }

    /// Brings all data into the first segment. The others are returned, for
    /// [`BufferCache::free_one`](crate::BufferCache::free_one).
    ///
    /// # Errors
    /// There is no room for it; nothing has changed.
    pub fn linearise(&mut self) -> Result<Option<Buf>, NoRoom> {
        let (first, total) = (self.len(), self.total_len());
        if total - first > self.tailroom() {
            return Err(NoRoom);
        }
        let mut rest = [0; ROOM];
        let rest = &mut rest[..total - first];
        let _ = self.copy_out(first, rest);
        let others = self.truncate(first);
        self.append(rest)?;
        Ok(others)
    }

    /// The data of each segment, in order.
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: Some(self) }
    }
}

/// The data of each segment of a packet, in order.
pub struct Segments<'a> {
    next: Option<&'a Buf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let segment = self.next?;
        self.next = segment.next();
        Some(segment.data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BufferPool, DATA_ROOM};
    use proptest::prelude::*;

    fn chain(parts: &[&[u8]]) -> Buf {
        let mut cache = BufferPool::from_heap(parts.len()).cache();
        let mut packet: Option<Buf> = None;
        for part in parts {
            let mut segment = cache.allocate().expect("one buffer for each part");
            segment.append(part).expect("parts are short");
            match &mut packet {
                None => packet = Some(segment),
                Some(head) => head.append_segment(segment),
            }
        }
        packet.expect("parts are given")
    }

    #[test]
    fn chains_are_read_and_cut() {
        let mut packet = chain(&[b"abc", b"", b"defg", b"hi"]);
        assert_eq!(packet.total_len(), 9);
        let mut out = [0; 5];
        assert_eq!(packet.copy_out(2, &mut out), 5);
        assert_eq!(&out, b"cdefg");
        assert_eq!(packet.truncate(5).map(|tail| tail.data().to_vec()), Some(b"hi".to_vec()));
        assert_eq!(packet.segments().collect::<Vec<_>>(), [b"abc".as_slice(), b"", b"de"]);
        let tail = packet.truncate(2).expect("there are more segments");
        assert_eq!((packet.total_len(), packet.is_chained(), tail.is_chained()), (2, false, true));
        assert!(packet.truncate(7).is_none());
        assert_eq!(packet.total_len(), 2);
    }

    #[test]
    fn chains_become_one_segment() {
        let mut packet = chain(&[b"abc", b"", b"defg", b"hi"]);
        assert!(packet.linearise().expect("it fits").is_some());
        assert_eq!((packet.data(), packet.is_chained()), (&b"abcdefghi"[..], false));
        let long = [7; DATA_ROOM];
        let mut packet = chain(&[&long, b"x"]);
        assert!(packet.linearise().is_err());
        assert_eq!(packet.total_len(), DATA_ROOM + 1);
    }

    proptest! {
        #[test]
        fn truncate_keeps_a_prefix(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..6),
            cut in 0usize..60,
        ) {
            let whole = parts.concat();
            let mut packet = chain(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
            drop(packet.truncate(cut));
            let kept = packet.segments().collect::<Vec<_>>().concat();
            prop_assert_eq!(packet.total_len(), kept.len());
            prop_assert_eq!(&kept[..], &whole[..cut.min(whole.len())]);
        }
    }
}
