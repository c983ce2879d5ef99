//! One request, one answer, one outcome: what clients of the workloads do, by the lower layer of the Rust client (`net`,
//! `wire`), which neither retries nor chooses a broker. So each operation of a history is a single attempt, and who was
//! asked is known.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use wire::{
    AckMessageRequest, BatchAck, BatchAckMessageRequestBody, BatchItem, Body as _,
    ChangeInvisibleTimeRequest, ChangeInvisibleTimeResponse, CreateTopicRequest, EndTransactionRequest,
    GetMaxOffsetRequest, GetMinOffsetRequest, Header, HeartbeatData, Messages, OffsetMessageId,
    OffsetResponse, PopHandle, PopMessageRequest, PopMessageResponse, PopSource, ProducerData,
    PullMessageRequest, PullMessageResponse, QueryConsumerOffsetRequest, QueryMessageRequest,
    RemotingCommand, RequestCode, SendMessageRequest, SendMessageResponse, StoredMessage,
    SubscriptionGroupConfig, TopicConfig, TopicRequest, TopicStatsTable, UniqueIds,
    UpdateConsumerOffsetRequest, ViewMessageRequest, encode_batch_item, ext_key, prop, properties_from,
    pull_flag, sysflag,
};

use crate::history::{Delay, Details, Ending, Found, LookupBy, Popped, PullStatus, Queue, Read, Value};
use crate::outcome::Outcome;

/// A send's budget, as the stock clients have it.
const SEND: Duration = Duration::from_secs(3);
/// Whatever else is asked.
const QUESTION: Duration = Duration::from_secs(3);
/// A connection that takes longer is to a host that is cut off: nothing was sent, and another node can be asked.
const CONNECT: Duration = Duration::from_secs(1);
/// Messages that a pull asks for.
const PULL_MESSAGES: i32 = 256;
/// In whose name workloads read; it need not exist.
pub(super) const READERS: &str = "jepsen-readers";
const WRITERS: &str = "jepsen-writers";
/// What 37 says of a transaction that is over (crates/broker/src/transactions/ends.rs).
const IS_OVER: &str = "is over";
/// What 33 says, which has no code for it (crates/broker/src/handlers/query.rs).
const NOT_FOUND: &str = "can not find message";

/// How a request ended.
#[derive(Clone, Debug)]
pub(super) struct Answered<T> {
    pub(super) outcome: Outcome,
    pub(super) details: Details,
    /// Where the outcome is `ok`.
    pub(super) result: Option<T>,
}

/// Where a send was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// Of the first message.
    pub(super) offset: u64,
    pub(super) position: u64,
}

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pulled {
    pub(super) status: PullStatus,
    pub(super) messages: Vec<Read>,
    pub(super) next: u64,
    pub(super) min: u64,
    pub(super) max: u64,
}

/// Asks nodes by their number. Clones share their connections.
#[derive(Clone)]
pub(super) struct Caller {
    net: net::Client,
    nodes: Arc<[SocketAddr]>,
    ids: Arc<UniqueIds>,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

impl Caller {
    /// With connections of its own. `own` is the address that its unique ids name.
    pub(super) fn new(nodes: Arc<[SocketAddr]>, own: IpAddr) -> Caller {
        let ids = UniqueIds::new(own, std::process::id(), rand::random());
        Caller { net: net::Client::new(Caller::config()), nodes, ids: Arc::new(ids) }
    }

    fn config() -> net::ClientConfig {
        net::ClientConfig { connect_timeout: CONNECT, ..net::ClientConfig::default() }
    }

    /// The same with connections of its own, on which brokers may ask.
    pub(super) fn answering(&self, handler: Arc<dyn net::Handler>) -> Caller {
        Caller { net: net::Client::with_handler(Caller::config(), handler), ..self.clone() }
    }

    /// Node ids, from 1.
    pub(super) fn nodes(&self) -> u64 {
        self.nodes.len() as u64
    }

