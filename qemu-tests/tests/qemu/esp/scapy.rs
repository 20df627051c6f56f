//! scapy's ESP as a peer: `peers/esp.py` in a process of its own, a line each way for each packet.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, bail};
use lab::process;
use serde_json::{Value, json};

/// Debian's own Python, for which its packages are, whatever else is on PATH.
const PYTHON: &str = "/usr/bin/python3";

/// The process.
pub struct Scapy {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Scapy {
    pub fn start() -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/esp.py");
        let mut command = process::tethered(PYTHON);
        let command = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start Python")?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let (requests, answers) = (requests.context("no input")?, answers.context("no output")?);
        let mut scapy = Self { child, requests, answers: BufReader::new(answers) };
        let _ = scapy.ask(&json!({"do": "answer"})).context("does not start; is python3-scapy installed?")?;
        Ok(scapy)
    }

    fn ask(&mut self, request: &Value) -> Result<Value> {
        self.requests.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        let _ = self.answers.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("scapy says `{line}`"))?;
        match answer["error"].as_str() {
            None => Ok(answer),
            Some(error) => bail!("scapy: {error} about {request}"),
        }
    }

    /// The outer packets of an inner one; `change` has what is to be wrong with them.
    pub fn seal(&mut self, sa: &Value, packet: &[u8], sequence: u64, change: &Value) -> Result<Vec<Vec<u8>>> {
        let mut request = json!({"do": "seal", "sa": sa, "packet": hex(packet), "sequence": sequence});
        for (name, value) in change.as_object().into_iter().flatten() {
            request[name] = value.clone();
        }
        let answer = self.ask(&request)?;
        answer["packets"].as_array().into_iter().flatten().map(bytes).collect()
    }

    /// The inner packet of an outer one, whose sequence number has this high half.
    pub fn open(&mut self, sa: &Value, packet: &[u8], high: u32) -> Result<Vec<u8>> {
        bytes(&self.ask(&json!({"do": "open", "sa": sa, "packet": hex(packet), "high": high}))?["packet"])
    }
}

impl Drop for Scapy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(value: &Value) -> Result<Vec<u8>> {
    let text = value.as_str().context("scapy gives no packet")?;
    let byte = |at| u8::from_str_radix(text.get(at..at + 2).unwrap_or_default(), 16);
    (0..text.len()).step_by(2).map(|at| byte(at).context("scapy gives no hexadecimal")).collect()
}
