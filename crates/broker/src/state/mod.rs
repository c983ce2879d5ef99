//! The replicated state of a group: what every replica's tables say after the same prefix of the log.
//!
//! ```text
//!            frame ──► State::apply ──► Tables (topics, queues, groups, consumer offsets, voids, Progress)
//!  handlers ◄── short read locks ────────┘        │ encode / restore: snapshots and checkpoints
//! ```
//!
//! `apply` is a function of the tables and the frame and of nothing else: no clock, no randomness, no float, no
//! I/O, no iteration over a hash map (design.md, invariant 5). Replicas with equal tables `encode` to equal
//! bytes. One writer (the group's apply task), many readers; a reader holds the lock for a lookup, never across
//! a wait, and takes no other lock under it.

mod attempts;
mod bootstrap;
pub mod command;
mod convert;
mod digest;
mod done;
pub mod limits;
mod locks;
mod merger;
mod modes;
pub mod pop;
mod progress;
mod readers;
mod resets;
pub mod rules;
mod slab;
mod snapshot;
mod tables;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use prost::Message as _;
use replica::{Outcome, StateMachine};
use store::{Frame, FrameKind, LogIndex, TablesMeta};
use wire::{LogPosition, QueueId, QueueOffset};

pub use bootstrap::BootstrapOptions;
pub use command::{Command, GroupConfig, Reply, TopicConfig};
pub use digest::TablesDigest;
pub use locks::Lease;
pub use merger::{Added, CommitBatch, CommitMerger};
pub use modes::RequestMode;
pub use pop::{DuePlace, InFlight, OrderedBatch, PopDue, PopPlace, PopStanding};
pub use rules::{Names, Refusal};
use tables::Tables;

/// The log's number for a topic. A topic that is deleted and created again has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u32);

/// The log's number for a consumer group's name; never given to another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// A live topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub id: TopicId,
    pub name: Arc<str>,
    pub config: TopicConfig,
}

/// A live consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub id: GroupId,
    pub name: Arc<str>,
    pub config: GroupConfig,
}

/// A queue's range of offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRange {
    /// The first offset that can be read.
    pub min: QueueOffset,
    /// The offset of the next message to be written.
    pub next: QueueOffset,
    /// Store time of the newest message, ms; 0 when there is none.
    pub last_store_ms: u64,
}

/// How often a table changed, and the log time of the last change. Its `stateVersion` on the wire is the term,
/// which is not a matter of the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataVersion {
    pub counter: u64,
    pub timestamp_ms: u64,
}

impl DataVersion {
    /// As nameservers and tools compare it, in a term of the group.
    pub fn to_wire(self, term: u64) -> wire::DataVersion {
        wire::DataVersion {
            counter: self.counter as i64,
            state_version: term as i64,
            timestamp: self.timestamp_ms as i64,
        }
    }
}

/// What the log has stored since its first entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub messages: u64,
    pub message_bytes: u64,
    pub void_entries: u64,
}

/// Where offsets of a (topic, group) are kept; made by [`State::commit_key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitKey {
    pub topic: TopicId,
    pub group: GroupId,
    /// max(read, write queues) of the topic: a commit's queue must be below.
    pub queues: u32,
}

/// Why there is no [`CommitKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCommitKey {
    /// Code 26.
    NoGroup,
    /// Code 17.
    NoTopic,
}

/// What a batch of applied entries brought, for those who wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// Queues with new messages, each once, in the order of their first one.
    pub queues: Vec<QueueAdvance>,
    /// A topic was created, changed or deleted: register with the nameservers.
    pub topics_changed: bool,
    /// A group was created, changed or deleted.
    pub groups_changed: bool,
    /// There is something to revive earlier than before ([`State::pop_next_due_ms`]).
    pub pops_sooner: bool,
    /// Queues in which a pop may have messages now that could not have them before: an orderly batch ended, or less is
    /// in flight. In the order of their numbers.
    pub pops_free: Vec<(Arc<str>, QueueId)>,
    /// The tables were replaced by a snapshot's: every queue may have moved.
    pub restored: bool,
}

/// A queue that has new messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueAdvance {
    pub topic: Arc<str>,
    pub queue: QueueId,
    pub next: QueueOffset,
}

/// See [`Hooks`].
pub type OnApplied = Box<dyn Fn(LogPosition, &Advance) + Send + Sync>;

