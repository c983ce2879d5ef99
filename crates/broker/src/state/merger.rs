//! Offset commits of consumers, merged (log.md 13).
//!
//! A Java consumer sends every queue's offset every 5 s, changed or not, and may send one with every pull; each as
//! an entry of its own would fill the log with nothing. So commits that nobody waits for are collected here:
//! unchanged ones are dropped, later ones replace earlier ones, and a batch leaves once a second or when 1,000
//! changes have come together. What waits here is not acknowledged to anybody; a crash may repeat it.
//!
//! ```text
//! add ──▶ pending ──take, take_now──▶ batch 1, 2, … ──settle──▶ in the tables, or lost
//!         overtake ─────────────────▶ (one that somebody waits for)
//! ```
//!
//! Batches must be proposed in the order of their numbers: so take one and hand it to the proposer under one lock, or an
//! older offset may follow a newer one in the log.
//!
//! Pure: no lock and no clock.

use std::collections::{BTreeMap, BTreeSet};

use wire::{QueueId, QueueOffset};

use super::command::{Command, CommitOffsets, Kind};
use super::limits;
use super::{CommitKey, GroupId, TopicId};

/// What became of a commit that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It will leave with the next batch.
    Merged,
    /// It says what is stored already, or on its way there.
    Unchanged,
    /// Too many are waiting; it was dropped, and a later one will say more.
    Full,
}

type At = (TopicId, GroupId, QueueId);

