//! L0: the version order. What is known of each queue's places and of each value, gathered in one pass; the rules L1 to
//! L14, one file each, ask it.
//!
//! ```text
//!   queue ─▶ offset ─▶ value, and who said so (acknowledged, read, drained); more values: contested
//!   value ─▶ queue, state (open, ok, fail, info), the place acknowledged or first seen; more places: elsewhere
//!   process ─▶ its open operation, with what was known of the queue when it was invoked
//! ```
//! Some 16 bytes are kept for each value and 9 for each place, so that ten million messages fit in half a gigabyte.
//! Everything is in the order of the history, which real time allows (history.rs); what was known at an invocation is
//! therefore what the operation may not fall behind.

mod aborted_read;
mod batch;
mod bounds;
mod consumer;
mod duplicate;
mod gap;
mod inconsistent;
mod lookup;
mod lost_final;
mod lost_live;
mod phantom;
mod places;
mod send_order;
mod uncommitted_read;

use std::collections::{BTreeMap, HashMap};

pub(crate) use places::{Marks, Offsets, Places};

use super::Rule;
use super::report::Examples;
use crate::history::{Bounds, Event, Kind, Op, Phase, Plan, Queue, Read, Value, Way};

/// The rules of this folder.
pub(crate) fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(inconsistent::Inconsistent),
        Box::new(gap::Gap::default()),
        Box::new(lost_live::LostLive::default()),
        Box::new(lost_final::LostFinal),
        Box::new(aborted_read::AbortedRead),
        Box::new(phantom::Phantom),
        Box::new(duplicate::Duplicate),
        Box::new(send_order::SendOrder),
        Box::new(consumer::Consumer::default()),
        Box::new(uncommitted_read::UncommittedRead),
        Box::new(bounds::QueueBounds),
        Box::new(batch::Batches::default()),
        Box::new(lookup::Lookups),
    ]
}

/// A queue's number, in the order in which the history names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct QueueNo(u32);

/// One event, as the rules see it.
#[derive(Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) event: &'a Event,
    pub(crate) queue: Option<QueueNo>,
    /// Of a completion: its invocation.
    pub(crate) open: Option<Open>,
}

/// An operation under way, and what was known of its queue when it was invoked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    /// The queue had messages up to here, exclusive: some were acknowledged, read, or told as its maximum.
    pub(crate) known_end: u64,
    /// The greatest first offset that was told.
    pub(crate) known_min: u64,
}

/// How a send ended, as far as the history goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Never completed: as unknown as [`State::Info`].
    Open,
    Ok,
    Fail,
    Info,
}

/// What is known of one value.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    /// [`NOWHERE`] if nobody saw it.
    offset: u64,
    queue: QueueNo,
    /// One bit for each [`Log::replicas`]: drained at `offset`.
    drained: u16,
    /// 0: the client did not say.
    attempts: u8,
    /// State in the lowest two bits.
    flags: u8,
}

const NOWHERE: u64 = u64::MAX;
const STATE: u8 = 3;
const READ: u8 = 4;
const SEEN: u8 = 8;
/// Bits in [`Sent::drained`].
pub(crate) const REPLICAS_MAX: usize = 16;

impl Sent {
    fn new(queue: QueueNo) -> Sent {
        Sent { offset: NOWHERE, queue, drained: 0, attempts: 0, flags: 0 }
    }

    pub(crate) fn state(&self) -> State {
        [State::Open, State::Ok, State::Fail, State::Info][usize::from(self.flags & STATE)]
    }

    fn set_state(&mut self, state: State) {
        self.flags = (self.flags & !STATE) | state as u8;
    }

    pub(crate) fn queue(&self) -> QueueNo {
        self.queue
    }

    /// The offset acknowledged, or else the one at which it was first seen.
    pub(crate) fn offset(&self) -> Option<u64> {
        (self.offset != NOWHERE).then_some(self.offset)
    }

    /// A consumer got it, before the drain.
    pub(crate) fn is_read(&self) -> bool {
        self.flags & READ != 0
    }

    /// Somebody got it, be it in the drain.
    pub(crate) fn is_seen(&self) -> bool {
        self.flags & SEEN != 0
    }

    /// The drain of [`Log::replicas`]`[replica]` had it at [`Sent::offset`].
    pub(crate) fn is_drained(&self, replica: usize) -> bool {
        replica < REPLICAS_MAX && self.drained & (1 << replica) != 0
    }

