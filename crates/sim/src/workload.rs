//! Clients: each does one thing after the other, at whatever node it thinks leads, and tells the oracle what it learned. What
//! they do with messages that wait is in waiting.rs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use replica::{NodeId, ProposeError, ReadError};

use crate::oracle::{Answer, Consumed, Oracle, Queue};
use crate::plan::{ALL_TOPICS, CONSUMERS, NODES, Plan, QUEUES, READERS, SOURCES, TOPICS};
use crate::random::Random;
use crate::served::{CommandFailure, Directory, Held, NoAnswer, Served};
use crate::tables::{ReadFailure, body_of};
use crate::trace::say;

/// Messages that a client asks for at once.
const PULL_MAX: usize = 16;

#[derive(Clone, Copy)]
enum Operation {
    Send,
    Pull,
    End,
    Commit,
    Offset,
    /// A message for a source queue.
    Wait,
    /// Messages of a source queue go where they belong.
    Release,
    /// Or they do not.
    Discard,
    Pop,
    /// Popped messages are acknowledged.
    Ack,
    /// A popped message is kept for longer, or shorter.
    Hold,
    /// What was popped and not acknowledged comes again.
    Revive,
    Lock,
    PopInOrder,
    AckInOrder,
    /// An attempt to learn what is to become of messages of a source queue.
    Attempt,
    /// An administrator sets an offset.
    Reset,
    /// A consumer is told of it.
    Told,
    /// What consumers do with the offsets that are reset.
    CommitShared,
    OffsetShared,
}

pub(crate) struct Client {
    pub(crate) number: u32,
    plan: Plan,
    pub(crate) random: Random,
    pub(crate) directory: Directory,
    pub(crate) oracle: Arc<Oracle>,
    /// Nobody is to begin anything new.
    stop: Arc<AtomicBool>,
    /// Who leads each group, it thinks.
    leaders: Vec<u64>,
    sent: u64,
    /// Attempts to bring copies of messages.
    pub(crate) attempts: u64,
    /// What it has popped, by group.
    pub(crate) held: Vec<(usize, Held)>,
    /// And in order.
    pub(crate) held_in_order: Vec<(usize, Held)>,
    commits: u64,
    /// Where it goes on pulling.
    cursors: BTreeMap<Queue, u64>,
}

/// The consumer group of a client.
pub(crate) fn consumer_of(number: u32) -> String {
    format!("{CONSUMERS}-{number}")
}

impl Client {
    pub(crate) fn new(
        number: u32,
        plan: &Plan,
        directory: Directory,
        oracle: Arc<Oracle>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Client {
            number,
            plan: plan.clone(),
            random: Random::of(plan.seed, &format!("client {number}")),
            directory,
            oracle,
            stop,
            leaders: vec![1; plan.groups],
            sent: 0,
            attempts: 0,
            held: Vec::new(),
            held_in_order: Vec::new(),
            commits: 0,
            cursors: BTreeMap::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let (least, most) = self.plan.think_ms;
            let think = self.random.between(least, most).max(1);
            tokio::time::sleep(Duration::from_millis(think)).await;
            let operations = [
                (60, Operation::Send),
                (20, Operation::Pull),
                (7, Operation::End),
                (8, Operation::Commit),
                (5, Operation::Offset),
                (10, Operation::Wait),
                (9, Operation::Release),
                (2, Operation::Discard),
                (8, Operation::Pop),
                (6, Operation::Ack),
                (2, Operation::Hold),
                (6, Operation::Revive),
                (3, Operation::Lock),
                (6, Operation::PopInOrder),
                (6, Operation::AckInOrder),
                (4, Operation::Attempt),
                (2, Operation::Reset),
                (2, Operation::Told),
                (4, Operation::CommitShared),
                (3, Operation::OffsetShared),
            ];
            match self.random.weighted(&operations) {
                Operation::Send => {
                    let queue = self.queue_of(&TOPICS);
                    self.send(queue).await;
                }
                Operation::Wait => {
                    let queue = self.queue_of(&SOURCES);
                    self.send(queue).await;
                }
                Operation::Release => self.release().await,
                Operation::Discard => self.discard().await,
                Operation::Pop => self.pop().await,
                Operation::Ack => self.ack().await,
                Operation::Hold => self.hold().await,
                Operation::Revive => self.revive().await,
                Operation::Lock => self.lock().await,
                Operation::PopInOrder => self.pop_in_order().await,
                Operation::AckInOrder => self.ack_in_order().await,
                Operation::Attempt => self.attempt_with_pending().await,
                Operation::Reset => self.reset().await,
                Operation::Told => self.told().await,
                Operation::CommitShared => self.commit_shared().await,
                Operation::OffsetShared => self.offset_shared().await,
                Operation::Pull => self.pull().await,
                Operation::End => self.end().await,
                Operation::Commit => self.commit().await,
                Operation::Offset => self.offset().await,
            }
        }
    }

