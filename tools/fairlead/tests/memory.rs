//! `fairlead run` with ports in memory only, which need no rights.

use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const TOKEN: &str = "token-of-the-memory-test";
const CONFIG: &str = r#"{
    "api": { "token": "token-of-the-memory-test" },
    "interfaces": [
        { "name": "eth0", "addresses": ["10.1.0.1/24"] },
        { "name": "eth1", "addresses": ["10.2.0.1/24"] },
        { "name": "eth2", "addresses": ["10.3.0.1/24"] }
    ]
}"#;

/// The longest that the node may take to come up and announce itself.
const LIMIT: Duration = Duration::from_secs(30);

/// A node, ended when the value goes.
struct Node {
    process: Child,
    address: String,
    config: PathBuf,
}

impl Node {
    fn start(extra: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fairlead-memory-{}-{number}.json", std::process::id());
        let config = std::env::temp_dir().join(name);
        std::fs::write(&config, CONFIG).expect("the configuration can be written");
        // The system chooses a free port; nobody else takes it in the moment between.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("localhost has a free port").to_string();
        let mut process = lab::process::tethered(env!("CARGO_BIN_EXE_fairlead"));
        let ports = ["--port", "memory:a", "--port", "memory:a", "--port", "memory:loose"];
        let _ = process.arg("run").arg("--config").arg(&config).args(["--api", &address]).args(ports);
        let process = process.args(extra).stdin(Stdio::null()).stderr(Stdio::piped());
        Self { process: process.spawn().expect("it starts"), address, config }
    }

    /// What the command shows of it, once it answers.
    fn get(&self, what: &str) -> Option<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead"));
        let words = ["--node", &self.address, "--token", TOKEN, "-o", "json"];
        let output = command.args(words).args(what.split(' ')).output().expect("it starts");
        serde_json::from_slice(&output.stdout).ok()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}

#[test]
fn what_one_end_sends_the_other_receives() {
    let node = Node::start(&[]);
    let began = Instant::now();
    let outcome = loop {
        let last = received(&node);
        match last {
            // A node announces its addresses; the loose end hears nobody.
            Some([a, b, 0]) if a > 0 && b > 0 => break Ok(()),
            _ if began.elapsed() > LIMIT => break Err(last),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    assert_eq!(outcome, Ok(()));
}

/// A trace tells interfaces by the names that they have. What is traced is the question for a next hop's address.
#[test]
fn a_trace_names_interfaces() {
    let node = Node::start(&[]);
    let began = Instant::now();
    while node.get("status").is_none() {
        assert!(began.elapsed() < LIMIT, "no answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    for host in 10.. {
        let steps = std::thread::scope(|scope| {
            let trace = scope.spawn(|| node.get("trace -N 2 -t 2"));
            // The trace must be armed before the question is sent; another host is asked for if it was not.
            std::thread::sleep(Duration::from_millis(300));
            let _ = node.get(&format!("routes add 198.51.100.0/24 --via 10.1.0.{host}"));
            trace.join().expect("it ends").map_or(String::new(), |answer| answer.to_string())
        });
        if steps.contains(", in eth1") {
            assert!(!steps.contains(", in 1,"), "{steps}");
            return;
        }
        assert!(began.elapsed() < LIMIT, "{steps}");
    }
}

/// `--crypto` forces the implementation of AES-GCM and bounds the others; one that this CPU lacks is refused.
#[test]
fn ciphers_are_forced_or_refused() {
    for kernel in crypto::gcm::Kernel::ALL {
        let mut node = Node::start(&["--crypto", kernel.name()]);
        let Some(gcm) = crypto::gcm::Gcm::with_kernel(kernel) else {
            let status = node.process.wait().expect("it ends");
            let mut text = String::new();
            let stderr = node.process.stderr.as_mut().expect("it is piped");
            let _ = stderr.read_to_string(&mut text).expect("it is text");
            let refused = format!("this CPU does not run --crypto {kernel}");
            assert!(!status.success() && text.contains(&refused), "{status}: {text}");
            continue;
        };
        let suite = crypto::Suite::beside(gcm);
        let began = Instant::now();
        let status = loop {
            match node.get("status") {
                Some(status) if status["ciphers"].is_object() => break status,
                last => assert!(began.elapsed() < LIMIT, "{kernel}: {last:?}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(status["crypto"], kernel.name());
        let expected = json!({
            "aes-gcm": kernel.name(), "chacha20-poly1305": suite.chacha.kernel().name(),
            "aes-cbc-hmac-sha2": suite.cbc_hmac.kernel().name(),
        });
        assert_eq!(status["ciphers"], expected);
    }
}

/// Packets that the three ports received, once the node tells.
fn received(node: &Node) -> Option<[u64; 3]> {
    let interfaces = node.get("get interfaces")?;
    let list = interfaces["interfaces"].as_array().or_else(|| interfaces.as_array())?;
    let counts: Vec<u64> =
        list.iter().filter_map(|interface| interface["counters"]["rx_packets"].as_u64()).collect();
    counts.try_into().ok()
}
