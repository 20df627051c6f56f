//! The node as a whole: what it does when told nothing, how it says it has come up, how it rests, and its last words.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::gateway::{self, Stations};
use lab::{Api, Vm};
use qemu_tests::Experiment;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// Memory of a node that is looked through.
const SMALL_MIB: u32 = 64;

/// What an idle node may use, the emulation of its machine included.
const IDLE_PERCENT: f64 = 3.0;

pub fn default_configuration_in_64_mib(experiment: &Experiment) -> Result<()> {
    let stations = Stations::new()?;
    let machine = stations.plug(experiment.machine("node").memory_mib(64), |nic| nic);
    let vm = machine.start()?;
    // Without a configuration the first interface asks for an address, and the node makes a token and says it.
    let token = vm.console().wait_for(r"this one was made: ([0-9a-f]+)", LIMIT)?;
    let api = vm.api(&token)?;
    api.wait_until_healthy(LIMIT)?;
    let refused = api.with_token("not-the-token-at-all").get("/v1/status")?;
    ensure!(refused.status == 401, "a wrong token got {}: {}", refused.status, refused.body);
    // And it does its work in that memory: its interfaces get addresses, and packets of both families cross.
    let mut config = gateway::config();
    config["api"]["token"] = token.as_str().into();
    let _ = api.put("/v1/config", &config)?.accepted()?;
    super::forwarding::datagrams_cross(&stations)?;
    let status = api.json("/v1/status")?;
    let free =
        status["memory"]["free_bytes"].as_u64().with_context(|| format!("no free memory in {status}"))?;
    ensure!(free > 0, "no memory left: {status}");
    experiment.measured(format!("{} KiB of 64 MiB are free", free / 1024));
    Ok(())
}

pub fn boot_stages_are_reported(experiment: &Experiment) -> Result<()> {
    let (vm, stations) = experiment.gateway()?;
    let gateway_mac = stations.left.resolve(gateway::LEFT.node4.into())?;
    let ends = stations.left.ends(gateway_mac, gateway::RIGHT.host4.into(), 64);
    stations.left.wire().send(&lab::frame::udp(&ends, 1, 9, b"first"))?;
    ensure!(stations.right.receive_udp(9, LIMIT)?.is_some(), "the first packet is not forwarded");
    let status = vm.api(gateway::TOKEN)?.json("/v1/status")?;
    let stages = status["boot"].as_array().with_context(|| format!("no boot stages in {status}"))?;
    ensure!(!stages.is_empty(), "no boot stages");
    let mut last = 0;
    for stage in stages {
        let at = stage["at_microseconds"].as_u64().with_context(|| format!("bad stage {stage}"))?;
        ensure!(at >= last, "{stage} is before the stage before it");
        last = at;
        experiment.measured(format!("{} at {at} us", stage["stage"].as_str().unwrap_or_default()));
    }
    Ok(())
}

pub fn idle_node_sleeps(experiment: &Experiment) -> Result<()> {
    /// Other work of a loaded machine makes each waking dearer, but not all the time; a node that polls is busy always.
    const WINDOWS: usize = 4;
    for cores in [1, 2] {
        let (vm, _stations) = experiment.gateway_with(|machine| machine.smp(cores), |nic| nic)?;
        std::thread::sleep(Duration::from_secs(1));
        let mut least = f64::INFINITY;
        for _ in 0..WINDOWS {
            least = least.min(busy_percent(&vm, Duration::from_secs(5))?);
            if least < IDLE_PERCENT {
                break;
            }
        }
        experiment.measured(format!("idle, {cores} cores: {least:.1}% of a core, emulation included"));
        ensure!(
            least < IDLE_PERCENT,
            "the idle node of {cores} cores uses {least:.1}% of a core, not less than {IDLE_PERCENT}%"
        );
    }
    Ok(())
}

/// What the machine uses of a core of this one while `time` passes.
fn busy_percent(vm: &Vm, time: Duration) -> Result<f64> {
    let (begin, before) = (Instant::now(), vm.cpu_time()?);
    std::thread::sleep(time);
    Ok(100.0 * (vm.cpu_time()? - before).as_secs_f64() / begin.elapsed().as_secs_f64())
}

pub fn crash_record_is_told_after_the_restart(experiment: &Experiment) -> Result<()> {
    // The node crashes on purpose in its first run, and only in that one.
    let (mut vm, stations) = experiment
        .gateway_with(|machine| machine.smp(2).memory_mib(SMALL_MIB).argument("crash=panic@1"), |nic| nic)?;
    let _ = vm.console().wait_for("the run before crashed", LIMIT)?;
    let record = vm.api(gateway::TOKEN)?.json("/v1/crash")?;
    let text = record["crash"].as_str().unwrap_or_default();
    ensure!(text.contains("on purpose") && text.contains("kernel::"), "the record is {record}");
    // The record is still there when the node is restarted in order.
    let _ = vm.api(gateway::TOKEN)?.post("/v1/reboot", "application/json", b"")?.accepted()?;
    let _ = vm.console().wait_for("1 runs went well since the last crash", LIMIT)?;
    let api = vm.api(gateway::TOKEN)?;
    api.wait_until_healthy(LIMIT)?;
    let record = api.json("/v1/crash")?;
    let text = record["crash"].as_str().unwrap_or_default();
    ensure!(text.contains("on purpose") && text.contains("went well since: 1"), "the record is {record}");
    super::forwarding::datagrams_cross(&stations)?;
    no_removed_key_is_in_memory(experiment, &mut vm, &api)?;
    no_key_is_told(vm, &api)
}

