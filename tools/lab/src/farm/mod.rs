//! Backends of a service behind one or several appliances, and a client in front of them, all network namespaces.
//!
//! ```text
//!                     10.10.0.0/24   appliance 0   10.2.0.1
//!   client 10.1N.0.2 <                                       > bridge -- backends 10.2.0.101, .102, .103
//!   and 198.51.100.9  10.11.0.0/24   appliance 1   10.2.0.2
//! ```
//!
//! The client reaches the service's address, and backends the client's, by all appliances that [`Farm::route_via`] names, in
//! equal shares of connections. All have addresses of IPv6, too (`ipv6`). The two directions of a connection may pass different ones.

mod ipv6;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Api, Netns, Nic, VmBuilder, gateway};
use ipv6::{CLIENT6, backend_address6, near_backends};
pub use ipv6::{NODE_PORT, VIP6, near_client, objects6};

/// The service's address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The client's address, whichever way its packets go.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// Ports of the service: HTTP, and lines answered by the server's name.
pub const HTTP: u16 = 80;
/// See [`HTTP`].
pub const LINES: u16 = 7;
/// The same port of service and backends: whatever a test puts there.
pub const BULK: u16 = 5201;
/// Flows that an appliance's worker knows at most, of each family.
pub const FLOWS: u32 = 20_000;
/// Where backends listen for the first two.
const BACKEND_HTTP: u16 = 8080;
const BACKEND_LINES: u16 = 7000;

/// The file that they serve.
const FILE: &str = "page";

/// The longest that a step of setting up may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A client, backends and the wires between.
#[derive(Debug)]
pub struct Farm {
    /// The client.
    pub client: Netns,
    fabric: Netns,
    backends: Vec<Backend>,
    /// What HTTP servers give out.
    files: TempDir,
    /// Of each appliance, its devices towards client and backends.
    taps: Vec<[String; 2]>,
}

/// One backend.
#[derive(Debug)]
struct Backend {
    host: Netns,
    servers: Vec<Child>,
}

impl Backend {
    fn start(&mut self, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.host.command(program);
        let command =
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.servers.push(command.spawn().with_context(|| format!("cannot start {program}"))?);
        Ok(())
    }

    fn start_http(&mut self, directory: &str) -> Result<()> {
        let http = BACKEND_HTTP.to_string();
        let arguments = ["-m", "http.server", &http, "--protocol", "HTTP/1.1", "--directory", directory];
        self.start("python3", &arguments)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// The address of a backend.
pub fn backend_address(backend: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, 0, 101 + backend as u8)
}

impl Farm {
    /// A farm with so many backends, whose servers run, for so many appliances.
    ///
    /// # Errors
    /// A namespace, a device in it or a file to serve cannot be made, or a server cannot be started.
    pub fn new(appliances: usize, backends: usize) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let tap = |index: usize, end: &str| format!("f{}{end}{count}{index}", std::process::id());
        let taps = (0..appliances).map(|index| ["c", "b"].map(|end| tap(index, end))).collect();
        let files = tempfile::Builder::new().prefix("fairlead-farm-").tempdir()?;
        fs::write(files.path().join(FILE), [b'.'; 1000])?;
        let directory = files.path().to_str().context("a path that is no text")?.to_owned();
        let farm = Self {
            files,
            client: Netns::new("client")?,
            fabric: Netns::new("fabric")?,
            backends: (0..backends).map(|index| Self::backend(index, &directory)).collect::<Result<_>>()?,
            taps,
        };
        let _ = farm.fabric.ip(&["link", "add", "bridge", "type", "bridge"])?;
        farm.fabric.bring_up("bridge", &[])?;
        for (index, backend) in farm.backends.iter().enumerate() {
            let device = format!("b{index}");
            backend.host.join(&farm.fabric, &device)?;
            let addresses =
                [format!("{}/24", backend_address(index)), format!("{}/64", backend_address6(index))];
            backend.host.bring_up(&device, &addresses.each_ref().map(String::as_str))?;
            farm.attach(&device)?;
        }
        for host in farm.backends.iter().map(|backend| &backend.host).chain([&farm.client]) {
            // Both ways are used, and which one an answer takes is not the one that a question took.
            host.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
            host.sysctl("net/ipv4/conf/default/rp_filter", "0")?;
            host.sysctl("net/ipv4/fib_multipath_hash_policy", "1")?;
        }
        farm.client.bring_up("lo", &[&format!("{CLIENT}/32"), &format!("{CLIENT6}/128")])?;
        Ok(farm)
    }

