//! What commands 10 to 19 do. Here their numbers are looked up among topics, queues and groups, and their bounds are
//! checked; the tables that they change are files of their own (done.rs, attempts.rs, locks.rs, resets.rs, modes.rs,
//! pop.rs).

use std::collections::{BTreeMap, BTreeSet};

use store::Mutant;
use wire::ResponseCode;

use super::attempts::Attempts;
use super::command::{
    Attempt, Kind, Lock, PopAck, PopBatch, PopChange, PopRevive, PopTake, Release, Reply, ResetOffsets,
    SetRequestMode, Source, TakePart, TakeResets,
};
use super::done::{DoneRecord, DoneSet};
use super::locks::{Claim, Locks};
use super::modes::{Modes, RequestMode};
use super::pop::{Acked, PopKey, Pops, Take};
use super::resets::Resets;
use super::tables::{NO_OFFSET, Tables};
use super::{GroupId, QueueRange, TopicId, limits};

/// The tables that only these commands change.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) done: BTreeMap<(TopicId, u32), DoneSet>,
    pub(super) attempts: Attempts,
    pub(super) locks: Locks,
    pub(super) resets: Resets,
    pub(super) modes: Modes,
    pub(super) pops: Pops,
}

impl Progress {
    /// Ends what belongs to a topic that is deleted. Request modes stay: they are of names.
    pub(super) fn end_topic(&mut self, topic: TopicId) {
        let Progress { done, attempts, locks, resets, modes: _, pops } = self;
        done.retain(|(of, _), _| *of != topic);
        attempts.end_topic(topic);
        locks.end_topic(topic);
        resets.end_topic(topic);
        pops.end_topic(topic);
    }

    /// Ends what belongs to a group that is deleted.
    pub(super) fn end_group(&mut self, group: GroupId, name: &str) {
        let Progress { done: _, attempts: _, locks, resets, modes, pops } = self;
        locks.end_group(group);
        resets.end_group(group);
        modes.end_group(name);
        pops.end_group(group);
    }

    pub(super) fn encode_done(&self) -> Vec<DoneRecord> {
        self.done.iter().map(|((topic, queue), set)| set.encode(*topic, *queue)).collect()
    }
}

impl Tables {
    // ---- source queues ----

    /// A queue's range, hidden by a shrunken topic or not.
    pub(super) fn range(&self, topic: TopicId, queue: u32) -> Option<QueueRange> {
        Some(self.topics.get(topic.0)?.queues.get(queue as usize)?.range)
    }

    /// Everything below it is done, for one reason or another.
    pub(super) fn pending_base(&self, topic: TopicId, queue: u32) -> Option<u64> {
        let min = self.range(topic, queue)?.min.0;
        Some(self.progress.done.get(&(topic, queue)).map_or(min, |done| done.base().max(min)))
    }

    /// Stored, and not done.
    pub(super) fn is_pending(&self, topic: TopicId, queue: u32, offset: u64) -> bool {
        self.range(topic, queue).is_some_and(|range| {
            let is_done =
                || self.progress.done.get(&(topic, queue)).is_some_and(|done| done.contains(offset));
            (range.min.0..range.next.0).contains(&offset) && !is_done()
        })
    }

    /// Whether a release may be coupled: all of it is pending, and nothing is named twice.
    fn releases_pending(&self, release: &Release) -> bool {
        let mut seen = BTreeSet::new();
        let mut new_sources = 0;
        release.sources.iter().all(|Source { topic, queue, offsets }| {
            let key = (TopicId(*topic), *queue);
            new_sources += usize::from(!self.progress.done.contains_key(&key));
            seen.insert(key)
                && offsets.is_sorted_by(|a, b| a < b)
                && offsets.iter().all(|offset| self.is_pending(key.0, key.1, *offset))
        }) && self.progress.done.len() + new_sources <= limits::SOURCES_MAX
    }