/// Keys of as many bytes as their algorithms want; others for each seed.
fn keys(seed: u32) -> [Vec<u8>; 2] {
    [20u32, 48].map(|bytes| {
        let byte = |at: u32| ((at * 0x9e37 + bytes + seed).wrapping_mul(0x85eb_ca6b) >> 24) as u8;
        (0..bytes).map(byte).collect()
    })
}

fn hexadecimal<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> String {
    bytes.into_iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A configuration with a security association of each key.
fn with_keys([gcm, cbc]: &[Vec<u8>; 2]) -> Value {
    let association = |name: &str, direction: &str, algorithm: &str, key: &[u8]| {
        let (spi, key) = (4096 + key.len(), hexadecimal(key));
        json!({"name": name, "tunnel": "t", "direction": direction, "spi": spi, "algorithm": algorithm, "key": key})
    };
    let mut config = gateway::config();
    config["ipsec"] = json!({
        "tunnels": [{"name": "t", "local": gateway::RIGHT.node4, "remote": gateway::RIGHT.host4}],
        "associations": [
            association("in", "in", "aes128gcm16", gcm),
            association("out", "out", "aes128-sha256", cbc),
        ],
    });
    config
}

/// Once associations are removed, their cipher keys are nowhere in the machine's memory: not where they were in force, nor where the
/// request was that brought them.
fn no_removed_key_is_in_memory(experiment: &Experiment, vm: &mut Vm, api: &Api) -> Result<()> {
    let keys = keys(0x5eed);
    let _ = api.put("/v1/config", &with_keys(&keys))?.accepted()?;
    let installed = places(experiment, vm, &keys)?;
    ensure!(!installed.is_empty(), "keys in force are nowhere in memory: the search finds nothing");
    let _ = api.put("/v1/config", &gateway::config())?.accepted()?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = places(experiment, vm, &keys)?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "keys are still in memory: {left:x?}");
        // The node goes on with its work, over what the one before has left on stacks.
        let _ = api.put("/v1/config", &gateway::config())?.accepted()?;
        let _ = api.get("/metrics")?.accepted()?;
    }
}

/// Where in the machine's memory the cipher keys are, as bytes or as they were written.
fn places(experiment: &Experiment, vm: &mut Vm, keys: &[Vec<u8>; 2]) -> Result<Vec<usize>> {
    let file = experiment.logs().join("memory");
    let size = u64::from(SMALL_MIB) << 20;
    let arguments = json!({"val": 0, "size": size, "filename": file});
    let _ = vm.qmp().execute("pmemsave", &arguments)?;
    let memory = std::fs::read(&file)?;
    std::fs::remove_file(&file)?;
    let mut found = Vec::new();
    for key in keys {
        let cipher_key = &key[..16];
        for wanted in [cipher_key, hexadecimal(cipher_key).as_bytes()] {
            let first = wanted[0];
            let all = memory.iter().enumerate().filter(|(_, byte)| **byte == first).map(|(at, _)| at);
            found.extend(all.filter(|at| memory[*at..].starts_with(wanted)));
        }
    }
    Ok(found)
}

/// The node is ended by an operator while security associations are in force: not four bytes in a row of a key are on the
/// console, in the log, in the crash record or in what the API tells, before and after.
fn no_key_is_told(mut vm: Vm, api: &Api) -> Result<()> {
    let keys = keys(0);
    let config = with_keys(&keys);
    let mut told = vec![api.put("/v1/config", &config)?.accepted()?.body];
    let tell = |told: &mut Vec<String>| -> Result<()> {
        for path in
            ["/v1/config", "/v1/ipsec/associations", "/v1/ipsec/events", "/v1/log", "/v1/crash", "/metrics"]
        {
            told.push(api.get(path)?.accepted()?.body);
        }
        Ok(())
    };
    tell(&mut told)?;
    let _ = vm.qmp().execute("inject-nmi", &json!({}))?;
    let _ = vm.console().wait_for("the run before crashed", LIMIT)?;
    api.wait_until_healthy(LIMIT)?;
    tell(&mut told)?;
    ensure!(told.iter().any(|text| text.contains("non-maskable")), "no record of the operator's interrupt");
    told.push(vm.console().text());
    let told = told.concat().to_lowercase();
    for key in keys {
        for four in key.windows(4) {
            // As it is written, and as a register shows it.
            let (written, reversed) = (hexadecimal(four), hexadecimal(four.iter().rev()));
            ensure!(!told.contains(&written) && !told.contains(&reversed), "{written} is told");
        }
    }
    Ok(())
}