    async fn exchange(&self, node: u64, request: RemotingCommand, limit: Duration) -> Exchange {
        let address = self.nodes[node as usize - 1].to_string();
        let mut details = Details { node: Some(node), ..Details::default() };
        match self.net.call(&address, request, limit).await {
            Ok(answer) => {
                let code = answer.response_code().get();
                let remark = answer.remark.clone().unwrap_or_default();
                let outcome = Outcome::of_answer(code, &remark);
                details.code = Some(code);
                details.error = (outcome != Outcome::Ok).then_some(remark);
                Exchange { outcome, details, answer: Some(answer) }
            }
            Err(error) => {
                details.error = Some(error.to_string());
                Exchange { outcome: Outcome::of_call_error(&error), details, answer: None }
            }
        }
    }

    /// Unique id and text of a message's properties, with more of them.
    fn properties_with(&self, value: Value, more: &[(&str, &str)]) -> (String, String) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let (id, key) = (self.ids.next(now).to_string(), value.to_string());
        let own = [(prop::KEYS, key.as_str()), (prop::UNIQ_KEY, id.as_str())];
        let text = properties_from(own.iter().chain(more).copied());
        (id, text)
    }

    fn properties(&self, value: Value) -> (String, String) {
        self.properties_with(value, &[])
    }

    /// Sends one message to a queue, through a node. Besides the answer: the unique id.
    pub(super) async fn send(
        &self,
        node: u64,
        queue: &Queue,
        value: Value,
        bytes: usize,
    ) -> (Answered<Placed>, String) {
        let (id, properties) = self.properties(value);
        let request = send_request(queue, RequestCode::SEND_MESSAGE_V2, Some(&properties));
        let answered = self.exchange(node, request.with_body(value.body(bytes)), SEND).await;
        (answered.read(placed), id)
    }

    /// Sends a batch to a queue, through a node.
    pub(super) async fn send_batch(
        &self,
        node: u64,
        queue: &Queue,
        values: &[Value],
        bytes: usize,
    ) -> Answered<Placed> {
        let mut body = BytesMut::new();
        for &value in values {
            let (_, properties) = self.properties(value);
            let item = BatchItem { flag: 0, body: &value.body(bytes), properties: &properties };
            if let Err(error) = encode_batch_item(&item, &mut body) {
                let details = Details { error: Some(error.to_string()), ..Details::default() };
                return Answered { outcome: Outcome::Fail, details, result: None };
            }
        }
        let request = send_request(queue, RequestCode::SEND_BATCH_MESSAGE, None);
        self.exchange(node, request.with_body(body.freeze()), SEND).await.read(placed)
    }

    /// Sends one message to a queue, to be delivered there later.
    pub(super) async fn send_later(
        &self,
        node: u64,
        queue: &Queue,
        value: Value,
        bytes: usize,
        delay: Delay,
    ) -> Answered<()> {
        let (name, text) = match delay.level {
            Some(level) => (prop::DELAY, level.to_string()),
            None => (prop::TIMER_DELAY_MS, delay.ms.to_string()),
        };
        let (_, properties) = self.properties_with(value, &[(name, &text)]);
        let request = send_request(queue, RequestCode::SEND_MESSAGE_V2, Some(&properties));
        self.exchange(node, request.with_body(value.body(bytes)), SEND).await.read(|_| Some(()))
    }

    /// Sends the first half of a transaction of a producer group.
    pub(super) async fn send_half(
        &self,
        node: u64,
        queue: &Queue,
        value: Value,
        bytes: usize,
        group: &str,
    ) -> Answered<HalfSent> {
        let own = [(prop::TRAN_MSG, "true"), (prop::PGROUP, group)];
        let (id, properties) = self.properties_with(value, &own);
        let code = RequestCode::SEND_MESSAGE_V2;
        let header = SendMessageRequest {
            producer_group: group,
            sys_flag: sysflag::TRANSACTION_PREPARED,
            ..send_header(queue, code, Some(&properties))
        };
        let mut request = RemotingCommand::request(code);
        header.encode_for(code, &mut request.ext);
        let answered = self.exchange(node, request.with_body(value.body(bytes)), SEND).await;
        answered.read(|answer| {
            let placed = placed(answer)?;
            let (offset, position) = (placed.offset as i64, placed.position as i64);
            Some(HalfSent { offset, position, transaction_id: id, from_check: false })
        })
    }

