//! Where buffers come from: one pool for the node, one cache for each worker.

use crate::buf::Header;
use crate::{BUFFER_BYTES, Buf, DATA_ROOM, VECTOR_SIZE, Vector};
use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::slice;
use spin::mutex::SpinMutex;

/// Buffers a cache holds at most.
const CACHE_SIZE: usize = 2 * VECTOR_SIZE;

/// All packet buffers of a node. Pools are never taken down.
pub struct BufferPool {
    free: SpinMutex<FreeList>,
    base: usize,
    iova: u64,
    count: usize,
}

/// Buffers that nobody has.
///
/// Those that nobody has had yet are not written to before they are wanted: a node must not spend its boot on memory
/// that it may never use.
struct FreeList {
    /// Given back, the last on top.
    used: Vec<NonNull<Header>>,
    /// Where the buffers begin that were never handed out.
    untouched: *mut u8,
    /// How many of them there are.
    untouched_count: usize,
}

// SAFETY: a buffer on the list belongs to nobody, and nothing in it is tied to a thread.
unsafe impl Send for FreeList {}

impl FreeList {
    /// Makes a buffer of the first memory that was never one. None when all of it is.
    fn first_use(&mut self, pool: &'static BufferPool) -> Option<NonNull<Header>> {
        self.untouched_count = self.untouched_count.checked_sub(1)?;
        // SAFETY: the memory given to `BufferPool::new` had room for this buffer, aligned to 64, behind those before it.
        let header = unsafe { Buf::initialise(NonNull::new_unchecked(self.untouched), pool) };
        self.untouched = self.untouched.wrapping_add(BUFFER_BYTES);
        Some(header)
    }
}

impl BufferPool {
    /// Makes as many buffers as fit into `memory`, which devices see at `iova`.
    ///
    /// # Safety
    /// The `len` bytes at `memory` are initialised, readable and writable for ever, contiguous at `iova` too, and
    /// belong to nobody else.
    pub unsafe fn new(memory: NonNull<u8>, len: usize, iova: u64) -> &'static BufferPool {
        let skip = memory.as_ptr().align_offset(64);
        let count = len.saturating_sub(skip) / BUFFER_BYTES;
        let base = memory.as_ptr().wrapping_add(skip);
        // With room for every buffer, so that giving one back never allocates.
        let free = FreeList { used: Vec::with_capacity(count), untouched: base, untouched_count: count };
        Box::leak(Box::new(BufferPool {
            free: SpinMutex::new(free),
            base: base as usize,
            iova: iova + skip as u64,
            count,
        }))
    }

    /// Makes `count` buffers out of heap memory, for tests and for software ports; devices cannot reach them.
    pub fn from_heap(count: usize) -> &'static BufferPool {
        const HUGE_PAGE_BYTES: usize = 2 << 20;
        let bytes = (count * BUFFER_BYTES).max(1);
        let align = if bytes >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { 64 };
        let Ok(layout) = Layout::from_size_align(bytes, align) else {
            panic!("a pool of {count} buffers is larger than the address space");
        };
        // SAFETY: the layout has at least one byte.
        let Some(memory) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        // SAFETY: the allocation is zeroed, never freed, and ours alone.
        unsafe { Self::new(memory, count * BUFFER_BYTES, memory.as_ptr() as u64) }
    }

    /// How many buffers the pool was made with.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many buffers are neither in use nor in a cache.
    pub fn available(&self) -> usize {
        let free = self.free.lock();
        free.used.len() + free.untouched_count
    }

    /// A cache over this pool, for one worker.
    pub fn cache(&'static self) -> BufferCache {
        BufferCache { pool: self, free: heapless::Vec::new() }
    }

    pub(crate) fn iova_of(&self, pointer: *const u8) -> u64 {
        self.iova + (pointer as usize - self.base) as u64
    }

    #[cold]
    pub(crate) fn put_back(&self, header: NonNull<Header>) {
        self.free.lock().used.push(header);
    }
}

/// One worker's buffers, last in first out: what was freed last is still warm in its processor's caches.
pub struct BufferCache {
    pool: &'static BufferPool,
    free: heapless::Vec<NonNull<Header>, CACHE_SIZE>,
}

// SAFETY: buffers in a cache belong to nobody else, and nothing in them is tied to a thread.
unsafe impl Send for BufferCache {}

