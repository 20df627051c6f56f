//! The kernels: [`body`] compiled for each register width, and how many short packets each takes at once.

use super::Key;
use super::batch::{MOST_JOBS, Order, PREFETCH_AHEAD};
use super::body;
use super::lanes::Lanes;
use crate::aead::Job;
use core::ops::Range;

/// A batch and its order, as the loops over one shape go through it.
///
/// The jobs are reached by pointer: the order names each at most once, so that borrows of several do not overlap.
#[derive(Clone, Copy)]
struct Batch<'a, 'b> {
    jobs: *mut Job<'b, Key>,
    order: &'a Order,
}

impl<'b> Batch<'_, 'b> {
    /// # Safety
    /// `place` is that of a job, and the job is not borrowed.
    #[inline(always)]
    unsafe fn job<'c>(self, place: usize) -> &'c mut Job<'b, Key> {
        // SAFETY: as demanded.
        unsafe { &mut *self.jobs.add(self.order.job(place)) }
    }

    /// Brings nearer what the job at `place` needs of its key: powers for `N` registers, and `ROUNDS`.
    ///
    /// # Safety
    /// `place` is at most `PREFETCH_AHEAD` behind that of a job.
    #[inline(always)]
    unsafe fn prefetch<L: Lanes, const N: usize, const ROUNDS: usize>(self, place: usize) {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching is allowed anywhere, and this is within the key; behind the last job is job 0.
        unsafe {
            let key = (*self.jobs.add(self.order.job(place))).key;
            let first = 16 * (super::key::POWERS - N * L::LANES) / 64;
            let last = (core::mem::offset_of!(Key, round_keys) + 16 * ROUNDS) / 64;
            for line in first..=last {
                _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(key).cast::<i8>().add(64 * line));
            }
        }
    }
}

/// Defines a kernel: a module with `seal` and `open` over a batch.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $lanes:ty, $features:tt, group $group:literal,
     short [$($registers:literal x $packets:literal),*]) => {
        $(#[$doc])*
        pub(super) mod $name {
            use super::*;

            type L = $lanes;

            /// All packets of a shape, several at a time.
            ///
            /// # Safety
            /// The CPU has the features enabled here; `places` are those of the shape.
            #[inline(never)]
            #[target_feature(enable = $features)]
            unsafe fn short<const N: usize, const P: usize, const ROUNDS: usize, const SEAL: bool>(
                batch: Batch<'_, '_>,
                places: Range<usize>,
            ) {
                let mut place = places.start;
                // SAFETY: the features are enabled here, N registers are one group at most; the places are those
                // of jobs, and different.
                unsafe {
                    while P > 1 && place + P <= places.end {
                        for i in 0..P {
                            batch.prefetch::<L, N, ROUNDS>(place + i + PREFETCH_AHEAD);
                        }
                        let mut jobs = core::array::from_fn(|i| batch.job(place + i));
                        body::short::<L, N, P, ROUNDS, SEAL>(&mut jobs);
                        place += P;
                    }
                    for place in place..places.end {
                        body::short::<L, N, 1, ROUNDS, SEAL>(&mut [batch.job(place)]);
                    }
                }
            }

            /// All packets of more registers than a group has, one at a time.
            ///
            /// # Safety
            /// The CPU has the features enabled here; `places` are those of the shape.
            #[inline(never)]
            #[target_feature(enable = $features)]
            unsafe fn long<const ROUNDS: usize, const SEAL: bool>(
                batch: Batch<'_, '_>,
                places: Range<usize>,
            ) {
                for place in places {
                    // SAFETY: the features are enabled here; the places are those of jobs, and different.
                    unsafe {
                        batch.prefetch::<L, $group, ROUNDS>(place + PREFETCH_AHEAD);
                        let job = batch.job(place);
                        if L::LANES * body::registers(L::LANES, job.text.len()) <= 255 {
                            body::long::<L, $group, ROUNDS, SEAL, false>(job);
                        } else {
                            body::long::<L, $group, ROUNDS, SEAL, true>(job);
                        }
                    }
                }
            }

            /// Any number of jobs.
            ///
            /// # Safety
            /// The CPU has the features enabled here.
            #[target_feature(enable = $features)]
            pub(in super::super) unsafe fn run<const SEAL: bool>(jobs: &mut [Job<'_, Key>]) {
                for jobs in jobs.chunks_mut(MOST_JOBS) {
                    // SAFETY: the features are enabled here.
                    let order = unsafe { Order::new::<L>(jobs, $group) };
                    let batch = Batch { jobs: jobs.as_mut_ptr(), order: &order };
                    // SAFETY: the features are enabled here; `order` names each job once.
                    unsafe {
                        for place in 0..PREFETCH_AHEAD {
                            batch.prefetch::<L, $group, 10>(place);
                        }
                        $(
                            short::<$registers, $packets, 10, SEAL>(batch, order.of_shape(10, $registers));
                            short::<$registers, $packets, 14, SEAL>(batch, order.of_shape(14, $registers));
                        )*
                        long::<10, SEAL>(batch, order.of_shape(10, $group + 1));
                        long::<14, SEAL>(batch, order.of_shape(14, $group + 1));
                    }
                }
            }
        }
    };
}

kernel! {
    /// AVX-512 VAES and VPCLMULQDQ.
    vaes512, super::super::lanes512::X4,
    "avx512f,avx512bw,avx512vl,avx512dq,avx2,bmi2,vaes,vpclmulqdq,aes,pclmulqdq",
    group 4, short [1 x 4, 2 x 4, 3 x 2, 4 x 2]
}

kernel! {
    /// AVX2 VAES and VPCLMULQDQ.
    vaes256, super::super::lanes256::X2<true>, "avx2,vaes,vpclmulqdq,aes,pclmulqdq",
    group 8, short [1 x 4, 2 x 4, 3 x 2, 4 x 2, 5 x 1, 6 x 1, 7 x 1, 8 x 1]
}

kernel! {
    /// AVX2 VAES with 128-bit PCLMULQDQ. Emulators have the one without the other, processors both: it shows that the steps of
    /// 256 bits are right, and is kept small rather than made quick.
    vaes256_pclmul, super::super::lanes256::X2<false>, "avx2,vaes,aes,pclmulqdq",
    group 4, short [1 x 1, 2 x 1, 3 x 1, 4 x 1]
}

kernel! {
    /// AES-NI and PCLMULQDQ.
    aesni, super::super::lanes128::X1, "avx,aes,pclmulqdq",
    group 8, short [2 x 4, 3 x 2, 4 x 2, 5 x 1, 6 x 1, 7 x 1, 8 x 1]
}
