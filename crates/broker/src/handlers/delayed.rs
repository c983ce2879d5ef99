//! RaftMQ's own request for what waits to be delivered later, for `raftmq admin delay`: how many messages wait by level and
//! as timers, and which, by topic and time.

use std::sync::Arc;

use futures::future::FutureExt;
use serde::{Deserialize, Serialize};
use wire::{
    QueueId, QueueOffset, RemotingCommand, RequestCode, ResponseCode, StoredMessage, prop, to_json, topic,
};

use crate::call::Call;
use crate::delay::{SourceQueue, real_topic, units};
use crate::errors::Error;
use crate::handlers::offset::scanning;
use crate::handlers::step::success;
use crate::hosted::{Hosted, Serving};
use crate::limits::{PENDING_MESSAGES_MAX, PENDING_READS, PENDING_SCAN};
use crate::requests::Answer;

/// Messages that wait to be delivered later, as JSON of [`PendingPage`]; asked by [`PendingQuery`]. Answered by the leader.
pub const PENDING_MESSAGES: i32 = 30_020;

/// Which messages are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingQuery {
    /// Only those of this topic.
    pub topic: Option<String>,
    /// Only those due from then on, ms since 1970.
    pub from_ms: Option<u64>,
    /// Only those due before.
    pub until_ms: Option<u64>,
    /// How many at most; 0: none, only how many wait.
    pub max: usize,
    /// [`PendingPage::next`] of the page before.
    pub after: Option<String>,
}

impl PendingQuery {
    /// The request, for any node of a group.
    pub fn request(&self) -> RemotingCommand {
        let PendingQuery { topic, from_ms, until_ms, max, after } = self;
        let fields = [
            ("topic", topic.clone()),
            ("from", from_ms.map(|ms| ms.to_string())),
            ("until", until_ms.map(|ms| ms.to_string())),
            ("max", Some(max.to_string())),
            ("after", after.clone()),
        ];
        let request = RemotingCommand::request(RequestCode(PENDING_MESSAGES));
        let set = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        set.fold(request, |request, (name, value)| request.with_ext(name, &value))
    }

    fn read(request: &RemotingCommand) -> Result<PendingQuery, Error> {
        let number = |name: &str| {
            let read = |text: &str| {
                text.parse::<u64>().map_err(|_| {
                    let remark = format!("the field {name} is {text:?}, which is no number");
                    Error::refused(ResponseCode::INVALID_PARAMETER, remark)
                })
            };
            request.ext.get(name).map(read).transpose()
        };
        Ok(PendingQuery {
            topic: request.ext.get("topic").map(str::to_owned),
            from_ms: number("from")?,
            until_ms: number("until")?,
            max: number("max")?.map_or(PENDING_MESSAGES_MAX, |max| max as usize).min(PENDING_MESSAGES_MAX),
            after: request.ext.get("after").map(str::to_owned),
        })
    }
}

/// What waits in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingPage {
    pub group: String,
    /// The delays of the levels, as the leader has them.
    pub levels: String,
    /// The longest delay of a timer message, ms.
    pub timer_max_delay_ms: u64,
    /// Queues in which something waits, those of levels first.
    pub queues: Vec<PendingQueue>,
    /// By queue, and in the order in which they were sent.
    pub messages: Vec<PendingMessage>,
    /// There may be more: ask again with this as [`PendingQuery::after`]. A page may be short, or empty, although there is
    /// more: how much a request looks at is limited.
    pub next: Option<String>,
}

/// A queue of waiting messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingQueue {
    /// 1 for the shortest delay; `None`: timers.
    pub level: Option<u32>,
    /// Of the level, ms.
    pub delay_ms: Option<u64>,
    pub pending: u64,
}

/// A waiting message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingMessage {
    /// Where it is delivered.
    pub topic: String,
    pub queue: u32,
    pub due_ms: u64,
    pub level: Option<u32>,
    pub stored_ms: i64,
    pub unique_id: String,
    pub keys: String,
    /// Of a retry: how often it was consumed.
    pub reconsume_times: i32,
    /// Bytes of its body.
    pub body_bytes: usize,
    /// By which it can be looked at (33).
    pub message_id: String,
}

/// [`PENDING_MESSAGES`].
pub(crate) fn pending<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let query = PendingQuery::read(&call.request)?;
        let after = query.after.as_deref().map(Cursor::parse).transpose()?.unwrap_or_default();
        let page =
            scanning(hosted, call.deadline, move |hosted, serving| page(hosted, serving, &query, after))
                .await?;
        Ok(success(&call.request).with_body(to_json(&page)))
    }
    .boxed()
}

/// Where a page begins: the place of a queue in [`sources`], and the offset there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    source: usize,
    offset: u64,
}

