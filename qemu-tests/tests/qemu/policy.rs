//! Kubernetes' network policy between real hosts: on one gateway the decisions, conformance cases, load.

mod cases;
mod load;

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Api;
use lab::farm::{apply, wait_until};
use lab::gateway::{self, Hosts, LEFT, RIGHT};
use qemu_tests::Experiment;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
/// The ports that the server listens on.
const PORTS: [u16; 2] = [8080, 8081];

/// Answers each line of TCP, and each datagram, with itself.
const SERVER: &str = r#"
import socket, sys, threading
def lines(connection):
    for line in connection.makefile("rb"):
        connection.sendall(line)
def accept(port):
    listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        threading.Thread(target=lines, args=(listener.accept()[0],), daemon=True).start()
def datagrams(port):
    endpoint = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    endpoint.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    endpoint.bind(("", port))
    while True:
        data, peer = endpoint.recvfrom(2048)
        endpoint.sendto(data, peer)
for port in map(int, sys.argv[1:]):
    threading.Thread(target=accept, args=(port,), daemon=True).start()
    threading.Thread(target=datagrams, args=(port,), daemon=True).start()
threading.Event().wait()
"#;

/// Says something over TCP for each line of standard input, and whether it is answered. Arguments: address, port.
const CONNECTION: &str = r#"
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
print("open", flush=True)
connection.settimeout(2)
for line in sys.stdin:
    try:
        connection.sendall(line.encode())
        print("answered" if connection.recv(100) else "closed", flush=True)
    except OSError:
        print("silent", flush=True)
"#;

/// One exchange; ends well if it is answered. Arguments: tcp or udp, address, port.
const PROBE: &str = r#"
import socket, sys
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
s.settimeout(2)
s.connect((address, port))
s.sendall(b"?\n")
sys.exit(s.recv(100) != b"?\n")
"#;

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether an exchange is answered.
fn is_answered(hosts: &Hosts, kind: &str, to: IpAddr, port: u16) -> Result<bool> {
    let (to, port) = (to.to_string(), port.to_string());
    let words = ["python3", "-c", PROBE, kind, &to, &port];
    Ok(hosts.left.run(&words, LIMIT)?.status.success())
}

fn is_pinged(hosts: &Hosts, to: IpAddr) -> Result<bool> {
    Ok(hosts.left.run(&["ping", "-c1", "-W2", &to.to_string()], LIMIT)?.status.success())
}

/// The hosts as pods, and a policy that lets the one reach one TCP port of the other.
fn objects(port: u16) -> Value {
    let pod = |name: &str, addresses: [IpAddr; 2]| {
        let addresses: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip.to_string() })).collect();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
            "status": { "podIP": addresses[0]["ip"], "podIPs": addresses },
        })
    };
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        pod("front", LEFT.hosts()),
        pod("api", RIGHT.hosts()),
        {
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "api", "namespace": "shop" },
            "spec": {
                "podSelector": { "matchLabels": { "app": "api" } },
                "policyTypes": ["Ingress"],
                "ingress": [{
                    "from": [{ "podSelector": { "matchLabels": { "app": "front" } } }],
                    "ports": [{ "protocol": "TCP", "port": port }],
                }],
            },
        },
    ]})
}

/// Holds hosts to what the policy of [`objects`] says.
fn check(hosts: &Hosts, api: &Api, open: u16) -> Result<()> {
    apply(api, &objects(open))?;
    std::thread::scope(|scope| {
        // At once, as what is refused takes its time.
        let asked = RIGHT.hosts().map(|to| {
            let ports = PORTS.map(|port| {
                let ask = move |kind| scope.spawn(move || is_answered(hosts, kind, to, port));
                (port, ask("tcp"), ask("udp"))
            });
            (to, ports, scope.spawn(move || is_pinged(hosts, to)))
        });
        let told = |asked: ScopedJoinHandle<'_, Result<bool>>| asked.join().expect("no panic");
        for (to, ports, ping) in asked {
            for (port, tcp, udp) in ports {
                let (tcp, udp) = (told(tcp)?, told(udp)?);
                ensure!(tcp == (port == open), "TCP {to} {port} is answered: {tcp}");
                ensure!(!udp, "UDP {to} {port} is answered");
            }
            ensure!(!told(ping)?, "{to} answers a ping");
        }
        Ok(())
    })
}

/// How many packets policy has refused.
fn denied(api: &Api) -> Result<u64> {
    dropped(api, "policy-denied")
}

