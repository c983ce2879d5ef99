//! Pop: 200050 to 200055 and 200151 (protocol.md 3.6): the checks of a request, and what it comes to. The rest is in
//! pop/.

use std::sync::Arc;

use futures::future::FutureExt;
use wire::{
    AckMessageRequest, BatchAckMessageRequestBody, Body, ChangeInvisibleTimeRequest, NotificationRequest,
    POP_MESSAGES_MAX, POP_ORDER_REVIVE_QUEUE, PeekMessageRequest, PollingInfoRequest, PollingInfoResponse,
    PopHandle, PopMessageRequest, PopMessageResponse, PopSource, QueueId, QueueOffset,
    RETRY_OR_DLQ_TOPIC_LEN_MAX, RemotingCommand, ResponseCode, SubscriptionData, is_retry_topic, perm,
    pop_retry_topic,
};

use crate::call::Call;
use crate::creation;
use crate::errors::Error;
use crate::filters::Wish;
use crate::handlers::pull;
use crate::handlers::step::success;
use crate::hosted::Hosted;
use crate::limits::{POP_ACKS_PER_ENTRY, POP_INVISIBLE_MAX, POP_LATE};
use crate::pop::{self, Asked, Plan, Poll, Popped, Settled, refuse_change};
use crate::requests::Answer;
use crate::service::wall_clock_ms;
use crate::state::limits::ATTEMPT_ID_BYTES_MAX;
use crate::state::{Group, Topic, rules};

/// 200050.
pub(crate) fn pop(hosted: &Arc<Hosted>, call: Call) {
    match PopMessageRequest::decode(&call.request.ext) {
        Ok(header) => pop::begin(hosted, Poll::new(call, Asked::Messages(header))),
        Err(error) => hosted.fail(call, error.into()),
    }
}

/// 200054.
pub(crate) fn notification(hosted: &Arc<Hosted>, call: Call) {
    match NotificationRequest::decode(&call.request.ext) {
        Ok(header) => pop::begin(hosted, Poll::new(call, Asked::Notice(header))),
        Err(error) => hosted.fail(call, error.into()),
    }
}

/// Where messages of a topic go that a group's consumers do not acknowledge in time. Those of a retry topic stay there.
pub(crate) fn retry_topic(topic: &str, group: &str) -> String {
    if is_retry_topic(topic) { topic.to_owned() } else { pop_retry_topic(topic, group) }
}

fn refuse<T>(code: ResponseCode, remark: String) -> Result<T, Error> {
    Err(Error::Refused { code, remark })
}

/// What a pop may have, checked as RocketMQ does and in its order.
pub(crate) async fn plan(
    hosted: &Arc<Hosted>,
    call: &Call,
    header: &PopMessageRequest,
) -> Result<Plan, Error> {
    let broker = hosted.config.advertised();
    let waited_ms = match header.born_time {
        0 => 0,
        born => i128::from(wall_clock_ms()) - i128::from(born) - i128::from(header.poll_time),
    };
    if waited_ms > i128::from(POP_LATE.as_millis() as u64) {
        let remark = format!("the broker[{broker}] pop message is timeout too much");
        return refuse(ResponseCode::POLLING_TIMEOUT, remark);
    }
    may_read(hosted, "pop")?;
    if header.max_msg_nums > POP_MESSAGES_MAX {
        let remark = format!("the broker[{broker}] pop message's num is greater than {POP_MESSAGES_MAX}");
        return refuse(ResponseCode::INVALID_PARAMETER, remark);
    }
    let messages = at_least_one(header.max_msg_nums)?;
    let invisible_ms = invisible_ms(header.invisible_time)?;
    let attempt = header.attempt_id.clone().unwrap_or_default();
    if attempt.len() > ATTEMPT_ID_BYTES_MAX {
        let remark = format!("attemptId has {} bytes, the most are {ATTEMPT_ID_BYTES_MAX}", attempt.len());
        return refuse(ResponseCode::INVALID_PARAMETER, remark);
    }
    let (topic, group, queue) =
        place(hosted, call, &header.topic, &header.consumer_group, header.queue_id).await?;
    let retry_topic = retry_topic(&header.topic, &header.consumer_group);
    if retry_topic.len() > RETRY_OR_DLQ_TOPIC_LEN_MAX {
        let remark = format!(
            "messages that are not acknowledged would go to {retry_topic}, whose name is longer than \
             {RETRY_OR_DLQ_TOPIC_LEN_MAX}"
        );
        return refuse(ResponseCode::INVALID_PARAMETER, remark);
    }
    Ok(Plan {
        topic,
        group,
        retry_topic: retry_topic.into(),
        queue,
        messages,
        invisible_ms,
        from_end: header.init_mode != INIT_MODE_MIN,
        wish: Some(filter(hosted, header)?),
        order: header.order,
        attempt,
    })
}

