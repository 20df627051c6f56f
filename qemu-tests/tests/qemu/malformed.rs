//! Frames that no well-meaning peer sends. The node stays alive, forwards what is right, and accounts for the rest.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::frame::Mac;
use lab::gateway::{self, LEFT, Stations};
use lab::{Api, pcap};
use qemu_tests::Experiment;

/// 3,632 frames of tcpdump's regression captures, many of them crashers of old parsers.
const CAPTURE: &str = "malformed-frames.pcap";

/// Longest frame that is sent: what a device with the default MTU takes.
const MAX_FRAME_BYTES: usize = 1514;

fn captured_frames() -> Result<Vec<Vec<u8>>> {
    let mut frames = pcap::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(CAPTURE))?;
    frames.retain(|frame| (14..=MAX_FRAME_BYTES).contains(&frame.len()));
    Ok(frames)
}

pub fn captured_frames_are_survived(experiment: &Experiment) -> Result<()> {
    let frames = captured_frames()?;
    // As captured: most are for somebody else. Then addressed to the node, so that it must look inside.
    survive(experiment, |_| Ok(frames.clone()))?;
    survive(experiment, |node| Ok(frames.iter().map(|frame| addressed_to(node, frame)).collect()))
}

pub fn mutated_frames_are_survived(experiment: &Experiment) -> Result<()> {
    let frames = captured_frames()?;
    let mut random = Random(0x5eed_1234_5678_9abc);
    survive(experiment, |node| {
        Ok((0..20_000)
            .map(|_| {
                let base = &frames[random.below(frames.len())];
                mutated(&addressed_to(node, base), &mut random)
            })
            .collect())
    })
}

/// Sends frames from the left while the right listens, and holds what the node counted against what was sent.
fn survive(experiment: &Experiment, frames: impl FnOnce(Mac) -> Result<Vec<Vec<u8>>>) -> Result<()> {
    let (vm, stations) = experiment.gateway_with(|machine| machine, lab::Nic::without_capture)?;
    let api = vm.api(gateway::TOKEN)?;
    let frames = frames(stations.left.resolve(LEFT.node4.into())?)?;
    pcap::write(&experiment.logs().join("sent.pcap"), frames.iter().map(Vec::as_slice))?;
    let received_before = received_on_left(&api)?;
    let begin = Instant::now();
    for frame in &frames {
        stations.left.wire().send(frame)?;
        // Nobody answers address resolution here, and what comes back must not fill the sockets.
        drain(&stations)?;
    }
    let took = begin.elapsed();
    // Every frame is counted as received; the counters are read until they stand still.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let received = received_on_left(&api).context("the node no longer answers")? - received_before;
        if received >= frames.len() as u64 {
            break;
        }
        ensure!(Instant::now() < deadline, "{} frames sent, {received} received", frames.len());
        drain(&stations)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    books_balance(&api)?;
    let crash = api.json("/v1/crash")?;
    ensure!(crash["crash"].is_null(), "the node crashed: {crash}");
    experiment.measured(format!("{} frames in {:.1} s", frames.len(), took.as_secs_f32()));
    super::forwarding::datagrams_cross(&stations).context("the node is damaged")
}

/// Every packet that came in or was made went out, to control, was dropped for a counted reason, or is held. The worker goes on
/// while its counters are read, so that a look may catch a packet on its way; one that is lost stays lost.
fn books_balance(api: &Api) -> Result<()> {
    let mut seen = String::new();
    for _ in 0..50 {
        let totals = &api.json("/v1/counters")?["totals"];
        let sum = |names: &[&str]| names.iter().map(|name| totals[name].as_u64()).sum::<Option<u64>>();
        let entered = sum(&["received", "injected", "made"]).context("no totals")?;
        let left = sum(&["sent", "dropped", "punted", "held"]).context("no totals")?;
        if entered == left {
            return Ok(());
        }
        seen = totals.to_string();
        std::thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("packets are unaccounted for: {seen}")
}

fn drain(stations: &Stations) -> Result<()> {
    for station in [&stations.left, &stations.right] {
        while station.wire().take_waiting()?.is_some() {}
    }
    Ok(())
}

fn received_on_left(api: &Api) -> Result<u64> {
    let document = api.json("/v1/interfaces")?;
    let list = document["interfaces"].as_array().with_context(|| format!("no list in {document}"))?;
    let left =
        list.iter().find(|entry| entry["name"] == LEFT.interface).context("the interface is not listed")?;
    left["counters"]["rx_packets"].as_u64().with_context(|| format!("no counter in {left}"))
}

fn addressed_to(node: Mac, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&node);
    frame
}

/// The frame with one to eight faults: bytes replaced, bits flipped, cut short, or grown.
fn mutated(frame: &[u8], random: &mut Random) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for _ in 0..=random.below(8) {
        let at = 12 + random.below(frame.len() - 12);
        match random.below(4) {
            0 => frame[at] = random.next() as u8,
            1 => frame[at] ^= 1 << random.below(8),
            2 => frame.truncate(at.max(14)),
            _ => {
                let longer = (frame.len() + random.below(64)).min(MAX_FRAME_BYTES);
                frame.resize(longer, random.next() as u8);
            }
        }
    }
    frame
}

/// xorshift64* (Vigna 2016): the same frames in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }
}