/// A commit that has left.
#[derive(Clone, Copy, Debug)]
struct Sent {
    offset: QueueOffset,
    batch: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct CommitMerger {
    pending: BTreeMap<At, QueueOffset>,
    /// The last that left of each queue and is not decided: it may not be in the tables yet.
    sent: BTreeMap<At, Sent>,
    /// Batches that have left and are not decided.
    under_way: BTreeSet<u64>,
    /// The number of the last batch that left; they count from 1.
    last: u64,
    /// When the oldest pending commit came.
    since_ms: u64,
    /// When the last batch of merged commits left.
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
        if self.sent.get(&at).map(|sent| sent.offset).or(stored) == Some(offset) {
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

    /// The batch that holds the last commit of a queue, while it is not decided.
    pub fn batch_of(&self, key: CommitKey, queue: QueueId) -> Option<u64> {
        self.sent.get(&(key.topic, key.group, queue)).map(|sent| sent.batch)
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
        self.take_now(now_ms)
    }

    /// A batch whether due or not: before a query is answered, or when leadership is given away. What comes after it
    /// waits for a second again.
    pub fn take_now(&mut self, now_ms: u64) -> Option<CommitBatch> {
        if self.pending.is_empty() {
            return None;
        }
        self.left_ms = Some(now_ms);
        let pending = &mut self.pending;
        let commits: Vec<(At, QueueOffset)> =
            std::iter::from_fn(|| pending.pop_first()).take(limits::COMMIT_CHANGES_PER_ENTRY_MAX).collect();
        Some(self.leave(commits))
    }

    /// Commits that somebody waits for (a two-way 15) leave at once, and replace those that wait.
    pub fn overtake(
        &mut self,
        key: CommitKey,
        offsets: impl IntoIterator<Item = (QueueId, QueueOffset)>,
    ) -> CommitBatch {
        let at = |queue| (key.topic, key.group, queue);
        let commits: Vec<(At, QueueOffset)> =
            offsets.into_iter().map(|(queue, offset)| (at(queue), offset)).collect();
        for (at, _) in &commits {
            self.pending.remove(at);
        }
        self.leave(commits)
    }

    /// Drops the commits that wait for these queues: what a consumer said before its group was reset must not reach the
    /// log after that.
    pub fn forget(&mut self, key: CommitKey, queues: impl IntoIterator<Item = QueueId>) {
        for queue in queues {
            let at = (key.topic, key.group, queue);
            self.pending.remove(&at);
            // Nor is a later commit unchanged because it says what one under way said before the reset.
            self.sent.remove(&at);
        }
    }

    fn leave(&mut self, commits: impl IntoIterator<Item = (At, QueueOffset)>) -> CommitBatch {
        self.last += 1;
        self.under_way.insert(self.last);
        let mut batch = CommitBatch { number: self.last, ..CommitBatch::default() };
        for (at, offset) in commits {
            self.sent.insert(at, Sent { offset, batch: self.last });
            batch.push(at, offset);
        }
        batch
    }

    /// A batch is decided: it is in the tables, or nobody will ever know whether it was.
    pub fn settle(&mut self, batch: &CommitBatch) {
        self.under_way.remove(&batch.number);
        for at in batch.places() {
            if self.sent.get(&at).is_some_and(|sent| sent.batch == batch.number) {
                self.sent.remove(&at);
            }
        }
    }

    /// The number of the last batch that left; 0: none did.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether every batch up to this one is decided.
    pub fn is_decided(&self, up_to: u64) -> bool {
        self.under_way.first().is_none_or(|first| *first > up_to)
    }

    /// Drops everything: this node leads no more, and the clients will commit at the new leader. Batches that are under
    /// way are still to be settled.
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
pub struct CommitBatch {
    /// 0 of a batch that no merger made.
    number: u64,
    commits: CommitOffsets,
}

impl CommitBatch {
    /// One commit, without a merger.
    pub fn single(key: CommitKey, queue: QueueId, offset: QueueOffset) -> CommitBatch {
        let mut batch = CommitBatch::default();
        batch.push((key.topic, key.group, queue), offset);
        batch
    }

    fn push(&mut self, (topic, group, queue): At, offset: QueueOffset) {
        let CommitOffsets { topics, groups, queues, offsets } = &mut self.commits;
        topics.push(topic.0);
        groups.push(group.0);
        queues.push(queue.0);
        offsets.push(offset.0);
    }

    fn places(&self) -> impl Iterator<Item = At> {
        let CommitOffsets { topics, groups, queues, offsets: _ } = &self.commits;
        let places = topics.iter().zip(groups).zip(queues);
        places.map(|((topic, group), queue)| (TopicId(*topic), GroupId(*group), QueueId(*queue)))
    }

    /// Number of commits.
    pub fn len(&self) -> usize {
        self.commits.offsets.len()
    }

    /// Whether it holds none; never true of a batch from [`CommitMerger`].
    pub fn is_empty(&self) -> bool {
        self.commits.offsets.is_empty()
    }

    /// The entry to propose; not a barrier.
    pub fn into_command(self) -> Command {
        Kind::CommitOffsets(self.commits).into()
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
        assert_eq!(batch.commits.offsets, [8, 1]);
        assert_eq!(batch.commits.groups, [1, 2]);
        assert!(m.is_empty());
    }

    #[test]
    fn going_back_to_what_is_stored_is_a_change_when_something_waits() {
        let mut m = CommitMerger::new();
        m.add(key(1, 1), QueueId(0), QueueOffset(9), Some(QueueOffset(5)), 0);
        m.add(key(1, 1), QueueId(0), QueueOffset(5), Some(QueueOffset(5)), 1);
        assert_eq!(m.take_now(1).unwrap().commits.offsets, [5]);
    }

    #[test]
    fn going_back_is_a_change_while_another_value_is_on_its_way() {
        let mut m = CommitMerger::new();
        let stored = Some(QueueOffset(5));
        m.add(key(1, 1), QueueId(0), QueueOffset(9), stored, 0);
        let first = m.take_now(0).unwrap();
        assert_eq!(m.add(key(1, 1), QueueId(0), QueueOffset(9), stored, 1), Added::Unchanged);
        assert_eq!(m.add(key(1, 1), QueueId(0), QueueOffset(5), stored, 1), Added::Merged);
        assert_eq!(m.take_now(1).unwrap().commits.offsets, [5]);
        assert_eq!(m.add(key(1, 1), QueueId(0), QueueOffset(5), stored, 1), Added::Unchanged);
        // What became of the first says nothing of the second.
        m.settle(&first);
        assert_eq!(m.add(key(1, 1), QueueId(0), QueueOffset(5), Some(QueueOffset(9)), 1), Added::Unchanged);
    }

    #[test]
    fn one_that_somebody_waits_for_leaves_at_once_and_alone() {
        let mut m = CommitMerger::new();
        let (one, other) = (QueueId(0), QueueId(1));
        m.add(key(1, 1), one, QueueOffset(9), None, 0);
        m.add(key(1, 1), other, QueueOffset(9), None, 0);
        let overtaking = m.overtake(key(1, 1), [(one, QueueOffset(3))]);
        assert_eq!((&overtaking.commits.queues[..], &overtaking.commits.offsets[..]), (&[0][..], &[3][..]));
        assert_eq!(m.pending(key(1, 1), one), None, "what waited was said before it");
        assert_eq!(m.pending(key(1, 1), other), Some(QueueOffset(9)));
        assert_eq!(m.due_at_ms(), Some(0), "merged ones go their own pace");
        // What comes now was said after it, and waits, also where it is what the tables still hold.
        assert_eq!(m.add(key(1, 1), one, QueueOffset(2), Some(QueueOffset(2)), 1), Added::Merged);
        m.settle(&overtaking);
        assert_eq!(m.pending(key(1, 1), one), Some(QueueOffset(2)));
    }

    #[test]
    fn what_was_said_before_a_reset_is_forgotten() {
        let mut m = CommitMerger::new();
        let add = |m: &mut CommitMerger, queue, offset| {
            m.add(key(1, 1), QueueId(queue), QueueOffset(offset), Some(QueueOffset(1)), 0)
        };
        add(&mut m, 0, 9);
        let sent = m.take_now(0).unwrap();
        for queue in [0, 1, 2] {
            add(&mut m, queue, 7);
        }
        m.forget(key(1, 1), [QueueId(0), QueueId(1)]);
        assert_eq!(m.pending(key(1, 1), QueueId(0)), None);
        assert_eq!((m.pending(key(1, 1), QueueId(2)), m.len()), (Some(QueueOffset(7)), 1));
        assert_eq!(add(&mut m, 0, 9), Added::Merged, "said again, after the reset");
        m.settle(&sent);
        assert!(m.is_decided(sent.number));
    }

    #[test]
    fn batches_are_numbered_and_known_until_they_are_decided() {
        let mut m = CommitMerger::new();
        assert!(m.is_decided(m.last()));
        m.add(key(1, 1), QueueId(0), QueueOffset(1), None, 0);
        let first = m.take(0).unwrap();
        let second = m.overtake(key(1, 1), [(QueueId(1), QueueOffset(1))]);
        let third = m.overtake(key(1, 1), [(QueueId(0), QueueOffset(2))]);
        assert_eq!((first.number, second.number, third.number, m.last()), (1, 2, 3, 3));
        assert_eq!(m.batch_of(key(1, 1), QueueId(0)), Some(3));
        assert_eq!(m.batch_of(key(1, 1), QueueId(1)), Some(2));
        m.settle(&second);
        assert_eq!(m.batch_of(key(1, 1), QueueId(1)), None);
        assert!(!m.is_decided(1) && !m.is_decided(3));
        m.settle(&first);
        assert!(m.is_decided(2) && !m.is_decided(3));
        assert_eq!(m.batch_of(key(1, 1), QueueId(0)), Some(3));
        m.clear();
        assert_eq!(m.batch_of(key(1, 1), QueueId(0)), None);
        assert!(!m.is_decided(3), "whoever waits for it is still to be told");
        m.settle(&third);
        assert!(m.is_decided(3));
    }

    #[test]
    fn what_left_before_its_time_counts_for_the_pace() {
        let mut m = CommitMerger::new();
        m.add(key(1, 1), QueueId(0), QueueOffset(1), None, 0);
        m.take(0).unwrap();
        m.add(key(1, 1), QueueId(0), QueueOffset(2), None, 400);
        assert_eq!(m.take_now(500).unwrap().len(), 1);
        assert_eq!(m.take_now(500), None);
        m.add(key(1, 1), QueueId(0), QueueOffset(3), None, 600);
        assert_eq!(m.due_at_ms(), Some(1500));
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