/// A group without an offset begins at the first message (ConsumeInitMode).
const INIT_MODE_MIN: i32 = 0;

/// What the question is about whether there is something to pop.
pub(crate) async fn notice_plan(
    hosted: &Arc<Hosted>,
    call: &Call,
    header: &NotificationRequest,
) -> Result<Plan, Error> {
    may_read(hosted, "peeking")?;
    let (topic, group, queue) =
        place(hosted, call, &header.topic, &header.consumer_group, header.queue_id).await?;
    let attempt = header.attempt_id.clone().unwrap_or_default();
    Ok(Plan { order: header.order, attempt, ..look(topic, group, queue, 1) })
}

/// A plan that takes nothing.
fn look(topic: Arc<Topic>, group: Arc<Group>, queue: Option<QueueId>, messages: usize) -> Plan {
    Plan {
        retry_topic: retry_topic(&topic.name, &group.name).into(),
        topic,
        group,
        queue,
        messages,
        invisible_ms: 0,
        from_end: false,
        wish: None,
        order: false,
        attempt: String::new(),
    }
}

/// For how long a message is to be its consumer's.
fn invisible_ms(asked: i64) -> Result<u64, Error> {
    let Ok(invisible_ms) = u64::try_from(asked) else {
        return refuse(ResponseCode::INVALID_PARAMETER, format!("invisibleTime {asked} is negative"));
    };
    let most = POP_INVISIBLE_MAX.as_millis() as u64;
    if invisible_ms > most {
        let remark = format!("invisibleTime {asked} is more than {most}, the most that there is");
        return refuse(ResponseCode::INVALID_PARAMETER, remark);
    }
    Ok(invisible_ms)
}

fn at_least_one(messages: i32) -> Result<usize, Error> {
    match usize::try_from(messages) {
        Ok(messages) if messages > 0 => Ok(messages),
        _ => refuse(ResponseCode::INVALID_PARAMETER, format!("maxMsgNums is {messages}, not 1 or more")),
    }
}

fn may_read(hosted: &Hosted, what: &str) -> Result<(), Error> {
    if hosted.settings.permission() & rules::PERM_READ == 0 {
        let remark = format!("the broker[{}] {what} message is forbidden", hosted.config.advertised());
        return refuse(ResponseCode::NO_PERMISSION, remark);
    }
    Ok(())
}

