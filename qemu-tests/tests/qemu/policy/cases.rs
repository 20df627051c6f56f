//! Cases of a public conformance suite on real packets: what its table says of who reaches whom holds between hosts.
//!
//! The pods of namespace x are behind one port of the node, those of y and z behind the other; what passes the node is asked:
//! TCP, UDP and SCTP.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};
use lab::farm::apply;
use lab::gateway::Hosts;
use lab::{Api, Netns};
use qemu_tests::Experiment;
use serde_json::{Value, json};

use super::Running;

/// Every so many of the cases are tried.
const STRIDE: usize = 14;
const PODS: &str = include_str!("pods.py");

/// The pods behind one port.
struct Pods {
    _program: Running,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Pods {
    fn new(host: &Netns, addresses: &[String]) -> Result<Self> {
        let device = device(host)?;
        for address in addresses {
            let _ = host.ip(&["addr", "add", &format!("{address}/24"), "dev", &device])?;
        }
        let mut program = host.command("python3");
        let program = program.args(["-c", PODS]).args(addresses).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = Running(program.spawn()?);
        let input = program.0.stdin.take().context("no input")?;
        let lines = BufReader::new(program.0.stdout.take().context("no output")?).lines();
        let mut pods = Self { _program: program, input, lines };
        ensure!(pods.line()? == "ready", "the pods do not answer");
        Ok(pods)
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.lines.next().context("the pods are gone")??)
    }

    fn begin(&mut self, probes: &[Value]) -> Result<()> {
        Ok(writeln!(self.input, "{}", Value::from(probes))?)
    }
}

/// The device that a host has its address on.
fn device(host: &Netns) -> Result<String> {
    let route = host.ip(&["route", "show", "default"])?;
    let words: Vec<&str> = route.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "dev").context("no default route")?;
    Ok(words.get(at + 1).context("no device")?.to_string())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn load() -> Result<Value> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../netstack/policy/tests/data/cyclonus-truth.json.gz");
    let mut json = String::new();
    let file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
    let _ = flate2::read::GzDecoder::new(file).read_to_string(&mut json)?;
    Ok(serde_json::from_str(&json)?)
}

/// The address of a pod such as `x/a`: namespace x is right, the others are left.
fn address(key: &str) -> Option<String> {
    let (namespace, name) = key.split_once('/')?;
    let number = 11 + ["a", "b", "c"].iter().position(|known| *known == name)?;
    match namespace {
        "x" => Some(format!("10.2.0.{number}")),
        "y" => Some(format!("10.1.0.{number}")),
        "z" => Some(format!("10.1.0.{}", number + 10)),
        _ => None,
    }
}

/// A step's objects, with the addresses that pods have here.
fn objects(step: &Value) -> Value {
    let spaces = step["namespaces"].as_object().into_iter().flatten();
    let mut items: Vec<Value> = spaces
        .map(|(name, labels)| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
        .collect();
    for pod in list(&step["pods"]) {
        let Some(ip) = address(text(&pod["key"])) else { continue };
        let port = |port: &Value| json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]});
        let ports: Vec<Value> = list(&pod["ports"]).iter().map(port).collect();
        items.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": pod["ns"], "name": pod["name"], "labels": pod["labels"]},
            "spec": {"containers": [{"name": "c", "ports": ports}]},
            "status": {"podIPs": [{"ip": ip}]},
        }));
    }
    for policy in list(&step["policies"]) {
        let mut policy = policy.clone();
        (policy["apiVersion"], policy["kind"]) = ("networking.k8s.io/v1".into(), "NetworkPolicy".into());
        items.push(policy);
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// What a step's table says of pairs that the node is between: from x, and to x; with names.
fn probes(step: &Value) -> [(Vec<Value>, Vec<String>); 2] {
    let mut all: [(Vec<Value>, Vec<String>); 2] = Default::default();
    for (service, pairs) in step["truth"].as_object().into_iter().flatten() {
        let Some((protocol, port)) = service.split_once('/') else { continue };
        let port: u16 = port.parse().unwrap_or_default();
        for (pair, mark) in pairs.as_object().into_iter().flatten() {
            let Some((from, to)) = pair.split_once("->") else { continue };
            let (Some(source), Some(destination)) = (address(from), address(to)) else { continue };
            if from.starts_with("x/") == to.starts_with("x/") {
                continue;
            }
            let allowed = text(mark).starts_with('.');
            let (probes, names) = &mut all[usize::from(to.starts_with("x/"))];
            probes.push(json!([protocol, source, destination, port, allowed]));
            names.push(format!("{service} {pair}"));
        }
    }
    all
}

/// Tries cases that are not about addresses, which pods do not have here.
pub fn agree(experiment: &Experiment, hosts: &Hosts, api: &Api) -> Result<()> {
    let of = |namespace: &str| {
        ["a", "b", "c"].map(|name| address(&format!("{namespace}/{name}"))).into_iter().flatten()
    };
    let mut right = Pods::new(&hosts.right, &of("x").collect::<Vec<_>>())?;
    let mut left = Pods::new(&hosts.left, &of("y").chain(of("z")).collect::<Vec<_>>())?;
    let truth = load()?;
    let has_addresses = |case: &&Value| case["steps"].to_string().contains("ipBlock");
    let cases: Vec<&Value> = list(&truth["cases"]).iter().filter(|case| !has_addresses(case)).collect();
    let (mut allowed, mut denied) = (0, 0);
    for case in cases.iter().step_by(STRIDE) {
        let step = list(&case["steps"]).last().context("a case without steps")?;
        apply(api, &objects(step))?;
        let [from_x, to_x] = probes(step);
        right.begin(&from_x.0)?;
        left.begin(&to_x.0)?;
        for (pods, (probes, names)) in [(&mut right, from_x), (&mut left, to_x)] {
            let answers: Vec<bool> = serde_json::from_str(&pods.line()?)?;
            ensure!(answers.len() == probes.len(), "{} answers", answers.len());
            for ((probe, name), answered) in probes.iter().zip(names).zip(answers) {
                let wanted = probe[4] == true;
                ensure!(answered == wanted, "{}: {name} is answered: {answered}", case["description"]);
                *(if wanted { &mut allowed } else { &mut denied }) += 1;
            }
        }
    }
    ensure!(allowed > 100 && denied > 100, "{allowed} allowed and {denied} denied only");
    experiment.measured(format!("{allowed} connections of conformance cases made, {denied} refused"));
    Ok(())
}
