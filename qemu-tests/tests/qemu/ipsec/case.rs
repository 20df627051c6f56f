//! One arrangement of SAs, as the node is told of it and as Linux is.

use lab::gateway::{self, RIGHT};
use serde_json::{Value, json};

/// A cipher suite as both ends call it.
pub struct Suite {
    pub name: &'static str,
    /// `ip xfrm state` words; KEY and AUTH stand for the keys.
    linux: &'static str,
    key_bytes: usize,
    auth_bytes: usize,
}

const fn aead(name: &'static str, linux: &'static str, key_bytes: usize) -> Suite {
    Suite { name, linux, key_bytes, auth_bytes: 0 }
}

const fn cbc(name: &'static str, linux: &'static str, key_bytes: usize, auth_bytes: usize) -> Suite {
    Suite { name, linux, key_bytes, auth_bytes }
}

const GCM: &str = "aead rfc4106(gcm(aes)) KEY 128";
const CHACHA: &str = "aead rfc7539esp(chacha20,poly1305) KEY 128";
const SHA256: &str = "enc cbc(aes) KEY auth-trunc hmac(sha256) AUTH 128";
const SHA384: &str = "enc cbc(aes) KEY auth-trunc hmac(sha384) AUTH 192";
const SHA512: &str = "enc cbc(aes) KEY auth-trunc hmac(sha512) AUTH 256";

/// All that the node offers.
pub const SUITES: [Suite; 9] = [
    aead("aes128gcm16", GCM, 20),
    aead("aes256gcm16", GCM, 36),
    aead("chacha20poly1305", CHACHA, 36),
    cbc("aes128-sha256", SHA256, 16, 32),
    cbc("aes256-sha256", SHA256, 32, 32),
    cbc("aes128-sha384", SHA384, 16, 48),
    cbc("aes256-sha384", SHA384, 32, 48),
    cbc("aes128-sha512", SHA512, 16, 64),
    cbc("aes256-sha512", SHA512, 32, 64),
];

/// One arrangement of the tunnel.
#[derive(Clone, Copy)]
pub struct Case {
    pub suite: &'static Suite,
    pub esn: bool,
    pub outer6: bool,
    /// Transport mode, in place of tunnel mode.
    pub transport: bool,
    /// The guest's UDP port, if ESP is in UDP.
    pub port: Option<u16>,
    /// The last sequence number that both ends take for used, in both directions.
    pub start: u32,
    /// Makes keys and SPIs of its own.
    pub number: u32,
}

impl Case {
    /// Tunnel mode over IPv4, plain, with new SAs.
    pub fn plain(suite: usize, esn: bool, number: u32) -> Self {
        let suite = &SUITES[suite];
        Self { suite, esn, outer6: false, transport: false, port: None, start: 0, number }
    }

    pub fn name(&self) -> String {
        let Self { suite, esn, outer6, transport, port, .. } = self;
        let words =
            [(*esn, "ESN"), (*outer6, "over IPv6"), (*transport, "transport"), (port.is_some(), "in UDP")];
        let words: String = words.iter().filter(|(is, _)| *is).map(|(_, word)| format!(" {word}")).collect();
        format!("{}{words}", suite.name)
    }

    /// The node's end and the guest's.
    pub fn ends(&self) -> (String, String) {
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

    fn association(&self, out: bool) -> Value {
        let direction = if out { "out" } else { "in" };
        let mut association = json!({
            "name": direction, "tunnel": "ipsec0", "direction": direction, "spi": self.spi(out),
            "algorithm": self.suite.name, "key": self.key(out), "esn": self.esn,
        });
        if self.start > 0 {
            association["sequence_after"] = json!(self.start);
        }
        association
    }

    /// The node's configuration.
    pub fn config(&self) -> Value {
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
        let mut config = gateway::config();
        config["ipsec"] =
            json!({"tunnels": [tunnel], "associations": [self.association(false), self.association(true)]});
        if self.transport {
            let length = if self.outer6 { 128 } else { 32 };
            let [node, guest] = [&local, &remote].map(|address| format!("{address}/{length}"));
            let policy = |name: &str, source: &str, destination: &str| {
                json!({
                    "name": name, "direction": name, "action": "protect", "tunnel": "ipsec0", "source": source,
                    "destination": destination,
                })
            };
            config["ipsec"]["policies"] = json!([policy("out", &node, &guest), policy("in", &guest, &node)]);
            return config;
        }
        config["routes"] = json!([
            {"prefix": "10.9.0.0/16", "via": [{"interface": "ipsec0"}]},
            {"prefix": "2001:db8:9::/48", "via": [{"interface": "ipsec0"}]},
        ]);
        config["ipsec"]["must_encrypt"] = json!(["10.9.0.0/16", "2001:db8:9::/48"]);
        config
    }

    /// What the guest has `ip` do, a line each, from the start.
    pub fn xfrm(&self) -> String {
        let (node, guest) = self.ends();
        let mut lines = format!("xfrm state flush\nxfrm policy flush\n{}", self.states("add"));
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
            lines += &format!(
                "xfrm policy add src {near} dst {far} dir out priority 10 tmpl src {guest} dst {node} proto esp reqid 1 mode {mode}\n\
                 xfrm policy add src {far} dst {near} dir in priority 10 tmpl src {node} dst {guest} proto esp reqid 1 mode {mode}\n"
            );
        }
        if let Some(port) = self.port.filter(|_| self.transport) {
            // Linux asks its policies about the outer packet, too, before it decrypts.
            lines += &format!(
                "xfrm policy add src {node}/{host} dst {guest}/{host} proto 17 dport {port} dir in priority 1\n"
            );
        }
        if self.transport && self.outer6 {
            // Neighbours are solicited and advertised in the clear.
            for (kind, direction) in [(135, "in"), (136, "in"), (135, "out"), (136, "out")] {
                lines += &format!(
                    "xfrm policy add src ::/0 dst ::/0 proto 58 type {kind} dir {direction} priority 1\n"
                );
            }
        }
        lines
    }

    /// The lines that add the guest's states, or update them.
    pub fn states(&self, verb: &str) -> String {
        let (node, guest) = self.ends();
        let mut lines = String::new();
        for out in [true, false] {
            // What goes out of the node comes in to the guest.
            let (source, destination) = if out { (&node, &guest) } else { (&guest, &node) };
            let key = self.key(out);
            let (key, auth) = key.split_at(self.suite.key_bytes * 2);
            let words = self.suite.linux.replace("KEY", &format!("0x{key}"));
            let words = words.replace("AUTH", &format!("0x{auth}"));
            let esn = if self.esn { "replay-window 128 flag esn" } else { "replay-window 32" };
            let start = match self.start {
                0 => String::new(),
                start => format!(" replay-seq {start} replay-oseq {start}"),
            };
            // States whose selectors are of one family alone would refuse the other.
            let mode = if self.transport { "transport" } else { "tunnel flag af-unspec" };
            let encapsulation = match self.port {
                Some(port) if out => format!(" encap espinudp 4500 {port} 0.0.0.0"),
                Some(port) => format!(" encap espinudp {port} 4500 0.0.0.0"),
                None => String::new(),
            };
            lines += &format!(
                "xfrm state {verb} src {source} dst {destination} proto esp spi {} reqid 1 mode {mode} {esn}{start} {words}{encapsulation}\n",
                self.spi(out),
            );
        }
        lines
    }
}
