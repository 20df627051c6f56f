//! Header sections: parsed by httparse, then judged as RFC 9112 wants, so that nobody reads a message differently.

use alloc::{string::String, vec::Vec};
use core::fmt;

/// Longest header section, request line included.
pub(crate) const MAX_HEAD_BYTES: usize = 8192;

const MAX_HEADERS: usize = 64;

/// What a request asks for and how its body comes.
#[derive(Debug)]
pub(crate) struct Head {
    pub method: Method,
    /// Decoded path of the target.
    pub path: String,
    /// Decoded query parameters, in order.
    pub query: Vec<(String, String)>,
    pub body: BodyLength,
    /// Whether the connection stays open afterwards, as far as the client is concerned.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// HTTP/1.0 knows no chunks.
    pub is_http10: bool,
    pub authorization: Option<String>,
    pub content_type: Option<String>,
    pub accept: Option<String>,
    pub if_match: Option<String>,
}

/// Methods that something here is done about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    /// A valid method that no path here has.
    Other,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Other => "other",
        })
    }
}

/// How the length of a body is known (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// There is no body.
    None,
    /// So many bytes.
    Bytes(u64),
    /// Until the last chunk.
    Chunked,
}

/// Why a header section is no request: a status and words.
pub(crate) type Refusal = (u16, &'static str);

/// The request at the start of `input` and the length of its header section; None if more bytes are needed.
///
/// # Errors
/// What to answer before closing the connection.
pub(crate) fn parse(input: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(input) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD_BYTES => return Ok(None),
        Ok(_) => return Err((431, "the header section is longer than 8 KiB")),
        Err(httparse::Error::TooManyHeaders) => return Err((431, "there are more than 64 header fields")),
        Err(httparse::Error::Version) => return Err((505, "HTTP/1.1 is spoken here")),
        Err(_) => return Err((400, "this is not an HTTP/1.1 request")),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err((400, "this is not an HTTP/1.1 request"));
    };
    let fields = Fields::collect(request.headers, version == 0)?;
    let (path, query) = split_target(target)?;
    let head = Head {
        method: match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            _ => Method::Other,
        },
        path,
        query,
        body: fields.body,
        keep_alive: fields.keep_alive.unwrap_or(version == 1),
        expect_continue: fields.expect_continue && version == 1,
        is_http10: version == 0,
        authorization: fields.authorization,
        content_type: fields.content_type,
        accept: fields.accept,
        if_match: fields.if_match,
    };
    Ok(Some((head, length)))
}

struct Fields {
    body: BodyLength,
    keep_alive: Option<bool>,
    expect_continue: bool,
    authorization: Option<String>,
    content_type: Option<String>,
    accept: Option<String>,
    if_match: Option<String>,
}

impl Fields {
    fn collect(headers: &[httparse::Header<'_>], is_http10: bool) -> Result<Self, Refusal> {
        let mut fields = Self {
            body: BodyLength::None,
            keep_alive: None,
            expect_continue: false,
            authorization: None,
            content_type: None,
            accept: None,
            if_match: None,
        };
        let (mut hosts, mut length, mut chunked) = (0, None, false);
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("host") {
                hosts += 1;
            } else if is("content-length") {
                let value = content_length(header.value)?;
                if length.replace(value).is_some_and(|before| before != value) {
                    return Err((400, "Content-Length is given twice with different values"));
                }
            } else if is("transfer-encoding") {
                if chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err((501, "the only transfer encoding understood is chunked"));
                }
                chunked = true;
            } else if is("connection") {
                fields.note_connection(header.value);
            } else if is("expect") {
                if !header.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err((417, "the only expectation understood is 100-continue"));
                }
                fields.expect_continue = true;
            } else if is("authorization") {
                once(&mut fields.authorization, header.value)?;
            } else if is("content-type") {
                once(&mut fields.content_type, header.value)?;
            } else if is("accept") {
                fields.accept = Some(text(header.value)?);
            } else if is("if-match") {
                once(&mut fields.if_match, header.value)?;
            }
        }
        if hosts > 1 || (hosts == 0 && !is_http10) {
            return Err((400, "a request has one Host field"));
        }
        fields.body = match (chunked, length) {
            // RFC 9112 §6.3: a sign of request smuggling.
            (true, Some(_)) => return Err((400, "Content-Length and Transfer-Encoding exclude each other")),
            (true, None) if is_http10 => return Err((400, "HTTP/1.0 has no transfer encodings")),
            (true, None) => BodyLength::Chunked,
            (false, Some(0)) | (false, None) => BodyLength::None,
            (false, Some(bytes)) => BodyLength::Bytes(bytes),
        };
        Ok(fields)
    }

    fn note_connection(&mut self, value: &[u8]) {
        for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.keep_alive = Some(false);
            } else if option.eq_ignore_ascii_case(b"keep-alive") && self.keep_alive.is_none() {
                self.keep_alive = Some(true);
            }
        }
    }
}

