//! The machine's real-time clock: a PC's, behind two ports (MC146818A).

use core::sync::atomic::{AtomicU64, Ordering};
use kernel::acpi::RealTimeClock;
use kernel::calendar::Registers;
use log::info;
use x86_64::instructions::port::Port;

/// The real-time clock as ACPI describes it.
static CLOCK: spin::Once<RealTimeClock> = spin::Once::new();
/// Unix time at time zero, in nanoseconds; 0 as long as it is not known.
static ENTRY_UNIX_NS: AtomicU64 = AtomicU64::new(0);

/// Says where the clock is, to be read later.
pub fn describe(clock: RealTimeClock) {
    let _ = CLOCK.call_once(|| clock);
}

/// Reads the clock, whose time is then known to the second. False: it is just counting, to be called again. Nothing is waited
/// for.
pub fn read() -> bool {
    const IS_COUNTING: u8 = 1 << 7;
    let Some(clock) = CLOCK.get().filter(|clock| !clock.is_missing) else { return true };
    // Where nothing answers, bits are set.
    let is_counting = || register(10) & IS_COUNTING != 0 && register(13) != u8::MAX;
    if is_counting() {
        return false;
    }
    let first = registers(clock.century);
    if is_counting() || registers(clock.century) != first {
        return false;
    }
    match first.date() {
        Some(date) => {
            let entry_unix_ns = (date.0 * 1_000_000_000).saturating_sub(super::now_ns());
            ENTRY_UNIX_NS.store(entry_unix_ns, Ordering::Relaxed);
            info!(target: "time", "it is {date} by the real-time clock");
        }
        None => info!(target: "time", "no real-time clock: the time of the calendar is not known"),
    }
    true
}

/// Nanoseconds since 1970, once the clock has been read.
pub fn unix_ns() -> Option<u64> {
    match ENTRY_UNIX_NS.load(Ordering::Relaxed) {
        0 => None,
        entry_unix_ns => Some(entry_unix_ns + super::now_ns()),
    }
}

fn registers(century: Option<u8>) -> Registers {
    Registers {
        second: register(0),
        minute: register(2),
        hour: register(4),
        day: register(7),
        month: register(8),
        year: register(9),
        century: century.map(register),
        status: register(11),
    }
}

/// A register below 128.
fn register(number: u8) -> u8 {
    let (mut index, mut data) = (Port::<u8>::new(0x70), Port::<u8>::new(0x71));
    // SAFETY: the ports are the real-time clock's on every PC. Nobody else uses them after boot's firmware, only control's core
    // comes here, and reading these registers changes nothing.
    unsafe { index.write(number) };
    // SAFETY: as above.
    unsafe { data.read() }
}