    fn backend(index: usize, directory: &str) -> Result<Backend> {
        let host = Netns::new("backend")?;
        let mut backend = Backend { host, servers: Vec::new() };
        let (name, lines) = (format!("backend{index}"), BACKEND_LINES.to_string());
        backend.start("python3", &["-c", include_str!("server.py"), &name, &lines])?;
        backend.start_http(directory)?;
        Ok(backend)
    }

    fn directory(&self) -> Result<&str> {
        self.files.path().to_str().context("a path that is no text")
    }

    /// Ends a backend's HTTP server; the other one goes on.
    ///
    /// # Errors
    /// No server of the backend runs, or it cannot be ended.
    pub fn stop_http(&mut self, backend: usize) -> Result<()> {
        let mut server = self.backends[backend].servers.pop().context("no server")?;
        server.kill()?;
        server.wait().map(drop).context("the HTTP server")
    }

    /// Starts a backend's HTTP server again.
    ///
    /// # Errors
    /// `python3` cannot be started.
    pub fn start_http(&mut self, backend: usize) -> Result<()> {
        let directory = self.directory()?.to_owned();
        self.backends[backend].start_http(&directory)
    }

    fn attach(&self, device: &str) -> Result<()> {
        let _ = self.fabric.ip(&["link", "set", device, "master", "bridge"])?;
        self.fabric.bring_up(device, &[])
    }

    /// Namespace of a backend.
    pub fn host(&self, backend: usize) -> &Netns {
        &self.backends[backend].host
    }

