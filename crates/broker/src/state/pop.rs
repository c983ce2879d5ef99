//! Messages in the hands of pop consumers.
//!
//! ```text
//!                    cursor (the group's consumer offset)
//! ────────────────────┼──────────────▶ offsets
//!  acknowledged, or   │ not handed out yet
//!  in flight          │
//! ```
//! A message that is handed out is in flight until it is acknowledged, or until its invisible time is over and it is
//! *revived*: it leaves this table in one entry with its copy for the retry topic. Of an orderly consumer one batch of a
//! queue is out at a time; its messages are never revived but handed out again in their place, and the cursor follows
//! the acknowledgements. Whoever takes messages that somebody else has, because the cursor was set back or an orderly
//! batch is visible again, has them alone from then on: the handles of the other one are stale.
//!
//! All time is log time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use store::Mutant;
use wire::{QueueId, QueueOffset};

use super::{GroupId, TopicId, limits};

/// A group's messages of a queue.
pub(super) type PopKey = (TopicId, GroupId, u32);

/// A message in a consumer's hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// When it was handed out, or its invisible time was changed, ms: a handle with another one is stale.
    pub pop_time_ms: u64,
    /// From when on it is not the consumer's any more, ms.
    pub visible_at_ms: u64,
    /// How often an orderly consumer had it before; 0 of others.
    pub attempts: u32,
}

/// The batch of a queue that an orderly consumer has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderedBatch {
    /// Who may take it again before its time: may be empty, then nobody.
    pub attempt_id: Arc<str>,
    /// The consumer offset once all is acknowledged.
    pub end: QueueOffset,
    /// What is not acknowledged.
    pub messages: BTreeMap<QueueOffset, InFlight>,
    /// What is acknowledged, though something before it is not: the consumer offset passes it in its turn, and it is not
    /// handed out again.
    pub ahead: BTreeSet<QueueOffset>,
}

impl OrderedBatch {
    /// Until when nobody else may take the queue, ms; `None`: anybody may. `attempt_id`: of who asks.
    pub fn blocked_until_ms(&self, attempt_id: &str, now_ms: u64) -> Option<u64> {
        if !attempt_id.is_empty() && *self.attempt_id == *attempt_id {
            return None;
        }
        let until_ms = self.messages.values().map(|message| message.visible_at_ms).max();
        until_ms.filter(|until_ms| now_ms < *until_ms)
    }

    /// The consumer offset that this makes: everything before it is acknowledged or passed over.
    fn cursor(&self) -> QueueOffset {
        let mut cursor = self.messages.keys().next().copied().unwrap_or(self.end);
        while self.ahead.contains(&cursor) {
            cursor = cursor.plus(1);
        }
        cursor
    }

    /// Whether what is acknowledged of it counts: not when the consumer offset was set back since, for then all is wanted
    /// once more. `stored`: the consumer offset.
    fn is_current(&self, stored: Option<QueueOffset>) -> bool {
        stored >= Some(self.cursor())
    }
}

/// What a pop has to know of a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PopPlace {
    /// The consumer offset.
    pub cursor: Option<QueueOffset>,
    /// The batch that an orderly consumer has.
    pub ordered: Option<OrderedBatch>,
    /// So many messages may go out in one take, without order and in order.
    pub room: usize,
    pub room_in_order: usize,
}

/// Whether a pop may have messages of a queue, as far as what is out says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PopStanding {
    /// The consumer offset.
    pub cursor: Option<QueueOffset>,
    /// See [`OrderedBatch::blocked_until_ms`].
    pub blocked_until_ms: Option<u64>,
    /// So many more of the queue may go out.
    pub room: usize,
    /// So many more of all queues may go out.
    pub room_of_all: usize,
}

impl Default for PopStanding {
    fn default() -> PopStanding {
        let (room, room_of_all) = (limits::IN_FLIGHT_PER_QUEUE_MAX, limits::IN_FLIGHT_MAX);
        PopStanding { cursor: None, blocked_until_ms: None, room, room_of_all }
    }
}

impl OrderedBatch {
    /// What is left of it when everything before the consumer offset is done; `None`: nothing.
    fn at(mut self, cursor: QueueOffset) -> Option<OrderedBatch> {
        self.ahead.retain(|offset| *offset >= cursor);
        // What was acknowledged ahead may lie beyond the batch.
        self.end = self.end.max(cursor);
        (!self.messages.is_empty() || !self.ahead.is_empty()).then_some(self)
    }
}

impl PopPlace {
    /// So many may go out in one take.
    pub fn room(&self, in_order: bool) -> usize {
        if in_order { self.room_in_order } else { self.room }
    }

    /// What is acknowledged beyond the consumer offset, ascending: it is not handed out again.
    pub fn acknowledged_ahead(&self) -> Vec<QueueOffset> {
        let batch = self.ordered.as_ref().filter(|batch| batch.is_current(self.cursor));
        batch.map(|batch| batch.ahead.iter().copied().collect()).unwrap_or_default()
    }
}

/// A message whose invisible time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PopDue {
    pub topic: Arc<str>,
    pub group: Arc<str>,
    pub topic_id: TopicId,
    pub group_id: GroupId,
    pub queue: QueueId,
    pub offset: QueueOffset,
    pub message: InFlight,
}

/// Where a message is among those that are to be revived, which are in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DuePlace((u64, PopKey, u64));

impl PopDue {
    pub fn place(&self) -> DuePlace {
        DuePlace((self.message.visible_at_ms, (self.topic_id, self.group_id, self.queue.0), self.offset.0))
    }
}

