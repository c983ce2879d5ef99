//! Offset commits of consumers, merged (log.md 13).
//!
//! A Java consumer sends every queue's offset every 5 s, changed or not, and may send one with every pull; each as
//! an entry of its own would fill the log with nothing. So commits that nobody waits for are collected here:
//! unchanged ones are dropped, later ones replace earlier ones, and a batch leaves once a second or when 1,000
//! changes have come together. What waits here is not acknowledged to anybody; a crash may repeat it.
//!
//! Pure: no lock and no clock; one task of the leader owns it.

use std::collections::BTreeMap;

use wire::{QueueId, QueueOffset};

use super::command::{Command, CommitOffsets, Kind};
use super::limits;
use super::{CommitKey, GroupId, TopicId};

/// What became of a commit that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It will leave with the next batch.
    Merged,
    /// It says what is stored already.
    Unchanged,
    /// Too many are waiting; it was dropped, and a later one will say more.
    Full,
}

type At = (TopicId, GroupId, QueueId);

/// See the module.
#[derive(Debug, Default)]
pub struct CommitMerger {
    pending: BTreeMap<At, QueueOffset>,
    /// The last batch that left: it may not be in the tables yet.
    sent: BTreeMap<At, QueueOffset>,
    /// When the oldest pending commit came.
    since_ms: u64,
    /// When the last batch left.
    left_ms: Option<u64>,
}

impl CommitMerger {
    /// Nothing pending.
    pub fn new() -> CommitMerger {
        CommitMerger::default()
    }

    /// Adds a commit. `stored` is what the tables hold now; `now_ms` any clock that does not go back. The queue
    /// has been checked against `key.queues`.
    pub fn add(
        &mut self,
        key: CommitKey,
        queue: QueueId,
        offset: QueueOffset,
        stored: Option<QueueOffset>,
        now_ms: u64,
    ) -> Added {
        let at = (key.topic, key.group, queue);
        if let Some(waiting) = self.pending.get_mut(&at) {
            *waiting = offset;
            return Added::Merged;
        }
        // Going back to what is stored is a change while something else is on its way there.
        if stored == Some(offset) && self.sent.get(&at).is_none_or(|sent| *sent == offset) {
            return Added::Unchanged;
        }
        if self.pending.len() >= limits::COMMIT_PENDING_MAX {
            return Added::Full;
        }
        if self.pending.is_empty() {
            self.since_ms = now_ms;
        }
        self.pending.insert(at, offset);
        Added::Merged
    }

    /// The commit that waits for a queue. A query (14) of a group that has one should see it proposed first.
    pub fn pending(&self, key: CommitKey, queue: QueueId) -> Option<QueueOffset> {
        self.pending.get(&(key.topic, key.group, queue)).copied()
    }

    /// A commit that was made otherwise (two-way, by an administrator) replaces one that waits.
    pub fn forget(&mut self, key: CommitKey, queue: QueueId) {
        self.pending.remove(&(key.topic, key.group, queue));
    }

    /// When [`take`](Self::take) will have something, by the clock of `add`; `None` while nothing is pending.
    pub fn due_at_ms(&self) -> Option<u64> {
        if self.pending.is_empty() {
            return None;
        }
        if self.pending.len() >= limits::COMMIT_BATCH_CHANGES {
            return Some(self.since_ms);
        }
        // After a quiet second the first commit leaves at once; after that, at most one batch a second.
        let next = self.left_ms.map_or(0, |left| left.saturating_add(limits::COMMIT_BATCH_INTERVAL_MS));
        Some(next.max(self.since_ms))
    }

    /// The next batch, if one is due.
    pub fn take(&mut self, now_ms: u64) -> Option<CommitBatch> {
        if self.due_at_ms()? > now_ms {
            return None;
        }
        self.left_ms = Some(now_ms);
        self.take_now()
    }

    /// A batch whether due or not: before a query is answered, or when leadership is given away.
    pub fn take_now(&mut self) -> Option<CommitBatch> {
        if self.pending.is_empty() {
            return None;
        }
        let mut batch = CommitBatch::default();
        self.sent.clear();
        while batch.len() < limits::COMMIT_CHANGES_PER_ENTRY_MAX {
            let Some((at, offset)) = self.pending.pop_first() else { break };
            self.sent.insert(at, offset);
            let (topic, group, queue) = at;
            batch.push(topic, group, queue, offset);
        }
        Some(batch)
    }

    /// Drops everything: this node leads no more, and the clients will commit at the new leader.
    pub fn clear(&mut self) {
        self.pending.clear();
        self.sent.clear();
    }

    /// Number of commits that wait.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

/// Offsets for one entry of the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommitBatch(CommitOffsets);

impl CommitBatch {
    /// One commit that somebody waits for (a two-way 15).
    pub fn single(key: CommitKey, queue: QueueId, offset: QueueOffset) -> CommitBatch {
        let mut batch = CommitBatch::default();
        batch.push(key.topic, key.group, queue, offset);
        batch
    }

