//! The leader's task that delivers what is due: one for the levels, one for the timers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use replica::ProposeError;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use wire::{QueueId, topic};

use super::release::{Delivery, Due, read, release};
use super::source::{Source, SourceQueue};
use crate::creation;
use crate::errors::Error;
use crate::hosted::{Hosted, lock};
use crate::limits::{
    DAMAGE_LOOK, DELIVERIES_IN_FLIGHT, DELIVERY_LOOK, DELIVERY_MESSAGES, DELIVERY_RETRY, DELIVERY_TICK,
    DELIVERY_TOPIC_RETRY,
};
use crate::state::command::{Kind, UpdateTopic, released};
use crate::state::{Command, TopicConfig};

/// Delivers by level.
pub(crate) async fn levels(hosted: Arc<Hosted>, over: CancellationToken) -> Result<(), Error> {
    let levels = &hosted.config.delay_levels;
    let found = hosted.state.topic(topic::SCHEDULE).ok_or(Error::Void)?;
    if found.queue_count() < levels.max() {
        let mut config = found.config.clone();
        (config.read_queues, config.write_queues) = (levels.max(), levels.max());
        let command = Kind::UpdateTopic(UpdateTopic { config, unset: Vec::new() });
        let reply = hosted.propose_here(command.into()).await?;
        if reply.code != 0 {
            return Err(Error::refused(wire::ResponseCode(reply.code), reply.remark));
        }
    }
    let queues = hosted.state.topic(topic::SCHEDULE).ok_or(Error::Void)?.queue_count();
    let delays = (0..queues).map(|queue| Some(levels.delay_ms(queue + 1))).collect();
    deliver(&hosted, &over, topic::SCHEDULE, delays).await
}

/// Delivers timer messages.
pub(crate) async fn timers(hosted: Arc<Hosted>, over: CancellationToken) -> Result<(), Error> {
    deliver(&hosted, &over, topic::WHEEL_TIMER, vec![None]).await
}

/// How one delivery ended.
struct Ended {
    source: usize,
    delivery: Delivery,
    result: Result<(), ProposeError>,
}

/// Delivers from the queues of a topic, each with its delay, until the term is over.
async fn deliver(
    hosted: &Arc<Hosted>,
    over: &CancellationToken,
    name: &'static str,
    delays: Vec<Option<u64>>,
) -> Result<(), Error> {
    // Before the first look, so that nothing is missed.
    let arrivals = hosted.source_arrivals(name);
    let found = hosted.state.topic(name).ok_or(Error::Void)?;
    let queue = |(queue, delay_ms)| {
        Source::new(SourceQueue { topic: found.name.clone(), id: found.id, queue: QueueId(queue), delay_ms })
    };
    let mut sources: Vec<Source> = (0..).zip(delays).map(queue).collect();
    let claims = &hosted.timer_claims;
    let may_be_recalled = name == topic::WHEEL_TIMER;
    if may_be_recalled {
        claims.begin();
    }
    // In the order in which they were taken, so that messages of one time keep theirs.
    let mut reads = FuturesOrdered::new();
    let mut under_way = FuturesUnordered::new();
    let mut look_at = Instant::now();
    let mut take_at = Instant::now();
    let mut trouble = String::new();
    let mut first = 0;
    let missing = Missing::default();
    loop {
        let ends = hosted.state.queues(name).ok_or(Error::Void)?;
        let mut has_more = false;
        for (source, range) in sources.iter_mut().zip(ends) {
            // A page of each at a time: what is found is delivered meanwhile.
            has_more |= source.fill(hosted, range.next).await?;
        }
        let now_ms = hosted.log_now_ms();
        if Instant::now() >= take_at {
            let free = DELIVERIES_IN_FLIGHT.saturating_sub(reads.len() + under_way.len());
            let Taken { batches, is_partial } = take(&mut sources, &mut first, free, now_ms);
            for (number, mut offsets) in batches {
                let source = &mut sources[number];
                if may_be_recalled {
                    let recalled = claims.deliver(&mut offsets);
                    put_back(source, &recalled, now_ms + DELIVERY_RETRY.as_millis() as u64);
                }
                reads.push_back(read_due(hosted, over, number, source.queue.clone(), offsets, now_ms));
            }
            if is_partial {
                // What falls due within the next moment goes together.
                take_at = Instant::now() + DELIVERY_TICK;
            }
        }
        let is_full = reads.len() + under_way.len() >= DELIVERIES_IN_FLIGHT;
        let next = sources.iter().filter_map(Source::next_ms).min().filter(|_| !is_full);
        // Log time may leap: clocks are set, and others come to agree with this one.
        let wait = next.map(|due| Duration::from_millis(due.saturating_sub(now_ms)).min(DELIVERY_LOOK));
        let next_take = wait.map(|wait| (Instant::now() + wait).max(take_at));
        let resumed = sources.iter().filter_map(Source::paused).min();
        tokio::select! {
            Some((source, mut taken, due)) = reads.next() => {
                let delivery = settle(hosted, &mut sources[source], due, now_ms, &missing);
                if may_be_recalled {
                    let stays: HashSet<u64> = delivery.offsets.iter().copied().collect();
                    taken.retain(|offset| !stays.contains(offset));
                    claims.delivered(taken);
                }
                if !delivery.offsets.is_empty() {
                    under_way.push(propose(hosted, source, &sources[source].queue, delivery)?);
                }
            }
            Some(ended) = under_way.next() => {
                if may_be_recalled {
                    claims.delivered(ended.delivery.offsets.iter().copied());
                }
                end(hosted, &mut sources, ended, now_ms, &mut trouble);
            }
            () = arrived(&arrivals, look_at) => look_at = Instant::now() + DELIVERY_TICK,
            () = sleep_until(next_take), if next_take.is_some() => {}
            () = sleep_until(resumed), if resumed.is_some() => {}
            () = tokio::task::yield_now(), if has_more => {}
        }
    }
}