    /// Ends a transaction of a producer group, waiting for an answer. Beside the outcome: whether it was over already.
    pub(super) async fn end_transaction(
        &self,
        node: u64,
        queue: &Queue,
        group: &str,
        half: &HalfSent,
        how: Ending,
    ) -> (Answered<()>, bool) {
        let header = EndTransactionRequest {
            topic: Some(queue.topic.clone()),
            producer_group: group.to_owned(),
            tran_state_table_offset: half.offset,
            commit_log_offset: half.position,
            commit_or_rollback: match how {
                Ending::Commit => sysflag::TRANSACTION_COMMIT,
                Ending::Rollback => sysflag::TRANSACTION_ROLLBACK,
            },
            from_transaction_check: half.from_check,
            msg_id: String::new(),
            transaction_id: Some(half.transaction_id.clone()),
        };
        let request = RemotingCommand::request(RequestCode::END_TRANSACTION).with_header(&header);
        let exchange =
            self.exchange(node, request.with_ext(ext_key::BROKER_NAME, &queue.broker), QUESTION).await;
        let over = exchange.outcome == Outcome::Fail
            && exchange.details.error.as_ref().is_some_and(|remark| remark.ends_with(IS_OVER));
        (exchange.read(|_| Some(())), over)
    }

    /// Tells a node that this client is a producer of a group. Not of the history.
    pub(super) async fn announce_producer(&self, node: u64, client: &str, group: &str) {
        let data = HeartbeatData {
            client_id: client.to_owned(),
            producer_data_set: vec![ProducerData { group_name: group.to_owned() }],
            ..HeartbeatData::default()
        };
        let request = RemotingCommand::request(RequestCode::HEART_BEAT).with_body(data.encode());
        // Who is not there is told the next time.
        let _ = self.exchange(node, request, CONNECT).await;
    }

    /// Pops from any queue of a topic, through a node. No messages: there were none.
    pub(super) async fn pop(
        &self,
        node: u64,
        topic: &str,
        group: &str,
        messages: i32,
        invisible: Duration,
        hold: Duration,
    ) -> Answered<Vec<Held>> {
        let header = PopMessageRequest {
            consumer_group: group.to_owned(),
            topic: topic.to_owned(),
            queue_id: -1,
            max_msg_nums: messages,
            invisible_time: invisible.as_millis() as i64,
            poll_time: hold.as_millis() as i64,
            ..PopMessageRequest::default()
        };
        let request = RemotingCommand::request(RequestCode::POP_MESSAGE).with_header(&header);
        let Exchange { outcome, mut details, answer } = self.exchange(node, request, QUESTION + hold).await;
        let read = match answer.as_ref().map(|answer| answer.code) {
            Some(0) => answer.as_ref().and_then(|answer| held(topic, group, answer)),
            // POLLING_FULL, POLLING_TIMEOUT
            Some(209 | 210) => {
                details.error = None;
                Some(Vec::new())
            }
            _ => return Answered { outcome, details, result: None },
        };
        // What cannot be read was taken, and comes again.
        let outcome = if read.is_some() { Outcome::Ok } else { Outcome::Info };
        Answered { outcome, details, result: read }
    }

