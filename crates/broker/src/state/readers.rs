//! What [`State`] says of the tables in progress.rs. Each takes the lock of the tables for a look-up.

use std::sync::Arc;

use wire::{QueueId, QueueOffset};

use super::locks::Lease;
use super::modes::RequestMode;
use super::pop::{DuePlace, InFlight, OrderedBatch, PopDue, PopKey, PopPlace, PopStanding};
use super::tables::Tables;
use super::{Command, CommitKey, GroupId, QueueRange, State, TopicId};

impl State {
    /// Whether a topic or a consumer group is as an update wants it.
    pub fn has(&self, update: &Command) -> bool {
        self.read().has(update)
    }

    // ---- source queues ----

    /// All below it is done; `None`: no such queue.
    pub fn pending_base(&self, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        let tables = self.read();
        tables.pending_base(tables.topic_id(topic)?, queue.0).map(QueueOffset)
    }

    /// Whether a message is done: stored once, and not pending any more.
    pub fn is_done(&self, topic: &str, queue: QueueId, offset: QueueOffset) -> bool {
        let tables = self.read();
        let Some(topic) = tables.topic_id(topic) else { return false };
        tables
            .range(topic, queue.0)
            .is_some_and(|range| offset < range.next && !tables.is_pending(topic, queue.0, offset.0))
    }

    /// Messages that are pending, ascending from an offset on, at most `max`.
    pub fn pending(&self, topic: &str, queue: QueueId, from: QueueOffset, max: usize) -> Vec<QueueOffset> {
        let tables = self.read();
        let Some(topic) = tables.topic_id(topic) else { return Vec::new() };
        let Some(range) = tables.range(topic, queue.0) else { return Vec::new() };
        let from = from.max(range.min).0;
        match tables.progress.done.get(&(topic, queue.0)) {
            Some(done) => done.pending(from, range.next.0).take(max).map(QueueOffset).collect(),
            None => (from..range.next.0).take(max).map(QueueOffset).collect(),
        }
    }

    /// How many messages are pending.
    pub fn pending_count(&self, topic: &str, queue: QueueId) -> u64 {
        let tables = self.read();
        let Some(topic) = tables.topic_id(topic) else { return 0 };
        let Some(range) = tables.range(topic, queue.0) else { return 0 };
        match tables.progress.done.get(&(topic, queue.0)) {
            Some(done) => done.pending_count(range.next.0),
            None => range.next.0 - range.min.0,
        }
    }

    /// How often it was tried to learn what becomes of a pending message, and the log time of the last attempt, ms;
    /// zeros when there was none.
    pub fn attempts(&self, topic: &str, queue: QueueId, offset: QueueOffset) -> (u32, u64) {
        let tables = self.read();
        match tables.topic_id(topic) {
            Some(topic) => tables.progress.attempts.of((topic, queue.0), offset.0),
            None => (0, 0),
        }
    }

    // ---- consumers ----

    /// The last lease of a queue, which may be over ([`Lease::holds`]).
    pub fn lock_holder(&self, group: &str, topic: &str, queue: QueueId) -> Option<Lease> {
        let tables = self.read();
        let (topic, group) = tables.pair(topic, group)?;
        tables.progress.locks.holder(group, (topic, queue.0)).cloned()
    }

    /// Whether any client of the group has locked a queue, at a log time.
    pub fn holds_locks(&self, group: &str, now_ms: u64) -> bool {
        let tables = self.read();
        tables.groups.id(group).is_some_and(|group| tables.progress.locks.any_holds(GroupId(group), now_ms))
    }

    /// The offset to which a group was reset in a queue, until a consumer has been told.
    pub fn pending_reset(&self, topic: &str, group: &str, queue: QueueId) -> Option<QueueOffset> {
        let tables = self.read();
        if tables.progress.resets.is_empty() {
            return None;
        }
        tables.progress.resets.get(tables.pair(topic, group)?, queue.0).map(QueueOffset)
    }

    /// Whether any group was reset and has not been told.
    pub fn has_resets(&self) -> bool {
        !self.read().progress.resets.is_empty()
    }

    /// Whether any group was reset in this queue and has not been told.
    pub fn has_resets_in(&self, topic: &str, queue: QueueId) -> bool {
        let tables = self.read();
        let resets = &tables.progress.resets;
        !resets.is_empty()
            && tables.topics.id(topic).is_some_and(|topic| resets.any_in(TopicId(topic), queue.0))
    }

    /// Whether a commit counts for nothing, because its group was reset in that queue and has not been told.
    pub fn ignores_commits(&self, key: CommitKey, queue: QueueId) -> bool {
        let tables = self.read();
        let resets = &tables.progress.resets;
        !resets.is_empty() && resets.get((key.topic, key.group), queue.0).is_some()
    }

    /// How a group is to get a topic's messages; none: nobody has said so.
    pub fn request_mode(&self, topic: &str, group: &str) -> Option<RequestMode> {
        self.read().progress.modes.get(topic, group)
    }

