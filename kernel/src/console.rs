//! The console: the first serial port, and the last lines kept in memory for the API.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::log_ring::LogRing;
use log::{LevelFilter, Log, Metadata, Record};
use x86_64::instructions::port::Port;

/// First serial port of a PC.
const COM1: u16 = 0x3f8;

/// Longest line, in bytes; the rest is cut.
const LINE_BYTES: usize = 512;

/// Memory for past lines.
const RING_BYTES: usize = 64 * 1024;

static RING: spin::Mutex<LogRing<RING_BYTES>> = spin::Mutex::new(LogRing::new());
/// Taken before the ring's lock, so that lines leave in the order of their numbers.
static PORT: spin::Mutex<SerialPort> = spin::Mutex::new(SerialPort { base: COM1, held: None });

/// Sets the serial port up and makes this the log's sink.
pub fn init() {
    PORT.lock().init();
    let fresh = log::set_logger(&Console);
    debug_assert!(fresh.is_ok(), "the console is the first logger");
    log::set_max_level(LevelFilter::Info);
}

/// Lines below `level` are not kept from now on.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// From now on lines wait in the ring until [`release_one`] has been called for each, or one is a warning. A serial port
/// takes 90 us for a character, or some for the detour through a hypervisor: boot does not wait for that.
pub fn hold() {
    PORT.lock().held = Some(next_line());
}

/// Prints the oldest line that waits; false: none did, and none will any more.
pub fn release_one() -> bool {
    let mut port = PORT.lock();
    let Some(from) = port.held else { return false };
    let mut number = None;
    RING.lock().since(from, |found, line| {
        port.write_line(line);
        number = Some(found + 1);
        false
    });
    port.held = number;
    number.is_some()
}

/// Calls `each` with number and text of past lines, as [`LogRing::since`].
pub fn lines_since(from: u64, each: impl FnMut(u64, &str) -> bool) {
    RING.lock().since(from, each);
}

/// The number that the next line will get.
pub fn next_line() -> u64 {
    RING.lock().next()
}

struct Console;

impl Log for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let us = crate::time::now_ns() / 1000;
        let level = match record.level() {
            log::Level::Error => "error",
            log::Level::Warn => "warn ",
            log::Level::Info => "info ",
            log::Level::Debug => "debug",
            log::Level::Trace => "trace",
        };
        let mut line = Line::new();
        let _ = write!(
            line,
            "[{:3}.{:06}] {level} {}: {}",
            us / 1_000_000,
            us % 1_000_000,
            record.target(),
            record.args()
        );
        print_line(&line.0, record.level() <= log::Level::Warn);
    }

    fn flush(&self) {}
}

/// Writes one line to the ring and, unless lines wait and this is not `urgent`, to the serial port.
fn print_line(line: &str, urgent: bool) {
    let mut port = PORT.lock();
    let mut ring = RING.lock();
    if urgent {
        port.release_all(&ring);
    }
    ring.push(line);
    drop(ring);
    if port.held.is_none() {
        port.write_line(line);
    }
}

/// Writes text to the serial port and the ring although a lock may be held by the code that crashed:
/// waits a while for the lock, then does without. Only the crash path may use it, after every other core
/// was stopped.
pub struct CrashConsole;

impl CrashConsole {
    fn patiently<T>(lock: &spin::Mutex<T>) -> spin::MutexGuard<'_, T> {
        static PATIENCE: AtomicU64 = AtomicU64::new(1_000_000);
        loop {
            if let Some(guard) = lock.try_lock() {
                return guard;
            }
            let patience = PATIENCE.load(Ordering::Relaxed);
            // The crash path runs on one core only: nobody else changes it. What was waited for once is not again.
            PATIENCE.store(patience.saturating_sub(1), Ordering::Relaxed);
            if patience == 0 {
                // SAFETY: the owner is stopped for good; at worst a line is garbled.
                unsafe { lock.force_unlock() };
            }
        }
    }

    /// The number that the next line will get.
    pub fn next_line(&self) -> u64 {
        Self::patiently(&RING).next()
    }

    /// Calls `each` with number and text of past lines, as [`LogRing::since`].
    pub fn lines_since(&self, from: u64, each: impl FnMut(u64, &str) -> bool) {
        Self::patiently(&RING).since(from, each);
    }

    /// Writes one line.
    pub fn line(&self, line: &str) {
        let mut port = Self::patiently(&PORT);
        let mut ring = Self::patiently(&RING);
        port.release_all(&ring);
        ring.push(line);
        port.write_line(line);
    }
}

/// A line being formatted; what does not fit is cut.
pub struct Line(pub heapless::String<LINE_BYTES>);

impl Line {
    /// An empty line.
    pub fn new() -> Self {
        Self(heapless::String::new())
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            self.0.push(char).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}

/// A 16550 UART.
struct SerialPort {
    base: u16,
    /// Number of the oldest line that waits, while lines do.
    held: Option<u64>,
}

impl SerialPort {
    const DATA: u16 = 0;
    const INTERRUPT_ENABLE: u16 = 1;
    const FIFO_CONTROL: u16 = 2;
    const LINE_CONTROL: u16 = 3;
    const MODEM_CONTROL: u16 = 4;
    const LINE_STATUS: u16 = 5;

    const TRANSMITTER_EMPTY: u8 = 1 << 5;
    const FIFO_BYTES: usize = 16;

    /// 115200 baud, 8 data bits, no parity, one stop bit, FIFO on, no interrupts.
    fn init(&mut self) {
        const DIVISOR_LATCH: u8 = 1 << 7;
        const EIGHT_BITS: u8 = 3;
        self.register(Self::INTERRUPT_ENABLE, 0);
        self.register(Self::LINE_CONTROL, DIVISOR_LATCH);
        self.register(Self::DATA, 1);
        self.register(Self::INTERRUPT_ENABLE, 0);
        self.register(Self::LINE_CONTROL, EIGHT_BITS);
        // Enable and clear both FIFOs; then DTR and RTS.
        self.register(Self::FIFO_CONTROL, 7);
        self.register(Self::MODEM_CONTROL, 3);
    }

    /// Prints what waits; nothing does any more.
    fn release_all<const N: usize>(&mut self, ring: &LogRing<N>) {
        if let Some(from) = self.held.take() {
            ring.since(from, |_, line| {
                self.write_line(line);
                true
            });
        }
    }

    fn write_line(&mut self, line: &str) {
        self.write(line.as_bytes());
        self.write(b"\r\n");
    }

    /// Sends `bytes`, a FIFO at a time. A port that never gets ready costs a bounded wait.
    fn write(&mut self, bytes: &[u8]) {
        const PATIENCE: u32 = 100_000;
        for burst in bytes.chunks(Self::FIFO_BYTES) {
            let _ = (0..PATIENCE).find(|_| self.transmitter_empty());
            for &byte in burst {
                self.register(Self::DATA, byte);
            }
        }
    }

    fn register(&mut self, offset: u16, value: u8) {
        // SAFETY: the ports are the first UART's on every PC, and only this value uses them.
        unsafe { Port::<u8>::new(self.base + offset).write(value) };
    }

    fn transmitter_empty(&self) -> bool {
        // SAFETY: reading the line status has no side effect that matters here.
        let status = unsafe { Port::<u8>::new(self.base + Self::LINE_STATUS).read() };
        status & Self::TRANSMITTER_EMPTY != 0
    }
}
