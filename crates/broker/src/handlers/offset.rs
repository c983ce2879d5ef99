//! Offsets: 14 and 15 of consumers, 29 to 32 of queues (protocol.md 3.3). All but 15 are answered after a ReadIndex
//! round, so they run at the leader alone.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::future::{FutureExt, join_all};
use replica::ProposeError;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, oneshot};
use wire::{
    GetEarliestMsgStoretimeResponse, GetMaxOffsetRequest, GetMinOffsetRequest, OffsetResponse,
    QueryConsumerOffsetRequest, QueueId, QueueOffset, RemotingCommand, ResponseCode, SearchOffsetRequest,
    StoredMessage, UpdateConsumerOffsetRequest,
};

use crate::call::Call;
use crate::errors::Error;
use crate::handlers::step::{self, success};
use crate::hosted::{Hosted, Serving, lock};
use crate::limits::ADMIN_SCANS;
use crate::requests::Answer;
use crate::state::{Command, CommitBatch, CommitKey, CommitMerger, NoCommitKey, QueueRange, Reply};

/// The key of a consumer's offset, or why there is none: 26, 17, 29.
fn key(hosted: &Hosted, group: &str, topic: &str, queue: i32) -> Result<(CommitKey, QueueId), Error> {
    let key = hosted.state.commit_key(topic, group).map_err(|missing| match missing {
        NoCommitKey::NoGroup => Error::refused(
            ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST,
            format!("subscription group [{group}] does not exist"),
        ),
        NoCommitKey::NoTopic => no_topic(topic),
    })?;
    match QueueId::from_wire(queue).filter(|queue| queue.0 < key.queues) {
        Some(queue) => Ok((key, queue)),
        None => Err(no_queue(topic, queue, key.queues)),
    }
}

fn no_topic(topic: &str) -> Error {
    Error::refused(ResponseCode::TOPIC_NOT_EXIST, format!("topic[{topic}] not exist"))
}

pub(crate) fn no_queue(topic: &str, queue: i32, count: u32) -> Error {
    let remark = format!("queueId[{queue}] is illegal, topic {topic} has {count} queues");
    Error::refused(ResponseCode::INVALID_PARAMETER, remark)
}

/// A queue's range by wire names.
fn range(hosted: &Hosted, topic: &str, queue: i32) -> Result<(QueueId, QueueRange), Error> {
    let known = hosted.state.topic(topic).ok_or_else(|| no_topic(topic))?;
    let count = known.config.read_queues.max(known.config.write_queues);
    let id = QueueId::from_wire(queue).ok_or_else(|| no_queue(topic, queue, count))?;
    let range = hosted.state.queue(topic, id).ok_or_else(|| no_queue(topic, queue, count))?;
    Ok((id, range))
}

fn offset(request: &RemotingCommand, offset: i64) -> RemotingCommand {
    success(request).with_header(&OffsetResponse { offset })
}

/// 15. One-way commits are merged; one that somebody waits for is proposed at once.
pub(crate) fn update(hosted: &Arc<Hosted>, call: Call) {
    let header = match UpdateConsumerOffsetRequest::decode(&call.request.ext) {
        Ok(header) => header,
        Err(error) => return hosted.fail(call, error.into()),
    };
    let Some(offset) = QueueOffset::from_wire(header.commit_offset) else {
        let remark = format!("commitOffset {} is negative", header.commit_offset);
        return hosted.fail(call, Error::refused(ResponseCode::INVALID_PARAMETER, remark));
    };
    if call.request.is_oneway() {
        match merge_commit(hosted, &header.consumer_group, &header.topic, header.queue_id, offset) {
            Ok(()) => call.succeed(),
            Err(error) => hosted.fail(call, error),
        }
        return;
    }
    // Taken here and not on a task of its own: what the same connection commits next stands behind it in the log.
    let proposed = match commit_now(hosted, &header, offset) {
        Ok(proposed) => proposed,
        Err(error) => return hosted.fail(call, error),
    };
    let hosted = hosted.clone();
    tokio::spawn(async move {
        match decided(&hosted, proposed).await {
            Ok(reply) => {
                let answer = step::answer(&call.request, &reply);
                call.answer(answer);
            }
            Err(error) => hosted.fail(call, error),
        }
    });
}

