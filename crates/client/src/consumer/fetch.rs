//! One pull, and the questions about offsets (client/impl/consumer/PullAPIWrapper.java).

use std::sync::Arc;
use std::time::Duration;

use wire::{
    GetEarliestMsgStoretimeResponse, GetMaxOffsetRequest, GetMinOffsetRequest, Header, MASTER_ID,
    MessageQueue, OffsetResponse, PullMessageRequest, PullMessageResponse, QueryConsumerOffsetRequest,
    QueueOffset, RequestCode, ResponseCode, SearchOffsetRequest, UpdateConsumerOffsetRequest, ext_key,
    pull_flag,
};

use super::filter::Filter;
use super::received::ReceivedMessage;
use crate::call::{bad_answer, refusal};
use crate::client::Shared;
use crate::error::ClientError;
use crate::route::Broker;

/// What a pull found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    Found,
    /// The end of the queue; the next pull may be held there.
    NoNewMessages,
    /// There are messages, and none of those looked at is wanted.
    NoneMatched,
    /// The offset is below the minimum or beyond the end, or was reset by an administrator.
    OffsetIllegal,
}

/// The answer to a pull.
#[derive(Clone, Debug)]
pub struct Pulled {
    pub status: PullStatus,
    /// Where to pull next.
    pub next: QueueOffset,
    pub min: QueueOffset,
    /// One above the newest message.
    pub max: QueueOffset,
    /// Those that the filter wants, in order.
    pub messages: Vec<ReceivedMessage>,
    /// Whom the broker would have us ask next.
    pub(crate) suggested_broker_id: i64,
}

/// What to ask for.
pub(crate) struct PullAsk<'a> {
    pub(crate) group: &'a str,
    pub(crate) queue: &'a Arc<MessageQueue>,
    pub(crate) from: QueueOffset,
    pub(crate) messages_max: u32,
    pub(crate) bytes_max: u32,
    /// How long the broker may hold the request when there is nothing.
    pub(crate) suspend: Option<Duration>,
    pub(crate) timeout: Duration,
    /// To be stored along the way.
    pub(crate) commit: Option<QueueOffset>,
    pub(crate) filter: &'a Filter,
    /// Send the filter along, instead of relying on the one in heartbeats.
    pub(crate) inline_filter: bool,
    pub(crate) sub_version: i64,
}

pub(crate) async fn pull(
    shared: &Shared,
    broker: &Broker,
    broker_id: i64,
    ask: &PullAsk<'_>,
) -> Result<Pulled, ClientError> {
    let (id, address) = broker.for_reading(broker_id).ok_or_else(|| no_address(broker))?;
    let mut sys_flag = 0;
    if ask.suspend.is_some() {
        sys_flag |= pull_flag::SUSPEND;
    }
    if ask.inline_filter {
        sys_flag |= pull_flag::SUBSCRIPTION;
    }
    if ask.commit.is_some() && id == MASTER_ID {
        sys_flag |= pull_flag::COMMIT_OFFSET;
    }
    let header = PullMessageRequest {
        consumer_group: ask.group.to_owned(),
        topic: ask.queue.topic.clone(),
        queue_id: ask.queue.queue_id,
        queue_offset: ask.from.to_wire(),
        max_msg_nums: i32::try_from(ask.messages_max).unwrap_or(i32::MAX),
        sys_flag,
        commit_offset: ask.commit.map_or(0, QueueOffset::to_wire),
        suspend_timeout_millis: ask.suspend.map_or(0, |suspend| suspend.as_millis() as i64),
        subscription: ask.inline_filter.then(|| ask.filter.expression().to_owned()),
        sub_version: ask.sub_version,
        expression_type: Some(ask.filter.kind().to_owned()),
        max_msg_bytes: Some(i32::try_from(ask.bytes_max).unwrap_or(i32::MAX)),
        request_source: None,
        proxy_forward_client_id: None,
    };
    let request = shared
        .caller
        .request(RequestCode::PULL_MESSAGE, &header)
        .with_ext(ext_key::BROKER_NAME, &broker.name);
    let answer = shared.caller.call(&address, request, ask.timeout).await?;
    let status = match answer.response_code() {
        ResponseCode::SUCCESS => PullStatus::Found,
        ResponseCode::PULL_NOT_FOUND => PullStatus::NoNewMessages,
        ResponseCode::PULL_RETRY_IMMEDIATELY => PullStatus::NoneMatched,
        ResponseCode::PULL_OFFSET_MOVED => PullStatus::OffsetIllegal,
        _ => return Err(refusal(&address, answer)),
    };
    let header = PullMessageResponse::decode(&answer.ext).map_err(|error| bad_answer(&address, error))?;
    // Java takes negative offsets as they come; none makes sense here.
    let offset = |value: i64| QueueOffset::from_wire(value.max(0)).unwrap_or_default();
    let mut messages = Vec::new();
    if status == PullStatus::Found {
        messages = ReceivedMessage::decode_all(ask.queue, &answer.body)
            .map_err(|error| bad_answer(&address, error))?;
        messages.retain(|message| ask.filter.wants(message.tag()));
    }
    Ok(Pulled {
        status,
        next: offset(header.next_begin_offset),
        min: offset(header.min_offset),
        max: offset(header.max_offset),
        messages,
        suggested_broker_id: header.suggest_which_broker_id,
    })
}