/// The topic, the group and the queue that a request names; no queue: any. The group is made where a heartbeat would
/// make it.
async fn place(
    hosted: &Arc<Hosted>,
    call: &Call,
    topic: &str,
    group: &str,
    queue: i32,
) -> Result<(Arc<Topic>, Arc<Group>, Option<QueueId>), Error> {
    let Some(topic) = hosted.state.topic(topic) else {
        return refuse(ResponseCode::TOPIC_NOT_EXIST, no_topic(topic));
    };
    if !perm::is_readable(topic.config.perm) {
        let remark = format!("the topic[{}] peeking message is forbidden", topic.name);
        return refuse(ResponseCode::NO_PERMISSION, remark);
    }
    let queue = QueueId::from_wire(queue);
    if queue.is_some_and(|queue| queue.0 >= topic.config.read_queues) {
        let remark = no_queue(call, &topic, queue.map_or(-1, QueueId::to_wire));
        return refuse(ResponseCode::INVALID_PARAMETER, remark);
    }
    let Some(group) = creation::consumer_group(hosted, group).await? else {
        let remark = format!("subscription group [{group}] does not exist");
        return refuse(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark);
    };
    if !group.config.consume_enable {
        let remark = format!("subscription group no permission, {}", group.name);
        return refuse(ResponseCode::NO_PERMISSION, remark);
    }
    Ok((topic, group, queue))
}

fn no_topic(topic: &str) -> String {
    format!("topic[{topic}] not exist, apply first please!")
}

fn no_queue(call: &Call, topic: &Topic, queue: i32) -> String {
    format!(
        "queueId[{queue}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}] consumer:[{}]",
        topic.name, topic.config.read_queues, call.from.address
    )
}

/// What a pop wants of the messages. Those that come back from others were wanted once.
fn filter(hosted: &Hosted, header: &PopMessageRequest) -> Result<Wish, Error> {
    let expression = header.exp.as_deref().unwrap_or_default();
    let kind = header.exp_type.as_deref().unwrap_or_default();
    if !expression.is_empty() && !kind.is_empty() && kind != wire::EXPRESSION_TYPE_TAG {
        let data = SubscriptionData::from_expression(&header.topic, kind, expression, 0);
        return pull::by_expression(hosted, Arc::new(data), ResponseCode::SUBSCRIPTION_PARSE_FAILED);
    }
    match SubscriptionData::from_tags(&header.topic, expression, 0) {
        Ok(data) => Ok(Wish::by_tags(Arc::new(data))),
        Err(_) => {
            refuse(ResponseCode::SUBSCRIPTION_PARSE_FAILED, "parse the consumer's subscription failed".into())
        }
    }
}

/// 200051.
pub(crate) fn ack(hosted: &Arc<Hosted>, call: Call) {
    match acknowledged(hosted, &call) {
        Ok(message) => hosted.pop.acks.add(hosted, call, Settled::Acknowledged(vec![message])),
        Err(error) => hosted.fail(call, error),
    }
}

fn acknowledged(hosted: &Hosted, call: &Call) -> Result<Popped, Error> {
    let header = AckMessageRequest::decode(&call.request.ext)?;
    let (topic, queue) = popped_queue(hosted, call, &header.topic, header.queue_id)?;
    let range = hosted.state.queue(&topic.name, queue).unwrap_or_default();
    let offset = QueueOffset::from_wire(header.offset);
    let Some(offset) = offset.filter(|offset| (range.min..=range.next).contains(offset)) else {
        let remark = format!(
            "offset is illegal, key:{}@{}, commit:{}, store:{}~{}",
            header.topic, header.queue_id, header.offset, range.min, range.next
        );
        return refuse(ResponseCode::NO_MESSAGE, remark);
    };
    let handle = handle(hosted, &header.extra_info)?;
    let group = popping_group(hosted, &header.consumer_group)?;
    popped(&topic, &group, queue, offset, &handle)
}

/// The queue of an acknowledgement: RocketMQ says 13 of one that is not there.
fn popped_queue(
    hosted: &Hosted,
    call: &Call,
    topic: &str,
    queue: i32,
) -> Result<(Arc<Topic>, QueueId), Error> {
    let Some(topic) = hosted.state.topic(topic) else {
        return refuse(ResponseCode::TOPIC_NOT_EXIST, no_topic(topic));
    };
    match QueueId::from_wire(queue).filter(|queue| queue.0 < topic.config.read_queues) {
        Some(queue) => Ok((topic, queue)),
        None => refuse(ResponseCode::MESSAGE_ILLEGAL, no_queue(call, &topic, queue)),
    }
}

