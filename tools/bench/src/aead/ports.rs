//! What the execution ports allow: how many VAESENC and VPCLMULQDQ a clock the core does, measured.

use super::time;
use core::arch::x86_64::*;
use std::hint::black_box;

/// TSC clocks for one instruction when many independent ones follow each other.
#[derive(Clone, Copy)]
pub struct Ports {
    /// VAESENC over 512 bits.
    pub vaesenc: f64,
    /// VPCLMULQDQ over 512 bits.
    pub vpclmulqdq: f64,
    /// Ten VAESENC and four VPCLMULQDQ: what 64 bytes of AES-128-GCM need at least.
    pub gcm128: f64,
    /// Fourteen and four: AES-256-GCM.
    pub gcm256: f64,
}

const TURNS: usize = 1_000;

impl Ports {
    /// Measures, if this CPU has the instructions.
    pub fn measure() -> Option<Self> {
        let cpu = crypto::cpu::Features::detect();
        if !(cpu.avx512 && cpu.vaes && cpu.vpclmulqdq) {
            return None;
        }
        // SAFETY: the features were just found.
        unsafe {
            Some(Self {
                vaesenc: best::<10, 0>() / 10.0,
                vpclmulqdq: best::<0, 10>() / 10.0,
                gcm128: best::<10, 4>(),
                gcm256: best::<14, 4>(),
            })
        }
    }
}

/// TSC clocks for so many of each.
///
/// # Safety
/// The CPU has AVX-512, VAES and VPCLMULQDQ.
unsafe fn best<const AES: usize, const MULTIPLY: usize>() -> f64 {
    // SAFETY: as demanded.
    let run = || time(|| unsafe { turns::<AES, MULTIPLY>() });
    (0..200).map(|_| run()).min().unwrap_or(0) as f64 / TURNS as f64
}

/// # Safety
/// The CPU has AVX-512, VAES and VPCLMULQDQ.
#[target_feature(enable = "avx512f,vaes,vpclmulqdq")]
unsafe fn turns<const AES: usize, const MULTIPLY: usize>() {
    let key = _mm512_set1_epi32(black_box(7));
    let mut state = [key; AES];
    let mut product = [key; MULTIPLY];
    for _ in 0..TURNS {
        for state in &mut state {
            *state = _mm512_aesenc_epi128(*state, key);
        }
        for product in &mut product {
            *product = _mm512_clmulepi64_epi128::<0x01>(*product, key);
        }
    }
    let _ = black_box((state, product));
}