/// RFC 9110 §8.6: digits only. No sign, no list.
fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    let refusal = (400, "Content-Length is not a number");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(refusal);
    }
    core::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(refusal)
}

fn once(slot: &mut Option<String>, value: &[u8]) -> Result<(), Refusal> {
    match slot.replace(text(value)?) {
        None => Ok(()),
        Some(_) => Err((400, "a header field that must be given once is given twice")),
    }
}

fn text(value: &[u8]) -> Result<String, Refusal> {
    core::str::from_utf8(value).map(String::from).map_err(|_| (400, "a header field is not text"))
}

type Target = (String, Vec<(String, String)>);

/// Splits an origin-form or absolute-form target (RFC 9112 §3.2) and decodes it.
fn split_target(target: &str) -> Result<Target, Refusal> {
    let origin = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
        }
        _ => target,
    };
    if !origin.starts_with('/') {
        return Err((400, "the request target is not a path"));
    }
    let origin = origin.split('#').next().unwrap_or_default();
    let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
    let mut parameters = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters.push((decode(name, true)?, decode(value, true)?));
    }
    Ok((decode(path, false)?, parameters))
}

/// Percent decoding; in queries `+` is a space.
fn decode(text: &str, is_query: bool) -> Result<String, Refusal> {
    let refusal = (400, "the request target has a broken percent escape");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or(refusal);
                (digit()? * 16 + digit()?) as u8
            }
            b'+' if is_query => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| (400, "the request target is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Head {
        parse(text.as_bytes()).unwrap().unwrap().0
    }

    fn refusal(text: &str) -> u16 {
        parse(text.as_bytes()).unwrap_err().0
    }

    #[test]
    fn reads_a_request() {
        let head = head(
            "PUT /v1/config%2F?dry_run=true&x=a+b%26&y HTTP/1.1\r\nHost: n\r\ncontent-length: 12\r\nAuthorization: Bearer x\r\n\
             Content-Type: application/json\r\nIf-Match: \"3\"\r\nExpect: 100-continue\r\nAccept: */*\r\n\r\n",
        );
        assert_eq!((head.method, head.path.as_str()), (Method::Put, "/v1/config/"));
        let query: Vec<_> = head.query.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(query, [("dry_run", "true"), ("x", "a b&"), ("y", "")]);
        assert_eq!(head.body, BodyLength::Bytes(12));
        assert!(head.keep_alive && head.expect_continue && !head.is_http10);
        assert_eq!(head.authorization.as_deref(), Some("Bearer x"));
        assert_eq!(head.if_match.as_deref(), Some("\"3\""));
    }

    #[test]
    fn knows_when_connections_stay() {
        assert!(head("GET / HTTP/1.1\r\nHost: n\r\n\r\n").keep_alive);
        assert!(!head("GET / HTTP/1.1\r\nHost: n\r\nConnection: te, Close\r\n\r\n").keep_alive);
        assert!(!head("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(head("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
        assert_eq!(head("GET http://n:80/a?b=c HTTP/1.1\r\nHost: n\r\n\r\n").path, "/a");
        assert_eq!(head("OPTIONS /a HTTP/1.1\r\nHost: n\r\n\r\n").method, Method::Other);
    }

    #[test]
    fn waits_for_the_rest() {
        let text = "GET / HTTP/1.1\r\nHost: n\r\n\r\n";
        for length in 0..text.len() {
            assert!(parse(&text.as_bytes()[..length]).unwrap().is_none(), "{length}");
        }
    }

    #[test]
    fn refuses() {
        for (status, text) in [
            (400, "hello\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            (400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n"),
            (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n"),
            (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n"),
            (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n"),
            (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
            (400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n"),
            (417, "POST / HTTP/1.1\r\nHost: a\r\nExpect: money\r\n\r\n"),
            (501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
            (505, "GET / HTTP/2.0\r\n\r\n"),
        ] {
            assert_eq!(refusal(text), status, "{text}");
        }
        assert_eq!(refusal(&"A".repeat(MAX_HEAD_BYTES)), 431);
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!(refusal(&long), 431);
        assert_eq!(refusal(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65))), 431);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn near_requests_never_panic(text in "(GET|PUT|x) [/a%?&=+#:0-9F]{0,20} HTTP/1\\.[01]\r\n((Host|Content-Length|Expect|Connection|Transfer-Encoding): ?[0-9a-z, ]{0,8}\r\n){0,4}\r\n") {
            let _ = parse(text.as_bytes());
        }
    }
}
