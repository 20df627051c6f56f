//! The kernels: [`body`] compiled for each register width, and how many short packets each takes at once.

use super::Key;
use super::batch::{MOST_JOBS, Order};
use super::body;
use super::lanes::Lanes;
use crate::aead::Job;

/// How many packets ahead their keys are fetched into the cache.
const PREFETCH_AHEAD: usize = 12;

/// Brings what packet `at` of `order` reads of its key nearer: a hint, harmless if wrong.
#[inline(always)]
fn prefetch_key<L: Lanes, const N: usize, const ROUNDS: usize>(
    jobs: &[Job<'_, Key>],
    order: &[u8],
    at: usize,
) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let Some(job) = order.get(at).and_then(|&i| jobs.get(usize::from(i))) else { return };
    let key = core::ptr::from_ref(job.key).cast::<i8>();
    let first = 16 * (super::key::POWERS - N * L::LANES) / 64;
    let last = (core::mem::offset_of!(Key, round_keys) + 16 * ROUNDS) / 64;
    for line in first..=last {
        // SAFETY: prefetching is allowed anywhere, and this is within the key.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(key.wrapping_add(64 * line)) };
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
            /// The CPU has the features enabled here; `order` indexes `jobs`, each at most once.
            #[target_feature(enable = $features)]
            unsafe fn short<const N: usize, const P: usize, const ROUNDS: usize, const SEAL: bool>(
                jobs: &mut [Job<'_, Key>],
                order: &[u8],
            ) {
                for i in 0..PREFETCH_AHEAD {
                    prefetch_key::<L, N, ROUNDS>(jobs, order, i);
                }
                let mut at = 0;
                while let Some(some) = order[at..].first_chunk::<P>() {
                    for i in at..at + P {
                        prefetch_key::<L, N, ROUNDS>(jobs, order, i + PREFETCH_AHEAD);
                    }
                    if let Ok(mut some) = jobs.get_disjoint_mut(some.map(usize::from)) {
                        // SAFETY: the features are enabled here; N registers are one group at most.
                        unsafe { body::short::<L, N, P, ROUNDS, SEAL>(&mut some) };
                    }
                    at += P;
                }
                for &i in &order[at..] {
                    // SAFETY: as above.
                    unsafe { body::short::<L, N, 1, ROUNDS, SEAL>(&mut [&mut jobs[usize::from(i)]]) };
                }
            }

            /// All packets of more registers than a group has, one at a time.
            ///
            /// # Safety
            /// The CPU has the features enabled here.
            #[target_feature(enable = $features)]
            unsafe fn long<const ROUNDS: usize, const SEAL: bool>(jobs: &mut [Job<'_, Key>], order: &[u8]) {
                for (at, &i) in order.iter().enumerate() {
                    prefetch_key::<L, $group, ROUNDS>(jobs, order, at + 2);
                    let job = &mut jobs[usize::from(i)];
                    let lanes = L::LANES * body::registers(L::LANES, job.text.len());
                    // SAFETY: the features are enabled here; the shape is that of `order`.
                    unsafe {
                        if lanes <= 255 {
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
                    let order = Order::new(jobs, L::LANES, $group);
                    // SAFETY: the features are enabled here; `order` names each job once.
                    unsafe {
                        $(
                            short::<$registers, $packets, 10, SEAL>(jobs, order.of_shape(10, $registers));
                            short::<$registers, $packets, 14, SEAL>(jobs, order.of_shape(14, $registers));
                        )*
                        long::<10, SEAL>(jobs, order.of_shape(10, $group + 1));
                        long::<14, SEAL>(jobs, order.of_shape(14, $group + 1));
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
    /// AVX2 VAES with 128-bit PCLMULQDQ.
    vaes256_pclmul, super::super::lanes256::X2<false>, "avx2,vaes,aes,pclmulqdq",
    group 8, short [1 x 4, 2 x 4, 3 x 2, 4 x 2, 5 x 1, 6 x 1, 7 x 1, 8 x 1]
}

kernel! {
    /// AES-NI and PCLMULQDQ.
    aesni, super::super::lanes128::X1, "avx,aes,pclmulqdq",
    group 8, short [2 x 4, 3 x 2, 4 x 2, 5 x 1, 6 x 1, 7 x 1, 8 x 1]
}
