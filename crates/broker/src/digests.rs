//! Digests of the tables at one entry, so that running replicas can be compared under load: who asks names an entry that is
//! to come, and each replica's `apply` notes its tables right behind it.
//!
//! ```text
//! 30003, index 500 ──▶ at(500) ┐                          ┌──▶ the digest behind 500
//!                              └── apply … 498 499 500 ───┘
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::limits::DIGESTS_WAITING_MAX;
use crate::state::{State, TablesDigest};

/// Who waits, by the index of the entry.
type Waiting = BTreeMap<u64, Vec<oneshot::Sender<TablesDigest>>>;

/// See the module.
pub(crate) struct Digests {
    waiting: Mutex<Waiting>,
    /// The first index in it; the greatest there is when nobody waits. Without the lock, for `apply` looks at every entry.
    first: AtomicU64,
}

impl Digests {
    pub(crate) fn new() -> Digests {
        Digests { waiting: Mutex::default(), first: AtomicU64::new(u64::MAX) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_first(&self, waiting: &Waiting) {
        let first = waiting.first_key_value().map_or(u64::MAX, |(index, _)| *index);
        self.first.store(first, Ordering::SeqCst);
    }

    /// What the tables are right behind an entry, once it is applied. Nothing comes when it is applied already: look for that
    /// after this call. `None`: too many wait.
    pub(crate) fn at(&self, index: u64) -> Option<oneshot::Receiver<TablesDigest>> {
        let mut waiting = self.waiting();
        // Whose requests have been given up.
        waiting.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        if waiting.values().map(Vec::len).sum::<usize>() >= DIGESTS_WAITING_MAX {
            return None;
        }
        let (tx, rx) = oneshot::channel();
        waiting.entry(index).or_default().push(tx);
        self.note_first(&waiting);
        Some(rx)
    }

    /// An entry is applied, and nothing behind it.
    pub(crate) fn applied(&self, index: u64, state: &State) {
        if index < self.first.load(Ordering::SeqCst) {
            return;
        }
        let here = {
            let mut waiting = self.waiting();
            let later = waiting.split_off(&(index + 1));
            let mut passed = std::mem::replace(&mut *waiting, later);
            self.note_first(&waiting);
            // Those before it came too late: their senders are dropped.
            passed.remove(&index).unwrap_or_default()
        };
        if here.iter().all(oneshot::Sender::is_closed) {
            return;
        }
        let digest = replica::aside(|| state.digest());
        for sender in here {
            // Who asked may have gone meanwhile.
            let _ = sender.send(digest.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gets_the_entry_that_it_named() {
        let (digests, state) = (Digests::new(), State::new());
        let (mut five, mut six) = (digests.at(5).unwrap(), digests.at(6).unwrap());
        digests.applied(4, &state);
        assert!(five.try_recv().is_err());
        digests.applied(5, &state);
        assert_eq!(five.try_recv().unwrap(), state.digest());
        assert!(matches!(six.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        // It was passed: a snapshot brought entries 6 and 7 at once.
        digests.applied(8, &state);
        assert!(matches!(six.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert_eq!(digests.first.load(Ordering::SeqCst), u64::MAX);
    }

    #[test]
    fn who_has_gone_takes_nobodys_place() {
        let digests = Digests::new();
        let held: Vec<_> = (0..DIGESTS_WAITING_MAX as u64).map(|index| digests.at(index).unwrap()).collect();
        assert!(digests.at(99).is_none());
        drop(held);
        assert!(digests.at(99).is_some());
    }
}
