//! RaftMQ's own: the story of one message, told from the log. Where each of its copies lies (as it was sent, as it waits
//! for its time, as it is tried again, as a dead letter), which entry brought it and when, and which consumer groups are
//! past it. Copies keep the unique id and the keys of the message, and by them they are found.

use std::sync::Arc;
use std::time::Instant;

use futures::future::FutureExt;
use serde::{Deserialize, Serialize};
use wire::{LogPosition, OffsetMessageId, ResponseCode, StoredMessage, prop, to_json};

use crate::call::Call;
use crate::errors::Error;
use crate::handlers::offset::{flush_commits, scanning};
use crate::handlers::query::{is_live, record_at};
use crate::handlers::step::success;
use crate::hosted::{Hosted, Serving};
use crate::limits::STORY_COPIES_MAX;
use crate::requests::Answer;

/// The story of the message that the field `key` names (an offset message id, a unique id or a key), in the topic of
/// the field `topic` or, without it, in all. Answered with the JSON of a [`MessageStory`].
pub const MESSAGE_STORY: i32 = 30_010;

/// What one group of nodes knows of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageStory {
    pub group: String,
    /// The node that told it: the leader.
    pub node: u64,
    pub term: u64,
    /// In the order in which they were stored.
    pub copies: Vec<Copy>,
    /// There are more than are told, or there was no time to look everywhere.
    pub is_cut: bool,
}

/// The message as it lies in one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    pub topic: String,
    pub queue: u32,
    pub offset: u64,
    /// Byte position of the stored message, and its length.
    pub position: u64,
    pub size: u64,
    /// The entry of the log that brought it.
    pub term: u64,
    pub index: u64,
    /// Milliseconds since 1970.
    pub stored_ms: i64,
    pub born_ms: i64,
    pub born_host: String,
    pub store_host: String,
    pub offset_message_id: String,
    pub unique_id: Option<String>,
    pub origin_message_id: Option<String>,
    pub keys: Option<String>,
    pub tags: Option<String>,
    /// How often it was handed back.
    pub reconsume_times: i32,
    /// The topic that it was sent to, of a copy that is tried again.
    pub retry_topic: Option<String>,
    /// Where it goes when its time has come, of a copy that waits.
    pub real_topic: Option<String>,
    pub real_queue: Option<String>,
    pub delay_level: Option<String>,
    /// When its time comes, milliseconds since 1970, of a copy that waits for a time of its own.
    pub due_ms: Option<i64>,
    /// Of a copy that waits for something (its time, a transaction's end): whether that has come, so that it was
    /// delivered, dropped or taken back.
    pub is_done: Option<bool>,
    /// Consumer groups that have an offset in its queue.
    pub readers: Vec<Reader>,
}

/// How far a consumer group is in the queue of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reader {
    pub group: String,
    pub offset: u64,
    /// Its offset is behind the message.
    pub has_passed: bool,
}

pub(crate) fn story<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let key = call.request.ext.get("key").unwrap_or_default().trim().to_owned();
        if key.is_empty() {
            return Err(Error::refused(ResponseCode::INVALID_PARAMETER, "the field key names no message"));
        }
        let topic = call.request.ext.get("topic").map(str::trim).filter(|topic| !topic.is_empty());
        let topic = topic.map(str::to_owned);
        // What was committed before the question belongs to the answer.
        flush_commits(hosted).await;
        let deadline = call.deadline;
        let told = scanning(hosted, deadline, move |hosted, serving| {
            tell(hosted, serving, &key, topic.as_deref(), deadline)
        });
        Ok(success(&call.request).with_body(to_json(&told.await?)))
    }
    .boxed()
}

