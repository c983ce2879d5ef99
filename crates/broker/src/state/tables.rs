//! The tables and what each entry does to them; commands 10 to 19 are in progress.rs. Pure: no lock, no clock, no I/O.
//!
//! No hash map is used here but inside [`Slab`], for lookups by name: everything that leaves the tables in an order is
//! ordered by number (given in log order) or by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use store::mutant::is_own;
use store::{Frame, LogIndex, Mutant};
use wire::{QueueId, QueueOffset, ResponseCode, perm, retry_topic};

use super::command::{
    Attribute, Bootstrap, Command, CommitOffsets, DeleteGroup, DeleteTopic, FEATURE_LEVEL, GroupConfig, Kind,
    Reply, TopicConfig, UpdateTopic,
};
use super::progress::Progress;
use super::slab::{Place, Slab};
use super::{
    Advance, CommitKey, DataVersion, Group, GroupId, NoCommitKey, QueueAdvance, QueueRange, Topic, TopicId,
    Totals, limits,
};

/// The mark of "no offset" in an offset row.
pub(super) const NO_OFFSET: u64 = u64::MAX;

#[derive(Debug, Default)]
pub(super) struct Tables {
    /// The last applied entry of messages or of a command.
    pub(super) applied: Option<LogIndex>,
    pub(super) log_time_ms: u64,
    /// The highest feature level of an applied command; 0: none has come.
    pub(super) level: u32,
    pub(super) topics: Slab<TopicSlot>,
    pub(super) topics_version: DataVersion,
    /// Where the numbering of deleted topics goes on, by queue, if they are made again.
    pub(super) deleted: BTreeMap<Arc<str>, Vec<u64>>,
    pub(super) groups: Slab<GroupSlot>,
    pub(super) groups_version: DataVersion,
    /// Offsets by queue, [`NO_OFFSET`] where there is none.
    pub(super) offsets: BTreeMap<(TopicId, GroupId), Vec<u64>>,
    pub(super) voids: BTreeSet<LogIndex>,
    pub(super) totals: Totals,
    pub(super) progress: Progress,
    /// Derived: queues of live and deleted topics.
    pub(super) queue_count: usize,
    /// Derived: length of all offset rows.
    pub(super) offset_count: usize,
    pub(super) fresh: Fresh,
    /// The messages of the entry at hand.
    pub(super) undo: Vec<Undo>,
}

/// What changed since the last call of [`Tables::take_fresh`]; no part of the replicated value.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    queues: Vec<(Place, QueueId)>,
    topics: bool,
    groups: bool,
    restored: bool,
}

/// One message of an entry that may still turn out to be void.
#[derive(Debug)]
pub(super) struct Undo {
    topic: Place,
    queue: QueueId,
    last_store_ms: u64,
}

#[derive(Debug)]
pub(super) struct TopicSlot {
    pub(super) topic: Arc<Topic>,
    /// At least max(read, write) of them; more after a topic has shrunk, so that their numbering is kept.
    pub(super) queues: Vec<Queue>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    pub(super) range: QueueRange,
    /// Listed in [`Fresh::queues`].
    fresh: bool,
}

impl Queue {
    pub(super) fn new(range: QueueRange) -> Queue {
        Queue { range, fresh: false }
    }
}

#[derive(Debug)]
pub(super) struct GroupSlot {
    pub(super) name: Arc<str>,
    /// None: deleted, or never configured, but its offsets are kept.
    pub(super) group: Option<Arc<Group>>,
    /// Derived: topics in which it has offsets.
    pub(super) topics: BTreeSet<TopicId>,
}

impl Tables {
    // ---- entries ----

    /// Messages: true when they count, false when the entry is void.
    pub(super) fn apply_messages(&mut self, frame: &Frame) -> bool {
        self.begin(frame);
        let accepted = self.count(&frame.records());
        if !accepted {
            self.void(frame);
        }
        accepted
    }