    /// A queue of one of the topics.
    pub(crate) fn queue_of(&mut self, topics: &[&str]) -> Queue {
        let group = self.random.below(self.plan.groups as u64) as usize;
        let topic = (*self.random.pick(topics)).to_owned();
        (group, topic, self.random.below(u64::from(QUEUES)) as u32)
    }

    /// The ways there and back.
    pub(crate) fn ways_ms(&mut self) -> (u64, Option<u64>) {
        let (there, back) = (self.random.between(0, 3), self.random.between(1, 3));
        let is_lost = self.random.permille(self.plan.lost_answers_permille);
        (there, (!is_lost).then_some(back))
    }

    /// The node that leads, as far as it knows; now and then another.
    pub(crate) fn target(&mut self, group: usize) -> u64 {
        if self.random.percent(5) { self.random.between(1, NODES) } else { self.leaders[group] }
    }

    /// A node was not the one to ask.
    pub(crate) fn turn_away(&mut self, group: usize, leader: Option<NodeId>) {
        self.leaders[group] = match leader {
            Some(leader) => leader.0,
            None => self.random.between(1, NODES),
        };
    }

    async fn send(&mut self, queue: Queue) {
        let count = if self.random.percent(10) { self.random.between(2, 5) } else { 1 };
        let mut values = Vec::new();
        let mut bodies = Vec::new();
        for _ in 0..count {
            self.sent += 1;
            let value = format!("c{}.{}", self.number, self.sent);
            let (least, most) = self.plan.body_bytes;
            bodies.push(body_of(&value, self.random.between(least, most) as usize));
            values.push(value);
        }
        let node = self.target(queue.0);
        let (there, back) = self.ways_ms();
        self.oracle.send(&queue, &values);
        let (topic, number) = (queue.1.clone(), queue.2);
        let request = move |served: Served| served.send(topic, number, bodies).boxed();
        let answer = self.directory.ask(node, queue.0, there, back, request).await;
        let me = self.number;
        let (first, n) = (&values[0], values.len());
        match answer {
            Ok(Ok(receipt)) => {
                let (offset, position) = (receipt.first_offset.0, receipt.position.0);
                say!("c{me} sent {first} +{n} to {queue:?} at n{node}: {offset} at {position}");
                self.oracle.answered(&Answer::Acknowledged { queue, values, offset, position });
            }
            Ok(Err(error)) if error.is_definite() => {
                say!("c{me} sent {first} +{n} to {queue:?} at n{node}: no: {error}");
                match error {
                    ProposeError::NotLeader { leader } => self.turn_away(queue.0, leader),
                    ProposeError::Stopped => self.turn_away(queue.0, None),
                    _ => {}
                }
                self.oracle.answered(&Answer::Refused { values });
            }
            Err(NoAnswer::NotSent) => {
                self.turn_away(queue.0, None);
                self.oracle.answered(&Answer::Refused { values });
            }
            Ok(Err(error)) => {
                say!("c{me} sent {first} +{n} to {queue:?} at n{node}: who knows: {error}");
                self.turn_away(queue.0, None);
                self.oracle.forget(&values);
            }
            Err(NoAnswer::Unknown) => {
                say!("c{me} sent {first} +{n} to {queue:?} at n{node}: who knows");
                self.turn_away(queue.0, None);
                self.oracle.forget(&values);
            }
        }
    }

    /// From any node, as with `follower_reads`.
    async fn pull(&mut self) {
        let queue = self.queue_of(&ALL_TOPICS);
        let node = self.random.between(1, NODES);
        let (there, back) = self.ways_ms();
        let from = self.cursors.get(&queue).copied().unwrap_or(0);
        let (topic, number) = (queue.1.clone(), queue.2);
        let request =
            move |served: Served| async move { served.pull(&topic, number, from, PULL_MAX) }.boxed();
        match self.directory.ask(node, queue.0, there, back, request).await {
            Ok(Ok(messages)) => {
                let next = from + messages.len() as u64;
                // Now and then from the start again.
                let next = if self.random.percent(2) { 0 } else { next };
                self.cursors.insert(queue.clone(), next);
                self.oracle.answered(&Answer::Pulled { node, queue, from, messages });
            }
            Ok(Err(ReadFailure::Wrong(what))) => {
                self.oracle.violated("pull", &format!("node {node}, {queue:?} from {from}: {what}"));
            }
            Ok(Err(ReadFailure::Gone)) => {
                let next = self.oracle.acknowledged_end(&queue);
                self.cursors.insert(queue, next);
            }
            Ok(Err(ReadFailure::Rebuilding)) | Err(_) => {}
        }
    }

    async fn end(&mut self) {
        let queue = self.queue_of(&ALL_TOPICS);
        let node = self.target(queue.0);
        let (there, back) = self.ways_ms();
        let at_least = self.oracle.acknowledged_end(&queue);
        let (topic, number) = (queue.1.clone(), queue.2);
        let request = move |served: Served| served.end(topic, number).boxed();
        match self.directory.ask(node, queue.0, there, back, request).await {
            Ok(Ok(end)) => {
                let end = end.unwrap_or(0);
                self.oracle.answered(&Answer::End { queue, at_least, end });
            }
            Ok(Err(error)) => self.turn_away(queue.0, leader_of(&error)),
            Err(_) => self.turn_away(queue.0, None),
        }
    }

