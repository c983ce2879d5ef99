//! Pulling: 11 and 361. Checks, codes and offsets: protocol.md 3.2.
//!
//! ```text
//! pull ─▶ may this node answer? ──no──▶ the leader is asked, without holding ─┐
//!             │ yes                                                           │
//!             ▼                                                               ▼
//!         check (tables) ─▶ read memory ──cold──▶ read disk (bounded pool) ─▶ settle ─▶ answer
//!                                                                               │ 19, may be held
//!                                                       woken by apply, once ◀──┘ held here
//! ```
//!
//! **Below the leader** (`follower_reads`). What is applied at a follower never changes, but it may end long before the
//! leader's log does. So a follower gives the answers of which that does not matter, and has the leader give all others:
//!
//! - It answers 0 and 20 where more messages are applied behind `nextBeginOffset`. The maximum that it names is the end of
//!   what is applied here: one that the leader had, never above the leader's, and always above `nextBeginOffset`, so that
//!   nobody can take it for the end of the queue. Who comes to the end of what is applied here gets what is there from the
//!   leader, with the leader's maximum.
//! - It never answers 19 or 21, and refuses nothing (16, 17, 26, 29 …): its tables may lack what the leader's have.
//! - It holds only where the leader has found nothing.
//!
//! The leader itself confirms that it still leads before it says that an offset moved (log.md 11).
//!
//! **Resets** (222, reset.rs). While one is pending, a pull of that group and queue is answered with 21 and the offset of the
//! reset. A pull at that offset, of a consumer that was told (told.rs), takes the reset, which is an entry of the log, and
//! goes on: it shows that the consumer heard of it, as an answer that was sent does not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use replica::NodeId;
use store::Records;
use store::index::Unit;
use wire::{Header as _, RequestCode};
use wire::{
    MessageModel, PullMessageRequest, PullMessageResponse, QueueId, QueueOffset, RemotingCommand,
    ResponseCode, SubscriptionData, UpdateConsumerOffsetRequest, perm, pull_flag,
};

use crate::call::Call;
use crate::errors::Error;
use crate::filter::Filter;
use crate::filters::{self, Wish};
use crate::forward;
use crate::handlers::offset;
use crate::hold::{Held, NotHeld};
use crate::hosted::{Hosted, Serving, Toward, lock};
use crate::limits::{HOLD_MAX, HOLD_TICK, PULL_UNITS, RESET_TICK, WAKE_TIME};
use crate::reading::{self, Found, Wanted};
use crate::state::command::{Kind, TakeResets};
use crate::state::rules;
use crate::state::{QueueRange, Topic};

/// A pull as its client sent it, decoded once, however often it is executed.
struct Pull {
    call: Call,
    header: PullMessageRequest,
    arrived: Instant,
    /// The subscription in the request, once it was read.
    wish: Option<Wish>,
}

impl Pull {
    /// Held pulls wait where they arrived.
    fn may_hold(&self) -> bool {
        self.header.sys_flag & pull_flag::SUSPEND != 0 && !self.call.is_forwarded()
    }

    fn held_until(&self) -> Instant {
        let asked = u64::try_from(self.header.suspend_timeout_millis).unwrap_or(0);
        self.arrived + Duration::from_millis(asked).min(HOLD_MAX)
    }

    /// Takes flags away, also from the request, which may be parked and decoded again.
    fn clear(&mut self, flags: i32) {
        self.header.sys_flag &= !flags;
        self.call.request.ext.set_int("sysFlag", self.header.sys_flag);
    }
}

/// A pull that waits for messages.
pub(crate) struct HeldPull {
    pull: Pull,
    /// `None`: any message is wanted.
    wish: Option<Wish>,
}

/// What the checks let through: all that may be otherwise when a pull is executed once more.
struct Plan {
    /// This node led before the tables were looked at.
    led: bool,
    topic: Arc<Topic>,
    queue: QueueId,
    offset: i64,
    wish: Wish,
    /// Where the group was told to go on, and no consumer has done so.
    reset: Option<QueueOffset>,
    /// What the client wants at most.
    messages: usize,
    bytes: Option<usize>,
    /// Answers that group and topic determine.
    slow_broker: i64,
    usual_broker: i64,
    group_sys_flag: i32,
    since: Instant,
}

