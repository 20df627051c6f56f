//! Time: nanoseconds since the image was entered, from the time-stamp counter.

pub mod calendar;
mod interval;

use crate::cpu;
use core::arch::x86_64::{__cpuid, _rdtsc};
use kernel::acpi::Timer;
use kernel::clock::{Clock, hz_of_kvm_clock};
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

/// The clock once its rate is settled, and until then.
static CLOCK: spin::Once<Clock> = spin::Once::new();
static EARLY: spin::Once<Clock> = spin::Once::new();

/// What the interval timer showed when it was started; only where the rate comes from it.
static INTERVAL_BEGAN: spin::Mutex<Option<interval::Reading>> = spin::Mutex::new(None);

/// What is assumed where nothing tells.
const ASSUMED_HZ: u64 = 1_000_000_000;

/// Where the counter's rate comes from, the most trusted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// CPUID leaf 15h with the crystal's rate: exact.
    Crystal,
    /// A hypervisor's leaf `4000_0010h`.
    Hypervisor,
    /// KVM's paravirtual clock.
    KvmClock,
    /// Measured against the interval timer.
    IntervalTimer,
    /// Measured against ACPI's power management timer.
    AcpiTimer,
    /// CPUID leaf 16h: the rate by design, which may be a few thousandths off.
    Nominal,
    /// Nothing.
    Assumed,
}

impl core::fmt::Display for Source {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Crystal => "CPUID crystal ratio",
            Self::Hypervisor => "CPUID of the hypervisor",
            Self::KvmClock => "KVM clock",
            Self::IntervalTimer => "interval timer",
            Self::AcpiTimer => "ACPI timer",
            Self::Nominal => "CPUID nominal rate",
            Self::Assumed => "nothing: assumed",
        })
    }
}

/// Learns the counter's rate from what needs no tables; `entry_tsc` becomes time zero. [`settle`] and [`finish`] come
/// later: until then the time may be a fiftieth off.
pub fn init(entry_tsc: u64) -> Source {
    let (hz, source) = None
        .or_else(|| Some((hz_from_crystal()?, Source::Crystal)))
        .or_else(|| Some((hz_from_hypervisor()?, Source::Hypervisor)))
        .or_else(|| Some((hz_from_kvm_clock()?, Source::KvmClock)))
        .or_else(|| Some((hz_from_interval_timer()?, Source::IntervalTimer)))
        .or_else(|| Some((nominal_hz()?, Source::Nominal)))
        .unwrap_or((ASSUMED_HZ, Source::Assumed));
    let _ = EARLY.call_once(|| Clock::new(entry_tsc, hz));
    source
}

/// Where `source` is a guess: settles the counter's rate by ACPI's timer if there is one that runs.
pub fn settle(source: Source, timer: Option<Timer>) -> Source {
    let guess = matches!(source, Source::Nominal | Source::Assumed);
    match timer.filter(|_| guess).and_then(hz_from_acpi_timer) {
        Some(hz) => {
            let _ = CLOCK.call_once(|| clock().corrected(hz, tsc()));
            Source::AcpiTimer
        }
        None => source,
    }
}

/// Settles the counter's rate for good, if that needs no waiting: where it comes from the interval timer, by all the time
/// since [`init`], which makes it the surer the longer it is. False: to be called again later.
pub fn finish() -> bool {
    if CLOCK.is_completed() {
        return true;
    }
    let rough = clock();
    let hz = match &mut *INTERVAL_BEGAN.lock() {
        None => Some(rough.hz()),
        Some(began) => interval::settle(rough.hz(), began),
    };
    if let Some(hz) = hz {
        let _ = CLOCK.call_once(|| rough.corrected(hz, tsc()));
    }
    hz.is_some()
}

/// When the counter showed `tsc`, in nanoseconds since the image was entered, by the rate as it is known now.
pub fn since_entry_ns(tsc: u64) -> u64 {
    let zero = EARLY.get().map_or(0, Clock::zero);
    Clock::new(zero, clock().hz()).ns(tsc)
}

/// The clock as far as it is known. [`init`] comes first.
pub fn clock() -> Clock {
    CLOCK.get().or_else(|| EARLY.get()).copied().unwrap_or_else(|| Clock::new(0, ASSUMED_HZ))
}

/// Nanoseconds since the image was entered, and what the first guess of the rate made of them; 0 before [`init`].
/// Never less than before.
pub fn now_ns() -> u64 {
    CLOCK.get().or_else(|| EARLY.get()).map_or(0, |clock| clock.ns(tsc()))
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and CR4.TSD is clear.
    unsafe { _rdtsc() }
}

/// Waits.
pub fn spin_ns(ns: u64) {
    let start = tsc();
    let ticks = clock().ticks(ns);
    while tsc().wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
}

/// CPUID leaf 15h: the counter's rate as a ratio of a crystal's (Intel SDM volume 2A).
fn hz_from_crystal() -> Option<u64> {
    if __cpuid(0).eax < 0x15 {
        return None;
    }
    let leaf = __cpuid(0x15);
    let product = u64::from(leaf.ecx) * u64::from(leaf.ebx);
    product.checked_div(u64::from(leaf.eax)).filter(|&hz| hz != 0)
}

