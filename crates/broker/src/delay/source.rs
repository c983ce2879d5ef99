//! One queue of waiting messages, as the leader sees it: which are pending, and when they are due.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use store::index::Unit;
use wire::{QueueId, QueueOffset};

use super::schedule::Schedule;
use crate::errors::Error;
use crate::handlers::offset::blocking;
use crate::hosted::{Hosted, Serving};
use crate::limits::{DELIVERY_MESSAGES, DELIVERY_RETRY};
use crate::state::TopicId;

/// Which queue it is.
#[derive(Debug, Clone)]
pub(crate) struct SourceQueue {
    pub(crate) topic: Arc<str>,
    pub(crate) id: TopicId,
    pub(crate) queue: QueueId,
    /// Of a delay level: how long after its store time a message is due, ms. `None`: the message says its time.
    pub(crate) delay_ms: Option<u64>,
}

impl SourceQueue {
    /// When the message of this unit is due, ms since 1970 ([`wire::unit_code`]).
    pub(crate) fn due_ms(&self, unit: &Unit) -> u64 {
        let time = u64::try_from(unit.tags_code).unwrap_or(0);
        time.saturating_add(self.delay_ms.unwrap_or(0))
    }
}

/// A queue, and what is scheduled of it. Messages below `next` are done, scheduled, or on their way.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) queue: SourceQueue,
    pub(super) schedule: Schedule,
    /// What could not be delivered when it was due, for a reason of its own: it must not keep what is behind it.
    put_off: Schedule,
    /// How many are taken at once.
    pub(super) batch: usize,
    next: QueueOffset,
    /// The queue could not be read on: until when it is left alone, and why.
    paused: Option<(Instant, String)>,
}

/// Of a level, whose messages are due in the order of their offsets, so many are looked ahead at.
const AHEAD: usize = 4096;
/// Messages looked up at once.
const LOOK_UP: usize = 4096;
/// Of those put off so many at most are tried again within [`DELIVERY_RETRY`].
const PUT_OFF_TRIED: usize = 1024;
/// The most that are put off: then the queue is not read on, so that a node's memory stays bounded.
const PUT_OFF_MAX: usize = 1 << 20;

impl Source {
    pub(super) fn new(queue: SourceQueue) -> Source {
        Source {
            queue,
            schedule: Schedule::default(),
            put_off: Schedule::default(),
            batch: DELIVERY_MESSAGES,
            next: QueueOffset(0),
            paused: None,
        }
    }

    /// When the next one is due, ms since 1970.
    pub(super) fn next_ms(&self) -> Option<u64> {
        [self.schedule.next_ms(), self.put_off.next_ms()].into_iter().flatten().min()
    }

    /// Takes a batch of what is due, the earliest first.
    pub(super) fn take(&mut self, now_ms: u64) -> Vec<u64> {
        let is_before = |due: u64| self.schedule.next_ms().is_none_or(|next| due < next);
        let from = if self.put_off.next_ms().is_some_and(is_before) {
            &mut self.put_off
        } else {
            &mut self.schedule
        };
        from.take(now_ms, self.batch)
    }

    /// They are tried again later: the later, the more there are.
    pub(super) fn put_off(&mut self, offsets: &[u64], now_ms: u64) {
        let times = 1 + (self.put_off.len() / PUT_OFF_TRIED) as u64;
        self.put_off_until(offsets, now_ms.saturating_add(times * DELIVERY_RETRY.as_millis() as u64));
    }

    /// They are tried again at this time.
    pub(super) fn put_off_until(&mut self, offsets: &[u64], due_ms: u64) {
        for offset in offsets {
            self.put_off.add(due_ms, *offset);
        }
    }

    /// Whether there is more to schedule. `end`: the queue's next offset.
    fn lacks(&self, end: QueueOffset) -> bool {
        self.next < end
            && (self.queue.delay_ms.is_none() || self.schedule.len() < AHEAD)
            && self.put_off.len() < PUT_OFF_MAX
    }

    /// Until when it is left alone.
    pub(super) fn paused(&self) -> Option<Instant> {
        self.paused.as_ref().map(|(until, _)| *until)
    }

    /// Schedules a page of messages that are not scheduled yet: of timers all in the end, of a level as many as are looked
    /// ahead at. `end`: the queue's next offset. True: there is more. A queue that cannot be read pauses; the others have
    /// nothing to do with it.
    pub(super) async fn fill(&mut self, hosted: &Arc<Hosted>, end: QueueOffset) -> Result<bool, Error> {
        if self.paused().is_some_and(|until| Instant::now() < until) {
            return Ok(false);
        }
        if !self.lacks(end) {
            self.paused = None;
            return Ok(false);
        }
        let page = self.page(hosted, end).await;
        self.after(hosted, end, page)
    }

