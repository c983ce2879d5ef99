//! The tables as bytes: what checkpoints and snapshots hold (docs/formats.md 7). Protobuf without maps, everything
//! in the order of ids or names, so equal tables give equal bytes. Where in the log they were taken is said by
//! what holds them (`store::TablesMeta`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use store::{LogIndex, Mutant};
use wire::QueueOffset;

use super::attempts::{Attempts, AttemptsRecord};
use super::command::{FEATURE_LEVEL, GroupConfig, TopicConfig};
use super::done::{DoneRecord, DoneSet};
use super::locks::{Locks, LocksRecord};
use super::modes::{ModeRecord, Modes};
use super::pop::{PopRecord, Pops};
use super::progress::Progress;
use super::resets::{Resets, ResetsRecord};
use super::slab::Slab;
use super::tables::{GroupSlot, Queue, Tables, TopicSlot};
use super::{DataVersion, Group, GroupId, QueueRange, Topic, TopicId, Totals};

#[derive(Clone, PartialEq, prost::Message)]
struct BrokerTables {
    /// The feature level of the build that wrote them.
    #[prost(uint32, tag = "1")]
    level: u32,
    #[prost(uint64, tag = "2")]
    topics_counter: u64,
    #[prost(uint64, tag = "3")]
    topics_timestamp_ms: u64,
    #[prost(uint32, tag = "4")]
    next_topic_id: u32,
    #[prost(message, repeated, tag = "5")]
    topics: Vec<TopicRecord>,
    #[prost(message, repeated, tag = "6")]
    deleted: Vec<DeletedRecord>,
    #[prost(uint64, tag = "7")]
    groups_counter: u64,
    #[prost(uint64, tag = "8")]
    groups_timestamp_ms: u64,
    #[prost(uint32, tag = "9")]
    next_group_id: u32,
    #[prost(message, repeated, tag = "10")]
    groups: Vec<GroupRecord>,
    #[prost(message, repeated, tag = "11")]
    offsets: Vec<OffsetsRecord>,
    #[prost(uint64, repeated, tag = "12")]
    voids: Vec<u64>,
    #[prost(uint64, tag = "13")]
    messages: u64,
    #[prost(uint64, tag = "14")]
    message_bytes: u64,
    #[prost(uint64, tag = "15")]
    void_entries: u64,
    #[prost(message, repeated, tag = "16")]
    done: Vec<DoneRecord>,
    #[prost(message, repeated, tag = "17")]
    attempts: Vec<AttemptsRecord>,
    #[prost(message, repeated, tag = "18")]
    locks: Vec<LocksRecord>,
    #[prost(message, repeated, tag = "19")]
    resets: Vec<ResetsRecord>,
    #[prost(message, repeated, tag = "20")]
    modes: Vec<ModeRecord>,
    #[prost(message, repeated, tag = "21")]
    pops: Vec<PopRecord>,
}

/// A topic and its queues, as columns of equal length.
#[derive(Clone, PartialEq, prost::Message)]
struct TopicRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, required, tag = "2")]
    config: TopicConfig,
    #[prost(uint64, repeated, tag = "3")]
    mins: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    nexts: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    last_store_ms: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeletedRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, repeated, tag = "2")]
    nexts: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GroupRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(string, tag = "2")]
    name: String,
    /// None: only its offsets are kept.
    #[prost(message, optional, tag = "3")]
    config: Option<GroupConfig>,
}

/// Offsets of a group in a topic, by queue, plus one; 0 where there is none.
#[derive(Clone, PartialEq, prost::Message)]
struct OffsetsRecord {
    #[prost(uint32, tag = "1")]
    topic: u32,
    #[prost(uint32, tag = "2")]
    group: u32,
    #[prost(uint64, repeated, tag = "3")]
    offsets: Vec<u64>,
}

impl Tables {
    pub(super) fn encode(&self) -> Vec<u8> {
        self.record().encode_to_vec()
    }

