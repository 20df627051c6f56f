//! A wire for tests, and a reader of replies.

use super::Wire;
use std::collections::VecDeque;

#[derive(Default)]
pub(crate) struct TestWire {
    pub to_node: VecDeque<u8>,
    pub from_node: Vec<u8>,
    pub closed: bool,
    /// Bytes read and written in one call at most.
    pub step: usize,
    /// Bytes that the peer still takes.
    pub window: usize,
}

impl Wire for TestWire {
    fn read(&mut self, out: &mut [u8]) -> usize {
        let n = self.to_node.len().min(out.len()).min(self.step);
        for (place, byte) in out.iter_mut().zip(self.to_node.drain(..n)) {
            *place = byte;
        }
        n
    }

    fn read_closed(&self) -> bool {
        self.closed && self.to_node.is_empty()
    }

    fn write(&mut self, data: &[u8]) -> usize {
        let n = data.len().min(self.step).min(self.window);
        self.window -= n;
        self.from_node.extend_from_slice(&data[..n]);
        n
    }

    fn unacknowledged(&self) -> usize {
        0
    }
}

/// Status and body of the replies in `text`.
pub(crate) fn replies(text: &str) -> Vec<(u16, String)> {
    let (mut out, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let (head, after) = rest.split_once("\r\n\r\n").unwrap();
        let status = head[9..12].parse().unwrap();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if let Some(length) = field("Content-Length:") {
            let (body, after) = after.split_at(length.parse().unwrap());
            out.push((status, body.into()));
            rest = after;
        } else if field("Transfer-Encoding:").is_some() {
            let (mut body, mut left) = (String::new(), after);
            loop {
                let (size, after) = left.split_once("\r\n").unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                body.push_str(&after[..size]);
                left = &after[size + 2..];
                if size == 0 {
                    break;
                }
            }
            out.push((status, body));
            rest = left;
        } else if status == 100 {
            out.push((status, String::new()));
            rest = after;
        } else {
            out.push((status, after.into()));
            rest = "";
        }
    }
    out
}