fn tell(
    hosted: &Hosted,
    serving: &Serving,
    key: &str,
    topic: Option<&str>,
    deadline: Instant,
) -> Result<MessageStory, Error> {
    let mut found = Found::default();
    // An id may be of either kind: both have 32 or 56 hexadecimal digits.
    let mut key = key.to_owned();
    if let Ok(id) = key.parse::<OffsetMessageId>()
        && let Some(record) = record_at(hosted, serving, id.position)?
        && let Ok(message) = StoredMessage::parse(&record)
    {
        found.positions.push(id.position);
        if let Some(unique_id) = message.unique_id() {
            unique_id.clone_into(&mut key);
        }
    }
    match topic {
        Some(topic) => found.look(hosted, serving, topic, &key)?,
        None => {
            for topic in hosted.state.topics() {
                if Instant::now() >= deadline {
                    found.is_cut = true;
                    break;
                }
                found.look(hosted, serving, &topic.name, &key)?;
            }
        }
    }
    found.positions.sort_unstable();
    found.positions.dedup();
    found.is_cut |= found.positions.len() > STORY_COPIES_MAX;
    found.positions.truncate(STORY_COPIES_MAX);
    let copies = found.positions.iter().filter_map(|position| copy(hosted, serving, *position).transpose());
    Ok(MessageStory {
        group: hosted.name().to_owned(),
        node: hosted.node.id.0,
        term: hosted.term(),
        copies: copies.collect::<Result<_, _>>()?,
        is_cut: found.is_cut,
    })
}

#[derive(Default)]
struct Found {
    positions: Vec<LogPosition>,
    is_cut: bool,
}

impl Found {
    /// The index knows hashes; the messages know their keys.
    fn look(&mut self, hosted: &Hosted, serving: &Serving, topic: &str, key: &str) -> Result<(), Error> {
        let room = STORY_COPIES_MAX + 1;
        for position in serving.index.find_key(topic, key, 0, u64::MAX, room * 4)? {
            if self.positions.len() > STORY_COPIES_MAX {
                self.is_cut = true;
                return Ok(());
            }
            let Some(record) = record_at(hosted, serving, position)? else { continue };
            let Ok(message) = StoredMessage::parse(&record) else { continue };
            let is_it = message.unique_id() == Some(key) || message.keys().any(|own| own == key);
            if is_it && message.topic == topic && is_live(hosted, &message) {
                self.positions.push(position);
            }
        }
        Ok(())
    }
}

fn copy(hosted: &Hosted, serving: &Serving, position: LogPosition) -> Result<Option<Copy>, Error> {
    let Some(record) = record_at(hosted, serving, position)? else { return Ok(None) };
    let Ok(message) = StoredMessage::parse(&record) else { return Ok(None) };
    let Some(frame) = serving.log.frame_with(position)? else { return Ok(None) };
    let property = |name| message.property(name).map(str::to_owned);
    let readers = hosted.state.groups_of_topic(message.topic).into_iter().filter_map(|group| {
        let offset = hosted.state.offset(message.topic, &group, message.queue_id)?;
        let has_passed = offset > message.queue_offset;
        Some(Reader { group: group.to_string(), offset: offset.0, has_passed })
    });
    Ok(Some(Copy {
        topic: message.topic.to_owned(),
        queue: message.queue_id.0,
        offset: message.queue_offset.0,
        position: position.0,
        size: record.len() as u64,
        term: frame.id().term.0,
        index: frame.id().index.0,
        stored_ms: message.store_timestamp,
        born_ms: message.born_timestamp,
        born_host: message.born_host.to_string(),
        store_host: message.store_host.to_string(),
        offset_message_id: message.offset_message_id().to_string(),
        unique_id: message.unique_id().map(str::to_owned),
        origin_message_id: property(prop::ORIGIN_MESSAGE_ID),
        keys: property(prop::KEYS),
        tags: property(prop::TAGS),
        reconsume_times: message.reconsume_times,
        retry_topic: property(prop::RETRY_TOPIC),
        real_topic: property(prop::REAL_TOPIC),
        real_queue: property(prop::REAL_QID),
        delay_level: property(prop::DELAY),
        due_ms: message.property(prop::TIMER_OUT_MS).and_then(|ms| ms.parse().ok()),
        is_done: waits(message.topic)
            .then(|| hosted.state.is_done(message.topic, message.queue_id, message.queue_offset)),
        readers: readers.collect(),
    }))
}

/// Whether what lies in a topic waits there for something, and is done when that has come.
fn waits(topic: &str) -> bool {
    [wire::topic::SCHEDULE, wire::topic::WHEEL_TIMER, wire::topic::TRANS_HALF].contains(&topic)
}
