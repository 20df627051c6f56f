//! Probes against hosts of smoltcp's own, by a clock that the tests move.

use super::prober::{PROBES, Prober};
use super::testing::Client;
use super::{Stack, echo};
use health::{Check, Event, Failure, Kind, Monitor, Status, Target};
use services::object::IpFamily;
use services::{PoolKey, Protocol, Scope};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use std::net::{IpAddr, SocketAddr};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn key() -> PoolKey {
    let (namespace, service) = ("default".to_owned(), "web".to_owned());
    let (protocol, family, scope) = (Protocol::Tcp, IpFamily::V4, Scope::Cluster);
    PoolKey { namespace, service, port: 80, protocol, family, scope }
}

/// A node that probes, and a host that has all the addresses of backends that answer at all.
struct World {
    stack: Stack,
    prober: Prober,
    monitor: Monitor,
    host: Client,
    /// What the host says to whoever asks over HTTP; nothing if it is empty.
    answer: &'static str,
    asked: Vec<String>,
    listening: Vec<SocketHandle>,
    /// Addresses from which nothing ever comes.
    silent: fn(IpAddr) -> bool,
    events: Vec<Event>,
    now_ns: u64,
    most: usize,
}

impl World {
    fn new(backends: &[SocketAddr], check: Check) -> Self {
        let mut monitor = Monitor::new(3);
        let backends = backends.iter().map(|backend| (*backend, services::State::Active)).collect();
        monitor.set_target(Target { pool: key(), check, backends }, 0);
        let mut host = Client::new(None, &[], "10.0.0.1");
        host.take_all_addresses("2001:db8::1");
        Self {
            stack: Stack::new(5, 0),
            prober: Prober::new(9),
            monitor,
            host,
            answer: "",
            asked: Vec::new(),
            listening: Vec::new(),
            silent: |_| false,
            events: Vec::new(),
            now_ns: 0,
            most: 0,
        }
    }

    fn listen(&mut self, port: u16, sockets: usize) {
        self.listening.extend((0..sockets).map(|_| self.host.listen(port)));
    }

    fn source(to: IpAddr) -> Option<IpAddr> {
        let of_family = if to.is_ipv4() { "10.0.0.1" } else { "2001:db8::ffff" };
        of_family.parse().ok()
    }

