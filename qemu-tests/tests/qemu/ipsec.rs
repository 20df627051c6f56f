//! IPsec between the node and a Linux kernel: `ip xfrm` at one end, the API at the other.
//!
//! ```text
//!   host            node (eth0: management)            guest: Debian's kernel
//!   10.1.0.2 ---- eth1 10.1.0.1   eth2 10.2.0.1 ---- 10.2.0.2, behind it 10.9.0.1 and 2001:db8:9::1
//! ```
//!
//! One boot serves many cases: each puts a configuration in force and writes the guest's states and policies anew.

mod modes;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::gateway::{self, LEFT, RIGHT};
use lab::guest::{Guest, System};
use lab::{Api, Cable, Netns, Nic, Vm};
use qemu_tests::Experiment;
use serde_json::{Value, json};

pub use modes::{policies_with_linux, transport_and_nat_t_with_linux};

const LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a bulk transfer.
const BULK_BYTES: usize = 400_000;
/// The guest's networks behind the tunnel.
const BEHIND4: &str = "10.9.0.1";
const BEHIND6: &str = "2001:db8:9::1";

/// A cipher suite as both ends call it.
struct Suite {
    name: &'static str,
    /// `ip xfrm state` words; KEY and AUTH stand for the keys.
    linux: &'static str,
    key_bytes: usize,
    auth_bytes: usize,
}

const SUITES: &[Suite] = &[
    Suite { name: "aes128gcm16", linux: "aead rfc4106(gcm(aes)) KEY 128", key_bytes: 20, auth_bytes: 0 },
    Suite { name: "aes256gcm16", linux: "aead rfc4106(gcm(aes)) KEY 128", key_bytes: 36, auth_bytes: 0 },
    Suite {
        name: "chacha20poly1305",
        linux: "aead rfc7539esp(chacha20,poly1305) KEY 128",
        key_bytes: 36,
        auth_bytes: 0,
    },
    Suite {
        name: "aes128-sha256",
        linux: "enc cbc(aes) KEY auth-trunc hmac(sha256) AUTH 128",
        key_bytes: 16,
        auth_bytes: 32,
    },
    Suite {
        name: "aes256-sha256",
        linux: "enc cbc(aes) KEY auth-trunc hmac(sha256) AUTH 128",
        key_bytes: 32,
        auth_bytes: 32,
    },
    Suite {
        name: "aes256-sha384",
        linux: "enc cbc(aes) KEY auth-trunc hmac(sha384) AUTH 192",
        key_bytes: 32,
        auth_bytes: 48,
    },
    Suite {
        name: "aes256-sha512",
        linux: "enc cbc(aes) KEY auth-trunc hmac(sha512) AUTH 256",
        key_bytes: 32,
        auth_bytes: 64,
    },
];

/// One arrangement of the tunnel.
#[derive(Clone, Copy)]
struct Case {
    suite: &'static Suite,
    esn: bool,
    outer6: bool,
    /// Transport mode, in place of tunnel mode.
    transport: bool,
    /// The guest's UDP port, if ESP is in UDP.
    port: Option<u16>,
    /// Makes keys and SPIs of its own.
    number: u32,
}

impl Case {
    fn name(&self) -> String {
        let Self { suite, esn, outer6, transport, port, .. } = self;
        let words =
            [(*esn, "ESN"), (*outer6, "over IPv6"), (*transport, "transport"), (port.is_some(), "in UDP")];
        let words: String = words.iter().filter(|(is, _)| *is).map(|(_, word)| format!(" {word}")).collect();
        format!("{}{words}", suite.name)
    }

    fn ends(&self) -> (String, String) {
        if self.outer6 {
            (RIGHT.node6.to_string(), RIGHT.host6.to_string())
        } else {
            (RIGHT.node4.to_string(), RIGHT.host4.to_string())
        }
    }

    fn spi(&self, out: bool) -> u32 {
        0x1000 + self.number * 2 + u32::from(out)
    }