    /// Acknowledges popped messages of one topic: one by 200051, several by 200151.
    pub(super) async fn acknowledge(
        &self,
        node: u64,
        topic: &str,
        group: &str,
        held: &[Held],
    ) -> Answered<()> {
        let request = match held {
            [Held { handle, .. }] => {
                let header = AckMessageRequest {
                    consumer_group: group.to_owned(),
                    topic: handle.source.real_topic(topic, group),
                    queue_id: handle.queue_id,
                    extra_info: handle.to_string(),
                    offset: handle.queue_offset,
                };
                RemotingCommand::request(RequestCode::ACK_MESSAGE).with_header(&header)
            }
            several => {
                let acks = several.iter().map(|Held { handle, .. }| BatchAck {
                    bits: BatchAck::bits_of(handle.start_offset, &[handle.queue_offset]),
                    consumer_group: group.to_owned(),
                    invisible_time: handle.invisible_time,
                    pop_time: handle.pop_time,
                    queue_id: handle.queue_id,
                    retry: handle.source.flag().to_owned(),
                    revive_queue_id: handle.revive_queue,
                    start_offset: handle.start_offset,
                    topic: topic.to_owned(),
                });
                let broker_name =
                    several.first().map_or(String::new(), |held| held.handle.broker_name.clone());
                let body = BatchAckMessageRequestBody { acks: acks.collect(), broker_name };
                RemotingCommand::request(RequestCode::BATCH_ACK_MESSAGE).with_body(body.encode())
            }
        };
        self.exchange(node, request, QUESTION).await.read(|_| Some(()))
    }

    /// Changes the time for which a popped message is its consumer's; the handle from then on.
    pub(super) async fn change_invisible(
        &self,
        node: u64,
        topic: &str,
        group: &str,
        handle: &PopHandle,
        invisible: Duration,
    ) -> Answered<PopHandle> {
        let header = ChangeInvisibleTimeRequest {
            consumer_group: group.to_owned(),
            topic: handle.source.real_topic(topic, group),
            queue_id: handle.queue_id,
            extra_info: handle.to_string(),
            offset: handle.queue_offset,
            invisible_time: invisible.as_millis() as i64,
        };
        let request =
            RemotingCommand::request(RequestCode::CHANGE_MESSAGE_INVISIBLETIME).with_header(&header);
        self.exchange(node, request, QUESTION).await.read(|answer| {
            let header = ChangeInvisibleTimeResponse::decode(&answer.ext).ok()?;
            Some(PopHandle {
                start_offset: handle.queue_offset,
                pop_time: header.pop_time,
                invisible_time: header.invisible_time,
                revive_queue: header.revive_qid,
                ..handle.clone()
            })
        })
    }

    /// Pulls from an offset on, through a node. `hold`: how long the broker may wait where there is nothing yet.
    pub(super) async fn pull(
        &self,
        node: u64,
        queue: &Queue,
        from: u64,
        hold: Option<Duration>,
    ) -> Answered<Pulled> {
        let suspend = if hold.is_some() { pull_flag::SUSPEND } else { 0 };
        let header = PullMessageRequest {
            consumer_group: READERS.to_owned(),
            topic: queue.topic.clone(),
            queue_id: queue.id as i32,
            queue_offset: from as i64,
            max_msg_nums: PULL_MESSAGES,
            sys_flag: pull_flag::SUBSCRIPTION | suspend,
            suspend_timeout_millis: hold.map_or(0, |hold| hold.as_millis() as i64),
            subscription: Some("*".to_owned()),
            expression_type: Some(wire::EXPRESSION_TYPE_TAG.to_owned()),
            ..PullMessageRequest::default()
        };
        let request = RemotingCommand::request(RequestCode::PULL_MESSAGE).with_header(&header);
        let limit = QUESTION + hold.unwrap_or_default();
        let exchange =
            self.exchange(node, request.with_ext(ext_key::BROKER_NAME, &queue.broker), limit).await;
        exchange.question(|answer| {
            let status = match answer.code {
                0 => PullStatus::Found,
                19 => PullStatus::NothingNew,
                20 => PullStatus::NoneMatched,
                21 => PullStatus::Moved,
                _ => return None,
            };
            let header = PullMessageResponse::decode(&answer.ext).ok()?;
            let bound = |offset: i64| u64::try_from(offset).unwrap_or(0);
            let found = status == PullStatus::Found;
            let messages = if found { reads(queue, from, &answer.body) } else { Vec::new() };
            Some(Pulled {
                status,
                messages,
                next: bound(header.next_begin_offset),
                min: bound(header.min_offset),
                max: bound(header.max_offset),
            })
        })
    }

