//! One packet buffer: its handle, its metadata line, its bytes.
//!
//! Memory of a buffer, [`BUFFER_BYTES`] in all: 64 bytes of metadata, [`HEADROOM`], [`DATA_ROOM`]. The total is an odd
//! number of cache lines, so that the metadata of neighbouring buffers spread over all sets of a cache.

use crate::BufferPool;
use crate::prefetch::{prefetch_line_read, prefetch_line_write};
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::slice;

/// Bytes before received data: room for device headers and for pushing tunnel headers.
pub const HEADROOM: usize = 256;
/// Bytes of received data that a buffer takes; longer frames come as chains.
pub const DATA_ROOM: usize = 2048;
/// Bytes from one buffer to the next.
pub const BUFFER_BYTES: usize = size_of::<Header>() + ROOM;

const ROOM: usize = HEADROOM + DATA_ROOM;
const _: () = assert!(size_of::<Header>() == 64 && align_of::<Header>() == 64);
const _: () = assert!(size_of::<Meta>() == 40);
const _: () = assert!(ROOM <= u16::MAX as usize);
const _: () = assert!(BUFFER_BYTES.is_multiple_of(64) && BUFFER_BYTES / 64 % 2 == 1);
const _: () = assert!(size_of::<Option<Buf>>() == size_of::<usize>());

/// The metadata line that precedes a buffer's bytes.
#[repr(C, align(64))]
pub(crate) struct Header {
    /// The next segment of the packet.
    next: Option<Buf>,
    pub(crate) pool: &'static BufferPool,
    extent: Extent,
    /// Bytes of data in the segments after this one; kept in the first segment of a chain only.
    rest_len: u32,
    meta: Meta,
}

/// Where the data of a segment is: its first byte, counted from the start of the headroom, and how many there are.
/// `start + len <= ROOM` always.
///
/// One word, read and written whole: nodes push and pull headers in quick succession, and a load that spans two
/// younger stores waits for both to leave the store buffer.
#[derive(Clone, Copy)]
struct Extent(u32);

impl Extent {
    #[inline(always)]
    fn new(start: usize, len: usize) -> Self {
        Self(start as u32 | (len as u32) << 16)
    }

    #[inline(always)]
    fn start(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    #[inline(always)]
    fn len(self) -> usize {
        (self.0 >> 16) as usize
    }
}

/// What nodes say to each other about a packet.
///
/// Only `flags` is reset when a buffer is freed. The receiving node writes what it and later nodes need.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// What is true of the packet.
    pub flags: Flags,
    /// The interface it came in on.
    pub rx_interface: u16,
    /// The interface it leaves by.
    pub tx_interface: u16,
    /// Where the checksum of [`Flags::TX_CSUM`] starts, counted from the start of the headroom (see [`Buf::start`]),
    /// so that headers pushed later do not move it.
    pub csum_start: u16,
    /// Where its result goes, counted from `csum_start`.
    pub csum_offset: u16,
    /// Identifies a packet with [`Flags::TRACED`] in the trace.
    pub trace_id: u16,
    /// The adjacency that lookup chose.
    pub adjacency: u32,
    /// Why it is dropped, on its way to the drop node.
    pub drop_reason: u8,
    /// Why it goes to control, on its way to the punt node.
    pub punt_reason: u8,
    /// What a node tells the next of its feature.
    pub opaque: [u64; 2],
}

bitflags::bitflags! {
    /// What is true of a packet.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u16 {
        /// The device verified the transport checksum.
        const RX_CSUM_GOOD = 1 << 0;
        /// The transport checksum holds the pseudo-header's sum only: whoever sends the packet completes it
        /// ([`Meta::csum_start`], [`Meta::csum_offset`]; as in VIRTIO 1.3 §5.1.6).
        const TX_CSUM = 1 << 1;
        /// Nodes record what they do with it.
        const TRACED = 1 << 2;
        /// It was addressed to a group or to everybody at the link layer.
        const LINK_MULTICAST = 1 << 3;
        /// This node made it: its TTL is not decremented.
        const ORIGINATED = 1 << 4;
        /// It was encrypted here: what it carries needs no more protection.
        const ENCAPSULATED = 1 << 5;
        /// It was encrypted twice here; a third time would be a loop.
        const NESTED = 1 << 6;
        /// It came out of an IPsec tunnel, whose number is in [`Meta::opaque`], second word.
        const DECRYPTED = 1 << 7;
        /// Another worker handed it over because this one has its flow.
        const HANDED_OVER = 1 << 8;
        /// It is in a tunnel to a backend of a service, whose outer header has as many bytes as [`Meta::opaque`] says,
        /// second word: errors about it are for the sender of what is inside.
        const TUNNELLED = 1 << 9;
        /// Besides [`Flags::HANDED_OVER`]: the other worker is that where the fragments of its packet meet, and need not
        /// have its flow.
        const TO_MEET = 1 << 11;
        /// It was inside of an ESP packet as a whole: no link brought it, whatever interface it is said to have come in on.
        const INNER = 1 << 10;
    }
}