/// A commit that somebody waits for. Proposed even where it changes nothing: another value may be under way.
fn commit_now(
    hosted: &Hosted,
    header: &UpdateConsumerOffsetRequest,
    offset: QueueOffset,
) -> Result<Proposed, Error> {
    let serving = hosted.served_here()?;
    let (key, queue) = key(hosted, &header.consumer_group, &header.topic, header.queue_id)?;
    // While a reset waits for its consumer (222), `apply` passes a commit over and replies with success: so does the answer.
    let mut commits = lock(&hosted.commits);
    let batch = commits.overtake(key, [(queue, offset)]);
    Ok(propose(serving, batch))
}

/// Commits offsets of one group in one topic, and waits until they are stored.
pub(crate) async fn commit_all(
    hosted: &Hosted,
    key: CommitKey,
    offsets: impl IntoIterator<Item = (QueueId, QueueOffset)>,
) -> Result<(), Error> {
    let proposed = {
        let serving = hosted.served_here()?;
        let mut commits = lock(&hosted.commits);
        let batch = commits.overtake(key, offsets);
        propose(serving, batch)
    };
    decided(hosted, proposed).await.map(drop)
}

/// Proposes a command that decides about offsets. Commits that wait for these queues are older than it, and dropped.
pub(crate) async fn propose_over_commits(
    hosted: &Hosted,
    command: Command,
    key: CommitKey,
    queues: impl IntoIterator<Item = QueueId>,
) -> Result<Reply, Error> {
    let answer = {
        let serving = hosted.served_here()?;
        let mut commits = lock(&hosted.commits);
        commits.forget(key, queues);
        // In the proposer's queue before the next commit is added.
        serving.group.propose_command_now(command.proposal())
    };
    reply_of(answer).await
}

/// A commit that nobody waits for joins the next batch (log.md 13).
pub(crate) fn merge_commit(
    hosted: &Hosted,
    group: &str,
    topic: &str,
    queue: i32,
    offset: QueueOffset,
) -> Result<(), Error> {
    let (key, queue) = key(hosted, group, topic, queue)?;
    // A reset waits for its consumer, who does not know of it yet.
    if hosted.state.ignores_commits(key, queue) {
        return Ok(());
    }
    {
        let mut commits = lock(&hosted.commits);
        // Looked up under the lock: what a batch brought is in the tables before it is settled.
        let stored = hosted.state.offset_of(key, queue);
        commits.add(key, queue, offset, stored, hosted.node.uptime_ms());
    }
    hosted.commit_added.notify_one();
    Ok(())
}

/// A batch of commits in the proposer's queue.
struct Proposed {
    batch: CommitBatch,
    answer: oneshot::Receiver<Result<Bytes, ProposeError>>,
}

/// Puts a batch into the proposer's queue. To be called under the lock under which it was taken: the log then has batches
/// in the order of their numbers, so that no older offset follows a newer one.
fn propose(serving: &Serving, batch: CommitBatch) -> Proposed {
    let command = batch.clone().into_command();
    let answer = serving.group.propose_command_now(command.proposal());
    Proposed { batch, answer }
}

/// Has merged commits proposed: what `take` gives, until it gives nothing more. Nothing is added meanwhile, so there is
/// an end.
fn propose_merged(hosted: &Hosted, take: fn(&mut CommitMerger, u64) -> Option<CommitBatch>) -> Vec<Proposed> {
    let Some(serving) = hosted.serving() else { return Vec::new() };
    let now_ms = hosted.node.uptime_ms();
    let mut commits = lock(&hosted.commits);
    let mut proposed = Vec::new();
    while let Some(batch) = take(&mut commits, now_ms) {
        proposed.push(propose(serving, batch));
    }
    proposed
}

/// What became of a batch.
async fn decided(hosted: &Hosted, proposed: Proposed) -> Result<Reply, Error> {
    let Proposed { batch, answer } = proposed;
    let _settles = Settles { hosted, batch };
    reply_of(answer).await
}