/// CPUID leaf 16h: the base rate in MHz, at which the counter runs where leaf 15h gives a ratio and no crystal.
fn nominal_hz() -> Option<u64> {
    if __cpuid(0).eax < 0x16 {
        return None;
    }
    Some(u64::from(__cpuid(0x16).eax & 0xffff) * 1_000_000).filter(|&hz| hz != 0)
}

/// Leaf `4000_0010h`: the counter's rate in kHz, a convention among hypervisors that QEMU follows.
fn hz_from_hypervisor() -> Option<u64> {
    if !(0x4000_0010..0x4001_0000).contains(&cpu::hypervisor()?.eax) {
        return None;
    }
    Some(u64::from(__cpuid(0x4000_0010).eax) * 1000).filter(|&hz| hz != 0)
}

/// `pvclock_vcpu_time_info` (Linux, `arch/x86/include/asm/pvclock-abi.h`).
#[repr(C, align(32))]
struct KvmClock {
    version: u32,
    _pad: u32,
    tsc_timestamp: u64,
    system_time: u64,
    tsc_to_system_mul: u32,
    tsc_shift: i8,
    flags: u8,
    _pad2: [u8; 2],
}

const _: () = assert!(size_of::<KvmClock>() == 32);

/// KVM's paravirtual clock says by what to multiply the counter.
fn hz_from_kvm_clock() -> Option<u64> {
    const CLOCKSOURCE2: u32 = 1 << 3;
    if cpu::kvm_features()? & CLOCKSOURCE2 == 0 {
        return None;
    }
    let mut clock = KvmClock {
        version: 0,
        _pad: 0,
        tsc_timestamp: 0,
        system_time: 0,
        tsc_to_system_mul: 0,
        tsc_shift: 0,
        flags: 0,
        _pad2: [0; 2],
    };
    let mut msr = Msr::new(0x4b56_4d01);
    // SAFETY: CPUID says the MSR exists. KVM writes the structure while bit 0 is set, which is until
    // the second write; it is aligned, alive all the time, and identity-mapped.
    let scale = unsafe {
        msr.write(&raw mut clock as u64 | 1);
        let read = (&raw const clock).read_volatile();
        msr.write(0);
        (read.tsc_to_system_mul, read.tsc_shift)
    };
    hz_of_kvm_clock(scale.0, scale.1)
}

/// By channel 2 of the interval timer, roughly. `None` when it does not run.
fn hz_from_interval_timer() -> Option<u64> {
    let (hz, began) = interval::begin()?;
    *INTERVAL_BEGAN.lock() = Some(began);
    Some(hz)
}

/// By ACPI's timer. `None` when it does not run.
fn hz_from_acpi_timer(timer: Timer) -> Option<u64> {
    let surest = surest(|| measure_acpi_timer(timer))?;
    plausible(surest.ticks * Timer::HZ / u64::from(ACPI_TICKS))
}

/// No x86-64 CPU's counter is slower. A timer that is not there seems to count in no time.
fn plausible(hz: u64) -> Option<u64> {
    const SLOWEST_HZ: u64 = 100_000_000;
    Some(hz).filter(|&hz| hz >= SLOWEST_HZ)
}

/// The surest of some measurements. A hypervisor that takes the core away just when one begins or ends spoils it.
fn surest(measure: impl Fn() -> Option<Interval>) -> Option<Interval> {
    /// On a host with more to do than it has cores, most measurements are spoilt.
    const ATTEMPTS: usize = 100;
    /// Doubt as a part of the measured time: what is good, and what has to do after some attempts.
    const GOOD: u64 = 2000;
    const USABLE: (usize, u64) = (8, 50);
    let mut best: Option<Interval> = None;
    for attempt in 0..ATTEMPTS {
        let interval = measure()?;
        if best.as_ref().is_none_or(|best| interval.doubt < best.doubt) {
            best = Some(interval);
        }
        let enough = if attempt < USABLE.0 { GOOD } else { USABLE.1 };
        if best.as_ref().is_some_and(|best| best.doubt < best.ticks / enough) {
            break;
        }
    }
    best
}

/// Ticks of ACPI's timer that one measurement takes at least: 3 ms.
const ACPI_TICKS: u32 = 10_739;

/// Some seconds on any CPU: no timer answers.
const TOO_LONG: u64 = 10_000_000_000;

/// Measures while ACPI's timer counts [`ACPI_TICKS`] up.
fn measure_acpi_timer(timer: Timer) -> Option<Interval> {
    let mut port = Port::<u32>::new(timer.port);
    // SAFETY: reading the timer has no side effect.
    let mut read = || unsafe { port.read() };
    let before = tsc();
    let first = read();
    let start = tsc();
    let mut last = start;
    loop {
        let count = timer.elapsed(first, read());
        let now = tsc();
        if count >= ACPI_TICKS {
            // The rest is what the timer counted too far.
            let ticks = (now - start) * u64::from(ACPI_TICKS) / u64::from(count);
            return Some(Interval { ticks, doubt: (start - before) + (now - last) });
        }
        if now - start > TOO_LONG {
            return None;
        }
        last = now;
    }
}

/// How long the counter says that the measured time took, and by how much it may be wrong, in its ticks.
struct Interval {
    ticks: u64,
    doubt: u64,
}