    /// The same table by table, without what only says which build wrote them.
    pub(super) fn encode_each(&self) -> Vec<(&'static str, Vec<u8>)> {
        let BrokerTables {
            level: _,
            topics_counter,
            topics_timestamp_ms,
            next_topic_id,
            topics,
            deleted,
            groups_counter,
            groups_timestamp_ms,
            next_group_id,
            groups,
            offsets,
            voids,
            messages,
            message_bytes,
            void_entries,
            done,
            attempts,
            locks,
            resets,
            modes,
            pops,
        } = self.record();
        let none = BrokerTables::default;
        let counts = BrokerTables { topics_counter, topics_timestamp_ms, next_topic_id, ..none() };
        let topics = BrokerTables { topics, deleted, ..counts };
        let counts = BrokerTables { groups_counter, groups_timestamp_ms, next_group_id, ..none() };
        let groups = BrokerTables { groups, ..counts };
        let totals = BrokerTables { voids, messages, message_bytes, void_entries, ..none() };
        let tables = [
            ("topics", topics),
            ("groups", groups),
            ("offsets", BrokerTables { offsets, ..none() }),
            ("totals", totals),
            ("done", BrokerTables { done, ..none() }),
            ("attempts", BrokerTables { attempts, ..none() }),
            ("locks", BrokerTables { locks, ..none() }),
            ("resets", BrokerTables { resets, ..none() }),
            ("modes", BrokerTables { modes, ..none() }),
            ("pops", BrokerTables { pops, ..none() }),
        ];
        tables.into_iter().map(|(table, record)| (table, record.encode_to_vec())).collect()
    }

    fn record(&self) -> BrokerTables {
        BrokerTables {
            level: self.level(),
            topics_counter: self.topics_version.counter,
            topics_timestamp_ms: self.topics_version.timestamp_ms,
            next_topic_id: self.topics.next_id(),
            topics: self.topics.iter().map(topic_record).collect(),
            deleted: self
                .deleted
                .iter()
                .map(|(name, nexts)| DeletedRecord { name: name.to_string(), nexts: nexts.clone() })
                .collect(),
            groups_counter: self.groups_version.counter,
            groups_timestamp_ms: self.groups_version.timestamp_ms,
            next_group_id: self.groups.next_id(),
            groups: self
                .groups
                .iter()
                .map(|(id, slot)| GroupRecord {
                    id,
                    name: slot.name.to_string(),
                    config: slot.group.as_ref().map(|group| group.config.clone()),
                })
                .collect(),
            offsets: self
                .offsets
                .iter()
                .skip(usize::from(Mutant::SnapshotDropsAnEntry.is_on()))
                .map(|((topic, group), row)| OffsetsRecord {
                    topic: topic.0,
                    group: group.0,
                    offsets: row.iter().map(|offset| offset.wrapping_add(1)).collect(),
                })
                .collect(),
            voids: self.voids.iter().map(|index| index.0).collect(),
            messages: self.totals.messages,
            message_bytes: self.totals.message_bytes,
            void_entries: self.totals.void_entries,
            done: self.progress.encode_done(),
            attempts: self.progress.attempts.encode(),
            locks: self.progress.locks.encode(),
            resets: self.progress.resets.encode(),
            modes: self.progress.modes.encode(),
            pops: self.progress.pops.encode(),
        }
    }