    /// How often it may be stored. `None`: nobody knows.
    pub(crate) fn attempts(&self) -> Option<u64> {
        (self.attempts > 0).then_some(u64::from(self.attempts))
    }
}

/// A queue as the history shows it.
pub(crate) struct QueueLog {
    pub(crate) name: Queue,
    pub(crate) places: Places,
    pub(crate) known_end: u64,
    pub(crate) known_min: u64,
    /// By number of the replica.
    pub(crate) drains: BTreeMap<usize, Drained>,
}

/// What one replica gave of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Drained {
    pub(crate) first: Option<u64>,
    pub(crate) last: Option<u64>,
    /// Set once the drain is complete.
    pub(crate) bounds: Option<Bounds>,
}

impl QueueLog {
    /// Every replica that was drained to its end.
    pub(crate) fn complete_drains(&self) -> impl Iterator<Item = (usize, Drained, Bounds)> {
        self.drains.iter().filter_map(|(&replica, drained)| Some((replica, *drained, drained.bounds?)))
    }

    /// Below this offset messages may have gone by retention; `None`: no drain tells the end of the story.
    pub(crate) fn drained_min(&self) -> Option<u64> {
        self.complete_drains().map(|(_, _, bounds)| bounds.min).max()
    }
}

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) plan: Option<Plan>,
    pub(crate) phase: Option<Phase>,
    numbers: HashMap<Queue, QueueNo>,
    queues: Vec<QueueLog>,
    /// By process, then by counter.
    sent: HashMap<u32, Vec<Sent>>,
    /// Places of values beyond their first.
    elsewhere: BTreeMap<Value, Vec<u64>>,
    open: HashMap<u32, Open>,
    /// Whose drains have a bit: node and way.
    pub(crate) replicas: Vec<(u64, Way)>,
    /// Reads of what nobody sent to that queue (L6).
    pub(crate) phantoms: Examples,
    /// Messages read, by whomever.
    pub(crate) reads: u64,
    /// Acknowledged messages.
    pub(crate) acknowledged: u64,
}

