//! A machine's serial console: read to its end, kept whole, searched as it grows.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use regex_lite::Regex;

/// How many lines of the console a failure report shows.
const TAIL_LINES: usize = 30;

/// Everything a machine has printed, readable by several threads while it goes on.
#[derive(Clone, Debug)]
pub struct Console(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct State {
    text: String,
    /// Where the next `wait_for` starts: behind what the last one found.
    searched_bytes: usize,
    ended: bool,
}

impl Console {
    /// Reads `source` to its end in a thread of its own, copying every byte to the file `log`.
    pub(crate) fn read_from(mut source: impl Read + Send + 'static, log: &Path) -> Result<Self> {
        let mut log = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let console = Self(Arc::default());
        let shared = Arc::clone(&console.0);
        let reader = move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = source.read(&mut buffer) {
                // The log serves whoever looks into a failure; the console must go on even if the disk is full.
                let _ = log.write_all(&buffer[..n]);
                shared.lock().text.push_str(&String::from_utf8_lossy(&buffer[..n]).replace('\r', ""));
                shared.grown.notify_all();
            }
            shared.lock().ended = true;
            shared.grown.notify_all();
        };
        let _ = std::thread::Builder::new().name("console".into()).spawn(reader)?;
        Ok(console)
    }

    /// Waits for a match of `pattern` (regular expression; `(?m)` is on) in whole lines behind the one found last; returns what it
    /// captured: the first group if the pattern has one, else the whole match.
    ///
    /// # Errors
    /// `pattern` is no regular expression, or does not appear within `limit` or before the console ends.
    pub fn wait_for(&self, pattern: &str, limit: Duration) -> Result<String> {
        let regex = Regex::new(&format!("(?m){pattern}")).context("bad console pattern")?;
        let deadline = Instant::now() + limit;
        let mut state = self.0.lock();
        loop {
            let unseen = &state.text[state.searched_bytes..];
            let whole_lines_bytes = unseen.rfind('\n').map_or(0, |end| end + 1);
            let unseen = if state.ended { unseen } else { &unseen[..whole_lines_bytes] };
            if let Some(captures) = regex.captures(unseen) {
                let whole = captures.get(0).map_or(0..0, |whole| whole.range());
                let found = captures.get(1).map_or_else(|| &unseen[whole.clone()], |group| group.as_str());
                let found = found.to_owned();
                state.searched_bytes += whole.end;
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended { "the console ended".into() } else { format!("waited {limit:?}") };
                bail!("`{pattern}` did not appear on the console ({why})");
            }
            state =
                self.0.grown.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// All that was printed up to now.
    pub fn text(&self) -> String {
        self.0.lock().text.clone()
    }

    /// The last lines printed.
    pub fn tail(&self) -> String {
        tail(&self.text(), TAIL_LINES)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The last `lines` lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn console_of(text: &'static [u8]) -> (Console, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        (Console::read_from(text, &directory.path().join("log")).unwrap(), directory)
    }

    #[test]
    fn patterns_are_found_in_order_and_once() {
        let (console, directory) = console_of(b"boot 1\r\nready in 12 ms\r\nboot 2\r\n");
        assert_eq!(console.wait_for(r"^ready in (\d+) ms", SOON).unwrap(), "12");
        assert_eq!(console.wait_for(r"boot \d", SOON).unwrap(), "boot 2");
        let error = console.wait_for("boot", SOON).unwrap_err().to_string();
        assert!(error.contains("the console ended"), "{error}");
        assert_eq!(std::fs::read(directory.path().join("log")).unwrap().len(), 32);
    }

    #[test]
    fn a_silent_console_is_given_up_at_the_deadline() {
        let (silent, _writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let console = Console::read_from(silent, &directory.path().join("log")).unwrap();
        let error = console.wait_for("anything", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("waited 50ms"), "{error}");
    }

    #[test]
    fn tails_are_whole_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
    }
}