/// A header does not fit into the room that a buffer has, or more is taken away than there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room in the packet buffer")
    }
}

impl core::error::Error for NoRoom {}

/// What [`Buf::enclose`] returns.
pub type Enclosed<'b, const FRONT: usize, const BACK: usize> =
    (&'b mut [u8; FRONT], &'b mut [u8], &'b mut [u8; BACK]);

/// The unique owner of one packet buffer, or of the chain of buffers that a long packet fills.
///
/// Dropping it returns the buffers to their pool, under the pool's lock; workers free whole vectors with
/// [`BufferCache::free`](crate::BufferCache::free).
#[repr(transparent)]
pub struct Buf(NonNull<Header>);

// SAFETY: a `Buf` is the only handle to its buffer, and nothing in a buffer is tied to a thread.
unsafe impl Send for Buf {}
// SAFETY: a shared `Buf` gives only shared access to its metadata and bytes.
unsafe impl Sync for Buf {}

impl Buf {
    /// Writes the metadata line of a fresh buffer.
    ///
    /// # Safety
    /// `memory` is aligned to 64 and owns [`BUFFER_BYTES`] initialised bytes for ever, and nobody else has them.
    pub(crate) unsafe fn initialise(memory: NonNull<u8>, pool: &'static BufferPool) -> NonNull<Header> {
        let header = memory.cast::<Header>();
        let value =
            Header { next: None, pool, extent: Extent::new(HEADROOM, 0), rest_len: 0, meta: Meta::default() };
        // SAFETY: the caller gives aligned memory that is large enough and ours alone.
        unsafe { header.write(value) };
        header
    }

    /// Takes a buffer off a pool's or a cache's list.
    ///
    /// # Safety
    /// `header` came from [`Buf::initialise`], and no other handle to it exists from now on.
    pub(crate) unsafe fn from_free(header: NonNull<Header>) -> Self {
        Self(header)
    }

    /// What a free list keeps of a buffer. The caller gives up the handle without dropping it.
    #[inline(always)]
    pub(crate) fn as_free(&self) -> NonNull<Header> {
        self.0
    }

    /// Makes the buffer as fresh, and returns the rest of its chain.
    #[inline(always)]
    pub(crate) fn reset(&mut self) -> Option<Buf> {
        self.reset_plain();
        self.header_mut().next.take()
    }

    /// Makes a buffer without further segments as fresh.
    #[inline(always)]
    pub(crate) fn reset_plain(&mut self) {
        let header = self.header_mut();
        header.extent = Extent::new(HEADROOM, 0);
        header.rest_len = 0;
        header.meta.flags = Flags::empty();
    }

    #[inline(always)]
    pub(crate) fn header(&self) -> &Header {
        // SAFETY: the handle is unique and its memory lives for ever.
        unsafe { self.0.as_ref() }
    }

    #[inline(always)]
    fn header_mut(&mut self) -> &mut Header {
        // SAFETY: the handle is unique and its memory lives for ever.
        unsafe { self.0.as_mut() }
    }

    /// What nodes say to each other about the packet.
    #[inline(always)]
    pub fn meta(&self) -> &Meta {
        &self.header().meta
    }

    /// What nodes say to each other about the packet.
    #[inline(always)]
    pub fn meta_mut(&mut self) -> &mut Meta {
        &mut self.header_mut().meta
    }

    /// Bytes of data in the first segment.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.header().extent.len()
    }

    /// True if the first segment has no data.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

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

    /// Where data starts, counted from the start of the headroom.
    #[inline(always)]
    pub fn start(&self) -> usize {
        self.header().extent.start()
    }

    /// Bytes free before the data.
    #[inline(always)]
    pub fn headroom(&self) -> usize {
        self.start()
    }

    /// Bytes free after the data of the first segment.
    #[inline(always)]
    pub fn tailroom(&self) -> usize {
        ROOM - self.start() - self.len()
    }

    /// The data of the first segment.
    #[inline(always)]
    pub fn data(&self) -> &[u8] {
        // SAFETY: `start + len <= ROOM` always, the bytes were initialised with the pool, and the handle is unique.
        unsafe { slice::from_raw_parts(self.data_pointer(), self.len()) }
    }

    /// The data of the first segment.
    #[inline(always)]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`.
        unsafe { slice::from_raw_parts_mut(self.data_pointer(), self.len()) }
    }

    /// Address of the first byte of data, for drivers. The pointer may be used for the whole room of the buffer.
    #[inline(always)]
    pub fn data_pointer(&self) -> *mut u8 {
        // SAFETY: `start <= ROOM`, so that the result stays inside the buffer's memory.
        unsafe { self.0.as_ptr().cast::<u8>().add(size_of::<Header>() + self.start()) }
    }

    /// Address of the first byte of data as a device sees it.
    #[inline(always)]
    pub fn iova_of_data(&self) -> u64 {
        self.header().pool.iova_of(self.data_pointer())
    }

    /// Puts `n` bytes before the data, and returns all data. The new bytes hold what was there before.
    ///
    /// # Errors
    /// The headroom is shorter than `n`.
    #[inline(always)]
    pub fn push_front(&mut self, n: usize) -> Result<&mut [u8], NoRoom> {
        let header = self.header_mut();
        let (start, len) = (header.extent.start(), header.extent.len());
        if n > start {
            return Err(NoRoom);
        }
        header.extent = Extent::new(start - n, len + n);
        Ok(self.data_mut())
    }

    /// [`Buf::push_front`] of a fixed length; returns the new bytes alone.
    ///
    /// # Errors
    /// The headroom is shorter than `N`.
    #[inline(always)]
    pub fn push_array<const N: usize>(&mut self) -> Result<&mut [u8; N], NoRoom> {
        let header = self.header_mut();
        let (start, len) = (header.extent.start(), header.extent.len());
        if N > start {
            return Err(NoRoom);
        }
        header.extent = Extent::new(start - N, len + N);
        // SAFETY: the first `N` bytes of data were just added and are initialised like all of the pool, and the handle is
        // unique.
        Ok(unsafe { &mut *self.data_pointer().cast::<[u8; N]>() })
    }

    /// Puts `FRONT` bytes before the data, `added` and then `BACK` bytes behind that of the first segment. Returns the front, the
    /// former data with what was added, and the back. The new bytes hold what was there before.
    ///
    /// # Errors
    /// The headroom is shorter than `FRONT`, or the tailroom than `added` and `BACK` together.
    #[inline(always)]
    pub fn enclose<const FRONT: usize, const BACK: usize>(
        &mut self,
        added: usize,
    ) -> Result<Enclosed<'_, FRONT, BACK>, NoRoom> {
        let header = self.header_mut();
        let (start, len) = (header.extent.start(), header.extent.len());
        // Before it is added to anything, so that no sum wraps.
        if added > ROOM || FRONT > start || start + len + added + BACK > ROOM {
            return Err(NoRoom);
        }
        header.extent = Extent::new(start - FRONT, FRONT + len + added + BACK);
        // SAFETY: the three parts follow each other within the room, do not overlap, are initialised like all of the pool, and
        // the handle is unique.
        unsafe {
            let data = self.0.as_ptr().cast::<u8>().add(size_of::<Header>() + start);
            let text = slice::from_raw_parts_mut(data, len + added);
            Ok((&mut *data.sub(FRONT).cast(), text, &mut *data.add(len + added).cast()))
        }
    }

    /// Takes the first `n` bytes of the first segment off the data.
    ///
    /// # Errors
    /// The first segment has less than `n` bytes of data.
    #[inline(always)]
    pub fn pull_front(&mut self, n: usize) -> Result<(), NoRoom> {
        let header = self.header_mut();
        let (start, len) = (header.extent.start(), header.extent.len());
        if n > len {
            return Err(NoRoom);
        }
        header.extent = Extent::new(start + n, len - n);
        Ok(())
    }

    /// Leaves the `len` bytes behind the first `front` of the first segment's data.
    ///
    /// # Errors
    /// The first segment has less data than `front` and `len` together.
    #[inline(always)]
    pub fn narrow(&mut self, front: usize, len: usize) -> Result<(), NoRoom> {
        let header = self.header_mut();
        let (start, before) = (header.extent.start(), header.extent.len());
        if front > before || len > before - front {
            return Err(NoRoom);
        }
        header.extent = Extent::new(start + front, len);
        Ok(())
    }

    /// Sets how many bytes of data the first segment has. Bytes that come in hold what was there before.
    ///
    /// # Errors
    /// The room behind the start of the data is shorter than `len`.
    #[inline(always)]
    pub fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        let header = self.header_mut();
        let start = header.extent.start();
        if len > ROOM - start {
            return Err(NoRoom);
        }
        header.extent = Extent::new(start, len);
        Ok(())
    }

    /// Cuts the data of the first segment to `len` bytes, if it has more.
    #[inline(always)]
    pub fn shorten(&mut self, len: usize) {
        let header = self.header_mut();
        header.extent = Extent::new(header.extent.start(), header.extent.len().min(len));
    }

    /// Sets where the data of an empty buffer starts, counted from the start of the headroom.
    ///
    /// # Errors
    /// The buffer ends before `start`, or is not empty.
    pub fn set_start(&mut self, start: usize) -> Result<(), NoRoom> {
        let header = self.header_mut();
        if start > ROOM || header.extent.len() != 0 {
            return Err(NoRoom);
        }
        header.extent = Extent::new(start, 0);
        Ok(())
    }

    /// Copies `bytes` behind the data of the first segment.
    ///
    /// # Errors
    /// The tailroom is shorter than `bytes`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        let len = self.len();
        if bytes.len() > self.tailroom() {
            return Err(NoRoom);
        }
        self.set_len(len + bytes.len())?;
        self.data_mut()[len..].copy_from_slice(bytes);
        Ok(())
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

    /// Asks for the cache lines of the metadata, to write, and of the first received bytes.
    #[inline(always)]
    pub fn prefetch(&self) {
        let line = self.0.as_ptr().cast::<u8>();
        prefetch_line_write(line);
        prefetch_line_read(line.wrapping_add(size_of::<Header>() + HEADROOM));
    }
}

