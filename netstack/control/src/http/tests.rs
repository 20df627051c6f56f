//! Connections against a toy service, over a wire that takes and gives as little as a test wants.

use super::testing::{TestWire, replies};
use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;

const SECOND_NS: u64 = 1_000_000_000;

/// `GET /hello`, `POST /echo`, `GET /count` (1000 lines as a stream), `POST /refuse` (refuses after 10 bytes), `POST /slow`
/// (an echo after some turns).
#[derive(Default)]
struct Toy {
    requests: usize,
}

struct Echo(Vec<u8>, usize);

impl Sink<Toy> for Echo {
    fn push(&mut self, _: &mut Toy, data: &[u8]) -> Result<(), Reply<Toy>> {
        self.0.extend_from_slice(data);
        if self.0.len() > self.1 { Err(Reply::new(413, "text/plain", "too much")) } else { Ok(()) }
    }

    fn end(self: Box<Self>, _: &mut Toy) -> Reply<Toy> {
        Reply::new(200, "text/plain", self.0)
    }
}

struct Slow {
    echo: Echo,
    turns: usize,
}

impl Sink<Toy> for Slow {
    fn push(&mut self, toy: &mut Toy, data: &[u8]) -> Result<(), Reply<Toy>> {
        self.echo.push(toy, data)
    }

    fn is_done(&mut self, _: &mut Toy) -> bool {
        self.turns = self.turns.saturating_sub(1);
        self.turns == 0
    }

    fn end(self: Box<Self>, toy: &mut Toy) -> Reply<Toy> {
        Box::new(self.echo).end(toy)
    }
}

struct Count(u32);

impl Source<Toy> for Count {
    fn pull(&mut self, _: &mut Toy, out: &mut Vec<u8>) -> Pull {
        out.extend(format!("{}\n", self.0).bytes());
        self.0 += 1;
        if self.0 == 1000 { Pull::End } else { Pull::More }
    }
}

impl Service for Toy {
    fn start(&mut self, head: &Head, _: IpAddr, _: u64) -> Start<Self> {
        self.requests += 1;
        match head.path.as_str() {
            "/hello" => Start::Reply(Reply::new(200, "text/plain", "hello").with("X-Toy", "1")),
            "/count" => Start::Reply(Reply::stream("text/plain", Count(0))),
            "/echo" => Start::Read(Box::new(Echo(Vec::new(), usize::MAX))),
            "/slow" => Start::Read(Box::new(Slow { echo: Echo(Vec::new(), usize::MAX), turns: 5 })),
            "/refuse" => Start::Read(Box::new(Echo(Vec::new(), 10))),
            _ => Start::Reply(self.refuse(404, "no")),
        }
    }

    fn refuse(&mut self, status: u16, detail: &'static str) -> Reply<Self> {
        Reply::new(status, "text/plain", detail)
    }
}

struct Session {
    toy: Toy,
    wire: TestWire,
    connection: Connection<Toy>,
    now_ns: u64,
    finished: bool,
}

impl Session {
    fn new(step: usize) -> Self {
        let connection = Connection::new(Ipv4Addr::LOCALHOST.into(), 0);
        let wire = TestWire { step, window: usize::MAX, ..TestWire::default() };
        Self { toy: Toy::default(), wire, connection, now_ns: 0, finished: false }
    }

    /// Polls until nothing more happens now. Returns what happens next.
    fn run(&mut self) -> Next {
        for _ in 0..1_000_000 {
            let moved = (self.wire.to_node.len(), self.wire.from_node.len());
            match self.connection.poll(&mut self.toy, &mut self.wire, self.now_ns) {
                Next::Now => {}
                Next::Finish(_) => self.finished = true,
                // The wire takes little at a time; a real one would wake the connection.
                Next::At(_) if moved != (self.wire.to_node.len(), self.wire.from_node.len()) => {}
                next => return next,
            }
        }
        panic!("the connection does not come to rest");
    }