/// What a take hands out; names, bounds and the stored offset have been looked at.
#[derive(Debug)]
pub(super) struct Take<'a> {
    /// The stored offset.
    pub(super) cursor: Option<u64>,
    pub(super) offsets: &'a [u64],
    pub(super) next: u64,
    pub(super) invisible_ms: u64,
    pub(super) now_ms: u64,
    /// Orderly: the id of the attempt.
    pub(super) order: Option<&'a str>,
}

/// What an acknowledgement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acked {
    /// Somebody else has the message, or nobody.
    Stale,
    Done,
    /// The consumer offset goes from the one to the other, unless somebody has set it before the first, or it is beyond
    /// the second.
    Cursor(u64, u64),
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Queue {
    /// Without those of the orderly batch.
    messages: BTreeMap<u64, InFlight>,
    ordered: Option<OrderedBatch>,
}

impl Queue {
    fn len(&self) -> usize {
        self.messages.len() + self.ordered.as_ref().map_or(0, |batch| batch.messages.len())
    }

    /// What counts against the most that there may be of a queue: also what is acknowledged ahead of its turn.
    fn load(&self) -> usize {
        self.len() + self.ordered.as_ref().map_or(0, |batch| batch.ahead.len())
    }

    /// Messages of the orderly batch: a batch in order comes in its place.
    fn in_order(&self) -> usize {
        self.ordered.as_ref().map_or(0, |batch| batch.messages.len())
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.ordered.is_none()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pops {
    queues: BTreeMap<PopKey, Queue>,
    /// Derived: what will be revived, by time.
    due: BTreeSet<(u64, PopKey, u64)>,
    /// Derived: messages in flight.
    count: usize,
    /// The first of `due` has come to be earlier since this was last asked; no part of the value.
    sooner: bool,
    /// Where a pop may have messages now that could not have them before, since this was last asked; no part of the
    /// value.
    free: BTreeSet<PopKey>,
}

/// A queue's messages in flight; the first four lists are columns of equal length.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PopRecord {
    #[prost(uint32, tag = "1")]
    topic: u32,
    #[prost(uint32, tag = "2")]
    group: u32,
    #[prost(uint32, tag = "3")]
    queue: u32,
    #[prost(uint64, repeated, tag = "4")]
    offsets: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    pop_times_ms: Vec<u64>,
    #[prost(uint64, repeated, tag = "6")]
    visible_at_ms: Vec<u64>,
    #[prost(message, optional, tag = "7")]
    ordered: Option<OrderedRecord>,
}

/// The lists are columns of equal length.
#[derive(Clone, PartialEq, prost::Message)]
struct OrderedRecord {
    #[prost(string, tag = "1")]
    attempt_id: String,
    #[prost(uint64, tag = "2")]
    end: u64,
    #[prost(uint64, repeated, tag = "3")]
    offsets: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    pop_times_ms: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    visible_at_ms: Vec<u64>,
    #[prost(uint32, repeated, tag = "6")]
    attempts: Vec<u32>,
    /// Not one of the columns.
    #[prost(uint64, repeated, tag = "7")]
    ahead: Vec<u64>,
}

impl Pops {
    // ---- readers ----

    pub(super) fn get(&self, key: PopKey, offset: u64) -> Option<InFlight> {
        let queue = self.queues.get(&key)?;
        let ordered = || queue.ordered.as_ref()?.messages.get(&QueueOffset(offset)).copied();
        queue.messages.get(&offset).copied().or_else(ordered)
    }

    pub(super) fn ordered(&self, key: PopKey) -> Option<&OrderedBatch> {
        self.queues.get(&key)?.ordered.as_ref()
    }

    pub(super) fn count_of(&self, key: PopKey) -> usize {
        self.queues.get(&key).map_or(0, Queue::len)
    }

    /// So many messages of a queue may go out in one take; an upper bound of what is out then: some may change hands.
    pub(super) fn room_of_queue(&self, key: PopKey, in_order: bool) -> usize {
        let queue = self.queues.get(&key);
        let load = queue.map_or(0, |queue| queue.load() - if in_order { queue.in_order() } else { 0 });
        limits::IN_FLIGHT_PER_QUEUE_MAX.saturating_sub(load)
    }

    /// The same, as far as all queues of all groups leave room.
    pub(super) fn room_of_all(&self, key: PopKey, in_order: bool) -> usize {
        let replaced = self.queues.get(&key).filter(|_| in_order).map_or(0, Queue::in_order);
        limits::IN_FLIGHT_MAX.saturating_sub(self.count - replaced)
    }

    /// Both.
    pub(super) fn room(&self, key: PopKey, in_order: bool) -> usize {
        self.room_of_queue(key, in_order).min(self.room_of_all(key, in_order))
    }

    /// Of all queues of a group in a topic.
    pub(super) fn count_in(&self, topic: TopicId, group: GroupId) -> usize {
        self.queues.range((topic, group, 0)..=(topic, group, u32::MAX)).map(|(_, queue)| queue.len()).sum()
    }

    /// What is to be revived at a time, the oldest first; `after`: of what comes after that.
    pub(super) fn due(&self, now_ms: u64, after: Option<DuePlace>) -> impl Iterator<Item = (PopKey, u64)> {
        let from = after.map_or(Bound::Unbounded, |DuePlace(place)| Bound::Excluded(place));
        let due = self.due.range((from, Bound::Unbounded));
        due.take_while(move |(at, ..)| *at <= now_ms).map(|(_, key, offset)| (*key, *offset))
    }