    pub(super) fn release(&mut self, release: &Release) -> Reply {
        let mut reply = Reply::default();
        let mut at = 0;
        for Source { topic, queue, offsets } in &release.sources {
            let key = (TopicId(*topic), *queue);
            let first = at;
            at += offsets.len() as u32;
            let Some(range) = self.range(key.0, key.1) else { continue };
            let stored = range.min.0..range.next.0;
            if !self.progress.done.contains_key(&key) {
                if !offsets.iter().any(|offset| stored.contains(offset)) {
                    continue;
                }
                if self.progress.done.len() >= limits::SOURCES_MAX {
                    reply.refuse(
                        ResponseCode::SYSTEM_ERROR,
                        format!(
                            "{} queues have pending messages, the most there may be",
                            limits::SOURCES_MAX
                        ),
                    );
                    continue;
                }
            }
            let done = self.progress.done.entry(key).or_insert_with(|| DoneSet::new(range.min.0));
            done.raise(range.min.0);
            for (place, offset) in (first..).zip(offsets) {
                if stored.contains(offset) && done.mark(*offset) {
                    if !Mutant::AttemptsOutliveMessage.is_on() {
                        self.progress.attempts.end(key, *offset);
                    }
                    reply.grant(place);
                }
            }
        }
        reply
    }

    pub(super) fn attempt(&mut self, attempt: &Attempt) -> Reply {
        let Source { topic, queue, offsets } = &attempt.source;
        let key = (TopicId(*topic), *queue);
        let mut reply = Reply::default();
        for (place, offset) in (0..).zip(offsets) {
            if self.is_pending(key.0, key.1, *offset)
                && self.progress.attempts.add(key, *offset, self.log_time_ms)
            {
                reply.grant(place);
            }
        }
        reply
    }

    // ---- what a consumer group has of a queue ----

    pub(super) fn is_group(&self, group: GroupId) -> bool {
        self.groups.get(group.0).is_some_and(|slot| slot.group.is_some())
    }

    /// Whether the group is live and the queue is one of the topic's.
    fn is_live(&self, topic: TopicId, group: GroupId, queue: u32) -> bool {
        self.is_group(group) && self.topics.get(topic.0).is_some_and(|slot| queue < slot.topic.queue_count())
    }

    pub(super) fn lock(&mut self, command: &Lock) -> Reply {
        let Lock { group, client, unlock, lease_ms, topics, queues } = command;
        same_length("locks", topics.len(), &[queues.len()]);
        let mut reply = Reply::default();
        if client.is_empty() || client.len() > limits::LOCK_CLIENT_BYTES_MAX {
            reply.refuse(ResponseCode::INVALID_PARAMETER, "the client's id is empty or too long");
            return reply;
        }
        let (group, now_ms) = (GroupId(*group), self.log_time_ms);
        let until_ms = now_ms.saturating_add(*lease_ms);
        let mut claim = Claim::new(group, client.as_str().into(), now_ms, until_ms);
        self.progress.locks.end_expired(group, now_ms);
        for (place, (topic, queue)) in (0..).zip(topics.iter().zip(queues)) {
            let key = (TopicId(*topic), *queue);
            let granted = if *unlock {
                self.progress.locks.unlock(group, key, client)
            } else {
                self.is_live(key.0, group, *queue) && self.progress.locks.lock(&mut claim, key)
            };
            if granted {
                reply.grant(place);
            }
        }
        reply
    }

    pub(super) fn reset_offsets(&mut self, command: &ResetOffsets) -> Reply {
        let ResetOffsets { topic, group, queues, offsets } = command;
        same_length("resets", queues.len(), &[offsets.len()]);
        let of = (TopicId(*topic), GroupId(*group));
        let mut reply = Reply::default();
        for (place, (queue, offset)) in (0..).zip(queues.iter().zip(offsets)) {
            if !self.progress.resets.has_room(of, *queue)
                || self.set_offset(of.0, of.1, *queue, *offset).is_none()
            {
                continue;
            }
            self.progress.resets.put(of, *queue, *offset);
            self.progress.pops.end_ordered((of.0, of.1, *queue));
            reply.grant(place);
        }
        if reply.granted.is_empty() && !queues.is_empty() {
            reply.refuse(
                ResponseCode::TOPIC_NOT_EXIST,
                "the topic, the queue or the group does not exist (any more)",
            );
        }
        reply
    }

