//! Single messages: 33 by position, 12 by key or unique id, and 321, the units of a queue (protocol.md 3.3). 33 and 12 are
//! answered from what is applied here, for an offset message id names the address of whoever led then; but that there is no
//! such message is the leader's to say.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::FutureExt;
use wire::{
    Body, ConsumeQueueData, LogPosition, QueryConsumeQueueRequest, QueryConsumeQueueResponseBody,
    QueryMessageRequest, QueryMessageResponse, QueueId, QueueOffset, RECORD_BYTES_MIN, RemotingCommand,
    RequestCode, ResponseCode, StoredMessage, SubscriptionData, ViewMessageRequest, ext_key,
};

use crate::call::Call;
use crate::errors::Error;
use crate::forward;
use crate::handlers::offset::blocking;
use crate::handlers::step::success;
use crate::hosted::{Hosted, Serving, Toward};
use crate::limits::{QUERY_BYTES_MAX, QUERY_MESSAGES_MAX, QUERY_UNIQUE_MESSAGES_MAX, QUERY_UNITS_MAX};
use crate::requests::Answer;

/// 33.
pub(crate) fn view<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = ViewMessageRequest::decode(&call.request.ext)?;
        let missing = || {
            let remark = format!("can not find message by the offset, {}", header.offset);
            Error::refused(ResponseCode::SYSTEM_ERROR, remark)
        };
        let position = LogPosition::from_wire(header.offset).ok_or_else(missing)?;
        let record = message_at(hosted, call, position).await?;
        Ok(success(&call.request).with_body(record.ok_or_else(missing)?))
    }
    .boxed()
}

/// The message at a position, as far as it is applied here or at the leader.
pub(crate) async fn message_at(
    hosted: &Arc<Hosted>,
    call: &Call,
    position: LogPosition,
) -> Result<Option<Bytes>, Error> {
    let serving = hosted.served_here()?;
    if position >= serving.group.applied_end()
        && !call.is_forwarded()
        && let Toward::Node(leader) = hosted.toward()
    {
        // It may be applied at the leader already.
        let header = ViewMessageRequest { topic: None, offset: position.to_wire() };
        let question = RemotingCommand::request(RequestCode::VIEW_MESSAGE_BY_ID).with_header(&header);
        let answer = forward::ask_leader(hosted, leader, &question, &call.from, call.deadline).await?;
        return Ok((answer.response_code() == ResponseCode::SUCCESS).then_some(answer.body));
    }
    blocking(hosted, move |hosted, serving| record_at(hosted, serving, position)).await
}

/// The applied message at a position. Only what its queue's index names counts: a void entry's bytes, those of one that is
/// not applied, or a position in the middle of a body, are no message. So it is not asked how far this node has applied: a
/// consumer may have a message a moment before that is told.
pub(crate) fn record_at(
    hosted: &Hosted,
    serving: &Serving,
    position: LogPosition,
) -> Result<Option<Bytes>, Error> {
    let end = serving.log.state().end;
    if position.0 + RECORD_BYTES_MIN as u64 > end.0 {
        return Ok(None);
    }
    let Ok(head) = serving.log.read_bytes(position, 4) else { return Ok(None) };
    let size = head.first_chunk().map_or(0, |size| u32::from_be_bytes(*size) as usize);
    let most = hosted.node.config.limits.frame_bytes;
    if size < RECORD_BYTES_MIN || size > most || position.0 + size as u64 > end.0 {
        return Ok(None);
    }
    let Ok(record) = serving.log.read_bytes(position, size) else { return Ok(None) };
    let Ok(message) = StoredMessage::parse(&record) else { return Ok(None) };
    if !is_live(hosted, &message) {
        return Ok(None);
    }
    let unit = serving.index.unit(message.topic, message.queue_id, message.queue_offset)?;
    let named = unit.is_some_and(|unit| unit.position == position && unit.size as usize == size);
    Ok(named.then_some(record))
}

/// Whether the message is in its queue still: its topic was not deleted since.
pub(crate) fn is_live(hosted: &Hosted, message: &StoredMessage<'_>) -> bool {
    hosted
        .state
        .queue(message.topic, message.queue_id)
        .is_some_and(|range| (range.min..range.next).contains(&message.queue_offset))
}

