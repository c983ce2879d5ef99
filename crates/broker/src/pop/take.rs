//! What a pop takes: queue after queue, until it has as much as was asked for; all of it in one entry of the log.

use std::sync::Arc;

use bytes::Bytes;
use wire::{PopSource, QueueId, QueueOffset};

use super::takes::{TakeKey, Turn};
use crate::errors::Error;
use crate::filters::Wish;
use crate::handlers::offset;
use crate::hosted::Hosted;
use crate::reading::{self, Found, Wanted};
use crate::state::command::{Kind, PopTake, TakePart};
use crate::state::{Group, PopPlace, QueueRange, Reply, Topic};

/// What a pop asks for, as the checks let it through.
pub(crate) struct Plan {
    pub(crate) topic: Arc<Topic>,
    pub(crate) group: Arc<Group>,
    /// Where messages come back that were not acknowledged.
    pub(crate) retry_topic: Arc<str>,
    /// `None`: any.
    pub(crate) queue: Option<QueueId>,
    /// At most.
    pub(crate) messages: usize,
    pub(crate) invisible_ms: u64,
    /// Where the group begins in a queue in which it has no offset: at its end, or at its first message.
    pub(crate) from_end: bool,
    /// `None`: every message.
    pub(crate) wish: Option<Wish>,
    pub(crate) order: bool,
    pub(crate) attempt: String,
}

/// What a pop came to.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) pop_time_ms: u64,
    pub(super) got: Vec<Got>,
    /// Messages that are left in the queues that were looked at, as far as somebody could have them.
    pub(super) rest: u64,
    pub(super) looks: Vec<Look>,
}

/// Messages of one queue.
pub(super) struct Got {
    pub(super) source: PopSource,
    pub(super) queue: QueueId,
    /// Where the pop began.
    pub(super) start: QueueOffset,
    pub(super) offsets: Vec<QueueOffset>,
    /// Their records, one after the other.
    pub(super) records: Bytes,
    /// In order: how often each was handed out before.
    pub(super) counts: Vec<u32>,
}

/// Why a queue gave nothing (more): what who waits looks at once more when it has begun to wait.
pub(super) enum Look {
    /// All up to here was taken.
    Taken { topic: Arc<str>, queue: QueueId, end: QueueOffset },
    /// Another pop was taking from it.
    Busy { topic: Arc<str>, queue: QueueId, key: TakeKey },
    /// As much is in flight as may be.
    Full { topic: Arc<str>, queue: QueueId },
    /// A batch is out, in order, and nobody else has it until then (log time).
    Blocked { topic: Arc<str>, queue: QueueId, until_ms: u64 },
    /// As much is in flight of all queues of all groups together as may be.
    Crowded,
    /// The tables would not have it: they had changed.
    Refused,
}

impl Look {
    pub(super) fn topic(&self) -> Option<&Arc<str>> {
        match self {
            Look::Taken { topic, .. }
            | Look::Busy { topic, .. }
            | Look::Full { topic, .. }
            | Look::Blocked { topic, .. } => Some(topic),
            Look::Refused | Look::Crowded => None,
        }
    }

    /// The queue, where it is one that has been read to its end.
    pub(super) fn queue(&self) -> Option<(&Arc<str>, QueueId)> {
        match self {
            Look::Taken { topic, queue, .. } => Some((topic, *queue)),
            _ => None,
        }
    }
}

/// A queue that is looked at.
struct Source {
    topic: Arc<Topic>,
    queue: QueueId,
}

/// What is proposed of one queue.
struct Part {
    source: Source,
    cursor: Option<QueueOffset>,
    start: QueueOffset,
    end: QueueOffset,
    found: Found,
}

impl Plan {
    /// The queues, in the order in which they are looked at: one pop in five begins with what comes back from others, so
    /// that it does not wait for ever behind new messages; otherwise it comes last.
    fn sources(&self, hosted: &Hosted, begin_with_retry: bool) -> Vec<Source> {
        let own = match self.queue {
            Some(queue) => vec![Source { topic: self.topic.clone(), queue }],
            None => in_turn(&self.topic),
        };
        // Messages in order stay where they are until they are acknowledged.
        let is_retry = *self.topic.name == *self.retry_topic;
        let retry = (!self.order && !is_retry).then(|| hosted.state.topic(&self.retry_topic)).flatten();
        let retry = retry.map(|topic| in_turn(&topic)).unwrap_or_default();
        if begin_with_retry {
            retry.into_iter().chain(own).collect()
        } else {
            own.into_iter().chain(retry).collect()
        }
    }

    /// In order: which attempt it is.
    fn attempt(&self) -> Option<&str> {
        self.order.then_some(self.attempt.as_str())
    }

