//! What is known of a run from outside: what was sent and how it ended, what was applied where. Each thing that happens is
//! shown to every invariant (invariants/), and the first that does not hold ends the run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker::state::command::Kind;
use broker::state::{Command, Reply};
use prost::Message as _;
use replica::Outcome;
use store::{Frame, FrameKind, LogState, Vote};

use crate::clock;
use crate::invariants::{self, Invariant, Verdict};
use crate::tables::{Read, value_of};
use crate::trace::say;

/// A queue: Raft group, topic, queue id.
pub(crate) type Queue = (usize, String, u32);

/// Where a consumer's offset is kept: Raft group, consumer group, topic, queue id.
pub(crate) type Consumed = (usize, String, String, u32);

/// How a send ended, as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Open,
    Acknowledged,
    /// Definitely not stored.
    Refused,
    Unknown,
}

#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) queue: Queue,
    pub(crate) fate: Fate,
    /// Where it is, once that was acknowledged.
    pub(crate) offset: Option<u64>,
}

/// A message of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) queue: Queue,
    pub(crate) offset: u64,
    pub(crate) position: u64,
    pub(crate) size: u64,
    /// `None`: its body is none of ours.
    pub(crate) value: Option<String>,
}

/// An entry that a node applies.
pub(crate) struct Entry<'a> {
    pub(crate) node: u64,
    pub(crate) group: usize,
    pub(crate) frame: &'a Frame,
    pub(crate) is_void: bool,
    /// The command, if it has one.
    pub(crate) command: Option<&'a Kind>,
    /// What the tables answered to it; nothing where the entry is void.
    pub(crate) reply: &'a Reply,
    pub(crate) messages: &'a [Message],
    /// No other node has applied it before.
    pub(crate) is_first: bool,
}

impl Entry<'_> {
    /// A command and messages: both take effect or neither.
    pub(crate) fn is_coupled(&self) -> bool {
        self.frame.kind() == FrameKind::Coupled
    }

    /// Whether its messages continue their queues.
    pub(crate) fn follows(&self, history: &History) -> bool {
        let mut nexts: BTreeMap<&Queue, u64> = BTreeMap::new();
        self.messages.iter().all(|message| {
            let end = history.stored.get(&message.queue).map_or(0, Vec::len) as u64;
            let next = nexts.entry(&message.queue).or_insert(end);
            *next += 1;
            message.offset + 1 == *next
        })
    }

    /// Which of a list of so many the tables granted.
    pub(crate) fn granted(&self) -> BTreeSet<usize> {
        self.reply.granted.iter().map(|place| *place as usize).collect()
    }
}

/// The value of the message of which this is the value of a copy.
pub(crate) fn original(copy: &str) -> &str {
    copy.rsplit_once('>').map_or(copy, |(original, _)| original)
}

/// What a client has learned.
#[derive(Debug)]
pub(crate) enum Answer {
    Acknowledged {
        queue: Queue,
        values: Vec<String>,
        offset: u64,
        position: u64,
    },
    Refused {
        values: Vec<String>,
    },
    /// Messages that a node gave out from an offset on.
    Pulled {
        node: u64,
        queue: Queue,
        from: u64,
        messages: Vec<Read>,
    },
    /// The end of a queue, which was known to be `at_least` that when it was asked for.
    End {
        queue: Queue,
        at_least: u64,
        end: u64,
    },
    /// A commit ended; `is_known`: it was acknowledged.
    Committed {
        consumed: Consumed,
        offset: u64,
        is_known: bool,
    },
    /// The committed offset.
    Offset {
        consumed: Consumed,
        offset: Option<u64>,
    },
    /// Messages of a source queue are done.
    Done {
        queue: Queue,
        offsets: Vec<u64>,
    },
    /// What is pending of a source queue, of which so much was known to be done when it was asked for.
    Pending {
        queue: Queue,
        done: BTreeSet<u64>,
        pending: Vec<u64>,
    },
    /// A pop consumer was given messages.
    Popped {
        queue: Queue,
        offsets: Vec<u64>,
        pop_time_ms: u64,
    },
    /// A popped message is acknowledged.
    Consumed {
        queue: Queue,
        offset: u64,
    },
    /// So is one that was popped in order.
    ConsumedInOrder {
        queue: Queue,
        offset: u64,
    },
    /// The offset was reset.
    Reset {
        consumed: Consumed,
        offset: u64,
    },
    /// The committed offset, of a group whose offsets are reset; when it was asked for, the entry `since` was applied.
    Asked {
        consumed: Consumed,
        since: u64,
        offset: Option<u64>,
    },
    /// Attempts to learn what is to become of messages that wait are counted.
    Tried {
        queue: Queue,
        offsets: Vec<u64>,
    },
}