/// 12.
pub(crate) fn query<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = QueryMessageRequest::decode(&call.request.ext)?;
        let unique =
            call.request.ext.get(ext_key::UNIQUE_KEY_QUERY).is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let max = if unique {
            QUERY_UNIQUE_MESSAGES_MAX
        } else {
            usize::try_from(header.max_num).unwrap_or(0).clamp(1, QUERY_MESSAGES_MAX)
        };
        let body = blocking(hosted, move |hosted, serving| find(hosted, serving, &header, max)).await?;
        if body.is_empty() && !hosted.leads() {
            return ask_leader(hosted, call).await;
        }
        if body.is_empty() {
            let remark = "can not find message, maybe time range not correct";
            return Err(Error::refused(ResponseCode::QUERY_NOT_FOUND, remark));
        }
        let serving = hosted.served_here()?;
        let header = QueryMessageResponse {
            index_last_update_timestamp: hosted.state.log_time_ms() as i64,
            index_last_update_phyoffset: serving.index.built().to_wire(),
        };
        Ok(success(&call.request).with_header(&header).with_body(body.freeze()))
    }
    .boxed()
}

/// Has the leader look, where more may be applied. It is a question: without an answer it may be asked again.
async fn ask_leader(hosted: &Hosted, call: &Call) -> Result<RemotingCommand, Error> {
    match hosted.toward() {
        Toward::Node(leader) if !call.is_forwarded() => {
            match forward::ask_leader(hosted, leader, &call.request, &call.from, call.deadline).await {
                Err(Error::Unknown(_)) => Err(Error::NotLeader { leader: None }),
                answer => answer,
            }
        }
        Toward::Node(leader) => Err(Error::NotLeader { leader: Some(leader) }),
        Toward::Here | Toward::Nobody => Err(Error::NotLeader { leader: None }),
    }
}

/// Messages that carry the key, newest first. The index knows hashes; the messages know their keys.
fn find(
    hosted: &Hosted,
    serving: &Serving,
    header: &QueryMessageRequest,
    max: usize,
) -> Result<BytesMut, Error> {
    let QueryMessageRequest { topic, key, begin_timestamp, end_timestamp, .. } = header;
    let time = |ms: i64| u64::try_from(ms).unwrap_or(0);
    let mut body = BytesMut::new();
    // Other keys may share the hash; so look at some more than are wanted.
    let positions =
        serving.index.find_key(topic, key, time(*begin_timestamp), time(*end_timestamp), max * 4)?;
    let mut found = 0;
    for position in positions {
        let head = serving.log.read_bytes(position, 4)?;
        let size = head.first_chunk().map_or(0, |size| u32::from_be_bytes(*size) as usize);
        let record = serving.log.read_bytes(position, size)?;
        let Ok(message) = StoredMessage::parse(&record) else { continue };
        let has_key = message.unique_id() == Some(key) || message.keys().any(|k| k == key);
        let in_time = (*begin_timestamp..=*end_timestamp).contains(&message.store_timestamp);
        if message.topic != topic || !has_key || !in_time || !is_live(hosted, &message) {
            continue;
        }
        if !body.is_empty() && body.len() + record.len() > QUERY_BYTES_MAX {
            break;
        }
        body.extend_from_slice(&record);
        found += 1;
        if found == max {
            break;
        }
    }
    Ok(body)
}

/// 321: units of a queue's index, from `index` on; and, of a group that is named, its subscription.
pub(crate) fn consume_queue<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = QueryConsumeQueueRequest::decode(&call.request.ext)?;
        let topic = header.topic.unwrap_or_default();
        let missing = || {
            let remark = format!("{}@{topic} is not exist!", header.queue_id);
            Error::refused(ResponseCode::SYSTEM_ERROR, remark)
        };
        let queue = QueueId::from_wire(header.queue_id).ok_or_else(missing)?;
        let range = hosted.state.queue(&topic, queue).ok_or_else(missing)?;
        let mut body = QueryConsumeQueueResponseBody {
            max_queue_index: range.next.to_wire(),
            min_queue_index: range.min.to_wire(),
            ..QueryConsumeQueueResponseBody::default()
        };
        let mut subscription = None;
        if let Some(group) = &header.consumer_group {
            let online = hosted.node.clients.consumer_group(group);
            subscription = online.and_then(|online| online.subscriptions.get(&topic).cloned());
            if subscription.is_none() {
                body.filter_data = Some(format!("{group}@{topic} is not online!"));
            }
        }
        let from = QueueOffset(u64::try_from(header.index).unwrap_or(0).max(range.min.0));
        let count = usize::try_from(header.count).unwrap_or(0).min(QUERY_UNITS_MAX);
        let count = count.min(range.next.0.saturating_sub(from.0) as usize);
        let units =
            blocking(hosted, move |_, serving| Ok(serving.index.units(&topic, queue, from, count)?)).await?;
        body.queue_data = units
            .iter()
            .map(|unit| ConsumeQueueData {
                eval: subscription.as_ref().is_some_and(|data| data.may_match(unit.tags_code)),
                physic_offset: unit.position.to_wire(),
                physic_size: unit.size as i32,
                tags_code: unit.tags_code,
            })
            .collect();
        body.subscription_data = subscription.map(|data| SubscriptionData::clone(&data));
        Ok(success(&call.request).with_body(body.encode()))
    }
    .boxed()
}