    fn consumed(&mut self) -> Consumed {
        let (group, topic, queue) = self.queue_of(&TOPICS);
        (group, consumer_of(self.number), topic, queue)
    }

    async fn commit(&mut self) {
        let consumed = self.consumed();
        // Each commit says something else, and not only more.
        self.commits += 1;
        let offset = self.commits * 10 + self.random.below(10);
        let node = self.target(consumed.0);
        let (there, back) = self.ways_ms();
        let (group, consumer, topic, queue) = consumed.clone();
        let request = move |served: Served| served.commit(topic, consumer, queue, offset).boxed();
        let answer = self.directory.ask(node, group, there, back, request).await;
        let me = self.number;
        match answer {
            Ok(Ok(())) => {
                say!("c{me} committed {offset} for {consumed:?}");
                self.oracle.answered(&Answer::Committed { consumed, offset, is_known: true });
            }
            Ok(Err(error)) if error.is_definite() => {
                if let CommandFailure::Refused(remark) = &error {
                    self.oracle.violated("commit", remark);
                }
                self.turn_away(group, error.leader());
            }
            Err(NoAnswer::NotSent) => self.turn_away(group, None),
            Ok(Err(_)) | Err(NoAnswer::Unknown) => {
                say!("c{me} committed {offset} for {consumed:?}: who knows");
                self.turn_away(group, None);
                self.oracle.answered(&Answer::Committed { consumed, offset, is_known: false });
            }
        }
    }

    async fn offset(&mut self) {
        let consumed = self.consumed();
        let node = self.target(consumed.0);
        let (there, back) = self.ways_ms();
        let (group, consumer, topic, queue) = consumed.clone();
        let request = move |served: Served| served.offset(topic, consumer, queue).boxed();
        match self.directory.ask(node, group, there, back, request).await {
            Ok(Ok(offset)) => self.oracle.answered(&Answer::Offset { consumed, offset }),
            Ok(Err(error)) => self.turn_away(group, leader_of(&error)),
            Err(_) => self.turn_away(group, None),
        }
    }

    /// An offset of the group that all share; each is another one.
    fn next_offset(&mut self) -> u64 {
        self.commits += 1;
        (u64::from(self.number) << 32) + self.commits
    }

    async fn reset(&mut self) {
        let (group, topic, queue) = self.queue_of(&TOPICS);
        let offset = self.next_offset();
        let node = self.target(group);
        let (there, back) = self.ways_ms();
        let consumed = (group, READERS.to_owned(), topic.clone(), queue);
        let request = move |served: Served| served.reset(topic, queue, offset).boxed();
        let ended = self.directory.ask(node, group, there, back, request).await;
        say!("c{} resets {consumed:?} to {offset} at n{node}: {ended:?}", self.number);
        self.learn(group, &ended);
        if let Ok(Ok(())) = ended {
            self.oracle.answered(&Answer::Reset { consumed, offset });
        }
    }

    async fn told(&mut self) {
        let (group, topic, queue) = self.queue_of(&TOPICS);
        let node = self.target(group);
        let (there, back) = self.ways_ms();
        let request = move |served: Served| served.told(topic, queue).boxed();
        let ended = self.directory.ask(node, group, there, back, request).await;
        self.learn(group, &ended);
    }

    async fn commit_shared(&mut self) {
        let (group, topic, queue) = self.queue_of(&TOPICS);
        let offset = self.next_offset();
        let node = self.target(group);
        let (there, back) = self.ways_ms();
        let request = move |served: Served| served.commit(topic, READERS.to_owned(), queue, offset).boxed();
        let ended = self.directory.ask(node, group, there, back, request).await;
        self.learn(group, &ended);
    }

    async fn offset_shared(&mut self) {
        let (group, topic, queue) = self.queue_of(&TOPICS);
        let node = self.target(group);
        let (there, back) = self.ways_ms();
        let consumed = (group, READERS.to_owned(), topic.clone(), queue);
        let since = self.oracle.last_applied(group);
        let request = move |served: Served| served.offset(topic, READERS.to_owned(), queue).boxed();
        match self.directory.ask(node, group, there, back, request).await {
            Ok(Ok(offset)) => self.oracle.answered(&Answer::Asked { consumed, since, offset }),
            Ok(Err(error)) => self.turn_away(group, leader_of(&error)),
            Err(_) => self.turn_away(group, None),
        }
    }
}

pub(crate) fn leader_of(error: &ReadError) -> Option<NodeId> {
    match error {
        ReadError::NotLeader { leader } => *leader,
        ReadError::NoQuorum | ReadError::Stopped => None,
    }
}