    fn send(&mut self, text: impl AsRef<[u8]>) -> Next {
        self.wire.to_node.extend(text.as_ref());
        self.run()
    }

    fn output(&mut self) -> String {
        String::from_utf8(core::mem::take(&mut self.wire.from_node)).unwrap()
    }
}

fn ask(text: impl AsRef<[u8]>) -> Vec<(u16, String)> {
    let mut session = Session::new(usize::MAX);
    let _ = session.send(text);
    replies(&session.output())
}

fn counted() -> String {
    (0..1000).map(|n| format!("{n}\n")).collect()
}

const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: n\r\n\r\n";
const COUNT: &str = "GET /count HTTP/1.1\r\nHost: n\r\n\r\n";
const ECHO: &str = "POST /echo HTTP/1.1\r\nHost: n\r\nContent-Length: 5\r\n\r\n12345";
const CHUNKED: &str =
    "POST /echo HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";

#[test]
fn pipelined_requests_are_answered_in_order_whatever_the_pieces() {
    let text = [HELLO, ECHO, CHUNKED, COUNT, "\r\n", HELLO].concat();
    let expected = [
        (200, "hello".to_string()),
        (200, "12345".into()),
        (200, "abcde".into()),
        (200, counted()),
        (200, "hello".into()),
    ];
    for step in [1, 2, 3, 7, 100, usize::MAX] {
        let mut session = Session::new(step);
        assert!(matches!(session.send(&text), Next::At(_)));
        assert_eq!(replies(&session.output()), expected, "step {step}");
        assert!(session.connection.is_idle());
    }
}

#[test]
fn head_has_no_body() {
    let mut session = Session::new(usize::MAX);
    let _ = session.send("HEAD /hello HTTP/1.1\r\nHost: n\r\n\r\n");
    let output = session.output();
    assert!(output.contains("Content-Length: 5\r\n") && output.ends_with("\r\n\r\n"), "{output}");
    let _ = session.send("HEAD /count HTTP/1.1\r\nHost: n\r\n\r\n");
    assert!(session.output().ends_with("\r\n\r\n"));
    let _ = session.send(HELLO);
    assert_eq!(replies(&session.output()).len(), 1);
}

