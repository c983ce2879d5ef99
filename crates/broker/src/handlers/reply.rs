//! Request and reply: 324 and 325 bring a reply, 326 pushes it to the producer that waits for it (protocol.md 3.1).
//!
//! ```text
//! replier ── 324, 325 ─▶ any node ─▶ leader ─┬─ 326 ─▶ the requester, on whatever node it is connected
//!                                            └─ stored in the reply topic, as RocketMQ does by default
//! ```
//!
//! The code tells whether the requester has it. What becomes of the stored copy is not the replier's concern
//! (RocketMQ's ReplyMessageProcessor): it is only counted and logged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::future::FutureExt;
use replica::{MessagesProposal, ProposeError, Receipt};
use tokio::sync::oneshot;
use wire::Header as _;
use wire::{
    NewMessage, OffsetMessageId, PROPERTY_TRANSIENT_PREFIX, QueueId, RemotingCommand, ReplyMessageRequest,
    RequestCode, ResponseCode, SendMessageRequest, SendMessageResponse, encode_message, ext_key, prop,
    properties_get, properties_iter, properties_push, properties_set, sysflag,
};

use crate::call::Call;
use crate::creation;
use crate::errors::Error;
use crate::handlers::step::success;
use crate::hosted::Hosted;
use crate::limits::CLIENT_CALL;
use crate::registry::Unreached;
use crate::requests::Answer;
use crate::service::wall_clock_ms;
use crate::state::Topic;
use crate::state::rules;

/// 324, 325.
pub(crate) fn reply<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = SendMessageRequest::decode_for(call.code(), &call.request.ext)?;
        rules::topic_name(header.topic)?;
        rules::sendable(header.topic)?;
        check_size(hosted, call)?;
        let topic = topic(hosted, &header).await?;
        let queue = queue(&topic, header.queue_id);
        let (pushed, stored) =
            tokio::join!(push(hosted, call, &header), store(hosted, call, &header, &topic, queue));
        let receipt = match stored {
            Ok(receipt) => Some(receipt),
            Err(error) => {
                tracing::warn!(group = hosted.name(), topic = header.topic, %error, "a reply was not stored");
                None
            }
        };
        pushed.map_err(|remark| Error::refused(ResponseCode::SYSTEM_ERROR, remark))?;
        let mut response = success(&call.request);
        SendMessageResponse {
            // Clients read an id and an offset, whatever they are.
            msg_id: receipt.map_or_else(
                || "0".to_owned(),
                |receipt| OffsetMessageId { host: hosted.store_host, position: receipt.position }.to_string(),
            ),
            queue_id: queue.to_wire(),
            queue_offset: receipt.map_or(0, |receipt| receipt.first_offset.to_wire()),
            transaction_id: None,
            batch_uniq_id: None,
            recall_handle: None,
        }
        .encode(&mut response.ext);
        response.ext.set(ext_key::MSG_REGION, &hosted.node.config.region);
        response.ext.set(ext_key::TRACE_ON, if hosted.node.config.trace_on { "true" } else { "false" });
        Ok(response)
    }
    .boxed()
}

fn check_size(hosted: &Hosted, call: &Call) -> Result<(), Error> {
    let (bytes, max) = (call.request.body.len(), hosted.node.config.limits.message_bytes);
    if bytes > max {
        let remark = format!("the message is illegal: its body has {bytes} bytes, limit {max}");
        return Err(Error::refused(ResponseCode::MESSAGE_ILLEGAL, remark));
    }
    Ok(())
}

/// The topic of the reply, made where a send would make it. Clients name the cluster's reply topic, which is there.
async fn topic(hosted: &Arc<Hosted>, header: &SendMessageRequest<'_>) -> Result<Arc<Topic>, Error> {
    if let Some(topic) = hosted.state.topic(header.topic) {
        return Ok(topic);
    }
    let pattern =
        hosted.settings.auto_create_topic().then(|| hosted.state.topic(header.default_topic)).flatten();
    let pattern = pattern.as_ref().map(|topic| &topic.config);
    let config = rules::auto_create(header.topic, pattern, header.default_topic_queue_nums, 0)?;
    creation::ensure(hosted, config).await?;
    let gone = || Error::refused(ResponseCode::TOPIC_NOT_EXIST, format!("topic[{}] not exist", header.topic));
    hosted.state.topic(header.topic).ok_or_else(gone)
}

/// As RocketMQ: one that is out of range is no reason not to deliver.
fn queue(topic: &Topic, wanted: i32) -> QueueId {
    match QueueId::from_wire(wanted) {
        Some(queue) if queue.0 < topic.queue_count() => queue,
        _ => QueueId(rand::random_range(0..topic.config.write_queues.max(1))),
    }
}