impl BufferCache {
    /// The pool behind the cache.
    pub fn pool(&self) -> &'static BufferPool {
        self.pool
    }

    /// A fresh buffer: no data, all headroom, no flags. None when the pool is exhausted.
    #[inline]
    pub fn allocate(&mut self) -> Option<Buf> {
        if self.free.is_empty() {
            self.refill();
        }
        // SAFETY: a header on a free list has no other handle.
        self.free.pop().map(|header| unsafe { Buf::from_free(header) })
    }

    /// A packet of these bytes, in as many buffers as they fill. None when the pool has no more.
    pub fn copy(&mut self, bytes: &[u8]) -> Option<Buf> {
        let mut packet = self.allocate()?;
        let (first, rest) = bytes.split_at(bytes.len().min(DATA_ROOM));
        packet.append(first).ok()?;
        for part in rest.chunks(DATA_ROOM) {
            let mut segment = self.allocate()?;
            segment.append(part).ok()?;
            packet.append_segment(segment);
        }
        Some(packet)
    }

    /// Appends up to `n` fresh buffers to `out` as far as it has room, and returns how many.
    pub fn allocate_into(&mut self, out: &mut Vector, n: usize) -> usize {
        let wanted = n.min(out.capacity() - out.len());
        for done in 0..wanted {
            let Some(buf) = self.allocate() else { return done };
            if let Err(buf) = out.push(buf) {
                self.free_one(buf);
                return done;
            }
        }
        wanted
    }

    /// Takes back every buffer of `packets`, chains included.
    #[inline]
    pub fn free(&mut self, packets: &mut Vector) {
        let mut plain = true;
        for buf in packets.iter_mut() {
            plain &= !buf.is_chained() & core::ptr::eq(buf.header().pool, self.pool);
            buf.reset_plain();
        }
        // SAFETY: a `Buf` is a transparent `NonNull<Header>`.
        let headers = unsafe { slice::from_raw_parts(packets.as_ptr().cast(), packets.len()) };
        if !plain || self.free.extend_from_slice(headers).is_err() {
            return self.free_one_by_one(packets);
        }
        // SAFETY: the cache has every element now: none may be dropped.
        unsafe { packets.set_len(0) };
    }

    /// Takes back packets of which some are chains or of another pool, or more than the cache has room for.
    #[cold]
    fn free_one_by_one(&mut self, packets: &mut Vector) {
        for packet in packets.drain(..) {
            self.free_one(packet);
        }
    }

    /// Takes back one packet, chain included.
    pub fn free_one(&mut self, buf: Buf) {
        let mut rest = Some(buf);
        while let Some(buf) = rest {
            let mut buf = ManuallyDrop::new(buf);
            rest = buf.reset();
            self.keep(buf.as_free());
        }
    }

    /// Puts a buffer that was reset, and whose handle is given up, where it belongs.
    #[inline(always)]
    fn keep(&mut self, header: NonNull<Header>) {
        // SAFETY: metadata of a buffer stays valid for ever, and the handle is given up.
        let pool = unsafe { header.as_ref() }.pool;
        if !core::ptr::eq(pool, self.pool) {
            pool.put_back(header);
        } else if let Err(header) = self.free.push(header) {
            self.spill(header);
        }
    }

    /// Takes a vector's worth of buffers from the pool.
    #[cold]
    fn refill(&mut self) {
        let mut free = self.pool.free.lock();
        let from = free.used.len().saturating_sub(VECTOR_SIZE);
        for header in free.used.drain(from..) {
            // An empty cache has room for two vectors.
            let _ = self.free.push(header);
        }
        while self.free.len() < VECTOR_SIZE
            && let Some(header) = free.first_use(self.pool)
        {
            let _ = self.free.push(header);
        }
    }

    /// Gives the older half of a full cache, and `header`, back to the pool.
    #[cold]
    fn spill(&mut self, header: NonNull<Header>) {
        let mut free = self.pool.free.lock();
        free.used.push(header);
        free.used.extend_from_slice(&self.free[..VECTOR_SIZE]);
        drop(free);
        self.free.copy_within(VECTOR_SIZE.., 0);
        self.free.truncate(CACHE_SIZE - VECTOR_SIZE);
    }
}

impl Drop for BufferCache {
    fn drop(&mut self) {
        self.pool.free.lock().used.extend_from_slice(&self.free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_comes_back() {
        let pool = BufferPool::from_heap(1000);
        assert_eq!(pool.count(), 1000);
        let mut cache = pool.cache();
        let mut vectors: Vec<Vector> = Vec::new();
        loop {
            let mut vector = Vector::new();
            if cache.allocate_into(&mut vector, VECTOR_SIZE) == 0 {
                break;
            }
            vectors.push(vector);
        }
        assert_eq!(vectors.iter().map(|v| v.len()).sum::<usize>(), 1000);
        assert!(cache.allocate().is_none());
        assert_eq!(pool.available(), 0);

        cache.free(&mut vectors[0]);
        assert!(vectors[0].is_empty());
        drop(vectors);
        drop(cache);
        assert_eq!(pool.available(), 1000);
    }

    #[test]
    fn chains_come_back_by_every_way() {
        let pool = BufferPool::from_heap(64);
        let mut cache = pool.cache();
        for way in 0..3 {
            let mut packet = cache.allocate().expect("buffers are left");
            for _ in 0..20 {
                packet.append_segment(cache.allocate().expect("buffers are left"));
            }
            match way {
                0 => drop(packet),
                1 => cache.free_one(packet),
                _ => cache.free(&mut [packet].into_iter().collect()),
            }
        }
        drop(cache);
        assert_eq!(pool.available(), 64);
    }

    #[test]
    fn a_buffer_of_another_pool_goes_home() {
        let (ours, theirs) = (BufferPool::from_heap(4), BufferPool::from_heap(4));
        let mut cache = ours.cache();
        let mut their_cache = theirs.cache();
        let stray = their_cache.allocate().expect("buffers are left");
        drop(their_cache);
        assert_eq!(theirs.available(), 3);
        cache.free_one(stray);
        assert_eq!(theirs.available(), 4);
    }

    #[test]
    fn a_freed_buffer_is_as_fresh() {
        let pool = BufferPool::from_heap(1);
        let mut cache = pool.cache();
        let mut buf = cache.allocate().expect("buffers are left");
        buf.append(b"something").expect("it fits");
        let _ = buf.push_front(10).expect("it fits");
        buf.meta_mut().flags = crate::Flags::TRACED;
        cache.free_one(buf);
        let buf = cache.allocate().expect("buffers are left");
        assert_eq!((buf.len(), buf.headroom()), (0, crate::HEADROOM));
        assert!(buf.meta().flags.is_empty());
    }
}
