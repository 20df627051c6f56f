//! The threads that move packets.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use buffer::BufferPool;
use dataplane::{InterfaceId, Shared, Worker};

use super::port::Queue;
use super::sleep::Sleeper;

/// Polls that find nothing before a worker sleeps: a burst's next packet is likely to be near.
const IDLE_POLLS: u32 = 16;
/// Longest sleep: nothing depends on it, it only bounds what a mistake could cost.
const MAX_SLEEP_MS: i32 = 1000;

/// One worker's queues, with the interface of each.
pub type Queues = Vec<(InterfaceId, Queue)>;

/// Starts worker `id`. It ends with the process.
pub fn start(
    shared: Arc<Shared>,
    id: usize,
    queues: Queues,
    pool: &'static BufferPool,
    sleeper: Arc<Sleeper>,
    start: Instant,
) -> io::Result<()> {
    let readable: Vec<Arc<OwnedFd>> = queues.iter().map(|(_, queue)| queue.readable.clone()).collect();
    let ports = queues.into_iter().map(|(interface, queue)| (interface, queue.queue)).collect();
    let worker = Worker::new(shared, id, ports, pool.cache());
    let body = move || work(worker, &readable, &sleeper, start);
    let _ = thread::Builder::new().name(format!("worker-{id}")).spawn(body)?;
    Ok(())
}

fn work(mut worker: Worker, readable: &[Arc<OwnedFd>], sleeper: &Sleeper, start: Instant) {
    let descriptors: Vec<RawFd> = readable.iter().map(AsRawFd::as_raw_fd).collect();
    let mut idle_polls = 0;
    loop {
        if worker.poll(now_ns(start)) > 0 {
            idle_polls = 0;
            continue;
        }
        idle_polls += 1;
        if idle_polls < IDLE_POLLS {
            std::hint::spin_loop();
            continue;
        }
        idle_polls = 0;
        sleeper.lie_down();
        if !worker.arm() {
            sleeper.sleep(&descriptors, MAX_SLEEP_MS);
        }
        sleeper.get_up();
        worker.disarm();
    }
}

/// Nanoseconds since the start of the process, the time of everything here.
pub fn now_ns(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