/// How far messages have been given out, by group, topic and queue: 208 shows it beside what was committed. Of this
/// node, and volatile, as in RocketMQ.
#[derive(Default)]
pub(crate) struct Served {
    groups: Mutex<HashMap<String, ServedGroup>>,
}

struct ServedGroup {
    /// The next offset of each (topic, queue).
    queues: HashMap<(Arc<str>, QueueId), QueueOffset>,
    noted: Instant,
}

/// Groups that are remembered; beyond them, none is until another one is forgotten.
const SERVED_GROUPS_MAX: usize = 10_000;
/// A group that has asked for nothing for so long is forgotten: what it got is consumed, or will be given out again. A
/// pull is held for a minute at most, so this is none that waits.
const SERVED_IDLE: Duration = Duration::from_mins(10);
const SERVED_SWEEP: Duration = Duration::from_mins(1);

impl Served {
    fn note(&self, group: &str, topic: &Arc<str>, queue: QueueId, next: QueueOffset, now: Instant) {
        let mut groups = lock(&self.groups);
        if let Some(served) = groups.get_mut(group) {
            served.queues.insert((topic.clone(), queue), next);
            served.noted = now;
        } else if groups.len() < SERVED_GROUPS_MAX {
            let queues = HashMap::from([((topic.clone(), queue), next)]);
            groups.insert(group.to_owned(), ServedGroup { queues, noted: now });
        }
    }

    pub(crate) fn get(&self, topic: &str, group: &str, queue: QueueId) -> Option<QueueOffset> {
        lock(&self.groups).get(group)?.queues.get(&(Arc::from(topic), queue)).copied()
    }

    /// Forgets the groups that are idle, and those that do not exist any more.
    fn sweep(&self, now: Instant, exists: impl Fn(&str) -> bool) {
        let names: Vec<String> = {
            let mut groups = lock(&self.groups);
            groups.retain(|_, served| now.saturating_duration_since(served.noted) < SERVED_IDLE);
            groups.keys().cloned().collect()
        };
        // The tables are asked without the lock.
        for name in names.iter().filter(|name| !exists(name)) {
            lock(&self.groups).remove(name);
        }
    }
}

/// 11, 361.
pub(crate) fn pull(hosted: &Arc<Hosted>, call: Call) {
    match PullMessageRequest::decode(&call.request.ext) {
        Ok(header) => {
            begin(hosted, Pull { call, header, arrived: Instant::now(), wish: None });
        }
        Err(error) => hosted.fail(call, error.into()),
    }
}

fn begin(hosted: &Arc<Hosted>, mut pull: Pull) {
    let led = hosted.leads();
    // What another node has passed on is a question to the leader, and not to one that may read.
    if !led && (!hosted.settings.follower_reads() || pull.call.is_forwarded()) {
        return ask_leader(hosted, pull);
    }
    match check(hosted, &mut pull, led) {
        Ok(plan) => {
            if pull.header.sys_flag & pull_flag::COMMIT_OFFSET != 0 {
                commit(hosted, &pull);
                pull.clear(pull_flag::COMMIT_OFFSET);
            }
            match plan.reset {
                Some(offset) if led && offset.to_wire() == plan.offset && was_told(hosted, &pull, &plan) => {
                    take_reset(hosted.clone(), pull, plan, offset);
                }
                Some(_) | None => execute(hosted, pull, plan),
            }
        }
        Err(error) => fail(hosted, pull, led, error),
    }
}

/// Whether the consumer that pulls knows of the reset that is pending, and is not at its offset by chance: it would go on
/// consuming what it has from elsewhere in the queue, and commit that.
fn was_told(hosted: &Hosted, pull: &Pull, plan: &Plan) -> bool {
    let group = &pull.header.consumer_group;
    plan.reset.is_some_and(|offset| {
        hosted.told.knows(&plan.topic.name, group, plan.queue, offset, pull.call.from.address)
    })
}

/// Below the leader nothing is refused: what is missing here may be there.
fn fail(hosted: &Arc<Hosted>, pull: Pull, led: bool, error: Error) {
    match error {
        Error::Refused { .. } if !led => ask_leader(hosted, pull),
        error => hosted.fail(pull.call, error),
    }
}

