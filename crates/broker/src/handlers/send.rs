//! Sending: 10, 310 (one message), 320 (a batch). Checks and codes: protocol.md 3.1.
//!
//! The record is encoded here, once; queue offset, store time and position are filled in on its way into the log. No
//! task is made for a message: the proposal carries what answers it.
//!
//! What a send is, its topic and its properties say, which are read once: a plain one goes to its queue; one that is to be
//! delivered later waits in the queue of its level or of the timers (delay/); one to a retry topic whose attempts are
//! used up goes to the group's dead letters.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use replica::{MessagesProposal, ProposeError, Receipt};
use wire::Header as _;
use wire::{
    BatchItems, NewMessage, OffsetMessageId, PROPERTIES_BYTES_MAX, PROPERTY_TRANSIENT_PREFIX, QueueId,
    RETRY_TOPIC_PREFIX, RecallHandle, RequestCode, ResponseCode, SendMessageRequest, SendMessageResponse,
    dlq_topic, encode_message, ext_key, is_retry_topic, message_size, perm, prop, properties_get,
    properties_iter, properties_push, sysflag,
};

use crate::call::Call;
use crate::creation::Join;
use crate::delay::{self, Later, When, Wish};
use crate::errors::Error;
use crate::hosted::Hosted;
use crate::limits::BATCH_MESSAGES_MAX;
use crate::service::wall_clock_ms;
use crate::state::rules::{self, PERM_WRITE};
use crate::state::{Topic, TopicConfig};
use crate::transactions::half;

/// What the answer says beside the receipt.
struct Sent {
    /// Where it is stored.
    topic: Arc<str>,
    /// The queue that the client asked for, which is another one for a message that waits (as RocketMQ answers).
    queue: QueueId,
    /// UNIQ_KEY; a batch has none of its own.
    unique: Option<String>,
    recall_handle: Option<String>,
    /// Bytes of each record.
    sizes: Sizes,
    since: Instant,
}

/// Bytes of the records of a proposal.
enum Sizes {
    One(u32),
    Batch(Vec<u32>),
}

impl Sizes {
    fn get(&self) -> &[u32] {
        match self {
            Sizes::One(size) => std::slice::from_ref(size),
            Sizes::Batch(sizes) => sizes,
        }
    }
}

/// What the checks come to.
enum Checked {
    Propose(MessagesProposal, Sent),
    /// The topic is to be created first.
    Create(TopicConfig),
}

/// 10, 310, 320.
pub(crate) fn send(hosted: &Arc<Hosted>, call: Call) {
    // While a topic is being created, its sends wait together, in order.
    let call = match hosted.creations.join(call) {
        Join::Waits => return,
        Join::Full(call) => return hosted.fail(call, hosted.creations.full()),
        Join::No(call) => call,
    };
    send_now(hosted, call);
}

/// The same, for a send that has waited for its topic.
pub(crate) fn send_now(hosted: &Arc<Hosted>, call: Call) {
    let Some(serving) = hosted.serving() else { return hosted.again(call, None) };
    let client = call.from.address.ip();
    let pending = serving.group.pending_bytes();
    let checked = hosted
        .flow
        .admits(&call.request, call.from.is_pressed, client, topic_of(&call), pending)
        .and_then(|()| check(hosted, &call))
        .and_then(|checked| admit(hosted, &call, checked));
    match checked {
        Err(error) => {
            hosted.stats.put_failed();
            hosted.fail(call, error);
        }
        Ok(Checked::Create(config)) => hosted.creations.create(hosted, config, call),
        Ok(Checked::Propose(proposal, sent)) => {
            let owed = hosted.flow.pace.owe(proposal.records.len());
            let hosted = hosted.clone();
            let done = Box::new(move |result| {
                finish(&hosted, call, &sent, result);
                drop(owed);
            });
            serving.group.propose_messages(proposal, done);
        }
    }
}

