//! Pulling: 11 and 361. Checks, codes and offsets: protocol.md 3.2.
//!
//! ```text
//! pull ─▶ may this node answer? ──no──▶ the leader is asked, without holding ─┐
//!             │ yes                                                           │
//!             ▼                                                               ▼
//!         plan (checks) ─▶ read memory ──cold──▶ read disk (bounded pool) ─▶ settle ─▶ answer
//!                                                                             │ 19, may be held
//!                                                     woken by apply, once ◀──┘ held here
//! ```
//!
//! A follower never answers 21 and never names a maximum that the leader did not have: above its own maximum it asks the
//! leader, and a leader confirms that it still leads before it says that an offset moved (log.md 11).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use store::index::{IndexError, Unit};
use wire::{Header as _, RequestCode};
use wire::{
    MessageModel, PullMessageRequest, PullMessageResponse, QueueId, QueueOffset, RemotingCommand,
    ResponseCode, SubscriptionData, UpdateConsumerOffsetRequest, perm, pull_flag,
};

use crate::call::Call;
use crate::errors::Error;
use crate::forward;
use crate::handlers::offset;
use crate::hold::{Held, NotHeld};
use crate::hosted::{Hosted, Serving, Toward, lock};
use crate::limits::{HOLD_MAX, HOLD_TICK, PARK, PULL_UNITS};
use crate::state::rules;
use crate::state::{QueueRange, Topic};

/// A pull that waits for messages.
pub(crate) struct HeldPull {
    call: Call,
    /// `None`: any message is wanted.
    filter: Option<Arc<SubscriptionData>>,
    topic: Arc<str>,
    queue: QueueId,
}

/// What the checks let through.
struct Plan {
    header: PullMessageRequest,
    topic: Arc<Topic>,
    queue: QueueId,
    filter: Arc<SubscriptionData>,
    /// Answers that group and topic determine.
    slow_broker: i64,
    group_sys_flag: i32,
    since: Instant,
}

impl Plan {
    fn may_hold(&self) -> bool {
        self.header.sys_flag & pull_flag::SUSPEND != 0
    }

    fn hold_time(&self) -> Duration {
        let asked = u64::try_from(self.header.suspend_timeout_millis).unwrap_or(0);
        Duration::from_millis(asked).min(HOLD_MAX)
    }
}

/// How far messages have been given out, by group, topic and queue: 208 shows it beside what was committed. Of this
/// node, and volatile, as in RocketMQ.
#[derive(Default)]
pub(crate) struct Served {
    groups: Mutex<HashMap<String, ServedQueues>>,
}

/// The next offset of each (topic, queue).
type ServedQueues = HashMap<(Arc<str>, QueueId), QueueOffset>;

/// Groups that are remembered; beyond them, nothing is.
const SERVED_GROUPS_MAX: usize = 10_000;

impl Served {
    fn note(&self, group: &str, topic: &Arc<str>, queue: QueueId, next: QueueOffset) {
        let mut groups = lock(&self.groups);
        if let Some(queues) = groups.get_mut(group) {
            queues.insert((topic.clone(), queue), next);
        } else if groups.len() < SERVED_GROUPS_MAX {
            groups.insert(group.to_owned(), HashMap::from([((topic.clone(), queue), next)]));
        }
    }

    pub(crate) fn get(&self, topic: &str, group: &str, queue: QueueId) -> Option<QueueOffset> {
        lock(&self.groups).get(group)?.get(&(Arc::from(topic), queue)).copied()
    }
}

/// 11, 361.
pub(crate) fn pull(hosted: &Arc<Hosted>, call: Call) {
    if !hosted.leads() && !hosted.config.follower_reads {
        return ask_leader(hosted, call);
    }
    match check(hosted, &call) {
        Ok(plan) => {
            if plan.header.sys_flag & pull_flag::COMMIT_OFFSET != 0 {
                commit(hosted, &call, &plan);
            }
            execute(hosted, call, plan);
        }
        Err(error) => hosted.fail(call, error),
    }
}