    /// When there will be something to revive, ms; `after`: of what comes after that.
    pub(super) fn next_due_ms(&self, after: Option<DuePlace>) -> Option<u64> {
        let from = after.map_or(Bound::Unbounded, |DuePlace(place)| Bound::Excluded(place));
        self.due.range((from, Bound::Unbounded)).next().map(|(at, ..)| *at)
    }

    /// Whether that has come to be earlier since the last call.
    pub(super) fn take_sooner(&mut self) -> bool {
        std::mem::take(&mut self.sooner)
    }

    /// Where a pop may have messages that could not have them before the last call.
    pub(super) fn take_free(&mut self) -> BTreeSet<PopKey> {
        std::mem::take(&mut self.free)
    }

    pub(super) fn is_due(&self, key: PopKey, offset: u64, now_ms: u64) -> bool {
        let message = self.queues.get(&key).and_then(|queue| queue.messages.get(&offset));
        message.is_some_and(|message| message.visible_at_ms <= now_ms)
    }

    // ---- changes ----

    /// Hands messages out. The consumer offset that this makes; `None`: an orderly batch is out, some of it was acknowledged
    /// since whoever proposes this looked, or too much is in flight, and nothing has changed.
    pub(super) fn take(&mut self, key: PopKey, take: &Take) -> Option<u64> {
        let Take { cursor, offsets, next, invisible_ms, now_ms, order } = *take;
        let stored = cursor.map(QueueOffset);
        let known = self.queues.get(&key);
        if let Some(batch) = known.and_then(|queue| queue.ordered.as_ref())
            && order.is_some_and(|attempt_id| batch.blocked_until_ms(attempt_id, now_ms).is_some())
            && !Mutant::TwoBatchesInOrder.is_on()
        {
            return None;
        }
        // A consumer whose time was over may have acknowledged some of its batch while this was on its way.
        if let Some(batch) = known.and_then(|queue| queue.ordered.as_ref())
            && batch.is_current(stored)
            && offsets.iter().any(|offset| batch.ahead.contains(&QueueOffset(*offset)))
            && !Mutant::AcknowledgedAgain.is_on()
        {
            return None;
        }
        // What takes nothing passes on, whatever is out.
        if !offsets.is_empty() && offsets.len() > self.room(key, order.is_some()) {
            return None;
        }
        let message =
            InFlight { pop_time_ms: now_ms, visible_at_ms: now_ms.saturating_add(invisible_ms), attempts: 0 };
        let before = known.map_or(0, Queue::len);
        let first_before = self.next_due_ms(None);
        let queue = self.queues.entry(key).or_default();
        let last = queue.ordered.take();
        let cursor = if let Some(attempt_id) = order {
            let again =
                !attempt_id.is_empty() && last.as_ref().is_some_and(|batch| *batch.attempt_id == *attempt_id);
            let attempts = |offset: u64| {
                let before = last.as_ref().and_then(|batch| batch.messages.get(&QueueOffset(offset)));
                // Who takes its own batch again has not failed with it.
                before.map_or(0, |message| message.attempts.saturating_add(u32::from(!again)))
            };
            // Out of order, somebody may have some of them: they change hands.
            for offset in offsets {
                if let Some(old) = queue.messages.remove(offset) {
                    self.due.remove(&(old.visible_at_ms, key, *offset));
                }
            }
            let messages: BTreeMap<_, _> = offsets
                .iter()
                .map(|offset| (QueueOffset(*offset), InFlight { attempts: attempts(*offset), ..message }))
                .collect();
            let mut batch = OrderedBatch {
                attempt_id: attempt_id.into(),
                end: QueueOffset(next),
                messages,
                ahead: BTreeSet::new(),
            };
            if let Some(last) = last.filter(|last| last.is_current(stored)) {
                batch.ahead = last.ahead;
            }
            // What is before the first is passed over for good.
            let cursor = batch.cursor();
            queue.ordered = batch.at(cursor);
            cursor.0
        } else {
            for offset in offsets {
                if let Some(old) = queue.messages.insert(*offset, message) {
                    self.due.remove(&(old.visible_at_ms, key, *offset));
                }
                self.due.insert((message.visible_at_ms, key, *offset));
            }
            match last.filter(|last| last.is_current(stored)) {
                None => next,
                // What of it was acknowledged ahead is passed in its turn.
                Some(mut last) => {
                    (last.messages, last.end) = (BTreeMap::new(), QueueOffset(next));
                    let cursor = last.cursor();
                    queue.ordered = last.at(cursor);
                    cursor.0
                }
            }
        };
        let after = queue.len();
        let is_empty = queue.is_empty();
        self.count = self.count + after - before;
        if is_empty {
            self.queues.remove(&key);
        }
        self.note_sooner(first_before);
        Some(cursor)
    }

    pub(super) fn ack(&mut self, key: PopKey, offset: u64, pop_time_ms: u64) -> Acked {
        let Some(queue) = self.queues.get_mut(&key) else { return Acked::Stale };
        let was_full = queue.load() >= limits::IN_FLIGHT_PER_QUEUE_MAX;
        let mut acked = Acked::Stale;
        if queue.messages.get(&offset).is_some_and(|message| message.pop_time_ms == pop_time_ms) {
            let message = queue.messages.remove(&offset).expect("looked up");
            self.due.remove(&(message.visible_at_ms, key, offset));
            acked = Acked::Done;
        } else if let Some(batch) = &mut queue.ordered
            && batch.messages.get(&QueueOffset(offset)).is_some_and(|held| held.pop_time_ms == pop_time_ms)
        {
            let before = batch.cursor();
            batch.messages.remove(&QueueOffset(offset));
            batch.ahead.insert(QueueOffset(offset));
            let cursor = batch.cursor();
            acked = Acked::Cursor(before.0, cursor.0);
            if batch.messages.is_empty() {
                self.free.insert(key);
            }
            queue.ordered = queue.ordered.take().and_then(|batch| batch.at(cursor));
        }
        if was_full && acked != Acked::Stale {
            self.free.insert(key);
        }
        self.count -= usize::from(acked != Acked::Stale);
        if queue.is_empty() {
            self.queues.remove(&key);
        }
        acked
    }