/// Whether the rates of the broker let the message in.
fn admit(hosted: &Hosted, call: &Call, checked: Checked) -> Result<Checked, Error> {
    if let Checked::Propose(MessagesProposal { topic, records, count, .. }, _) = &checked {
        // What waits in a queue of the system's counts for the topic that it is meant for.
        let topic = topic_of(call).unwrap_or(topic);
        hosted.flow.send(&call.request, call.from.address.ip(), topic, *count, records.len())?;
    }
    Ok(checked)
}

/// The topic that a send names, as far as that can be told.
pub(crate) fn topic_of(call: &Call) -> Option<&str> {
    let key = if call.code() == RequestCode::SEND_MESSAGE { "topic" } else { "b" };
    call.request.ext.get(key)
}

fn check(hosted: &Hosted, call: &Call) -> Result<Checked, Error> {
    let header = SendMessageRequest::decode_for(call.code(), &call.request.ext)?;
    rules::topic_name(header.topic)?;
    rules::sendable(header.topic)?;
    let is_batch = header.batch.unwrap_or(call.code() == RequestCode::SEND_BATCH_MESSAGE);
    if is_retry_topic(header.topic) {
        return retry(hosted, call, &header, is_batch);
    }
    let topic = match hosted.state.topic(header.topic) {
        Some(topic) => topic,
        None => {
            let pattern = hosted
                .settings
                .auto_create_topic()
                .then(|| hosted.state.topic(header.default_topic))
                .flatten();
            let unit = if header.unit_mode == Some(true) { UNIT_FLAG } else { 0 };
            let config = rules::auto_create(
                header.topic,
                pattern.as_ref().map(|topic| &topic.config),
                header.default_topic_queue_nums,
                unit,
            )?;
            return Ok(Checked::Create(config));
        }
    };
    // As in RocketMQ: a broker without write permission drains; only ordered topics are refused at once.
    if hosted.settings.permission() & PERM_WRITE == 0 && topic.config.order {
        let remark = format!("the broker[{}] sending message is forbidden", hosted.config.advertised());
        return Err(Error::refused(ResponseCode::NO_PERMISSION, remark));
    }
    let queue = queue(&topic, header.queue_id)?;
    if is_batch {
        batch(hosted, call, &header, &topic, queue)
    } else {
        single(hosted, call, &header, &Target { topic: &topic, queue, asked: queue, dead: false })
    }
}

/// A topic made by a client in unit mode, and the retry topic of one (TopicSysFlag of RocketMQ).
const UNIT_FLAG: i32 = 1;
const UNIT_RETRY_FLAG: i32 = 2;

/// A send to a retry topic: a consumer could not give a message back (36), or consumes in order and has given it up.
fn retry(
    hosted: &Hosted,
    call: &Call,
    header: &SendMessageRequest<'_>,
    is_batch: bool,
) -> Result<Checked, Error> {
    if is_batch {
        return Err(illegal(format!("batch request does not support retry group {}", header.topic)));
    }
    let name = &header.topic[RETRY_TOPIC_PREFIX.len()..];
    let group = hosted.state.group(name).ok_or_else(|| no_group(name))?;
    let Some(topic) = hosted.state.topic(header.topic) else {
        let config = retry_topic(header.topic, group.config.retry_queue_nums, header.unit_mode == Some(true));
        return Ok(Checked::Create(config));
    };
    let queue = queue(&topic, header.queue_id)?;
    let asked = header.max_reconsume_times.filter(|_| call.request.version >= VERSION_MAX_RECONSUME);
    let max = asked.unwrap_or(group.config.retry_max_times);
    // Strictly more, where 36 takes as many for too many: as RocketMQ counts.
    let is_spent = header.reconsume_times.unwrap_or(0) > max;
    // A group that holds queue locks consumes in order: it has tried the message as often as it wants to.
    if !is_spent && !hosted.state.holds_locks(name, hosted.log_now_ms()) {
        return single(hosted, call, header, &Target { topic: &topic, queue, asked: queue, dead: false });
    }
    let name = dlq_topic(name);
    let Some(topic) = hosted.state.topic(&name) else {
        return Ok(Checked::Create(dead_letter_topic(name)));
    };
    single(hosted, call, header, &Target { topic: &topic, queue: QueueId(0), asked: queue, dead: true })
}