    /// A command and messages: the command's reply when both took effect, none when neither did.
    pub(super) fn apply_coupled(&mut self, frame: &Frame) -> Option<Reply> {
        self.begin(frame);
        let kind = self.command_of(frame);
        // The command is looked at first and takes effect last: so nothing of it is ever taken back.
        if !self.may_be_coupled(&kind) || !self.count(&frame.records()) {
            self.void(frame);
            return None;
        }
        Some(self.apply_kind(kind))
    }

    /// The feature level of the group, from 1.
    pub(super) fn level(&self) -> u32 {
        self.level.max(1)
    }

    /// What a frame commands. That it is there tells the level that every replica knows, whatever becomes of it. Panics, and so
    /// stops the replica, on what this build does not know.
    fn command_of(&mut self, frame: &Frame) -> Kind {
        let index = frame.id().index;
        let body = frame.command().unwrap_or_default();
        let command = Command::decode(&*body)
            .unwrap_or_else(|error| panic!("the command at {index} cannot be read: {error}"));
        assert!(
            command.level <= FEATURE_LEVEL,
            "the command at {index} needs feature level {}, this build has {FEATURE_LEVEL}",
            command.level
        );
        self.level = self.level.max(command.level);
        command.kind.unwrap_or_else(|| panic!("the command at {index} is of an unknown kind"))
    }

    /// Counts messages into their queues, all or none.
    fn count(&mut self, records: &[u8]) -> bool {
        let fresh_before = self.fresh.queues.len();
        if self.judge(records).is_none() {
            self.roll_back(fresh_before);
            return false;
        }
        self.totals.messages += self.undo.len() as u64;
        self.totals.message_bytes += records.len() as u64;
        true
    }

    fn void(&mut self, frame: &Frame) {
        self.voids.insert(frame.id().index);
        self.totals.void_entries += 1;
    }

    /// Counts an entry's messages into their queues, noting each in `undo`. `None` as soon as one does not follow.
    /// This runs on every replica for every message.
    fn judge(&mut self, body: &[u8]) -> Option<()> {
        self.undo.clear();
        let mut current: Option<(&str, Place, &mut TopicSlot)> = None;
        for message in wire::Messages::new(body) {
            let message = message.ok()?;
            if current.as_ref().is_none_or(|(name, ..)| *name != message.topic) {
                let place = self.topics.place(message.topic)?;
                current = Some((message.topic, place, self.topics.at_mut(place)?));
            }
            let (_, topic, slot) = current.as_mut()?;
            let (topic, queue_id) = (*topic, message.queue_id);
            if queue_id.0 >= slot.topic.queue_count() {
                return None;
            }
            let Queue { range, fresh } = &mut slot.queues[queue_id.0 as usize];
            if range.next != message.queue_offset && !Mutant::NoVoidCheck.is_on() {
                return None;
            }
            self.undo.push(Undo { topic, queue: queue_id, last_store_ms: range.last_store_ms });
            range.next = range.next.plus(1);
            range.last_store_ms = u64::try_from(message.store_timestamp).unwrap_or(0);
            if !*fresh {
                *fresh = true;
                self.fresh.queues.push((topic, queue_id));
            }
        }
        Some(())
    }

    fn roll_back(&mut self, fresh_before: usize) {
        while let Some(Undo { topic, queue, last_store_ms }) = self.undo.pop() {
            let range = &mut self.queue_mut(topic, queue).range;
            range.next = QueueOffset(range.next.0 - 1);
            range.last_store_ms = last_store_ms;
        }
        while self.fresh.queues.len() > fresh_before {
            if let Some((topic, queue)) = self.fresh.queues.pop() {
                self.queue_mut(topic, queue).fresh = false;
            }
        }
    }

    fn queue_mut(&mut self, topic: Place, queue: QueueId) -> &mut Queue {
        let slot = self.topics.at_mut(topic).expect("a queue that was counted in this entry");
        &mut slot.queues[queue.0 as usize]
    }