impl Log {
    pub(crate) fn step<'a>(&mut self, event: &'a Event) -> Step<'a> {
        let queue = event.op.queue().map(|queue| self.number(queue));
        let mut open = None;
        if event.kind == Kind::Invoke {
            self.invoke(event, queue);
        } else {
            if event.op.is_request() {
                open = self.open.remove(&event.process);
            }
            self.complete(event, queue);
        }
        Step { event, queue, open }
    }

    fn number(&mut self, queue: &Queue) -> QueueNo {
        if let Some(&number) = self.numbers.get(queue) {
            return number;
        }
        let number = QueueNo(self.queues.len() as u32);
        self.numbers.insert(queue.clone(), number);
        self.queues.push(QueueLog {
            name: queue.clone(),
            places: Places::default(),
            known_end: 0,
            known_min: 0,
            drains: BTreeMap::new(),
        });
        number
    }

    fn invoke(&mut self, event: &Event, queue: Option<QueueNo>) {
        let (known_end, known_min) =
            queue.map_or((0, 0), |queue| (self.queue(queue).known_end, self.queue(queue).known_min));
        self.open.insert(event.process, Open { known_end, known_min });
        let Some(queue) = queue else { return };
        for value in event.op.sends() {
            let of_process = self.sent.entry(value.process()).or_default();
            // Anything else breaks the rules of a history (rule H).
            if of_process.len() == value.counter() as usize && !value.is_foreign() {
                of_process.push(Sent::new(queue));
            }
        }
    }

    fn complete(&mut self, event: &Event, queue: Option<QueueNo>) {
        match &event.op {
            Op::Plan(plan) => {
                self.plan.get_or_insert_with(|| (**plan).clone());
            }
            Op::Phase(phase) => self.phase = Some(*phase),
            // What comes again is in a topic to which nobody sends: rule Q alone knows of it.
            Op::Pop { topic, messages, .. } if event.kind == Kind::Ok => {
                for popped in messages.iter().filter(|popped| popped.queue.topic == *topic) {
                    let queue = self.number(&popped.queue);
                    self.read(queue, Read { offset: popped.offset, value: popped.value });
                }
            }
            _ => {}
        }
        let Some(queue) = queue else { return };
        match &event.op {
            Op::Send { offset, .. } | Op::Batch { offset, .. } => self.settle(event, queue, *offset),
            // Where they will be, their acknowledgement does not know.
            Op::SendLater { .. } | Op::SendHalf { .. } => self.settle(event, queue, None),
            Op::Pull { messages, .. } | Op::Deliver { messages, .. } if event.kind == Kind::Ok => {
                for read in messages {
                    self.read(queue, *read);
                }
            }
            Op::Lookup { found, .. } if event.kind == Kind::Ok => {
                for found in found {
                    let queue = self.number(&found.queue);
                    self.read(queue, Read { offset: found.offset, value: found.value });
                }
            }
            Op::MaxOffset { offset: Some(end), .. } if event.kind == Kind::Ok => self.know_end(queue, *end),
            Op::MinOffset { offset: Some(min), .. } if event.kind == Kind::Ok => {
                let log = self.queue_mut(queue);
                log.known_min = log.known_min.max(*min);
            }
            Op::Drain { replica, way, messages, bounds, .. } => {
                self.drain(queue, (*replica, *way), messages, *bounds);
            }
            _ => {}
        }
    }

    /// The end of a send or batch.
    fn settle(&mut self, event: &Event, queue: QueueNo, offset: Option<u64>) {
        let state = match event.kind {
            Kind::Ok => State::Ok,
            Kind::Fail => State::Fail,
            Kind::Info => State::Info,
            Kind::Invoke => State::Open,
        };
        let attempts = event.attempts.unwrap_or(1).clamp(1, 255) as u8;
        let values = event.op.sends();
        for value in values {
            if let Some(sent) = self.sent_mut(*value) {
                sent.set_state(state);
                sent.attempts = attempts;
            }
        }
        if state == State::Ok {
            self.acknowledged += values.len() as u64;
        }
        let (State::Ok, Some(first)) = (state, offset) else { return };
        for (&value, nth) in values.iter().zip(0..) {
            let at = first.saturating_add(nth);
            self.queue_mut(queue).places.mark(at, value, Marks::ACKNOWLEDGED);
            let Some(sent) =
                self.sent.get_mut(&value.process()).and_then(|of| of.get_mut(value.counter() as usize))
            else {
                continue;
            };
            // The acknowledged place is the one that counts; where it was seen before is one more.
            let before = std::mem::replace(&mut sent.offset, at);
            if before != NOWHERE && before != at {
                sent.drained = 0;
                let others = self.elsewhere.entry(value).or_default();
                others.retain(|&other| other != at);
                others.push(before);
            }
        }
        self.know_end(queue, first.saturating_add(values.len() as u64));
    }

    fn know_end(&mut self, queue: QueueNo, end: u64) {
        let log = self.queue_mut(queue);
        log.known_end = log.known_end.max(end);
    }

    /// A consumer got a message.
    fn read(&mut self, queue: QueueNo, read: Read) {
        self.saw(queue, read, Marks::READ);
        if let Some(sent) = self.sent_mut(read.value) {
            sent.flags |= READ;
        }
    }

    /// Somebody got a message. Whether the value is one that was sent to that queue.
    fn saw(&mut self, queue: QueueNo, Read { offset, value }: Read, mark: Marks) -> bool {
        self.reads += 1;
        self.queue_mut(queue).places.mark(offset, value, mark);
        self.know_end(queue, offset.saturating_add(1));
        let sent = self.sent.get_mut(&value.process()).and_then(|of| of.get_mut(value.counter() as usize));
        let Some(sent) = sent.filter(|sent| sent.queue == queue) else {
            let name = &self.queues[queue.0 as usize].name;
            self.phantoms.add(|| format!("{value} was read at {offset} of {name}, where nobody sent it"));
            return false;
        };
        sent.flags |= SEEN;
        if sent.offset == NOWHERE {
            sent.offset = offset;
        } else if sent.offset != offset {
            let others = self.elsewhere.entry(value).or_default();
            if !others.contains(&offset) {
                others.push(offset);
            }
        }
        true
    }

    fn drain(&mut self, queue: QueueNo, replica: (u64, Way), messages: &[Read], bounds: Option<Bounds>) {
        let number = match self.replicas.iter().position(|known| *known == replica) {
            Some(number) => number,
            None => {
                self.replicas.push(replica);
                self.replicas.len() - 1
            }
        };
        for read in messages {
            let known = self.saw(queue, *read, Marks::DRAINED);
            if known
                && number < REPLICAS_MAX
                && let Some(sent) = self.sent_mut(read.value)
                && sent.offset == read.offset
            {
                sent.drained |= 1 << number;
            }
        }
        let drained = self.queue_mut(queue).drains.entry(number).or_default();
        if let (Some(first), Some(last)) = (messages.first(), messages.last()) {
            drained.first.get_or_insert(first.offset);
            drained.last = Some(last.offset);
        }
        drained.bounds = drained.bounds.or(bounds);
    }

    fn queue_mut(&mut self, queue: QueueNo) -> &mut QueueLog {
        &mut self.queues[queue.0 as usize]
    }

    pub(crate) fn queue(&self, queue: QueueNo) -> &QueueLog {
        &self.queues[queue.0 as usize]
    }

    pub(crate) fn queue_named(&self, queue: &Queue) -> Option<&QueueLog> {
        self.numbers.get(queue).map(|&number| self.queue(number))
    }

    pub(crate) fn queues(&self) -> impl Iterator<Item = (QueueNo, &QueueLog)> {
        (0..).map(QueueNo).zip(&self.queues)
    }

    fn sent_mut(&mut self, value: Value) -> Option<&mut Sent> {
        self.sent.get_mut(&value.process())?.get_mut(value.counter() as usize)
    }

    pub(crate) fn sent(&self, value: Value) -> Option<&Sent> {
        self.sent.get(&value.process())?.get(value.counter() as usize)
    }

    /// Every value that was ever sent. Processes come in no order.
    pub(crate) fn all_sent(&self) -> impl Iterator<Item = (Value, &Sent)> {
        self.sent.iter().flat_map(|(&process, sent)| {
            (0..).zip(sent).map(move |(counter, sent)| (Value::new(process, counter), sent))
        })
    }

    /// Values at more than one place, with those beyond the first.
    pub(crate) fn elsewhere(&self) -> impl Iterator<Item = (Value, &[u64])> {
        self.elsewhere
            .iter()
            .filter(|(_, places)| !places.is_empty())
            .map(|(&value, places)| (value, &**places))
    }

    /// All places of a value, in its own queue.
    pub(crate) fn places_of(&self, value: Value) -> Vec<u64> {
        let first = self.sent(value).and_then(Sent::offset);
        let others = self.elsewhere.get(&value).into_iter().flatten().copied();
        first.into_iter().chain(others).collect()
    }

    /// The operations that never completed.
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::{Story, queue, value};

    fn log_of(story: &Story) -> Log {
        let mut log = Log::default();
        for event in story.events() {
            log.step(event);
        }
        log
    }

    #[test]
    fn the_order_comes_from_acknowledgements_reads_and_drains() {
        let mut story = Story::new();
        story.sent("1-0", 0).unknown("1-1").sent("2-0", 2).pulled(9, 0, "1-0 1-1").drained(1, "1-0 1-1 2-0");
        let log = log_of(&story);
        let (number, log_of_queue) = log.queues().next().unwrap();
        assert_eq!(log_of_queue.name, queue());
        let order: Vec<_> = log_of_queue.places.all().map(|(at, value, _)| (at, value.to_string())).collect();
        assert_eq!(order, [(0, "1-0".to_owned()), (1, "1-1".to_owned()), (2, "2-0".to_owned())]);
        let proved = log.sent(value("1-1")).unwrap();
        assert_eq!((proved.state(), proved.offset(), proved.queue()), (State::Info, Some(1), number));
        assert!(proved.is_read() && proved.is_drained(0));
        let unread = log.sent(value("2-0")).unwrap();
        assert!(!unread.is_read() && unread.is_seen());
        assert_eq!((log_of_queue.known_end, log.acknowledged), (3, 2));
        assert_eq!(log.open_count(), 0);
    }

    #[test]
    fn the_acknowledged_place_is_the_first_even_if_another_was_seen_before() {
        let mut story = Story::new();
        story.invoke_send("1-0").pulled(9, 0, "1-0").ok_send("1-0", 4).pulled(9, 4, "1-0");
        let log = log_of(&story);
        assert_eq!(log.places_of(value("1-0")), [4, 0]);
        assert_eq!(log.elsewhere().count(), 1);
    }

    #[test]
    fn what_is_known_at_an_invocation_is_what_completed_before() {
        let mut story = Story::new();
        story.invoke_send("1-0").sent("2-0", 7).ok_send("1-0", 0).sent("2-1", 8);
        let mut log = Log::default();
        let mut known = Vec::new();
        for event in story.events() {
            let step = log.step(event);
            known.extend(step.open.map(|open| open.known_end));
        }
        // 2-0 began with nothing known, so did 1-0 before it; 2-1 knows of 2-0
        assert_eq!(known, [0, 0, 8]);
    }
}