/// From this version on (3.4.9) a client says itself how often a message may be consumed.
pub(crate) const VERSION_MAX_RECONSUME: i32 = 121;

pub(crate) fn no_group(group: &str) -> Error {
    let remark = format!("subscription group not exist, {group}");
    Error::refused(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark)
}

/// A group's retry topic, where a heartbeat has not made it.
pub(crate) fn retry_topic(name: &str, queues: i32, is_unit: bool) -> TopicConfig {
    let queues = u32::try_from(queues).unwrap_or(0).max(1);
    TopicConfig {
        name: name.to_owned(),
        read_queues: queues,
        write_queues: queues,
        perm: perm::READ_WRITE,
        sys_flag: if is_unit { UNIT_RETRY_FLAG } else { 0 },
        ..TopicConfig::default()
    }
}

/// The topic of a group's dead letters, made for the first of them.
pub(crate) fn dead_letter_topic(name: String) -> TopicConfig {
    TopicConfig { name, read_queues: 1, write_queues: 1, perm: perm::READ_WRITE, ..TopicConfig::default() }
}

/// Where a single message goes, in the end.
struct Target<'a> {
    topic: &'a Topic,
    queue: QueueId,
    /// What the client is told.
    asked: QueueId,
    /// It is a dead letter instead of a retry.
    dead: bool,
}

fn queue(topic: &Topic, wanted: i32) -> Result<QueueId, Error> {
    let config = &topic.config;
    let count = config.write_queues.max(config.read_queues);
    match QueueId::from_wire(wanted) {
        None => Ok(QueueId(rand::random_range(0..config.write_queues.max(1)))),
        Some(queue) if queue.0 < count => Ok(queue),
        Some(queue) => Err(Error::refused(
            ResponseCode::INVALID_PARAMETER,
            format!("request queueId[{queue}] is illegal, topic {} has {count} queues", topic.name),
        )),
    }
}

fn single(
    hosted: &Hosted,
    call: &Call,
    header: &SendMessageRequest<'_>,
    to: &Target<'_>,
) -> Result<Checked, Error> {
    let body = &call.request.body;
    let given = header.properties.unwrap_or_default();
    let read = Given::read(given, header.sys_flag)?;
    check_body(hosted, body.len())?;
    // A retry of an old client carries what the message was when it was sent first.
    if read.half && !(header.reconsume_times.unwrap_or(0) > 0 && read.wish.level()? > 0) {
        return half_of(hosted, call, header, to, &read);
    }
    let when = if read.wish.is_none() || to.dead {
        When::Now
    } else {
        read.wish.when(&hosted.config, hosted.log_now_ms())?
    };
    let later = Later::new(when, &to.topic.name, to.queue);
    if later.is_some() {
        hosted.check_level()?;
    }
    let change = match &later {
        Some(later) => Change::Later(later),
        None if to.dead => Change::Dead,
        None => Change::None,
    };
    let (properties, unique) = stored_properties(hosted, given, &read, change)?;
    let (topic, queue) = match &later {
        Some(later) => delay::source(hosted, later)?,
        None => (to.topic.name.clone(), to.queue),
    };
    let common = new_message(hosted, call, header, to.topic, queue);
    let message = NewMessage {
        topic: &topic,
        // That retry of an old client is not half of anything any more.
        sys_flag: common.sys_flag & !sysflag::TRANSACTION,
        body,
        properties: &properties,
        ..common
    };
    let size = message_size(&message);
    let mut records = BytesMut::with_capacity(size);
    encode(&message, &mut records)?;
    let recall_handle = later.as_ref().and_then(|later| recall_handle(hosted, later, &unique));
    let sent = Sent {
        topic: topic.clone(),
        queue: to.asked,
        unique: Some(unique),
        recall_handle,
        sizes: Sizes::One(size as u32),
        since: Instant::now(),
    };
    Ok(Checked::Propose(MessagesProposal { topic, queue, records, count: 1 }, sent))
}