/// Hands the reply to the client that waits for it; the remark of a refusal where that fails.
async fn push(hosted: &Hosted, call: &Call, header: &SendMessageRequest<'_>) -> Result<(), String> {
    let properties = header.properties.unwrap_or_default();
    let Some(requester) = properties_get(properties, prop::REPLY_TO_CLIENT) else {
        return Err(format!("reply message properties[{}] is null", prop::REPLY_TO_CLIENT));
    };
    let now = wall_clock_ms();
    let request = RemotingCommand::request(RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT)
        .with_header(&pushed(hosted, call, header, now))
        .with_body(call.request.body.clone());
    // Who asks for the answer waits no longer.
    let left = call.deadline.saturating_duration_since(Instant::now());
    let timeout = left.clamp(Duration::from_millis(1), CLIENT_CALL);
    match hosted.node.ask_client(requester, request, timeout).await {
        Ok(answer) if answer.response_code() == ResponseCode::SUCCESS => Ok(()),
        Ok(answer) => Err(format!(
            "push reply message to {requester} fail: code {} {}",
            answer.code,
            answer.remark.unwrap_or_default()
        )),
        Err(Unreached::Absent(_)) => {
            Err(format!("push reply message fail, channel of <{requester}> not found."))
        }
        Err(Unreached::Silent(why)) => Err(format!("push reply message to {requester} fail: {why}")),
    }
}

fn pushed(hosted: &Hosted, call: &Call, header: &SendMessageRequest<'_>, now_ms: u64) -> ReplyMessageRequest {
    let mut properties = header.properties.unwrap_or_default().to_owned();
    properties_set(&mut properties, prop::PUSH_REPLY_TIME, &now_ms.to_string());
    ReplyMessageRequest {
        producer_group: header.producer_group.to_owned(),
        topic: header.topic.to_owned(),
        default_topic: header.default_topic.to_owned(),
        default_topic_queue_nums: header.default_topic_queue_nums,
        queue_id: header.queue_id,
        sys_flag: header.sys_flag,
        born_timestamp: header.born_timestamp,
        flag: header.flag,
        properties: Some(properties),
        reconsume_times: header.reconsume_times,
        unit_mode: header.unit_mode.unwrap_or(false),
        born_host: call.from.address.to_string(),
        store_host: hosted.store_host.to_string(),
        store_timestamp: now_ms as i64,
    }
}

/// RocketMQ's `storeReplyMessageEnable`, which is on by default.
async fn store(
    hosted: &Hosted,
    call: &Call,
    header: &SendMessageRequest<'_>,
    topic: &Topic,
    queue: QueueId,
) -> Result<Receipt, Error> {
    let since = Instant::now();
    let properties = stored_properties(hosted, header.properties.unwrap_or_default());
    let message = NewMessage {
        topic: &topic.name,
        queue_id: queue,
        flag: header.flag,
        sys_flag: header.sys_flag & (sysflag::COMPRESSED | sysflag::COMPRESSION_TYPE),
        born_timestamp: header.born_timestamp,
        born_host: call.from.address,
        store_host: hosted.store_host,
        reconsume_times: header.reconsume_times.unwrap_or(0),
        prepared_transaction_offset: 0,
        body: &call.request.body,
        properties: &properties,
    };
    let mut records = BytesMut::with_capacity(wire::message_size(&message));
    encode_message(&message, &mut records)
        .map_err(|error| Error::refused(ResponseCode::MESSAGE_ILLEGAL, error.to_string()))?;
    let bytes = records.len() as u64;
    let (told, outcome) = oneshot::channel();
    let proposal = MessagesProposal { topic: topic.name.clone(), queue, records, count: 1 };
    // Who asked may be gone.
    let done = Box::new(move |result| drop(told.send(result)));
    hosted.served_here()?.group.propose_messages(proposal, done);
    let receipt = outcome.await.unwrap_or(Err(ProposeError::Unknown("the group has stopped")))?;
    hosted.stats.put(&topic.name, 1, bytes, since.elapsed());
    Ok(receipt)
}

/// What came, less what is never stored, and what every message gets.
fn stored_properties(hosted: &Hosted, given: &str) -> String {
    let mut stored = String::with_capacity(given.len() + hosted.node.stamp.len());
    for (name, value) in properties_iter(given) {
        let of_broker = matches!(name, prop::MSG_REGION | prop::TRACE_ON | prop::CLUSTER);
        if !of_broker && !name.starts_with(PROPERTY_TRANSIENT_PREFIX) {
            properties_push(&mut stored, name, value);
        }
    }
    stored.push_str(&hosted.node.stamp);
    stored
}