/// What the tables said to a command that was proposed.
pub(crate) async fn reply_of(answer: oneshot::Receiver<Result<Bytes, ProposeError>>) -> Result<Reply, Error> {
    let stopped = ProposeError::Unknown("the group stopped while the command was under way");
    let answer = answer.await.unwrap_or(Err(stopped))?;
    prost::Message::decode(answer).map_err(|error| Error::Unknown(format!("unreadable outcome: {error}")))
}

/// Says that a batch is decided, also when its own task is gone: others wait for it.
struct Settles<'a> {
    hosted: &'a Hosted,
    batch: CommitBatch,
}

impl Drop for Settles<'_> {
    fn drop(&mut self) {
        lock(&self.hosted.commits).settle(&self.batch);
        self.hosted.commit_decided.notify_waiters();
    }
}

/// Waits until batches of merged commits are decided.
async fn merged_decided(hosted: &Hosted, proposed: Vec<Proposed>) {
    let waits = proposed.into_iter().map(|proposed| async move {
        let count = proposed.batch.len();
        if let Err(error) = decided(hosted, proposed).await {
            // Nobody was told that they are stored: a crash or an election may repeat what they say.
            tracing::warn!(group = hosted.name(), count, %error, "merged offset commits were not stored");
        }
    });
    join_all(waits).await;
}

/// Waits until every batch up to this one is decided.
async fn all_decided(hosted: &Hosted, up_to: u64) {
    loop {
        // Made before the look, so that it misses nothing that is decided after it.
        let next = hosted.commit_decided.notified();
        if lock(&hosted.commits).is_decided(up_to) {
            return;
        }
        next.await;
    }
}

/// Proposes merged commits when they are due, at most one batch a second. Ends with the node.
pub(crate) async fn keep_commits(hosted: Arc<Hosted>) {
    loop {
        let due = lock(&hosted.commits).due_at_ms();
        let wait = due.map(|due| due.saturating_sub(hosted.node.uptime_ms()));
        tokio::select! {
            () = hosted.node.stopping.cancelled() => return,
            () = hosted.commit_added.notified(), if wait.is_none() => continue,
            () = tokio::time::sleep(std::time::Duration::from_millis(wait.unwrap_or(0))), if wait.is_some() => {}
        }
        if !hosted.leads() {
            // The clients commit to the new leader what they know.
            lock(&hosted.commits).clear();
            continue;
        }
        // Waited for: a log that is slow gets larger batches, not more of them.
        let proposed = propose_merged(&hosted, CommitMerger::take);
        merged_decided(&hosted, proposed).await;
    }
}

/// Proposes what waits at this moment, due or not, and waits until that and what was under way is decided: before
/// leadership is given away. What comes meanwhile is not waited for: there is no end to it.
pub(crate) async fn flush_commits(hosted: &Hosted) {
    let proposed = propose_merged(hosted, CommitMerger::take_now);
    let last = lock(&hosted.commits).last();
    merged_decided(hosted, proposed).await;
    all_decided(hosted, last).await;
}

/// Waits until the tables have what was committed for a queue before this call, so that whoever takes it over sees what
/// the last one said of it. A queue of which nothing waits costs no entry and no wait.
pub(crate) async fn settle_commits(hosted: &Hosted, key: CommitKey, queue: QueueId) {
    let waits = lock(&hosted.commits).pending(key, queue).is_some();
    // With everything that waits: the next query finds it done.
    let proposed = if waits { propose_merged(hosted, CommitMerger::take_now) } else { Vec::new() };
    let batch = lock(&hosted.commits).batch_of(key, queue);
    merged_decided(hosted, proposed).await;
    if let Some(batch) = batch {
        all_decided(hosted, batch).await;
    }
}