/// The first half of a transaction: it waits in a queue of its own, and the answer names its place there.
fn half_of(
    hosted: &Hosted,
    call: &Call,
    header: &SendMessageRequest<'_>,
    to: &Target<'_>,
    read: &Given<'_>,
) -> Result<Checked, Error> {
    if read.waits(hosted)? {
        return Err(illegal("a transactional message cannot be delayed"));
    }
    hosted.check_level()?;
    let given = header.properties.unwrap_or_default();
    let (mut properties, unique) = stored_properties(hosted, given, read, Change::Half(to))?;
    properties_push(&mut properties, prop::TRANSACTION_ID, &unique);
    if properties_get(given, prop::PGROUP).is_none() && !header.producer_group.is_empty() {
        // Whom to ask, should nobody end it.
        properties_push(&mut properties, prop::PGROUP, header.producer_group);
    }
    let topic = hosted.state.topic(half::TOPIC).ok_or(Error::Void)?;
    let common = new_message(hosted, call, header, to.topic, to.queue);
    let message = NewMessage {
        topic: half::TOPIC,
        queue_id: half::QUEUE,
        sys_flag: common.sys_flag & !sysflag::TRANSACTION,
        body: &call.request.body,
        properties: &properties,
        ..common
    };
    let size = message_size(&message);
    let mut records = BytesMut::with_capacity(size);
    encode(&message, &mut records)?;
    let sent = Sent {
        topic: topic.name.clone(),
        queue: to.asked,
        unique: Some(unique),
        recall_handle: None,
        sizes: Sizes::One(size as u32),
        since: Instant::now(),
    };
    let proposal = MessagesProposal { topic: topic.name.clone(), queue: half::QUEUE, records, count: 1 };
    Ok(Checked::Propose(proposal, sent))
}

/// With which a timer message can be taken back.
fn recall_handle(hosted: &Hosted, later: &Later<'_>, unique: &str) -> Option<String> {
    let When::At(time) = later.when() else { return None };
    let handle = RecallHandle {
        topic: later.topic().to_owned(),
        broker_name: hosted.name().to_owned(),
        time_ms: i64::try_from(time).unwrap_or(i64::MAX),
        unique_id: unique.to_owned(),
    };
    (!is_retry_topic(later.topic())).then(|| handle.to_string())
}

/// Each element keeps its own flag and properties and shares the rest; all go into the log together.
fn batch(
    hosted: &Hosted,
    call: &Call,
    header: &SendMessageRequest<'_>,
    topic: &Topic,
    queue: QueueId,
) -> Result<Checked, Error> {
    let body = &call.request.body;
    check_body(hosted, body.len())?;
    // What the batch as a whole says: nothing of it may ask for a feature either.
    let whole = Given::read(header.properties.unwrap_or_default(), header.sys_flag)?;
    whole.check_batch(hosted)?;
    if body.is_empty() {
        return Err(illegal("the batch holds no message"));
    }
    let common = new_message(hosted, call, header, topic, queue);
    let mut records = BytesMut::with_capacity(body.len() * 5 / 4 + 512);
    let mut sizes = Vec::new();
    for item in BatchItems::new(body) {
        let item = item.map_err(|error| illegal(format!("message {} of the batch: {error}", sizes.len())))?;
        if sizes.len() >= BATCH_MESSAGES_MAX {
            return Err(illegal(format!("the batch holds more than {BATCH_MESSAGES_MAX} messages")));
        }
        let read = Given::read(item.properties, header.sys_flag)?;
        read.check_batch(hosted)?;
        let (properties, _) = stored_properties(hosted, item.properties, &read, Change::None)?;
        let message = NewMessage { flag: item.flag, body: item.body, properties: &properties, ..common };
        sizes.push(encode(&message, &mut records)? as u32);
    }
    let count = sizes.len() as u32;
    let sent = Sent {
        topic: topic.name.clone(),
        queue,
        unique: whole.unique.map(str::to_owned),
        recall_handle: None,
        sizes: Sizes::Batch(sizes),
        since: Instant::now(),
    };
    Ok(Checked::Propose(MessagesProposal { topic: topic.name.clone(), queue, records, count }, sent))
}

