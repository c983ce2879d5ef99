//! What is due, read and made into proposals: for each batch one entry that marks the waiting messages done and stores them
//! in their real queues.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use replica::MessagesProposal;
use store::index::Unit;
use wire::{
    MessageError, NewMessage, PROPERTIES_BYTES_MAX, QueueId, QueueOffset, StoredMessage, encode_message,
    prop, properties_get, properties_iter, properties_push,
};

use super::source::{SourceQueue, units};
use crate::damage::{self, sound};
use crate::errors::Error;
use crate::handlers::send::retry_topic;
use crate::hosted::{Hosted, Serving};
use crate::limits::DELIVERY_BYTES;
use crate::state::TopicConfig;
use crate::state::command::{Release, Source, released};

/// Messages that are delivered together.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// Of the waiting messages, by the time at which they are due.
    pub(super) offsets: Vec<u64>,
    pub(super) messages: Vec<MessagesProposal>,
}

impl Delivery {
    /// The command that marks the waiting messages done.
    pub(super) fn release(&self, queue: &SourceQueue) -> Release {
        release(queue, self.offsets.clone(), released::DELIVERED)
    }
}

pub(super) fn release(queue: &SourceQueue, mut offsets: Vec<u64>, how: u32) -> Release {
    offsets.sort_unstable();
    Release { sources: vec![Source { topic: queue.id.0, queue: queue.queue.0, offsets }], how }
}

/// What became of messages that are due.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) delivery: Delivery,
    /// Too many for one entry.
    pub(super) rest: Vec<u64>,
    /// They can never be delivered, as a sound record says: it names no place, or one whose topic was deleted.
    pub(super) dropped: Vec<u64>,
    /// They could not be read, or their retry topic is made first: to be tried again later.
    pub(super) put_off: Vec<u64>,
    /// What is on this node's disk is not what was stored: to be looked at again much later.
    pub(super) damaged: Vec<u64>,
    /// Retry topics of groups that are there, which are not.
    pub(super) missing: Vec<TopicConfig>,
}

/// Reads the messages at these offsets, which are in the order of their times, as many as fit an entry. May wait for the
/// disk.
pub(super) fn read(hosted: &Hosted, queue: &SourceQueue, offsets: &[u64], now_ms: u64) -> Result<Due, Error> {
    let serving = hosted.served_here()?;
    let state = &hosted.state;
    let mut sorted: Vec<QueueOffset> = offsets
        .iter()
        .map(|offset| QueueOffset(*offset))
        // Taken back meanwhile, or delivered by an entry of which this node learned late.
        .filter(|offset| !state.is_done(&queue.topic, queue.queue, *offset))
        .collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut found = units(serving, queue, &sorted, true)?.unwrap_or_default();
    let mut due = Due::default();
    let sizes: BTreeMap<u64, usize> =
        found.iter().map(|(offset, unit)| (offset.0, unit.size as usize)).collect();
    due.put_off.extend(sorted.iter().map(|offset| offset.0).filter(|offset| !sizes.contains_key(offset)));
    let mut bytes = 0;
    let mut chosen = Vec::with_capacity(offsets.len());
    for offset in offsets {
        let Some(size) = sizes.get(offset) else { continue };
        if bytes > 0 && bytes + size > DELIVERY_BYTES || !due.rest.is_empty() {
            due.rest.push(*offset);
        } else {
            bytes += size;
            chosen.push(*offset);
        }
    }
    if !due.rest.is_empty() {
        let rest: BTreeSet<u64> = due.rest.iter().copied().collect();
        found.retain(|(offset, _)| !rest.contains(&offset.0));
    }
    let mut records = records(hosted, serving, queue, &found, &mut due.damaged);
    let mut builder = Builder {
        hosted,
        queue,
        now_ms,
        due,
        places: BTreeMap::new(),
        missing: BTreeSet::new(),
        reasons: BTreeMap::new(),
    };
    for offset in chosen {
        if let Some(record) = records.remove(&offset) {
            builder.add(offset, &record);
        }
    }
    // One line for each reason: a deleted topic may have had many.
    for (why, (count, first)) in &builder.reasons {
        let (group, topic, queue) = (hosted.name(), &queue.topic, queue.queue.0);
        tracing::warn!(group, %topic, queue, first, count, why, "messages are dropped that were due");
    }
    Ok(builder.due)
}

/// The records of these units, by offset. Those that cannot be read, or not as they were written, count as damaged.
fn records(
    hosted: &Hosted,
    serving: &Serving,
    queue: &SourceQueue,
    found: &[(QueueOffset, Unit)],
    damaged: &mut Vec<u64>,
) -> BTreeMap<u64, Bytes> {
    let wanted: Vec<_> = found.iter().map(|(_, unit)| (unit.position, unit.size)).collect();
    let mut records = BTreeMap::new();
    for ((offset, _), record) in found.iter().zip(serving.log.read_checked(&wanted)) {
        match record {
            Ok(record) => drop(records.insert(offset.0, record)),
            Err(error) => {
                damage::report(hosted, &queue.topic, queue.queue, *offset, &error);
                damaged.push(offset.0);
            }
        }
    }
    records
}