fn refuse<T>(code: ResponseCode, remark: String) -> Result<T, Error> {
    Err(Error::Refused { code, remark })
}

/// The checks of protocol.md 3.2, in their order. They only look things up, so that repeating them costs little.
fn check(hosted: &Hosted, pull: &mut Pull, led: bool) -> Result<Plan, Error> {
    let header = &pull.header;
    if hosted.settings.permission() & rules::PERM_READ == 0 {
        let remark = format!("the broker[{}] pulling message is forbidden", hosted.config.advertised());
        return refuse(ResponseCode::NO_PERMISSION, remark);
    }
    let known = hosted.state.group(&header.consumer_group);
    let group = match &known {
        Some(group) => &group.config,
        // Its first heartbeat creates it; until that is applied, it is what it will be.
        None if hosted.settings.auto_create_group() && rules::group_name(&header.consumer_group).is_ok() => {
            &rules::default_group(&header.consumer_group)
        }
        None => {
            let remark = format!("subscription group [{}] does not exist", header.consumer_group);
            return refuse(ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, remark);
        }
    };
    hosted.flow.may_pull(&header.consumer_group)?;
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
                header.queue_id, header.topic, pull.call.from.address
            );
            return refuse(ResponseCode::INVALID_PARAMETER, remark);
        }
    };
    let wish = match &pull.wish {
        Some(own) => own.clone(),
        None => wish(hosted, header, group.consume_broadcast_enable)?,
    };
    if wish.subscription.class_filter_mode {
        return refuse(ResponseCode::SYSTEM_ERROR, "class filters are not supported".into());
    }
    if header.sys_flag & pull_flag::SUBSCRIPTION != 0 {
        pull.wish = Some(wish.clone());
    }
    let reset = hosted.state.pending_reset(&topic.name, &header.consumer_group, queue);
    Ok(Plan {
        led,
        reset,
        topic,
        queue,
        offset: header.queue_offset,
        wish,
        messages: usize::try_from(header.max_msg_nums).unwrap_or(0),
        bytes: header.max_msg_bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0),
        slow_broker: group.which_broker_when_consume_slowly,
        usual_broker: group.broker_id,
        group_sys_flag: group.group_sys_flag,
        since: Instant::now(),
    })
}