    async fn offset(&self, node: u64, code: RequestCode, header: &impl Header) -> Exchange {
        self.exchange(node, RemotingCommand::request(code).with_header(header), QUESTION).await
    }

    /// 30.
    pub(super) async fn max_offset(&self, node: u64, queue: &Queue) -> Answered<u64> {
        let header = GetMaxOffsetRequest {
            topic: queue.topic.clone(),
            queue_id: queue.id as i32,
            ..GetMaxOffsetRequest::default()
        };
        self.offset(node, RequestCode::GET_MAX_OFFSET, &header).await.question(offset_of)
    }

    /// 31.
    pub(super) async fn min_offset(&self, node: u64, queue: &Queue) -> Answered<u64> {
        let header = GetMinOffsetRequest { topic: queue.topic.clone(), queue_id: queue.id as i32 };
        self.offset(node, RequestCode::GET_MIN_OFFSET, &header).await.question(offset_of)
    }

    /// 15, waiting for the answer.
    pub(super) async fn commit(&self, node: u64, group: &str, queue: &Queue, offset: u64) -> Answered<()> {
        let header = UpdateConsumerOffsetRequest {
            consumer_group: group.to_owned(),
            topic: queue.topic.clone(),
            queue_id: queue.id as i32,
            commit_offset: offset as i64,
        };
        self.offset(node, RequestCode::UPDATE_CONSUMER_OFFSET, &header).await.read(|_| Some(()))
    }

    /// 14. `Some(None)`: none is stored.
    pub(super) async fn query(&self, node: u64, group: &str, queue: &Queue) -> Answered<Option<u64>> {
        let header = QueryConsumerOffsetRequest {
            consumer_group: group.to_owned(),
            topic: queue.topic.clone(),
            queue_id: queue.id as i32,
            set_zero_if_not_found: Some(false),
        };
        let exchange = self.offset(node, RequestCode::QUERY_CONSUMER_OFFSET, &header).await;
        exchange.question(|answer| match answer.code {
            22 => Some(None),
            _ => offset_of(answer).map(Some),
        })
    }