fn popping_group(hosted: &Hosted, group: &str) -> Result<Arc<Group>, Error> {
    match hosted.state.group(group) {
        Some(group) => Ok(group),
        None => {
            let remark = format!("subscription group [{group}] does not exist");
            refuse(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark)
        }
    }
}

fn handle(hosted: &Hosted, text: &str) -> Result<PopHandle, Error> {
    let handle = PopHandle::parse(text)
        .map_err(|error| Error::refused(ResponseCode::MESSAGE_ILLEGAL, error.to_string()))?;
    check_broker(hosted, &handle.broker_name)?;
    Ok(handle)
}

/// What another broker handed out is nothing to this one, even where offset and time are the same.
fn check_broker(hosted: &Hosted, name: &str) -> Result<(), Error> {
    if !name.is_empty() && name != hosted.name() {
        let remark = format!("the handle is one of broker {name}, this is {}", hosted.name());
        return refuse(ResponseCode::MESSAGE_ILLEGAL, remark);
    }
    Ok(())
}

fn popped(
    topic: &Topic,
    group: &Group,
    queue: QueueId,
    offset: QueueOffset,
    handle: &PopHandle,
) -> Result<Popped, Error> {
    let Ok(pop_time_ms) = u64::try_from(handle.pop_time) else {
        let remark = format!("popTime of extraInfo is illegal: {}", handle.pop_time);
        return refuse(ResponseCode::MESSAGE_ILLEGAL, remark);
    };
    Ok(Popped { topic: topic.id, group: group.id, queue, offset, pop_time_ms })
}

/// 200151.
pub(crate) fn batch_ack(hosted: &Arc<Hosted>, call: Call) {
    match batch_acknowledged(hosted, &call) {
        Ok(messages) if messages.is_empty() => call.succeed(),
        Ok(messages) => hosted.pop.acks.add(hosted, call, Settled::Acknowledged(messages)),
        Err(error) => hosted.fail(call, error),
    }
}

/// As RocketMQ: what names no queue of this broker, and offsets that its queue does not have, are passed over.
fn batch_acknowledged(hosted: &Hosted, call: &Call) -> Result<Vec<Popped>, Error> {
    let body = match &call.request.body {
        body if body.is_empty() => BatchAckMessageRequestBody::default(),
        body => BatchAckMessageRequestBody::decode(body)?,
    };
    if body.acks.is_empty() {
        return refuse(ResponseCode::NO_MESSAGE, "the batch acknowledges nothing".into());
    }
    check_broker(hosted, &body.broker_name)?;
    let mut messages = Vec::new();
    for ack in &body.acks {
        let Some(source) = PopSource::from_flag(&ack.retry) else {
            let remark = format!("retry of an acknowledgement is illegal: {}", ack.retry);
            return refuse(ResponseCode::MESSAGE_ILLEGAL, remark);
        };
        let real = source.real_topic(&ack.topic, &ack.consumer_group);
        let (Some(topic), Some(group)) = (hosted.state.topic(&real), hosted.state.group(&ack.consumer_group))
        else {
            continue;
        };
        let Some(queue) = QueueId::from_wire(ack.queue_id) else { continue };
        let Some(range) = hosted.state.queue(&real, queue) else { continue };
        let Ok(pop_time_ms) = u64::try_from(ack.pop_time) else { continue };
        let stored = range.min..range.next;
        let offsets = ack.offsets().into_iter().filter_map(QueueOffset::from_wire);
        messages.extend(offsets.filter(|offset| stored.contains(offset)).map(|offset| Popped {
            topic: topic.id,
            group: group.id,
            queue,
            offset,
            pop_time_ms,
        }));
        if messages.len() > POP_ACKS_PER_ENTRY {
            let remark = format!("the batch acknowledges more than {POP_ACKS_PER_ENTRY} messages");
            return refuse(ResponseCode::INVALID_PARAMETER, remark);
        }
    }
    Ok(messages)
}

