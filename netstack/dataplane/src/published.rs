//! What control publishes and workers read: the newest, and what was replaced and a worker may still hold.

use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::mutex::SpinMutex;

/// The place of one kind of snapshot.
pub(crate) struct Published<T> {
    newest: SpinMutex<Arc<T>>,
    /// Replaced ones, so that no worker is the one to free them.
    retired: SpinMutex<Vec<Arc<T>>>,
}

impl<T: Default> Default for Published<T> {
    fn default() -> Self {
        Self { newest: SpinMutex::default(), retired: SpinMutex::default() }
    }
}

impl<T> Published<T> {
    /// The newest.
    pub fn get(&self) -> Arc<T> {
        self.newest.lock().clone()
    }

    /// Replaces the newest.
    pub fn replace(&self, next: T) {
        // Workers wait for this lock: it is held for an exchange of pointers.
        let next = Arc::new(next);
        let replaced = core::mem::replace(&mut *self.newest.lock(), next);
        self.retired.lock().push(replaced);
    }

    /// Frees what no worker holds any more.
    pub fn free_retired(&self) {
        self.retired.lock().retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_kept() {
        let place = Published::<u32>::default();
        let held = place.get();
        let watch = Arc::downgrade(&held);
        place.replace(7);
        place.free_retired();
        assert_eq!((*place.get(), *held), (7, 0));
        drop(held);
        assert!(watch.upgrade().is_some(), "freed by who held it");
        place.free_retired();
        assert!(watch.upgrade().is_none());
    }
}