fn refuse<T>(code: ResponseCode, remark: String) -> Result<T, Error> {
    Err(Error::Refused { code, remark })
}

/// The checks of protocol.md 3.2, in their order.
fn check(hosted: &Hosted, call: &Call) -> Result<Plan, Error> {
    let header = PullMessageRequest::decode(&call.request.ext)?;
    if hosted.config.permission & rules::PERM_READ == 0 {
        let remark = format!("the broker[{}] pulling message is forbidden", hosted.config.advertised());
        return refuse(ResponseCode::NO_PERMISSION, remark);
    }
    let known = hosted.state.group(&header.consumer_group);
    let group = match &known {
        Some(group) => &group.config,
        // Its first heartbeat creates it; until that is applied, it is what it will be.
        None if hosted.config.auto_create_group && rules::group_name(&header.consumer_group).is_ok() => {
            &rules::default_group(&header.consumer_group)
        }
        None => {
            let remark = format!("subscription group [{}] does not exist", header.consumer_group);
            return refuse(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark);
        }
    };
    if !group.consume_enable {
        let remark = format!("subscription group no permission, {}", header.consumer_group);
        return refuse(ResponseCode::NO_PERMISSION, remark);
    }
    let Some(topic) = hosted.state.topic(&header.topic) else {
        let remark = format!("topic[{}] not exist, apply first please!", header.topic);
        return refuse(ResponseCode::TOPIC_NOT_EXIST, remark);
    };
    if !perm::is_readable(topic.config.perm) {
        return refuse(
            ResponseCode::NO_PERMISSION,
            format!("the topic[{}] pulling message is forbidden", header.topic),
        );
    }
    let readable = topic.config.read_queues;
    let queue = match QueueId::from_wire(header.queue_id).filter(|queue| queue.0 < readable) {
        Some(queue) => queue,
        None => {
            let remark = format!(
                "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{readable}] consumer:[{}]",
                header.queue_id, header.topic, call.from.address
            );
            return refuse(ResponseCode::INVALID_PARAMETER, remark);
        }
    };
    let filter = subscription(hosted, &header, group.consume_broadcast_enable)?;
    if !filter.is_tag_type() {
        let remark =
            format!("The broker does not support consumer to filter message by {}", filter.expression_type);
        return refuse(ResponseCode::SYSTEM_ERROR, remark);
    }
    if filter.class_filter_mode {
        return refuse(ResponseCode::SYSTEM_ERROR, "class filters are not supported".into());
    }
    let (slow_broker, group_sys_flag) = (group.which_broker_when_consume_slowly, group.group_sys_flag);
    Ok(Plan { topic, queue, filter, slow_broker, group_sys_flag, since: Instant::now(), header })
}

/// The subscription in the request, or else the one that the group's heartbeats told.
fn subscription(
    hosted: &Hosted,
    header: &PullMessageRequest,
    broadcast_enabled: bool,
) -> Result<Arc<SubscriptionData>, Error> {
    if header.sys_flag & pull_flag::SUBSCRIPTION != 0 {
        let expression = header.subscription.as_deref().unwrap_or_default();
        let kind = header.expression_type.as_deref().unwrap_or_default();
        if !kind.is_empty() && kind != wire::EXPRESSION_TYPE_TAG {
            let data = SubscriptionData::from_expression(&header.topic, kind, expression, header.sub_version);
            return Ok(Arc::new(data));
        }
        return match SubscriptionData::from_tags(&header.topic, expression, header.sub_version) {
            Ok(data) => Ok(Arc::new(data)),
            Err(_) => refuse(
                ResponseCode::SUBSCRIPTION_PARSE_FAILED,
                "parse the consumer's subscription failed".into(),
            ),
        };
    }
    let Some(group) = hosted.node.clients.consumer_group(&header.consumer_group) else {
        return refuse(ResponseCode::SUBSCRIPTION_NOT_EXIST, "the consumer's group info not exist".into());
    };
    if !broadcast_enabled && group.message_model == MessageModel::Broadcasting {
        let remark =
            format!("the consumer group[{}] can not consume by broadcast way", header.consumer_group);
        return refuse(ResponseCode::NO_PERMISSION, remark);
    }
    match group.subscriptions.get(&header.topic) {
        None => refuse(ResponseCode::SUBSCRIPTION_NOT_EXIST, "the consumer's subscription not exist".into()),
        Some(known) if known.sub_version < header.sub_version => {
            refuse(ResponseCode::SUBSCRIPTION_NOT_LATEST, "the consumer's subscription not latest".into())
        }
        Some(known) => Ok(known.clone()),
    }
}