    /// 17: a topic with so many queues.
    pub(super) async fn write_topic(&self, node: u64, topic: &str, queues: i32) -> Answered<()> {
        let header = CreateTopicRequest {
            topic: topic.to_owned(),
            default_topic: wire::topic::AUTO_CREATE.to_owned(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: wire::perm::READ_WRITE,
            ..CreateTopicRequest::default()
        };
        self.offset(node, RequestCode::UPDATE_AND_CREATE_TOPIC, &header).await.read(|_| Some(()))
    }

    /// 202, answered by the leader after a read barrier: how many queues a topic has. `Some(None)`: there is none.
    pub(super) async fn read_topic(&self, node: u64, topic: &str) -> Answered<Option<usize>> {
        let header = TopicRequest { topic: topic.to_owned() };
        let exchange = self.offset(node, RequestCode::GET_TOPIC_STATS_INFO, &header).await;
        exchange.question(|answer| match answer.code {
            0 => Some(Some(TopicStatsTable::decode(&answer.body).ok()?.offset_table.len())),
            17 => Some(None),
            _ => None,
        })
    }

    /// 351, answered from what the node has applied: the same, and it may be out of date.
    pub(super) async fn peek_topic(&self, node: u64, topic: &str) -> Answered<Option<usize>> {
        let header = TopicRequest { topic: topic.to_owned() };
        let exchange = self.offset(node, RequestCode::GET_TOPIC_CONFIG, &header).await;
        exchange.question(|answer| match answer.code {
            0 => {
                let config = TopicConfig::decode(&answer.body).ok()?;
                Some(usize::try_from(config.read_queue_nums.max(config.write_queue_nums)).ok())
            }
            17 => Some(None),
            _ => None,
        })
    }

    /// 200: makes a consumer group. `retries`: until a message is a dead letter; `None`: as the broker has it.
    pub(super) async fn make_group(&self, node: u64, group: &str, retries: Option<i32>) -> Answered<()> {
        let mut config = SubscriptionGroupConfig { group_name: group.to_owned(), ..Default::default() };
        config.retry_max_times = retries.unwrap_or(config.retry_max_times);
        let code = RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
        let request = RemotingCommand::request(code).with_body(config.encode());
        self.exchange(node, request, QUESTION).await.read(|_| Some(()))
    }

    /// 12 or 33: a message by what is known of it.
    pub(super) async fn look_up(&self, node: u64, sought: &Sought, by: LookupBy) -> Answered<Vec<Found>> {
        let request = match by {
            LookupBy::Key | LookupBy::UniqueId => {
                let is_id = by == LookupBy::UniqueId;
                let header = QueryMessageRequest {
                    topic: sought.queue.topic.clone(),
                    key: if is_id { sought.unique_id.clone() } else { sought.value.to_string() },
                    max_num: 32,
                    begin_timestamp: 0,
                    end_timestamp: i64::MAX,
                };
                let request = RemotingCommand::request(RequestCode::QUERY_MESSAGE).with_header(&header);
                request.with_ext(ext_key::UNIQUE_KEY_QUERY, if is_id { "true" } else { "false" })
            }
            LookupBy::OffsetId => {
                let header =
                    ViewMessageRequest { topic: None, offset: i64::try_from(sought.position).unwrap_or(0) };
                RemotingCommand::request(RequestCode::VIEW_MESSAGE_BY_ID).with_header(&header)
            }
        };
        let exchange = self.exchange(node, request, QUESTION).await;
        exchange.question(|answer| match answer.code {
            0 => Some(found(&sought.queue.broker, &answer.body)),
            // Not found: 12 says so by a code of its own, 33 by a remark.
            22 => Some(Vec::new()),
            1 if answer.remark.as_ref().is_some_and(|remark| remark.contains(NOT_FOUND)) => Some(Vec::new()),
            _ => None,
        })
    }

    /// A table that a node has applied, as it tells it: 21 or 201. Not of the history.
    pub(super) async fn table(&self, node: u64, code: RequestCode) -> Option<Vec<u8>> {
        let exchange = self.exchange(node, RemotingCommand::request(code), QUESTION).await;
        exchange.answer.filter(|answer| answer.code == 0).map(|answer| answer.body.to_vec())
    }
}

/// A message of which the place is known.
#[derive(Clone, Debug)]
pub(super) struct Sought {
    pub(super) queue: Queue,
    pub(super) value: Value,
    pub(super) position: u64,
    pub(super) unique_id: String,
}

struct Exchange {
    outcome: Outcome,
    details: Details,
    answer: Option<RemotingCommand>,
}

impl Exchange {
    /// Of a request that changes something. An answer of success that cannot be read leaves the outcome open.
    fn read<T>(self, read: impl FnOnce(&RemotingCommand) -> Option<T>) -> Answered<T> {
        let Exchange { outcome, mut details, answer } = self;
        if outcome != Outcome::Ok {
            return Answered { outcome, details, result: None };
        }
        match answer.as_ref().and_then(read) {
            Some(result) => Answered { outcome, details, result: Some(result) },
            None => {
                details.error = Some("the answer cannot be read".to_owned());
                Answered { outcome: Outcome::Info, details, result: None }
            }
        }
    }

    /// Of a question, whose answer may have several codes.
    fn question<T>(self, read: impl FnOnce(&RemotingCommand) -> Option<T>) -> Answered<T> {
        let Exchange { details, answer, .. } = self;
        let result = answer.as_ref().and_then(read);
        Answered { outcome: Outcome::of_question(result.is_some()), details, result }
    }
}

/// A half message as its sender knows it, or who was asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HalfSent {
    /// Among half messages.
    pub(super) offset: i64,
    pub(super) position: i64,
    pub(super) transaction_id: String,
    pub(super) from_check: bool,
}