    fn key(&self, out: bool) -> String {
        let bytes = self.suite.key_bytes + self.suite.auth_bytes;
        (0..bytes as u32)
            .map(|at| format!("{:02x}", (at * 7 + self.number * 13 + u32::from(out) * 101) & 0xff))
            .collect()
    }

    /// The node's configuration.
    fn config(&self) -> Value {
        let (local, remote) = self.ends();
        let mut tunnel = json!({"name": "ipsec0", "local": local, "remote": remote});
        if self.transport {
            tunnel["mode"] = json!("transport");
            tunnel["route_based"] = json!(false);
        } else {
            tunnel["addresses"] = json!(["10.255.0.1/30", "2001:db8:ff::1/64"]);
        }
        if self.port.is_some() {
            tunnel["nat_traversal"] = json!({});
        }
        let association = |name: &str, out: bool| {
            json!({
                "name": name, "tunnel": "ipsec0", "direction": if out { "out" } else { "in" }, "spi": self.spi(out),
                "algorithm": self.suite.name, "key": self.key(out), "esn": self.esn,
            })
        };
        let mut config = gateway::config();
        if self.transport {
            let length = if self.outer6 { 128 } else { 32 };
            let [node, guest] = [&local, &remote].map(|address| format!("{address}/{length}"));
            let policy = |name: &str, source: &str, destination: &str| {
                json!({
                    "name": name, "direction": name, "action": "protect", "tunnel": "ipsec0", "source": source,
                    "destination": destination,
                })
            };
            config["ipsec"] = json!({
                "tunnels": [tunnel], "associations": [association("in", false), association("out", true)],
                "policies": [policy("out", &node, &guest), policy("in", &guest, &node)],
            });
            return config;
        }
        config["routes"] = json!([
            {"prefix": "10.9.0.0/16", "via": [{"interface": "ipsec0"}]},
            {"prefix": "2001:db8:9::/48", "via": [{"interface": "ipsec0"}]},
        ]);
        config["ipsec"] = json!({
            "tunnels": [tunnel],
            "associations": [association("in", false), association("out", true)],
            "must_encrypt": ["10.9.0.0/16", "2001:db8:9::/48"],
        });
        config
    }

    /// The guest's `ip xfrm` commands.
    fn xfrm(&self) -> String {
        let (node, guest) = self.ends();
        let mut script = format!("ip xfrm state flush\nip xfrm policy flush\n{}", self.states("add"));
        let mode = if self.transport { "transport" } else { "tunnel" };
        let host = if self.outer6 { 128 } else { 32 };
        let networks = if self.transport {
            vec![(format!("{guest}/{host}"), format!("{node}/{host}"))]
        } else {
            vec![
                ("10.9.0.0/16".to_owned(), "0.0.0.0/0".to_owned()),
                ("2001:db8:9::/48".to_owned(), "::/0".to_owned()),
            ]
        };
        for (near, far) in networks {
            script += &format!(
                "ip xfrm policy add src {near} dst {far} dir out priority 10 tmpl src {guest} dst {node} proto esp reqid 1 mode {mode} || exit 1\n\
                 ip xfrm policy add src {far} dst {near} dir in priority 10 tmpl src {node} dst {guest} proto esp reqid 1 mode {mode} || exit 1\n"
            );
        }
        if let Some(port) = self.port.filter(|_| self.transport) {
            // Linux asks its policies about the outer packet, too, before it decrypts.
            script += &format!(
                "ip xfrm policy add src {node}/{host} dst {guest}/{host} proto 17 dport {port} dir in priority 1 || exit 1\n"
            );
        }
        script
    }