fn new_message<'a>(
    hosted: &Hosted,
    call: &Call,
    header: &SendMessageRequest<'_>,
    topic: &'a Topic,
    queue: QueueId,
) -> NewMessage<'a> {
    NewMessage {
        topic: &topic.name,
        queue_id: queue,
        flag: header.flag,
        sys_flag: if topic.config.multi_tag {
            header.sys_flag | sysflag::MULTI_TAGS
        } else {
            header.sys_flag
        },
        born_timestamp: header.born_timestamp,
        born_host: call.from.address,
        store_host: hosted.store_host,
        reconsume_times: header.reconsume_times.unwrap_or(0),
        prepared_transaction_offset: 0,
        body: &[],
        properties: "",
    }
}

fn encode(message: &NewMessage<'_>, records: &mut BytesMut) -> Result<usize, Error> {
    encode_message(message, records).map_err(|error| illegal(format!("the message is illegal: {error}")))
}

fn check_body(hosted: &Hosted, bytes: usize) -> Result<(), Error> {
    let max = hosted.node.config.limits.message_bytes;
    if bytes > max {
        return Err(illegal(format!(
            "the message is illegal, maybe msg body or properties length not matched. msg body length limit {max}B, \
             msg properties length limit 32KB; this body has {bytes}B"
        )));
    }
    Ok(())
}

fn illegal(remark: impl Into<String>) -> Error {
    Error::refused(ResponseCode::MESSAGE_ILLEGAL, remark)
}

fn unsupported(what: &str) -> Error {
    illegal(format!("{what} messages are not supported yet; it would be stored as an ordinary one"))
}

/// What matters of the properties that came.
#[derive(Debug, Default, PartialEq)]
struct Given<'a> {
    unique: Option<&'a str>,
    /// When it is to be delivered.
    wish: Wish<'a>,
    /// The first half of a transaction.
    half: bool,
    /// Some property is not to be stored as it came.
    rewrite: bool,
}

impl<'a> Given<'a> {
    /// A message that needs what is not built yet is refused with the reason, never stored as a plain one
    /// (clients.md 9).
    fn read(properties: &'a str, sys_flag: i32) -> Result<Given<'a>, Error> {
        if sys_flag & sysflag::INNER_BATCH != 0 {
            return Err(unsupported("inner-batch"));
        }
        let mut given = Given::default();
        for (name, value) in properties_iter(properties) {
            match name {
                prop::UNIQ_KEY => given.unique = Some(value),
                prop::TRAN_MSG => given.half = value.eq_ignore_ascii_case("true"),
                prop::DELAY => given.wish.note(name, value),
                prop::INNER_MULTI_DISPATCH => return Err(unsupported("multi-dispatch")),
                prop::POP_CK | prop::MSG_REGION | prop::TRACE_ON | prop::CLUSTER => given.rewrite = true,
                _ if name.starts_with("TIMER_") => given.wish.note(name, value),
                _ if name.starts_with(PROPERTY_TRANSIENT_PREFIX) => given.rewrite = true,
                _ => {}
            }
        }
        if sys_flag & sysflag::TRANSACTION != 0 && !given.half {
            return Err(illegal(format!(
                "sysFlag is {sys_flag}: it is that of a transaction, TRAN_MSG is not"
            )));
        }
        Ok(given)
    }

    /// A batch is one entry in one queue: none of it waits or is half of anything.
    fn check_batch(&self, hosted: &Hosted) -> Result<(), Error> {
        if self.half {
            return Err(illegal("transactional messages cannot be sent in a batch"));
        }
        if self.waits(hosted)? {
            return Err(illegal("delayed messages cannot be sent in a batch"));
        }
        Ok(())
    }

    /// Whether it asks for a delay, and not only speaks of one.
    fn waits(&self, hosted: &Hosted) -> Result<bool, Error> {
        // At no time there is nothing in the past.
        Ok(!self.wish.is_none() && self.wish.when(&hosted.config, 0)? != When::Now)
    }
}

/// What of a message's properties changes when it is stored elsewhere than it was sent to.
#[derive(Clone, Copy)]
enum Change<'a> {
    None,
    Later(&'a Later<'a>),
    /// The first half of a transaction, for this queue.
    Half(&'a Target<'a>),
    Dead,
}

