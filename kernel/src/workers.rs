//! The loops that keep the cores busy: the dataplane's on each worker core, control's on its own; both in
//! turn where there is one core only.
//!
//! A core polls while there is something to do and for [`LINGER_NS`] longer, and then sleeps until an
//! interrupt: of a device, of another core, or of the timer.

use crate::{boot_stages, cores, time};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use dataplane::{Node, Shared, Wake, Worker};

/// How long a worker goes on polling after the last packet. Shorter than it takes to fall asleep and to be
/// woken would only cost; longer would burn a core between the packets of slow traffic.
const LINGER_NS: u64 = 50_000;

/// How long control waits at most while its core forwards packets.
const CONTROL_EVERY_NS: u64 = 1_000_000;

/// How often a port may refuse sleep for nothing before it is taken for one that cannot interrupt.
const REFUSALS: u32 = 8;

/// How long a worker sleeps at most that has such a port.
const NAP_NS: u64 = 2_000_000;

/// Set when something waits for control.
static CONTROL_DUE: AtomicBool = AtomicBool::new(false);

/// The worker of a core that has control too, while control has the core.
static RESTING: spin::Mutex<Option<Box<Sleeper>>> = spin::Mutex::new(None);

static FORWARDED: AtomicBool = AtomicBool::new(false);

/// Whether a packet was forwarded since boot.
pub fn has_forwarded() -> bool {
    FORWARDED.load(Ordering::Relaxed)
}

/// Wakes cores by inter-processor interrupts.
pub struct CoreWake;

impl Wake for CoreWake {
    fn wake_worker(&self, worker: usize) {
        if let Some(core) = cores::worker(worker) {
            core.wake();
        }
    }

    fn wake_control(&self) {
        CONTROL_DUE.store(true, Ordering::Release);
        if let Some(core) = cores::control() {
            core.wake();
        }
    }
}

/// A worker that knows when to sleep.
pub struct Sleeper {
    worker: Worker,
    shared: Arc<Shared>,
    index: usize,
    /// When there was something to do last.
    busy_ns: u64,
    /// How often in a row a port did not let the worker sleep, and then had nothing.
    refused: u32,
    /// Packets that were made here, and that were sent, when last looked at.
    made_and_sent: (u64, u64),
}

impl Sleeper {
    /// Worker `index` of `shared`.
    pub fn new(worker: Worker, shared: Arc<Shared>, index: usize) -> Self {
        Self { worker, shared, index, busy_ns: time::now_ns(), refused: 0, made_and_sent: (0, 0) }
    }

    /// Polls once. True: the core may sleep.
    fn poll(&mut self, now_ns: u64) -> bool {
        if self.worker.poll(now_ns) > 0 {
            self.busy_ns = now_ns;
            self.refused = 0;
            if !FORWARDED.load(Ordering::Relaxed) {
                self.note_first_forwarded();
            }
        }
        now_ns.saturating_sub(self.busy_ns) > LINGER_NS
    }

    /// Notes the last stage of boot when this worker has forwarded a packet: sent one in a poll in which neither control
    /// nor the dataplane made any, and no other worker handed one over, which may be either's.
    #[cold]
    fn note_first_forwarded(&mut self) {
        const MADE_HERE: [Node; 6] = [
            Node::Inject,
            Node::HandoffInput,
            Node::Ip4Local,
            Node::Ip6Local,
            Node::Icmp4Error,
            Node::Icmp6Error,
        ];
        let (mut made, mut sent) = (0, 0);
        for (node, counters) in self.shared.node_counters(self.index) {
            if MADE_HERE.contains(&node) {
                made += counters.packets;
            } else if node == Node::InterfaceOutput {
                sent += counters.packets;
            }
        }
        let before = core::mem::replace(&mut self.made_and_sent, (made, sent));
        if made == before.0 && sent > before.1 && !FORWARDED.swap(true, Ordering::Relaxed) {
            boot_stages::reached("first packet forwarded");
        }
    }

    /// Sleeps until `deadline_ns`, or until there is work for the worker or, by `ready`, for others on its core.
    ///
    /// A port that cannot interrupt never lets the worker sleep: then it naps.
    fn sleep(&mut self, deadline_ns: Option<u64>, ready: impl FnOnce() -> bool) {
        let mut refused = false;
        if self.refused < REFUSALS {
            cores::sleep(deadline_ns, || {
                refused = self.worker.arm();
                refused || ready()
            });
        } else {
            let nap_ends_ns = time::now_ns() + NAP_NS;
            refused = true;
            cores::sleep(Some(deadline_ns.map_or(nap_ends_ns, |due| due.min(nap_ends_ns))), || {
                let _ = self.worker.arm();
                ready()
            });
        }
        self.worker.disarm();
        self.refused = if refused { self.refused.saturating_add(1) } else { 0 };
        self.busy_ns = if self.refused > REFUSALS { 0 } else { time::now_ns() };
    }
}

/// Runs a worker on its core.
pub fn start(mut worker: Sleeper) {
    let Some(core) = cores::worker(worker.index) else { return };
    core.run(Box::new(move || {
        loop {
            if worker.poll(time::now_ns()) {
                worker.sleep(None, || false);
            }
        }
    }));
}

/// Runs control on this core. `poll` takes the time and says when it wants to be called again at the latest.
pub fn run_control(mut poll: impl FnMut(u64) -> u64) -> ! {
    loop {
        cores::take_interrupts();
        let deadline_ns = poll(time::now_ns());
        cores::sleep(Some(deadline_ns), || CONTROL_DUE.swap(false, Ordering::Acquire));
    }
}

/// The clock of control when it waits for a device: where it shares its core with the worker, packets go on meanwhile.
pub fn waiting() -> u64 {
    let now_ns = time::now_ns();
    if let Some(mut resting) = RESTING.try_lock()
        && let Some(worker) = resting.as_mut()
    {
        let _ = worker.poll(now_ns);
    }
    now_ns
}

/// Runs control and the only worker in turn on this core.
pub fn run_both(worker: Sleeper, mut poll: impl FnMut(u64) -> u64) -> ! {
    let mut worker = Box::new(worker);
    let mut polled_ns = 0;
    let mut deadline_ns = 0;
    loop {
        let now_ns = time::now_ns();
        let idle = worker.poll(now_ns);
        let late = now_ns.saturating_sub(polled_ns) >= CONTROL_EVERY_NS || deadline_ns <= now_ns;
        if CONTROL_DUE.swap(false, Ordering::Acquire) || late {
            // Under load this core never sleeps, and would never hear of a link that changes.
            cores::take_interrupts();
            *RESTING.lock() = Some(worker);
            deadline_ns = poll(now_ns);
            worker = match RESTING.lock().take() {
                Some(worker) => worker,
                None => unreachable!("nobody else takes it"),
            };
            polled_ns = now_ns;
        } else if idle {
            worker.sleep(Some(deadline_ns), || CONTROL_DUE.load(Ordering::Acquire));
            // The interrupt may have been control's.
            polled_ns = 0;
        }
    }
}
