//! 36: a consumer could not deal with a message and gives it back, to get it again later, or to have it among the dead
//! letters (protocol.md 3.1; AbstractSendMessageProcessor.consumerSendMsgBack).
//!
//! A client that does not learn what became of it sends the message to the retry topic as an ordinary one, or asks again:
//! each request that is done stores a copy, as in RocketMQ.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures::future::FutureExt;
use replica::{MessagesProposal, ProposeError, Receipt};
use tokio::sync::oneshot;
use wire::{
    ConsumerSendMsgBackRequest, LogPosition, NewMessage, QueueId, ResponseCode, StoredMessage, dlq_topic,
    encode_message, prop, properties_iter, properties_push,
};

use crate::call::Call;
use crate::creation;
use crate::damage::{self, sound};
use crate::delay::{self, Later, When};
use crate::errors::Error;
use crate::handlers::offset::blocking;
use crate::handlers::query::record_at;
use crate::handlers::send::{VERSION_MAX_RECONSUME, dead_letter_topic, no_group, retry_topic};
use crate::handlers::step::success;
use crate::hosted::Hosted;
use crate::requests::Answer;
use crate::state::rules::PERM_WRITE;
use crate::state::{Topic, TopicConfig};

/// The level of the first retry, unless the consumer says another one: 10 s.
const FIRST_LEVEL: i32 = 3;

/// 36.
pub(crate) fn send_back<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = ConsumerSendMsgBackRequest::decode(&call.request.ext)?;
        let group = creation::consumer_group(hosted, &header.group).await?;
        let group = group.ok_or_else(|| no_group(&header.group))?;
        if hosted.settings.permission() & PERM_WRITE == 0 {
            let remark = format!("the broker[{}] sending message is forbidden", hosted.config.advertised());
            return Err(Error::refused(ResponseCode::NO_PERMISSION, remark));
        }
        let queues = u32::try_from(group.config.retry_queue_nums).unwrap_or(0);
        if queues == 0 {
            return Ok(success(&call.request));
        }
        let name = wire::retry_topic(&header.group);
        let retry =
            existing(hosted, retry_topic(&name, group.config.retry_queue_nums, header.unit_mode)).await?;
        if retry.config.perm & wire::perm::WRITE == 0 {
            let remark = format!("the topic[{name}] sending message is forbidden");
            return Err(Error::refused(ResponseCode::NO_PERMISSION, remark));
        }
        let missing = |why: &str| {
            let remark = format!("look message by offset failed, {}{why}", header.offset);
            Error::refused(ResponseCode::SYSTEM_ERROR, remark)
        };
        let position = LogPosition::from_wire(header.offset).ok_or_else(|| missing(""))?;
        let found = blocking(hosted, move |hosted, serving| {
            let record = record_at(hosted, serving, position)?;
            // What it names holds as far as the index knows it; all else of it only if its frame is whole.
            let check = |record: &Bytes| damage::read(&serving.log, position, record.len() as u32);
            Ok(record.map(|record| (check(&record), record)))
        });
        let (checked, record) = found.await?.ok_or_else(|| missing(""))?;
        let message = StoredMessage::parse(&record).map_err(|error| missing(&format!(": {error}")))?;
        let damaged = |error: &dyn Display| {
            damage::report(hosted, message.topic, message.queue_id, message.queue_offset, error);
            missing(&format!(": it is damaged on this node: {error}"))
        };
        let record = checked.map_err(|error| damaged(&error))?;
        let message = sound(&record).map_err(|error| damaged(&error))?;
        if wire::is_send_forbidden(message.topic) {
            // No consumer has it: a waiting or half message must not get out by a position.
            return Err(missing(&format!(": it is in {}", message.topic)));
        }

        let asked = header.max_reconsume_times.filter(|_| call.request.version >= VERSION_MAX_RECONSUME);
        let max = asked.unwrap_or(group.config.retry_max_times);
        let dead = message.reconsume_times >= max || header.delay_level < 0;
        let (target, queue) = if dead {
            (existing(hosted, dead_letter_topic(dlq_topic(&header.group))).await?, QueueId(0))
        } else {
            let queues = queues.min(retry.queue_count()).max(1);
            (retry, QueueId(rand::random_range(0..queues)))
        };
        let level = match header.delay_level {
            _ if dead => 0,
            0 => message.reconsume_times.saturating_add(FIRST_LEVEL),
            level => level,
        };
        let since = Instant::now();
        let (proposal, bytes) = copy(hosted, &message, &target, queue, level)?;
        let stored_in = proposal.topic.clone();
        store(hosted, proposal).await?;
        hosted.stats.put(&stored_in, 1, bytes, since.elapsed());
        if dead {
            let (group, unique) = (header.group.as_str(), message.unique_id().unwrap_or_default());
            let origin = message.property(prop::RETRY_TOPIC).unwrap_or(message.topic);
            tracing::info!(group, topic = origin, unique, times = message.reconsume_times, "a dead letter");
        }
        Ok(success(&call.request))
    }
    .boxed()
}

