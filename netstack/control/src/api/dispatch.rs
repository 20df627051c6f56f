//! From a header section to a handler: path, token, method, query, body.

use super::{
    Reply,
    endpoints::{ENDPOINTS, Endpoint, Handler},
    problem::{denied, method_not_allowed, problem},
    query::Query,
    room,
};
use crate::http::{
    Head, Service, Sink, Start,
    head::{BodyLength, Method},
};
use crate::node::Node;
use alloc::{boxed::Box, format, string::String, vec::Vec};
use core::net::IpAddr;
use zeroize::Zeroizing;

/// What a handler is told of its request.
pub(crate) struct Request {
    pub query: Query,
    pub if_match: Option<String>,
    /// The client prefers ndjson.
    pub wants_lines: bool,
    /// Media type of the body, of those that the endpoint takes; empty without one.
    pub content_type: &'static str,
}

impl Service for Node {
    fn start(&mut self, head: &Head, peer: IpAddr, now_ns: u64) -> Start<Self> {
        self.now_ns = now_ns;
        begin(self, head, peer).unwrap_or_else(Start::Reply)
    }

    fn knows(&self, head: &Head) -> bool {
        self.auth.is_right(head.authorization.as_deref())
    }

    fn refuse(&mut self, status: u16, detail: &'static str) -> Reply {
        problem(status, detail)
    }
}

fn begin(node: &mut Node, head: &Head, peer: IpAddr) -> Result<Start<Node>, Reply> {
    let (endpoint, is_open) = find(head);
    // Without a token one does not even learn which paths there are.
    if !is_open {
        let now_ns = node.now_ns;
        node.auth.check(peer, head.authorization.as_deref(), now_ns).map_err(denied)?;
    }
    let endpoint = endpoint?;
    let mut request = Request {
        query: Query::check(&head.query, endpoint.query)?,
        if_match: head.if_match.clone(),
        wants_lines: head.accept.as_deref().is_some_and(|accept| accept.contains(super::NDJSON)),
        content_type: "",
    };
    match endpoint.handler {
        Handler::Plain(handle) => {
            let answer = move |node: &mut Node| match room::check(node, (endpoint.room)(node)) {
                Ok(()) => handle(node, &request),
                Err(refusal) => refusal,
            };
            match head.body {
                BodyLength::None => Ok(Start::Reply(answer(node))),
                // An empty chunked body is as good as none.
                _ => collect(head, 0, move |node, _| answer(node)),
            }
        }
        Handler::Document { content_type, max_bytes, handle, .. } => {
            request.content_type = check_content(head, &[content_type])?;
            collect(head, max_bytes, move |node, body| handle(node, &request, body))
        }
        Handler::Stream { content_types, open, .. } => {
            request.content_type = check_content(head, content_types)?;
            open(node, &request).map(Start::Read)
        }
        Handler::Work { open } => open(node, &request).map(Start::Read),
    }
}

/// The endpoint, or why there is none; and whether the path is for everybody.
fn find(head: &Head) -> (Result<&'static Endpoint, Reply>, bool) {
    let mut allowed: Vec<&str> = Vec::new();
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.path == head.path) {
        let is_head = head.method == Method::Head && endpoint.method == Method::Get;
        if endpoint.method == head.method || is_head {
            return (Ok(endpoint), endpoint.is_open);
        }
        allowed.push(match endpoint.method {
            Method::Get => "GET, HEAD",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            _ => "POST",
        });
    }
    let reply =
        if allowed.is_empty() { problem(404, "there is no such path") } else { method_not_allowed(&allowed) };
    (Err(reply), false)
}

/// Which of some media types the body has.
fn check_content(head: &Head, wanted: &[&'static str]) -> Result<&'static str, Reply> {
    if head.body == BodyLength::None {
        return Err(problem(411, "this needs a body, with Content-Length or chunked"));
    }
    // Parameters such as a charset change nothing: JSON is UTF-8.
    let given =
        head.content_type.as_deref().and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if let Some(found) = wanted.iter().find(|wanted| given.eq_ignore_ascii_case(wanted)) {
        return Ok(found);
    }
    let refusal = problem(415, &format!("this takes Content-Type: {}", wanted.join(" or ")));
    Err(refusal.with("Accept", wanted.join(", ")))
}

/// Memory that a document needs while it is read, as a multiple of its length: short members make a tree far larger
/// than their text, and there are the configuration made of it, the one before and the differences.
const MEMORY_PER_BODY_BYTE: u64 = 48;

/// A body that is handled when it is complete. It may hold keys: no copy of it is left in memory.
struct Collect<F> {
    body: Zeroizing<Vec<u8>>,
    max_bytes: usize,
    handle: F,
}

fn collect<F>(head: &Head, max_bytes: usize, handle: F) -> Result<Start<Node>, Reply>
where
    F: FnOnce(&mut Node, &[u8]) -> Reply + 'static,
{
    if let BodyLength::Bytes(bytes) = head.body
        && bytes > max_bytes as u64
    {
        return Err(too_large(max_bytes));
    }
    Ok(Start::Read(Box::new(Collect { body: Zeroizing::default(), max_bytes, handle })))
}

fn too_large(max_bytes: usize) -> Reply {
    match max_bytes {
        0 => problem(413, "this takes no body"),
        _ => problem(413, &format!("this takes a body of at most {max_bytes} bytes")),
    }
}

/// Appends to a body. Where it has to move, the place it leaves is cleared, which a vector by itself does not do.
fn append(body: &mut Zeroizing<Vec<u8>>, data: &[u8]) {
    let needed = body.len() + data.len();
    if needed > body.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(2 * body.capacity())));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(data);
}

impl<F: FnOnce(&mut Node, &[u8]) -> Reply> Sink<Node> for Collect<F> {
    fn push(&mut self, node: &mut Node, data: &[u8]) -> Result<(), Reply> {
        if self.body.len() + data.len() > self.max_bytes {
            return Err(too_large(self.max_bytes));
        }
        // Asked as it grows: several documents may be on their way at a time.
        let bytes = (self.body.len() + data.len()) as u64;
        if !node.can_spare(bytes.saturating_mul(MEMORY_PER_BODY_BYTE)) {
            return Err(problem(507, "the node has not enough free memory to read a document of this size"));
        }
        append(&mut self.body, data);
        Ok(())
    }

    fn end(self: Box<Self>, node: &mut Node) -> Reply {
        (self.handle)(node, &self.body)
    }
}