/// 14.
pub(crate) fn query<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = QueryConsumerOffsetRequest::decode(&call.request.ext)?;
        let queue =
            QueueId::from_wire(header.queue_id).ok_or_else(|| no_queue(&header.topic, header.queue_id, 0))?;
        // Without a key nothing was committed that is not in the tables.
        if let Ok(key) = hosted.state.commit_key(&header.topic, &header.consumer_group) {
            settle_commits(hosted, key, queue).await;
        }
        if let Some(stored) = hosted.state.offset(&header.topic, &header.consumer_group, queue) {
            if hosted.state.pending_reset(&header.topic, &header.consumer_group, queue) == Some(stored) {
                let (topic, group) = (&header.topic, &header.consumer_group);
                hosted.told.note(topic, group, queue, stored, call.from.address);
            }
            return Ok(offset(&call.request, stored.to_wire()));
        }
        let is_young =
            header.set_zero_if_not_found != Some(false) && is_young(hosted, &header.topic, queue).await?;
        if is_young {
            return Ok(offset(&call.request, 0));
        }
        let remark = match header.set_zero_if_not_found {
            Some(false) => "Not found, do not set to zero, maybe this group boot first",
            None | Some(true) => "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first",
        };
        Err(Error::refused(ResponseCode::QUERY_NOT_FOUND, remark))
    }
    .boxed()
}

/// Whether a queue has its first message still, and that among the newest part of the log: a new group then begins at 0
/// whatever its ConsumeFromWhere says. RocketMQ asks whether the message is "in memory": within 40 % of the machine's
/// RAM of the log's end (`accessMessageInMemoryMaxRatio`, here `in_memory_percent`).
pub(crate) async fn is_young(hosted: &Arc<Hosted>, topic: &str, queue: QueueId) -> Result<bool, Error> {
    let Some(range) = hosted.state.queue(topic, queue) else { return Ok(false) };
    if range.min != QueueOffset(0) || range.next == QueueOffset(0) {
        return Ok(false);
    }
    let name = topic.to_owned();
    let first = blocking(hosted, move |_, serving| {
        Ok(serving.index.unit(&name, queue, QueueOffset(0))?.map(|unit| unit.position))
    })
    .await?;
    let end = hosted.served_here()?.log.state().end;
    let young_bytes = ram_bytes() / 100 * u64::from(hosted.config.in_memory_percent);
    Ok(first.is_some_and(|first| end.0.saturating_sub(first.0) <= young_bytes))
}

fn ram_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// Runs what may wait for the disk on a thread that may, in its turn.
pub(crate) async fn blocking<T: Send + 'static>(
    hosted: &Arc<Hosted>,
    work: impl FnOnce(&Hosted, &Serving) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let turn = hosted.cold_reads.clone().acquire_owned().await;
    in_turn(hosted, turn, work).await
}

/// The same for what an administrator asks and may read much: it takes no consumer's turn. One whose own turn does not
/// come by the deadline is given up, for nobody waits for it any more.
pub(crate) async fn scanning<T: Send + 'static>(
    hosted: &Arc<Hosted>,
    deadline: Instant,
    work: impl FnOnce(&Hosted, &Serving) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let turn = hosted.admin_scans.clone().acquire_owned();
    let Ok(turn) = tokio::time::timeout_at(deadline.into(), turn).await else {
        return Err(Error::Overloaded(format!(
            "{ADMIN_SCANS} scans for administrators are under way, as many as may"
        )));
    };
    in_turn(hosted, turn, work).await
}

async fn in_turn<T: Send + 'static>(
    hosted: &Arc<Hosted>,
    turn: Result<OwnedSemaphorePermit, AcquireError>,
    work: impl FnOnce(&Hosted, &Serving) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let turn = turn.map_err(|_| Error::Overloaded("the node is stopping".into()))?;
    let hosted = hosted.clone();
    let task = tokio::task::spawn_blocking(move || {
        let result = work(&hosted, hosted.served_here()?);
        // Not before: the work goes on where its request is given up.
        drop(turn);
        result
    });
    task.await.unwrap_or_else(|error| Err(Error::Unknown(error.to_string())))
}

/// 30.
pub(crate) fn max<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = GetMaxOffsetRequest::decode(&call.request.ext)?;
        let (_, range) = range(hosted, &header.topic, header.queue_id)?;
        Ok(offset(&call.request, range.next.to_wire()))
    }
    .boxed()
}

/// 31.
pub(crate) fn min<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = GetMinOffsetRequest::decode(&call.request.ext)?;
        let (_, range) = range(hosted, &header.topic, header.queue_id)?;
        Ok(offset(&call.request, range.min.to_wire()))
    }
    .boxed()
}