#[test]
fn expectations_are_met() {
    let mut session = Session::new(usize::MAX);
    let _ =
        session.send("POST /echo HTTP/1.1\r\nHost: n\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(session.output(), "HTTP/1.1 100 Continue\r\n\r\n");
    let _ = session.send("ok");
    assert_eq!(replies(&session.output()), [(200, "ok".into())]);
}

#[test]
fn connections_close_when_asked_and_when_unclear() {
    for (text, status) in [
        ("GET /hello HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n", 200),
        ("GET /hello HTTP/1.0\r\n\r\n", 200),
        ("GET /count HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200),
        ("what?\r\n\r\n", 400),
        ("POST /hello HTTP/1.1\r\nHost: n\r\nContent-Length: 5\r\n\r\n12345", 200),
        ("POST /refuse HTTP/1.1\r\nHost: n\r\nContent-Length: 50\r\n\r\n12345678901234", 413),
        ("POST /echo HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
    ] {
        let mut session = Session::new(usize::MAX);
        let next = session.send(text);
        let found = replies(&session.output());
        assert_eq!(found[0].0, status, "{text}");
        assert_eq!(found.len(), 1);
        assert!(session.finished, "{text}");
        // What the peer still says is read over for a while; then it is over.
        let Next::At(until) = next else { panic!("{text}: {next:?}") };
        assert_eq!(until, 2 * SECOND_NS);
        let _ = session.send("more");
        session.now_ns = until;
        assert_eq!(session.run(), Next::Gone);
        assert_eq!(session.output(), "");
    }
}

#[test]
fn slow_peers_are_told_and_dropped() {
    // Nothing at all.
    let mut session = Session::new(usize::MAX);
    let next = session.run();
    assert_eq!(next, Next::At(10 * SECOND_NS));
    session.now_ns = 10 * SECOND_NS;
    assert_eq!(session.run(), Next::Gone);
    assert_eq!(session.output(), "");
    // A byte of the header section each second.
    let mut session = Session::new(usize::MAX);
    let mut second = 0;
    for byte in "GET /hello HTTP/1.1\r\nHost: ".bytes().chain(std::iter::repeat(b'x')) {
        second += 1;
        session.now_ns = second * SECOND_NS;
        if session.send([byte]) == Next::Gone || session.finished {
            break;
        }
    }
    assert_eq!(second, 11);
    assert_eq!(replies(&session.output())[0].0, 408);
    // A byte of the body each second.
    let mut session = Session::new(usize::MAX);
    let _ = session.send("POST /echo HTTP/1.1\r\nHost: n\r\nContent-Length: 5000\r\n\r\n");
    for second in 1..=31 {
        session.now_ns = second * SECOND_NS;
        assert!(!session.finished, "{second}");
        let _ = session.send("x");
        if session.finished {
            assert_eq!(second, 30);
            break;
        }
    }
    assert_eq!(replies(&session.output())[0].0, 408);
}

#[test]
fn a_peer_that_does_not_read_is_dropped_and_costs_little() {
    let mut session = Session::new(usize::MAX);
    session.wire.window = 0;
    let text = HELLO.repeat(20_000);
    let Next::At(deadline) = session.send(&text) else { panic!() };
    assert!(session.toy.requests < 1000, "{}", session.toy.requests);
    assert!(session.connection.output_bytes() < 128 << 10);
    session.now_ns = deadline;
    assert_eq!(session.run(), Next::Gone);
}

#[test]
fn a_peer_that_closes_gets_its_reply() {
    let mut session = Session::new(usize::MAX);
    session.wire.closed = true;
    assert_eq!(session.send(COUNT), Next::Gone);
    assert_eq!(replies(&session.output()), [(200, counted())]);
    let mut session = Session::new(usize::MAX);
    session.wire.closed = true;
    assert_eq!(session.send("GET /hel"), Next::Gone);
    assert_eq!(session.output(), "");
}

#[test]
fn smuggling_is_refused() {
    let found = ask(
        "POST /echo HTTP/1.1\r\nHost: n\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /hello HTTP/1.1\r\nHost: n\r\n\r\n",
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, 400);
}

proptest! {
    /// Whatever comes in whatever pieces: the connection comes to rest, and the deadline it then has ends it.
    #[test]
    fn garbage_ends(pieces in prop::collection::vec(piece(), 0..12), step in 1usize..50) {
        let mut session = Session::new(step);
        for piece in pieces {
            match session.send(piece) {
                Next::Gone => return Ok(()),
                Next::At(at) => prop_assert!(at > session.now_ns),
                _ => unreachable!(),
            }
            session.now_ns += SECOND_NS;
        }
        for _ in 0..4 {
            match session.run() {
                Next::Gone => return Ok(()),
                Next::At(at) => session.now_ns = at,
                _ => unreachable!(),
            }
        }
        prop_assert!(false, "no end");
    }
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(HELLO.into()),
        Just(ECHO.into()),
        Just(CHUNKED.into()),
        Just(COUNT.into()),
        Just(b"POST /echo HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()),
        Just(b"5\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
    ]
}

#[test]
fn a_client_that_only_reads_any_more_gets_its_answer_when_it_is_made() {
    for text in [ECHO, CHUNKED].map(|text| text.replace("/echo", "/slow")) {
        let mut session = Session::new(usize::MAX);
        session.wire.closed = true;
        let mut next = session.send(&text);
        while let Next::At(at_ns) = next
            && session.now_ns < SECOND_NS
        {
            session.now_ns = at_ns;
            next = session.run();
        }
        let said = replies(&session.output());
        assert_eq!((said.len(), said[0].0, said[0].1.len()), (1, 200, 5), "{text}");
        assert!(matches!(next, Next::Gone));
    }
}