impl Drop for Buf {
    #[cold]
    fn drop(&mut self) {
        let mut rest = self.reset();
        self.header().pool.put_back(self.0);
        // One at a time: a long chain must not recurse.
        while let Some(buf) = rest {
            let mut buf = ManuallyDrop::new(buf);
            rest = buf.reset();
            buf.header().pool.put_back(buf.0);
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buf")
            .field("total_len", &self.total_len())
            .field("start", &self.start())
            .field("meta", self.meta())
            .finish_non_exhaustive()
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
    use proptest::prelude::*;

    fn buf() -> Buf {
        BufferPool::from_heap(1).cache().allocate().expect("the pool has one buffer")
    }

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
    fn room_is_kept() {
        let mut buf = buf();
        assert_eq!(buf.push_front(HEADROOM + 1), Err(NoRoom));
        assert!(buf.push_front(HEADROOM).is_ok());
        assert_eq!(buf.set_len(HEADROOM + DATA_ROOM + 1), Err(NoRoom));
        assert!(buf.set_len(HEADROOM + DATA_ROOM).is_ok());
        assert_eq!(buf.tailroom(), 0);
        assert_eq!(buf.append(b"x"), Err(NoRoom));
        assert_eq!(buf.pull_front(HEADROOM + DATA_ROOM + 1), Err(NoRoom));
        assert!(buf.pull_front(HEADROOM + DATA_ROOM).is_ok());
        assert!(buf.is_empty());
    }

    #[test]
    fn a_packet_is_enclosed_and_narrowed() {
        let mut packet = buf();
        packet.append(b"inner").expect("there is room");
        let (front, text, back) = packet.enclose::<4, 2>(3).expect("there is room");
        assert_eq!((front.len(), &text[..5], text.len(), back.len()), (4, &b"inner"[..], 8, 2));
        (*front, *back) = (*b"head", *b"bk");
        text[5..].copy_from_slice(b"pad");
        assert_eq!(packet.data(), b"headinnerpadbk");
        assert_eq!(packet.narrow(4, 11), Err(NoRoom));
        assert_eq!(packet.narrow(15, 0), Err(NoRoom));
        packet.narrow(4, 5).expect("it is within");
        assert_eq!(packet.data(), b"inner");

        let room = packet.tailroom();
        for added in [room - 1, room, usize::MAX] {
            assert!(packet.enclose::<0, 2>(added).is_err());
        }
        assert!(packet.enclose::<{ HEADROOM + 1 }, 0>(0).is_err());
        assert!(packet.enclose::<HEADROOM, 2>(room - 2).is_ok());
        assert_eq!((packet.headroom(), packet.tailroom()), (0, 0));
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

        #[test]
        fn pushes_and_pulls_match_a_model(steps in prop::collection::vec((any::<bool>(), 0usize..200), 0..50)) {
            let mut buf = buf();
            let (mut start, mut len) = (HEADROOM, 0);
            for (push, n) in steps {
                if push {
                    let fits = n <= start;
                    prop_assert_eq!(buf.push_front(n).is_ok(), fits);
                    if fits { start -= n; len += n; }
                } else {
                    let fits = n <= len;
                    prop_assert_eq!(buf.pull_front(n).is_ok(), fits);
                    if fits { start += n; len -= n; }
                }
                prop_assert_eq!((buf.start(), buf.len()), (start, len));
            }
        }
    }
}