    /// Why a queue gives nothing, whatever is in it.
    fn closed(&self, hosted: &Hosted, topic: &Arc<str>, queue: QueueId) -> Option<Look> {
        let now_ms = hosted.log_now_ms();
        let standing = hosted.state.pop_standing(topic, &self.group.name, queue, self.attempt(), now_ms);
        let topic = topic.clone();
        if let Some(until_ms) = standing.blocked_until_ms {
            return Some(Look::Blocked { topic, queue, until_ms });
        }
        if standing.room == 0 {
            return Some(Look::Full { topic, queue });
        }
        (standing.room_of_all == 0).then_some(Look::Crowded)
    }

    /// Whether there is a message for a consumer of the group; where not, why.
    pub(super) fn look(&self, hosted: &Hosted) -> Result<(), Vec<Look>> {
        let now_ms = hosted.log_now_ms();
        let mut looks = Vec::new();
        for Source { topic, queue } in self.sources(hosted, false) {
            let Some(range) = hosted.state.queue(&topic.name, queue) else { continue };
            let name = &topic.name;
            let standing = hosted.state.pop_standing(name, &self.group.name, queue, self.attempt(), now_ms);
            let topic = topic.name.clone();
            if let Some(until_ms) = standing.blocked_until_ms {
                looks.push(Look::Blocked { topic, queue, until_ms });
            } else if standing.cursor.map_or(range.min, |cursor| cursor.max(range.min)) < range.next {
                return Ok(());
            } else {
                looks.push(Look::Taken { topic, queue, end: range.next });
            }
        }
        Err(looks)
    }
}

/// All queues of a topic from one of them on, so that each has its turn to be the first.
fn in_turn(topic: &Arc<Topic>) -> Vec<Source> {
    let count = topic.config.read_queues;
    if count == 0 {
        return Vec::new();
    }
    let first = rand::random_range(0..count);
    (0..count)
        .map(|at| Source {
            topic: topic.clone(),
            queue: QueueId(((u64::from(first) + u64::from(at)) % u64::from(count)) as u32),
        })
        .collect()
}

/// Of all pops, so many per cent begin with the retry topic (`popFromRetryProbability`).
const RETRY_FIRST_PERCENT: u32 = 20;

/// Takes what there is.
pub(super) async fn take(hosted: &Arc<Hosted>, plan: &Plan) -> Result<Taken, Error> {
    let mut taken = Taken::default();
    let mut turns: Vec<Turn<'_>> = Vec::new();
    let mut parts: Vec<Part> = Vec::new();
    let mut messages = plan.messages;
    let mut bytes = hosted.node.config.limits.pull_bytes_in_memory;
    for source in plan.sources(hosted, rand::random_range(0..100) < RETRY_FIRST_PERCENT) {
        let (name, queue) = (source.topic.name.clone(), source.queue);
        let Some(range) = hosted.state.queue(&name, queue) else { continue };
        if messages == 0 {
            let cursor = hosted.state.offset(&name, &plan.group.name, queue).unwrap_or(range.min);
            taken.rest += range.next.0.saturating_sub(cursor.max(range.min).0);
            continue;
        }
        // Before it is this pop's turn: whoever has had a turn calls the next one, and there is nothing to call for here.
        if let Some(look) = plan.closed(hosted, &name, queue) {
            taken.looks.push(look);
            continue;
        }
        let key = (source.topic.id, plan.group.id, queue);
        let Some(turn) = Turn::take(hosted, &source.topic, &plan.group, queue) else {
            let cursor = hosted.state.offset(&name, &plan.group.name, queue).unwrap_or(range.min);
            taken.rest += range.next.0.saturating_sub(cursor.max(range.min).0);
            taken.looks.push(Look::Busy { topic: name, queue, key });
            continue;
        };
        if let Ok(key) = hosted.state.commit_key(&name, &plan.group.name) {
            // A consumer that pulled before may have said where it stands a moment ago.
            offset::settle_commits(hosted, key, queue).await;
        }
        // Nothing changes it now but what somebody commits or an administrator resets.
        if let Some(look) = plan.closed(hosted, &name, queue) {
            taken.looks.push(look);
            continue;
        }
        let place = hosted.state.pop_place(&name, &plan.group.name, queue);
        let Some(range) = hosted.state.queue(&name, queue) else { continue };
        let start = start(hosted, plan, &source, &place, range).await?;
        let found = if start < range.next {
            let wanted = Wanted {
                topic: name.clone(),
                queue,
                from: start,
                end: range.next,
                messages: messages.min(place.room(plan.order).max(1)),
                bytes,
                first: parts.iter().all(|part| part.found.offsets.is_empty()),
                wish: plan.wish.clone().filter(|_| source.topic.id == plan.topic.id),
                without: place.acknowledged_ahead(),
            };
            reading::read(hosted, wanted).await?
        } else {
            Found::nothing(start)
        };
        if found.offsets.is_empty() && place.cursor == Some(found.next) {
            taken.looks.push(Look::Taken { topic: name, queue, end: found.next });
            continue;
        }
        messages -= found.offsets.len();
        bytes = bytes.saturating_sub(found.records.len());
        turns.push(turn);
        parts.push(Part { source, cursor: place.cursor, start, end: range.next, found });
    }
    if parts.is_empty() {
        taken.pop_time_ms = hosted.log_now_ms();
        return Ok(taken);
    }
    let reply = propose(hosted, plan, &parts).await?;
    for (at, turn) in (0u32..).zip(&mut turns) {
        turn.quiet = reply.granted.binary_search(&at).is_err();
    }
    drop(turns);
    taken.pop_time_ms = reply.time_ms;
    for (at, part) in (0u32..).zip(parts) {
        if reply.granted.binary_search(&at).is_err() {
            taken.rest += part.end.0 - part.start.0;
            taken.looks.push(Look::Refused);
            continue;
        }
        let Part { source: Source { topic, queue }, start, end, found, .. } = part;
        taken.rest += end.0 - found.next.0;
        if found.offsets.is_empty() {
            taken.looks.push(Look::Taken { topic: topic.name.clone(), queue, end: found.next });
            continue;
        }
        let counts =
            if plan.order { counts(hosted, plan, &topic.name, queue, &reply, &found) } else { Vec::new() };
        taken.got.push(Got {
            source: PopSource::of(&topic.name),
            queue,
            start,
            offsets: found.offsets,
            records: found.records,
            counts,
        });
    }
    Ok(taken)
}

