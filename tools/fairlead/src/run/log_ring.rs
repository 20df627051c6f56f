//! The process's log: every line goes to standard error and into a ring that the API reads.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::Instant;

use log::{LevelFilter, Log, Metadata, Record};

/// Lines kept.
const LINES: usize = 4096;

/// The log since the start of the process.
pub struct LogRing {
    start: Instant,
    kept: Mutex<Kept>,
}

struct Kept {
    lines: VecDeque<String>,
    /// Sequence number of the next line.
    next: u64,
}

impl LogRing {
    /// Makes the ring the process's logger. Times count from `start`.
    pub fn install(start: Instant) -> &'static LogRing {
        let ring: &'static LogRing = Box::leak(Box::new(LogRing {
            start,
            kept: Mutex::new(Kept { lines: VecDeque::new(), next: 0 }),
        }));
        // It fails only if there is a logger already, and then that one is used.
        let _ = log::set_logger(ring);
        log::set_max_level(LevelFilter::Info);
        ring
    }

    /// The number that the next line will get.
    pub fn next(&self) -> u64 {
        self.kept().next
    }

    /// Calls `each` with kept lines from number `from` on until it returns false.
    pub fn since(&self, from: u64, each: &mut dyn FnMut(u64, &str) -> bool) {
        let kept = self.kept();
        let oldest = kept.next - kept.lines.len() as u64;
        let skip = from.saturating_sub(oldest);
        let lines = (oldest..).zip(&kept.lines).skip(usize::try_from(skip).unwrap_or(usize::MAX));
        for (number, line) in lines {
            if !each(number, line) {
                return;
            }
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Log for LogRing {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let at = self.start.elapsed();
        let mut line = String::new();
        let level = record.level().as_str().to_ascii_lowercase();
        let _ = write!(
            line,
            "[{:5}.{:06}] {level:5} {}: {}",
            at.as_secs(),
            at.subsec_micros(),
            record.target(),
            record.args()
        );
        let _ = writeln!(std::io::stderr().lock(), "{line}");
        let mut kept = self.kept();
        if kept.lines.len() == LINES {
            drop(kept.lines.pop_front());
        }
        kept.lines.push_back(line);
        kept.next += 1;
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lines_go_first() {
        let ring =
            LogRing { start: Instant::now(), kept: Mutex::new(Kept { lines: VecDeque::new(), next: 0 }) };
        log::set_max_level(LevelFilter::Info);
        for number in 0..LINES + 10 {
            ring.log(
                &Record::builder()
                    .args(format_args!("line {number}"))
                    .level(log::Level::Info)
                    .target("t")
                    .build(),
            );
        }
        assert_eq!(ring.next(), LINES as u64 + 10);
        let mut seen = Vec::new();
        ring.since(0, &mut |number, line| {
            seen.push((number, line.to_owned()));
            seen.len() < 3
        });
        assert_eq!(seen.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [10, 11, 12]);
        assert!(seen[0].1.ends_with("info  t: line 10"), "{}", seen[0].1);
        let mut last = Vec::new();
        ring.since(LINES as u64 + 8, &mut |number, _| {
            last.push(number);
            true
        });
        assert_eq!(last, [LINES as u64 + 8, LINES as u64 + 9]);
        ring.since(u64::MAX, &mut |_, _| panic!("there is nothing after the end"));
    }
}