/// A commit that came with a pull: merged here, or passed on where another node leads (clients.md 12).
fn commit(hosted: &Arc<Hosted>, call: &Call, plan: &Plan) {
    let header = &plan.header;
    let Some(offset) = QueueOffset::from_wire(header.commit_offset) else { return };
    if hosted.leads() {
        // What is refused is what the client may not have either: a pull is no place to say so.
        let _ = offset::merge_commit(hosted, &header.consumer_group, &header.topic, header.queue_id, offset);
        return;
    }
    let request = RemotingCommand::request(RequestCode::UPDATE_CONSUMER_OFFSET)
        .with_header(&UpdateConsumerOffsetRequest {
            consumer_group: header.consumer_group.clone(),
            topic: header.topic.clone(),
            queue_id: header.queue_id,
            commit_offset: header.commit_offset,
        })
        .oneway();
    hosted.take(Call::from_self(request, call.from.clone(), hosted.ticket()));
}

/// What a queue says to a pull (RocketMQ's `GetMessageStatus`), as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Found,
    NoMatchedMessage,
    NoMessageInQueue,
    OffsetFoundNull,
    OffsetOverflowOne,
    OffsetOverflowBadly,
    OffsetTooSmall,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Found => "FOUND",
            Status::NoMatchedMessage => "NO_MATCHED_MESSAGE",
            Status::NoMessageInQueue => "NO_MESSAGE_IN_QUEUE",
            Status::OffsetFoundNull => "OFFSET_FOUND_NULL",
            Status::OffsetOverflowOne => "OFFSET_OVERFLOW_ONE",
            Status::OffsetOverflowBadly => "OFFSET_OVERFLOW_BADLY",
            Status::OffsetTooSmall => "OFFSET_TOO_SMALL",
        }
    }

    /// The response code, for a pull at `offset`.
    fn code(self, offset: i64) -> ResponseCode {
        match self {
            Status::Found => ResponseCode::SUCCESS,
            Status::NoMatchedMessage => ResponseCode::PULL_RETRY_IMMEDIATELY,
            Status::NoMessageInQueue if offset != 0 => ResponseCode::PULL_OFFSET_MOVED,
            Status::NoMessageInQueue | Status::OffsetFoundNull | Status::OffsetOverflowOne => {
                ResponseCode::PULL_NOT_FOUND
            }
            Status::OffsetOverflowBadly | Status::OffsetTooSmall => ResponseCode::PULL_OFFSET_MOVED,
        }
    }
}

/// What was read.
struct Read {
    status: Status,
    range: QueueRange,
    next: i64,
    body: Bytes,
    messages: usize,
    /// It came from disk: the reader lags behind what fits memory.
    cold: bool,
}

impl Read {
    fn nothing(status: Status, range: QueueRange, next: i64) -> Read {
        Read { status, range, next, body: Bytes::new(), messages: 0, cold: false }
    }
}

/// How much one pull brings.
#[derive(Clone, Copy)]
struct Batch {
    messages: usize,
    bytes: usize,
    may_block: bool,
}

