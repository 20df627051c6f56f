//! One packet buffer: its handle, its metadata line, its bytes.
//!
//! Memory of a buffer, [`BUFFER_BYTES`] in all: 64 bytes of metadata, [`HEADROOM`], [`DATA_ROOM`]. The total is an odd
//! number of cache lines, so that the metadata of neighbouring buffers spread over all sets of a cache.

mod chain;

pub use chain::Segments;

use crate::prefetch::{prefetch_line_read, prefetch_line_write};
use crate::{BufferPool, Flags, Meta};
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

    /// The same with so many bytes more in front, which are there: one addition to both.
    #[inline(always)]
    fn with_front(self, n: usize) -> Self {
        Self(self.0.wrapping_add((n as u32).wrapping_mul(0xffff)))
    }

    /// The same without so many bytes in front, which it has.
    #[inline(always)]
    fn without_front(self, n: usize) -> Self {
        Self(self.0.wrapping_sub((n as u32).wrapping_mul(0xffff)))
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
        if n > header.extent.start() {
            return Err(NoRoom);
        }
        header.extent = header.extent.with_front(n);
        Ok(self.data_mut())
    }

    /// [`Buf::push_front`] of a fixed length; returns the new bytes alone.
    ///
    /// # Errors
    /// The headroom is shorter than `N`.
    #[inline(always)]
    pub fn push_array<const N: usize>(&mut self) -> Result<&mut [u8; N], NoRoom> {
        let header = self.header_mut();
        if N > header.extent.start() {
            return Err(NoRoom);
        }
        header.extent = header.extent.with_front(N);
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
        if n > header.extent.len() {
            return Err(NoRoom);
        }
        header.extent = header.extent.without_front(n);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buf() -> Buf {
        BufferPool::from_heap(1).cache().allocate().expect("the pool has one buffer")
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

    proptest! {
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
