//! Request bodies: the framing of RFC 9112 §6 and §7.1 taken off, piece by piece.

use super::head::BodyLength;

/// Longest chunk-size line or trailer section that is put up with.
const MAX_LINE_BYTES: usize = 1024;

/// Takes the framing off one body.
#[derive(Debug)]
pub(crate) struct Decoder(State);

#[derive(Clone, Copy, Debug)]
enum State {
    /// So many bytes of the body, then nothing.
    Length(u64),
    /// At a chunk-size line.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// At the line end after a chunk.
    ChunkEnd,
    /// At the trailer section, which is read over.
    Trailer,
}

/// What is at the start of some input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// So many bytes of framing, and then these of the body; none if more input is needed.
    Data(usize, &'a [u8]),
    /// So many bytes of framing, and the body ends.
    End(usize),
    /// This is not how a chunked body looks.
    Malformed,
}

impl Decoder {
    pub fn new(length: BodyLength) -> Self {
        Self(match length {
            BodyLength::None => State::Length(0),
            BodyLength::Bytes(bytes) => State::Length(bytes),
            BodyLength::Chunked => State::Size,
        })
    }

    /// Looks at `input`. Before the next call the caller consumes the framing and the data that are returned.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Piece<'a> {
        let mut framing = 0;
        loop {
            let rest = input.get(framing..).unwrap_or_default();
            let (passed, next) = match self.0 {
                State::Length(0) => return Piece::End(framing),
                State::Length(left) => {
                    let (data, left) = split(rest, left);
                    self.0 = State::Length(left);
                    return Piece::Data(framing, data);
                }
                State::Chunk(0) => (0, State::ChunkEnd),
                State::Chunk(left) => {
                    let (data, left) = split(rest, left);
                    self.0 = State::Chunk(left);
                    return Piece::Data(framing, data);
                }
                // httparse takes a line without digits for a size of 0.
                State::Size if rest.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) => {
                    return Piece::Malformed;
                }
                State::Size => match httparse::parse_chunk_size(rest) {
                    Ok(httparse::Status::Complete((passed, 0))) => (passed, State::Trailer),
                    Ok(httparse::Status::Complete((passed, size))) => (passed, State::Chunk(size)),
                    Ok(httparse::Status::Partial) => return need_more(framing, rest),
                    Err(_) => return Piece::Malformed,
                },
                State::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => (2, State::Size),
                    [] | [b'\r'] => return Piece::Data(framing, &[]),
                    _ => return Piece::Malformed,
                },
                State::Trailer if rest.starts_with(b"\r\n") => (2, State::Length(0)),
                State::Trailer => {
                    match rest.windows(4).take(MAX_LINE_BYTES).position(|end| end == b"\r\n\r\n") {
                        Some(at) => (at + 4, State::Length(0)),
                        None => return need_more(framing, rest),
                    }
                }
            };
            framing += passed;
            self.0 = next;
        }
    }
}

fn split(rest: &[u8], left: u64) -> (&[u8], u64) {
    let n = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
    (rest.get(..n).unwrap_or_default(), left - n as u64)
}

fn need_more(framing: usize, rest: &[u8]) -> Piece<'_> {
    if rest.len() > MAX_LINE_BYTES { Piece::Malformed } else { Piece::Data(framing, &[]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A body and what follows it; None if more is needed.
    type Decoded = Option<(Vec<u8>, Vec<u8>)>;

    /// Decodes `input` given in pieces of `step` bytes; Err if malformed.
    fn decode(length: BodyLength, input: &[u8], step: usize) -> Result<Decoded, ()> {
        let (mut decoder, mut body, mut buffer) = (Decoder::new(length), Vec::new(), Vec::new());
        let mut pieces = input.chunks(step);
        loop {
            match decoder.decode(&buffer) {
                Piece::Malformed => return Err(()),
                Piece::End(framing) => {
                    let rest = buffer.split_off(framing);
                    return Ok(Some((body, [rest, pieces.collect::<Vec<_>>().concat()].concat())));
                }
                Piece::Data(framing, data) => {
                    let (used, is_empty) = (framing + data.len(), data.is_empty());
                    body.extend_from_slice(data);
                    let _ = buffer.drain(..used);
                    if is_empty {
                        let Some(piece) = pieces.next() else { return Ok(None) };
                        buffer.extend_from_slice(piece);
                    }
                }
            }
        }
    }

    #[test]
    fn lengths() {
        assert_eq!(decode(BodyLength::None, b"GET", 1), Ok(Some((b"".to_vec(), b"GET".to_vec()))));
        assert_eq!(decode(BodyLength::Bytes(3), b"abcGET", 2), Ok(Some((b"abc".to_vec(), b"GET".to_vec()))));
        assert_eq!(decode(BodyLength::Bytes(3), b"ab", 2), Ok(None));
    }

    #[test]
    fn chunks() {
        let text = b"4;ext=1\r\nWiki\r\n0A\r\npedia in \n\r\n0\r\nTrailer: x\r\n\r\nGET";
        for step in 1..text.len() {
            assert_eq!(
                decode(BodyLength::Chunked, text, step),
                Ok(Some((b"Wikipedia in \n".to_vec(), b"GET".to_vec())))
            );
        }
        assert_eq!(decode(BodyLength::Chunked, b"0\r\n\r\n", 5), Ok(Some((vec![], vec![]))));
    }

    #[test]
    fn malformed_chunks() {
        for text in
            [&b"x\r\n"[..], b"4\r\nWikixx", b"-1\r\n", b"10000000000000000\r\n", b"\r\n", &[b'0'; 2000]]
        {
            assert_eq!(decode(BodyLength::Chunked, text, 7), Err(()), "{text:?}");
        }
        let endless = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(400)].concat();
        assert_eq!(decode(BodyLength::Chunked, &endless, 7), Err(()));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1usize..20) {
            let _ = decode(BodyLength::Chunked, &bytes, step);
        }

        #[test]
        fn chunked_is_undone(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8), step in 1usize..20) {
            let mut wire = Vec::new();
            for part in &parts {
                wire.extend(format!("{:x}\r\n", part.len()).bytes());
                wire.extend(part);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            prop_assert_eq!(decode(BodyLength::Chunked, &wire, step), Ok(Some((parts.concat(), vec![]))));
        }
    }
}
