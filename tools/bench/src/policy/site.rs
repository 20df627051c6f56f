//! A node with one worker and no ports to speak of, asked over its API.

use anyhow::{Context, Result, bail, ensure};
use buffer::{BufferPool, MemoryControl};
use control::{Boot, Control, Memory, Parts, Platform, Stream};
use dataplane::{Shared, Sleepless, Worker};
use fib::{Fib4Writer, Fib6Writer};
use rustix::time::{ClockId, clock_gettime};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Turns after which a request is thought never to be answered.
const TURNS_AT_MOST: usize = 1_000_000;
const BUFFERS: usize = 1024;

/// What it took until a request was in force.
pub(super) struct Cost {
    pub time: Duration,
    pub longest: Turns,
}

/// The longest turn of each, in time of the processor: what others do on this machine is not in it.
#[derive(Default)]
pub(super) struct Turns {
    pub control: Duration,
    pub worker: Duration,
}

/// The node.
pub(super) struct Site {
    control: Control,
    worker: Worker,
    shared: Arc<Shared>,
    start: Instant,
}

impl Site {
    pub fn new() -> Result<Self> {
        let (fib4, fib6) = (Fib4Writer::new()?, Fib6Writer::new()?);
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, [1, 2], Box::new(Sleepless));
        let pool = BufferPool::from_heap(BUFFERS);
        let worker = Worker::new(shared.clone(), 0, Vec::new(), pool.cache());
        let module = br#"{"hostname": "bench", "cluster": {"flows_per_worker": 1024}}"#;
        let boot = Boot { module: Some((*module).into()), token: Some(TOKEN.into()), ..Boot::default() };
        let parts = Parts {
            platform: Box::new(Machine),
            shared: shared.clone(),
            fib4,
            fib6,
            ports: vec![Box::new(MemoryControl::new("eth0".into(), [2, 0, 0, 0, 0, 1], 1500))],
            cache: pool.cache(),
            boot,
        };
        Ok(Self { control: Control::new(parts, 0), worker, shared, start: Instant::now() })
    }

    /// Has objects applied, one a line, that make another policy than there was.
    pub fn apply(&mut self, body: &str) -> Result<Cost> {
        let request = format!(
            "POST /v1/resources HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\
             Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let wire = Rc::new(RefCell::new(Wire { to_node: request.into_bytes().into(), ..Wire::default() }));
        let before = self.updates();
        let mut longest = Turns::default();
        let start = Instant::now();
        self.control.adopt(Box::new(End(wire.clone())), IpAddr::from([192, 0, 2, 1]), self.now_ns());
        for _ in 0..TURNS_AT_MOST {
            self.turn(&mut longest);
            if wire.borrow().is_closed && self.updates() != before {
                // The worker takes what is published at its next poll.
                let _ = self.worker.poll(self.now_ns());
                return Ok(Cost { time: start.elapsed(), longest });
            }
            let wire = wire.borrow();
            let refused = wire.is_closed && !wire.from_node.starts_with(b"HTTP/1.1 200 ");
            ensure!(!refused, "{}", String::from_utf8_lossy(&wire.from_node));
        }
        let wire = wire.borrow();
        let answer = String::from_utf8_lossy(&wire.from_node);
        bail!(
            "{} bytes are not read, the policy is not in force, the answer is: {answer}",
            wire.to_node.len()
        )
    }

    /// How many policies there have been.
    fn updates(&self) -> u64 {
        let policy = self.shared.policy();
        policy.as_ref().as_ref().map_or(0, |policy| policy.classifier().updates())
    }

    fn turn(&mut self, longest: &mut Turns) {
        let now_ns = self.now_ns();
        let begin = cpu_time();
        let _ = self.worker.poll(now_ns);
        let between = cpu_time();
        let _ = self.control.poll(now_ns);
        let end = cpu_time();
        longest.worker = longest.worker.max(between - begin);
        longest.control = longest.control.max(end - between);
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

/// Memory that this process has.
pub(super) fn resident_bytes() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").context("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).context("no resident pages")?;
    Ok(pages.parse::<usize>()? * rustix::param::page_size())
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A connection to the API.
#[derive(Default)]
struct Wire {
    to_node: VecDeque<u8>,
    from_node: Vec<u8>,
    is_closed: bool,
}

struct End(Rc<RefCell<Wire>>);

impl Stream for End {
    fn read(&mut self, out: &mut [u8]) -> usize {
        std::io::Read::read(&mut self.0.borrow_mut().to_node, out).unwrap_or_default()
    }

    fn read_closed(&self) -> bool {
        self.0.borrow().is_closed
    }

    fn write(&mut self, data: &[u8]) -> usize {
        self.0.borrow_mut().from_node.extend_from_slice(data);
        data.len()
    }

    fn close(&mut self) {
        self.0.borrow_mut().is_closed = true;
    }
}

/// A machine with all the memory that is asked for.
struct Machine;

impl Platform for Machine {
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn random(&mut self, out: &mut [u8]) {
        out.fill(7);
    }

    fn reboot(&mut self) {}

    fn set_log_level(&mut self, _: config::LogLevel) {}

    fn memory(&self) -> Memory {
        Memory { total_bytes: 1 << 40, free_bytes: 1 << 39, heap_used_bytes: 0 }
    }
}