/// Where an offset lies; `None`: there are messages from there on.
fn place(range: QueueRange, offset: i64) -> Option<(Status, i64)> {
    let (min, next) = (range.min.to_wire(), range.next.to_wire());
    if next == 0 {
        Some((Status::NoMessageInQueue, 0))
    } else if offset < min {
        Some((Status::OffsetTooSmall, min))
    } else if offset == next {
        Some((Status::OffsetOverflowOne, offset))
    } else if offset > next {
        Some((Status::OffsetOverflowBadly, next))
    } else {
        None
    }
}

/// Reads; `None` where that would wait for the disk and may not.
fn read(hosted: &Hosted, serving: &Serving, plan: &Plan, batch: Batch) -> Result<Option<Read>, Error> {
    let offset = plan.header.queue_offset;
    let Some(range) = hosted.state.queue(&plan.topic.name, plan.queue) else {
        return refuse(ResponseCode::TOPIC_NOT_EXIST, format!("topic[{}] not exist", plan.header.topic));
    };
    if let Some((status, next)) = place(range, offset) {
        return Ok(Some(Read::nothing(status, range, next)));
    }
    let from = QueueOffset(offset as u64);
    let count = usize::try_from(plan.header.max_msg_nums).unwrap_or(0).max(1);
    let scan = (PULL_UNITS.max(count)).min((range.next.0 - from.0) as usize);
    let units = if batch.may_block {
        serving.index.units(&plan.topic.name, plan.queue, from, scan)?
    } else {
        match serving.index.units_in_memory(&plan.topic.name, plan.queue, from, scan) {
            Some(units) => units,
            None => return Ok(None),
        }
    };
    if units.is_empty() {
        return Ok(Some(Read::nothing(Status::OffsetFoundNull, range, offset)));
    }
    let client_bytes =
        plan.header.max_msg_bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|b| *b > 0);
    let bytes_max = batch.bytes.min(client_bytes.unwrap_or(usize::MAX));
    let mut next = from;
    let mut chosen: Vec<Unit> = Vec::with_capacity(count.min(batch.messages).min(units.len()));
    let mut bytes = 0;
    for unit in &units {
        if plan.filter.may_match(unit.tags_code) {
            let full = chosen.len() >= count.min(batch.messages) || bytes + unit.size as usize > bytes_max;
            // The first message goes out whatever its size.
            if full && !chosen.is_empty() {
                break;
            }
            bytes += unit.size as usize;
            chosen.push(*unit);
        }
        next = next.plus(1);
    }
    if chosen.is_empty() {
        return Ok(Some(Read::nothing(Status::NoMatchedMessage, range, next.to_wire())));
    }
    let mut body = BytesMut::with_capacity(bytes);
    let mut taken = 0;
    for unit in &chosen {
        let record = if batch.may_block {
            serving.log.read_bytes(unit.position, unit.size as usize)?
        } else {
            match serving.log.read_bytes_resident(unit.position, unit.size as usize) {
                Some(record) => record?,
                None => break,
            }
        };
        body.extend_from_slice(&record);
        taken += 1;
    }
    if taken == 0 {
        return Ok(None);
    }
    if taken < chosen.len() {
        // The rest is not resident: it comes with the next pull.
        next = offset_of(from, &units, &plan.filter, taken);
    }
    let (body, next) = (body.freeze(), next.to_wire());
    Ok(Some(Read { status: Status::Found, range, next, body, messages: taken, cold: batch.may_block }))
}

/// The offset of the wanted message number `taken`.
fn offset_of(from: QueueOffset, units: &[Unit], filter: &SubscriptionData, taken: usize) -> QueueOffset {
    let wanted = units.iter().enumerate().filter(|(_, unit)| filter.may_match(unit.tags_code));
    from.plus(wanted.map(|(at, _)| at as u64).nth(taken).unwrap_or(units.len() as u64))
}