/// 200053.
pub(crate) fn change(hosted: &Arc<Hosted>, call: Call) {
    match changed(hosted, &call) {
        Ok(settled) => hosted.pop.acks.add(hosted, call, settled),
        Err(Error::Refused { code, remark }) => refuse_change(call, code, remark),
        Err(error) => hosted.fail(call, error),
    }
}

fn changed(hosted: &Hosted, call: &Call) -> Result<Settled, Error> {
    let header = ChangeInvisibleTimeRequest::decode(&call.request.ext)?;
    let (topic, queue) = popped_queue(hosted, call, &header.topic, header.queue_id)?;
    let range = hosted.state.queue(&topic.name, queue).unwrap_or_default();
    let offset = QueueOffset::from_wire(header.offset);
    let Some(offset) = offset.filter(|offset| (range.min..range.next).contains(offset)) else {
        let remark = format!(
            "offset is illegal, key:{}@{}, change:{}, store:{}~{}",
            header.topic, header.queue_id, header.offset, range.min, range.next
        );
        return refuse(ResponseCode::NO_MESSAGE, remark);
    };
    let handle = handle(hosted, &header.extra_info)?;
    let invisible_ms = invisible_ms(header.invisible_time)?;
    let group = popping_group(hosted, &header.consumer_group)?;
    Ok(Settled::Changed {
        message: popped(&topic, &group, queue, offset, &handle)?,
        invisible_ms,
        keeps_pop_time: handle.revive_queue == POP_ORDER_REVIVE_QUEUE,
        revive_queue: handle.revive_queue,
    })
}

/// 200055. Of this node, as those that wait are.
pub(crate) fn polling_info(hosted: &Hosted, request: &RemotingCommand) -> Result<RemotingCommand, Error> {
    let header = PollingInfoRequest::decode(&request.ext)?;
    may_read(hosted, "peeking")?;
    let Some(topic) = hosted.state.topic(&header.topic) else {
        return refuse(ResponseCode::TOPIC_NOT_EXIST, no_topic(&header.topic));
    };
    let queue = QueueId::from_wire(header.queue_id);
    if queue.is_some_and(|queue| queue.0 >= topic.config.read_queues) {
        let remark = format!(
            "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}]",
            header.queue_id, topic.name, topic.config.read_queues
        );
        return refuse(ResponseCode::INVALID_PARAMETER, remark);
    }
    popping_group(hosted, &header.consumer_group)?;
    let count = hosted.pop.waiting.count_of(&header.topic, &header.consumer_group, queue);
    let polling_num = i32::try_from(count).unwrap_or(i32::MAX);
    Ok(success(request).with_header(&PollingInfoResponse { polling_num }))
}

/// 200052.
pub(crate) fn peek<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = PeekMessageRequest::decode(&call.request.ext)?;
        may_read(hosted, "peeking")?;
        let messages = at_least_one(header.max_msg_nums.min(POP_MESSAGES_MAX))?;
        let (topic, group, queue) =
            place(hosted, call, &header.topic, &header.consumer_group, header.queue_id).await?;
        let (records, count, rest) = pop::peek(hosted, &look(topic, group, queue, messages)).await?;
        let (code, remark) = match count {
            0 => (ResponseCode::PULL_NOT_FOUND, "NO_MESSAGE_IN_QUEUE"),
            _ => (ResponseCode::SUCCESS, "FOUND"),
        };
        let rest_num = i64::try_from(rest).unwrap_or(i64::MAX);
        let header = PopMessageResponse { rest_num, ..PopMessageResponse::default() };
        let response = call.response(code).with_remark(remark).with_header(&header);
        Ok(response.with_body(records.concat()))
    }
    .boxed()
}