    /// The commands that add the guest's states, or update them.
    fn states(&self, verb: &str) -> String {
        let (node, guest) = self.ends();
        let mut script = String::new();
        for out in [true, false] {
            // What goes out of the node comes in to the guest.
            let (source, destination) = if out { (&node, &guest) } else { (&guest, &node) };
            let key = self.key(out);
            let (key, auth) = key.split_at(self.suite.key_bytes * 2);
            let word = |word: &str| match word {
                "KEY" => format!("0x{key}"),
                "AUTH" => format!("0x{auth}"),
                word => format!("'{word}'"),
            };
            let words: Vec<String> = self.suite.linux.split(' ').map(word).collect();
            let esn = if self.esn { "replay-window 128 flag esn" } else { "replay-window 32" };
            // States whose selectors are of one family alone would refuse the other.
            let mode = if self.transport { "transport" } else { "tunnel flag af-unspec" };
            let encapsulation = match self.port {
                Some(port) if out => format!(" encap espinudp 4500 {port} 0.0.0.0"),
                Some(port) => format!(" encap espinudp {port} 4500 0.0.0.0"),
                None => String::new(),
            };
            script += &format!(
                "ip xfrm state {verb} src {source} dst {destination} proto esp spi {} reqid 1 mode {mode} {esn} {}{encapsulation} || exit 1\n",
                self.spi(out),
                words.join(" "),
            );
        }
        script
    }
}

/// The machines.
struct Site {
    api: Api,
    host: Netns,
    guest: Guest,
    busybox: std::path::PathBuf,
    _node: Vm,
    _cable: Cable,
}

impl Site {
    fn new(experiment: &Experiment) -> Result<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let cable = Cable::new()?;
        let [node_end, guest_end] = cable.ends();
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let tap = format!("fli{}x{count}", std::process::id());
        let host = Netns::new("left")?;
        let machine = experiment.machine("gateway").config(gateway::config());
        let machine = machine.nic(Nic::user(0).without_capture()).nic(Nic::tap(&tap)).nic(node_end);
        let node = experiment.start(machine)?;
        host.adopt(&tap, &[&format!("{}/24", LEFT.host4), &format!("{}/64", LEFT.host6)])?;
        let _ = host.ip(&["route", "add", "default", "via", &LEFT.node4.to_string()])?;
        let _ = host.ip(&["-6", "route", "add", "default", "via", &LEFT.node6.to_string()])?;
        let system: System = experiment.guest_system()?;
        let machine = experiment.bare_machine("guest").nic(guest_end.option("mac=52:54:00:fa:1f:02"));
        let mut guest = Guest::start(&system, machine)?;
        let _ = guest.sh(&format!(
            "ip link set eth0 up\nip addr add {}/24 dev eth0\nip -6 addr add {}/64 dev eth0 nodad\n\
             ip link add behind type dummy\nip link set behind up\nip addr add {BEHIND4}/32 dev behind\n\
             ip -6 addr add {BEHIND6}/128 dev behind nodad\n\
             ip route add {}/24 via {} src {BEHIND4}\nip -6 route add 2001:db8:1::/64 via {} src {BEHIND6}\n\
             dd if=/dev/urandom of=/tmp/bulk bs={BULK_BYTES} count=1 2>/dev/null",
            RIGHT.host4, RIGHT.host6, "10.1.0.0", RIGHT.node4, RIGHT.node6
        ))?;
        let api = node.api(gateway::TOKEN)?;
        Ok(Self { api, host, guest, busybox: system.busybox().to_owned(), _node: node, _cable: cable })
    }

    fn arrange(&mut self, case: &Case) -> Result<()> {
        let _ = self.guest.sh(&case.xfrm())?;
        let _ = self.api.put("/v1/config", &case.config())?.accepted()?;
        Ok(())
    }

    fn ping(&self, destination: &str, size: u32) -> Result<()> {
        let size = size.to_string();
        let words = ["ping", "-c3", "-i0.1", "-W5", "-s", &size, destination];
        let report = self.host.run(&words, LIMIT)?;
        ensure!(report.stdout.contains(" 0% packet loss"), "{}{}", report.stdout, report.stderr);
        Ok(())
    }

    /// The counters of an association.
    fn association(&self, name: &str) -> Result<Value> {
        let all = self.api.json("/v1/ipsec/associations")?;
        let all = all["associations"].as_array().context("no associations")?;
        all.iter()
            .find(|one| one["name"] == name)
            .cloned()
            .with_context(|| format!("no association {name}: {all:?}"))
    }

    /// A file from the guest to the host and back over TCP: what arrives is what was sent.
    fn bulk(&mut self, destination: &str) -> Result<()> {
        let sum = self.guest.sh("sha256sum < /tmp/bulk")?;
        let _ = self.guest.sh("nc -l -p 7001 < /tmp/bulk >/dev/null 2>&1 & sleep 60 | nc -l -p 7002 > /tmp/back 2>/dev/null & sleep 1")?;
        let file = tempfile()?;
        // Whose standard input ends, ends the connection: the end that receives gets one that does not.
        let busybox = self.busybox.display();
        let fetch = format!(
            "mkfifo {0}.in && exec 3<>{0}.in && rm {0}.in && {busybox} nc {destination} 7001 <&3 > {0}",
            file.display()
        );
        let _ = self.host.run(&["sh", "-c", &fetch], LIMIT)?.succeeded()?;
        let got = std::process::Command::new("sha256sum")
            .stdin(std::fs::File::open(&file)?)
            .stdout(Stdio::piped())
            .output()?;
        ensure!(
            String::from_utf8_lossy(&got.stdout) == sum,
            "what came from {destination} is not what was sent"
        );
        let send = format!("{busybox} nc {destination} 7002 < {} >/dev/null", file.display());
        let _ = self.host.run(&["timeout", "20", "sh", "-c", &send], LIMIT)?;
        let _ = self
            .guest
            .sh_until(&format!("[ \"$(sha256sum < /tmp/back)\" = '{}' ]", sum.trim()), LIMIT)
            .with_context(|| format!("what was sent to {destination} did not arrive"))?;
        std::fs::remove_file(file)?;
        Ok(())
    }
}

