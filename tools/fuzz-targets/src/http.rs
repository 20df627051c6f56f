//! The bytes of a connection to the API of a whole node: any number of requests.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use control::Stream;

use crate::rig::Rig;

/// Longer than every deadline of a connection.
const LONG_NS: u64 = 61_000_000_000;
/// Inputs between which so much time passes: what was left to be confirmed is taken back, and the like.
const INPUTS_PER_WAIT: u32 = 32;
/// Inputs after which a fresh node is made.
const LIFE: u32 = 5_000;

thread_local! {
    static NODE: RefCell<Option<(Rig, u32)>> = const { RefCell::new(None) };
}

/// Sends `data` as one connection, of which the peer then closes its side.
pub fn run(data: &[u8]) {
    NODE.with_borrow_mut(|node| {
        let (mut rig, mut age) = node.take().unwrap_or_else(|| (Rig::new(), 0));
        let said = exchange(&mut rig, data);
        assert!(
            said.is_empty() || said.starts_with(b"HTTP/1.1 "),
            "what was said is no HTTP: {:?}",
            String::from_utf8_lossy(&said)
        );
        assert!(!said.starts_with(b"HTTP/1.1 500"), "the node calls it its own fault");
        age += 1;
        if age.is_multiple_of(INPUTS_PER_WAIT) {
            rig.wait(LONG_NS);
        }
        if age < LIFE {
            *node = Some((rig, age));
        }
    });
}

/// Turns that the node may take for what takes long.
const TURNS: usize = 64;
const TURN_NS: u64 = 1_000_000;

/// What the node says to `data`.
pub fn exchange(rig: &mut Rig, data: &[u8]) -> Vec<u8> {
    let (said, gone) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(false)));
    let stream = Connection { data: data.to_vec(), read: 0, said: said.clone(), gone: gone.clone() };
    rig.connect(Box::new(stream));
    let waits = [TURN_NS; TURNS].into_iter().chain([LONG_NS; 3]);
    for ns in waits {
        if gone.get() {
            break;
        }
        rig.wait(ns);
    }
    assert!(gone.get(), "the connection never ends");
    said.take()
}

struct Connection {
    data: Vec<u8>,
    read: usize,
    said: Rc<RefCell<Vec<u8>>>,
    gone: Rc<Cell<bool>>,
}

impl Stream for Connection {
    fn read(&mut self, out: &mut [u8]) -> usize {
        let rest = &self.data[self.read..];
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.read += count;
        count
    }

    fn read_closed(&self) -> bool {
        self.read == self.data.len()
    }

    fn write(&mut self, data: &[u8]) -> usize {
        self.said.borrow_mut().extend_from_slice(data);
        data.len()
    }

    fn close(&mut self) {}
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.gone.set(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_requests_are_understood() {
        for input in crate::corpus::load("http").unwrap() {
            let said = exchange(&mut Rig::new(), &input.data);
            let status = String::from_utf8_lossy(said.get(9..12).unwrap_or_default()).into_owned();
            let expected = match input.name.trim_start_matches("http/") {
                name if name.starts_with("get-") => "200",
                "resources-services" | "resources-policy" | "resources-dry" | "resources-delete"
                | "ipsec-associations" | "put-cluster" => "200",
                "resources-bad" => "422",
                "health" | "lookup" | "page" | "lines" | "put" | "put-confirm" | "put-rollback" | "head"
                | "openapi" => "200",
                "no-token" => "401",
                "routes" | "routes-chunked" | "put-bad" => "422",
                "trace" | "reboot" => "202",
                _ => continue,
            };
            assert_eq!(status, expected, "{}: {}", input.name, String::from_utf8_lossy(&said));
            // Of several requests each is.
            let said = String::from_utf8_lossy(&said);
            let all = said.matches("}HTTP/1.1 ").count();
            assert_eq!(said.matches("}HTTP/1.1 200").count(), all, "{}: {said}", input.name);
        }
    }
}