/// A message in the hands of an orderly consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Out {
    pub(crate) pop_time_ms: u64,
    pub(crate) visible_at_ms: u64,
    /// How often others had it before.
    pub(crate) attempts: u32,
}

/// A group as one node has it.
#[derive(Clone, Debug)]
pub(crate) struct GroupSight {
    pub(crate) group: usize,
    pub(crate) leads: bool,
    pub(crate) term: u64,
    pub(crate) vote: Option<Vote>,
    pub(crate) log: LogState,
    pub(crate) applied_end: u64,
}

/// A log as it is after a millisecond; of a new process first as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) node: u64,
    pub(crate) process: u64,
    pub(crate) group: usize,
    pub(crate) log: LogState,
    pub(crate) vote: Option<Vote>,
}

/// All nodes that run, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    /// By node and process.
    pub(crate) groups: Vec<(u64, u64, GroupSight)>,
    /// What the wall clocks of the nodes say that are not set wrong, at the most, ms.
    pub(crate) wall_ms: u64,
    /// Nodes to which no other node's words get through; they themselves are well.
    pub(crate) alone: Vec<u64>,
}

/// A group on a node at the end, when all has been healed and has come to rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) node: u64,
    pub(crate) group: usize,
    pub(crate) last_index: u64,
    /// Where the logs of all its replicas have begun: what is before it some have purged.
    pub(crate) from: u64,
    /// Hash of all frames from there on, with their positions.
    pub(crate) log_hash: u64,
    pub(crate) tables: Vec<u8>,
    /// By offset; nothing where a message is before `from`.
    pub(crate) queues: BTreeMap<Queue, Vec<Option<Read>>>,
    pub(crate) offsets: BTreeMap<Consumed, u64>,
    /// What waits in source queues.
    pub(crate) pending: BTreeMap<Queue, Vec<u64>>,
    /// Where the pop consumers go on.
    pub(crate) cursors: BTreeMap<Queue, Option<u64>>,
    /// What pop consumers have: pop time and end of the invisible time, by offset.
    pub(crate) in_flight: BTreeMap<Queue, BTreeMap<u64, (u64, u64)>>,
    /// Where the orderly consumers go on, and what they have.
    pub(crate) in_order: BTreeMap<Queue, (Option<u64>, BTreeMap<u64, Out>)>,
    /// Offsets that were reset and that nobody was told of.
    pub(crate) resets: BTreeMap<Consumed, u64>,
    /// Attempts with what waits in source queues, and the log time of the last.
    pub(crate) attempts: BTreeMap<Queue, BTreeMap<u64, (u32, u64)>>,
}

/// Counts, for people and for the runner, which asks whether enough happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) pulled: u64,
    pub(crate) voids: u64,
    /// Coupled entries, and those of them that were void.
    pub(crate) coupled: u64,
    pub(crate) coupled_voids: u64,
    /// Messages that were handed out to pop consumers, and locks that were granted, in the log.
    pub(crate) popped: u64,
    pub(crate) locked: u64,
    /// Messages that went to orderly consumers, and those of them that had been out before.
    pub(crate) in_order: u64,
    pub(crate) again: u64,
    /// Offsets that were reset, and resets of which consumers were told.
    pub(crate) resets: u64,
    pub(crate) told: u64,
    /// Attempts that were counted.
    pub(crate) attempts: u64,
    /// Snapshots of a leader that a node has taken over.
    pub(crate) installed: u64,
    pub(crate) entries: u64,
    /// Highest term of any group.
    pub(crate) terms: u64,
}