    /// Sets when a message will be visible; false when the handle is stale.
    pub(super) fn change(
        &mut self,
        key: PopKey,
        offset: u64,
        pop_time_ms: u64,
        now_ms: u64,
        visible_at_ms: u64,
    ) -> bool {
        let first_before = self.next_due_ms(None);
        let Some(queue) = self.queues.get_mut(&key) else { return false };
        if let Some(message) = queue.messages.get_mut(&offset) {
            if message.pop_time_ms != pop_time_ms {
                return false;
            }
            self.due.remove(&(message.visible_at_ms, key, offset));
            *message = InFlight { pop_time_ms: now_ms, visible_at_ms, ..*message };
            self.due.insert((visible_at_ms, key, offset));
            self.note_sooner(first_before);
            return true;
        }
        let ordered = queue.ordered.as_mut().and_then(|batch| batch.messages.get_mut(&QueueOffset(offset)));
        match ordered {
            // Its handle stays good.
            Some(message) if message.pop_time_ms == pop_time_ms => {
                message.visible_at_ms = visible_at_ms;
                // It may be visible sooner than it was.
                self.free.insert(key);
                true
            }
            _ => false,
        }
    }

    /// Takes a message that is due out of its consumer's hands; false when it is not.
    pub(super) fn revive(&mut self, key: PopKey, offset: u64, now_ms: u64) -> bool {
        if !self.is_due(key, offset, now_ms) {
            return false;
        }
        let queue = self.queues.get_mut(&key).expect("it has a message that is due");
        if queue.load() >= limits::IN_FLIGHT_PER_QUEUE_MAX {
            self.free.insert(key);
        }
        let message = queue.messages.remove(&offset).expect("it is due");
        if queue.is_empty() {
            self.queues.remove(&key);
        }
        self.due.remove(&(message.visible_at_ms, key, offset));
        self.count -= 1;
        true
    }

    /// The consumer offset was set: an orderly batch is not out any more.
    pub(super) fn end_ordered(&mut self, key: PopKey) {
        self.free.insert(key);
        let Some(queue) = self.queues.get_mut(&key) else { return };
        self.count -= queue.ordered.take().map_or(0, |batch| batch.messages.len());
        if queue.is_empty() {
            self.queues.remove(&key);
        }
    }

    pub(super) fn end_topic(&mut self, topic: TopicId) {
        let all = (topic, GroupId(0), 0)..=(topic, GroupId(u32::MAX), u32::MAX);
        let keys: Vec<PopKey> = self.queues.range(all).map(|(key, _)| *key).collect();
        self.end(&keys);
    }

    pub(super) fn end_group(&mut self, group: GroupId) {
        let keys: Vec<PopKey> = self.queues.keys().filter(|(_, of, _)| *of == group).copied().collect();
        self.end(&keys);
    }

    fn end(&mut self, keys: &[PopKey]) {
        for key in keys {
            let Some(queue) = self.queues.remove(key) else { continue };
            self.count -= queue.len();
            for (offset, message) in queue.messages {
                self.due.remove(&(message.visible_at_ms, *key, offset));
            }
        }
    }

    fn note_sooner(&mut self, before: Option<u64>) {
        self.sooner |= match (before, self.next_due_ms(None)) {
            (Some(before), Some(now)) => now < before,
            (None, now) => now.is_some(),
            (Some(_), None) => false,
        };
    }