    fn after(&mut self, hosted: &Hosted, end: QueueOffset, page: Result<bool, Error>) -> Result<bool, Error> {
        match page {
            Ok(went_on) => {
                self.paused = None;
                Ok(went_on && self.lacks(end))
            }
            Err(error @ Error::NotLeader { .. }) => Err(error),
            Err(error) => {
                self.pause(hosted, error.to_string());
                Ok(false)
            }
        }
    }

    fn pause(&mut self, hosted: &Hosted, why: String) {
        if self.paused.as_ref().is_none_or(|(_, before)| *before != why) {
            let SourceQueue { topic, queue, .. } = &self.queue;
            let (group, queue, from) = (hosted.name(), queue.0, self.next.0);
            tracing::error!(group, %topic, queue, from, error = why, "messages that wait cannot be looked up");
        }
        self.paused = Some((Instant::now() + DELIVERY_RETRY, why));
    }

    /// False: nothing more is to be had now.
    async fn page(&mut self, hosted: &Arc<Hosted>, end: QueueOffset) -> Result<bool, Error> {
        let SourceQueue { topic, queue, .. } = &self.queue;
        let pending = hosted.state.pending(topic, *queue, self.next, LOOK_UP);
        if pending.is_empty() {
            self.next = end;
            return Ok(true);
        }
        let mut found = self.look_up(hosted, &pending).await?;
        // What is applied this very moment is not in the index yet: it is told of when it is.
        let Some((last, _)) = found.last() else { return Ok(false) };
        let next = last.plus(1);
        let mut missing: Vec<QueueOffset> =
            pending.iter().copied().take_while(|offset| *offset < next).collect();
        if found.len() < missing.len() {
            // The index has what lies behind them, so that it has them by now; or never.
            let known: HashSet<u64> = found.iter().map(|(offset, _)| offset.0).collect();
            missing.retain(|offset| !known.contains(&offset.0));
            let late = self.look_up(hosted, &missing).await?;
            if late.len() < missing.len() {
                let (group, queue, lost) = (hosted.name(), queue.0, missing.len() - late.len());
                tracing::error!(group, %topic, queue, lost, "messages that wait are not in the index");
            }
            found.extend(late);
        }
        self.next = next;
        for (offset, unit) in &found {
            self.schedule.add(self.queue.due_ms(unit), offset.0);
        }
        Ok(true)
    }

    async fn look_up(
        &self,
        hosted: &Arc<Hosted>,
        offsets: &[QueueOffset],
    ) -> Result<Vec<(QueueOffset, Unit)>, Error> {
        if let Some(found) = units(hosted.served_here()?, &self.queue, offsets, false)? {
            return Ok(found);
        }
        let (queue, offsets) = (self.queue.clone(), offsets.to_vec());
        let found = blocking(hosted, move |_, serving| units(serving, &queue, &offsets, true)).await?;
        Ok(found.unwrap_or_default())
    }
}