    /// A command. Panics, and so stops the replica, on one that this build does not know.
    pub(super) fn apply_command(&mut self, frame: &Frame) -> Reply {
        self.begin(frame);
        let kind = self.command_of(frame);
        self.apply_kind(kind)
    }

    fn apply_kind(&mut self, kind: Kind) -> Reply {
        let reply = match kind {
            Kind::Bootstrap(command) => return self.bootstrap(command),
            Kind::CreateTopic(config) => return self.create_topic(config),
            Kind::UpdateTopic(command) => return self.update_topic(command),
            Kind::DeleteTopic(command) => return self.delete_topic(&command),
            Kind::CreateGroup(config) => return self.create_group(config),
            Kind::UpdateGroup(config) => return self.update_group(config),
            Kind::DeleteGroup(command) => return self.delete_group(&command),
            Kind::CommitOffsets(_) if Mutant::OffsetsNotReplicated.is_on() && !is_own() => {
                return Reply::default();
            }
            Kind::CommitOffsets(command) => return self.commit_offsets(&command),
            // That it has come is all.
            Kind::RaiseLevel(_) => return Reply::default(),
            // progress.rs
            Kind::Release(command) => self.release(&command),
            Kind::Attempt(command) => self.attempt(&command),
            Kind::PopTake(command) => self.pop_take(&command),
            Kind::PopAck(command) => self.pop_ack(&command),
            Kind::PopChange(command) => self.pop_change(&command),
            Kind::Lock(command) => self.lock(&command),
            Kind::ResetOffsets(command) => self.reset_offsets(&command),
            Kind::TakeResets(command) => self.take_resets(&command),
            Kind::RequestMode(command) => self.request_mode(&command),
            Kind::PopRevive(command) => self.pop_revive(&command),
        };
        Reply { time_ms: self.log_time_ms, ..reply }
    }

    /// Blank and membership entries do not come here, so indexes may leap, but never back.
    fn begin(&mut self, frame: &Frame) {
        let index = frame.id().index;
        assert!(self.applied < Some(index), "entry {index} after {:?}", self.applied);
        assert!(frame.log_time_ms() >= self.log_time_ms, "log time falls at {index}");
        self.applied = Some(index);
        self.log_time_ms = frame.log_time_ms();
    }

    // ---- topics ----

    fn bootstrap(&mut self, command: Bootstrap) -> Reply {
        let mut reply = Reply::default();
        for topic in command.topics {
            reply.merge(self.create_topic(topic));
        }
        for group in command.groups {
            if self.group(&group.name).is_none() {
                reply.merge(self.put_group(group));
            }
        }
        reply
    }

    fn create_topic(&mut self, config: TopicConfig) -> Reply {
        if self.topic(&config.name).is_some() {
            return Reply::default();
        }
        let mut config = config;
        config.attributes = sorted(std::mem::take(&mut config.attributes));
        self.put_topic(config)
    }

    fn update_topic(&mut self, command: UpdateTopic) -> Reply {
        match self.updated(command) {
            Some(config) => self.put_topic(config),
            None => Reply::default(),
        }
    }

    /// What a topic is after an update; `None`: as it is.
    fn updated(&self, command: UpdateTopic) -> Option<TopicConfig> {
        let UpdateTopic { mut config, unset } = command;
        let old = self.topic(&config.name).map(|slot| &slot.topic.config);
        let mut attributes: BTreeMap<String, String> = BTreeMap::new();
        let kept = old.into_iter().flat_map(|old| old.attributes.iter().cloned());
        for Attribute { key, value } in kept.chain(std::mem::take(&mut config.attributes)) {
            attributes.insert(key, value);
        }
        for key in &unset {
            attributes.remove(key);
        }
        config.attributes = attributes.into_iter().map(|(key, value)| Attribute { key, value }).collect();
        (old != Some(&config)).then_some(config)
    }