    pub(super) fn take_resets(&mut self, command: &TakeResets) -> Reply {
        let TakeResets { topics, groups, queues, offsets } = command;
        same_length("taken resets", topics.len(), &[groups.len(), queues.len(), offsets.len()]);
        let mut reply = Reply::default();
        for at in 0..topics.len() {
            let of = (TopicId(topics[at]), GroupId(groups[at]));
            if self.progress.resets.take(of, queues[at], offsets[at]) {
                reply.grant(at as u32);
            }
        }
        reply
    }

    pub(super) fn request_mode(&mut self, command: &SetRequestMode) -> Reply {
        let SetRequestMode { topic, group, pop, pop_share_queues } = command;
        let mut reply = Reply::default();
        let is_name = |name: &str| !name.is_empty() && name.len() <= limits::NAME_BYTES_MAX;
        if !is_name(topic) || !is_name(group) {
            reply.refuse(ResponseCode::INVALID_PARAMETER, "a name is empty or too long");
        } else if !self.progress.modes.has_room(topic, group) {
            reply.refuse(
                ResponseCode::SYSTEM_ERROR,
                format!("the broker has {} request modes, the most it may have", limits::REQUEST_MODES_MAX),
            );
        } else {
            let mode = RequestMode { pop: *pop, pop_share_queues: *pop_share_queues };
            reply.changed = self.progress.modes.put(topic, group, mode);
        }
        reply
    }

    // ---- pop ----

    pub(super) fn pop_take(&mut self, command: &PopTake) -> Reply {
        let mut reply = Reply::default();
        if command.attempt_id.len() > limits::ATTEMPT_ID_BYTES_MAX {
            reply.refuse(ResponseCode::INVALID_PARAMETER, "the attempt id is too long");
            return reply;
        }
        for (place, part) in (0..).zip(&command.parts) {
            if self.take_part(command, part).is_some() {
                reply.grant(place);
            }
        }
        reply
    }

    /// `None`: it is not granted, and nothing has changed.
    fn take_part(&mut self, command: &PopTake, part: &TakePart) -> Option<()> {
        let PopTake { group, parts: _, invisible_ms, order, attempt_id } = command;
        let TakePart { topic, queue, cursor, next, offsets } = part;
        let (topic, group) = (TopicId(*topic), GroupId(*group));
        let range = self.range(topic, *queue)?;
        let stored = self.stored_offset(topic, group, *queue);
        let is_possible = self.is_live(topic, group, *queue)
            && stored == *cursor
            && (cursor.unwrap_or(0).min(range.next.0)..=range.next.0).contains(next)
            && offsets.is_sorted_by(|a, b| a < b)
            && offsets.iter().all(|offset| (cursor.unwrap_or(0)..*next).contains(offset))
            && self.has_room_for_offset(topic, group, *queue);
        if !is_possible {
            return None;
        }
        let take = Take {
            cursor: stored,
            offsets,
            next: *next,
            invisible_ms: *invisible_ms,
            now_ms: self.log_time_ms,
            order: order.then_some(attempt_id.as_str()),
        };
        let cursor = self.progress.pops.take((topic, group, *queue), &take)?;
        if stored != Some(cursor) {
            self.set_offset(topic, group, *queue, cursor).expect("there is room");
        }
        // Whoever pops now pops by the offset that was set.
        if let Some(offset) = stored {
            self.progress.resets.take((topic, group), *queue, offset);
        }
        Some(())
    }