    /// What is derived is what it would be if it were derived now.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let all = |(key, queue): (&PopKey, &Queue)| {
            assert!(!queue.is_empty(), "{key:?} is kept for nothing");
            let key = *key;
            queue
                .messages
                .clone()
                .into_iter()
                .map(move |(offset, message)| (message.visible_at_ms, key, offset))
        };
        let due: BTreeSet<_> = self.queues.iter().flat_map(all).collect();
        assert_eq!(due, self.due);
        assert_eq!(self.count, self.queues.values().map(Queue::len).sum::<usize>());
    }

    // ---- snapshots ----

    pub(super) fn encode(&self) -> Vec<PopRecord> {
        let record = |((topic, group, id), queue): (&PopKey, &Queue)| PopRecord {
            topic: topic.0,
            group: group.0,
            queue: *id,
            offsets: queue.messages.keys().copied().collect(),
            pop_times_ms: queue.messages.values().map(|message| message.pop_time_ms).collect(),
            visible_at_ms: queue.messages.values().map(|message| message.visible_at_ms).collect(),
            ordered: queue.ordered.as_ref().map(|batch| {
                let column = |f: fn(&InFlight) -> u64| batch.messages.values().map(f).collect();
                OrderedRecord {
                    attempt_id: batch.attempt_id.to_string(),
                    end: batch.end.0,
                    offsets: batch.messages.keys().map(|offset| offset.0).collect(),
                    pop_times_ms: column(|message| message.pop_time_ms),
                    visible_at_ms: column(|message| message.visible_at_ms),
                    attempts: batch.messages.values().map(|message| message.attempts).collect(),
                    ahead: batch.ahead.iter().map(|offset| offset.0).collect(),
                }
            }),
        };
        self.queues.iter().map(record).collect()
    }

    /// `exists` knows topics and groups.
    pub(super) fn decode(
        records: Vec<PopRecord>,
        exists: impl Fn(TopicId, GroupId) -> bool,
    ) -> Result<Pops, String> {
        let mut pops = Pops::default();
        for record in records {
            let key = (TopicId(record.topic), GroupId(record.group), record.queue);
            let impossible = || {
                let PopRecord { topic, group, queue, .. } = record;
                format!("what group {group} has in flight of queue {queue} of topic {topic} cannot be")
            };
            let messages = columns(&record.offsets, &record.pop_times_ms, &record.visible_at_ms, |_| Some(0))
                .ok_or_else(impossible)?;
            let ordered = match &record.ordered {
                None => None,
                Some(record) => {
                    let OrderedRecord {
                        attempt_id,
                        end,
                        offsets,
                        pop_times_ms,
                        visible_at_ms,
                        attempts,
                        ahead,
                    } = record;
                    let held = columns(offsets, pop_times_ms, visible_at_ms, |at| attempts.get(at).copied())
                        .filter(|held| held.len() == attempts.len())
                        .filter(|held| !held.is_empty() || !ahead.is_empty())
                        .ok_or_else(impossible)?;
                    let messages =
                        held.into_iter().map(|(offset, message)| (QueueOffset(offset), message)).collect();
                    Some(OrderedBatch {
                        attempt_id: attempt_id.as_str().into(),
                        end: QueueOffset(*end),
                        messages,
                        ahead: ahead.iter().copied().map(QueueOffset).collect(),
                    })
                }
            };
            pops.due.extend(messages.iter().map(|(offset, message)| (message.visible_at_ms, key, *offset)));
            let queue = Queue { messages, ordered };
            pops.count += queue.len();
            if queue.is_empty() || !exists(key.0, key.1) || pops.queues.insert(key, queue).is_some() {
                return Err(impossible());
            }
        }
        Ok(pops)
    }
}