    /// Starts a program at a backend that runs until that ends.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&mut self, backend: usize, program: &str, arguments: &[&str]) -> Result<()> {
        self.backends[backend].start(program, arguments)
    }

    /// Has a backend take packets to the service's address that come as they are, in IPIP (over IPv4) or in GUE.
    ///
    /// # Errors
    /// The address cannot be added, or a device that decapsulates does not come up in time.
    pub fn take_service_address(&mut self, backend: usize) -> Result<()> {
        let host = &self.backends[backend].host;
        host.bring_up("lo", &[&format!("{VIP}/32"), &format!("{VIP6}/128")])?;
        for (device, port) in [("ipip", None), ("gue", Some("6080"))] {
            let script = include_str!("decapsulate.py");
            let arguments: Vec<&str> = ["-c", script, device].into_iter().chain(port).collect();
            self.start(backend, "python3", &arguments)?;
            let host = &self.backends[backend].host;
            let up = format!("until ip link set {device} up 2>/dev/null; do sleep 0.05; done");
            let _ = host.run(&["sh", "-c", &up], LIMIT)?.succeeded()?;
        }
        Ok(())
    }

    /// Ends a backend's servers and takes it off the wire.
    ///
    /// # Errors
    /// Its cable cannot be taken down, or a server cannot be ended.
    pub fn kill_backend(&mut self, backend: usize) -> Result<()> {
        let _ = self.fabric.ip(&["link", "set", &format!("b{backend}"), "down"])?;
        let dead = &mut self.backends[backend];
        for mut server in dead.servers.drain(..) {
            server.kill()?;
            let _ = server.wait()?;
        }
        Ok(())
    }

    /// Plugs an appliance's interfaces in, behind one for management.
    pub fn plug(&self, appliance: usize, machine: VmBuilder) -> VmBuilder {
        let machine = machine.nic(Nic::user(0).without_capture());
        let taps = self.taps[appliance].iter();
        taps.fold(machine, |machine, tap| machine.nic(Nic::tap(tap).without_capture()))
    }

    /// The configuration of an appliance.
    pub fn config(appliance: usize) -> Value {
        let client = format!("10.1{appliance}.0.2");
        json!({
            "hostname": format!("appliance{appliance}"),
            "api": { "token": gateway::TOKEN },
            "interfaces": [
                { "name": "eth0", "addresses": ["10.0.2.15/24"] },
                { "name": "eth1", "addresses": [
                    format!("10.1{appliance}.0.1/24"), format!("{}/64", near_client(appliance, 1)),
                ] },
                { "name": "eth2", "addresses": [
                    format!("10.2.0.{}/24", appliance + 1), format!("{}/64", near_backends(appliance)),
                ] },
            ],
            "routes": [
                { "prefix": format!("{CLIENT}/32"), "via": [{ "address": client }] },
                { "prefix": format!("{CLIENT6}/128"), "via": [{ "address": near_client(appliance, 2) }] },
            ],
            "cluster": { "flows_per_worker": FLOWS },
        })
    }

    /// Takes the TAP devices of appliances that have been started into the namespaces, and routes by all of them.
    ///
    /// # Errors
    /// A device is not there or cannot be moved, or `ip` refuses an address or a route.
    pub fn join(&self) -> Result<()> {
        for (appliance, [client, backends]) in self.taps.iter().enumerate() {
            let addresses = [format!("10.1{appliance}.0.2/24"), format!("{}/64", near_client(appliance, 2))];
            self.client.adopt(client, &addresses.each_ref().map(String::as_str))?;
            let _ = Command::new("ip")
                .args(["link", "set", backends, "netns", self.fabric.name()])
                .status()
                .context("ip")?;
            self.attach(backends)?;
        }
        self.route_via(&(0..self.taps.len()).collect::<Vec<_>>())
    }

    /// Has packets to the service, and answers, go by these appliances.
    ///
    /// # Errors
    /// `ip` refuses a route.
    pub fn route_via(&self, appliances: &[usize]) -> Result<()> {
        let route =
            |host: &Netns, prefix: &str, source: &[&str], via: &dyn Fn(usize) -> String| -> Result<()> {
                let hops: Vec<String> = appliances.iter().map(|appliance| via(*appliance)).collect();
                let family = if prefix.contains(':') { "-6" } else { "-4" };
                let mut words = vec![family, "route", "replace", prefix];
                words.extend(source);
                hops.iter().for_each(|hop| words.extend(["nexthop", "via", hop]));
                host.ip(&words).map(drop)
            };
        let source = CLIENT.to_string();
        route(&self.client, &format!("{VIP}/32"), &["src", &source], &|appliance| {
            format!("10.1{appliance}.0.1")
        })?;
        let source = CLIENT6.to_string();
        route(&self.client, &format!("{VIP6}/128"), &["src", &source], &|appliance| {
            near_client(appliance, 1).to_string()
        })?;
        for backend in &self.backends {
            route(&backend.host, "0.0.0.0/0", &[], &|appliance| format!("10.2.0.{}", appliance + 1))?;
            route(&backend.host, "::/0", &[], &|appliance| near_backends(appliance).to_string())?;
        }
        Ok(())
    }

    /// The service as Kubernetes objects: these backends serve, those only keep the connections that they have.
    pub fn objects(forwarding: &str, serving: &[usize], draining: &[usize]) -> Value {
        let ports = |http: u16, lines: u16| {
            json!([
                { "name": "http", "port": http },
                { "name": "lines", "port": lines },
                { "name": "bulk", "port": BULK },
            ])
        };
        let mut service_ports = ports(HTTP, LINES);
        if !matches!(forwarding, "direct" | "ipip" | "gue") {
            service_ports[0]["targetPort"] = BACKEND_HTTP.into();
            service_ports[1]["targetPort"] = BACKEND_LINES.into();
        }
        let endpoint = |backend: &usize, ready: bool| {
            json!({
                "addresses": [backend_address(*backend).to_string()],
                "conditions": { "ready": ready, "serving": true, "terminating": !ready },
            })
        };
        let endpoints: Vec<Value> = serving
            .iter()
            .map(|backend| endpoint(backend, true))
            .chain(draining.iter().map(|backend| endpoint(backend, false)))
            .collect();
        let slice_ports = if service_ports[0]["targetPort"].is_null() {
            ports(HTTP, LINES)
        } else {
            ports(BACKEND_HTTP, BACKEND_LINES)
        };
        json!({ "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": "web", "annotations": { "fairlead.dev/forwarding": forwarding } },
                "spec": { "clusterIP": VIP.to_string(), "ports": service_ports },
            },
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": { "name": "web-1", "labels": { "kubernetes.io/service-name": "web" } },
                "ports": slice_ports, "endpoints": endpoints,
            },
        ]})
    }

    /// A client with no connection yet.
    ///
    /// # Errors
    /// `python3` cannot be started.
    pub fn connections(&self) -> Result<Connections> {
        let mut command = self.client.command("python3");
        let _ = command.args(["-c", include_str!("client.py"), &VIP.to_string(), &LINES.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("python3")?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Connections { child, input, output })
    }

    /// Requests over HTTP for some seconds, by `wrk` over so many connections, which stay open: `wrk` takes each end of a
    /// connection that the answer did not announce (`Connection: close`) for a failed read, and these servers announce none.
    ///
    /// # Errors
    /// `wrk` fails or does not end, or its report is not understood.
    pub fn requests(&self, connections: usize, seconds: u64) -> Result<Requests> {
        let (connections, duration) = (format!("-c{connections}"), format!("-d{seconds}s"));
        let url = format!("http://{VIP}:{HTTP}/{FILE}");
        let words = ["wrk", "-t1", &connections, &duration, "--timeout", "10s", &url];
        let report = self.client.run(&words, LIMIT + Duration::from_secs(seconds))?.succeeded()?;
        Requests::read(&report)
    }
}