impl Cursor {
    fn parse(text: &str) -> Result<Cursor, Error> {
        let parts = text.split_once('-').and_then(|(source, offset)| {
            Some(Cursor { source: source.parse().ok()?, offset: offset.parse().ok()? })
        });
        let remark = || format!("the field after is {text:?}, which no answer said");
        parts.ok_or_else(|| Error::refused(ResponseCode::INVALID_PARAMETER, remark()))
    }
}

/// Every queue of waiting messages: of the levels, then of timers.
fn sources(hosted: &Hosted) -> Vec<SourceQueue> {
    let levels = &hosted.config.delay_levels;
    let mut sources = Vec::new();
    if let Some(topic) = hosted.state.topic(topic::SCHEDULE) {
        sources.extend((0..topic.queue_count()).map(|queue| SourceQueue {
            topic: topic.name.clone(),
            id: topic.id,
            queue: QueueId(queue),
            delay_ms: Some(levels.delay_ms(queue + 1)),
        }));
    }
    if let Some(topic) = hosted.state.topic(topic::WHEEL_TIMER) {
        let (topic, id) = (topic.name.clone(), topic.id);
        sources.push(SourceQueue { topic, id, queue: QueueId(0), delay_ms: None });
    }
    sources
}

fn page(
    hosted: &Hosted,
    serving: &Serving,
    query: &PendingQuery,
    after: Cursor,
) -> Result<PendingPage, Error> {
    let sources = sources(hosted);
    let mut page = PendingPage {
        group: hosted.name().to_owned(),
        levels: hosted.config.delay_levels.to_string(),
        timer_max_delay_ms: hosted.config.timer_max_delay_ms,
        ..PendingPage::default()
    };
    for source in &sources {
        let pending = hosted.state.pending_count(&source.topic, source.queue);
        if pending > 0 {
            page.queues.push(PendingQueue { level: level(source), delay_ms: source.delay_ms, pending });
        }
    }
    let (mut looks, mut reads) = (0, 0);
    for (number, source) in sources.iter().enumerate().skip(after.source) {
        let mut from = QueueOffset(if number == after.source { after.offset } else { 0 });
        loop {
            let offsets = hosted.state.pending(&source.topic, source.queue, from, PENDING_READS);
            if offsets.is_empty() || query.max == 0 {
                break;
            }
            let found = units(serving, source, &offsets, true)?.unwrap_or_default();
            for (offset, unit) in &found {
                if looks >= PENDING_SCAN || reads >= PENDING_READS || page.messages.len() >= query.max {
                    page.next = Some(format!("{number}-{}", offset.0));
                    return Ok(page);
                }
                looks += 1;
                let due = source.due_ms(unit);
                if query.from_ms.is_some_and(|from| due < from)
                    || query.until_ms.is_some_and(|until| due >= until)
                {
                    continue;
                }
                reads += 1;
                let record = serving.log.read_bytes(unit.position, unit.size as usize)?;
                page.messages.extend(described(query, source, due, &record));
            }
            // What is applied this very moment is not in the index yet.
            if found.len() < offsets.len() {
                break;
            }
            from = offsets.last().map_or(from, |last| last.plus(1));
        }
    }
    Ok(page)
}

fn level(source: &SourceQueue) -> Option<u32> {
    source.delay_ms.map(|_| source.queue.0 + 1)
}

/// A message, if it is of the topic that is asked for.
fn described(
    query: &PendingQuery,
    source: &SourceQueue,
    due_ms: u64,
    record: &[u8],
) -> Option<PendingMessage> {
    let message = StoredMessage::parse(record).ok()?;
    let topic = real_topic(message.properties).unwrap_or_default();
    if query.topic.as_ref().is_some_and(|wanted| wanted != topic) {
        return None;
    }
    Some(PendingMessage {
        topic: topic.to_owned(),
        queue: message.property(prop::REAL_QID).and_then(|queue| queue.parse().ok()).unwrap_or(0),
        due_ms,
        level: level(source),
        stored_ms: message.store_timestamp,
        unique_id: message.unique_id().unwrap_or_default().to_owned(),
        keys: message.property(prop::KEYS).unwrap_or_default().to_owned(),
        reconsume_times: message.reconsume_times,
        body_bytes: message.body.len(),
        message_id: message.offset_message_id().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_survive_the_wire() {
        let whole = PendingQuery {
            topic: Some("T".into()),
            from_ms: Some(1),
            until_ms: Some(2),
            max: 3,
            after: Some("4-5".into()),
        };
        for query in [whole, PendingQuery::default()] {
            assert_eq!(PendingQuery::read(&query.request()).unwrap(), query);
        }
        let bad = PendingQuery::default().request().with_ext("from", "x");
        assert!(PendingQuery::read(&bad).is_err());
        assert_eq!(Cursor::parse("4-5").unwrap(), Cursor { source: 4, offset: 5 });
        for bad in ["", "4", "4-", "x-5", "-1-5"] {
            assert!(Cursor::parse(bad).is_err(), "{bad:?}");
        }
    }
}