    pub(super) fn pop_ack(&mut self, command: &PopAck) -> Reply {
        let PopAck { topics, groups, queues, offsets, pop_times_ms } = command;
        let others = [groups.len(), queues.len(), offsets.len(), pop_times_ms.len()];
        same_length("acknowledgements", topics.len(), &others);
        let mut reply = Reply::default();
        for at in 0..topics.len() {
            let key = (TopicId(topics[at]), GroupId(groups[at]), queues[at]);
            match self.progress.pops.ack(key, offsets[at], pop_times_ms[at]) {
                Acked::Stale => continue,
                Acked::Done => {}
                Acked::Cursor(before, cursor) => {
                    // Unless somebody has set it back meanwhile.
                    let stored = self.stored_offset(key.0, key.1, key.2);
                    if stored.is_some_and(|stored| (before..cursor).contains(&stored)) {
                        self.set_offset(key.0, key.1, key.2, cursor);
                    }
                }
            }
            reply.grant(at as u32);
        }
        reply
    }

    pub(super) fn pop_change(&mut self, command: &PopChange) -> Reply {
        let PopChange { topics, groups, queues, offsets, pop_times_ms, invisible_ms } = command;
        let others = [groups.len(), queues.len(), offsets.len(), pop_times_ms.len(), invisible_ms.len()];
        same_length("invisible times", topics.len(), &others);
        let now_ms = self.log_time_ms;
        let mut reply = Reply::default();
        for at in 0..topics.len() {
            let key = (TopicId(topics[at]), GroupId(groups[at]), queues[at]);
            let visible_at_ms = now_ms.saturating_add(invisible_ms[at]);
            if self.progress.pops.change(key, offsets[at], pop_times_ms[at], now_ms, visible_at_ms) {
                reply.grant(at as u32);
            }
        }
        reply
    }

    /// Whether a revival may be coupled: all of it is due, and nothing is named twice.
    fn revives_due(&self, command: &PopRevive) -> bool {
        let mut seen = BTreeSet::new();
        command.batches.iter().all(|batch| {
            let key = pop_key(batch);
            seen.insert(key)
                && batch.offsets.is_sorted_by(|a, b| a < b)
                && batch
                    .offsets
                    .iter()
                    .all(|offset| self.progress.pops.is_due(key, *offset, self.log_time_ms))
        })
    }

    pub(super) fn pop_revive(&mut self, command: &PopRevive) -> Reply {
        let mut reply = Reply::default();
        let offsets = command
            .batches
            .iter()
            .flat_map(|batch| batch.offsets.iter().map(|offset| (pop_key(batch), *offset)));
        for (place, (key, offset)) in (0..).zip(offsets) {
            if self.progress.pops.revive(key, offset, self.log_time_ms) {
                reply.grant(place);
            }
        }
        reply
    }

    // ---- all of them ----

    /// Whether a command may take effect together with messages. Kinds that are not made for it never may.
    pub(super) fn may_be_coupled(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Release(command) => self.releases_pending(command),
            Kind::PopRevive(command) => self.revives_due(command),
            _ => false,
        }
    }

    pub(super) fn stored_offset(&self, topic: TopicId, group: GroupId, queue: u32) -> Option<u64> {
        let row = self.offsets.get(&(topic, group))?;
        row.get(queue as usize).copied().filter(|offset| *offset != NO_OFFSET)
    }
}

impl Reply {
    fn grant(&mut self, place: u32) {
        self.changed = true;
        self.granted.push(place);
    }

    /// The first refusal stands.
    fn refuse(&mut self, code: ResponseCode, remark: impl Into<String>) {
        if self.code == 0 {
            self.code = code.get();
            self.remark = remark.into();
        }
    }
}

fn pop_key(batch: &PopBatch) -> PopKey {
    (TopicId(batch.topic), GroupId(batch.group), batch.queue)
}

/// Panics, and so stops the replica, on an entry that contradicts itself.
fn same_length(what: &str, rows: usize, others: &[usize]) {
    assert!(others.iter().all(|other| *other == rows), "an entry of {what} has columns of different length");
}
