//! `fairlead run` with ports in memory only, which need no rights.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

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

#[test]
fn what_one_end_sends_the_other_receives() {
    let config = std::env::temp_dir().join(format!("fairlead-memory-{}.json", std::process::id()));
    std::fs::write(&config, CONFIG).expect("the configuration can be written");
    // The system chooses a free port; nobody else takes it in the moment between.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = free.expect("localhost has a free port").to_string();
    let mut node = lab::process::tethered(env!("CARGO_BIN_EXE_fairlead"));
    let ports = ["--port", "memory:a", "--port", "memory:a", "--port", "memory:loose"];
    let _ = node.arg("run").arg("--config").arg(&config).args(["--api", &address]).args(ports);
    let mut node = node.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let began = Instant::now();
    let outcome = loop {
        let last = received(&address);
        match last {
            // A node announces its addresses; the loose end hears nobody.
            Some([a, b, 0]) if a > 0 && b > 0 => break Ok(()),
            _ if began.elapsed() > LIMIT => break Err(last),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    let _ = node.kill();
    let _ = node.wait();
    let _ = std::fs::remove_file(&config);
    assert_eq!(outcome, Ok(()));
}

/// Packets that the three ports received, once the node tells.
fn received(address: &str) -> Option<[u64; 3]> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead"));
    let words = ["--node", address, "--token", TOKEN, "-o", "json", "get", "interfaces"];
    let output = command.args(words).output().expect("it starts");
    let interfaces: Value = serde_json::from_slice(&output.stdout).ok()?;
    let list = interfaces["interfaces"].as_array().or_else(|| interfaces.as_array())?;
    let counts: Vec<u64> =
        list.iter().filter_map(|interface| interface["counters"]["rx_packets"].as_u64()).collect();
    counts.try_into().ok()
}