/// How many packets were dropped for a reason.
fn dropped(api: &Api, reason: &str) -> Result<u64> {
    let drops = api.json("/v1/drops")?;
    let reasons = drops["drops"].as_array().with_context(|| format!("no drops: {drops}"))?;
    let of_reason = reasons.iter().filter(|drop| drop["reason"] == reason);
    Ok(of_reason.filter_map(|drop| drop["packets"].as_u64()).sum())
}

/// The first flow that the node tells of, of those that a query asks for, that is as wanted.
fn told(api: &Api, query: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut found = None;
    wait_until("the flow is told", LIMIT, || {
        let page = api.json(&format!("/v1/flows?{query}"))?;
        found = page["flows"].as_array().and_then(|flows| flows.iter().find(|flow| is_it(flow)).cloned());
        Ok(found.is_some())
    })?;
    found.context("no flow")
}

pub fn decides_between_hosts(experiment: &Experiment) -> Result<()> {
    let mut config = gateway::config();
    config["cluster"] = json!({ "flows_per_worker": load::FLOWS, "tcp_window": "strict" });
    let (vm, hosts) = experiment.gateway_between_hosts(|machine| machine.config(config), |nic| nic)?;
    let api = vm.api(gateway::TOKEN)?;
    let mut server = hosts.right.command("python3");
    let _server = Running(server.args(["-c", SERVER]).args(PORTS.map(|port| port.to_string())).spawn()?);
    wait_until("the server answers", LIMIT, || is_answered(&hosts, "tcp", RIGHT.host6.into(), PORTS[1]))?;
    for to in RIGHT.hosts() {
        for port in PORTS {
            ensure!(
                is_answered(&hosts, "tcp", to, port)? && is_answered(&hosts, "udp", to, port)?,
                "no policy"
            );
        }
        ensure!(is_pinged(&hosts, to)?, "no policy, and {to} answers no ping");
    }

    // From the first question on flows are followed.
    let _ = api.json("/v1/flows")?;
    check(&hosts, &api, PORTS[0])?;
    ensure!(denied(&api)? > 0, "what was refused is not counted");
    let refused = told(&api, "verdict=deny&endpoint=shop/api&protocol=udp", |flow| flow["event"] == "deny")?;
    ensure!(
        refused["from"] == "shop/front" && refused["policy"] == "KubernetesNetworkPolicy shop/api",
        "{refused}"
    );
    let mut connection = hosts.left.command("python3");
    let connection = connection.args(["-c", CONNECTION, &RIGHT.host4.to_string(), &PORTS[0].to_string()]);
    let mut connection = Running(connection.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut lines = BufReader::new(connection.0.stdout.take().context("no output")?).lines();
    let mut input = connection.0.stdin.take().context("no input")?;
    let mut line = || lines.next().context("the connection's program is gone")?.context("not text");
    ensure!(line()? == "open", "a connection that is allowed is not made");
    writeln!(input, "?")?;
    ensure!(line()? == "answered", "a connection that is allowed is silent");

    // The other port in place of the first: the connection must end, too.
    check(&hosts, &api, PORTS[1])?;
    writeln!(input, "?")?;
    let said = line()?;
    ensure!(said == "silent", "a connection that is no longer allowed is {said}");
    let ended = told(&api, &format!("port={}&protocol=tcp", PORTS[0]), |flow| flow["end"] == "policy")?;
    let packets = |field: &str| ended[field].as_u64().unwrap_or_default();
    ensure!(packets("packets") >= 3 && packets("answer_packets") >= 2 && packets("bytes") > 120, "{ended}");
    // Allowed again, it goes on where it was.
    apply(&api, &objects(PORTS[0]))?;
    wait_until("the connection goes on", LIMIT, || {
        writeln!(input, "?")?;
        Ok(line()? == "answered")
    })?;
    experiment.measured(format!("{} packets refused", denied(&api)?));

    let mut all = objects(PORTS[0]);
    // Of whatever port and protocol.
    let _ = all["items"][2]["spec"]["ingress"][0].as_object_mut().and_then(|rule| rule.remove("ports"));
    apply(&api, &all)?;
    load::flood(experiment, &hosts, &api, || {
        writeln!(input, "?")?;
        Ok(line()? == "answered")
    })?;
    load::storm(experiment, &hosts, &api)?;
    let strange = dropped(&api, "tcp-out-of-window")?;
    ensure!(strange == 0, "{strange} segments between real hosts have no place in their windows");
    cases::agree(experiment, &hosts, &api)
}
