//! A leader's duty: messages that were not acknowledged in time leave the hands of their consumers, and come back in the
//! group's retry topic; when they have come back often enough, they go to the dead-letter topic.
//!
//! Nothing is kept here. What is due the tables say, in the order of time; a message leaves the table and is stored anew in
//! one entry, so that whoever leads, and however often it is tried, it comes back once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use replica::MessagesProposal;
use wire::{
    NewMessage, PROPERTIES_BYTES_MAX, QueueId, StoredMessage, dlq_topic, encode_message, perm,
    pop_retry_topic, prop, properties_get, properties_push, properties_set,
};

use super::origin;
use crate::creation;
use crate::damage::{self, sound};
use crate::errors::Error;
use crate::handlers::offset;
use crate::handlers::pop::retry_topic;
use crate::hosted::{Hosted, Serving};
use crate::limits::{
    LOG_TIME_LOOK, POP_AGAIN, POP_REVIVE_AGAIN, POP_REVIVE_BYTES, POP_REVIVE_MESSAGES, POP_REVIVE_TOLD,
};
use crate::state::command::{Command, Kind, PopBatch, PopRevive};
use crate::state::{DuePlace, PopDue, TopicConfig};

/// Revives what is due, for one term.
pub(crate) async fn revive(hosted: Arc<Hosted>) -> Result<(), Error> {
    let mut most = POP_REVIVE_MESSAGES;
    let mut walk = Walk::default();
    loop {
        let now_ms = hosted.log_now_ms();
        let after = walk.after(Instant::now());
        let due = hosted.state.pop_due(now_ms, after, most);
        if due.is_empty() {
            let next = hosted.state.pop_next_due_ms(after);
            // Log time may follow this node's clock any moment.
            let left = |at_ms: u64| Duration::from_millis(at_ms.saturating_sub(now_ms).max(1));
            let wait = next.map(|at_ms| left(at_ms).min(LOG_TIME_LOOK));
            let again = walk.again_at.map(|at| at.saturating_duration_since(Instant::now()));
            let wait = wait.into_iter().chain(again).min();
            tokio::select! {
                () = hosted.pops_sooner.notified() => walk = Walk { told: walk.told, ..Walk::default() },
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
            continue;
        }
        match revive_some(&hosted, due).await {
            Ok(round) => {
                most = POP_REVIVE_MESSAGES.min(most * 2);
                walk.note(hosted.name(), &round, Instant::now());
                if !round.all_gone {
                    // Log time is not there yet, or somebody has acknowledged it.
                    tokio::time::sleep(POP_AGAIN).await;
                }
            }
            // Some of it was acknowledged meanwhile, or log time is not there yet. The fewer there are, the less often.
            Err(Error::Void) => {
                most = (most / 2).max(1);
                tokio::time::sleep(POP_AGAIN).await;
            }
            // One of them is to blame, and it is left out when it is alone.
            Err(Error::Refused { .. }) => {
                most = (most / 2).max(1);
                tokio::time::sleep(POP_AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// How far the messages that are due were looked at, once some of them had to be left out: those behind them go on, and
/// after a while all of it is looked at once more.
#[derive(Default)]
struct Walk {
    after: Option<DuePlace>,
    again_at: Option<Instant>,
    /// Why some were left out: said once.
    told: BTreeSet<String>,
}

impl Walk {
    fn after(&mut self, now: Instant) -> Option<DuePlace> {
        if self.again_at.is_some_and(|at| at <= now) {
            (self.after, self.again_at) = (None, None);
        }
        self.after
    }

    fn note(&mut self, group: &str, round: &Round, now: Instant) {
        if round.left_out.is_empty() {
            return;
        }
        self.after = round.last.or(self.after);
        self.again_at.get_or_insert(now + POP_REVIVE_AGAIN);
        if self.told.len() >= POP_REVIVE_TOLD {
            self.told.clear();
        }
        for why in &round.left_out {
            if self.told.insert(why.clone()) {
                tracing::error!(group, why, "a message cannot come back yet");
            }
        }
    }
}

/// What came of messages that are due.
struct Round {
    /// The last one that was looked at.
    last: Option<DuePlace>,
    /// Why some stay.
    left_out: Vec<String>,
    /// What is gone from the log is gone from the tables.
    all_gone: bool,
}

/// What comes instead of messages that are due.
#[derive(Default)]
struct Revived {
    copies: BTreeMap<String, Copies>,
    /// Of these there is nothing left to store.
    gone: Vec<PopDue>,
    /// Why others stay.
    left_out: Vec<String>,
    last: Option<DuePlace>,
}

/// For one topic.
#[derive(Default)]
struct Copies {
    due: Vec<PopDue>,
    records: BytesMut,
    count: u32,
}

async fn revive_some(hosted: &Arc<Hosted>, due: Vec<PopDue>) -> Result<Round, Error> {
    let revived = offset::blocking(hosted, move |hosted, serving| Ok(build(hosted, serving, due))).await?;
    let Revived { mut copies, gone, mut left_out, last } = revived;
    let targets: Vec<String> = copies.keys().cloned().collect();
    for target in targets {
        if let Err(why) = have_topic(hosted, &target).await? {
            copies.remove(&target);
            left_out.push(format!("{target}: {why}"));
        }
    }
    let mut all_gone = true;
    if !gone.is_empty() {
        let reply = hosted.propose_here(command(&gone)).await?;
        all_gone = reply.granted.len() >= gone.len();
    }
    let due: Vec<PopDue> = copies.values_mut().flat_map(|copies| std::mem::take(&mut copies.due)).collect();
    if !due.is_empty() {
        let proposals = copies.into_iter().map(|(topic, copies)| {
            let count = copies.count;
            MessagesProposal { topic: topic.into(), queue: QueueId(0), records: copies.records, count }
        });
        match hosted.propose_coupled_here(command(&due), proposals.collect()).await {
            Ok(_) => {}
            Err(Error::Refused { remark, .. }) if due.len() == 1 => {
                let PopDue { topic, queue, offset, .. } = &due[0];
                left_out.push(format!("{topic}/{queue}/{offset}: {remark}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Round { last, left_out, all_gone })
}

/// Makes the topic of copies where it is not there; why that cannot be, in the inner result.
async fn have_topic(hosted: &Arc<Hosted>, topic: &str) -> Result<Result<(), String>, Error> {
    if hosted.state.topic(topic).is_none() {
        let config = TopicConfig {
            name: topic.to_owned(),
            read_queues: 1,
            write_queues: 1,
            perm: perm::READ_WRITE,
            ..TopicConfig::default()
        };
        match creation::ensure(hosted, config).await {
            Err(Error::Refused { remark, .. }) => return Ok(Err(remark)),
            made => made?,
        }
    }
    Ok(hosted.state.queue(topic, QueueId(0)).map(|_| ()).ok_or_else(|| "it has no queue".to_owned()))
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
fn build(hosted: &Hosted, serving: &Serving, due: Vec<PopDue>) -> Revived {
    let mut revived = Revived::default();
    let mut bytes = 0;
    for message in due {
        let place = message.place();
        match copy(hosted, serving, &message, &mut revived.copies, &mut bytes) {
            Ok(Copied::Written) => {}
            Ok(Copied::Gone) => revived.gone.push(message),
            Ok(Copied::NoRoom) => break,
            Err(error) => {
                let PopDue { topic, queue, offset, .. } = &message;
                revived.left_out.push(format!("{topic}/{queue}/{offset}: {error}"));
            }
        }
        revived.last = Some(place);
    }
    revived
}

enum Copied {
    Written,
    /// There is nothing left of it, or nobody whose it is.
    Gone,
    /// The entry is full.
    NoRoom,
}

/// Writes what comes instead of one message.
fn copy(
    hosted: &Hosted,
    serving: &Serving,
    message: &PopDue,
    copies: &mut BTreeMap<String, Copies>,
    bytes: &mut usize,
) -> Result<Copied, Error> {
    let PopDue { topic, group, queue, offset, .. } = message;
    let range = hosted.state.pop_range(message).filter(|range| *offset >= range.min);
    let (Some(_), Some(config)) = (range, hosted.state.group(group)) else { return Ok(Copied::Gone) };
    let Some(unit) = serving.index.unit(topic, *queue, *offset)? else {
        return Err(Error::Unknown("it is stored, but not in the index".into()));
    };
    if *bytes + unit.size as usize > POP_REVIVE_BYTES && !copies.is_empty() {
        return Ok(Copied::NoRoom);
    }
    let damaged = |error: &dyn Display| {
        damage::report(hosted, topic, *queue, *offset, error);
        Error::Unknown(error.to_string())
    };
    let record = damage::read(&serving.log, unit.position, unit.size).map_err(|error| damaged(&error))?;
    let stored = sound(&record).map_err(|error| damaged(&error))?;
    let is_dead = stored.reconsume_times >= config.config.retry_max_times;
    let target = if is_dead { dlq_topic(group) } else { retry_topic(topic, group) };
    let origin_topic = topic.strip_prefix(&pop_retry_topic("", group)).unwrap_or(topic);
    let properties = properties(&stored, origin_topic, message.message.pop_time_ms, is_dead);
    let copy = NewMessage {
        topic: &target,
        queue_id: QueueId(0),
        store_host: hosted.store_host,
        reconsume_times: stored.reconsume_times.saturating_add(1),
        properties: &properties,
        ..origin(&stored)
    };
    let mut encoded = BytesMut::new();
    encode_message(&copy, &mut encoded).map_err(|error| Error::Unknown(error.to_string()))?;
    *bytes += unit.size as usize;
    let copies = copies.entry(target).or_default();
    copies.records.extend_from_slice(&encoded);
    copies.count += 1;
    copies.due.push(message.clone());
    Ok(Copied::Written)
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
    use crate::state::{GroupId, InFlight, TopicId, testing};

    #[test]
    fn what_cannot_come_back_is_passed_by_for_a_while() {
        let place = |offset| {
            let message = InFlight { pop_time_ms: 1, visible_at_ms: 7, attempts: 0 };
            let (topic, group) = ("T".into(), "g".into());
            let (topic_id, group_id, offset) = (TopicId(1), GroupId(2), wire::QueueOffset(offset));
            let queue = QueueId(0);
            PopDue { topic, group, topic_id, group_id, queue, offset, message }.place()
        };
        let round = |last, left_out: &[&str]| Round {
            last: Some(place(last)),
            left_out: left_out.iter().map(|why| (*why).to_owned()).collect(),
            all_gone: true,
        };
        let (mut walk, now) = (Walk::default(), Instant::now());
        walk.note("b1", &round(3, &[]), now);
        assert_eq!(walk.after(now), None, "all of it is done: it is not there any more");
        walk.note("b1", &round(3, &["damaged"]), now);
        assert_eq!(walk.after(now), Some(place(3)));
        walk.note("b1", &round(5, &["damaged", "refused"]), now + POP_REVIVE_AGAIN / 2);
        assert_eq!(walk.after(now + POP_REVIVE_AGAIN / 2), Some(place(5)));
        assert_eq!(walk.told.len(), 2);
        assert_eq!(walk.after(now + POP_REVIVE_AGAIN), None, "then all of it once more");
    }

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