/// Batches that are due, each with the number of its source.
#[derive(Debug, Default)]
struct Taken {
    batches: Vec<(usize, Vec<u64>)>,
    /// Of some source all that is due is taken, and less than a batch.
    is_partial: bool,
}

/// Takes so many batches that are due, at most, in turn from each source that has some. `first`: whose turn it is.
fn take(sources: &mut [Source], first: &mut usize, max: usize, now_ms: u64) -> Taken {
    let mut taken = Taken::default();
    let mut without = 0;
    while without < sources.len() && taken.batches.len() < max {
        let number = *first % sources.len();
        let source = &mut sources[number];
        let offsets = source.take(now_ms);
        *first = number + 1;
        if offsets.is_empty() {
            without += 1;
            continue;
        }
        without = 0;
        taken.is_partial |= offsets.len() < source.batch;
        taken.batches.push((number, offsets));
    }
    taken
}

async fn arrived(arrivals: &crate::duties::SourceArrivals, from: Instant) {
    tokio::time::sleep_until(from.into()).await;
    arrivals.arrived().await;
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Reads on a thread that may wait for the disk. What it returns: the number of the source, the messages, and what became of
/// them.
async fn read_due(
    hosted: &Arc<Hosted>,
    over: &CancellationToken,
    source: usize,
    queue: SourceQueue,
    offsets: Vec<u64>,
    now_ms: u64,
) -> (usize, Vec<u64>, Due) {
    let (reader, over, taken) = (hosted.clone(), over.clone(), offsets.clone());
    let task = tokio::task::spawn_blocking(move || {
        // Nobody waits for it any more.
        if over.is_cancelled() { Ok(Due::default()) } else { read(&reader, &queue, &offsets, now_ms) }
    });
    let due = match task.await {
        Ok(Ok(due)) => due,
        failed => {
            let error = match failed {
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
                Ok(Ok(_)) => String::new(),
            };
            tracing::error!(
                group = hosted.name(),
                count = taken.len(),
                error,
                "messages that are due were not read"
            );
            Due { put_off: taken.clone(), ..Due::default() }
        }
    };
    (source, taken, due)
}

/// Retry topics that are made because messages wait for them, and when it was refused: not tried at every turn.
#[derive(Debug, Default, Clone)]
struct Missing(Arc<Mutex<HashMap<String, Instant>>>);

impl Missing {
    /// What waits for it is tried again until it is there.
    fn make(&self, hosted: &Arc<Hosted>, config: TopicConfig) {
        if lock(&self.0).get(&config.name).is_some_and(|refused| refused.elapsed() < DELIVERY_TOPIC_RETRY) {
            return;
        }
        let (hosted, refused) = (hosted.clone(), self.0.clone());
        tokio::spawn(async move {
            let name = config.name.clone();
            match creation::ensure(&hosted, config).await {
                Ok(()) => drop(lock(&refused).remove(&name)),
                Err(error) => {
                    let is_new = lock(&refused).insert(name.clone(), Instant::now()).is_none();
                    if is_new {
                        let (group, topic) = (hosted.name(), name);
                        tracing::warn!(group, topic, %error, "messages that are due wait for their retry topic");
                    }
                }
            }
        });
    }
}

/// Sees to what cannot be delivered now, and gives what can.
fn settle(
    hosted: &Arc<Hosted>,
    source: &mut Source,
    due: Due,
    now_ms: u64,
    missing_topics: &Missing,
) -> Delivery {
    let Due { delivery, rest, dropped, put_off, damaged, missing } = due;
    // Of larger messages fewer are taken at once, so that they keep their order.
    let fits = delivery.offsets.len() + dropped.len();
    source.batch = if rest.is_empty() { (source.batch * 2).min(DELIVERY_MESSAGES) } else { fits.max(1) };
    put_back(source, &rest, now_ms);
    source.put_off(&put_off, now_ms);
    source.put_off_until(&damaged, now_ms.saturating_add(DAMAGE_LOOK.as_millis() as u64));
    for config in missing {
        missing_topics.make(hosted, config);
    }
    if !dropped.is_empty() {
        // Tried again if that fails, and then dropped again.
        put_back(source, &dropped, now_ms + DELIVERY_RETRY.as_millis() as u64);
        let command: Command = Kind::Release(release(&source.queue, dropped, released::DROPPED)).into();
        let hosted = hosted.clone();
        tokio::spawn(async move {
            if let Err(error) = hosted.propose_here(command).await {
                tracing::warn!(group = hosted.name(), %error, "messages were not dropped yet");
            }
        });
    }
    delivery
}

fn put_back(source: &mut Source, offsets: &[u64], due_ms: u64) {
    for offset in offsets {
        source.schedule.add(due_ms, *offset);
    }
}

/// Proposes at once, so that deliveries stand in the log in their order; what is returned waits for the outcome.
fn propose(
    hosted: &Arc<Hosted>,
    source: usize,
    queue: &SourceQueue,
    mut delivery: Delivery,
) -> Result<impl Future<Output = Ended> + use<>, Error> {
    let command: Command = Kind::Release(delivery.release(queue)).into();
    let counted: Vec<_> = delivery
        .messages
        .iter()
        .map(|messages| (messages.topic.clone(), messages.count, messages.records.len()))
        .collect();
    let (told, outcome) = oneshot::channel();
    let proposal = command.coupled(std::mem::take(&mut delivery.messages));
    let since = Instant::now();
    // The task may be gone by then.
    hosted.served_here()?.group.propose_coupled(proposal, Box::new(|outcome| drop(told.send(outcome))));
    let hosted = hosted.clone();
    Ok(async move {
        let stopped = ProposeError::Unknown("the group stopped while a delivery was under way");
        let result = outcome.await.unwrap_or(Err(stopped)).map(drop);
        if result.is_ok() {
            for (topic, count, bytes) in counted {
                hosted.stats.put(&topic, count.into(), bytes as u64, since.elapsed());
            }
        }
        Ended { source, delivery, result }
    })
}

/// What was not delivered, or perhaps not, is looked at again: the tables know by then.
fn end(hosted: &Hosted, sources: &mut [Source], ended: Ended, now_ms: u64, trouble: &mut String) {
    let Ended { source, delivery, result } = ended;
    let pause = match result {
        Ok(()) => {
            trouble.clear();
            return;
        }
        // Something of it is done meanwhile, most likely.
        Err(ProposeError::Void) => DELIVERY_TICK,
        Err(error) => {
            let (error, count) = (error.to_string(), delivery.offsets.len());
            if *trouble != error {
                tracing::warn!(group = hosted.name(), count, error, "messages that are due wait a while");
                *trouble = error;
            }
            DELIVERY_RETRY
        }
    };
    put_back(&mut sources[source], &delivery.offsets, now_ms + pause.as_millis() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::TopicId;

    #[test]
    fn every_source_has_its_turn() {
        let source = |queue| {
            let (topic, id) = ("S".into(), TopicId(1));
            let mut source =
                Source::new(SourceQueue { topic, id, queue: QueueId(queue), delay_ms: Some(1000) });
            for offset in 0..20 {
                source.schedule.add(10, offset);
            }
            source.batch = 2;
            source
        };
        let mut sources: Vec<Source> = (0..3).map(source).collect();
        let numbers = |taken: &Taken| taken.batches.iter().map(|(number, _)| *number).collect::<Vec<_>>();
        let mut first = 0;
        let mut take_some = |max| take(&mut sources, &mut first, max, 10);
        assert_eq!(numbers(&take_some(4)), [0, 1, 2, 0]);
        // Where one place falls free after another.
        let singles: Vec<usize> = (0..5).flat_map(|_| numbers(&take_some(1))).collect();
        assert_eq!(singles, [1, 2, 0, 1, 2]);
        assert!(take_some(0).batches.is_empty());
        let rest = take_some(usize::MAX);
        assert_eq!((rest.batches.len(), rest.is_partial), (30 - 9, false));
        assert!(take_some(8).batches.is_empty());
    }
}