/// What the broker does behind `apply`.
pub struct Hooks {
    /// What ends at this position is applied: held pulls wake, registration starts. Called by the apply task; must
    /// not wait or do I/O.
    pub on_applied: OnApplied,
}

/// See the module. Shared by `Arc`.
pub struct State {
    tables: RwLock<Tables>,
    /// The feature level of the tables. Peers ask for it with each heartbeat, which must not wait for an entry's effect.
    level: AtomicU32,
    hooks: OnceLock<Hooks>,
}

impl Default for State {
    fn default() -> State {
        State::new()
    }
}

impl State {
    /// Empty tables, before the first entry.
    pub fn new() -> State {
        State { tables: RwLock::default(), level: AtomicU32::new(1), hooks: OnceLock::new() }
    }

    /// Sets what happens behind `apply`; once, before the replica starts.
    pub fn set_hooks(&self, hooks: Hooks) {
        assert!(self.hooks.set(hooks).is_ok(), "the hooks of a state are set once");
    }

    /// A live topic. One lookup and a reference count: for the send and pull paths.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.read().topic(name).map(|slot| Arc::clone(&slot.topic))
    }

    /// All live topics, by name.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics_with_version().0
    }

    /// All live topics, by name, and the version of the table that they are.
    pub fn topics_with_version(&self) -> (Vec<Arc<Topic>>, DataVersion) {
        let tables = self.read();
        let mut topics: Vec<_> = tables.topics.iter().map(|(_, slot)| Arc::clone(&slot.topic)).collect();
        let version = tables.topics_version;
        drop(tables);
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        (topics, version)
    }

    /// The version of the topic table.
    pub fn topics_version(&self) -> DataVersion {
        self.read().topics_version
    }

    /// The range of a queue; `None`: no such topic, or queue ≥ max(read, write queues).
    pub fn queue(&self, topic: &str, queue: QueueId) -> Option<QueueRange> {
        let tables = self.read();
        let slot = tables.topic(topic)?;
        if queue.0 >= slot.topic.queue_count() {
            return None;
        }
        slot.queues.get(queue.0 as usize).map(|queue| queue.range)
    }

    /// The ranges of all queues of a topic, by queue id.
    pub fn queues(&self, topic: &str) -> Option<Vec<QueueRange>> {
        let tables = self.read();
        let slot = tables.topic(topic)?;
        Some(slot.queues.iter().take(slot.topic.queue_count() as usize).map(|queue| queue.range).collect())
    }

    /// A live group.
    pub fn group(&self, name: &str) -> Option<Arc<Group>> {
        self.read().group(name).cloned()
    }

    /// Whether a heartbeat of the group has something to create: the group, or its retry topic.
    pub fn lacks_group(&self, name: &str) -> bool {
        let tables = self.read();
        match tables.group(name) {
            None => true,
            Some(group) => {
                group.config.retry_queue_nums > 0 && tables.topic(&wire::retry_topic(name)).is_none()
            }
        }
    }

    /// All live groups, by name.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.groups_with_version().0
    }

    /// All live groups, by name, and the version of the table that they are.
    pub fn groups_with_version(&self) -> (Vec<Arc<Group>>, DataVersion) {
        let tables = self.read();
        let mut groups: Vec<_> = tables.groups.iter().filter_map(|(_, slot)| slot.group.clone()).collect();
        let version = tables.groups_version;
        drop(tables);
        groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        (groups, version)
    }

    /// The version of the group table.
    pub fn groups_version(&self) -> DataVersion {
        self.read().groups_version
    }

    /// A consumer offset (14), of a live group or not.
    pub fn offset(&self, topic: &str, group: &str, queue: QueueId) -> Option<QueueOffset> {
        let tables = self.read();
        stored(tables.offset_row(topic, group)?, queue)
    }

    /// The same by key.
    pub fn offset_of(&self, key: CommitKey, queue: QueueId) -> Option<QueueOffset> {
        stored(self.read().offsets.get(&(key.topic, key.group))?, queue)
    }

    /// All offsets of a group in a topic, by queue.
    pub fn offsets(&self, topic: &str, group: &str) -> BTreeMap<QueueId, QueueOffset> {
        let tables = self.read();
        let row = tables.offset_row(topic, group).map_or(&[][..], Vec::as_slice);
        let ids = (0..row.len() as u32).map(QueueId);
        ids.filter_map(|queue| Some((queue, stored(row, queue)?))).collect()
    }

    /// Where offsets of a live group in a live topic are kept.
    pub fn commit_key(&self, topic: &str, group: &str) -> Result<CommitKey, NoCommitKey> {
        self.read().commit_key(topic, group)
    }

    /// Live topics in which the group has offsets, by name.
    pub fn topics_of_group(&self, group: &str) -> Vec<Arc<Topic>> {
        let tables = self.read();
        let Some(slot) = tables.groups.id(group).and_then(|id| tables.groups.get(id)) else {
            return Vec::new();
        };
        let topics = slot.topics.iter().filter_map(|topic| tables.topics.get(topic.0));
        let mut topics: Vec<_> = topics.map(|slot| Arc::clone(&slot.topic)).collect();
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    /// Names of groups, live or not, that have offsets in the topic, sorted.
    pub fn groups_of_topic(&self, topic: &str) -> Vec<Arc<str>> {
        let tables = self.read();
        let Some(topic) = tables.topics.id(topic) else { return Vec::new() };
        let groups =
            tables.offset_rows_of_topic(TopicId(topic)).filter_map(|(group, _)| tables.groups.get(group.0));
        let mut names: Vec<_> = groups.map(|slot| Arc::clone(&slot.name)).collect();
        names.sort_unstable();
        names
    }

    /// What a leader must propose so that the system's topics and groups exist; `None` when they do.
    pub fn bootstrap(&self, options: &BootstrapOptions) -> Option<Command> {
        let tables = self.read();
        bootstrap::command(
            options,
            |topic| tables.topic(topic).is_none(),
            |group| tables.group(group).is_none(),
        )
    }

    /// Whether the entry at this index holds messages that count for nothing (log.md 4).
    pub fn is_void(&self, index: LogIndex) -> bool {
        self.read().voids.contains(&index)
    }

    /// Log time of the last applied entry, ms.
    pub fn log_time_ms(&self) -> u64 {
        self.read().log_time_ms
    }

    /// What the log has stored.
    pub fn totals(&self) -> Totals {
        self.read().totals
    }

    /// A writer that panicked has left the tables half changed: whoever reads them panics too, for this replica has
    /// stopped.
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().expect("apply did not panic")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().expect("apply did not panic")
    }

    /// What may raise the feature level.
    fn change<T>(&self, act: impl FnOnce(&mut Tables) -> T) -> T {
        let mut tables = self.write();
        let result = act(&mut tables);
        self.level.store(tables.level(), Ordering::Relaxed);
        result
    }
}

