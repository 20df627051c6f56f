//! The last lines of the log, in memory of fixed size, each with a sequence number.

/// A ring of lines in `N` bytes. The oldest lines make room for new ones.
#[derive(Debug)]
pub struct LogRing<const N: usize> {
    bytes: [u8; N],
    /// Index of the first byte of the oldest line.
    head: usize,
    used: usize,
    /// Sequence number of the oldest line.
    oldest: u64,
    /// Sequence number of the next line.
    next: u64,
}

impl<const N: usize> LogRing<N> {
    /// An empty ring; the first line gets sequence number 0.
    pub const fn new() -> Self {
        Self { bytes: [0; N], head: 0, used: 0, oldest: 0, next: 0 }
    }

    /// The sequence number that the next line will get.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Appends a line. Line breaks in it become spaces; what is longer than half the ring is cut.
    pub fn push(&mut self, line: &str) {
        let line = &line.as_bytes()[..line.len().min(N / 2)];
        while self.used + line.len() + 1 > N {
            self.drop_oldest();
        }
        for &byte in line {
            self.append(if byte == b'\n' { b' ' } else { byte });
        }
        self.append(b'\n');
        self.next += 1;
    }

    /// Calls `each` with sequence number and text of the kept lines from number `from` on, in order,
    /// until it returns false. A line that is not UTF-8, because it was cut, loses its last character.
    pub fn since(&self, from: u64, mut each: impl FnMut(u64, &str) -> bool) {
        let mut line = heapless::Vec::<u8, 1024>::new();
        let mut number = self.oldest;
        for at in 0..self.used {
            match self.bytes[(self.head + at) % N] {
                b'\n' => {
                    if number >= from && !each(number, valid_prefix(&line)) {
                        return;
                    }
                    number += 1;
                    line.clear();
                }
                byte => {
                    let _ = line.push(byte);
                }
            }
        }
    }

    fn append(&mut self, byte: u8) {
        self.bytes[(self.head + self.used) % N] = byte;
        self.used += 1;
    }

    fn drop_oldest(&mut self) {
        loop {
            let byte = self.bytes[self.head];
            self.head = (self.head + 1) % N;
            self.used -= 1;
            if byte == b'\n' {
                break;
            }
        }
        self.oldest += 1;
    }
}

impl<const N: usize> Default for LogRing<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// The longest prefix of `bytes` that is text.
fn valid_prefix(bytes: &[u8]) -> &str {
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn lines<const N: usize>(ring: &LogRing<N>, from: u64) -> Vec<(u64, String)> {
        let mut lines = Vec::new();
        ring.since(from, |number, line| {
            lines.push((number, line.to_owned()));
            true
        });
        lines
    }

    proptest! {
        #[test]
        fn keeps_the_newest_lines_that_fit(texts in prop::collection::vec("[a-zä]{0,24}", 0..40), from in 0u64..40) {
            let mut ring = LogRing::<64>::new();
            let mut oracle = VecDeque::new();
            for (number, text) in (0u64..).zip(&texts) {
                ring.push(text);
                let mut cut = text.len().min(32);
                let stored = cut;
                while !text.is_char_boundary(cut) {
                    cut -= 1;
                }
                oracle.push_back((number, text[..cut].to_owned(), stored + 1));
                while oracle.iter().map(|(_, _, len)| len).sum::<usize>() > 64 {
                    let _ = oracle.pop_front();
                }
            }
            let expected: Vec<_> =
                oracle.into_iter().filter(|(n, ..)| *n >= from).map(|(n, text, _)| (n, text)).collect();
            prop_assert_eq!(lines(&ring, from), expected);
            prop_assert_eq!(ring.next(), texts.len() as u64);
        }
    }

    #[test]
    fn one_entry_stays_one_line_and_a_reader_may_stop() {
        let mut ring = LogRing::<64>::new();
        ring.push("two\nlines");
        ring.push("more");
        assert_eq!(lines(&ring, 0), [(0, "two lines".to_owned()), (1, "more".to_owned())]);
        let mut seen = 0;
        ring.since(0, |_, _| {
            seen += 1;
            false
        });
        assert_eq!(seen, 1);
    }
}
