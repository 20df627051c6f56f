//! The node: devices, buffers, workers, control, put together and set going.

use crate::bus::PciDevice;
use crate::devices::{self, Ports};
use crate::platform::Machine;
use crate::workers::{self, CoreWake, Sleeper};
use crate::{boot_stages, cores, memory, random, time};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use buffer::{BUFFER_BYTES, BufferPool};
use control::{Boot, Control, Parts};
use dataplane::{MAX_WORKERS, Shared, Worker};
use fib::{Fib4Writer, Fib6Writer};
use log::{LevelFilter, info};

/// Page size of what is mapped with one entry.
const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// Runs the node on these devices, as it was asked to at boot; `log` is the level that the command line wants, and
/// `packed` whether it wants packed rings.
pub fn run(pci: &[Arc<PciDevice>], boot: Boot, log: Option<LevelFilter>, packed: bool) -> ! {
    random::init(devices::entropy(pci));
    let (free_bytes, _) = memory::usage();
    let wanted = cores::workers().min(MAX_WORKERS) as u16;
    let (Ports { controls, queues }, plan) = devices::ports(pci, wanted, free_bytes, packed);
    let count = usize::from(plan.workers);
    boot_stages::reached("devices");

    let pool = buffer_pool(plan.buffers);
    let (fib4, fib6) = match (Fib4Writer::new(), Fib6Writer::new()) {
        (Ok(fib4), Ok(fib6)) => (fib4, fib6),
        (Err(error), _) | (_, Err(error)) => panic!("no memory for route tables: {error}"),
    };
    let shared = Shared::new(fib4.fib().clone(), fib6.fib().clone(), count, hash_seed(), Box::new(CoreWake));
    let worker = |(index, ports)| {
        let worker = Worker::new(shared.clone(), index, ports, pool.cache());
        Sleeper::new(worker, shared.clone(), index)
    };
    let mut workers: Vec<Sleeper> = (0..).zip(dataplane::deal(queues, count)).map(worker).collect();
    let platform = Box::new(Machine::new(devices::disk(pci), log, count));
    let parts = Parts { platform, shared, fib4, fib6, ports: controls, cache: pool.cache(), boot };
    let mut control = Box::new(Control::new(parts, time::now_ns()));
    boot_stages::reached("ready");
    if cores::all().len() == 1
        && let Some(worker) = workers.pop()
    {
        workers::run_both(worker, move |now_ns| control.poll(now_ns))
    }
    workers.into_iter().for_each(workers::start);
    workers::run_control(move |now_ns| control.poll(now_ns))
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