/// 32.
pub(crate) fn earliest<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = GetMinOffsetRequest::decode(&call.request.ext)?;
        let (queue, range) = range(hosted, &header.topic, header.queue_id)?;
        let timestamp = if range.min < range.next {
            let topic = header.topic.clone();
            blocking(hosted, move |_, serving| store_time(serving, &topic, queue, range.min)).await?
        } else {
            None
        };
        let timestamp = timestamp.map_or(-1, |time| time as i64);
        Ok(success(&call.request).with_header(&GetEarliestMsgStoretimeResponse { timestamp }))
    }
    .boxed()
}

/// 29.
pub(crate) fn search<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let header = SearchOffsetRequest::decode(&call.request.ext)?;
        let (queue, range) = range(hosted, &header.topic, header.queue_id)?;
        let upper = header.boundary_type.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("UPPER"));
        let topic = header.topic.clone();
        let found = blocking(hosted, move |_, serving| {
            search_time(range, header.timestamp, upper, |offset| store_time(serving, &topic, queue, offset))
        });
        Ok(offset(&call.request, found.await?.to_wire()))
    }
    .boxed()
}

/// Store time, ms, of a message; `None`: it is not there any more.
pub(crate) fn store_time(
    serving: &Serving,
    topic: &str,
    queue: QueueId,
    offset: QueueOffset,
) -> Result<Option<u64>, Error> {
    let Some(unit) = serving.index.unit(topic, queue, offset)? else { return Ok(None) };
    let record = serving.log.read_bytes(unit.position, unit.size as usize)?;
    Ok(StoredMessage::parse(&record).ok().and_then(|message| u64::try_from(message.store_timestamp).ok()))
}

/// Finds an offset by store time, which never falls within a queue. LOWER: the first message stored at or after
/// `timestamp`, the next offset when all are older. UPPER: the last one stored at or before it, the minimum when all
/// are newer.
pub(crate) fn search_time(
    range: QueueRange,
    timestamp: i64,
    upper: bool,
    mut store_time: impl FnMut(QueueOffset) -> Result<Option<u64>, Error>,
) -> Result<QueueOffset, Error> {
    let goes_before = |time: u64| {
        let time = i64::try_from(time).unwrap_or(i64::MAX);
        if upper { time <= timestamp } else { time < timestamp }
    };
    // The first offset that does not go before.
    let (mut low, mut high) = (range.min.0, range.next.0);
    if low < high && range.last_store_ms > 0 && goes_before(range.last_store_ms) {
        low = high;
    }
    while low < high {
        let middle = low + (high - low) / 2;
        // What was purged meanwhile is older than what is there.
        let before = store_time(QueueOffset(middle))?.is_none_or(goes_before);
        if before {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let found = if upper { low.saturating_sub(1).max(range.min.0) } else { low };
    Ok(QueueOffset(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_by_binary_search() {
        // Offsets 3..=8 with these store times.
        let times = [10, 20, 20, 20, 30, 40];
        let range = QueueRange { min: QueueOffset(3), next: QueueOffset(9), last_store_ms: 40 };
        let check = |timestamp: i64, upper: bool| {
            let look = |offset: QueueOffset| Ok(Some(times[(offset.0 - 3) as usize]));
            search_time(range, timestamp, upper, look).unwrap().0
        };
        for (timestamp, lower, upper) in [
            (0, 3, 3),
            (10, 3, 3),
            (15, 4, 3),
            (20, 4, 6),
            (25, 7, 6),
            (30, 7, 7),
            (40, 8, 8),
            (41, 9, 8),
            (i64::MAX, 9, 8),
            (-1, 3, 3),
        ] {
            assert_eq!(check(timestamp, false), lower, "LOWER {timestamp}");
            assert_eq!(check(timestamp, true), upper, "UPPER {timestamp}");
        }
        let empty = QueueRange { min: QueueOffset(5), next: QueueOffset(5), last_store_ms: 0 };
        for upper in [false, true] {
            assert_eq!(search_time(empty, 7, upper, |_| unreachable!()).unwrap(), QueueOffset(5));
        }
    }
}