/// What all invariants may look at.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) sent: BTreeMap<String, Sent>,
    /// What each queue holds, by the first node that applied it.
    pub(crate) stored: BTreeMap<Queue, Vec<Message>>,
    /// Where the fsynced part of a log ends, by node and group; of nodes that are down what was known last.
    pub(crate) synced_end: BTreeMap<(u64, usize), u64>,
    /// The last entry that any node has applied, by group.
    pub(crate) applied: BTreeMap<usize, u64>,
    /// The names of topics by group and number.
    pub(crate) topics: BTreeMap<(usize, u32), String>,
    /// The names of consumer groups by group and number.
    pub(crate) consumers: BTreeMap<(usize, u32), String>,
    /// What of source queues clients know to be done.
    pub(crate) done: BTreeMap<Queue, BTreeSet<u64>>,
    /// What orderly consumers have had.
    in_order: BTreeSet<(Queue, u64)>,
    pub(crate) counts: Counts,
}

impl History {
    /// The queue of a topic that is known by its number.
    pub(crate) fn queue(&self, group: usize, topic: u32, queue: u32) -> Queue {
        let topic = self.topics.get(&(group, topic)).cloned();
        (group, topic.unwrap_or_else(|| "a topic that nobody made".to_owned()), queue)
    }

    /// The offset of a consumer group, which, like the topic, is known by its number.
    pub(crate) fn consumed(&self, group: usize, consumer: u32, topic: u32, queue: u32) -> Consumed {
        let consumer = self.consumers.get(&(group, consumer)).cloned();
        let (_, topic, queue) = self.queue(group, topic, queue);
        (group, consumer.unwrap_or_else(|| "a consumer group that nobody made".to_owned()), topic, queue)
    }

    /// The topic that a command of pop consumers is about: one has one.
    pub(crate) fn popped_topic(&self, group: usize, command: &Kind) -> Option<&str> {
        let topic = match command {
            Kind::PopTake(take) => take.parts.first()?.topic,
            Kind::PopAck(ack) => *ack.topics.first()?,
            Kind::PopChange(change) => *change.topics.first()?,
            Kind::PopRevive(revive) => revive.batches.first()?.topic,
            _ => return None,
        };
        self.topics.get(&(group, topic)).map(String::as_str)
    }

    pub(crate) fn value(&self, queue: &Queue, offset: u64) -> Option<&str> {
        self.stored.get(queue)?.get(offset as usize)?.value.as_deref()
    }
}

struct State {
    history: History,
    invariants: Vec<Box<dyn Invariant>>,
    violations: Vec<String>,
}

/// See the module.
pub(crate) struct Oracle(Mutex<State>);

