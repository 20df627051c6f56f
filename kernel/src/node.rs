//! The node: devices, buffers, workers, control, put together and set going.

use crate::bus::PciDevice;
use crate::devices::{self, Ports};
use crate::platform::Machine;
use crate::workers::{self, CoreWake, Sleeper};
use crate::{boot_stages, console, cores, memory, random, time};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use buffer::{BUFFER_BYTES, BufferPool};
use control::{Boot, Control, Parts};
use core::mem::ManuallyDrop;
use dataplane::{MAX_WORKERS, Shared, Worker};
use fib::{Fib4Writer, Fib6Writer};
use log::{LevelFilter, info};

/// Page size of what is mapped with one entry.
const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// An entropy device that nobody waited for is asked so long after the node is ready.
const ENTROPY_AFTER_NS: u64 = 1_000_000_000;

/// What boot has to say is printed when a packet was forwarded, or so long after the node is ready.
const SILENT_NS: u64 = 20_000_000;

/// What needs no devices: the boot module read, the route tables made.
pub struct Prepared {
    boot: Boot,
    fib4: Fib4Writer,
    fib6: Fib6Writer,
}

impl Prepared {
    fn new(mut boot: Boot) -> Self {
        boot.read_ahead();
        match (Fib4Writer::new(), Fib6Writer::new()) {
            (Ok(fib4), Ok(fib6)) => Self { boot, fib4, fib6 },
            (Err(error), _) | (_, Err(error)) => panic!("no memory for route tables: {error}"),
        }
    }
}

/// Prepares what needs no devices while this core looks for them.
pub fn prepare(boot: Boot) -> Awaited<Prepared> {
    elsewhere(move || Prepared::new(boot))
}

/// What is being made on another core. The place stays for ever, and what is made is never dropped there: the code that
/// would drop a router is nowhere else.
pub struct Awaited<T: 'static>(&'static spin::Mutex<Option<ManuallyDrop<T>>>);

/// Has the first worker's core make something before it does what it is given next; this one if there is no other.
fn elsewhere<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> Awaited<T> {
    let place: &spin::Mutex<_> = Box::leak(Box::new(spin::Mutex::new(None)));
    match cores::worker(0).filter(|core| core.index != 0) {
        Some(core) => core.run(Box::new(move || {
            let made = ManuallyDrop::new(make());
            *place.lock() = Some(made);
            if let Some(control) = cores::control() {
                control.wake();
            }
        })),
        None => *place.lock() = Some(ManuallyDrop::new(make())),
    }
    Awaited(place)
}

impl<T> Awaited<T> {
    /// Sleeps until it is made: a core that spins takes time from its sibling, and a virtual one from all others.
    fn take(self) -> T {
        loop {
            if let Some(made) = self.0.lock().take() {
                return ManuallyDrop::into_inner(made);
            }
            cores::sleep(None, || self.0.lock().is_some());
        }
    }
}

/// Runs the node on these devices, as it was asked to at boot; `log` is the level that the command line wants, and
/// `packed` whether it wants packed rings.
pub fn run(
    pci: &[Arc<PciDevice>],
    preparing: Awaited<Prepared>,
    log: Option<LevelFilter>,
    packed: bool,
) -> ! {
    let ask_entropy = random::init(|| devices::entropy(pci));
    let (free_bytes, _) = memory::usage();
    let wanted = cores::workers().min(MAX_WORKERS) as u16;
    let opening = devices::begin_ports(pci, wanted, free_bytes, packed);
    let plan = opening.plan;
    let count = usize::from(plan.workers);
    // While the cards do what they were told.
    let pool = buffer_pool(plan.buffers);
    let Prepared { boot, fib4, fib6 } = preparing.take();
    let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), count, hash_seed(), Box::new(CoreWake));
    let platform = Box::new(Machine::new(devices::disk(pci), log, count));
    let Ports { controls, queues } = opening.finish();
    boot_stages::reached("devices");
    let parts =
        Parts { platform, shared: shared.clone(), fib4, fib6, ports: controls, cache: pool.cache(), boot };
    let (beginning, remainder) = Control::begin(parts, time::now_ns());
    let begun = elsewhere(move || beginning.run());
    let worker = |(index, ports)| {
        let worker = Worker::new(shared.clone(), index, ports, pool.cache());
        Sleeper::new(worker, shared.clone(), index)
    };
    let mut workers: Vec<Sleeper> = (0..).zip(dataplane::deal(queues, count)).map(worker).collect();
    // A worker with a core of its own warms up while control does: until there are tables it drops what comes.
    let only_worker = if cores::all().len() == 1 { workers.pop() } else { None };
    workers.into_iter().for_each(workers::start);
    boot_stages::reached("workers");
    let mut control = Box::new(remainder.finish(|| begun.take(), time::now_ns()));
    boot_stages::reached("ready");
    let mut later = Later { ready_ns: time::now_ns(), pci, ask_entropy, silent: true };
    let poll = move |now_ns| control.poll(now_ns).min(later.poll(now_ns));
    match only_worker {
        Some(worker) => workers::run_both(worker, poll),
        None => workers::run_control(poll),
    }
}

/// What boot left for later.
struct Later<'a> {
    ready_ns: u64,
    pci: &'a [Arc<PciDevice>],
    ask_entropy: bool,
    silent: bool,
}

impl Later<'_> {
    /// Does what is due, a bounded amount; when to come again at the latest.
    fn poll(&mut self, now_ns: u64) -> u64 {
        let mut due_ns = u64::MAX;
        if self.ask_entropy {
            due_ns = self.ready_ns + ENTROPY_AFTER_NS;
            if now_ns >= due_ns {
                self.ask_entropy = false;
                if let Some(device) = devices::entropy(self.pci) {
                    random::add(device, &workers::waiting);
                }
            }
        }
        if self.silent {
            let speak_ns = self.ready_ns + SILENT_NS;
            if now_ns < speak_ns && !workers::has_forwarded() {
                return due_ns.min(speak_ns);
            }
            self.silent = console::release_one();
            due_ns = now_ns;
        }
        due_ns
    }
}

fn buffer_pool(buffers: u64) -> &'static BufferPool {
    let bytes = buffers * BUFFER_BYTES as u64;
    let Some(memory) = memory::stale_frames(bytes, LARGE_PAGE_BYTES) else {
        panic!("no memory for packet buffers")
    };
    // SAFETY: the frames hold bytes of the run before, stay for ever, are nobody else's, and devices see them there.
    let pool = unsafe { BufferPool::new(memory, bytes as usize, memory.as_ptr() as u64) };
    info!(target: "node", "{} packet buffers", pool.count());
    pool
}

/// What keeps others from choosing flows that hash alike.
fn hash_seed() -> [u64; 2] {
    let mut bytes = [0; 16];
    random::fill(&mut bytes);
    let seed = u128::from_le_bytes(bytes);
    [seed as u64, (seed >> 64) as u64]
}