/// What `wrk` reports.
#[derive(Clone, Debug)]
pub struct Requests {
    /// Answered.
    pub answered: u64,
    /// Connections not made, broken or not answered, and answers that were no success.
    pub failed: u64,
    /// Answered per second.
    pub per_second: f64,
}

impl Requests {
    fn read(report: &str) -> Result<Self> {
        let number_before = |what: &str| {
            let line = report.lines().find(|line| line.contains(what))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        let numbers_of = |line: &str| -> u64 {
            let words = line.split(|c: char| !c.is_ascii_digit());
            words.filter_map(|word| word.parse::<u64>().ok()).sum()
        };
        let errors = report.lines().filter(|l| l.contains("Socket errors") || l.contains("Non-2xx"));
        let rate = report.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
        Ok(Self {
            answered: number_before("requests in").with_context(|| format!("not understood: {report}"))?,
            failed: errors.map(|line| numbers_of(&line.replace("2xx", "").replace("3xx", ""))).sum(),
            per_second: rate.and_then(|rate| rate.trim().parse().ok()).unwrap_or_default(),
        })
    }
}

/// Long-lived connections of the client to the service.
#[derive(Debug)]
pub struct Connections {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What became of connections when something was said on all of them.
#[derive(Clone, Debug)]
pub struct Round {
    /// The same server answered.
    pub alive: u64,
    /// They were reset, not answered, or answered by another server.
    pub broken: u64,
    /// Of those, the ones that the backend of this index served.
    pub lost_of: Vec<u64>,
    /// All that was reported.
    pub report: Value,
}

impl Connections {
    fn command(&mut self, line: &str) -> Result<Value> {
        writeln!(self.input, "{line}")?;
        let mut answer = String::new();
        let _ = self.output.read_line(&mut answer)?;
        serde_json::from_str(&answer).with_context(|| format!("the client answers {answer:?}"))
    }

    /// Opens more.
    ///
    /// # Errors
    /// If not all could be opened.
    pub fn open(&mut self, count: u64) -> Result<Value> {
        let answer = self.command(&format!("open {count}"))?;
        ensure!(answer["opened"] == count, "not all connections could be opened: {answer}");
        Ok(answer)
    }

    /// Says something on all of them; broken ones are given up.
    ///
    /// # Errors
    /// The client has ended, or its answer is not JSON.
    pub fn round(&mut self, limit: Duration) -> Result<Round> {
        let report = self.command(&format!("round {}", limit.as_secs_f32()))?;
        let count = |name: &str| report[name].as_u64().unwrap_or_default();
        let lost_of =
            (0..8).map(|index| report["lost"][format!("backend{index}")].as_u64().unwrap_or_default());
        Ok(Round {
            alive: count("ok"),
            broken: count("reset") + count("silent") + count("moved"),
            lost_of: lost_of.collect(),
            report,
        })
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a condition holds.
///
/// # Errors
/// If it does not within `limit`, or cannot be asked.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = std::time::Instant::now() + limit;
    while !holds()? {
        ensure!(std::time::Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Replaces all objects of a node by these, and waits until packets are treated by them.
///
/// # Errors
/// The node refuses the objects, or they are not in force in time.
pub fn apply(api: &Api, objects: &Value) -> Result<()> {
    let path = format!("/v1/resources?wait_seconds={}", LIMIT.as_secs());
    let answer = api.put(&path, objects)?.json()?;
    ensure!(answer["in_force"] == true, "the objects are not in force in time: {answer}");
    Ok(())
}

/// Waits until the service's address answers echo requests of the client.
///
/// # Errors
/// No echo request is answered in time, or `ping` cannot be run.
pub fn wait_until_it_answers(farm: &Farm) -> Result<()> {
    wait_until("the service's address answers", LIMIT, || {
        let ping = ["ping", "-c1", "-W1", &VIP.to_string()];
        Ok(farm.client.run(&ping, LIMIT)?.status.success())
    })
}
