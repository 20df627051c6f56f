//! Answers, and how they look on the wire.

use super::Source;
use alloc::{boxed::Box, format, string::String, vec::Vec};

/// An answer.
pub(crate) struct Reply<S> {
    pub status: u16,
    pub content_type: &'static str,
    /// Further header fields: names and values that need no escaping.
    pub fields: Vec<(&'static str, String)>,
    pub body: Body<S>,
}

/// The body of an answer.
pub(crate) enum Body<S> {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What a source makes, of a length that is not known.
    Stream(Box<dyn Source<S>>),
}

/// How the end of a body is told from the rest of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By `Content-Length`.
    Length,
    /// By chunks.
    Chunked,
    /// By the end of the connection; for HTTP/1.0.
    Close,
}

impl<S> Reply<S> {
    /// An answer of bytes.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, fields: Vec::new(), body: Body::Bytes(body.into()) }
    }

    /// An answer that is made while it is sent.
    pub fn stream(content_type: &'static str, source: impl Source<S> + 'static) -> Self {
        Self { status: 200, content_type, fields: Vec::new(), body: Body::Stream(Box::new(source)) }
    }

    /// The same with one more header field.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    pub(super) fn framing(&self, is_http10: bool) -> Framing {
        match self.body {
            Body::Bytes(_) => Framing::Length,
            Body::Stream(_) if is_http10 => Framing::Close,
            Body::Stream(_) => Framing::Chunked,
        }
    }

    /// The header section.
    pub(super) fn head(&self, framing: Framing, keep_alive: bool) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\n",
            self.status,
            reason(self.status),
            self.content_type
        );
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match (&self.body, framing) {
            (Body::Bytes(bytes), _) => head.push_str(&format!("Content-Length: {}\r\n", bytes.len())),
            (_, Framing::Chunked) => head.push_str("Transfer-Encoding: chunked\r\n"),
            _ => {}
        }
        head.push_str("Cache-Control: no-store\r\n");
        head.push_str(if keep_alive {
            "Connection: keep-alive\r\n\r\n"
        } else {
            "Connection: close\r\n\r\n"
        });
        head.into_bytes()
    }
}

/// `data` as one chunk (RFC 9112 §7.1).
pub(super) fn chunk(data: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// The chunk that ends a body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The reason phrase (RFC 9110 §15) of a status used here; also the title of its problem.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Internal Server Error",
    }
}
