//! A whole node in memory: one worker, router and control, two ports whose wires are in the target's hand.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use buffer::{BufferPool, MemoryControl, MemoryPort, MemoryWire, PortControl, PortQueue};
use config::LogLevel;
use control::{Boot, Control, Memory, Parts, Platform, Stream};
use dataplane::{DropReason, InterfaceId, Shared, Sleepless, Worker};
use fib::{Fib4Writer, Fib6Writer};

/// The API token.
pub const TOKEN: &str = "token-of-the-fuzzed-node";
/// MAC addresses of the ports.
pub const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0x10], [2, 0, 0, 0, 0, 0x11]];

const BUFFERS: usize = 8192;
/// More turns than anything takes that ends.
const MAX_TURNS: usize = 200;

const CONFIG: &[u8] = br#"{
    "hostname": "fuzz",
    "interfaces": [
        {"name": "eth0", "addresses": ["10.0.0.1/24", "2001:db8:1::1/64"], "router_advertisements": {}},
        {"name": "eth1", "dhcp4": true, "addresses": ["2001:db8:2::1/64"]},
        {"name": "eth1.100", "parent": "eth1", "vlan": 100, "addresses": ["10.0.100.1/24"]}],
    "routes": [{"prefix": "10.1.0.0/16", "via": [{"address": "10.0.0.9"}, {"address": "10.0.100.9"}]},
        {"prefix": "2001:db8:1001::/48", "via": [{"address": "2001:db8:2::9"}]}],
    "neighbours": [{"interface": "eth0", "address": "10.0.0.9", "mac": "02:00:00:00:01:01"},
        {"interface": "eth0", "address": "2001:db8:1::9", "mac": "02:00:00:00:01:01"}]}"#;

/// The node.
pub struct Rig {
    shared: std::sync::Arc<Shared>,
    worker: Worker,
    control: Control,
    wires: [MemoryWire; 2],
    now_ns: u64,
    peers: u32,
}

impl Rig {
    /// A node that has started.
    pub fn new() -> Rig {
        assert!(config::parse(CONFIG).is_ok(), "the node would start with none");
        static POOL: OnceLock<&'static BufferPool> = OnceLock::new();
        let pool = POOL.get_or_init(|| BufferPool::from_heap(BUFFERS));
        let (Ok(fib4), Ok(fib6)) = (Fib4Writer::new(), Fib6Writer::new()) else {
            panic!("empty tables are small")
        };
        let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), 1, [1, 2], Box::new(Sleepless));
        let [(port0, wire0), (port1, wire1)] = [MemoryPort::new(), MemoryPort::new()];
        let queues: Vec<(InterfaceId, Box<dyn PortQueue>)> =
            vec![(InterfaceId(0), Box::new(port0)), (InterfaceId(1), Box::new(port1))];
        let worker = Worker::new(shared.clone(), 0, queues, pool.cache());
        let boot = Boot { module: Some(CONFIG.into()), token: Some(TOKEN.into()), ..Boot::default() };
        let parts = Parts {
            platform: Box::new(Machine { random: 1 }),
            shared: shared.clone(),
            fib4,
            fib6,
            ports: vec![port(0), port(1)],
            cache: pool.cache(),
            boot,
        };
        let now_ns = 1_000_000_000;
        let control = Control::new(parts, now_ns);
        let mut rig = Rig { shared, worker, control, wires: [wire0, wire1], now_ns, peers: 0 };
        rig.run();
        rig
    }

    /// Lets time pass.
    pub fn wait(&mut self, ns: u64) {
        self.now_ns += ns;
        self.run();
    }

    /// Puts a frame on the wire of a port, where it waits for the next turn.
    pub fn send(&mut self, port: usize, frame: &[u8]) {
        assert!(self.wires[port].send(frame), "the wire is full");
    }

    /// Takes every frame that left by a port.
    pub fn sent(&self, port: usize) -> impl Iterator<Item = Vec<u8>> {
        std::iter::from_fn(move || self.wires[port].receive())
    }

    /// Opens a connection to the API, each from another address.
    pub fn connect(&mut self, stream: Box<dyn Stream>) {
        self.peers = self.peers.wrapping_add(1);
        self.control.adopt(stream, IpAddr::V4(Ipv4Addr::from(self.peers)), self.now_ns);
        self.run();
    }

    /// Turns of worker and control, until there is nothing to do at this time.
    pub fn run(&mut self) {
        let mut control_is_due = true;
        for _ in 0..MAX_TURNS {
            let is_idle = self.worker.poll(self.now_ns) == 0;
            if control_is_due || !is_idle {
                control_is_due = self.control.poll(self.now_ns) <= self.now_ns;
            }
            if is_idle && !control_is_due {
                break;
            }
        }
        for (reason, count) in self.shared.drop_counters() {
            assert!(count == 0 || reason != DropReason::NoBuffer, "buffers leak");
        }
    }
}

fn port(index: usize) -> Box<dyn PortControl> {
    Box::new(MemoryControl::new(format!("eth{index}"), MACS[index], 1500))
}

/// A machine without a store; what it calls random repeats.
struct Machine {
    random: u8,
}

impl Platform for Machine {
    fn version(&self) -> &str {
        "0.0.0"
    }

    fn random(&mut self, out: &mut [u8]) {
        for byte in out {
            self.random = self.random.wrapping_mul(5).wrapping_add(7);
            *byte = self.random;
        }
    }

    fn reboot(&mut self) {}

    fn last_crash(&self) -> Option<String> {
        Some("it crashed once".into())
    }

    fn log_since(&self, from: u64, each: &mut dyn FnMut(u64, &str) -> bool) {
        let _ = (from..self.log_next()).all(|number| each(number, "a line"));
    }

    fn log_next(&self) -> u64 {
        10
    }

    fn set_log_level(&mut self, _: LogLevel) {}

    fn memory(&self) -> Memory {
        // As much as makes no request fail for want of it, and little for flows: their tables are cleared.
        Memory { total_bytes: 1 << 30, free_bytes: 1 << 26, heap_used_bytes: 0 }
    }
}
