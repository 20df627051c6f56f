//! A JSON object with a list that is written piece by piece, so that a long one is never in memory as a whole.

use super::{JSON, Reply};
use crate::http::{Pull, Source};
use crate::node::Node;
use alloc::{string::String, vec::Vec};
use serde::Serialize;

/// Answers with `{HEAD[MEMBERS]}`, where the head is everything up to the list: `"services":`. The producer is asked for some KiB of
/// members at a time, until it says [`Pull::End`].
pub(super) fn list(
    head: String,
    produce: impl FnMut(&mut Node, &mut Members<'_>) -> Pull + 'static,
) -> Reply {
    Reply::stream(JSON, List { head: Some(head), is_empty: true, produce })
}

struct List<F> {
    /// None once it is written.
    head: Option<String>,
    is_empty: bool,
    produce: F,
}

/// Where a list's members go.
pub(super) struct Members<'a> {
    out: &'a mut Vec<u8>,
    is_empty: &'a mut bool,
}

impl Members<'_> {
    /// Appends one.
    pub(super) fn push(&mut self, member: &impl Serialize) {
        if !core::mem::take(self.is_empty) {
            self.out.push(b',');
        }
        // Serializing what this crate makes into memory cannot fail.
        self.out.extend(serde_json::to_vec(member).unwrap_or_default());
    }
}

impl<F: FnMut(&mut Node, &mut Members<'_>) -> Pull> Source<Node> for List<F> {
    fn pull(&mut self, node: &mut Node, out: &mut Vec<u8>) -> Pull {
        if let Some(head) = self.head.take() {
            out.push(b'{');
            out.extend(head.into_bytes());
            out.push(b'[');
        }
        let pull = (self.produce)(node, &mut Members { out, is_empty: &mut self.is_empty });
        if pull == Pull::End {
            out.extend_from_slice(b"]}");
        }
        pull
    }
}