    /// Tables from bytes, as they were after the entry `applied`, whose log time is given.
    pub(super) fn decode(
        bytes: &[u8],
        applied: Option<LogIndex>,
        log_time_ms: u64,
    ) -> Result<Tables, String> {
        let record =
            BrokerTables::decode(bytes).map_err(|error| format!("the tables cannot be read: {error}"))?;
        if record.level > FEATURE_LEVEL {
            return Err(format!(
                "the tables are of feature level {}, this build has {FEATURE_LEVEL}",
                record.level
            ));
        }
        let mut topics = Slab::with_next_id(record.next_topic_id);
        for topic in record.topics {
            let (id, slot) = topic_slot(topic)?;
            let name = Arc::clone(&slot.topic.name);
            if !topics.put(id, Arc::clone(&name), slot) {
                return Err(format!("topic {name} has a number or a name that is taken"));
            }
        }
        let mut groups = Slab::with_next_id(record.next_group_id);
        for GroupRecord { id, name, config } in record.groups {
            let name: Arc<str> = name.into();
            let group =
                config.map(|config| Arc::new(Group { id: GroupId(id), name: Arc::clone(&name), config }));
            let slot = GroupSlot { name: Arc::clone(&name), group, topics: BTreeSet::new() };
            if !groups.put(id, Arc::clone(&name), slot) {
                return Err(format!("group {name} has a number or a name that is taken"));
            }
        }
        let mut offsets = BTreeMap::new();
        for OffsetsRecord { topic, group, offsets: row } in record.offsets {
            if topics.get(topic).is_none() || groups.get(group).is_none() {
                return Err(format!("offsets of an unknown topic {topic} or group {group}"));
            }
            let row = row.into_iter().map(|offset| offset.wrapping_sub(1)).collect();
            offsets.insert((TopicId(topic), GroupId(group)), row);
        }
        let mut tables = Tables {
            applied,
            log_time_ms,
            level: record.level,
            topics,
            topics_version: DataVersion {
                counter: record.topics_counter,
                timestamp_ms: record.topics_timestamp_ms,
            },
            deleted: record.deleted.into_iter().map(|d| (d.name.into(), d.nexts)).collect(),
            groups,
            groups_version: DataVersion {
                counter: record.groups_counter,
                timestamp_ms: record.groups_timestamp_ms,
            },
            offsets,
            voids: record.voids.into_iter().map(LogIndex).collect(),
            totals: Totals {
                messages: record.messages,
                message_bytes: record.message_bytes,
                void_entries: record.void_entries,
            },
            ..Tables::default()
        };
        for record in &record.done {
            let next = |topic, queue| Some(tables.range(topic, queue)?.next.0);
            let (key, set) = DoneSet::decode(record, next)?;
            if tables.progress.done.insert(key, set).is_some() {
                return Err(format!("what is done of queue {} of topic {} is said twice", key.1, key.0.0));
            }
        }
        let exists =
            |topic: TopicId, group: GroupId| tables.topics.get(topic.0).is_some() && tables.is_group(group);
        let attempts = Attempts::decode(record.attempts, |topic, queue, offset| {
            tables.is_pending(topic, queue, offset)
        })?;
        let locks = Locks::decode(record.locks, |group, topic| exists(topic, group))?;
        let resets = Resets::decode(record.resets, exists)?;
        let pops = Pops::decode(record.pops, exists)?;
        let modes = Modes::decode(record.modes)?;
        let done = std::mem::take(&mut tables.progress.done);
        tables.progress = Progress { done, attempts, locks, resets, modes, pops };
        tables.derive();
        Ok(tables)
    }
}

fn topic_record((id, slot): (u32, &TopicSlot)) -> TopicRecord {
    let column = |f: fn(&QueueRange) -> u64| slot.queues.iter().map(|queue| f(&queue.range)).collect();
    TopicRecord {
        id,
        config: slot.topic.config.clone(),
        mins: column(|range| range.min.0),
        nexts: column(|range| range.next.0),
        last_store_ms: column(|range| range.last_store_ms),
    }
}

fn topic_slot(record: TopicRecord) -> Result<(u32, TopicSlot), String> {
    let TopicRecord { id, config, mins, nexts, last_store_ms } = record;
    let name: Arc<str> = config.name.as_str().into();
    let topic = Topic { id: TopicId(id), name, config };
    if mins.len() != nexts.len()
        || last_store_ms.len() != nexts.len()
        || nexts.len() < topic.queue_count() as usize
        || mins.iter().zip(&nexts).any(|(min, next)| min > next)
    {
        return Err(format!("topic {} has queues that cannot be", topic.name));
    }
    let queues = mins
        .into_iter()
        .zip(nexts)
        .zip(last_store_ms)
        .map(|((min, next), last_store_ms)| {
            Queue::new(QueueRange { min: QueueOffset(min), next: QueueOffset(next), last_store_ms })
        })
        .collect();
    Ok((id, TopicSlot { topic: Arc::new(topic), queues }))
}