impl From<IndexError> for Error {
    fn from(error: IndexError) -> Error {
        match error {
            IndexError::Store(error) => Error::Store(error),
            // The client tries again in a second; the range is being built again.
            IndexError::Rebuilding { .. } => Error::refused(ResponseCode::SYSTEM_BUSY, error.to_string()),
        }
    }
}

fn execute(hosted: &Arc<Hosted>, call: Call, plan: Plan) {
    let Some(serving) = hosted.serving() else { return hosted.again(call, None) };
    let limits = &hosted.node.config.limits;
    let batch = Batch {
        messages: limits.pull_messages_in_memory,
        bytes: limits.pull_bytes_in_memory,
        may_block: false,
    };
    match read(hosted, serving, &plan, batch) {
        Ok(Some(read)) => settle(hosted, call, plan, read),
        Ok(None) => execute_cold(hosted.clone(), call, plan),
        Err(error) => hosted.fail(call, error),
    }
}

/// Reads what is not in memory, where a wait for the disk harms nobody; so many at a time.
fn execute_cold(hosted: Arc<Hosted>, call: Call, plan: Plan) {
    tokio::spawn(async move {
        let Ok(_permit) = hosted.cold_reads.clone().acquire_owned().await else { return call.give_up() };
        let reader = hosted.clone();
        let work = tokio::task::spawn_blocking(move || {
            let limits = &reader.node.config.limits;
            let batch = Batch {
                messages: limits.pull_messages_on_disk,
                bytes: limits.pull_bytes_on_disk,
                may_block: true,
            };
            let result = reader.served_here().and_then(|serving| read(&reader, serving, &plan, batch));
            (plan, result)
        });
        match work.await {
            Ok((plan, Ok(Some(read)))) => settle(&hosted, call, plan, read),
            Ok((_, Ok(None))) => hosted.fail(call, Error::Unknown("nothing was read".into())),
            Ok((_, Err(error))) => hosted.fail(call, error),
            Err(error) => hosted.fail(call, Error::Unknown(error.to_string())),
        }
    });
}

/// Answers, holds, or asks who knows better.
fn settle(hosted: &Arc<Hosted>, call: Call, plan: Plan, read: Read) {
    let code = read.status.code(plan.header.queue_offset);
    if code == ResponseCode::PULL_OFFSET_MOVED && !call.confirmed {
        return confirm(hosted.clone(), call, plan);
    }
    // This node's maximum may be behind: the leader names its own.
    let ends_here = code == ResponseCode::PULL_NOT_FOUND && !plan.may_hold();
    if ends_here && !call.is_forwarded() && matches!(hosted.toward(), Toward::Node(_)) {
        return ask_leader(hosted, call);
    }
    if code == ResponseCode::PULL_NOT_FOUND && plan.may_hold() && !call.is_forwarded() {
        let filter = Some(plan.filter.clone());
        let until = plan.since + plan.hold_time();
        let seen = QueueOffset(plan.header.queue_offset as u64);
        return hold(
            hosted,
            HeldPull { call, filter, topic: plan.topic.name.clone(), queue: plan.queue },
            seen,
            until,
        );
    }
    answer(hosted, call, &plan, read);
}

