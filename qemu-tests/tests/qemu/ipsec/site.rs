//! The machines, and traffic between them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::gateway::{self, LEFT, RIGHT};
use lab::guest::{Guest, System};
use lab::{Api, Cable, Netns, Nic, Vm};
use qemu_tests::Experiment;
use serde_json::Value;

use super::case::Case;

pub const LIMIT: Duration = Duration::from_secs(60);
/// The guest's networks behind the tunnel.
pub const BEHIND4: &str = "10.9.0.1";
pub const BEHIND6: &str = "2001:db8:9::1";
/// Lines of a bulk change of routes, 80 bytes each, which the guest has in a file.
pub const LINES: u32 = 2000;
/// Of a datagram that no path here takes in one piece.
const LONG_BYTES: u32 = 1600;
/// Debian's own Python, whatever else is on PATH.
pub const PYTHON: &str = "/usr/bin/python3";

/// Echo by TCP at port 7001 and by UDP at 7002, of both families. Perl comes without modules: numbers are Linux's.
const ECHO: &str = r#"
$SIG{CHLD} = "IGNORE";
sub at { pack("SnNa16N", 10, $_[0], 0, "", 0) }
socket(T, 10, 1, 6) && setsockopt(T, 1, 2, pack("i", 1)) && bind(T, at(7001)) && listen(T, 8) || die "tcp: $!";
socket(U, 10, 2, 17) && bind(U, at(7002)) || die "udp: $!";
open(F, ">", "/tmp/echo.ready"); close(F);
unless (fork) {
    while (1) { $who = recv(U, $_, 65535, 0); send(U, $_, 0, $who) if defined $who }
}
while (1) {
    accept(C, T) || next;
    unless (fork) {
        while (sysread(C, $_, 65536)) {
            for ($at = 0; $at < length; $at += $written) { $written = syswrite(C, $_, length($_) - $at, $at) || exit }
        }
        exit;
    }
    close(C);
}
"#;

/// The machines.
pub struct Site {
    pub api: Api,
    pub host: Netns,
    pub guest: Guest,
    pub busybox: PathBuf,
    /// The guest's port where its kernel takes ESP out of UDP.
    port: Option<u16>,
    _node: Vm,
    _cable: Cable,
}

impl Site {
    pub fn new(experiment: &Experiment) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let cable = Cable::new()?;
        let [node_end, guest_end] = cable.ends();
        let tap = format!("fli{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let host = Netns::new("left")?;
        let machine = experiment.machine("gateway").config(gateway::config());
        let machine = machine.nic(Nic::user(0).without_capture()).nic(Nic::tap(&tap)).nic(node_end);
        let node = experiment.start(machine)?;
        host.adopt(&tap, &[&format!("{}/24", LEFT.host4), &format!("{}/64", LEFT.host6)])?;
        let _ = host.ip(&["route", "add", "default", "via", &LEFT.node4.to_string()])?;
        let _ = host.ip(&["-6", "route", "add", "default", "via", &LEFT.node6.to_string()])?;
        let system: System = experiment.guest_system()?;
        let machine = experiment.bare_machine("guest").nic(guest_end.option("mac=52:54:00:fa:1f:02"));
        let guest = Guest::start(&system, machine)?;
        let api = node.api(gateway::TOKEN)?;
        let busybox = system.busybox().to_owned();
        let mut site = Self { api, host, guest, busybox, port: None, _node: node, _cable: cable };
        site.prepare_guest()?;
        Ok(site)
    }

    fn prepare_guest(&mut self) -> Result<()> {
        let _ = self.guest.sh(&format!(
            r#"ip link set eth0 up
            ip addr add {}/24 dev eth0
            ip -6 addr add {}/64 dev eth0 nodad
            ip link add behind type dummy
            ip link set behind up
            ip addr add {BEHIND4}/32 dev behind
            ip -6 addr add {BEHIND6}/128 dev behind nodad
            ip route add 10.1.0.0/24 via {} src {BEHIND4}
            ip -6 route add 2001:db8:1::/64 via {} src {BEHIND6}
            i=0; while [ $i -lt {LINES} ]; do
                echo "{{\"op\":\"add\",\"prefix\":\"172.16.$((i / 256)).$((i % 256))/32\",\"via\":[{{\"address\":\"10.1.0.2\"}}]}}"
                i=$((i + 1))
            done > /tmp/lines
            cat > /tmp/echo.pl <<'END'
{ECHO}
END
            perl /tmp/echo.pl > /tmp/echo.log 2>&1 &"#,
            RIGHT.host4, RIGHT.host6, RIGHT.node4, RIGHT.node6
        ))?;
        let _ = self.guest.sh_until("[ -e /tmp/echo.ready ] || { cat /tmp/echo.log >&2; false; }", LIMIT)?;
        Ok(())
    }

    /// Puts a case in force at both ends.
    pub fn arrange(&mut self, case: &Case) -> Result<()> {
        self.encapsulate(case.port)?;
        self.xfrm(&case.xfrm())?;
        let _ = self.api.put("/v1/config", &case.config())?.accepted()?;
        Ok(())
    }

    /// Has the guest's `ip` do these lines.
    pub fn xfrm(&mut self, lines: &str) -> Result<()> {
        self.guest.sh(&format!("ip -batch - <<'END'\n{lines}END\n")).map(drop)
    }

