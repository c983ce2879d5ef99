//! One request, one answer, one outcome: what clients of the workloads do, by the lower layer of the Rust client (`net`,
//! `wire`), which neither retries nor chooses a broker. So each operation of a history is a single attempt, and who was
//! asked is known.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use wire::{
    BatchItem, Body as _, CreateTopicRequest, GetMaxOffsetRequest, GetMinOffsetRequest, Header, Messages,
    OffsetMessageId, OffsetResponse, PullMessageRequest, PullMessageResponse, QueryConsumerOffsetRequest,
    QueryMessageRequest, RemotingCommand, RequestCode, SendMessageRequest, SendMessageResponse,
    StoredMessage, SubscriptionGroupConfig, TopicConfig, TopicRequest, TopicStatsTable, UniqueIds,
    UpdateConsumerOffsetRequest, ViewMessageRequest, encode_batch_item, ext_key, prop, properties_from,
    pull_flag,
};

use crate::history::{Details, Found, LookupBy, PullStatus, Queue, Read, Value};
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
        let config = net::ClientConfig { connect_timeout: CONNECT, ..net::ClientConfig::default() };
        let ids = UniqueIds::new(own, std::process::id(), rand::random());
        Caller { net: net::Client::new(config), nodes, ids: Arc::new(ids) }
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

    /// Unique id and text of a message's properties.
    fn properties(&self, value: Value) -> (String, String) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let (id, key) = (self.ids.next(now).to_string(), value.to_string());
        let text = properties_from([(prop::KEYS, key.as_str()), (prop::UNIQ_KEY, id.as_str())]);
        (id, text)
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

    /// 200: makes a consumer group.
    pub(super) async fn make_group(&self, node: u64, group: &str) -> Answered<()> {
        let config = SubscriptionGroupConfig { group_name: group.to_owned(), ..Default::default() };
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

fn send_request(queue: &Queue, code: RequestCode, properties: Option<&str>) -> RemotingCommand {
    let header = SendMessageRequest {
        producer_group: WRITERS,
        topic: &queue.topic,
        default_topic: wire::topic::AUTO_CREATE,
        default_topic_queue_nums: 4,
        queue_id: queue.id as i32,
        properties,
        batch: Some(code == RequestCode::SEND_BATCH_MESSAGE),
        broker_name: Some(&queue.broker),
        ..SendMessageRequest::default()
    };
    let mut request = RemotingCommand::request(code);
    header.encode_for(code, &mut request.ext);
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
}