/// Only a node that leads now may say that an offset moved: a replica that lags, or was deposed, would pull a consumer
/// back (log.md 11).
fn confirm(hosted: Arc<Hosted>, mut call: Call, plan: Plan) {
    tokio::spawn(async move {
        if !hosted.leads() {
            return ask_leader(&hosted, call);
        }
        let barrier = match hosted.served_here() {
            Ok(serving) => serving.group.read_barrier().await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match barrier {
            Ok(()) => {
                call.confirmed = true;
                execute(&hosted, call, plan);
            }
            Err(error) => hosted.fail(call, error),
        }
    });
}

fn answer(hosted: &Hosted, call: Call, plan: &Plan, read: Read) {
    let Read { status, range, next, body, messages, cold } = read;
    let group = &plan.header.consumer_group;
    if messages > 0 {
        let took = plan.since.elapsed();
        hosted.stats.got(&plan.topic.name, group, messages as u64, body.len() as u64, took);
    } else {
        hosted.stats.missed();
    }
    if let Some(next) = QueueOffset::from_wire(next) {
        hosted.served.note(group, &plan.topic.name, plan.queue, next);
    }
    // A reader that lags is sent to a follower where these may serve it, and back when it has caught up.
    let suggested = if hosted.config.follower_reads && cold { plan.slow_broker } else { 0 };
    let mut response =
        call.response(status.code(plan.header.queue_offset)).with_remark(status.name()).with_body(body);
    PullMessageResponse {
        suggest_which_broker_id: suggested,
        next_begin_offset: next,
        min_offset: range.min.to_wire(),
        max_offset: range.next.to_wire(),
        offset_delta: Some(0),
        topic_sys_flag: Some(plan.topic.config.sys_flag),
        group_sys_flag: Some(plan.group_sys_flag),
        forbidden_type: None,
    }
    .encode(&mut response.ext);
    call.answer(response);
}

/// The leader answers, without holding; what it does not find is held here, and woken by what is applied here.
fn ask_leader(hosted: &Arc<Hosted>, call: Call) {
    let Toward::Node(leader) = hosted.toward() else { return hosted.again(call, None) };
    if call.is_forwarded() {
        return call.not_here(Some(leader));
    }
    let hosted = hosted.clone();
    hosted.note_misdirected();
    tokio::spawn(async move {
        let header = match PullMessageRequest::decode(&call.request.ext) {
            Ok(header) => header,
            Err(error) => return hosted.fail(call, error.into()),
        };
        let mut request = call.request.clone();
        request.ext.set("sysFlag", &(header.sys_flag & !pull_flag::SUSPEND).to_string());
        let since = Instant::now();
        let response = match forward::ask_leader(&hosted, leader, &request, &call.from, call.deadline).await {
            Ok(response) => response,
            // A pull may be repeated.
            Err(Error::Unknown(_)) => return hosted.again(call, None),
            Err(error) => return hosted.fail(call, error),
        };
        let empty = response.response_code() == ResponseCode::PULL_NOT_FOUND;
        let place = QueueId::from_wire(header.queue_id).zip(QueueOffset::from_wire(header.queue_offset));
        let Some((queue, seen)) = place.filter(|_| empty && header.sys_flag & pull_flag::SUSPEND != 0) else {
            return call.answer(response);
        };
        let asked = Duration::from_millis(u64::try_from(header.suspend_timeout_millis).unwrap_or(0));
        let filter = hosted
            .state
            .group(&header.consumer_group)
            .and_then(|group| subscription(&hosted, &header, group.config.consume_broadcast_enable).ok());
        let topic = Arc::from(header.topic.as_str());
        hold(&hosted, HeldPull { call, filter, topic, queue }, seen, since + asked.min(HOLD_MAX));
    });
}

fn hold(hosted: &Arc<Hosted>, held: HeldPull, seen: QueueOffset, until: Instant) {
    let (topic, queue) = (held.topic.clone(), held.queue);
    match hosted.holds.hold(&topic, queue, Held { pull: held, seen, until }) {
        Ok(()) => {
            // What was applied between the look and the hold has woken nobody.
            if hosted.state.queue(&topic, queue).is_some_and(|range| range.next > seen) {
                hosted.arrivals.note(&topic, queue);
            }
        }
        Err(NotHeld::Closed(held)) => again(hosted, held),
        Err(NotHeld::Full(held)) => {
            // Not 19: the client would ask again at once. After any error it waits a second.
            let remark = format!(
                "{} pulls are held in {} on this node; no more are",
                hosted.node.config.limits.held_pulls,
                hosted.name()
            );
            held.pull.call.refuse(ResponseCode::SYSTEM_BUSY, remark);
        }
    }
}

/// Executes a held pull once more, with holding disallowed; its commit was taken the first time.
pub(crate) fn again(hosted: &Arc<Hosted>, held: Held<HeldPull>) {
    let mut call = held.pull.call;
    if call.connection().is_some_and(|connection| connection.is_over()) {
        // Nobody is there any more.
        return call.give_up();
    }
    let flags = call.request.ext.get("sysFlag").and_then(|flags| flags.parse::<i32>().ok()).unwrap_or(0);
    let flags = flags & !(pull_flag::SUSPEND | pull_flag::COMMIT_OFFSET);
    call.request.ext.set("sysFlag", &flags.to_string());
    (call.deadline, call.ticket, call.tried) = (Instant::now() + PARK, hosted.ticket(), false);
    pull(hosted, call);
}

/// Wakes held pulls whose queue has messages that they want. Ends with the node.
pub(crate) async fn wake(hosted: Arc<Hosted>) {
    loop {
        let queues = tokio::select! {
            () = hosted.node.stopping.cancelled() => return,
            queues = hosted.arrivals.take() => queues,
        };
        for (topic, queue) in queues {
            let Some(range) = hosted.state.queue(&topic, queue) else { continue };
            for held in hosted.holds.wake(&topic, queue, |held| is_wanted(&hosted, held, range.next)) {
                again(&hosted, held);
            }
        }
    }
}

/// Whether a held pull would find something. What it would not is not looked at again.
fn is_wanted(hosted: &Hosted, held: &mut Held<HeldPull>, next: QueueOffset) -> bool {
    if held.seen >= next {
        return false;
    }
    let (Some(filter), Some(serving)) = (&held.pull.filter, hosted.serving()) else { return true };
    if filter.sub_string == wire::SUB_ALL {
        return true;
    }
    let count = (next.0 - held.seen.0) as usize;
    if count > PULL_UNITS {
        return true;
    }
    let units = serving.index.units_in_memory(&held.pull.topic, held.pull.queue, held.seen, count);
    match units {
        Some(units) if units.len() == count && !units.iter().any(|unit| filter.may_match(unit.tags_code)) => {
            held.seen = next;
            false
        }
        _ => true,
    }
}

/// Answers held pulls whose time is over, and when the node stops, all of them. Ends with the node.
pub(crate) async fn expire(hosted: Arc<Hosted>) {
    let mut tick = tokio::time::interval(HOLD_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = hosted.node.stopping.cancelled() => return,
            _ = tick.tick() => {}
        }
        for held in hosted.holds.expired(Instant::now()) {
            again(&hosted, held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_codes() {
        let range =
            |min, next| QueueRange { min: QueueOffset(min), next: QueueOffset(next), last_store_ms: 0 };
        // (range, offset) -> (status, next, code)
        for (range, offset, want) in [
            (range(0, 0), 0, Some((Status::NoMessageInQueue, 0, 19))),
            (range(0, 0), 5, Some((Status::NoMessageInQueue, 0, 21))),
            (range(10, 20), 9, Some((Status::OffsetTooSmall, 10, 21))),
            (range(10, 20), -1, Some((Status::OffsetTooSmall, 10, 21))),
            (range(10, 20), 10, None),
            (range(10, 20), 19, None),
            (range(10, 20), 20, Some((Status::OffsetOverflowOne, 20, 19))),
            (range(10, 20), 21, Some((Status::OffsetOverflowBadly, 20, 21))),
            (range(10, 20), i64::MAX, Some((Status::OffsetOverflowBadly, 20, 21))),
        ] {
            let got = place(range, offset).map(|(status, next)| (status, next, status.code(offset).get()));
            assert_eq!(got, want, "{range:?} {offset}");
        }
        assert_eq!(Status::Found.code(5).get(), 0);
        assert_eq!(Status::NoMatchedMessage.code(5).get(), 20);
        assert_eq!(Status::OffsetFoundNull.code(5).get(), 19);
    }
}