    /// All that is said of it, as (topic, group, mode), by group, then topic.
    pub fn request_modes(&self) -> Vec<(Arc<str>, Arc<str>, RequestMode)> {
        let tables = self.read();
        let modes = tables.progress.modes.iter();
        modes.map(|(topic, group, mode)| (Arc::clone(topic), Arc::clone(group), mode)).collect()
    }

    // ---- pop ----

    /// A message in the hands of a group's pop consumers.
    pub fn pop_in_flight(
        &self,
        topic: &str,
        group: &str,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Option<InFlight> {
        let tables = self.read();
        tables.progress.pops.get(tables.pop_key(topic, group, queue)?, offset.0)
    }

    /// How many messages of a queue a group has in flight.
    pub fn pop_in_flight_count(&self, topic: &str, group: &str, queue: QueueId) -> usize {
        let tables = self.read();
        tables.pop_key(topic, group, queue).map_or(0, |key| tables.progress.pops.count_of(key))
    }

    /// How many messages of a topic a group has in flight.
    pub fn pop_in_flight_total(&self, topic: &str, group: &str) -> usize {
        let tables = self.read();
        tables.pair(topic, group).map_or(0, |(topic, group)| tables.progress.pops.count_in(topic, group))
    }

    /// The batch of a queue that a group's orderly consumer has.
    pub fn pop_ordered(&self, topic: &str, group: &str, queue: QueueId) -> Option<OrderedBatch> {
        let tables = self.read();
        tables.progress.pops.ordered(tables.pop_key(topic, group, queue)?).cloned()
    }

    /// What a pop has to know of a queue.
    pub fn pop_place(&self, topic: &str, group: &str, queue: QueueId) -> PopPlace {
        let tables = self.read();
        let Some(key) = tables.pop_key(topic, group, queue) else { return PopPlace::default() };
        PopPlace {
            cursor: tables.stored_offset(key.0, key.1, key.2).map(QueueOffset),
            ordered: tables.progress.pops.ordered(key).cloned(),
            room_in_order: tables.progress.pops.room(key, true),
            room: tables.progress.pops.room(key, false),
        }
    }

    /// Whether a pop may have messages of a queue, as far as what is out says; `order`: the attempt of one in order.
    pub fn pop_standing(
        &self,
        topic: &str,
        group: &str,
        queue: QueueId,
        order: Option<&str>,
        now_ms: u64,
    ) -> PopStanding {
        let tables = self.read();
        let pops = &tables.progress.pops;
        let Some(key) = tables.pop_key(topic, group, queue) else { return PopStanding::default() };
        let batch = pops.ordered(key);
        PopStanding {
            cursor: tables.stored_offset(key.0, key.1, key.2).map(QueueOffset),
            blocked_until_ms: order.and_then(|attempt_id| batch?.blocked_until_ms(attempt_id, now_ms)),
            room: pops.room_of_queue(key, order.is_some()),
            room_of_all: pops.room_of_all(key, order.is_some()),
        }
    }

    /// Messages whose invisible time is over at a log time, the oldest first, at most `max`; `after`: of what comes after
    /// that.
    pub fn pop_due(&self, now_ms: u64, after: Option<DuePlace>, max: usize) -> Vec<PopDue> {
        let tables = self.read();
        let due = tables.progress.pops.due(now_ms, after).take(max);
        due.filter_map(|(key, offset)| tables.pop_due(key, offset)).collect()
    }

    /// The log time at which there will be something to revive, ms; `None`: nothing is in flight. `after`: of what comes
    /// after that.
    pub fn pop_next_due_ms(&self, after: Option<DuePlace>) -> Option<u64> {
        self.read().progress.pops.next_due_ms(after)
    }

    /// What is stored of a message's queue, also where its topic has fewer queues by now; `None`: the topic or the group
    /// is gone.
    pub fn pop_range(&self, due: &PopDue) -> Option<QueueRange> {
        let tables = self.read();
        tables.groups.get(due.group_id.0).filter(|slot| slot.group.is_some())?;
        tables.range(due.topic_id, due.queue.0)
    }
}

impl Tables {
    fn topic_id(&self, topic: &str) -> Option<TopicId> {
        self.topics.id(topic).map(TopicId)
    }

    fn pair(&self, topic: &str, group: &str) -> Option<(TopicId, GroupId)> {
        Some((self.topic_id(topic)?, GroupId(self.groups.id(group)?)))
    }

    fn pop_key(&self, topic: &str, group: &str, queue: QueueId) -> Option<PopKey> {
        let (topic, group) = self.pair(topic, group)?;
        Some((topic, group, queue.0))
    }

    fn pop_due(&self, key: PopKey, offset: u64) -> Option<PopDue> {
        let (topic_id, group_id, queue) = key;
        Some(PopDue {
            topic: Arc::clone(&self.topics.get(topic_id.0)?.topic.name),
            group: Arc::clone(&self.groups.get(group_id.0)?.name),
            topic_id,
            group_id,
            queue: QueueId(queue),
            offset: QueueOffset(offset),
            message: self.progress.pops.get(key, offset)?,
        })
    }
}
