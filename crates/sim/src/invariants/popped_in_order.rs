//! Of an orderly group one batch of a queue is out at a time: nobody else gets the queue before its invisible time is over by
//! log time. The consumer offset follows the acknowledgements, what is acknowledged is not handed out again, and what is handed
//! out again says how often others had it before (state/pop.rs). Worked out from the log alone, apart from the tables.

use std::collections::{BTreeMap, BTreeSet};

use broker::state::command::{Kind, PopAck, PopTake, TakePart};

use super::{Invariant, Verdict};
use crate::oracle::{Answer, Entry, History, Out, Queue, Replica};
use crate::plan::ORDERED;

#[derive(Default)]
struct Ordered {
    cursor: Option<u64>,
    /// Of who has the batch.
    attempt_id: String,
    /// The consumer offset when all of the batch is acknowledged.
    end: u64,
    out: BTreeMap<u64, Out>,
    acknowledged: BTreeSet<u64>,
}

impl Ordered {
    /// Whether somebody else's batch is out.
    fn is_blocked(&self, attempt_id: &str, now_ms: u64) -> bool {
        let is_own = !attempt_id.is_empty() && self.attempt_id == attempt_id;
        !is_own && self.out.values().any(|out| now_ms < out.visible_at_ms)
    }

    fn move_cursor(&mut self) {
        let mut cursor = self.out.keys().next().copied().unwrap_or(self.end);
        while self.acknowledged.contains(&cursor) {
            cursor += 1;
        }
        self.cursor = Some(cursor);
    }

    fn take(&mut self, take: &PopTake, part: &TakePart, now_ms: u64) {
        let is_own = !take.attempt_id.is_empty() && self.attempt_id == take.attempt_id;
        let before = std::mem::take(&mut self.out);
        let visible_at_ms = now_ms + take.invisible_ms;
        for offset in &part.offsets {
            let attempts = before.get(offset).map_or(0, |out| out.attempts + u32::from(!is_own));
            self.out.insert(*offset, Out { pop_time_ms: now_ms, visible_at_ms, attempts });
        }
        (self.attempt_id, self.end) = (take.attempt_id.clone(), part.next);
        self.move_cursor();
    }
}

#[derive(Default)]
pub(super) struct PoppedInOrder {
    queues: BTreeMap<Queue, Ordered>,
}

impl PoppedInOrder {
    fn take(&mut self, history: &History, entry: &Entry<'_>, take: &PopTake) -> BTreeSet<usize> {
        let now_ms = entry.frame.log_time_ms();
        let mut granted = BTreeSet::new();
        for (place, part) in take.parts.iter().enumerate() {
            let queue = history.queue(entry.group, part.topic, part.queue);
            let end = history.stored.get(&queue).map_or(0, Vec::len) as u64;
            let ordered = self.queues.entry(queue.clone()).or_default();
            let from = part.cursor.unwrap_or(0);
            let is_possible = ordered.cursor == part.cursor && (from..=end).contains(&part.next);
            // Whoever had the batch may have acknowledged some of it while this was on its way.
            let is_done = part.offsets.iter().any(|offset| ordered.acknowledged.contains(offset));
            if !is_possible || is_done || ordered.is_blocked(&take.attempt_id, now_ms) {
                continue;
            }
            granted.insert(place);
            ordered.take(take, part, now_ms);
        }
        granted
    }

    fn ack(&mut self, history: &History, entry: &Entry<'_>, ack: &PopAck) -> BTreeSet<usize> {
        let mut granted = BTreeSet::new();
        for (at, offset) in ack.offsets.iter().enumerate() {
            let queue = history.queue(entry.group, ack.topics[at], ack.queues[at]);
            let ordered = self.queues.entry(queue).or_default();
            if ordered.out.get(offset).is_some_and(|out| out.pop_time_ms == ack.pop_times_ms[at]) {
                ordered.out.remove(offset);
                ordered.acknowledged.insert(*offset);
                ordered.move_cursor();
                granted.insert(at);
            }
        }
        granted
    }
}

impl Invariant for PoppedInOrder {
    fn name(&self) -> &'static str {
        "popped_in_order"
    }

    fn applied(&mut self, history: &History, entry: &Entry<'_>) -> Verdict {
        let Some(command) = entry.command.filter(|_| entry.is_first) else { return Ok(()) };
        if history.popped_topic(entry.group, command) != Some(ORDERED) {
            return Ok(());
        }
        let granted = match command {
            Kind::PopTake(take) => self.take(history, entry, take),
            Kind::PopAck(ack) => self.ack(history, entry, ack),
            _ => return Ok(()),
        };
        if granted != entry.granted() {
            let id = entry.frame.id();
            return Err(format!(
                "entry {id}: {command:?} was granted {:?}, not {granted:?}",
                entry.reply.granted
            ));
        }
        Ok(())
    }

    fn answered(&mut self, _history: &History, answer: &Answer) -> Verdict {
        let Answer::ConsumedInOrder { queue, offset } = answer else { return Ok(()) };
        if self.queues.get(queue).is_some_and(|ordered| ordered.acknowledged.contains(offset)) {
            return Ok(());
        }
        Err(format!("{queue:?} {offset} is acknowledged, they say, and is not"))
    }

    fn ended(&mut self, _history: &History, replicas: &[Replica]) -> Verdict {
        let nothing = Ordered::default();
        for replica in replicas {
            for (queue, (cursor, out)) in &replica.in_order {
                let ordered = self.queues.get(queue).unwrap_or(&nothing);
                if (*cursor, out) != (ordered.cursor, &ordered.out) {
                    return Err(format!(
                        "{queue:?}: node {} goes on at {cursor:?} and has {out:?} out, not {:?} and {:?}",
                        replica.node, ordered.cursor, ordered.out
                    ));
                }
            }
        }
        Ok(())
    }
}