/// What is wanted: the subscription in the request, or else the one that the group's heartbeats told.
fn wish(hosted: &Hosted, header: &PullMessageRequest, broadcast_enabled: bool) -> Result<Wish, Error> {
    if header.sys_flag & pull_flag::SUBSCRIPTION != 0 {
        let expression = header.subscription.as_deref().unwrap_or_default();
        let kind = header.expression_type.as_deref().unwrap_or_default();
        if !kind.is_empty() && kind != wire::EXPRESSION_TYPE_TAG {
            let data = SubscriptionData::from_expression(&header.topic, kind, expression, header.sub_version);
            return by_expression(hosted, Arc::new(data), ResponseCode::SUBSCRIPTION_PARSE_FAILED);
        }
        return match SubscriptionData::from_tags(&header.topic, expression, header.sub_version) {
            Ok(data) => Ok(Wish::by_tags(Arc::new(data))),
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
        Some(known) if known.is_tag_type() => Ok(Wish::by_tags(known.clone())),
        // The expression comes with the subscription, so that no version of it can be older (28).
        Some(known) => by_expression(hosted, known.clone(), ResponseCode::FILTER_DATA_NOT_EXIST),
    }
}

/// A subscription by expression; `wrong` says that it is none.
pub(crate) fn by_expression(
    hosted: &Hosted,
    subscription: Arc<SubscriptionData>,
    wrong: ResponseCode,
) -> Result<Wish, Error> {
    let filter = compile(hosted, &subscription, wrong)?;
    Ok(Wish { subscription, expression: Some(filter) })
}

/// The filter of a subscription by expression; `wrong` says that it is none.
fn compile(
    hosted: &Hosted,
    subscription: &SubscriptionData,
    wrong: ResponseCode,
) -> Result<Arc<Filter>, Error> {
    if subscription.expression_type != wire::EXPRESSION_TYPE_SQL92 {
        return not_supported(&subscription.expression_type);
    }
    let filter = hosted.filters.get(&subscription.sub_string);
    let filter = filter.or_else(|error| refuse(wrong, format!("Invalid MessageSelector: {error}")))?;
    if hosted.config.property_filter { Ok(filter) } else { not_supported(&subscription.expression_type) }
}

fn not_supported<T>(kind: &str) -> Result<T, Error> {
    let remark = format!("The broker does not support consumer to filter message by {kind}");
    refuse(ResponseCode::SYSTEM_ERROR, remark)
}

/// Whether a subscription can be served (46).
pub(crate) fn check_subscription(hosted: &Hosted, subscription: &SubscriptionData) -> Result<(), Error> {
    if subscription.is_tag_type() {
        return Ok(());
    }
    if !hosted.config.property_filter {
        return not_supported(&subscription.expression_type);
    }
    compile(hosted, subscription, ResponseCode::SUBSCRIPTION_PARSE_FAILED).map(drop)
}

/// A commit that came with a pull: merged here, or passed on where another node leads (clients.md 12).
fn commit(hosted: &Arc<Hosted>, pull: &Pull) {
    let header = &pull.header;
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
    hosted.take(Call::from_self(request, pull.call.from.clone(), hosted.ticket()));
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
    /// An administrator has set another one.
    OffsetReset,
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
            Status::OffsetReset => "OFFSET_RESET",
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
            Status::OffsetOverflowBadly | Status::OffsetTooSmall | Status::OffsetReset => {
                ResponseCode::PULL_OFFSET_MOVED
            }
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

    /// Whether more is applied here behind what was read: then it does not matter how far the leader is.
    fn has_more_behind(&self) -> bool {
        matches!(self.status, Status::Found | Status::NoMatchedMessage)
            && self.next < self.range.next.to_wire()
    }
}

/// How much one pull brings at most.
#[derive(Clone, Copy)]
struct Batch {
    messages: usize,
    bytes: usize,
    may_block: bool,
}

impl Batch {
    /// How many messages it brings where a client wants so many: neither none nor more than there may be.
    fn messages(self, asked: usize) -> usize {
        asked.clamp(1, self.messages.max(1))
    }
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
    let (name, offset) = (&plan.topic.name, plan.offset);
    let Some(range) = hosted.state.queue(name, plan.queue) else {
        return refuse(ResponseCode::TOPIC_NOT_EXIST, format!("topic[{name}] not exist"));
    };
    if let Some(reset) = plan.reset {
        return Ok(Some(Read::nothing(Status::OffsetReset, range, reset.to_wire())));
    }
    if let Some((status, next)) = place(range, offset) {
        return Ok(Some(Read::nothing(status, range, next)));
    }
    let from = QueueOffset(offset as u64);
    let wanted = Wanted {
        topic: name.clone(),
        queue: plan.queue,
        from,
        end: range.next,
        messages: batch.messages(plan.messages),
        bytes: batch.bytes.min(plan.bytes.unwrap_or(usize::MAX)),
        first: true,
        wish: Some(plan.wish.clone()),
        without: Vec::new(),
    };
    let Some(Found { next, offsets, records }) = reading::attempt(serving, &wanted, batch.may_block)? else {
        return Ok(None);
    };
    let status = match offsets.len() {
        // The index has nothing there.
        0 if next == from => Status::OffsetFoundNull,
        0 => Status::NoMatchedMessage,
        _ => Status::Found,
    };
    let cold = batch.may_block && status == Status::Found;
    Ok(Some(Read { status, range, next: next.to_wire(), body: records, messages: offsets.len(), cold }))
}

fn execute(hosted: &Arc<Hosted>, pull: Pull, plan: Plan) {
    let Some(serving) = hosted.serving() else { return hosted.again(pull.call, None) };
    let limits = &hosted.node.config.limits;
    let batch = Batch {
        messages: limits.pull_messages_in_memory,
        bytes: limits.pull_bytes_in_memory,
        may_block: false,
    };
    match read(hosted, serving, &plan, batch) {
        Ok(Some(read)) => settle(hosted, pull, plan, read),
        Ok(None) => execute_cold(hosted.clone(), pull, plan),
        Err(error) => fail(hosted, pull, plan.led, error),
    }
}

/// Reads what is not in memory, where a wait for the disk harms nobody; so many at a time.
fn execute_cold(hosted: Arc<Hosted>, pull: Pull, plan: Plan) {
    tokio::spawn(async move {
        let Ok(_permit) = hosted.cold_reads.clone().acquire_owned().await else {
            return pull.call.give_up();
        };
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
            Ok((plan, Ok(Some(read)))) => settle(&hosted, pull, plan, read),
            Ok((_, Ok(None))) => hosted.fail(pull.call, Error::Unknown("nothing was read".into())),
            Ok((plan, Err(error))) => fail(&hosted, pull, plan.led, error),
            Err(error) => hosted.fail(pull.call, Error::Unknown(error.to_string())),
        }
    });
}