/// The topic, made if it does not exist.
async fn existing(hosted: &Arc<Hosted>, config: TopicConfig) -> Result<Arc<Topic>, Error> {
    if let Some(topic) = hosted.state.topic(&config.name) {
        return Ok(topic);
    }
    let name = config.name.clone();
    creation::ensure(hosted, config).await?;
    let gone = || Error::refused(ResponseCode::SYSTEM_ERROR, format!("topic[{name}] not exist"));
    hosted.state.topic(&name).ok_or_else(gone)
}

/// The message as it goes to a retry topic after the delay of a level, or with none to the dead letters; and its bytes.
fn copy(
    hosted: &Hosted,
    message: &StoredMessage<'_>,
    target: &Topic,
    queue: QueueId,
    level: i32,
) -> Result<(MessagesProposal, u64), Error> {
    let properties = copied_properties(message);
    let when = match u32::try_from(level) {
        Ok(level) if level > 0 => When::Level(level.min(hosted.config.delay_levels.max())),
        _ => When::Now,
    };
    let (topic, queue, properties) = match Later::new(when, &target.name, queue) {
        Some(later) => {
            hosted.check_level()?;
            let (topic, source) = delay::source(hosted, &later)?;
            (topic, source, later.rewrite(&properties))
        }
        None => {
            let mut properties = properties;
            wire::properties_set(&mut properties, prop::DELAY, "0");
            (target.name.clone(), queue, properties)
        }
    };
    let copied = NewMessage {
        topic: &topic,
        queue_id: queue,
        flag: message.flag,
        sys_flag: message.sys_flag,
        born_timestamp: message.born_timestamp,
        born_host: message.born_host,
        store_host: hosted.store_host,
        reconsume_times: message.reconsume_times.saturating_add(1),
        prepared_transaction_offset: 0,
        body: message.body,
        properties: &properties,
    };
    let mut records = BytesMut::with_capacity(wire::message_size(&copied));
    let bytes = encode_message(&copied, &mut records).map_err(|error| {
        Error::refused(ResponseCode::SYSTEM_ERROR, format!("no copy can be stored: {error}"))
    })?;
    Ok((MessagesProposal { topic, queue, records, count: 1 }, bytes as u64))
}

/// What the copy carries: as the message, and where it came from.
fn copied_properties(message: &StoredMessage<'_>) -> String {
    let mut properties = String::with_capacity(message.properties.len() + message.topic.len() + 128);
    let kept = |name: &str| !matches!(name, prop::RETRY_TOPIC | prop::ORIGIN_MESSAGE_ID | prop::WAIT);
    for (name, value) in properties_iter(message.properties).filter(|(name, _)| kept(name)) {
        properties_push(&mut properties, name, value);
    }
    // Those of the first time stay.
    let topic = message.property(prop::RETRY_TOPIC).unwrap_or(message.topic);
    properties_push(&mut properties, prop::RETRY_TOPIC, topic);
    let origin = message.property(prop::ORIGIN_MESSAGE_ID).filter(|id| !id.trim().is_empty());
    let own = || message.offset_message_id().to_string();
    let origin = origin.map_or_else(own, str::to_owned);
    properties_push(&mut properties, prop::ORIGIN_MESSAGE_ID, &origin);
    properties_push(&mut properties, prop::WAIT, "false");
    properties
}

/// Proposes messages and waits for them.
pub(crate) async fn store(hosted: &Hosted, proposal: MessagesProposal) -> Result<Receipt, Error> {
    let (told, outcome) = oneshot::channel();
    // Who asked may be gone by then.
    hosted.served_here()?.group.propose_messages(proposal, Box::new(|outcome| drop(told.send(outcome))));
    let stopped = ProposeError::Unknown("the group stopped while the message was under way");
    Ok(outcome.await.unwrap_or(Err(stopped))?)
}