impl Change<'_> {
    /// Whether it takes this property's place.
    fn replaces(self, name: &str) -> bool {
        match self {
            Change::None => false,
            Change::Later(later) => later.replaces(name),
            Change::Half(_) => matches!(name, prop::REAL_TOPIC | prop::REAL_QID | prop::TRANSACTION_ID),
            Change::Dead => name == prop::DELAY,
        }
    }

    fn add(self, properties: &mut String) {
        match self {
            Change::None => {}
            Change::Later(later) => later.add(properties),
            Change::Half(to) => {
                properties_push(properties, prop::REAL_TOPIC, &to.topic.name);
                properties_push(properties, prop::REAL_QID, &to.queue.0.to_string());
            }
            // RocketMQ's mark that it is delayed no more.
            Change::Dead => properties_push(properties, prop::DELAY, "-1"),
        }
    }
}

/// The properties as they are stored, and the unique id among them.
fn stored_properties(
    hosted: &Hosted,
    given: &str,
    read: &Given<'_>,
    change: Change<'_>,
) -> Result<(String, String), Error> {
    let stamp = hosted.node.stamp.as_str();
    let mut stored = String::with_capacity(given.len() + stamp.len() + 48);
    if read.rewrite || !matches!(change, Change::None) {
        let kept = |name: &str| {
            !matches!(name, prop::POP_CK | prop::MSG_REGION | prop::TRACE_ON | prop::CLUSTER)
                && !name.starts_with(PROPERTY_TRANSIENT_PREFIX)
                && !change.replaces(name)
        };
        for (name, value) in properties_iter(given).filter(|(name, _)| kept(name)) {
            properties_push(&mut stored, name, value);
        }
    } else {
        stored.push_str(given);
        if !stored.is_empty() && !stored.ends_with(PAIR_END) {
            stored.push(PAIR_END);
        }
    }
    let unique = match read.unique {
        Some(unique) => unique.to_owned(),
        None => {
            let unique = hosted.node.unique_ids.next(wall_clock_ms() as i64).to_string();
            properties_push(&mut stored, prop::UNIQ_KEY, &unique);
            unique
        }
    };
    change.add(&mut stored);
    stored.push_str(stamp);
    if stored.len() > PROPERTIES_BYTES_MAX {
        return Err(illegal(format!(
            "the message is illegal: {} bytes of properties, limit {PROPERTIES_BYTES_MAX}",
            stored.len()
        )));
    }
    Ok((stored, unique))
}

/// Ends a property (protocol.md 4.5).
const PAIR_END: char = '\u{2}';

/// What every message gets from the broker that takes it.
pub(crate) fn stamp(region: &str, trace_on: bool, cluster: &str) -> String {
    let mut stamp = String::new();
    properties_push(&mut stamp, prop::MSG_REGION, region);
    properties_push(&mut stamp, prop::TRACE_ON, if trace_on { "true" } else { "false" });
    properties_push(&mut stamp, prop::CLUSTER, cluster);
    stamp
}

