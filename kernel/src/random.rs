//! Where entropy comes from on this machine.

use crate::time;
use core::arch::x86_64::{__cpuid, __cpuid_count, _rdrand64_step, _rdseed64_step};
use drivers::virtio::rng::EntropySource;
use kernel::entropy::{Generator, Jitter, SEED_BYTES};
use log::{info, warn};

static GENERATOR: spin::Mutex<Generator> = spin::Mutex::new(Generator::new());

/// Seeds the generator from timing and from the CPU, or, where the CPU has no source of its own, from an entropy device if
/// there is one. True: the device was left for [`add`], as opening it and waiting for the host takes time.
pub fn init(device: impl FnOnce() -> Option<EntropySource>) -> bool {
    let mut generator = GENERATOR.lock();
    generator.mix(&from_jitter());
    if let Some((seed, instruction)) = from_cpu() {
        generator.mix(&seed);
        info!(target: "random", "entropy: {instruction}");
        return true;
    }
    match device().and_then(|device| from_device(device, &time::now_ns)) {
        Some(seed) => {
            generator.mix(&seed);
            info!(target: "random", "entropy: virtio-rng");
        }
        None => warn!(target: "random", "entropy: timing only; give the machine virtio-rng"),
    }
    false
}

/// Adds what an entropy device gives. `clock` is asked while it is waited for.
pub fn add(device: EntropySource, clock: &dyn Fn() -> u64) {
    if let Some(seed) = from_device(device, clock) {
        GENERATOR.lock().mix(&seed);
        info!(target: "random", "entropy: virtio-rng as well");
    }
}

fn from_device(mut device: EntropySource, clock: &dyn Fn() -> u64) -> Option<[u8; SEED_BYTES]> {
    let mut seed = [0; SEED_BYTES];
    device.fill(&mut seed, clock).ok()?;
    Some(seed)
}

/// Fills `out` with bytes fit for keys.
pub fn fill(out: &mut [u8]) {
    GENERATOR.lock().fill(out);
}

/// A key from the CPU's own source, and the instruction that gave it.
fn from_cpu() -> Option<([u8; SEED_BYTES], &'static str)> {
    const RDRAND: u32 = 1 << 30;
    const RDSEED: u32 = 1 << 18;
    let has_rdseed = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & RDSEED != 0;
    // SAFETY: CPUID says that the instruction exists.
    let rdseed = || unsafe { rdseed() };
    // SAFETY: as above.
    let rdrand = || unsafe { rdrand() };
    let seed = if has_rdseed { words(rdseed) } else { None };
    if let Some(seed) = seed {
        return Some((seed, "RDSEED"));
    }
    if __cpuid(1).ecx & RDRAND != 0 { Some((words(rdrand)?, "RDRAND")) } else { None }
}

/// A key of words that may take several attempts each.
fn words(word: impl Fn() -> Option<u64>) -> Option<[u8; SEED_BYTES]> {
    /// The CPU's source can be drained by other cores for a while.
    const ATTEMPTS: usize = 1000;
    let mut seed = [0; SEED_BYTES];
    for bytes in seed.chunks_exact_mut(8) {
        bytes.copy_from_slice(&(0..ATTEMPTS).find_map(|_| word())?.to_le_bytes());
    }
    Some(seed)
}

#[target_feature(enable = "rdseed")]
fn rdseed() -> Option<u64> {
    let mut word = 0;
    (_rdseed64_step(&mut word) == 1).then_some(word)
}

#[target_feature(enable = "rdrand")]
fn rdrand() -> Option<u64> {
    let mut word = 0;
    (_rdrand64_step(&mut word) == 1).then_some(word)
}

/// Timing of I/O, which other clocks than the counter's decide.
fn from_jitter() -> [u8; SEED_BYTES] {
    const READINGS: usize = 256;
    let mut jitter = Jitter::default();
    for _ in 0..READINGS {
        // SAFETY: reading the speaker gate's port has no effect.
        let _ = unsafe { x86_64::instructions::port::Port::<u8>::new(0x61).read() };
        jitter.add(time::tsc());
    }
    jitter.seed()
}