    /// Has the guest's kernel take ESP out of UDP at this port, and at no other: somebody must hold sockets that say so.
    pub fn encapsulate(&mut self, port: Option<u16>) -> Result<()> {
        if self.port == port {
            return Ok(());
        }
        let mut script = "[ -e /tmp/holder ] && kill $(cat /tmp/holder); rm -f /tmp/holder\n".to_owned();
        if let Some(port) = port {
            // UDP_ENCAP is option 100 of UDP (17), and ESP in UDP its value 2 (Linux, udp.h); IPV6_V6ONLY is 26 of 41.
            script += &format!(
                r#"perl -e 'socket(S, 2, 2, 17) && bind(S, pack("Sna4x8", 2, {port}, "")) && setsockopt(S, 17, 100, pack("i", 2)) || die $!;
                    socket(X, 10, 2, 17) && setsockopt(X, 41, 26, pack("i", 1)) && bind(X, pack("SnNa16N", 10, {port}, 0, "", 0))
                        && setsockopt(X, 17, 100, pack("i", 2)) || die $!;
                    open(F, ">", "/tmp/ready"); close(F); sleep 9999' >/tmp/holder.log 2>&1 &
                echo $! > /tmp/holder
                tries=0; until [ -e /tmp/ready ] || [ $tries = 100 ]; do usleep 50000; tries=$((tries + 1)); done
                rm /tmp/ready || {{ cat /tmp/holder.log >&2; exit 1; }}"#
            );
        }
        let _ = self.guest.sh(&script)?;
        self.port = port;
        Ok(())
    }

    /// Echo of both families to behind the tunnel.
    pub fn pings(&self) -> Result<()> {
        self.ping(&[(BEHIND4, 56), (BEHIND4, 1200), (BEHIND6, 56), (BEHIND6, 1200)])
    }

    /// Echo from the host, once each.
    pub fn ping(&self, what: &[(&str, u32)]) -> Result<()> {
        let words = what.iter().map(|(to, size)| format!("ping -c1 -W5 -s {size} {to}"));
        let script = words.collect::<Vec<_>>().join(" && ");
        self.host.run(&["sh", "-c", &script], LIMIT)?.succeeded().map(drop)
    }

    /// Datagrams, and so many bytes by TCP both ways, between the host and echo servers behind the tunnel: what comes back
    /// is what was sent.
    pub fn echo(&self, bytes: u32, addresses: &[&str]) -> Result<()> {
        self.echo_long(bytes, LONG_BYTES, addresses)
    }

    /// The same, with a datagram of so many bytes among the others.
    pub fn echo_long(&self, bytes: u32, long_bytes: u32, addresses: &[&str]) -> Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/traffic.py");
        let (script, bytes, long) = (script.display().to_string(), bytes.to_string(), long_bytes.to_string());
        let words = [&[PYTHON, &script, &bytes, &long], addresses].concat();
        self.host.run(&words, LIMIT)?.succeeded().map(drop)
    }

    /// The counters of an association.
    pub fn association(&self, name: &str) -> Result<Value> {
        let all = self.api.json("/v1/ipsec/associations")?;
        let all = all["associations"].as_array().context("no associations")?;
        all.iter()
            .find(|one| one["name"] == name)
            .cloned()
            .with_context(|| format!("no association {name}: {all:?}"))
    }

    /// Packets that were dropped for this reason.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        let drops = self.api.json("/v1/drops")?;
        let mut rows = drops["drops"].as_array().into_iter().flatten();
        Ok(rows.find(|row| row["reason"] == reason).and_then(|row| row["packets"].as_u64()).unwrap_or(0))
    }

    /// What both ends say of themselves, for a person who looks into a failure.
    pub fn evidence(&mut self) -> String {
        let states = self.guest.sh("ip -s xfrm state; ip xfrm policy; cat /proc/net/xfrm_stat; ip -s neigh");
        let [drops, sas] = ["/v1/drops", "/v1/ipsec/associations"].map(|path| self.api.json(path));
        format!("{}\n{drops:?}\n{sas:?}", states.unwrap_or_else(|error| format!("{error:#}")))
    }

    /// A request of the guest to the node's API, with a file of the guest as its body; the whole answer.
    pub fn ask(&mut self, node: &str, request: &str, body: Option<&str>) -> Result<String> {
        let head =
            format!("{request} HTTP/1.1\\r\\nHost: n\\r\\nAuthorization: Bearer {}\\r\\n", gateway::TOKEN);
        let body = body.map_or_else(String::new, |file| {
            format!(
                "printf 'Content-Type: application/x-ndjson\\r\\nContent-Length: %d\\r\\n' $(wc -c < {file}) >&3\n\
                 file={file}\n"
            )
        });
        // Standard input stays open until the node has closed the connection.
        self.guest.sh(&format!(
            "rm -f /tmp/in; mkfifo /tmp/in; file=/dev/null\n\
             timeout 60 nc {node} 80 < /tmp/in > /tmp/got &\n\
             exec 3> /tmp/in\n\
             printf '{head}' >&3\n\
             {body}\
             printf 'Connection: close\\r\\n\\r\\n' >&3; cat $file >&3\n\
             wait; exec 3>&-; cat /tmp/got"
        ))
    }
}

/// That both ends counted packets, and no errors.
pub fn ensure_clean(site: &Site) -> Result<()> {
    for name in ["in", "out"] {
        let one = site.association(name)?;
        ensure!(one["packets"].as_u64() > Some(0) && one["errors"] == serde_json::json!({}), "{one}");
    }
    Ok(())
}