/// Answers, holds, or asks who knows better.
fn settle(hosted: &Arc<Hosted>, pull: Pull, plan: Plan, read: Read) {
    let code = read.status.code(plan.offset);
    if !plan.led && !read.has_more_behind() {
        return ask_leader(hosted, pull);
    }
    if code == ResponseCode::PULL_NOT_FOUND && pull.may_hold() {
        let held = HeldPull { pull, wish: Some(plan.wish) };
        return hold(hosted, &plan.topic.name, plan.queue, held);
    }
    if code == ResponseCode::PULL_OFFSET_MOVED && !pull.call.confirmed {
        return confirm(hosted.clone(), pull, plan);
    }
    answer(hosted, pull, &plan, read);
}

/// A consumer goes on where its group was told to: from here on its commits count. It was told, by a pull or by the stored
/// offset; one whose answer got lost is told again.
fn take_reset(hosted: Arc<Hosted>, pull: Pull, mut plan: Plan, offset: QueueOffset) {
    tokio::spawn(async move {
        let Ok(key) = hosted.state.commit_key(&plan.topic.name, &pull.header.consumer_group) else {
            // The group or the topic was deleted meanwhile, and the reset with it.
            return begin(&hosted, pull);
        };
        let command = Kind::TakeResets(TakeResets {
            topics: vec![key.topic.0],
            groups: vec![key.group.0],
            queues: vec![plan.queue.0],
            offsets: vec![offset.0],
        });
        match offset::propose_over_commits(&hosted, command.into(), key, [plan.queue]).await {
            Ok(reply) if reply.granted.is_empty() => {
                // Another pull has taken it, or there is a newer one.
                plan.reset =
                    hosted.state.pending_reset(&plan.topic.name, &pull.header.consumer_group, plan.queue);
                execute(&hosted, pull, plan);
            }
            Ok(_) => {
                hosted.told.forget(&plan.topic.name, &pull.header.consumer_group, plan.queue);
                plan.reset = None;
                execute(&hosted, pull, plan);
            }
            // A pull may be repeated.
            Err(Error::Unknown(_)) => hosted.again(pull.call, None),
            Err(error) => fail(&hosted, pull, plan.led, error),
        }
    });
}