    fn push(&mut self, topic: TopicId, group: GroupId, queue: QueueId, offset: QueueOffset) {
        self.0.topics.push(topic.0);
        self.0.groups.push(group.0);
        self.0.queues.push(queue.0);
        self.0.offsets.push(offset.0);
    }

    /// Number of commits.
    pub fn len(&self) -> usize {
        self.0.offsets.len()
    }

    /// Whether it holds none; never true of a batch from [`CommitMerger`].
    pub fn is_empty(&self) -> bool {
        self.0.offsets.is_empty()
    }

    /// The entry to propose; not a barrier.
    pub fn into_command(self) -> Command {
        Kind::CommitOffsets(self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(topic: u32, group: u32) -> CommitKey {
        CommitKey { topic: TopicId(topic), group: GroupId(group), queues: 8 }
    }

    #[test]
    fn merges_drops_and_paces() {
        let mut m = CommitMerger::new();
        assert_eq!(m.due_at_ms(), None);
        assert_eq!(m.add(key(1, 1), QueueId(0), QueueOffset(5), Some(QueueOffset(5)), 100), Added::Unchanged);
        assert!(m.is_empty());

        assert_eq!(m.add(key(1, 1), QueueId(0), QueueOffset(6), Some(QueueOffset(5)), 100), Added::Merged);
        assert_eq!(m.due_at_ms(), Some(100), "the first one after a quiet time leaves at once");
        assert_eq!(m.take(100).unwrap().len(), 1);

        m.add(key(1, 1), QueueId(0), QueueOffset(7), None, 150);
        m.add(key(1, 1), QueueId(0), QueueOffset(8), None, 160);
        m.add(key(1, 2), QueueId(3), QueueOffset(1), None, 170);
        assert_eq!(m.pending(key(1, 1), QueueId(0)), Some(QueueOffset(8)));
        assert_eq!(m.due_at_ms(), Some(1100));
        assert_eq!(m.take(1099), None);
        let batch = m.take(1100).unwrap();
        assert_eq!(batch.0.offsets, [8, 1]);
        assert_eq!(batch.0.groups, [1, 2]);
        assert!(m.is_empty());
    }

    #[test]
    fn going_back_to_what_is_stored_is_a_change_when_something_waits() {
        let mut m = CommitMerger::new();
        m.add(key(1, 1), QueueId(0), QueueOffset(9), Some(QueueOffset(5)), 0);
        m.add(key(1, 1), QueueId(0), QueueOffset(5), Some(QueueOffset(5)), 1);
        assert_eq!(m.take_now().unwrap().0.offsets, [5]);
    }

    #[test]
    fn going_back_is_a_change_while_another_value_is_on_its_way() {
        let mut m = CommitMerger::new();
        m.add(key(1, 1), QueueId(0), QueueOffset(9), Some(QueueOffset(5)), 0);
        m.take_now().unwrap();
        assert_eq!(m.add(key(1, 1), QueueId(0), QueueOffset(5), Some(QueueOffset(5)), 1), Added::Merged);
        assert_eq!(m.take_now().unwrap().0.offsets, [5]);
        assert_eq!(m.add(key(1, 1), QueueId(0), QueueOffset(5), Some(QueueOffset(5)), 1), Added::Unchanged);
    }

    #[test]
    fn a_thousand_changes_do_not_wait() {
        let mut m = CommitMerger::new();
        m.add(key(0, 0), QueueId(0), QueueOffset(1), None, 0);
        m.take(0).unwrap();
        for queue in 0..limits::COMMIT_BATCH_CHANGES as u32 {
            assert_eq!(m.take(10), None);
            m.add(key(1, 1), QueueId(queue), QueueOffset(1), None, 10);
        }
        assert_eq!(m.take(10).unwrap().len(), limits::COMMIT_BATCH_CHANGES);
    }

    #[test]
    fn bounded_in_number_and_per_entry() {
        let mut m = CommitMerger::new();
        for queue in 0..limits::COMMIT_PENDING_MAX as u32 {
            assert_eq!(m.add(key(1, 1), QueueId(queue), QueueOffset(1), None, 0), Added::Merged);
        }
        assert_eq!(m.add(key(2, 1), QueueId(0), QueueOffset(1), None, 0), Added::Full);
        assert_eq!(m.add(key(1, 1), QueueId(0), QueueOffset(2), None, 0), Added::Merged, "known keys go on");
        let batch = m.take(0).unwrap();
        assert_eq!(batch.len(), limits::COMMIT_CHANGES_PER_ENTRY_MAX);
        let bytes = batch.into_command().to_bytes().len();
        assert!(bytes < limits::COMMIT_CHANGES_PER_ENTRY_MAX * 16, "{bytes} bytes");
        assert_eq!(m.due_at_ms(), Some(0), "the rest is due at once");
    }
}
