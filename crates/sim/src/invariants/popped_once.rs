//! A popped message is in one consumer's hands, and leaves them once: acknowledged by who has it, or with its copy once its
//! invisible time is over by log time (state/pop.rs). Worked out from the log alone, apart from the tables. The offsets of
//! the pop consumers are moved by nobody else here, so nothing is handed out a second time.

use std::collections::{BTreeMap, BTreeSet};

use broker::state::command::{Kind, PopAck, PopChange, PopRevive, PopTake};

use super::{Invariant, Verdict, copies_match};
use crate::oracle::{Answer, Entry, History, Queue, Replica};
use crate::plan::POPPED;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Out { pop_time_ms: u64, visible_at_ms: u64 },
    Acknowledged,
    Revived,
}

#[derive(Default)]
struct Popped {
    cursor: Option<u64>,
    messages: BTreeMap<u64, Message>,
}

impl Popped {
    /// Whether it is out with this pop time.
    fn is_held(&self, offset: u64, by_ms: u64) -> bool {
        matches!(self.messages.get(&offset), Some(Message::Out { pop_time_ms, .. }) if *pop_time_ms == by_ms)
    }
}

#[derive(Default)]
pub(super) struct PoppedOnce {
    queues: BTreeMap<Queue, Popped>,
}

impl PoppedOnce {
    fn queue(&mut self, queue: &Queue) -> &mut Popped {
        self.queues.entry(queue.clone()).or_default()
    }

    /// Which parts are granted.
    fn take(
        &mut self,
        history: &History,
        entry: &Entry<'_>,
        take: &PopTake,
    ) -> Result<BTreeSet<usize>, String> {
        let now_ms = entry.frame.log_time_ms();
        let mut granted = BTreeSet::new();
        for (place, part) in take.parts.iter().enumerate() {
            let queue = history.queue(entry.group, part.topic, part.queue);
            let end = history.stored.get(&queue).map_or(0, Vec::len) as u64;
            let popped = self.queue(&queue);
            let from = part.cursor.unwrap_or(0);
            if popped.cursor != part.cursor || !(from..=end).contains(&part.next) {
                continue;
            }
            granted.insert(place);
            popped.cursor = Some(part.next);
            for offset in &part.offsets {
                let out = Message::Out { pop_time_ms: now_ms, visible_at_ms: now_ms + take.invisible_ms };
                if let Some(before) = popped.messages.insert(*offset, out) {
                    return Err(format!("{queue:?} {offset} is handed out again; it was {before:?}"));
                }
            }
        }
        Ok(granted)
    }

    fn ack(&mut self, history: &History, entry: &Entry<'_>, ack: &PopAck) -> BTreeSet<usize> {
        let mut granted = BTreeSet::new();
        for place in 0..ack.offsets.len() {
            let queue = history.queue(entry.group, ack.topics[place], ack.queues[place]);
            let popped = self.queue(&queue);
            if popped.is_held(ack.offsets[place], ack.pop_times_ms[place]) {
                popped.messages.insert(ack.offsets[place], Message::Acknowledged);
                granted.insert(place);
            }
        }
        granted
    }

    fn change(&mut self, history: &History, entry: &Entry<'_>, change: &PopChange) -> BTreeSet<usize> {
        let now_ms = entry.frame.log_time_ms();
        let mut granted = BTreeSet::new();
        for place in 0..change.offsets.len() {
            let queue = history.queue(entry.group, change.topics[place], change.queues[place]);
            let popped = self.queue(&queue);
            if popped.is_held(change.offsets[place], change.pop_times_ms[place]) {
                let visible_at_ms = now_ms + change.invisible_ms[place];
                let out = Message::Out { pop_time_ms: now_ms, visible_at_ms };
                popped.messages.insert(change.offsets[place], out);
                granted.insert(place);
            }
        }
        granted
    }