/// The units of these messages, ascending offsets; one that has none is left out. `None` where that would wait for the disk
/// and may not.
pub(crate) fn units(
    serving: &Serving,
    queue: &SourceQueue,
    offsets: &[QueueOffset],
    may_block: bool,
) -> Result<Option<Vec<(QueueOffset, Unit)>>, Error> {
    let index = &serving.index;
    let mut found = Vec::with_capacity(offsets.len());
    let mut rest = offsets;
    while let Some(first) = rest.first() {
        // Those that lie near each other are read together.
        let span = |count: usize| (rest[count - 1].0 - first.0 + 1) as usize;
        let mut count = rest.len().min(LOOK_UP);
        while span(count) > 4 * count + 64 {
            count = count.div_ceil(2);
        }
        let read = if may_block {
            index.units(&queue.topic, queue.queue, *first, span(count))?
        } else {
            match index.units_resident(&queue.topic, queue.queue, *first, span(count)) {
                Some(read) => read,
                None => return Ok(None),
            }
        };
        // What is read ends where the queue does, or before an offset that is not there.
        let known = rest[..count].partition_point(|offset| ((offset.0 - first.0) as usize) < read.len());
        found.extend(rest[..known].iter().map(|offset| (*offset, read[(offset.0 - first.0) as usize])));
        rest = &rest[known.max(1)..];
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(delay_ms: Option<u64>) -> Source {
        let queue = SourceQueue { topic: "S".into(), id: TopicId(1), queue: QueueId(0), delay_ms };
        Source::new(queue)
    }

    #[test]
    fn what_is_put_off_keeps_nobody_back() {
        let mut source = source(Some(1000));
        let (end, count) = (QueueOffset(1 << 30), 2 * AHEAD as u64);
        source.put_off(&(0..count).collect::<Vec<_>>(), 10_000);
        assert!(source.lacks(end), "more is looked ahead at");
        source.schedule.add(10_050, count);
        assert_eq!(source.next_ms(), Some(10_050));
        assert_eq!(source.take(10_100), [count], "it does not wait for them");
        assert!(source.take(10_100).is_empty());
        let retry = 10_000 + DELIVERY_RETRY.as_millis() as u64;
        assert_eq!(source.next_ms(), Some(retry));
        source.schedule.add(retry + 1, count + 1);
        let batch: Vec<u64> = (0..source.batch as u64).collect();
        assert_eq!(source.take(retry + 1), batch, "they have their turn too");
        // Of level messages, that is: those that are scheduled are enough at some time.
        for offset in 0..AHEAD as u64 {
            source.schedule.add(u64::MAX, offset);
        }
        assert!(!source.lacks(end));
        assert!(!source.lacks(QueueOffset(0)));
    }

    #[test]
    fn many_that_are_put_off_are_tried_seldom_and_are_bounded() {
        let mut source = source(None);
        let retry = DELIVERY_RETRY.as_millis() as u64;
        for first in (0..10 * PUT_OFF_TRIED).step_by(PUT_OFF_TRIED) {
            let offsets: Vec<u64> = (0..PUT_OFF_TRIED).map(|n| (first + n) as u64).collect();
            source.put_off(&offsets, 0);
        }
        let mut tried = 0;
        while !source.take(5 * retry).is_empty() {
            tried += 1;
        }
        assert!(tried <= 5 * (PUT_OFF_TRIED.div_ceil(source.batch) + 1), "{tried} batches");
        assert!(source.put_off.len() >= 5 * PUT_OFF_TRIED);
        assert!(source.lacks(QueueOffset(1)));
        source.put_off(&vec![1; PUT_OFF_MAX], 0);
        assert!(!source.lacks(QueueOffset(1)));
    }

    /// Timers that are due in a day, in the queue where the broker puts them; and what looks them up.
    async fn timers(hosted: &Arc<Hosted>, count: usize) -> (Source, QueueOffset) {
        let due_ms = (crate::service::wall_clock_ms() + 86_400_000).to_string();
        let properties = wire::properties_from([
            ("TIMER_OUT_MS", due_ms.as_str()),
            ("REAL_TOPIC", "T"),
            ("REAL_QID", "0"),
        ]);
        let message = wire::NewMessage {
            topic: wire::topic::WHEEL_TIMER,
            queue_id: QueueId(0),
            flag: 0,
            sys_flag: 0,
            born_timestamp: 1,
            born_host: hosted.store_host,
            store_host: hosted.store_host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"later",
            properties: &properties,
        };
        let mut records = bytes::BytesMut::new();
        for _ in 0..count {
            wire::encode_message(&message, &mut records).unwrap();
        }
        let topic = hosted.state.topic(wire::topic::WHEEL_TIMER).unwrap();
        let proposal = replica::MessagesProposal {
            topic: topic.name.clone(),
            queue: QueueId(0),
            records,
            count: count as u32,
        };
        let (told, outcome) = tokio::sync::oneshot::channel();
        let group = &hosted.serving().unwrap().group;
        group.propose_messages(proposal, Box::new(|outcome| told.send(outcome).unwrap()));
        outcome.await.unwrap().unwrap();
        let queue =
            SourceQueue { topic: topic.name.clone(), id: topic.id, queue: QueueId(0), delay_ms: None };
        (Source::new(queue), QueueOffset(count as u64))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn timers_are_looked_up_a_page_at_a_time() {
        let node = crate::tests::OneNode::start().await;
        let hosted = node.broker.hosted("b1");
        let (mut source, end) = timers(&hosted, LOOK_UP + 10).await;
        assert!(source.fill(&hosted, end).await.unwrap(), "there is more");
        assert_eq!(source.schedule.len(), LOOK_UP);
        assert!(!source.fill(&hosted, end).await.unwrap());
        assert_eq!(source.schedule.len(), LOOK_UP + 10);
        node.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_queue_that_cannot_be_read_pauses() {
        let node = crate::tests::OneNode::start().await;
        let hosted = node.broker.hosted("b1");
        let (mut source, end) = timers(&hosted, 3).await;
        source
            .after(&hosted, end, Err(Error::refused(wire::ResponseCode::SYSTEM_ERROR, "bad block")))
            .unwrap();
        let until = source.paused().expect("it pauses");
        assert!(!source.fill(&hosted, end).await.unwrap());
        assert_eq!(source.schedule.len(), 0);
        tokio::time::sleep_until(until.into()).await;
        assert!(!source.fill(&hosted, end).await.unwrap());
        assert_eq!((source.schedule.len(), source.paused()), (3, None));
        // Who leads no more has no business here.
        assert!(source.after(&hosted, end, Err(Error::NotLeader { leader: None })).is_err());
        node.stop().await;
    }
}