/// Only a node that leads now may say that an offset moved: one that was deposed would pull a consumer back (log.md 11).
fn confirm(hosted: Arc<Hosted>, mut pull: Pull, mut plan: Plan) {
    tokio::spawn(async move {
        if !hosted.leads() {
            return ask_leader(&hosted, pull);
        }
        let barrier = match hosted.served_here() {
            Ok(serving) => serving.group.read_barrier().await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match barrier {
            Ok(()) => {
                pull.call.confirmed = true;
                // It may have been taken meanwhile, or by another leader.
                let (topic, group) = (&plan.topic.name, &pull.header.consumer_group);
                plan.reset = hosted.state.pending_reset(topic, group, plan.queue);
                execute(&hosted, pull, plan);
            }
            Err(error) => hosted.fail(pull.call, error),
        }
    });
}

fn answer(hosted: &Hosted, pull: Pull, plan: &Plan, read: Read) {
    let Read { status, range, next, body, messages, cold } = read;
    let group = &pull.header.consumer_group;
    let now = Instant::now();
    if messages > 0 {
        let took = now.saturating_duration_since(plan.since);
        hosted.stats.got(&plan.topic.name, group, messages as u64, body.len() as u64, took);
        hosted.flow.pulled(group, messages, body.len());
    } else {
        hosted.stats.missed();
    }
    if let (Status::OffsetReset, Some(offset)) = (status, plan.reset) {
        hosted.told.note(&plan.topic.name, group, plan.queue, offset, pull.call.from.address);
    }
    if let Some(next) = QueueOffset::from_wire(next) {
        hosted.served.note(group, &plan.topic.name, plan.queue, next, now);
    }
    // A reader that lags is sent to a follower where these may serve it, and back when it has caught up, not when the
    // follower's kernel has read ahead of it.
    let lags = || cold || (!plan.led && next < range.next.to_wire() && is_behind(hosted, plan, next));
    let suggested = match hosted.settings.follower_reads() {
        false => 0,
        true if lags() => plan.slow_broker,
        true => plan.usual_broker,
    };
    let mut response =
        pull.call.response(status.code(plan.offset)).with_remark(status.name()).with_body(body);
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
    pull.call.answer(response);
}

/// Whether what follows is older than the newest messages.
fn is_behind(hosted: &Hosted, plan: &Plan, next: i64) -> bool {
    let index = hosted.serving().map(|serving| &serving.index);
    let next = QueueOffset::from_wire(next);
    index.zip(next).is_some_and(|(index, next)| !index.is_in_memory(&plan.topic.name, plan.queue, next))
}

/// The leader answers, without holding; what it does not find is held here, and woken by what is applied here.
fn ask_leader(hosted: &Arc<Hosted>, pull: Pull) {
    let Toward::Node(leader) = hosted.toward() else { return hosted.again(pull.call, None) };
    if pull.call.is_forwarded() {
        return pull.call.not_here(Some(leader));
    }
    let hosted = hosted.clone();
    hosted.note_misdirected();
    tokio::spawn(async move {
        let mut request = pull.call.request.clone();
        request.ext.set_int("sysFlag", pull.header.sys_flag & !pull_flag::SUSPEND);
        let response = match leaders_answer(&hosted, leader, &request, &pull.call).await {
            Ok(response) => response,
            // A pull may be repeated.
            Err(Error::Unknown(_)) => return hosted.again(pull.call, None),
            Err(error) => return hosted.fail(pull.call, error),
        };
        let header = &pull.header;
        let is_empty = response.response_code() == ResponseCode::PULL_NOT_FOUND;
        let queue = QueueId::from_wire(header.queue_id).filter(|_| header.queue_offset >= 0);
        let Some(queue) = queue.filter(|_| is_empty && pull.may_hold()) else {
            return pull.call.answer(response);
        };
        let wish = pull.wish.clone().or_else(|| {
            let group = hosted.state.group(&header.consumer_group)?;
            wish(&hosted, header, group.config.consume_broadcast_enable).ok()
        });
        let topic: Arc<str> = Arc::from(header.topic.as_str());
        hold(&hosted, &topic, queue, HeldPull { pull, wish });
    });
}

/// What the leader says. As soon as another node leads, that one is asked: of a leader that vanished it is not known for
/// seconds that it will not answer, and a pull may be repeated.
pub(crate) async fn leaders_answer(
    hosted: &Hosted,
    mut leader: NodeId,
    request: &RemotingCommand,
    call: &Call,
) -> Result<RemotingCommand, Error> {
    loop {
        let asked = forward::ask_leader(hosted, leader, request, &call.from, call.deadline);
        // While nobody leads, the one that was asked may still answer.
        let is_other = move |toward: Toward| toward != Toward::Nobody && toward != Toward::Node(leader);
        tokio::select! {
            answer = asked => return answer,
            () = hosted.standing_is(is_other) => {}
        }
        match hosted.toward() {
            Toward::Node(other) => leader = other,
            // This node itself, or the next change already.
            Toward::Here | Toward::Nobody => return Err(Error::NotLeader { leader: None }),
        }
    }
}

fn hold(hosted: &Arc<Hosted>, topic: &Arc<str>, queue: QueueId, held: HeldPull) {
    let until = held.pull.held_until();
    let seen = QueueOffset(held.pull.header.queue_offset as u64);
    match hosted.holds.hold(topic, queue, Held { pull: held, seen, until }) {
        Ok(()) => {
            // What was applied between the look and the hold has woken nobody.
            if hosted.state.queue(topic, queue).is_some_and(|range| range.next > seen) {
                hosted.arrivals.note(topic, queue);
            }
        }
        Err(NotHeld::Closed(held)) => again(hosted, held),
        Err(NotHeld::Full(held)) => {
            // Not 19: the client would ask again at once. After any error it waits a second.
            let remark = format!(
                "pulls are held in {} on this node, as many as may be (held_pulls: {})",
                hosted.name(),
                hosted.node.config.limits.held_pulls
            );
            held.pull.pull.call.refuse(ResponseCode::SYSTEM_BUSY, remark);
        }
    }
}

/// Executes a held pull once more, with holding disallowed; its commit was taken the first time.
pub(crate) fn again(hosted: &Arc<Hosted>, held: Held<HeldPull>) {
    let HeldPull { mut pull, .. } = held.pull;
    if pull.call.connection().is_some_and(|connection| connection.is_over()) {
        // Nobody is there any more.
        return pull.call.give_up();
    }
    pull.clear(pull_flag::SUSPEND | pull_flag::COMMIT_OFFSET);
    pull.call.renew(hosted.ticket());
    begin(hosted, pull);
}

/// Tasks that share the queues of one round of [`wake`]: executing what was woken takes long enough to be worth it.
const WAKERS: usize = 8;

/// Wakes held pulls whose queue has messages that they want. Ends with the node.
pub(crate) async fn wake(hosted: Arc<Hosted>) {
    loop {
        let queues = tokio::select! {
            () = hosted.node.stopping.cancelled() => return,
            queues = hosted.arrivals.take() => queues,
        };
        let queues: Vec<_> = queues.into_iter().collect();
        let until = Instant::now() + WAKE_TIME;
        if let [(topic, queue)] = &queues[..] {
            wake_queue(&hosted, topic, *queue, until);
            continue;
        }
        let tasks = queues.chunks(queues.len().div_ceil(WAKERS)).map(|share| {
            let (hosted, share) = (hosted.clone(), share.to_vec());
            tokio::spawn(async move {
                for (topic, queue) in &share {
                    wake_queue(&hosted, topic, *queue, until);
                }
            })
        });
        // One round after the other: a queue that is noted again and again meanwhile is looked at once.
        join_all(tasks).await;
    }
}

/// What came to a queue from an offset on.
struct News {
    from: QueueOffset,
    /// Empty where they are not in memory.
    units: Vec<Unit>,
    /// Read when the first expression asks for them; fewer than the units where they are not in memory.
    records: Option<Records>,
}

/// Expressions are asked until `until`; after it, whoever has one is woken and finds out for itself.
fn wake_queue(hosted: &Arc<Hosted>, topic: &Arc<str>, queue: QueueId, until: Instant) {
    let Some(QueueRange { next, .. }) = hosted.state.queue(topic, queue) else { return };
    // Most pulls of a queue wait at the same offset: what is there is read once.
    let mut news: Option<News> = None;
    let is_wanted = |seen: QueueOffset, (from, wish): (QueueOffset, Option<Wish>)| {
        let (Some(wish), Some(serving)) = (wish, hosted.serving()) else { return true };
        let count = (next.0 - seen.0) as usize;
        if wish.takes_everything() || count > PULL_UNITS {
            return true;
        }
        if news.as_ref().is_none_or(|news| news.from != seen) {
            let units = serving.index.units_resident(topic, queue, seen, count).unwrap_or_default();
            news = Some(News { from: seen, units, records: None });
        }
        let Some(News { units, records, .. }) = &mut news else { return true };
        if units.len() != count {
            return true;
        }
        let Some(filter) = &wish.expression else {
            return units.iter().any(|unit| wish.may_match(unit.tags_code));
        };
        // So much that its client may as well be told how far it was looked at; or there is no time.
        if next.0.saturating_sub(from.0) > PULL_UNITS as u64 || Instant::now() >= until {
            return true;
        }
        let records = records.get_or_insert_with(|| {
            let nothing = Records { count: 0, pieces: Vec::new() };
            reading::records_of(serving, units, false).unwrap_or(nothing)
        });
        records.count != count || filters::any_accepted(filter, reading::each_record(records, units), until)
    };
    let wish = |held: &HeldPull| (QueueOffset(held.pull.header.queue_offset as u64), held.wish.clone());
    for held in hosted.holds.wake(topic, queue, next, wish, is_wanted) {
        if Instant::now() < until {
            again(hosted, held);
        } else {
            // Its expression may take as long as all of this has: others are not to wait for it.
            let hosted = hosted.clone();
            tokio::spawn(async move { again(&hosted, held) });
        }
    }
}

/// Wakes held pulls of groups that were reset: they need not wait for a message to hear of it.
fn wake_reset(hosted: &Arc<Hosted>) {
    if !hosted.state.has_resets() {
        return;
    }
    for (topic, queue) in hosted.holds.queues() {
        // A reset of a group that is gone for good is pending for good: others are not to be looked at for it.
        if !hosted.state.has_resets_in(&topic, queue) {
            continue;
        }
        let group = |held: &HeldPull| held.pull.header.consumer_group.clone();
        let is_reset = |group: String| hosted.state.pending_reset(&topic, &group, queue).is_some();
        for held in hosted.holds.pick(&topic, queue, group, is_reset) {
            again(hosted, held);
        }
    }
}

/// Answers held pulls whose time is over, wakes those whose group was reset, and forgets how far groups were served that are
/// gone, and who was told of resets that are over. Ends with the node.
pub(crate) async fn expire(hosted: Arc<Hosted>) {
    let mut tick = tokio::time::interval(HOLD_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut swept, mut looked) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            () = hosted.node.stopping.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = Instant::now();
        for held in hosted.holds.expired(now) {
            again(&hosted, held);
        }
        if now.saturating_duration_since(looked) >= RESET_TICK {
            looked = now;
            wake_reset(&hosted);
        }
        if now.saturating_duration_since(swept) >= SERVED_SWEEP {
            swept = now;
            hosted.served.sweep(now, |group| hosted.state.group(group).is_some());
            hosted.told.sweep(|topic, group, queue| hosted.state.pending_reset(topic, group, queue));
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

    #[test]
    fn a_pull_is_as_large_as_the_limits_whatever_is_asked() {
        // (asked, messages of a batch) -> messages
        for (asked, messages, want) in
            [(32, 32, 32), (1, 32, 1), (0, 32, 1), (i32::MAX as usize, 32, 32), (5000, 2000, 2000), (1, 0, 1)]
        {
            let batch = Batch { messages, bytes: 1, may_block: false };
            assert_eq!(batch.messages(asked), want, "{asked} of {messages}");
        }
    }

    #[test]
    fn below_the_leader_only_answers_with_more_behind_them() {
        let range = QueueRange { min: QueueOffset(10), next: QueueOffset(20), last_store_ms: 0 };
        for (status, next, want) in [
            (Status::Found, 19, true),
            (Status::Found, 20, false),
            (Status::NoMatchedMessage, 19, true),
            (Status::NoMatchedMessage, 20, false),
            (Status::OffsetFoundNull, 15, false),
            (Status::OffsetOverflowOne, 20, false),
            (Status::OffsetOverflowBadly, 20, false),
            (Status::OffsetTooSmall, 10, false),
            (Status::NoMessageInQueue, 0, false),
        ] {
            assert_eq!(Read::nothing(status, range, next).has_more_behind(), want, "{status:?} {next}");
        }
    }

    #[test]
    fn groups_that_are_idle_or_gone_make_room() {
        let served = Served::default();
        let topic: Arc<str> = "T".into();
        let start = Instant::now();
        let note = |group: &str, now| served.note(group, &topic, QueueId(0), QueueOffset(7), now);
        let get = |group: &str| served.get("T", group, QueueId(0));
        for n in 0..SERVED_GROUPS_MAX {
            note(&format!("g{n}"), start);
        }
        note("late", start);
        assert_eq!((get("g1"), get("late")), (Some(QueueOffset(7)), None));

        served.sweep(start, |group| group != "g1");
        assert_eq!((get("g0"), get("g1")), (Some(QueueOffset(7)), None));
        note("late", start);
        assert_eq!(get("late"), Some(QueueOffset(7)));

        note("g2", start + SERVED_IDLE / 2);
        served.sweep(start + SERVED_IDLE, |_| true);
        assert_eq!((get("g0"), get("late"), get("g2")), (None, None, Some(QueueOffset(7))));
    }
}