    /// A millisecond.
    fn step(&mut self) {
        self.now_ns += MS;
        self.stack.poll_ingress(self.now_ns);
        let parts = (&mut self.stack, &mut self.monitor);
        let _ = self.prober.poll(parts, &Self::source, &mut self.events, self.now_ns);
        self.most = self.most.max(self.prober.running());
        self.stack.poll_egress(self.now_ns);
        while let Some(packet) = self.stack.transmit() {
            let to: IpAddr = match packet[0] >> 4 {
                4 => IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap()),
                _ => IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap()),
            };
            if (self.silent)(to) {
                continue;
            }
            match echo::reply(&packet) {
                Some(reply) => assert!(self.prober.take_answer(&reply)),
                None => self.host.give(packet),
            }
        }
        self.host.poll(self.now_ns);
        self.serve();
        self.host.poll(self.now_ns);
        for packet in self.host.take_sent() {
            let is_expected = self.prober.expects(&packet);
            assert!(self.stack.receive(packet, is_expected).is_none(), "nobody expects an answer");
        }
    }

    fn serve(&mut self) {
        for handle in self.listening.clone() {
            let asked = self.host.receive(handle);
            if !asked.is_empty() {
                self.asked.push(String::from_utf8(asked).unwrap());
                let _ = self.host.send(handle, self.answer.as_bytes());
                self.host.socket(handle).close();
            }
            if self.host.state(handle) == State::CloseWait {
                self.host.socket(handle).close();
            }
            if matches!(self.host.state(handle), State::Closed | State::TimeWait) {
                self.host.listen_again(handle);
            }
        }
    }

    fn run(&mut self, seconds: u64) {
        (0..seconds * 1000).for_each(|_| self.step());
    }

    fn events(&mut self) -> Vec<(Status, Option<Failure>)> {
        self.events.drain(..).map(|event| (event.change.to, event.change.why)).collect()
    }

    fn failures(&self, backend: SocketAddr) -> (u64, u64) {
        self.monitor.backend(&key(), backend).unwrap().probes()
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn check(kind: Kind) -> Check {
    let kind = Some(kind);
    Check { kind, interval_ns: SECOND, timeout_ns: SECOND / 2, rise: 2, fall: 2, ..Check::default() }
}

#[test]
fn tcp_connections_are_made_and_leave_nothing() {
    for backend in ["10.0.0.2:8080", "[2001:db8::2]:8080"] {
        let mut world = World::new(&[at(backend)], check(Kind::Tcp { port: None }));
        world.listen(8080, 1);
        world.run(10);
        assert_eq!((world.events(), world.failures(at(backend)).1), (vec![], 0));
        assert!((9..=11).contains(&world.failures(at(backend)).0));
        // Nobody listens any more.
        let listening = world.listening.drain(..).collect::<Vec<_>>();
        listening.into_iter().for_each(|handle| world.host.socket(handle).abort());
        world.run(4);
        assert_eq!(world.events(), [(Status::Down, Some(Failure::Refused))]);
        world.listen(8080, 1);
        world.run(4);
        assert_eq!(world.events(), [(Status::Up, None)]);
        world.silent = |_| true;
        world.run(5);
        assert_eq!(world.events(), [(Status::Down, Some(Failure::Timeout))]);
        world.monitor.remove_target(&key());
        world.run(2);
        assert_eq!((world.prober.running(), world.stack.sockets.iter().count()), (0, 0));
    }
}

#[test]
fn http_answers_are_judged_by_their_status() {
    let kind = Kind::Http { port: Some(81), path: "/ready?x".into(), status: (200, 299) };
    let backend = at("10.0.0.2:8080");
    let mut world = World::new(&[backend], check(kind));
    world.listen(81, 2);
    let long = Box::leak(format!("HTTP/1.1 204 No Content\r\n\r\n{}", "x".repeat(5000)).into_boxed_str());
    world.answer = long;
    world.run(5);
    assert_eq!((world.events(), world.failures(backend).1), (vec![], 0));
    let host =
        "GET /ready?x HTTP/1.1\r\nHost: 10.0.0.2:81\r\nUser-Agent: fairlead\r\nConnection: close\r\n\r\n";
    assert!(world.asked.iter().all(|asked| asked == host), "{:?}", world.asked);
    let cases = [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Failure::Status(503)),
        ("SSH-2.0-OpenSSH_9.2\r\n", Failure::NotHttp),
        ("HTTP/1.1 20", Failure::Closed),
        ("HTTP/1.1 abc x\r\n", Failure::NotHttp),
    ];
    for (answer, why) in cases {
        world.answer = answer;
        world.run(4);
        assert_eq!(world.events(), [(Status::Down, Some(why))]);
        world.answer = "HTTP/1.0 200 OK\r\n\r\n";
        world.run(4);
        assert_eq!(world.events(), [(Status::Up, None)]);
    }
}

#[test]
fn echo_requests_are_answered_in_both_families() {
    let backends = [at("10.0.0.2:8080"), at("[2001:db8::2]:8080")];
    let mut world = World::new(&backends, check(Kind::Echo));
    world.run(10);
    assert_eq!(world.events(), []);
    assert!(backends.iter().all(|backend| world.failures(*backend).0 >= 9));
    world.silent = |address| address.is_ipv6();
    world.run(5);
    assert_eq!(world.events(), [(Status::Down, Some(Failure::Timeout))]);
    let mut other = echo::request(backends[0].ip(), "10.0.0.1".parse().unwrap(), 7);
    other = echo::reply(&other).unwrap();
    assert!(!world.prober.take_answer(&other), "nobody asked for it");
}

#[test]
fn of_thousands_no_more_are_probed_at_once_than_there_are_sockets() {
    let backends: Vec<SocketAddr> =
        (0..2000u16).map(|n| SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 80))).collect();
    let mut world = World::new(&backends, check(Kind::Echo));
    // One in ten never answers: those take half a second each.
    world.silent = |address| matches!(address, IpAddr::V4(v4) if v4.octets()[3].is_multiple_of(10));
    world.run(6);
    assert!(world.most <= PROBES, "{}", world.most);
    let down: Vec<SocketAddr> = world.events.iter().map(|event| event.backend).collect();
    let dead = backends.iter().filter(|backend| (world.silent)(backend.ip())).count();
    assert_eq!(down.len(), dead);
    assert!(down.iter().all(|backend| (world.silent)(backend.ip())));
    // When none answers, all have their turn, later.
    world.silent = |_| true;
    world.run(30);
    assert_eq!((world.events.len(), world.most), (2000, PROBES));
}