impl Oracle {
    pub(crate) fn new() -> Arc<Self> {
        let state =
            State { history: History::default(), invariants: invariants::all(), violations: Vec::new() };
        Arc::new(Oracle(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something does not hold.
    pub(crate) fn violated(&self, name: &str, what: &str) {
        self.state().violated(name, what);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    pub(crate) fn is_violated(&self) -> bool {
        !self.state().violations.is_empty()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state().history.counts.clone()
    }

    /// A node has applied an entry.
    pub(crate) fn applied(&self, node: u64, group: usize, frame: &Frame, outcome: &Outcome) {
        let messages = messages_of(group, frame);
        let is_void = *outcome == Outcome::Void;
        let command = frame.command().and_then(|body| Command::decode(body).ok()?.kind);
        let reply = match outcome {
            Outcome::Command(answer) | Outcome::Coupled(answer) => Reply::decode(answer.clone()),
            Outcome::Void | Outcome::Messages => Ok(Reply::default()),
        };
        let Ok(reply) = reply else {
            self.violated("replies", &format!("the outcome of {} cannot be read", frame.id()));
            return;
        };
        let index = frame.id().index.0;
        let mut state = self.state();
        let is_first = state.history.applied.get(&group).is_none_or(|last| index > *last);
        let (command, messages_here) = (command.as_ref(), messages.as_slice());
        let entry =
            Entry { node, group, frame, is_void, command, reply: &reply, messages: messages_here, is_first };
        state.ask(|invariant, history| invariant.applied(history, &entry));
        if is_first {
            let history = &mut state.history;
            history.applied.insert(group, index);
            history.counts.entries += 1;
            history.counts.voids += u64::from(is_void);
            if frame.kind() == FrameKind::Coupled {
                history.counts.coupled += 1;
                history.counts.coupled_voids += u64::from(is_void);
            }
            let granted = reply.granted.len() as u64;
            match command {
                Some(Kind::PopTake(take)) if take.order && reply.granted == [0] => {
                    let part = &take.parts[0];
                    let queue = history.queue(group, part.topic, part.queue);
                    for offset in &part.offsets {
                        history.counts.in_order += 1;
                        history.counts.again += u64::from(!history.in_order.insert((queue.clone(), *offset)));
                    }
                }
                Some(Kind::PopTake(take)) if reply.granted == [0] => {
                    history.counts.popped += take.parts[0].offsets.len() as u64;
                }
                Some(Kind::Lock(lock)) if !lock.unlock => history.counts.locked += granted,
                Some(Kind::ResetOffsets(_)) => history.counts.resets += granted,
                Some(Kind::TakeResets(_)) => history.counts.told += granted,
                Some(Kind::Attempt(_)) => history.counts.attempts += granted,
                _ => {}
            }
            history.counts.terms = history.counts.terms.max(frame.id().term.0);
            if !is_void {
                for message in messages {
                    history.stored.entry(message.queue.clone()).or_default().push(message);
                }
            }
        }
    }

    /// A node has a leader's snapshot, and goes on behind it.
    pub(crate) fn restored(&self, node: u64, group: usize, index: u64) {
        say!("n{node}, group {group}: the tables are those behind entry {index}");
        let mut state = self.state();
        state.history.counts.installed += 1;
        state.ask(|invariant, _| {
            invariant.restored(node, group, Some(index));
            Ok(())
        });
    }

    /// A process of a node starts; its groups begin at their checkpoints.
    pub(crate) fn started(&self, node: u64, group: usize, checkpoint: Option<u64>) {
        self.state().ask(|invariant, _| {
            invariant.restored(node, group, checkpoint);
            Ok(())
        });
    }

    /// A topic has a number.
    pub(crate) fn named(&self, group: usize, topic: u32, name: &str) {
        self.state().history.topics.insert((group, topic), name.to_owned());
    }

    /// A consumer group has a number.
    pub(crate) fn named_consumer(&self, group: usize, consumer: u32, name: &str) {
        self.state().history.consumers.insert((group, consumer), name.to_owned());
    }

    /// The last entry of a group that any node has applied.
    pub(crate) fn last_applied(&self, group: usize) -> u64 {
        self.state().history.applied.get(&group).copied().unwrap_or_default()
    }

    /// What of a source queue clients know to be done.
    pub(crate) fn done(&self, queue: &Queue) -> BTreeSet<u64> {
        self.state().history.done.get(queue).cloned().unwrap_or_default()
    }

    /// What a node says is at these offsets must have been stored.
    pub(crate) fn values(&self, queue: &Queue, offsets: &[u64]) -> Vec<String> {
        let mut state = self.state();
        let value = |offset: &u64| state.history.value(queue, *offset).map(str::to_owned);
        let values: Option<Vec<String>> = offsets.iter().map(value).collect();
        values.unwrap_or_else(|| {
            state.violated("stored", &format!("not all of {offsets:?} is stored in {queue:?}"));
            Vec::new()
        })
    }

    /// The first offset of a queue whose message is stored at a position or behind it.
    pub(crate) fn first_from(&self, queue: &Queue, position: u64) -> u64 {
        let state = self.state();
        let stored = state.history.stored.get(queue).map_or(&[][..], Vec::as_slice);
        stored.partition_point(|message| message.position < position) as u64
    }

    /// A client begins to send.
    pub(crate) fn send(&self, queue: &Queue, values: &[String]) {
        let mut state = self.state();
        for value in values {
            let sent = Sent { queue: queue.clone(), fate: Fate::Open, offset: None };
            state.history.sent.insert(value.clone(), sent);
        }
    }

    /// A client will never know.
    pub(crate) fn forget(&self, values: &[String]) {
        let mut state = self.state();
        state.history.counts.unknown += values.len() as u64;
        for value in values {
            if let Some(sent) = state.history.sent.get_mut(value) {
                sent.fate = Fate::Unknown;
            }
        }
    }

    /// A client has learned something.
    pub(crate) fn answered(&self, answer: &Answer) {
        let mut state = self.state();
        let history = &mut state.history;
        match answer {
            Answer::Acknowledged { values, offset, .. } => {
                history.counts.acknowledged += values.len() as u64;
                for (n, value) in values.iter().enumerate() {
                    if let Some(sent) = history.sent.get_mut(value) {
                        sent.fate = Fate::Acknowledged;
                        sent.offset = Some(offset + n as u64);
                    }
                }
            }
            Answer::Refused { values } => {
                history.counts.refused += values.len() as u64;
                for value in values {
                    if let Some(sent) = history.sent.get_mut(value) {
                        sent.fate = Fate::Refused;
                    }
                }
            }
            Answer::Pulled { messages, .. } => history.counts.pulled += messages.len() as u64,
            Answer::Done { queue, offsets } => {
                history.done.entry(queue.clone()).or_default().extend(offsets);
            }
            Answer::End { .. }
            | Answer::Committed { .. }
            | Answer::Offset { .. }
            | Answer::Pending { .. }
            | Answer::Popped { .. }
            | Answer::Consumed { .. }
            | Answer::ConsumedInOrder { .. }
            | Answer::Reset { .. }
            | Answer::Asked { .. }
            | Answer::Tried { .. } => {}
        }
        state.ask(|invariant, history| invariant.answered(history, answer));
    }

    /// The first offset after everything that is acknowledged in a queue.
    pub(crate) fn acknowledged_end(&self, queue: &Queue) -> u64 {
        let state = self.state();
        let ends = state.history.sent.values().filter(|sent| sent.queue == *queue);
        ends.filter_map(|sent| sent.offset).max().map_or(0, |last| last + 1)
    }

    pub(crate) fn stands(&self, at: &Standing) {
        let mut state = self.state();
        state.ask(|invariant, history| invariant.stands(history, at));
        state.history.synced_end.insert((at.node, at.group), at.log.synced_end.0);
    }

    pub(crate) fn seen(&self, sight: &Sight) {
        self.state().ask(|invariant, history| invariant.seen(history, sight));
    }

    pub(crate) fn ended(&self, replicas: &[Replica]) {
        self.state().ask(|invariant, history| invariant.ended(history, replicas));
    }
}

impl State {
    fn ask(&mut self, mut ask: impl FnMut(&mut dyn Invariant, &History) -> Verdict) {
        let mut violated = Vec::new();
        for invariant in &mut self.invariants {
            if let Err(what) = ask(&mut **invariant, &self.history) {
                violated.push((invariant.name(), what));
            }
        }
        for (name, what) in violated {
            self.violated(name, &what);
        }
    }

    fn violated(&mut self, name: &str, what: &str) {
        say!("VIOLATED {name}: {what}");
        self.violations.push(format!("{name}: {what} (at {} ms)", clock::now_ms()));
    }
}

pub(crate) fn messages_of(group: usize, frame: &Frame) -> Vec<Message> {
    let stored = frame.records();
    let parsed = wire::Messages::new(&stored).map_while(Result::ok);
    parsed
        .map(|message| Message {
            queue: (group, message.topic.to_owned(), message.queue_id.0),
            offset: message.queue_offset.0,
            position: message.position.0,
            size: message.size() as u64,
            value: value_of(message.body),
        })
        .collect()
}