    fn revive(&mut self, history: &History, entry: &Entry<'_>, revive: &PopRevive) -> Verdict {
        let now_ms = entry.frame.log_time_ms();
        let id = entry.frame.id();
        let mut named: Vec<(Queue, u64)> = Vec::new();
        for batch in &revive.batches {
            let queue = history.queue(entry.group, batch.topic, batch.queue);
            named.extend(batch.offsets.iter().map(|offset| (queue.clone(), *offset)));
        }
        let each_once = named.iter().collect::<BTreeSet<_>>().len() == named.len();
        let is_due = |(queue, offset): &(Queue, u64)| {
            let message = self.queues.get(queue).and_then(|popped| popped.messages.get(offset));
            matches!(message, Some(Message::Out { visible_at_ms, .. }) if *visible_at_ms <= now_ms)
        };
        let fits = each_once && named.iter().all(is_due);
        let follows = entry.follows(history);
        if entry.is_void == (fits && follows) {
            let void = if entry.is_void { "void" } else { "not void" };
            return Err(format!(
                "entry {id} is {void}; all of {named:?} is due at {now_ms}: {fits}; its messages follow: {follows}"
            ));
        }
        if entry.is_void {
            return Ok(());
        }
        copies_match(history, entry, &named)?;
        for (queue, offset) in &named {
            self.queue(queue).messages.insert(*offset, Message::Revived);
        }
        Ok(())
    }
}

impl Invariant for PoppedOnce {
    fn name(&self) -> &'static str {
        "popped_once"
    }

    fn applied(&mut self, history: &History, entry: &Entry<'_>) -> Verdict {
        let Some(command) = entry.command.filter(|_| entry.is_first) else { return Ok(()) };
        if history.popped_topic(entry.group, command) != Some(POPPED) {
            return Ok(());
        }
        let granted = match command {
            Kind::PopTake(take) => self.take(history, entry, take)?,
            Kind::PopAck(ack) => self.ack(history, entry, ack),
            Kind::PopChange(change) => self.change(history, entry, change),
            Kind::PopRevive(revive) => return self.revive(history, entry, revive),
            _ => return Ok(()),
        };
        if granted != entry.granted() {
            let id = entry.frame.id();
            return Err(format!("entry {id} was granted {:?}, not {granted:?}", entry.reply.granted));
        }
        Ok(())
    }

    fn answered(&mut self, _history: &History, answer: &Answer) -> Verdict {
        match answer {
            Answer::Popped { queue, offsets, pop_time_ms } => {
                let popped = self.queues.get(queue);
                // It may have left these hands already, but was in them.
                let was_given = |offset: &&u64| {
                    popped.and_then(|popped| popped.messages.get(offset)).is_some_and(|message| match message
                    {
                        Message::Out { pop_time_ms: now, .. } => now >= pop_time_ms,
                        Message::Acknowledged | Message::Revived => true,
                    })
                };
                match offsets.iter().find(|offset| !was_given(offset)) {
                    Some(offset) => {
                        Err(format!("{queue:?} {offset} was given out, and is in nobody's hands"))
                    }
                    None => Ok(()),
                }
            }
            Answer::Consumed { queue, offset } => {
                let found = self.queues.get(queue).and_then(|popped| popped.messages.get(offset));
                match found {
                    Some(Message::Acknowledged) => Ok(()),
                    _ => Err(format!("{queue:?} {offset} is acknowledged, they say, and is {found:?}")),
                }
            }
            _ => Ok(()),
        }
    }

    fn ended(&mut self, _history: &History, replicas: &[Replica]) -> Verdict {
        let nothing = Popped::default();
        for replica in replicas {
            for (queue, in_flight) in &replica.in_flight {
                let popped = self.queues.get(queue).unwrap_or(&nothing);
                let out = popped.messages.iter().filter_map(|(offset, message)| match message {
                    Message::Out { pop_time_ms, visible_at_ms } => {
                        Some((*offset, (*pop_time_ms, *visible_at_ms)))
                    }
                    Message::Acknowledged | Message::Revived => None,
                });
                let out: BTreeMap<u64, (u64, u64)> = out.collect();
                let node = replica.node;
                if *in_flight != out {
                    return Err(format!("{queue:?}: node {node} has {in_flight:?} in flight, not {out:?}"));
                }
                let cursor = replica.cursors.get(queue).copied().flatten();
                if cursor != popped.cursor {
                    return Err(format!(
                        "{queue:?}: pops go on at {cursor:?} on node {node}, not at {:?}",
                        popped.cursor
                    ));
                }
            }
        }
        Ok(())
    }
}
