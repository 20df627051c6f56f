//! Threads that sleep when there is nothing to do, and how they are woken without a system call when they do not.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use dataplane::Wake;

use super::sys;

/// One thread's bed.
pub struct Sleeper {
    event: OwnedFd,
    /// The thread is about to sleep, or sleeps.
    asleep: AtomicBool,
}

impl Sleeper {
    /// A thread that is awake.
    pub fn new() -> io::Result<Arc<Sleeper>> {
        Ok(Arc::new(Sleeper { event: sys::event()?, asleep: AtomicBool::new(false) }))
    }

    /// Wakes the thread if it sleeps. Comes after what it is to see was put in its place.
    pub fn wake(&self) {
        // Either this thread sees that the other is about to sleep, or the other one sees the work when it looks again:
        // both have a fence between their store and their load.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            sys::signal(self.event.as_fd());
        }
    }

    /// The thread is about to sleep: after this it looks for work once more, and then calls [`Sleeper::sleep`].
    pub fn lie_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Sleeps until woken, until one of `fds` is readable, or until the time is over.
    pub fn sleep(&self, fds: &[RawFd], timeout_ms: i32) {
        let mut all = heapless::Vec::<RawFd, { sys::MAX_WAIT }>::new();
        let _ = all.push(self.event.as_raw_fd());
        for &fd in fds {
            let _ = all.push(fd);
        }
        let _ = sys::wait_readable(&all, timeout_ms);
    }

    /// The thread is awake again, whether it slept or not.
    pub fn get_up(&self) {
        if !self.asleep.swap(false, Ordering::Relaxed) {
            sys::clear(self.event.as_fd());
        }
    }
}

/// Wakes the threads of this process.
pub struct Sleepers {
    /// One for each worker.
    pub workers: Vec<Arc<Sleeper>>,
    /// Control's.
    pub control: Arc<Sleeper>,
}

impl Wake for Sleepers {
    fn wake_worker(&self, worker: usize) {
        if let Some(sleeper) = self.workers.get(worker) {
            sleeper.wake();
        }
    }

    fn wake_control(&self) {
        self.control.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    #[test]
    fn no_wake_up_is_lost() {
        let sleeper = Sleeper::new().expect("the system has eventfds");
        let work = Arc::new(AtomicU64::new(0));
        let (theirs, their_work) = (sleeper.clone(), work.clone());
        const ITEMS: u64 = 20_000;
        let consumer = thread::spawn(move || {
            let mut done = 0;
            while done < ITEMS {
                done = their_work.load(Ordering::Relaxed);
                theirs.lie_down();
                if their_work.load(Ordering::Relaxed) == done && done < ITEMS {
                    // Without a time limit: a lost wake-up would sleep for ever.
                    theirs.sleep(&[], -1);
                }
                theirs.get_up();
            }
        });
        for _ in 0..ITEMS {
            let _ = work.fetch_add(1, Ordering::Relaxed);
            sleeper.wake();
        }
        consumer.join().expect("the consumer ends");
    }
}
