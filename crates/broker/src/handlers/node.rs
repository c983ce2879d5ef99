//! Requests whose answers the pure handlers of info.rs, stats.rs and consumer_admin.rs work out of facts that are
//! gathered here: this node's disk and log, and clients that are connected to any node.

use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt;
use replica::NodeId;
use wire::{
    ConsumeMessageDirectlyRequest, GetConsumerRunningInfoRequest, LogPosition, OffsetMessageId, QueueId,
    QueueOffset, RemotingCommand, RequestCode, ResponseCode,
};

use crate::call::Call;
use crate::errors::Error;
use crate::handlers::info::{self, HaFollower, HaStatus, NodeFacts};
use crate::handlers::offset::{flush_commits, scanning, store_time};
use crate::handlers::query::message_at;
use crate::handlers::stats::{self, Progress};
use crate::hosted::{Hosted, Serving, Toward};
use crate::life::prepare;
use crate::limits::{CLIENT_CALL, DIRECT_CONSUMPTION};
use crate::requests::Answer;
use crate::service::wall_clock_ms;

/// 26.
pub(crate) fn config(hosted: &Arc<Hosted>, call: Call) {
    let version = hosted.node.boot_ms.wrapping_add(hosted.settings.changes());
    let answer = info::config(&told(hosted), version, &call.request);
    call.answer(answer);
}

fn told(hosted: &Hosted) -> Vec<(&'static str, String)> {
    info::config_table(&hosted.node.config, &hosted.config, &hosted.settings, hosted.broker_id())
}

/// 25. The remark of the answer names what it took.
pub(crate) fn update_config(hosted: &Arc<Hosted>, call: Call) {
    let text = String::from_utf8_lossy(&call.request.body);
    let taken = match hosted.settings.update(&text, &told(hosted)) {
        Ok(taken) => taken,
        Err(error) => return hosted.fail(call, error),
    };
    tracing::info!(group = hosted.name(), from = %call.from.address, changed = ?taken.changed, "settings changed");
    let response = call.response(ResponseCode::SUCCESS).with_remark(taken.remark());
    if !taken.is_registered && !taken.creates_topics {
        return call.answer(response);
    }
    let hosted = hosted.clone();
    tokio::spawn(async move {
        if taken.creates_topics && hosted.leads() {
            // The topic after which others are made may be missing until now. A leader that comes later makes it then.
            prepare(&hosted, true).await;
        }
        if taken.is_registered {
            hosted.register_now().await;
        }
        call.answer(response);
    });
}

/// 28.
pub(crate) fn runtime<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let reader = hosted.clone();
        let facts = tokio::task::spawn_blocking(move || facts(&reader));
        let facts = facts.await.map_err(|error| Error::Unknown(error.to_string()))?;
        Ok(info::runtime(&hosted.stats, &facts, &call.request))
    }
    .boxed()
}

fn facts(hosted: &Hosted) -> NodeFacts {
    let directory = hosted.node.config.data.join(hosted.name());
    let log_path = directory.join("log");
    let (disk_total_bytes, disk_free_bytes) = match rustix::fs::statvfs(&directory) {
        Ok(stat) => (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize),
        Err(_) => (0, 0),
    };
    let memory = rustix::system::sysinfo();
    let mut facts = NodeFacts {
        now_ms: wall_clock_ms(),
        active: false,
        log_path: log_path.display().to_string(),
        memory_bytes: memory.totalram.saturating_mul(u64::from(memory.mem_unit)),
        disk_total_bytes,
        disk_free_bytes,
        log_begin: LogPosition(0),
        log_end: LogPosition(0),
        unsynced_bytes: 0,
        unindexed_bytes: 0,
        earliest_message_ms: None,
        delays: delays(hosted),
        sends: (0, hosted.node.config.limits.parked_requests),
        pulls: (hosted.holds.count(), hosted.node.config.limits.held_pulls),
    };
    if let Some(serving) = hosted.serving() {
        let log = serving.log.state();
        let applied = serving.group.applied_end();
        facts.active = hosted.toward() != Toward::Nobody;
        facts.log_begin = log.first_position;
        facts.log_end = log.end;
        facts.unsynced_bytes = log.end.0.saturating_sub(log.synced_end.0);
        facts.unindexed_bytes = applied.0.saturating_sub(serving.index.built().0);
        facts.earliest_message_ms = earliest(serving);
    }
    facts
}

/// How far the levels of delay are, as this node's tables have it.
fn delays(hosted: &Hosted) -> Vec<(QueueOffset, QueueOffset)> {
    let queues = hosted.state.queues(wire::topic::SCHEDULE).unwrap_or_default();
    let base = |queue| hosted.state.pending_base(wire::topic::SCHEDULE, queue).unwrap_or_default();
    (0..).map(QueueId).zip(queues).map(|(queue, range)| (base(queue), range.next)).collect()
}

/// Log time of the first entry that is here and has one: no message is older. What a new log begins with was not proposed
/// and has none.
fn earliest(serving: &Serving) -> Option<u64> {
    const LOOK_AT: u64 = 16;
    let first = serving.log.state().first_index;
    let frames = serving.log.read(first, store::LogIndex(first.0 + LOOK_AT), 64 << 10).ok()?;
    frames.iter().map(store::Frame::log_time_ms).find(|ms| *ms > 0)
}

/// 202.
pub(crate) fn topic_stats<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move { stats::topic(&hosted.state, &hosted.stats, &hosted.names, &call.request) }.boxed()
}

