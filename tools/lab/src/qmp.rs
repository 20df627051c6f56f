//! QEMU's control channel: JSON lines over a Unix socket (QEMU Machine Protocol).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer one command.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to the socket at `path`, which QEMU may still be about to make, and leaves negotiation mode.
    /// `alive` is asked between tries whether waiting still makes sense.
    pub(crate) fn connect(path: &Path, mut alive: impl FnMut() -> Result<()>) -> Result<Self> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("QEMU opens no QMP socket");
                }
                Err(_) => alive()?,
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        let greeting = qmp.read()?;
        if greeting.get("QMP").is_none() {
            bail!("not a QMP greeting: {greeting}");
        }
        let _ = qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and returns what it returned. Events that arrive meanwhile are passed over.
    ///
    /// # Errors
    /// QEMU refuses the command, does not answer in time, or has ended.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes()).with_context(|| format!("QMP {command}"))?;
        loop {
            let mut message = self.read().with_context(|| format!("QMP {command}"))?;
            if let Some(error) = message.get("error") {
                bail!("QMP {command}: {error}");
            }
            if let Some(returned) = message.get_mut("return") {
                return Ok(returned.take());
            }
        }
    }

    /// Runs one command of the human monitor, for what QMP has no command for.
    ///
    /// # Errors
    /// As [`Qmp::execute`]. What the monitor complains of is in its text.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        let returned = self.execute("human-monitor-command", &json!({ "command-line": command }))?;
        returned.as_str().map(str::to_owned).ok_or_else(|| anyhow!("`{command}` returned {returned}"))
    }

    /// Plugs (`up`) or pulls the cable of a network device or backend by its id (`nic0`, `net0`, ...).
    ///
    /// # Errors
    /// As [`Qmp::execute`]; there may be no such device.
    pub fn set_link(&mut self, id: &str, up: bool) -> Result<()> {
        self.execute("set_link", &json!({ "name": id, "up": up })).map(drop)
    }

    /// The reset button.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn system_reset(&mut self) -> Result<()> {
        self.execute("system_reset", &json!({})).map(drop)
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("QEMU closed its QMP socket");
        }
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}
