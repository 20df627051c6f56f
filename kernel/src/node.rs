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
use control::{Boot, Control};
use core::mem::ManuallyDrop;
use dataplane::{MAX_WORKERS, Shared, Worker};
use fib::{Fib4Writer, Fib6Writer};
use log::{LevelFilter, info};

/// Page size of what is mapped with one entry.
const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// An entropy device that nobody waited for is asked so long after the node is ready.
const ENTROPY_AFTER_NS: u64 = 1_000_000_000;

/// The clock is settled so long after the node is ready, if it was not before, and what failed is tried again so much later.
const CLOCK_AFTER_NS: u64 = 100_000_000;
const CLOCK_AGAIN_NS: u64 = 20_000_000;

/// What boot has to say is printed when a packet was forwarded, or so long after the node is ready.
const SILENT_NS: u64 = 20_000_000;

/// Reads the boot module while this core looks for devices.
pub fn read_ahead(mut boot: Boot) -> Awaited<Boot> {
    let read = Awaited::new();
    elsewhere(move || {
        boot.read_ahead();
        read.give(boot);
    });
    read
}

/// What is being made on another core. The place stays for ever, and what is made is never dropped there: the code that
/// would drop a router is nowhere else.
pub struct Awaited<T: 'static>(&'static spin::Mutex<Option<ManuallyDrop<T>>>);

impl<T> Clone for Awaited<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Awaited<T> {}

impl<T> Awaited<T> {
    fn new() -> Self {
        Self(Box::leak(Box::new(spin::Mutex::new(None))))
    }

    /// It is made.
    fn give(self, made: T) {
        *self.0.lock() = Some(ManuallyDrop::new(made));
        if let Some(control) = cores::control() {
            control.wake();
        }
    }

    /// Sleeps until it is made: a core that spins takes time from its sibling, and a virtual one from all others. To be
    /// called once, by control's core or by the one that makes it.
    fn take(self) -> T {
        loop {
            if let Some(made) = self.0.lock().take() {
                return ManuallyDrop::into_inner(made);
            }
            cores::sleep(None, || self.0.lock().is_some());
        }
    }
}

/// Has the first worker's core do something before it does what it is given next; this one if there is no other.
fn elsewhere(job: impl FnOnce() + Send + 'static) {
    match cores::worker(0).filter(|core| core.index != 0) {
        Some(core) => core.run(Box::new(job)),
        None => job(),
    }
}

/// Runs the node on these devices, as it was asked to at boot; `log` is the level that the command line wants, and
/// `packed` whether it wants packed rings.
pub fn run(pci: &[Arc<PciDevice>], reading: Awaited<Boot>, log: Option<LevelFilter>, packed: bool) -> ! {
    let ask_entropy = random::init(|| devices::entropy(pci));
    let (free_bytes, _) = memory::usage();
    let wanted = cores::workers().min(MAX_WORKERS) as u16;
    let found = devices::find_ports(pci, wanted, free_bytes, packed);
    let plan = found.plan;
    let count = usize::from(plan.workers);
    let (Ok(fib4), Ok(fib6)) = (Fib4Writer::new(), Fib6Writer::new()) else {
        panic!("no memory for route tables")
    };
    let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), count, hash_seed(), Box::new(CoreWake));
    let platform = Box::new(Machine::new(devices::disk(pci), log, count));
    let (beginning, remainder) =
        Control::begin(platform, shared.clone(), (fib4, fib6), found.ports(), time::now_ns());
    let begun = Awaited::new();
    elsewhere(move || begun.give(beginning.run(reading.take())));
    // While the router is made.
    let Ports { controls, queues } = found.open();
    let pool = buffer_pool(plan.buffers);
    boot_stages::reached("devices");
    let worker = |(index, ports)| {
        let worker = Worker::new(shared.clone(), index, ports, pool.cache());
        Sleeper::new(worker, shared.clone(), index)
    };
    let mut workers: Vec<Sleeper> = (0..).zip(dataplane::deal(queues, count)).map(worker).collect();
    // A worker with a core of its own warms up while control does: until there are tables it drops what comes.
    let only_worker = if cores::all().len() == 1 { workers.pop() } else { None };
    workers.into_iter().for_each(workers::start);
    boot_stages::reached("workers");
    let mut control =
        Box::new(remainder.finish(controls, pool.cache(), Box::new(|| begun.take()), time::now_ns()));
    boot_stages::reached("ready");
    let mut later = Later {
        ready_ns: time::now_ns(),
        pci,
        ask_entropy,
        clock_settled: false,
        calendar_read: false,
        silent: true,
    };
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
    clock_settled: bool,
    calendar_read: bool,
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
        if !self.clock_settled {
            let settle_ns = self.ready_ns + CLOCK_AFTER_NS;
            self.clock_settled = now_ns >= settle_ns && time::finish();
            due_ns = due_ns.min(settle_ns.max(now_ns + CLOCK_AGAIN_NS));
        }
        if !self.calendar_read {
            let read_ns = self.ready_ns + SILENT_NS;
            self.calendar_read = now_ns >= read_ns && time::calendar::read();
            due_ns = due_ns.min(read_ns.max(now_ns + CLOCK_AGAIN_NS));
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