fn tempfile() -> Result<std::path::PathBuf> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Ok(std::env::temp_dir().join(format!("fairlead-bulk-{}-{count}", std::process::id())))
}

/// Tunnel mode with every suite, with and without ESN, over both families: echo of both families, TCP both ways.
pub fn tunnels_with_linux(experiment: &Experiment) -> Result<()> {
    let mut site = Site::new(experiment)?;
    let mut cases = Vec::new();
    for (place, suite) in SUITES.iter().enumerate() {
        let plain = [(false, false), (true, false)];
        // The outer headers have nothing to do with the suite.
        let outer = [(true, true)];
        let outer = outer.into_iter().filter(|_| place < 2);
        for (esn, outer6) in plain.into_iter().chain(outer) {
            let number = cases.len() as u32 + 1;
            cases.push(Case { suite, esn, outer6, transport: false, port: None, number });
        }
    }
    for case in &cases {
        check(&mut site, case).with_context(|| format!("case {}", case.name()))?;
    }
    experiment.measured(format!("{} arrangements pass traffic", cases.len()));
    Ok(())
}

fn check(site: &mut Site, case: &Case) -> Result<()> {
    modes::encapsulate(site, case.port)?;
    site.arrange(case)?;
    for destination in [BEHIND4, BEHIND6] {
        let done = site.ping(destination, 56);
        if done.is_err() {
            let state = site
                .guest
                .sh("ip -s xfrm state; cat /proc/net/xfrm_stat; ip route get 10.1.0.2 from 10.9.0.1")?;
            let drops = site.api.get("/v1/drops")?.body;
            let sas = site.api.get("/v1/ipsec/associations")?.body;
            return done.with_context(|| format!("{state}\n{drops}\n{sas}"));
        }
        // Larger than the outer path takes: the inner packet is cut, or the sender told.
        site.ping(destination, 1200)?;
    }
    let (sent, received) = (site.association("out")?, site.association("in")?);
    ensure!(
        sent["packets"].as_u64() >= Some(12) && received["packets"].as_u64() >= Some(12),
        "{sent} {received}"
    );
    ensure!(received["errors"] == json!({}), "{received}");
    let verified = site.api.json("/v1/ipsec/verify?prefix=10.9.0.0/16")?;
    ensure!(verified["encrypted"] == true, "{verified}");
    site.bulk(BEHIND4)?;
    Ok(())
}