/// A popped message, with what it is acknowledged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) popped: Popped,
    pub(super) handle: PopHandle,
}

/// The messages of a pop. `None`: the answer contradicts itself. What is not as it was sent becomes a foreign value.
fn held(topic: &str, group: &str, answer: &RemotingCommand) -> Option<Vec<Held>> {
    let header = PopMessageResponse::decode(&answer.ext).ok()?;
    let starts = header.start_offset_info.as_deref().unwrap_or_default();
    let places = wire::parse_pop_offsets(starts, header.msg_offset_info.as_deref().unwrap_or_default())?;
    let mut all: Vec<Held> = Vec::new();
    for stored in Messages::new(&answer.body) {
        let stored = stored.ok()?;
        let carried = stored.property(prop::POP_CK).map(PopHandle::parse).transpose().ok()?;
        let source = carried.as_ref().map_or(PopSource::Normal, |handle| handle.source);
        let queue_id = stored.queue_id.to_wire();
        let place = places.iter().find(|place| (place.source, place.queue) == (source, queue_id))?;
        let handle = PopHandle {
            start_offset: place.start,
            pop_time: header.pop_time,
            invisible_time: header.invisible_time,
            revive_queue: header.revive_qid,
            source,
            broker_name: crate::cluster::GROUP.to_owned(),
            queue_id,
            queue_offset: stored.queue_offset.to_wire(),
        };
        let is_ours = stored.topic == topic && stored.verify().is_ok();
        let value = if is_ours { Value::of_body(stored.body) } else { Value::foreign(stored.record) };
        let popped = Popped {
            queue: Queue::new(crate::cluster::GROUP, source.real_topic(topic, group), stored.queue_id.get()),
            offset: stored.queue_offset.get(),
            value,
            pop_ms: u64::try_from(header.pop_time).ok()?,
            attempt: u32::try_from(stored.reconsume_times).unwrap_or(u32::MAX),
        };
        all.push(Held { popped, handle });
    }
    let told: usize = places.iter().map(|place| place.offsets.len()).sum();
    (told == all.len()).then_some(all)
}

fn send_header<'a>(
    queue: &'a Queue,
    code: RequestCode,
    properties: Option<&'a str>,
) -> SendMessageRequest<'a> {
    SendMessageRequest {
        producer_group: WRITERS,
        topic: &queue.topic,
        default_topic: wire::topic::AUTO_CREATE,
        default_topic_queue_nums: 4,
        queue_id: queue.id as i32,
        properties,
        batch: Some(code == RequestCode::SEND_BATCH_MESSAGE),
        broker_name: Some(&queue.broker),
        ..SendMessageRequest::default()
    }
}

fn send_request(queue: &Queue, code: RequestCode, properties: Option<&str>) -> RemotingCommand {
    let mut request = RemotingCommand::request(code);
    send_header(queue, code, properties).encode_for(code, &mut request.ext);
    request
}

fn placed(answer: &RemotingCommand) -> Option<Placed> {
    let header = SendMessageResponse::decode(&answer.ext).ok()?;
    // Of a batch all ids, comma-joined.
    let id = OffsetMessageId::from_str(header.msg_id.split(',').next()?).ok()?;
    Some(Placed { offset: u64::try_from(header.queue_offset).ok()?, position: id.position.get() })
}

fn offset_of(answer: &RemotingCommand) -> Option<u64> {
    if answer.code != 0 {
        return None;
    }
    u64::try_from(OffsetResponse::decode(&answer.ext).ok()?.offset).ok()
}

/// The messages of a pull. What cannot be read, or is of another queue, becomes a foreign value where it was found: nobody
/// sent it, and the checkers say so.
fn reads(queue: &Queue, from: u64, body: &[u8]) -> Vec<Read> {
    let mut reads = Vec::new();
    for stored in Messages::new(body) {
        let next = reads.last().map_or(from, |last: &Read| last.offset + 1);
        reads.push(match stored {
            Ok(stored) => Read { offset: stored.queue_offset.get(), value: value_of(queue, &stored) },
            Err(_) => Read { offset: next, value: Value::foreign(body) },
        });
    }
    reads
}