    /// Whether an update of a topic or a consumer group would leave it as it is.
    pub(super) fn has(&self, command: &Command) -> bool {
        match &command.kind {
            Some(Kind::UpdateTopic(command)) => self.updated(command.clone()).is_none(),
            Some(Kind::UpdateGroup(config)) => self.has_group(config),
            _ => false,
        }
    }

    fn has_group(&self, config: &GroupConfig) -> bool {
        self.group(&config.name).is_some_and(|group| group.config == *config)
    }

    /// Inserts or replaces a topic, attributes sorted. Queues are added, never removed.
    fn put_topic(&mut self, config: TopicConfig) -> Reply {
        let wanted = config.read_queues.max(config.write_queues);
        if config.name.is_empty() || config.name.len() > limits::NAME_BYTES_MAX {
            return Reply::refused(ResponseCode::INVALID_PARAMETER, "the topic's name is empty or too long");
        }
        if wanted > limits::QUEUES_PER_TOPIC_MAX {
            return Reply::refused(
                ResponseCode::INVALID_PARAMETER,
                format!("{wanted} queues; a topic has at most {}", limits::QUEUES_PER_TOPIC_MAX),
            );
        }
        if config.attributes.len() > limits::ATTRIBUTES_MAX {
            return Reply::refused(
                ResponseCode::INVALID_PARAMETER,
                format!(
                    "{} attributes; a topic has at most {}",
                    config.attributes.len(),
                    limits::ATTRIBUTES_MAX
                ),
            );
        }
        let id = self.topics.id(&config.name);
        let has = match id {
            Some(id) => self.topics.get(id).map_or(0, |slot| slot.queues.len()),
            None => self.deleted.get(config.name.as_str()).map_or(0, Vec::len),
        };
        if id.is_none()
            && !self.deleted.contains_key(config.name.as_str())
            && self.topics.len() + self.deleted.len() >= limits::TOPIC_NAMES_MAX
        {
            return Reply::refused(
                ResponseCode::SYSTEM_ERROR,
                format!("the group has {} topics, the most it may have", limits::TOPIC_NAMES_MAX),
            );
        }
        let more = (wanted as usize).saturating_sub(has);
        if self.queue_count + more > limits::QUEUES_MAX {
            return Reply::refused(
                ResponseCode::SYSTEM_ERROR,
                format!("the group has {} queues of at most {}", self.queue_count, limits::QUEUES_MAX),
            );
        }
        self.queue_count += more;
        match id {
            Some(id) => {
                let slot = self.topics.get_mut(id).expect("looked up");
                let name = Arc::clone(&slot.topic.name);
                slot.topic = Arc::new(Topic { id: TopicId(id), name, config });
                slot.queues.resize_with(has.max(wanted as usize), Queue::default);
            }
            None => {
                let name: Arc<str> = config.name.as_str().into();
                let mut queues: Vec<Queue> = self
                    .deleted
                    .remove(&name)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|next| {
                        let next = QueueOffset(next);
                        Queue::new(QueueRange { min: next, next, last_store_ms: 0 })
                    })
                    .collect();
                queues.resize_with(has.max(wanted as usize), Queue::default);
                self.topics.insert(&name, |id| TopicSlot {
                    topic: Arc::new(Topic { id: TopicId(id), name: Arc::clone(&name), config }),
                    queues,
                });
            }
        }
        self.topics_version.bump(self.log_time_ms);
        self.fresh.topics = true;
        Reply::changed()
    }

    fn delete_topic(&mut self, command: &DeleteTopic) -> Reply {
        let Some((place, slot)) = self.topics.remove(&command.name) else { return Reply::default() };
        let id = slot.topic.id;
        self.fresh.queues.retain(|(topic, _)| *topic != place);
        self.queue_count -= slot.queues.len();
        let mut nexts: Vec<u64> = slot.queues.iter().map(|queue| queue.range.next.0).collect();
        while nexts.last() == Some(&0) {
            nexts.pop();
        }
        if !nexts.is_empty() {
            self.queue_count += nexts.len();
            self.deleted.insert(Arc::clone(&slot.topic.name), nexts);
        }
        let groups: Vec<GroupId> = self.offset_rows_of_topic(id).map(|(group, _)| group).collect();
        let retries: Vec<String> =
            groups.iter().filter_map(|group| self.retry_topic_of(&command.name, *group)).collect();
        for group in groups {
            self.remove_offsets(id, group);
        }
        self.progress.end_topic(id);
        self.topics_version.bump(self.log_time_ms);
        self.fresh.topics = true;
        // Retry topics have none of their own.
        for name in retries {
            self.delete_topic(&DeleteTopic { name });
        }
        Reply::changed()
    }

    /// The topic in which pop gives messages of a topic to a group once more, if it has no other use.
    fn retry_topic_of(&self, topic: &str, group: GroupId) -> Option<String> {
        let group = &self.groups.get(group.0)?.name;
        // By its name it may be that of a group, in which what consumers send back is.
        let is_other = self.group(&format!("{group}_{topic}")).is_some();
        (!wire::is_retry_topic(topic) && !is_other).then(|| wire::pop_retry_topic(topic, group))
    }

    pub(super) fn topic(&self, name: &str) -> Option<&TopicSlot> {
        self.topics.named(name)
    }

    // ---- groups ----

    fn create_group(&mut self, config: GroupConfig) -> Reply {
        let mut reply = Reply::default();
        let retry = match self.group(&config.name) {
            Some(group) => (retry_topic(&config.name), group.config.retry_queue_nums),
            None => (retry_topic(&config.name), config.retry_queue_nums),
        };
        if self.group(&config.name).is_none() {
            reply.merge(self.put_group(config));
        }
        let queues = u32::try_from(retry.1).unwrap_or(0);
        if reply.code == 0 && queues > 0 && self.topic(&retry.0).is_none() {
            reply.merge(self.put_topic(TopicConfig {
                name: retry.0,
                read_queues: queues,
                write_queues: queues,
                perm: perm::READ_WRITE,
                ..TopicConfig::default()
            }));
        }
        reply
    }

    fn update_group(&mut self, config: GroupConfig) -> Reply {
        if self.has_group(&config) {
            return Reply::default();
        }
        self.put_group(config)
    }

    fn put_group(&mut self, config: GroupConfig) -> Reply {
        if config.name.is_empty() || config.name.len() > limits::NAME_BYTES_MAX {
            return Reply::refused(ResponseCode::INVALID_PARAMETER, "the group's name is empty or too long");
        }
        let id = match self.groups.id(&config.name) {
            Some(id) => id,
            None if self.groups.len() >= limits::GROUP_NAMES_MAX => {
                return Reply::refused(
                    ResponseCode::SYSTEM_ERROR,
                    format!("the broker has {} groups, the most it may have", limits::GROUP_NAMES_MAX),
                );
            }
            None => {
                let name: Arc<str> = config.name.as_str().into();
                self.groups.insert(&name, |_| GroupSlot {
                    name: Arc::clone(&name),
                    group: None,
                    topics: BTreeSet::new(),
                })
            }
        };
        let slot = self.groups.get_mut(id).expect("inserted or looked up");
        slot.group = Some(Arc::new(Group { id: GroupId(id), name: Arc::clone(&slot.name), config }));
        self.groups_version.bump(self.log_time_ms);
        self.fresh.groups = true;
        Reply::changed()
    }

    fn delete_group(&mut self, command: &DeleteGroup) -> Reply {
        let Some(id) = self.groups.id(&command.name) else { return Reply::default() };
        let slot = self.groups.get_mut(id).expect("looked up");
        let mut changed = slot.group.take().is_some();
        if changed {
            self.groups_version.bump(self.log_time_ms);
            self.fresh.groups = true;
            self.progress.end_group(GroupId(id), &command.name);
        }
        if command.clean_offsets {
            let topics = slot.topics.clone();
            changed |= !topics.is_empty();
            for topic in topics {
                self.remove_offsets(topic, GroupId(id));
            }
        }
        self.forget_group_if_empty(GroupId(id));
        Reply { changed, ..Reply::default() }
    }

    pub(super) fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.named(name)?.group.as_ref()
    }

    /// A group without configuration and offsets needs no name any more.
    fn forget_group_if_empty(&mut self, id: GroupId) {
        if let Some(slot) = self.groups.get(id.0)
            && slot.group.is_none()
            && slot.topics.is_empty()
        {
            let name = Arc::clone(&slot.name);
            self.groups.remove(&name);
        }
    }

    // ---- consumer offsets ----

    pub(super) fn commit_key(&self, topic: &str, group: &str) -> Result<CommitKey, NoCommitKey> {
        let group = self.group(group).ok_or(NoCommitKey::NoGroup)?.id;
        let slot = self.topic(topic).ok_or(NoCommitKey::NoTopic)?;
        Ok(CommitKey { topic: slot.topic.id, group, queues: slot.topic.queue_count() })
    }

    fn commit_offsets(&mut self, command: &CommitOffsets) -> Reply {
        let CommitOffsets { topics, groups, queues, offsets } = command;
        let rows = offsets.len();
        assert!(
            topics.len() == rows && groups.len() == rows && queues.len() == rows,
            "an entry of offsets has columns of different length"
        );
        let mut reply = Reply::default();
        let mut dropped = 0;
        for i in 0..rows {
            match self.commit(TopicId(topics[i]), GroupId(groups[i]), queues[i], offsets[i]) {
                Some(changed) => reply.changed |= changed,
                None => dropped += 1,
            }
        }
        if rows > 0 && dropped == rows {
            reply.code = ResponseCode::TOPIC_NOT_EXIST.get();
            reply.remark = "the topic, the queue or the group does not exist (any more)".into();
        }
        reply
    }

    /// Whether the offset changed; `None` when there is no place for it.
    fn commit(&mut self, topic: TopicId, group: GroupId, queue: u32, offset: u64) -> Option<bool> {
        let resets = &self.progress.resets;
        let is_reset = !resets.is_empty() && resets.get((topic, group), queue).is_some();
        if is_reset && !Mutant::CommitOverrulesReset.is_on() {
            // Who says it has not heard of the reset yet.
            return Some(false);
        }
        self.set_offset(topic, group, queue, offset)
    }

    /// The same, whether it was reset or not.
    pub(super) fn set_offset(
        &mut self,
        topic: TopicId,
        group: GroupId,
        queue: u32,
        offset: u64,
    ) -> Option<bool> {
        let queues = self.topics.get(topic.0)?.topic.queue_count();
        let slot = self.groups.get_mut(group.0)?;
        if queue >= queues || offset == NO_OFFSET || slot.group.is_none() {
            return None;
        }
        let wanted = queue as usize + 1;
        let has = self.offsets.get(&(topic, group)).map_or(0, Vec::len);
        let more = wanted.saturating_sub(has);
        if self.offset_count + more > limits::CONSUMER_OFFSETS_MAX {
            return None;
        }
        self.offset_count += more;
        slot.topics.insert(topic);
        let row = self.offsets.entry((topic, group)).or_default();
        if more > 0 {
            row.resize(wanted, NO_OFFSET);
        }
        let stored = &mut row[queue as usize];
        let changed = *stored != offset;
        *stored = offset;
        Some(changed)
    }

    /// Whether there is a place for an offset, or room for one.
    pub(super) fn has_room_for_offset(&self, topic: TopicId, group: GroupId, queue: u32) -> bool {
        let has = self.offsets.get(&(topic, group)).map_or(0, Vec::len);
        let more = (queue as usize + 1).saturating_sub(has);
        self.offset_count + more <= limits::CONSUMER_OFFSETS_MAX
    }

    fn remove_offsets(&mut self, topic: TopicId, group: GroupId) {
        if let Some(row) = self.offsets.remove(&(topic, group)) {
            self.offset_count -= row.len();
        }
        if let Some(slot) = self.groups.get_mut(group.0) {
            slot.topics.remove(&topic);
        }
        self.forget_group_if_empty(group);
    }

    pub(super) fn offset_rows_of_topic(&self, topic: TopicId) -> impl Iterator<Item = (GroupId, &Vec<u64>)> {
        let all = (topic, GroupId(0))..=(topic, GroupId(u32::MAX));
        self.offsets.range(all).map(|((_, group), row)| (*group, row))
    }

    pub(super) fn offset_row(&self, topic: &str, group: &str) -> Option<&Vec<u64>> {
        let topic = self.topics.id(topic)?;
        let group = self.groups.id(group)?;
        self.offsets.get(&(TopicId(topic), GroupId(group)))
    }

    // ---- what the batch brought ----

    /// What happened since the last call.
    pub(super) fn take_fresh(&mut self) -> Advance {
        let Fresh { queues: fresh, topics, groups, restored } = std::mem::take(&mut self.fresh);
        let mut queues = Vec::with_capacity(fresh.len());
        for (place, queue_id) in fresh {
            let slot = self.topics.at_mut(place).expect("a deleted topic has no fresh queues");
            let queue = &mut slot.queues[queue_id.0 as usize];
            queue.fresh = false;
            queues.push(QueueAdvance {
                topic: Arc::clone(&slot.topic.name),
                queue: queue_id,
                next: queue.range.next,
            });
        }
        let pops_sooner = self.progress.pops.take_sooner();
        let mut pops_free = Vec::new();
        for (topic, _, queue) in self.progress.pops.take_free() {
            let name = self.topics.get(topic.0).map(|slot| Arc::clone(&slot.topic.name));
            pops_free.extend(name.map(|name| (name, QueueId(queue))));
        }
        Advance { queues, topics_changed: topics, groups_changed: groups, pops_sooner, pops_free, restored }
    }

    /// Computes what is derived, after the tables were read from a snapshot.
    pub(super) fn derive(&mut self) {
        self.queue_count = self.topics.iter().map(|(_, slot)| slot.queues.len()).sum::<usize>()
            + self.deleted.values().map(Vec::len).sum::<usize>();
        self.offset_count = self.offsets.values().map(Vec::len).sum();
        for (topic, group) in self.offsets.keys() {
            if let Some(slot) = self.groups.get_mut(group.0) {
                slot.topics.insert(*topic);
            }
        }
        self.fresh = Fresh { queues: Vec::new(), topics: true, groups: true, restored: true };
    }
}

impl Topic {
    /// Queues that can be written or read: ids below it are valid.
    pub fn queue_count(&self) -> u32 {
        self.config.read_queues.max(self.config.write_queues)
    }
}

impl DataVersion {
    fn bump(&mut self, log_time_ms: u64) {
        self.counter += 1;
        self.timestamp_ms = log_time_ms;
    }
}

impl Reply {
    fn changed() -> Reply {
        Reply { changed: true, ..Reply::default() }
    }

    fn refused(code: ResponseCode, remark: impl Into<String>) -> Reply {
        Reply { code: code.get(), remark: remark.into(), ..Reply::default() }
    }

    /// The first refusal stands.
    fn merge(&mut self, other: Reply) {
        self.changed |= other.changed;
        if self.code == 0 {
            self.code = other.code;
            self.remark = other.remark;
        }
    }
}

fn sorted(attributes: Vec<Attribute>) -> Vec<Attribute> {
    let map: BTreeMap<String, String> = attributes.into_iter().map(|a| (a.key, a.value)).collect();
    map.into_iter().map(|(key, value)| Attribute { key, value }).collect()
}
