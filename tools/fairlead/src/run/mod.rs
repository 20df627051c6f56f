//! `fairlead run`: the dataplane, router and control as a Linux process.
//!
//! 1. [`args`]: what it is told;
//! 2. [`tap`], [`af_packet`] and [`memory`] open ports, over [`sys`], the system calls;
//! 3. [`workers`] move packets, each a thread that [`sleep`]s when there are none;
//! 4. this thread runs control, with [`platform`] as its machine, [`log_ring`] as its log and [`host_api`] as a second way to it.

mod af_packet;
mod args;
mod host_api;
mod log_ring;
mod memory;
mod platform;
mod port;
mod segments;
mod sleep;
#[allow(unsafe_code, reason = "system calls; everything else goes through its safe functions")]
mod sys;
mod tap;
mod vnet;
mod workers;

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use buffer::{BufferPool, PortControl};
use control::{Boot, Control, Parts};
use dataplane::Shared;
use fib::{Fib4Writer, Fib6Writer};

pub use args::RunArgs;

use crate::failure::{Failure, Message, Result};
use crate::manage::source::Document;
use args::PortSpec;
use host_api::HostApi;
use log_ring::LogRing;
use memory::Wires;
use platform::HostPlatform;
use port::Port;
use sleep::{Sleeper, Sleepers};
use workers::{Queues, now_ns};

/// Longest sleep of control: nothing depends on it, it only bounds what a mistake could cost.
const MAX_SLEEP_NS: u64 = 1_000_000_000;

/// Runs until the process is ended.
pub fn run(args: &RunArgs, token: Option<String>) -> Result<()> {
    let start = Instant::now();
    if let Some(kernel) = args.crypto.filter(|kernel| !kernel.runs_on(&crypto::cpu::Features::detect())) {
        return Err(Failure::operation(format!("this CPU does not run --crypto {kernel}")));
    }
    let module = args.config.as_deref().map(read_config).transpose()?;
    let log = LogRing::install(start);
    platform::record_crashes(args.state.clone());
    let reboot = Arc::new(AtomicBool::new(false));
    let mut platform = HostPlatform::new(log, start, args.workers, args.state.as_deref(), reboot.clone())
        .map_err(|error| Failure::operation(format!("cannot use the state directory: {error}")))?;
    let ports = open_ports(&args.ports, usize::from(args.workers))?;
    let mut api = args.api.map(HostApi::listen).transpose()?;
    platform.reached("ports open");

    let pool = BufferPool::from_heap(args.buffers as usize);
    let tables = |error: fib::Error| Failure::operation(format!("cannot make the route tables: {error}"));
    let (fib4, fib6) = (Fib4Writer::new().map_err(tables)?, Fib6Writer::new().map_err(tables)?);
    let sleepers = sleepers(args.workers)?;
    let (control_sleeper, worker_sleepers) = (sleepers.control.clone(), sleepers.workers.clone());
    let shared = Shared::new(
        fib4.fib().clone(),
        fib6.fib().clone(),
        worker_sleepers.len(),
        seed()?,
        Box::new(sleepers),
    );
    let (controls, queues) = distribute(ports, worker_sleepers.len());
    for (id, (queues, sleeper)) in queues.into_iter().zip(worker_sleepers).enumerate() {
        workers::start(shared.clone(), id, queues, pool, sleeper, start)
            .map_err(|error| Failure::operation(format!("cannot start a thread: {error}")))?;
    }
    platform.reached("workers started");

    let boot = Boot { module, token, crypto: args.crypto, ..Boot::default() };
    let parts = Parts {
        platform: Box::new(platform),
        shared,
        fib4,
        fib6,
        ports: controls,
        cache: pool.cache(),
        boot,
    };
    let mut control = Control::new(parts, now_ns(start));
    run_control(&mut control, api.as_mut(), &control_sleeper, &reboot, start);
    Err(restart())
}