/// Answers a send whose fate is known. Runs where entries are applied: it waits for nothing.
fn finish(hosted: &Arc<Hosted>, call: Call, sent: &Sent, result: Result<Receipt, ProposeError>) {
    let receipt = match result {
        Ok(receipt) => receipt,
        Err(error) => {
            let error = Error::from(error);
            if !error.may_retry() {
                hosted.stats.put_failed();
            }
            return hosted.fail(call, error);
        }
    };
    let sizes = sent.sizes.get();
    let bytes = sizes.iter().map(|size| u64::from(*size)).sum();
    let now = Instant::now();
    let took = now.saturating_duration_since(sent.since);
    hosted.stats.put(&sent.topic, sizes.len() as u64, bytes, took);
    hosted.flow.pace.committed(bytes, took);
    hosted.flow.pace.sample(now);
    let mut response = call.response(ResponseCode::SUCCESS);
    SendMessageResponse {
        msg_id: message_ids(hosted, receipt, sizes),
        queue_id: sent.queue.to_wire(),
        queue_offset: receipt.first_offset.to_wire(),
        transaction_id: sent.unique.clone(),
        batch_uniq_id: None,
        recall_handle: sent.recall_handle.clone(),
    }
    .encode(&mut response.ext);
    response.ext.set(ext_key::MSG_REGION, &hosted.node.config.region);
    response.ext.set(ext_key::TRACE_ON, if hosted.node.config.trace_on { "true" } else { "false" });
    call.answer(response);
}

/// Offset message ids, comma-joined; the records lie back to back.
fn message_ids(hosted: &Hosted, receipt: Receipt, sizes: &[u32]) -> String {
    use std::fmt::Write as _;
    let mut ids = String::with_capacity(sizes.len() * 33);
    let mut position = receipt.position;
    for size in sizes {
        if !ids.is_empty() {
            ids.push(',');
        }
        let id = OffsetMessageId { host: hosted.store_host, position };
        // Writing into a String cannot fail.
        let _ = write!(ids, "{id}");
        position = position.plus(u64::from(*size));
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(properties: &str, sys_flag: i32) -> i32 {
        Given::read(properties, sys_flag).err().map_or(0, |error| error.answer().0.get())
    }

    #[test]
    fn what_is_not_built_is_refused() {
        for (properties, sys_flag, want) in [
            ("", 0, 0),
            ("KEYS\u{1}k\u{2}TAGS\u{1}t\u{2}", 0, 0),
            ("TRAN_MSG\u{1}false\u{2}", 0, 0),
            ("TRAN_MSG\u{1}false\u{2}", sysflag::TRANSACTION_PREPARED, 13),
            ("INNER_MULTI_DISPATCH\u{1}%LMQ%a\u{2}", 0, 13),
            ("", sysflag::TRANSACTION_PREPARED, 13),
            ("", sysflag::TRANSACTION_ROLLBACK, 13),
            ("", sysflag::INNER_BATCH | sysflag::NEED_UNWRAP, 13),
            ("", sysflag::COMPRESSED, 0),
        ] {
            assert_eq!(code(properties, sys_flag), want, "{properties:?} {sys_flag}");
        }
    }

    #[test]
    fn what_a_send_is_its_properties_say() {
        let given = |properties| Given::read(properties, 0).unwrap();
        assert!(given("KEYS\u{1}k\u{2}").wish.is_none());
        assert_eq!(given("DELAY\u{1}3\u{2}").wish.level().unwrap(), 3);
        assert!(!given("TIMER_DELIVER_MS\u{1}3").wish.is_none());
        assert!(given("TRAN_MSG\u{1}true\u{2}").half);
        assert!(!given("TRAN_MSG\u{1}true\u{2}TRAN_MSG\u{1}false\u{2}").half, "the last counts");
    }

    #[test]
    fn given_properties_are_read_once() {
        let given = Given::read("UNIQ_KEY\u{1}U\u{2}WAIT\u{1}true\u{2}", 0).unwrap();
        assert_eq!(given, Given { unique: Some("U"), ..Given::default() });
        assert!(Given::read("POP_CK\u{1}x\u{2}", 0).unwrap().rewrite);
        assert!(Given::read("__RMQ.TRANSIENT.a\u{1}x\u{2}", 0).unwrap().rewrite);
        assert_eq!(stamp("R", true, "C"), "MSG_REGION\u{1}R\u{2}TRACE_ON\u{1}true\u{2}CLUSTER\u{1}C\u{2}");
    }
}
