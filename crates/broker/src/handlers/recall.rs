//! 370: a producer takes a timer message back (RecallMessageProcessor). RocketMQ stores a marker that the timer store comes
//! across; here the message is marked done in the tables, and who asks too late is told so.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::FutureExt;
use wire::{
    QueueId, QueueOffset, RecallHandle, RecallMessageRequest, RecallMessageResponse, ResponseCode,
    StoredMessage, ext_key, topic,
};

use crate::call::Call;
use crate::delay::real_topic;
use crate::errors::Error;
use crate::handlers::offset::blocking;
use crate::handlers::step::success;
use crate::hosted::{Hosted, Serving};
use crate::limits::QUERY_UNIQUE_MESSAGES_MAX;
use crate::requests::Answer;
use crate::state::Command;
use crate::state::command::{Kind, Release, Source, released};
use crate::state::rules::PERM_WRITE;

/// The queue of all timer messages.
const TIMERS: QueueId = QueueId(0);

/// 370.
pub(crate) fn recall<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = RecallMessageRequest::decode(&call.request.ext)?;
        let handle = check(hosted, &header)?;
        let unique_id = handle.unique_id.clone();
        let pending = blocking(hosted, move |hosted, serving| find(hosted, serving, &handle)).await?;
        let done_already = || {
            illegal("recall failed, the message does not wait any more: it was delivered or recalled, or never stored")
        };
        let topic = hosted.state.topic(topic::WHEEL_TIMER).ok_or_else(done_already)?;
        // What is being delivered at this moment is too late to take back.
        let recall = hosted.timer_claims.recall(pending);
        if recall.offsets.is_empty() {
            return Err(done_already());
        }
        let source = Source { topic: topic.id.0, queue: TIMERS.0, offsets: recall.offsets.clone() };
        let command: Command =
            Kind::Release(Release { sources: vec![source], how: released::CANCELLED }).into();
        let reply = hosted.propose_here(command).await?;
        if reply.code != 0 {
            return Err(Error::refused(ResponseCode(reply.code), reply.remark));
        }
        if reply.granted.is_empty() {
            return Err(done_already());
        }
        let response = success(&call.request).with_header(&RecallMessageResponse { msg_id: unique_id });
        Ok(response.with_ext(ext_key::MSG_REGION, &hosted.node.config.region))
    }
    .boxed()
}

fn illegal(remark: &str) -> Error {
    Error::refused(ResponseCode::ILLEGAL_OPERATION, remark)
}

/// What RocketMQ asks of the request, in its order.
fn check(hosted: &Hosted, header: &RecallMessageRequest) -> Result<RecallHandle, Error> {
    if !hosted.config.recall {
        return Err(Error::refused(ResponseCode::NO_PERMISSION, "recall failed, operation is forbidden"));
    }
    if hosted.settings.permission() & PERM_WRITE == 0 {
        let remark = "recall failed, broker service not available";
        return Err(Error::refused(ResponseCode::SERVICE_NOT_AVAILABLE, remark));
    }
    if hosted.state.topic(&header.topic).is_none() {
        let remark = format!("recall failed, the topic[{}] not exist", header.topic);
        return Err(Error::refused(ResponseCode::TOPIC_NOT_EXIST, remark));
    }
    let handle: RecallHandle =
        header.recall_handle.parse().map_err(|error: wire::RecallHandleError| illegal(&error.to_string()))?;
    if handle.topic != header.topic {
        return Err(illegal("recall failed, topic not match"));
    }
    if handle.broker_name != hosted.name() {
        return Err(illegal("recall failed, broker service not available"));
    }
    let left = u64::try_from(handle.time_ms).ok().and_then(|time| time.checked_sub(hosted.log_now_ms()));
    if left.is_none_or(|left| left == 0 || left > hosted.config.timer_max_delay_ms) {
        return Err(illegal("recall failed, timestamp invalid"));
    }
    Ok(handle)
}

/// Offsets of waiting messages of this unique id, ascending. More than one, if their producer did not learn what became of
/// the first and sent it again: they are one message to it.
fn find(hosted: &Hosted, serving: &Serving, handle: &RecallHandle) -> Result<Vec<u64>, Error> {
    let RecallHandle { topic, unique_id, .. } = handle;
    // Other keys may share the hash; so look at some more than are wanted.
    let max = QUERY_UNIQUE_MESSAGES_MAX * 4;
    let positions = serving.index.find_key(topic::WHEEL_TIMER, unique_id, 0, u64::MAX, max)?;
    let mut found = BTreeSet::new();
    for position in positions {
        let head = serving.log.read_bytes(position, 4)?;
        let size = head.first_chunk().map_or(0, |size| u32::from_be_bytes(*size) as usize);
        let record = serving.log.read_bytes(position, size)?;
        let Ok(message) = StoredMessage::parse(&record) else { continue };
        let is_it = message.topic == topic::WHEEL_TIMER
            && message.unique_id() == Some(unique_id)
            && real_topic(message.properties) == Some(topic);
        if is_it && !is_done(hosted, message.queue_offset) {
            found.insert(message.queue_offset.0);
        }
    }
    Ok(found.into_iter().collect())
}

fn is_done(hosted: &Hosted, offset: QueueOffset) -> bool {
    hosted.state.is_done(topic::WHEEL_TIMER, TIMERS, offset)
}
