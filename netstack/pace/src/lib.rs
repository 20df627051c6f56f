//! Long work in short pieces, for a core that has something better to do.
//!
//! 1. Work is an `async` function that says with [`Pace::spend`] what it is about to do, item by item;
//! 2. a [`Task`] holds it, and [`Task::advance`] lets it spend so much, no more;
//! 3. [`at_once`] runs the same function from beginning to end, where nobody waits.
//!
//! A unit is what costs about a microsecond. It knows no clock, so the same work always stops at the same places; it does not
//! wait for anything but its turn, and nothing wakes it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};

/// What a piece of work may still spend in this turn.
#[derive(Clone, Debug)]
pub struct Pace(Rc<Cell<u64>>);

impl Pace {
    fn new(units: u64) -> Self {
        Self(Rc::new(Cell::new(units)))
    }

    /// Takes `units` from the turn; with nothing left, waits for the next turn first. What is dearer than a whole turn is
    /// done in one nevertheless.
    pub async fn spend(&self, units: u64) {
        if self.0.get() == 0 {
            self.next_turn().await;
        }
        self.0.set(self.0.get().saturating_sub(units));
    }

    async fn next_turn(&self) {
        poll_fn(|_| if self.0.get() == 0 { Poll::Pending } else { Poll::Ready(()) }).await;
    }
}

/// Work on its way.
pub struct Task<T> {
    work: Pin<Box<dyn Future<Output = T>>>,
    pace: Pace,
}

impl<T> Task<T> {
    /// Work that has not begun.
    pub fn new<F: Future<Output = T> + 'static>(work: impl FnOnce(Pace) -> F) -> Self {
        let pace = Pace::new(0);
        Self { work: Box::pin(work(pace.clone())), pace }
    }

    /// Lets it spend `units`. The result, when it is done; it is not to be asked again then.
    pub fn advance(&mut self, units: u64) -> Option<T> {
        self.pace.0.set(units);
        match self.work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }
}

/// Does all of it now.
pub fn at_once<T, F: Future<Output = T>>(work: impl FnOnce(Pace) -> F) -> T {
    let pace = Pace::new(u64::MAX);
    let mut work = pin!(work(pace.clone()));
    loop {
        if let Poll::Ready(result) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return result;
        }
        pace.0.set(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sum(pace: Pace, upto: u64) -> u64 {
        let mut sum = 0;
        for number in 1..=upto {
            pace.spend(1).await;
            sum += number;
        }
        sum
    }

    #[test]
    fn so_much_a_turn() {
        let mut task = Task::new(|pace| sum(pace, 10));
        let turns = (1..).find(|_| match task.advance(3) {
            Some(result) => {
                assert_eq!(result, 55);
                true
            }
            None => false,
        });
        assert_eq!(turns, Some(4));
    }

    #[test]
    fn what_is_too_dear_is_done_nevertheless() {
        let mut task = Task::new(|pace| async move {
            pace.spend(1_000).await;
            pace.spend(1_000).await;
        });
        assert!(task.advance(1).is_none());
        assert!(task.advance(1).is_some());
    }

    #[test]
    fn all_of_it_at_once() {
        assert_eq!(at_once(|pace| sum(pace, 1_000)), 500_500);
    }
}
