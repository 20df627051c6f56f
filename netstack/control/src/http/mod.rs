//! HTTP/1.1 (RFC 9112), sans IO: [`Connection`] turns the bytes of one connection into requests for a [`Service`] and
//! replies into bytes.
//!
//! The way of a request: [`head`] parses and judges its header section; the service's [`Service::start`] looks at it and
//! either replies or wants the body, which [`body`] decodes and hands on piece by piece; [`reply`] writes the answer,
//! also piece by piece when it is long. Everything is bounded: header sections by [`head::MAX_HEAD_BYTES`], output that
//! waits for the peer by [`connection`], time by the deadlines there.
//!
//! Not here: TCP ([`crate::net`]), what the paths mean ([`crate::api`]), HTTP/2, TLS, compression.

pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod head;
pub(crate) mod reply;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use connection::{Connection, Next, Wire, Worth};
pub(crate) use head::Head;
pub(crate) use reply::Reply;

use alloc::{boxed::Box, vec::Vec};
use core::net::IpAddr;

/// What answers requests. `Self` is also what long bodies are read into and made from.
pub(crate) trait Service: Sized {
    /// Looks at a request whose header section has arrived from `peer`.
    fn start(&mut self, head: &Head, peer: IpAddr, now_ns: u64) -> Start<Self>;

    /// Whether a request whose header section was taken came with the right token.
    fn knows(&self, head: &Head) -> bool {
        let _ = head;
        true
    }

    /// The answer to what is not a request that can be understood.
    fn refuse(&mut self, status: u16, detail: &'static str) -> Reply<Self>;
}

/// What a service makes of a header section.
pub(crate) enum Start<S> {
    /// The answer; a body is not read.
    Reply(Reply<S>),
    /// The body first.
    Read(Box<dyn Sink<S>>),
}

/// Takes the body of one request.
pub(crate) trait Sink<S> {
    /// Whether the next piece, or the end, is welcome. False: it is offered again soon.
    fn ready(&mut self, service: &mut S) -> bool {
        let _ = service;
        true
    }

    /// Takes the next piece, at most some KiB.
    ///
    /// # Errors
    /// The answer, when the rest is of no interest.
    fn push(&mut self, service: &mut S, data: &[u8]) -> Result<(), Reply<S>>;

    /// The body is complete: whether the answer can be given. False: asked again soon.
    fn is_done(&mut self, service: &mut S) -> bool {
        let _ = service;
        true
    }

    /// The answer to the complete body.
    fn end(self: Box<Self>, service: &mut S) -> Reply<S>;
}

/// Makes the body of one reply.
pub(crate) trait Source<S> {
    /// Appends the next piece to `out`, some KiB.
    fn pull(&mut self, service: &mut S, out: &mut Vec<u8>) -> Pull;
}

/// What a [`Source`] has after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pull {
    /// More.
    More,
    /// Nothing now, perhaps later.
    Wait,
    /// Nothing more.
    End,
}
