//! A leader's duty: messages that were not acknowledged in time leave the hands of their consumers, and come back in the
//! group's retry topic; when they have come back often enough, they go to the dead-letter topic.
//!
//! Nothing is kept here. What is due the tables say, in the order of time; a message leaves the table and is stored anew in
//! one entry, so that whoever leads, and however often it is tried, it comes back once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use replica::MessagesProposal;
use wire::{
    NewMessage, PROPERTIES_BYTES_MAX, QueueId, QueueOffset, StoredMessage, dlq_topic, encode_message, perm,
    pop_retry_topic, prop, properties_get, properties_push, properties_set,
};

use super::origin;
use crate::creation;
use crate::damage::{self, sound};
use crate::errors::Error;
use crate::handlers::offset;
use crate::handlers::pop::retry_topic;
use crate::hosted::{Hosted, Serving};
use crate::limits::{DAMAGE_LOOK, LOG_TIME_LOOK, POP_AGAIN, POP_REVIVE_BYTES, POP_REVIVE_MESSAGES};
use crate::state::command::{Command, Kind, PopBatch, PopRevive};
use crate::state::{PopDue, TopicConfig};

/// Revives what is due, for one term.
pub(crate) async fn revive(hosted: Arc<Hosted>) -> Result<(), Error> {
    let mut most = POP_REVIVE_MESSAGES;
    // What is damaged here, and when it is looked at again. It must not keep the others.
    let mut damaged: HashMap<Place, Instant> = HashMap::new();
    loop {
        let now_ms = hosted.log_now_ms();
        damaged.retain(|_, again_at| *again_at > Instant::now());
        let mut due = hosted.state.pop_due(now_ms, most + damaged.len());
        due.retain(|message| !damaged.contains_key(&place(message)));
        if due.is_empty() {
            let left = |at_ms: u64| Duration::from_millis(at_ms.saturating_sub(now_ms).max(1));
            // The next one in the tables may be one of those: it is over already.
            let pause = if damaged.is_empty() { Duration::ZERO } else { LOG_TIME_LOOK };
            let next = hosted.state.pop_next_due_ms();
            let wait = next.map(|at_ms| left(at_ms).clamp(pause, LOG_TIME_LOOK));
            tokio::select! {
                () = hosted.pops_sooner.notified() => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
            continue;
        }
        match revive_some(&hosted, due).await {
            Ok(found) => {
                most = POP_REVIVE_MESSAGES.min(most * 2);
                damaged.extend(found.iter().map(|message| (place(message), Instant::now() + DAMAGE_LOOK)));
            }
            // Some of it was acknowledged meanwhile, or log time is not there yet. The fewer there are, the less often.
            Err(Error::Void) => {
                most = (most / 2).max(1);
                tokio::time::sleep(POP_AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Where a message is that somebody has in hand: topic, consumer group, queue, offset.
type Place = (u32, u32, QueueId, QueueOffset);

fn place(message: &PopDue) -> Place {
    (message.topic_id.0, message.group_id.0, message.queue, message.offset)
}

/// What comes instead of messages that are due.
#[derive(Default)]
struct Revived {
    due: Vec<PopDue>,
    messages: BTreeMap<String, (BytesMut, u32)>,
    /// Of these there is nothing left to store.
    gone: Vec<PopDue>,
    /// They cannot be read as they were stored.
    damaged: Vec<PopDue>,
}

/// Returns those that stay because they are damaged.
async fn revive_some(hosted: &Arc<Hosted>, due: Vec<PopDue>) -> Result<Vec<PopDue>, Error> {
    let revived = offset::blocking(hosted, move |hosted, serving| build(hosted, serving, due)).await?;
    let Revived { due, messages, gone, damaged } = revived;
    for topic in messages.keys().filter(|topic| hosted.state.topic(topic).is_none()) {
        let config = TopicConfig {
            name: topic.clone(),
            read_queues: 1,
            write_queues: 1,
            perm: perm::READ_WRITE,
            ..TopicConfig::default()
        };
        creation::ensure(hosted, config).await?;
    }
    if !gone.is_empty() {
        hosted.propose_here(command(&gone)).await?;
    }
    if due.is_empty() {
        return Ok(damaged);
    }
    let proposals = messages.into_iter().map(|(topic, (records, count))| MessagesProposal {
        topic: topic.into(),
        queue: QueueId(0),
        records,
        count,
    });
    hosted.propose_coupled_here(command(&due), proposals.collect()).await?;
    Ok(damaged)
}

/// The command by which messages leave the hands of their consumers.
fn command(due: &[PopDue]) -> Command {
    let mut batches: BTreeMap<(u32, u32, u32), Vec<u64>> = BTreeMap::new();
    for PopDue { topic_id, group_id, queue, offset, .. } in due {
        batches.entry((topic_id.0, group_id.0, queue.0)).or_default().push(offset.0);
    }
    let batch = |((topic, group, queue), mut offsets): ((u32, u32, u32), Vec<u64>)| {
        offsets.sort_unstable();
        PopBatch { topic, group, queue, offsets }
    };
    Kind::PopRevive(PopRevive { batches: batches.into_iter().map(batch).collect() }).into()
}

/// Reads the messages, as many as one entry may hold, and writes what comes instead of them.
fn build(hosted: &Hosted, serving: &Serving, due: Vec<PopDue>) -> Result<Revived, Error> {
    let mut revived = Revived::default();
    let mut bytes = 0;
    for message in due {
        let PopDue { topic, group, queue, offset, .. } = &message;
        let range = hosted.state.queue(topic, *queue).filter(|range| *offset >= range.min);
        let unit = match range {
            Some(_) => serving.index.unit(topic, *queue, *offset)?,
            None => None,
        };
        let (Some(unit), Some(config)) = (unit, hosted.state.group(group)) else {
            revived.gone.push(message);
            continue;
        };
        bytes += unit.size as usize;
        if bytes > POP_REVIVE_BYTES && !revived.due.is_empty() {
            break;
        }
        let record = match serving.log.read_records(&[(unit.position, unit.size)]) {
            Ok(record) => record.copy(),
            Err(error) => {
                damage::report(hosted, topic, *queue, *offset, &error);
                revived.damaged.push(message);
                continue;
            }
        };
        let stored = match sound(&record) {
            Ok(stored) => stored,
            Err(error) => {
                damage::report(hosted, topic, *queue, *offset, &error);
                revived.damaged.push(message);
                continue;
            }
        };
        let is_dead = stored.reconsume_times >= config.config.retry_max_times;
        let target = if is_dead { dlq_topic(group) } else { retry_topic(topic, group) };
        let origin_topic = topic.strip_prefix(&pop_retry_topic("", group)).unwrap_or(topic);
        let properties = properties(&stored, origin_topic, message.message.pop_time_ms, is_dead);
        let (records, count) = revived.messages.entry(target.clone()).or_default();
        let copy = NewMessage {
            topic: &target,
            queue_id: QueueId(0),
            store_host: hosted.store_host,
            reconsume_times: stored.reconsume_times.saturating_add(1),
            properties: &properties,
            ..origin(&stored)
        };
        encode_message(&copy, records)
            .map_err(|error| Error::Unknown(format!("{topic}/{queue}/{offset}: {error}")))?;
        *count += 1;
        revived.due.push(message);
    }
    Ok(revived)
}

/// The properties of what comes instead of a message. `topic`: where it was first.
fn properties(stored: &StoredMessage<'_>, topic: &str, pop_time_ms: u64, is_dead: bool) -> String {
    let mut properties = stored.properties.to_owned();
    if stored.reconsume_times == 0 || properties_get(&properties, prop::FIRST_POP_TIME).is_none() {
        properties_set(&mut properties, prop::FIRST_POP_TIME, &pop_time_ms.to_string());
    }
    if is_dead {
        if properties_get(&properties, prop::RETRY_TOPIC).is_none() {
            properties_push(&mut properties, prop::RETRY_TOPIC, topic);
        }
        if properties_get(&properties, prop::ORIGIN_MESSAGE_ID).is_none() {
            let id = stored.offset_message_id().to_string();
            properties_push(&mut properties, prop::ORIGIN_MESSAGE_ID, &id);
        }
    }
    // A message must come back, if there is room for nothing more than what it has.
    if properties.len() > PROPERTIES_BYTES_MAX { stored.properties.to_owned() } else { properties }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing;

    #[test]
    fn what_comes_instead_says_when_it_was_popped_first_and_where_it_was() {
        let stored = testing::record("T", 0, 7, 1_700_000_000_000, b"hello");
        let message = StoredMessage::parse(&stored).unwrap();
        let retried = properties(&message, "T", 9, false);
        assert_eq!(properties_get(&retried, prop::FIRST_POP_TIME), Some("9"));
        assert_eq!(properties_get(&retried, prop::TAGS), Some("a"));
        assert_eq!(properties_get(&retried, prop::RETRY_TOPIC), None);
        let dead = properties(&message, "T", 9, true);
        assert_eq!(properties_get(&dead, prop::RETRY_TOPIC), Some("T"));
        let id = message.offset_message_id().to_string();
        assert_eq!(properties_get(&dead, prop::ORIGIN_MESSAGE_ID), Some(id.as_str()));
        // The time of the first pop stays.
        let again = StoredMessage { reconsume_times: 1, properties: &retried, ..message };
        assert_eq!(properties(&again, "T", 10, false), retried);
        let full = format!("k\u{1}{}\u{2}", "x".repeat(PROPERTIES_BYTES_MAX - 4));
        let full = StoredMessage { properties: &full, ..message };
        assert_eq!(properties(&full, "T", 10, true), full.properties);
    }
}