async fn propose(hosted: &Hosted, plan: &Plan, parts: &[Part]) -> Result<Reply, Error> {
    let command = Kind::PopTake(PopTake {
        group: plan.group.id.0,
        parts: parts
            .iter()
            .map(|part| TakePart {
                topic: part.source.topic.id.0,
                queue: part.source.queue.0,
                cursor: part.cursor.map(|cursor| cursor.0),
                next: part.found.next.0,
                offsets: part.found.offsets.iter().map(|offset| offset.0).collect(),
            })
            .collect(),
        invisible_ms: plan.invisible_ms,
        order: plan.order,
        attempt_id: plan.attempt.clone(),
    });
    let reply = hosted.propose_here(command.into()).await?;
    if reply.code != 0 {
        return Err(Error::refused(wire::ResponseCode(reply.code), reply.remark));
    }
    Ok(reply)
}

/// How often the messages of a batch in order were handed out before.
fn counts(
    hosted: &Hosted,
    plan: &Plan,
    topic: &str,
    queue: QueueId,
    reply: &Reply,
    found: &Found,
) -> Vec<u32> {
    let batch = hosted.state.pop_ordered(topic, &plan.group.name, queue);
    let count = |offset: &QueueOffset| {
        let message = batch.as_ref().and_then(|batch| batch.messages.get(offset));
        // Another one may have had them since, when this node led no more.
        message.filter(|message| message.pop_time_ms == reply.time_ms).map_or(0, |message| message.attempts)
    };
    found.offsets.iter().map(count).collect()
}

/// Where the pop begins in a queue.
async fn start(
    hosted: &Arc<Hosted>,
    plan: &Plan,
    source: &Source,
    place: &PopPlace,
    range: QueueRange,
) -> Result<QueueOffset, Error> {
    if let Some(cursor) = place.cursor {
        return Ok(cursor.clamp(range.min, range.next));
    }
    let is_own = source.topic.id == plan.topic.id;
    // Of a retry topic nothing may be left out.
    if !plan.from_end || !is_own || wire::is_retry_topic(&source.topic.name) {
        return Ok(range.min);
    }
    if offset::is_young(hosted, &source.topic.name, source.queue).await? {
        return Ok(range.min);
    }
    // RocketMQ begins with the last message that is there.
    Ok(QueueOffset(range.next.0.saturating_sub(1)).max(range.min))
}

/// What a consumer of the group would get next, without taking it (200052): the records as they are, and how many
/// messages are there beyond.
pub(crate) async fn peek(hosted: &Arc<Hosted>, plan: &Plan) -> Result<(Vec<Bytes>, usize, u64), Error> {
    let (mut records, mut count, mut rest) = (Vec::new(), 0, 0);
    let mut bytes = hosted.node.config.limits.pull_bytes_in_memory;
    for Source { topic, queue } in plan.sources(hosted, rand::random_range(0..100) < RETRY_FIRST_PERCENT) {
        let Some(range) = hosted.state.queue(&topic.name, queue) else { continue };
        let cursor = hosted.state.offset(&topic.name, &plan.group.name, queue).unwrap_or(range.min);
        let from = cursor.clamp(range.min, range.next);
        rest += range.next.0 - from.0;
        if count >= plan.messages || from >= range.next {
            continue;
        }
        let wanted = Wanted {
            topic: topic.name.clone(),
            queue,
            from,
            end: range.next,
            messages: plan.messages - count,
            bytes,
            first: count == 0,
            wish: None,
            without: Vec::new(),
        };
        let found = reading::read(hosted, wanted).await?;
        count += found.offsets.len();
        bytes = bytes.saturating_sub(found.records.len());
        records.push(found.records);
    }
    Ok((records, count, rest))
}