/// Messages from columns; `None` when they are of different length or not ascending.
fn columns(
    offsets: &[u64],
    pop_times_ms: &[u64],
    visible_at_ms: &[u64],
    attempts: impl Fn(usize) -> Option<u32>,
) -> Option<BTreeMap<u64, InFlight>> {
    let count = offsets.len();
    if pop_times_ms.len() != count || visible_at_ms.len() != count || !offsets.is_sorted_by(|a, b| a < b) {
        return None;
    }
    let rows = offsets.iter().zip(pop_times_ms).zip(visible_at_ms).enumerate();
    rows.map(|(at, ((offset, pop_time_ms), visible_at_ms))| {
        let message =
            InFlight { pop_time_ms: *pop_time_ms, visible_at_ms: *visible_at_ms, attempts: attempts(at)? };
        Some((*offset, message))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PopKey = (TopicId(1), GroupId(2), 0);

    fn take(offsets: &[u64], now_ms: u64) -> Take<'_> {
        let next = offsets.last().map_or(0, |last| last + 1);
        Take { cursor: None, offsets, next, invisible_ms: 60, now_ms, order: None }
    }

    fn orderly<'a>(offsets: &'a [u64], now_ms: u64, attempt_id: &'a str) -> Take<'a> {
        Take { order: Some(attempt_id), ..take(offsets, now_ms) }
    }

    fn due(pops: &Pops, now_ms: u64) -> Vec<u64> {
        pops.check();
        pops.due(now_ms, None).map(|(_, offset)| offset).collect()
    }

    #[test]
    fn taken_acknowledged_changed_and_revived() {
        let mut pops = Pops::default();
        assert_eq!(pops.take(KEY, &take(&[3, 4, 6], 100)), Some(7));
        assert_eq!((pops.next_due_ms(None), pops.count_of(KEY)), (Some(160), 3));
        assert!(pops.take_sooner() && !pops.take_sooner());
        assert_eq!(pops.ack(KEY, 3, 99), Acked::Stale);
        assert_eq!(pops.ack(KEY, 3, 100), Acked::Done);
        assert_eq!(pops.ack(KEY, 3, 100), Acked::Stale);
        assert!(!pops.change(KEY, 4, 99, 110, 500) && pops.change(KEY, 4, 100, 110, 500));
        assert!(!pops.take_sooner(), "it is later");
        assert_eq!(pops.ack(KEY, 4, 100), Acked::Stale, "the old handle");
        assert_eq!(due(&pops, 160), [6]);
        assert!(!pops.revive(KEY, 6, 159) && !pops.revive(KEY, 4, 160));
        assert!(pops.revive(KEY, 6, 160) && !pops.revive(KEY, 6, 160));
        assert!(pops.change(KEY, 4, 110, 200, 200) && pops.take_sooner());
        assert_eq!(due(&pops, 199), [] as [u64; 0]);
        assert_eq!(pops.ack(KEY, 4, 200), Acked::Done);
        pops.check();
        assert!(pops.queues.is_empty() && pops.next_due_ms(None).is_none());
    }

    #[test]
    fn a_message_that_is_handed_out_again_changes_hands() {
        let mut pops = Pops::default();
        pops.take(KEY, &take(&[3, 4], 100)).unwrap();
        pops.take(KEY, &take(&[2, 3], 110)).unwrap();
        assert_eq!(pops.count_of(KEY), 3);
        assert_eq!(pops.ack(KEY, 3, 100), Acked::Stale);
        assert_eq!(due(&pops, 1000), [4, 2, 3]);
    }

    #[test]
    fn one_orderly_batch_at_a_time() {
        let mut pops = Pops::default();
        assert_eq!(
            pops.take(KEY, &orderly(&[3, 4, 6], 100, "a")),
            Some(3),
            "what is before 3 is passed over"
        );
        assert_eq!(pops.take(KEY, &orderly(&[3], 159, "b")), None);
        assert_eq!(pops.take(KEY, &orderly(&[3], 159, "")), None);
        assert_eq!(pops.take(KEY, &orderly(&[3, 4], 120, "a")), Some(3), "its own again");
        assert_eq!(pops.get(KEY, 3).unwrap().attempts, 0);
        assert_eq!(pops.ack(KEY, 3, 100), Acked::Stale);
        assert_eq!(pops.ack(KEY, 4, 120), Acked::Cursor(3, 3));
        assert_eq!(pops.take(KEY, &orderly(&[3, 4, 5], 180, "b")), Some(3), "its time is over");
        assert_eq!(pops.get(KEY, 3).unwrap().attempts, 1);
        assert_eq!(pops.get(KEY, 4).unwrap().attempts, 0, "it was acknowledged");
        assert!(due(&pops, 10_000).is_empty(), "none is revived");
        assert!(pops.change(KEY, 3, 180, 200, 900));
        assert_eq!(pops.get(KEY, 3).unwrap().pop_time_ms, 180, "its handle stays good");
        assert_eq!(pops.ordered(KEY).unwrap().blocked_until_ms("c", 899), Some(900));
        assert_eq!(pops.take(KEY, &orderly(&[3], 899, "c")), None);
        assert_eq!(pops.ack(KEY, 3, 180), Acked::Cursor(3, 4));
        assert_eq!(pops.ack(KEY, 4, 180), Acked::Cursor(4, 5));
        assert_eq!(pops.ack(KEY, 5, 180), Acked::Cursor(5, 6));
        pops.check();
        assert!(pops.queues.is_empty());
    }

    #[test]
    fn an_orderly_take_of_nothing_passes_on() {
        let mut pops = Pops::default();
        assert_eq!(pops.take(KEY, &Take { next: 9, ..orderly(&[], 100, "a") }), Some(9));
        assert!(pops.queues.is_empty());
    }

    #[test]
    fn bounded() {
        let mut pops = Pops::default();
        let offsets: Vec<u64> = (0..limits::IN_FLIGHT_PER_QUEUE_MAX as u64).collect();
        assert_eq!(pops.take(KEY, &take(&offsets[1..], 1)), Some(offsets.len() as u64));
        assert_eq!(pops.take(KEY, &take(&[20_000, 20_001], 1)), None);
        assert_eq!(pops.take(KEY, &take(&[20_000], 1)), Some(20_001));
        pops.count = limits::IN_FLIGHT_MAX;
        assert_eq!((pops.room((TopicId(7), GroupId(2), 0), false), pops.room_of_all(KEY, true)), (0, 0));
        assert_eq!(pops.take((TopicId(7), GroupId(2), 0), &take(&[1], 1)), None);
        assert_eq!(pops.queues.len(), 1, "what is refused leaves no trace");
    }

    #[test]
    fn ended_with_what_they_are_of() {
        let mut pops = Pops::default();
        for topic in 0..3 {
            for group in 0..3 {
                let key = (TopicId(topic), GroupId(group), 1);
                pops.take(key, &take(&[5, 6], 100)).unwrap();
                pops.take((key.0, key.1, 2), &orderly(&[7], 100, "a")).unwrap();
            }
        }
        pops.end_topic(TopicId(1));
        pops.end_group(GroupId(0));
        pops.check();
        assert_eq!((pops.queues.len(), pops.count), (8, 12));
        assert_eq!(pops.count_in(TopicId(0), GroupId(1)), 3);
        pops.end_ordered((TopicId(0), GroupId(1), 2));
        pops.end_ordered((TopicId(0), GroupId(1), 1));
        pops.check();
        assert_eq!(pops.count_in(TopicId(0), GroupId(1)), 2);
    }

    #[test]
    fn encoded() {
        let mut pops = Pops::default();
        pops.take(KEY, &take(&[3, 4], 100)).unwrap();
        pops.take(KEY, &orderly(&[5, 9], 110, "a")).unwrap();
        pops.take(KEY, &orderly(&[5, 9], 500, "b")).unwrap();
        let records = pops.encode();
        let decoded = Pops::decode(records.clone(), |_, _| true).unwrap();
        decoded.check();
        assert_eq!((&decoded.queues, &decoded.due), (&pops.queues, &pops.due));
        assert_eq!(decoded.get(KEY, 9).unwrap().attempts, 1);
        let refused = |change: fn(&mut PopRecord)| {
            let mut records = records.clone();
            change(&mut records[0]);
            Pops::decode(records, |topic, _| topic == TopicId(1)).is_err()
        };
        assert!(!refused(|_| {}));
        assert!(refused(|record| record.topic = 7));
        assert!(refused(|record| record.offsets[0] = 4), "twice");
        assert!(refused(|record| record.pop_times_ms.truncate(1)));
        assert!(refused(|record| record.visible_at_ms.push(1)));
        assert!(refused(|record| record.ordered.as_mut().unwrap().attempts.truncate(1)));
        assert!(refused(|record| record.ordered.as_mut().unwrap().attempts.push(1)));
        assert!(refused(|record| *record.ordered.as_mut().unwrap() = OrderedRecord::default()));
        assert!(Pops::decode([records.clone(), records].concat(), |_, _| true).is_err());
    }

    fn hand_out(pops: &mut Pops, cursor: u64, offsets: &[u64], next: u64, now_ms: u64) -> Option<u64> {
        let take = Take { cursor: Some(cursor), offsets, next, invisible_ms: 100, now_ms, order: None };
        pops.take(KEY, &take)
    }

    fn hand_out_in_order(
        pops: &mut Pops,
        cursor: u64,
        offsets: &[u64],
        next: u64,
        now_ms: u64,
        attempt_id: &str,
    ) -> Option<u64> {
        let order = Some(attempt_id);
        pops.take(KEY, &Take { cursor: Some(cursor), offsets, next, invisible_ms: 100, now_ms, order })
    }

    fn round_trip(pops: &Pops) {
        pops.check();
        let again = Pops::decode(pops.encode(), |_, _| true).unwrap();
        assert_eq!((&again.queues, &again.due, again.count), (&pops.queues, &pops.due, pops.count));
    }

    #[test]
    fn as_much_is_in_flight_as_may_be() {
        let mut pops = Pops::default();
        let all: Vec<u64> = (0..limits::IN_FLIGHT_PER_QUEUE_MAX as u64).collect();
        let next = all.len() as u64;
        assert_eq!(hand_out(&mut pops, 0, &all, next, 1_000), Some(next));
        assert_eq!(hand_out(&mut pops, next, &[next], next + 1, 1_001), None);
        assert_eq!(
            hand_out(&mut pops, next, &[], next + 1, 1_001),
            Some(next + 1),
            "what is passed over is not out"
        );
        assert!(pops.take_free().is_empty());
        pops.ack(KEY, 3, 1_000);
        assert_eq!(pops.take_free().into_iter().collect::<Vec<_>>(), [KEY]);
        pops.ack(KEY, 4, 1_000);
        assert!(pops.take_free().is_empty(), "there was room before");
    }

    #[test]
    fn in_order_the_cursor_follows_the_acknowledgements() {
        let mut pops = Pops::default();
        // 3, 5 and 7 are passed over by the filter.
        assert_eq!(hand_out_in_order(&mut pops, 3, &[4, 6, 8], 9, 1_000, "a"), Some(4));
        assert_eq!(pops.next_due_ms(None), None, "they are not revived");
        assert_eq!(hand_out_in_order(&mut pops, 4, &[4], 5, 1_050, "b"), None, "blocked");
        assert_eq!(pops.ack(KEY, 6, 1_000), Acked::Cursor(4, 4), "out of turn");
        round_trip(&pops);
        let place = PopPlace {
            cursor: Some(QueueOffset(4)),
            room: pops.room(KEY, false),
            room_in_order: pops.room(KEY, true),
            ordered: pops.ordered(KEY).cloned(),
        };
        assert_eq!(place.acknowledged_ahead(), [QueueOffset(6)]);
        assert_eq!(PopPlace { cursor: Some(QueueOffset(3)), ..place.clone() }.acknowledged_ahead(), []);
        let blocked_until_ms = |id, now_ms| pops.ordered(KEY).unwrap().blocked_until_ms(id, now_ms);
        assert_eq!(blocked_until_ms("b", 1_099), Some(1_100));
        assert_eq!((blocked_until_ms("a", 1_099), blocked_until_ms("", 1_100)), (None, None));
        assert_eq!(pops.ack(KEY, 4, 1_000), Acked::Cursor(4, 8));
        assert!(pops.take_free().is_empty());
        assert_eq!(pops.ack(KEY, 8, 1_000), Acked::Cursor(8, 9));
        assert_eq!(pops.take_free().into_iter().collect::<Vec<_>>(), [KEY]);
        assert!(pops.queues.is_empty() && pops.count == 0);
    }

    #[test]
    fn in_order_a_batch_is_counted_when_it_was_not_done() {
        let mut pops = Pops::default();
        let counts = |pops: &Pops| {
            let batch = pops.ordered(KEY).unwrap();
            batch.messages.iter().map(|(offset, message)| (offset.0, message.attempts)).collect::<Vec<_>>()
        };
        hand_out_in_order(&mut pops, 0, &[0, 1, 2, 3], 4, 1_000, "a");
        pops.ack(KEY, 3, 1_000);
        pops.ack(KEY, 1, 1_000);
        assert_eq!(hand_out_in_order(&mut pops, 0, &[0, 2], 3, 1_050, "a"), Some(0));
        assert_eq!(counts(&pops), [(0, 0), (2, 0)], "the same attempt");
        assert_eq!(hand_out_in_order(&mut pops, 0, &[0, 2], 3, 1_200, ""), Some(0));
        assert_eq!(counts(&pops), [(0, 1), (2, 1)]);
        assert_eq!(hand_out_in_order(&mut pops, 0, &[0], 1, 1_400, ""), Some(0));
        assert_eq!(counts(&pops), [(0, 2)]);
        // What is acknowledged far ahead is passed when the cursor comes to it, however little was taken since.
        assert_eq!(pops.ack(KEY, 0, 1_400), Acked::Cursor(0, 2));
        assert_eq!(pops.ordered(KEY).unwrap().ahead.iter().map(|offset| offset.0).collect::<Vec<_>>(), [3]);
        round_trip(&pops);
        assert_eq!(hand_out_in_order(&mut pops, 2, &[2], 3, 1_500, ""), Some(2));
        assert_eq!(pops.ack(KEY, 2, 1_500), Acked::Cursor(2, 4));
        assert!(pops.queues.is_empty());
    }

    #[test]
    fn what_was_acknowledged_while_a_take_was_on_its_way_is_not_handed_out_again() {
        let mut pops = Pops::default();
        hand_out_in_order(&mut pops, 0, &[0, 1, 2], 3, 1_000, "a");
        // Its time is over and somebody is about to take it all; the one who had it acknowledges before.
        assert_eq!(pops.ack(KEY, 1, 1_000), Acked::Cursor(0, 0));
        let before = pops.encode();
        assert_eq!(hand_out_in_order(&mut pops, 0, &[0, 1, 2], 3, 1_200, "b"), None);
        assert_eq!(hand_out_in_order(&mut pops, 0, &[0, 1, 2], 3, 1_200, "a"), None, "nor to itself");
        assert_eq!(hand_out(&mut pops, 0, &[0, 1, 2], 3, 1_200), None, "nor out of order");
        assert_eq!(pops.encode(), before);
        assert_eq!(hand_out_in_order(&mut pops, 0, &[0, 2], 3, 1_200, "b"), Some(0));
        assert_eq!(pops.ack(KEY, 2, 1_000), Acked::Stale);
        round_trip(&pops);
    }

    #[test]
    fn where_the_offset_was_set_back_all_is_wanted_once_more() {
        let mut pops = Pops::default();
        hand_out_in_order(&mut pops, 5, &[5, 6, 7], 8, 1_000, "a");
        assert_eq!(pops.ack(KEY, 6, 1_000), Acked::Cursor(5, 5));
        assert_eq!(hand_out_in_order(&mut pops, 3, &[3, 5, 6, 7], 8, 1_200, "b"), Some(3));
        assert_eq!(pops.ordered(KEY).map(|batch| (batch.messages.len(), batch.ahead.len())), Some((4, 0)));
        round_trip(&pops);
    }

    #[test]
    fn who_pops_out_of_order_takes_a_batch_over() {
        let mut pops = Pops::default();
        hand_out_in_order(&mut pops, 0, &[0, 1, 2], 3, 1_000, "a");
        pops.ack(KEY, 1, 1_000);
        assert_eq!(hand_out(&mut pops, 0, &[0], 1, 1_050), Some(2), "1 is done");
        assert_eq!(pops.ack(KEY, 0, 1_000), Acked::Stale);
        assert_eq!(pops.ack(KEY, 2, 1_000), Acked::Stale, "it is handed out again");
        assert_eq!((pops.count, due(&pops, 1_150)), (1, vec![0]));
        round_trip(&pops);
        pops.end_topic(KEY.0);
        assert!(pops.queues.is_empty() && pops.due.is_empty() && pops.count == 0);
    }

    #[test]
    fn who_pops_out_of_order_does_not_get_what_was_acknowledged_in_order() {
        let mut pops = Pops::default();
        hand_out_in_order(&mut pops, 0, &[0, 1, 2, 3, 4], 5, 1_000, "a");
        for offset in [1, 3] {
            assert_eq!(pops.ack(KEY, offset, 1_000), Acked::Cursor(0, 0));
        }
        assert_eq!(hand_out(&mut pops, 0, &[0], 1, 1_050), Some(2), "1 is done");
        let place = |cursor| PopPlace {
            cursor: Some(QueueOffset(cursor)),
            ordered: pops.ordered(KEY).cloned(),
            ..PopPlace::default()
        };
        assert_eq!(place(2).acknowledged_ahead(), [QueueOffset(3)]);
        assert!(!pops.ordered(KEY).unwrap().is_current(Some(QueueOffset(1))), "it was set back");
        assert_eq!(hand_out(&mut pops, 2, &[2, 3], 4, 1_060), None);
        assert_eq!(hand_out(&mut pops, 2, &[2], 3, 1_070), Some(4));
        assert_eq!((pops.ordered(KEY), due(&pops, 1_170)), (None, vec![0, 2]));
        round_trip(&pops);
    }

    #[test]
    fn what_is_acknowledged_ahead_counts_against_the_most() {
        let mut pops = Pops::default();
        let most = limits::IN_FLIGHT_PER_QUEUE_MAX as u64;
        let all: Vec<u64> = (0..most).collect();
        hand_out_in_order(&mut pops, 0, &all, most, 1_000, "a");
        for offset in 1..most {
            pops.ack(KEY, offset, 1_000);
        }
        assert_eq!((pops.count_of(KEY), pops.room(KEY, true), pops.room(KEY, false)), (1, 1, 0));
        assert_eq!(hand_out_in_order(&mut pops, 0, &[0, most], most + 1, 1_200, "b"), None);
        assert_eq!(hand_out(&mut pops, 0, &[0], most, 1_200), None);
        // The one that holds the others back can always be handed out again.
        assert_eq!(hand_out_in_order(&mut pops, 0, &[0], most, 1_200, "b"), Some(0));
        pops.take_free();
        assert_eq!(pops.ack(KEY, 0, 1_200), Acked::Cursor(0, most));
        assert!(!pops.take_free().is_empty() && pops.queues.is_empty());
    }

    #[test]
    fn a_batch_in_order_takes_over_what_somebody_has() {
        let mut pops = Pops::default();
        hand_out(&mut pops, 0, &[0, 1, 2], 3, 1_000);
        // The offset was set back.
        assert_eq!(hand_out_in_order(&mut pops, 0, &[0, 1], 2, 1_010, "a"), Some(0));
        assert_eq!((pops.count, due(&pops, 9_000)), (3, vec![2]));
        assert_eq!(pops.ack(KEY, 0, 1_000), Acked::Stale);
        assert_eq!(pops.ack(KEY, 0, 1_010), Acked::Cursor(0, 1));
        round_trip(&pops);
    }
}
