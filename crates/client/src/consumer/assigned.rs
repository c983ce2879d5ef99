//! A queue that this consumer has at present: its window, its offset, its end.
//!
//! Locks: `window` and `progress` are leaves, never held together nor across a wait.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wire::{MASTER_ID, MessageQueue, QueueOffset};

use super::process_queue::ProcessQueue;
use super::received::ReceivedMessage;
use crate::limits::{LOCK_LIFE, OFFSET_REPEAT_ROUNDS};

pub(crate) struct Assigned {
    pub(crate) queue: Arc<MessageQueue>,
    window: Mutex<ProcessQueue<ReceivedMessage>>,
    /// The window has room again, or has something new.
    pub(crate) changed: Notify,
    /// Ours no more: nothing further is fetched, given to the listener or counted as consumed.
    pub(crate) dropped: CancellationToken,
    /// Orderly: its task has ended, no listener call is under way any more.
    is_finished: AtomicBool,
    /// Its offset was set and is on its way to the store; until then nobody may begin with the queue.
    is_settling: AtomicBool,
    progress: Mutex<Progress>,
    /// Whom to pull from.
    pub(crate) suggested_broker_id: AtomicI64,
    /// Orderly: when the broker last confirmed our lock, on the client's clock. 0: it did not.
    locked_at_ms: AtomicU64,
}

/// What has been consumed, and what the store of offsets knows of it.
#[derive(Debug)]
struct Progress {
    consumed: QueueOffset,
    stored: QueueOffset,
    /// Rounds since it was stored.
    rounds: u32,
}

impl Assigned {
    /// A queue that begins at its stored offset.
    pub(crate) fn new(queue: MessageQueue, stored: QueueOffset) -> Assigned {
        Assigned {
            queue: Arc::new(queue),
            window: Mutex::new(ProcessQueue::new()),
            changed: Notify::new(),
            dropped: CancellationToken::new(),
            is_finished: AtomicBool::new(false),
            is_settling: AtomicBool::new(false),
            progress: Mutex::new(Progress { consumed: stored, stored, rounds: 0 }),
            suggested_broker_id: AtomicI64::new(MASTER_ID),
            locked_at_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn window(&self) -> MutexGuard<'_, ProcessQueue<ReceivedMessage>> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.is_cancelled()
    }

    pub(crate) fn finish(&self) {
        self.is_finished.store(true, Ordering::Release);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished.load(Ordering::Acquire)
    }

    /// Messages are done with; what may be committed moves on, never back.
    pub(crate) fn done(&self, offsets: impl IntoIterator<Item = QueueOffset>) {
        let reached = self.window().done(offsets);
        if let Some(reached) = reached {
            self.advance(reached);
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn advance(&self, offset: QueueOffset) {
        if self.is_dropped() {
            return;
        }
        let mut progress = self.progress();
        progress.consumed = progress.consumed.max(offset);
    }

    /// Sets the offset, also back; nothing of this assignment counts any more. To be followed by
    /// `settled`, when the offset is stored.
    pub(crate) fn reset(&self, offset: QueueOffset) {
        self.is_settling.store(true, Ordering::Release);
        self.dropped.cancel();
        self.window().clear();
        self.progress().consumed = offset;
    }

    pub(crate) fn settled(&self) {
        self.is_settling.store(false, Ordering::Release);
    }

    pub(crate) fn is_settling(&self) -> bool {
        self.is_settling.load(Ordering::Acquire)
    }

    /// What may be committed.
    pub(crate) fn consumed(&self) -> QueueOffset {
        self.progress().consumed
    }

    /// What this round has to store: what changed, and from time to time what did not.
    pub(crate) fn due(&self) -> Option<QueueOffset> {
        let mut progress = self.progress();
        progress.rounds += 1;
        let is_due = progress.stored != progress.consumed || progress.rounds >= OFFSET_REPEAT_ROUNDS;
        is_due.then_some(progress.consumed)
    }

    pub(crate) fn stored(&self, offset: QueueOffset) {
        let mut progress = self.progress();
        progress.stored = offset;
        progress.rounds = 0;
    }

    pub(crate) fn locked(&self, now_ms: u64) {
        self.locked_at_ms.store(now_ms.max(1), Ordering::Release);
    }

    /// Whether the broker's lock still counts (ProcessQueue.isLockExpired).
    pub(crate) fn has_lock(&self, now_ms: u64) -> bool {
        let at = self.locked_at_ms.load(Ordering::Acquire);
        at != 0 && now_ms.saturating_sub(at) <= LOCK_LIFE.as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(stored: u64) -> Assigned {
        Assigned::new(MessageQueue::new("t", "b", 0), QueueOffset(stored))
    }

    #[test]
    fn offsets_move_on_and_are_stored_when_they_changed() {
        let queue = assigned(5);
        assert_eq!(queue.due(), None);
        queue.advance(QueueOffset(9));
        queue.advance(QueueOffset(7));
        assert_eq!(queue.due(), Some(QueueOffset(9)));
        queue.stored(QueueOffset(9));
        let rounds: Vec<_> = (0..OFFSET_REPEAT_ROUNDS).map(|_| queue.due().is_some()).collect();
        assert_eq!(rounds.iter().filter(|due| **due).count(), 1, "one repetition: {rounds:?}");
    }

    #[test]
    fn a_dropped_queue_counts_nothing_more() {
        let queue = assigned(5);
        queue.reset(QueueOffset(2));
        queue.advance(QueueOffset(9));
        assert_eq!(queue.consumed(), QueueOffset(2));
        assert!(queue.is_settling());
        queue.settled();
        assert!(!queue.is_settling());
    }

    #[test]
    fn a_lock_lasts_thirty_seconds() {
        let queue = assigned(0);
        assert!(!queue.has_lock(0));
        queue.locked(0);
        assert!(queue.has_lock(30_001));
        assert!(!queue.has_lock(30_002));
    }
}