/// Control's thread, until a restart is asked for.
fn run_control(
    control: &mut Control,
    mut api: Option<&mut HostApi>,
    sleeper: &Sleeper,
    reboot: &AtomicBool,
    start: Instant,
) {
    let mut turn = |api: &mut Option<&mut HostApi>| {
        if let Some(api) = api {
            api.poll(control, now_ns(start));
        }
        control.poll(now_ns(start))
    };
    while !reboot.load(Ordering::Relaxed) {
        if turn(&mut api) <= now_ns(start) {
            continue;
        }
        // Once more, now that it looks asleep: what came meanwhile is found, and what comes later wakes it.
        sleeper.lie_down();
        let sleep_ns = turn(&mut api).saturating_sub(now_ns(start)).min(MAX_SLEEP_NS);
        let descriptors = api.as_deref_mut().map(HostApi::descriptors).unwrap_or_default();
        sleeper.sleep(&descriptors, i32::try_from(sleep_ns.div_ceil(1_000_000)).unwrap_or(0));
        sleeper.get_up();
    }
}

/// The configuration as the JSON that a node boots with.
fn read_config(path: &Path) -> Result<Box<[u8]>> {
    let value = Document::read(path)?.checked()?;
    Ok(value.to_string().into_bytes().into())
}

fn open_ports(specs: &[PortSpec], workers: usize) -> Result<Vec<Port>> {
    // A worker waits for one queue of each port, and for being woken.
    if specs.len() >= sys::MAX_WAIT {
        return Err(Failure::operation(format!("at most {} ports can be opened", sys::MAX_WAIT - 1)));
    }
    let mut wires = Wires::default();
    let open = |(index, spec): (usize, &PortSpec)| {
        let name = format!("eth{index}");
        let (what, opened) = match spec {
            PortSpec::Tap(tap) => (format!("TAP device {tap}"), tap::open(name.clone(), tap, workers)),
            PortSpec::AfPacket(interface) => {
                (format!("interface {interface}"), af_packet::open(name.clone(), interface, workers))
            }
            PortSpec::Memory(wire) => {
                (format!("an end of the wire {wire} in memory"), wires.open(name.clone(), wire, index))
            }
        };
        match opened {
            Ok(port) => {
                log::info!("{name} is {what}");
                Ok(port)
            }
            Err(error) => Err(cannot_open(&what, &error)),
        }
    };
    specs.iter().enumerate().map(open).collect()
}

fn cannot_open(what: &str, error: &io::Error) -> Failure {
    let message = Message::new(format!("cannot open {what}: {error}"));
    Failure::Operation(match error.kind() {
        io::ErrorKind::PermissionDenied => message.hint("run as root, or with CAP_NET_ADMIN and CAP_NET_RAW"),
        io::ErrorKind::NotFound => message.hint("is the module `tun` loaded? (modprobe tun)"),
        _ => message,
    })
}

fn sleepers(workers: u16) -> Result<Sleepers> {
    let workers = (0..workers).map(|_| Sleeper::new()).collect::<io::Result<Vec<_>>>()?;
    Ok(Sleepers { workers, control: Sleeper::new()? })
}

/// The secret of the flow hash.
fn seed() -> Result<[u64; 2]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::operation(format!("the system has no entropy: {error}")))?;
    let [low, high] = [0, 8].map(|at| bytes[at..].first_chunk().copied().map_or(0, u64::from_ne_bytes));
    Ok([low, high])
}

/// Gives each port's control to control, and deals its queues to the workers.
fn distribute(ports: Vec<Port>, workers: usize) -> (Vec<Box<dyn PortControl>>, Vec<Queues>) {
    let (controls, queues): (_, Vec<_>) = ports.into_iter().map(|port| (port.control, port.queues)).unzip();
    (controls, dataplane::deal(queues, workers))
}

/// Becomes a new process with the same arguments; returns only if that fails.
fn restart() -> Failure {
    log::info!("restarting");
    let error = match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program).args(std::env::args_os().skip(1)).exec(),
        Err(error) => error,
    };
    Failure::operation(format!("cannot restart: {error}"))
}
