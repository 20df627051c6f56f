//! The processor's own counters, where the system lets a process have them.

use anyhow::Result;

/// Core cycles and instructions of this thread in user mode.
pub struct CoreCounters {
    group: perf_event::Group,
    cycles: perf_event::Counter,
    instructions: perf_event::Counter,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreCounts {
    /// Core cycles.
    pub cycles: u64,
    /// Instructions.
    pub instructions: u64,
}

impl CoreCounters {
    /// None: the system does not let this process count, or the machine has no counters.
    pub fn open() -> Option<Self> {
        Self::try_open().ok()
    }

    fn try_open() -> Result<Self> {
        use perf_event::events::Hardware;
        let mut group = perf_event::Group::new()?;
        let cycles = group.add(&perf_event::Builder::new(Hardware::CPU_CYCLES))?;
        let instructions = group.add(&perf_event::Builder::new(Hardware::INSTRUCTIONS))?;
        Ok(Self { group, cycles, instructions })
    }

    /// Counts while `work` runs. None: the counters could not be read.
    pub fn count(&mut self, work: impl FnOnce()) -> Option<CoreCounts> {
        self.group.reset().and_then(|()| self.group.enable()).ok()?;
        work();
        self.group.disable().ok()?;
        let counts = self.group.read().ok()?;
        let value = |counter| counts.get(counter).map(|entry| entry.value());
        Some(CoreCounts { cycles: value(&self.cycles)?, instructions: value(&self.instructions)? })
    }
}

/// Keeps this thread on one core. False: the system does not allow it.
pub fn pin_to_one_core() -> bool {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return false };
    let Some(last) = (0..rustix::thread::CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)) else {
        return false;
    };
    let mut one = rustix::thread::CpuSet::new();
    one.set(last);
    rustix::thread::sched_setaffinity(None, &one).is_ok()
}
