//! Software prefetch, safe to call with any reference.

#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

/// Asks for the cache line of `place`, to read it soon.
#[inline(always)]
pub fn prefetch_read<T>(place: &T) {
    prefetch_line_read(core::ptr::from_ref(place).cast());
}

/// Asks for the cache line at so many bytes from the start of `place`, to read it soon.
#[inline(always)]
pub fn prefetch_read_at<T>(place: &T, offset_bytes: usize) {
    prefetch_line_read(core::ptr::from_ref(place).cast::<u8>().wrapping_add(offset_bytes));
}

/// Asks for the cache line of `place`, to write it soon.
#[inline(always)]
pub fn prefetch_write<T>(place: &T) {
    prefetch_line_write(core::ptr::from_ref(place).cast());
}

/// Asks for the cache line of `place`, to use it in a while: as far as the second-level cache, which may wait for several times as
/// many lines at once as the first one.
#[inline(always)]
pub fn prefetch_early<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it reads nothing and faults at no address.
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(core::ptr::from_ref(place).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[inline(always)]
pub(crate) fn prefetch_line_read(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it reads nothing and faults at no address.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[inline(always)]
pub(crate) fn prefetch_line_write(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it writes nothing and faults at no address.
    unsafe {
        _mm_prefetch::<_MM_HINT_ET0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