struct Builder<'a> {
    hosted: &'a Hosted,
    queue: &'a SourceQueue,
    now_ms: u64,
    due: Due,
    /// Where in the delivery the messages of a queue are.
    places: BTreeMap<(Arc<str>, QueueId), usize>,
    missing: BTreeSet<String>,
    /// Why messages are dropped: how many, and the first.
    reasons: BTreeMap<String, (usize, u64)>,
}

/// Why a message is not delivered.
enum Trouble {
    Dropped(String),
    Damaged(MessageError),
    NoTopicYet(TopicConfig),
}

impl Builder<'_> {
    fn add(&mut self, offset: u64, record: &[u8]) {
        match self.put(offset, record) {
            Ok(()) => {}
            Err(Trouble::Dropped(why)) => {
                self.reasons.entry(why).or_insert((0, offset)).0 += 1;
                self.due.dropped.push(offset);
            }
            Err(Trouble::Damaged(error)) => {
                let SourceQueue { topic, queue, .. } = self.queue;
                damage::report(self.hosted, topic, *queue, QueueOffset(offset), &error);
                self.due.damaged.push(offset);
            }
            Err(Trouble::NoTopicYet(config)) => {
                self.due.put_off.push(offset);
                if self.missing.insert(config.name.clone()) {
                    self.due.missing.push(config);
                }
            }
        }
    }

    fn put(&mut self, offset: u64, record: &[u8]) -> Result<(), Trouble> {
        let broken = |why: String| Trouble::Dropped(why);
        let waiting = sound(record).map_err(Trouble::Damaged)?;
        let name = waiting.property(prop::REAL_TOPIC).ok_or_else(|| broken("it has no REAL_TOPIC".into()))?;
        let queue = waiting.property(prop::REAL_QID).and_then(|queue| queue.parse::<u32>().ok());
        let queue = queue.ok_or_else(|| broken("it has no REAL_QID".into()))?;
        if wire::is_send_forbidden(name) {
            return Err(broken(format!("its topic is {name}")));
        }
        let Some(topic) = self.hosted.state.topic(name) else { return Err(self.no_topic(name)) };
        // A topic may have fewer queues than it had.
        let queue = QueueId(queue % topic.queue_count().max(1));
        let properties = delivered(waiting.properties, self.queue.delay_ms.is_some(), &waiting, self.now_ms);
        let message = NewMessage {
            topic: name,
            queue_id: queue,
            flag: waiting.flag,
            sys_flag: waiting.sys_flag,
            born_timestamp: waiting.born_timestamp,
            born_host: waiting.born_host,
            store_host: self.hosted.store_host,
            reconsume_times: waiting.reconsume_times,
            prepared_transaction_offset: waiting.prepared_transaction_offset,
            body: waiting.body,
            properties: &properties,
        };
        let delivery = &mut self.due.delivery;
        let place = *self.places.entry((topic.name.clone(), queue)).or_insert_with(|| {
            let topic = topic.name.clone();
            delivery.messages.push(MessagesProposal { topic, queue, records: BytesMut::new(), count: 0 });
            delivery.messages.len() - 1
        });
        let proposal = &mut delivery.messages[place];
        encode_message(&message, &mut proposal.records).map_err(|error| broken(error.to_string()))?;
        proposal.count += 1;
        delivery.offsets.push(offset);
        Ok(())
    }

    /// The topic was deleted, and its messages with it; but a retry topic goes on with its group.
    fn no_topic(&self, name: &str) -> Trouble {
        let group =
            name.strip_prefix(wire::RETRY_TOPIC_PREFIX).and_then(|name| self.hosted.state.group(name));
        match group {
            Some(group) if group.config.retry_queue_nums > 0 => {
                Trouble::NoTopicYet(retry_topic(name, group.config.retry_queue_nums, false))
            }
            _ => Trouble::Dropped(format!("its topic {name} does not exist any more")),
        }
    }
}

/// The properties of a message when it is delivered, as RocketMQ has them: after a level it keeps REAL_TOPIC and REAL_QID,
/// and what asked for the delay goes (ScheduleMessageService.messageTimeUp); after a timer it is the other way round, and
/// what the timer did is added (TimerMessageStore.convert).
fn delivered(properties: &str, by_level: bool, waiting: &StoredMessage<'_>, now_ms: u64) -> String {
    let goes = |name: &str| {
        if by_level {
            let asked = [prop::DELAY, prop::TIMER_DELAY_SEC, prop::TIMER_DELAY_MS, prop::TIMER_DELIVER_MS];
            return asked.contains(&name);
        }
        [prop::REAL_TOPIC, prop::REAL_QID, prop::TIMER_ENQUEUE_MS, prop::TIMER_DEQUEUE_MS].contains(&name)
    };
    let mut kept = String::with_capacity(properties.len() + 64);
    for (name, value) in properties_iter(properties).filter(|(name, _)| !goes(name)) {
        properties_push(&mut kept, name, value);
    }
    if by_level || kept.len() + 64 > PROPERTIES_BYTES_MAX {
        return kept;
    }
    properties_push(&mut kept, prop::TIMER_ENQUEUE_MS, &waiting.store_timestamp.to_string());
    properties_push(&mut kept, prop::TIMER_DEQUEUE_MS, &now_ms.to_string());
    kept
}

/// The real topic of a waiting message.
pub(crate) fn real_topic(properties: &str) -> Option<&str> {
    properties_get(properties, prop::REAL_TOPIC)
}