/// The value of a stored message of a queue; foreign if it is not wholly as it was sent.
pub(crate) fn value_of(queue: &Queue, stored: &StoredMessage<'_>) -> Value {
    let is_ours = stored.topic == queue.topic && stored.queue_id.get() == queue.id && stored.verify().is_ok();
    if is_ours { Value::of_body(stored.body) } else { Value::foreign(stored.record) }
}

fn found(broker: &str, body: &[u8]) -> Vec<Found> {
    let read = |stored: StoredMessage<'_>| {
        let queue = Queue::new(broker, stored.topic, stored.queue_id.get());
        let value = value_of(&queue, &stored);
        Found { queue, offset: stored.queue_offset.get(), value }
    };
    Messages::new(body).filter_map(|stored| stored.ok().map(read)).collect()
}

#[cfg(test)]
mod tests {
    use wire::{NewMessage, QueueId, encode_message, patch_queue_offset};

    use super::*;

    fn record(topic: &str, body: &[u8], offset: u64) -> Vec<u8> {
        let host: SocketAddr = "10.77.0.1:10911".parse().unwrap();
        let message = NewMessage {
            topic,
            queue_id: QueueId(2),
            flag: 0,
            sys_flag: 0,
            born_timestamp: 1,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body,
            properties: "",
        };
        let mut out = BytesMut::new();
        encode_message(&message, &mut out).unwrap();
        patch_queue_offset(&mut out, wire::QueueOffset(offset)).unwrap();
        out.to_vec()
    }

    #[test]
    fn what_is_not_ours_is_foreign() {
        let queue = Queue::new("broker-a", "t", 2);
        let value = Value::new(3, 4);
        let body = value.body(100);
        let good = record("t", &body, 7);
        let other = record("u", &body, 8);
        let reads = reads(&queue, 7, &[good, other, b"rubbish".to_vec()].concat());
        assert_eq!(reads[0], Read { offset: 7, value });
        assert!(reads[1].value.is_foreign() && reads[1].offset == 8);
        assert!(reads[2].value.is_foreign() && reads[2].offset == 9);
    }

    #[test]
    fn a_popped_message_says_where_it_was_and_by_what_it_is_acknowledged() {
        let value = Value::new(3, 4);
        let answer = |starts: &str, offsets: &str, body: Vec<u8>| {
            let header = PopMessageResponse {
                pop_time: 77,
                invisible_time: 5_000,
                revive_qid: 3,
                start_offset_info: Some(starts.to_owned()),
                msg_offset_info: Some(offsets.to_owned()),
                ..PopMessageResponse::default()
            };
            RemotingCommand::request(RequestCode::POP_MESSAGE).with_header(&header).with_body(body)
        };
        let good = record("t", &value.body(100), 7);
        let read = held("t", "g", &answer("0 2 5", "0 2 7", good.clone())).unwrap();
        let [Held { popped, handle }] = &read[..] else { panic!("{read:?}") };
        let queue = Queue::new(crate::cluster::GROUP, "t", 2);
        assert_eq!(*popped, Popped { queue, offset: 7, value, pop_ms: 77, attempt: 0 });
        assert_eq!(handle.to_string(), format!("5 77 5000 3 0 {} 2 7", crate::cluster::GROUP));
        // another topic's is nobody's
        let read = held("t", "g", &answer("0 2 5", "0 2 7", record("u", &value.body(100), 7))).unwrap();
        assert!(read[0].popped.value.is_foreign());
        // an answer that says more, or of another queue, than it has
        assert_eq!(held("t", "g", &answer("0 2 5", "0 2 7,8", good.clone())), None);
        assert_eq!(held("t", "g", &answer("0 1 5", "0 1 7", good)), None);
    }
}
