//! One queue of waiting messages, as the leader sees it: which are pending, and when they are due.

use std::collections::HashSet;
use std::sync::Arc;

use store::index::Unit;
use wire::{QueueId, QueueOffset};

use super::schedule::Schedule;
use crate::errors::Error;
use crate::handlers::offset::blocking;
use crate::hosted::{Hosted, Serving};
use crate::limits::DELIVERY_MESSAGES;
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
    /// How many are taken at once.
    pub(super) batch: usize,
    next: QueueOffset,
}

/// Of a level, whose messages are due in the order of their offsets, so many are looked ahead at.
const AHEAD: usize = 4096;
/// Messages looked up at once.
const LOOK_UP: usize = 4096;

impl Source {
    pub(super) fn new(queue: SourceQueue) -> Source {
        Source { queue, schedule: Schedule::default(), batch: DELIVERY_MESSAGES, next: QueueOffset(0) }
    }

    /// Schedules messages that are not scheduled yet: of timers all, of a level as many as are looked ahead at. `end`: the
    /// queue's next offset.
    pub(super) async fn fill(&mut self, hosted: &Arc<Hosted>, end: QueueOffset) -> Result<(), Error> {
        while self.next < end && (self.queue.delay_ms.is_none() || self.schedule.len() < AHEAD) {
            let SourceQueue { topic, queue, .. } = &self.queue;
            let pending = hosted.state.pending(topic, *queue, self.next, LOOK_UP);
            if pending.is_empty() {
                self.next = end;
                return Ok(());
            }
            let mut found = self.look_up(hosted, &pending).await?;
            // What is applied this very moment is not in the index yet: it is told of when it is.
            let Some((last, _)) = found.last() else { return Ok(()) };
            self.next = last.plus(1);
            let mut missing: Vec<QueueOffset> =
                pending.iter().copied().take_while(|offset| *offset < self.next).collect();
            if found.len() < missing.len() {
                // The index has what lies behind them, so that it has them by now; or never.
                let known: HashSet<u64> = found.iter().map(|(offset, _)| offset.0).collect();
                missing.retain(|offset| !known.contains(&offset.0));
                let late = self.look_up(hosted, &missing).await?;
                if late.len() < missing.len() {
                    let SourceQueue { topic, queue, .. } = &self.queue;
                    let (group, queue, lost) = (hosted.name(), queue.0, missing.len() - late.len());
                    tracing::error!(group, %topic, queue, lost, "messages that wait are not in the index");
                }
                found.extend(late);
            }
            for (offset, unit) in &found {
                self.schedule.add(self.queue.due_ms(unit), offset.0);
            }
        }
        Ok(())
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
            match index.units_in_memory(&queue.topic, queue.queue, *first, span(count)) {
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