/// 208.
pub(crate) fn consume_stats<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    let request = call.request.clone();
    let scan = scanning(hosted, call.deadline, move |hosted, serving| {
        with_progress(hosted, serving, |p| p.of_group(&request))
    });
    after_commits(hosted, scan).boxed()
}

/// Commits that came before the question belong to its answer, though they may still wait to be merged: a consumer that
/// has just stopped is not behind.
async fn after_commits<T>(hosted: &Hosted, scan: impl Future<Output = T>) -> T {
    flush_commits(hosted).await;
    scan.await
}

/// 317.
pub(crate) fn all_consume_stats<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    let request = call.request.clone();
    let scan = scanning(hosted, call.deadline, move |hosted, serving| {
        let address = hosted.config.advertised();
        with_progress(hosted, serving, |p| p.of_all_groups(&address, &request))
    });
    after_commits(hosted, scan).boxed()
}

fn with_progress<T>(hosted: &Hosted, serving: &Serving, work: impl FnOnce(&Progress<'_>) -> T) -> T {
    work(&Progress {
        state: &hosted.state,
        clients: &hosted.node.clients,
        stats: &hosted.stats,
        names: &hosted.names,
        store_time: &|topic: &str, queue: QueueId, offset: QueueOffset| {
            store_time(serving, topic, queue, offset).ok().flatten()
        },
        pulled: &|topic: &str, group: &str, queue: QueueId| hosted.served.get(topic, group, queue),
    })
}

/// 303.
pub(crate) fn time_spans<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    let request = call.request.clone();
    let scan = scanning(hosted, call.deadline, move |hosted, serving| {
        with_progress(hosted, serving, |p| p.time_spans(wall_clock_ms(), &request))
    });
    after_commits(hosted, scan).boxed()
}

/// 315.
pub(crate) fn counter(hosted: &Arc<Hosted>, call: Call) {
    match stats::view(&hosted.stats, &hosted.names, &call.request) {
        Ok(answer) => call.answer(answer),
        Err(error) => hosted.fail(call, error),
    }
}

/// 907.
pub(crate) fn ha_status(hosted: &Arc<Hosted>, call: Call) {
    let now_ms = wall_clock_ms();
    let status = match hosted.serving() {
        None => HaStatus::Follower { leader: None, log_end: LogPosition(0), now_ms },
        Some(serving) if hosted.leads() => {
            let status = serving.group.status();
            let followers = status.followers.iter().map(|follower| {
                // Raft counts entries: one that lacks none has every byte, of the others it is not known how many.
                let in_sync = follower.lag == 0;
                let acknowledged = if in_sync { status.end } else { LogPosition(0) };
                HaFollower { addr: hosted.node.peer_address(follower.node), acknowledged, in_sync }
            });
            HaStatus::Leader { log_end: status.end, followers: followers.collect() }
        }
        Some(serving) => {
            let leader = serving.group.role().leader.map(|leader: NodeId| hosted.node.peer_address(leader));
            HaStatus::Follower { leader, log_end: serving.log.state().end, now_ms }
        }
    };
    let answer = info::ha_status(&status, &call.request);
    call.answer(answer);
}

/// 307: relayed to the consumer as it is, and so is its answer.
pub(crate) fn running_info<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = GetConsumerRunningInfoRequest::decode(&call.request.ext)?;
        let (group, client) = (header.consumer_group, header.client_id);
        relay(hosted, &group, &client, call.request.clone(), CLIENT_CALL).await
    }
    .boxed()
}

/// Hands a request on to a member of a consumer group, wherever it is connected, and its answer back.
async fn relay(
    hosted: &Hosted,
    group: &str,
    client: &str,
    request: RemotingCommand,
    timeout: Duration,
) -> Result<RemotingCommand, Error> {
    let members = hosted.node.clients.consumer_group(group);
    if !members.is_some_and(|group| group.members.contains_key(client)) {
        let remark = format!("The Consumer <{group}> <{client}> not online");
        return Err(Error::refused(ResponseCode::SYSTEM_ERROR, remark));
    }
    let mut response = hosted.node.ask_client(client, request, timeout).await?;
    response.flag |= 1;
    Ok(response)
}

/// 309: relayed to a consumer with the message, which it is to consume at once. Its answer says how that went; nothing of
/// the group's progress changes.
pub(crate) fn consume_directly<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = ConsumeMessageDirectlyRequest::decode(&call.request.ext)?;
        let id = header.msg_id.as_deref().unwrap_or_default();
        let position = id.parse::<OffsetMessageId>().map(|id| id.position).map_err(|_| {
            let remark = format!("msgId {id:?} is no offset message id");
            Error::refused(ResponseCode::INVALID_PARAMETER, remark)
        })?;
        let message = message_at(hosted, call, position).await?.ok_or_else(|| {
            let remark = format!("can not find message by the offset, {position}");
            Error::refused(ResponseCode::SYSTEM_ERROR, remark)
        })?;
        let mut request = RemotingCommand::request(RequestCode::CONSUME_MESSAGE_DIRECTLY);
        request.ext = call.request.ext.clone();
        request.ext.set("brokerName", hosted.name());
        if let Some(topic) = header.topic.as_deref().and_then(|topic| hosted.state.topic(topic)) {
            request.ext.set("topicSysFlag", &topic.config.sys_flag.to_string());
        }
        if let Some(group) = hosted.state.group(&header.consumer_group) {
            request.ext.set("groupSysFlag", &group.config.group_sys_flag.to_string());
        }
        let client = header.client_id.unwrap_or_default();
        relay(hosted, &header.consumer_group, &client, request.with_body(message), DIRECT_CONSUMPTION).await
    }
    .boxed()
}