fn no_address(broker: &Broker) -> ClientError {
    ClientError::NotSent { to: broker.name.to_string(), why: "no address of it is known".into() }
}

fn master(broker: &Broker) -> Result<Arc<str>, ClientError> {
    broker.for_reading(MASTER_ID).map(|(_, address)| address).ok_or_else(|| no_address(broker))
}

/// Asks about one queue, its master or whoever is there.
async fn ask_offset(
    shared: &Shared,
    broker: &Broker,
    code: RequestCode,
    header: &impl Header,
) -> Result<i64, ClientError> {
    let address = master(broker)?;
    let request = shared.caller.request(code, header).with_ext(ext_key::BROKER_NAME, &broker.name);
    let answer = shared.caller.ask(&address, request, shared.config.call_timeout).await?;
    let header = OffsetResponse::decode(&answer.ext).map_err(|error| bad_answer(&address, error))?;
    Ok(header.offset)
}

/// The offset stored for a group; `None` when there is none.
pub(crate) async fn committed(
    shared: &Shared,
    broker: &Broker,
    group: &str,
    queue: &MessageQueue,
) -> Result<Option<QueueOffset>, ClientError> {
    let header = QueryConsumerOffsetRequest {
        consumer_group: group.to_owned(),
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        set_zero_if_not_found: None,
    };
    match ask_offset(shared, broker, RequestCode::QUERY_CONSUMER_OFFSET, &header).await {
        Ok(offset) => Ok(QueueOffset::from_wire(offset)),
        Err(ClientError::Broker { code: ResponseCode::QUERY_NOT_FOUND, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Stores a group's offset. `waits`: the answer is wanted; else it is only sent.
pub(crate) async fn commit(
    shared: &Shared,
    broker: &Broker,
    group: &str,
    queue: &MessageQueue,
    offset: QueueOffset,
    waits: bool,
) -> Result<(), ClientError> {
    let address = master(broker)?;
    let header = UpdateConsumerOffsetRequest {
        consumer_group: group.to_owned(),
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        commit_offset: offset.to_wire(),
    };
    let caller = &shared.caller;
    let request = caller
        .request(RequestCode::UPDATE_CONSUMER_OFFSET, &header)
        .with_ext(ext_key::BROKER_NAME, &broker.name);
    if waits {
        return caller.ask(&address, request, shared.config.call_timeout).await.map(drop);
    }
    Ok(caller.net().send_oneway(&address, request, shared.config.call_timeout).await?)
}

pub(crate) async fn max_offset(
    shared: &Shared,
    broker: &Broker,
    queue: &MessageQueue,
) -> Result<QueueOffset, ClientError> {
    let header =
        GetMaxOffsetRequest { topic: queue.topic.clone(), queue_id: queue.queue_id, committed: true };
    not_negative(broker, ask_offset(shared, broker, RequestCode::GET_MAX_OFFSET, &header).await?)
}

pub(crate) async fn min_offset(
    shared: &Shared,
    broker: &Broker,
    queue: &MessageQueue,
) -> Result<QueueOffset, ClientError> {
    let header = GetMinOffsetRequest { topic: queue.topic.clone(), queue_id: queue.queue_id };
    not_negative(broker, ask_offset(shared, broker, RequestCode::GET_MIN_OFFSET, &header).await?)
}

/// `upper`: of several messages with that time the last, else the first.
pub(crate) async fn search_offset(
    shared: &Shared,
    broker: &Broker,
    queue: &MessageQueue,
    time_ms: u64,
    upper: bool,
) -> Result<QueueOffset, ClientError> {
    let header = SearchOffsetRequest {
        topic: queue.topic.clone(),
        queue_id: queue.queue_id,
        timestamp: i64::try_from(time_ms).unwrap_or(i64::MAX),
        boundary_type: Some(if upper { "UPPER" } else { "LOWER" }.to_owned()),
    };
    not_negative(broker, ask_offset(shared, broker, RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, &header).await?)
}

/// Store time of the queue's oldest message, milliseconds since 1970; `None` when it is empty.
pub(crate) async fn earliest_store_time_ms(
    shared: &Shared,
    broker: &Broker,
    queue: &MessageQueue,
) -> Result<Option<u64>, ClientError> {
    let address = master(broker)?;
    let header = GetMinOffsetRequest { topic: queue.topic.clone(), queue_id: queue.queue_id };
    let request = shared
        .caller
        .request(RequestCode::GET_EARLIEST_MSG_STORETIME, &header)
        .with_ext(ext_key::BROKER_NAME, &broker.name);
    let answer = shared.caller.ask(&address, request, shared.config.call_timeout).await?;
    let header =
        GetEarliestMsgStoretimeResponse::decode(&answer.ext).map_err(|error| bad_answer(&address, error))?;
    Ok(u64::try_from(header.timestamp).ok())
}

fn not_negative(broker: &Broker, offset: i64) -> Result<QueueOffset, ClientError> {
    QueueOffset::from_wire(offset).ok_or_else(|| bad_answer(&broker.name, format!("offset {offset}")))
}