fn stored(row: &[u64], queue: QueueId) -> Option<QueueOffset> {
    row.get(queue.0 as usize).copied().filter(|offset| *offset != tables::NO_OFFSET).map(QueueOffset)
}

impl StateMachine for State {
    fn apply(&self, frame: &Frame) -> Outcome {
        match frame.kind() {
            FrameKind::Messages => {
                let accepted = self.write().apply_messages(frame);
                if accepted { Outcome::Messages } else { Outcome::Void }
            }
            FrameKind::Command => {
                let reply = self.change(|tables| tables.apply_command(frame));
                Outcome::Command(reply.encode_to_vec().into())
            }
            FrameKind::Blank | FrameKind::Membership => Outcome::Command(Bytes::new()),
            FrameKind::Coupled => match self.change(|tables| tables.apply_coupled(frame)) {
                Some(reply) => Outcome::Coupled(reply.encode_to_vec().into()),
                None => Outcome::Void,
            },
        }
    }

    fn pass(&self, _frame: &Frame) {}

    fn next_offset(&self, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.queue(topic, queue).map(|range| range.next)
    }

    fn level(&self) -> u32 {
        self.level.load(Ordering::Relaxed)
    }

    fn encode(&self) -> Vec<u8> {
        self.read().encode()
    }

    fn restore(&self, tables: &[u8], at: &TablesMeta) -> Result<(), String> {
        let restored = Tables::decode(tables, Some(at.last.index), at.log_time_ms)?;
        self.change(|tables| *tables = restored);
        Ok(())
    }

    fn after_apply(&self, end: LogPosition) {
        let advance = self.write().take_fresh();
        if let Some(hooks) = self.hooks.get() {
            (hooks.on_applied)(end, &advance);
        }
    }

    /// The tables have no files of their own.
    fn checkpointed(&self, _end: LogPosition) {}
}
