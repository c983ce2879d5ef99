//! What a node does for clients: the broker's handlers in small. A client's request runs on the node's runtime, so that it
//! dies with the node; between the two lies the way there and back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker::state::command::{
    Attempt, Kind, Lock, PopAck, PopBatch, PopChange, PopRevive, PopTake, Release, ResetOffsets, Source,
    TakePart, TakeResets, released,
};
use broker::state::{Command, CommitBatch, Reply, TopicConfig, rules};
use bytes::BytesMut;
use futures::future::BoxFuture;
use prost::Message as _;
use replica::{Group, MessagesProposal, NodeId, ProposeError, ReadError, Receipt, TransferError};
use store::LogId;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use wire::{NewMessage, QueueId, QueueOffset};

use crate::plan::{LOCKERS, ORDERED, ORDERLY, POPPED, POPPERS, READERS};
use crate::tables::{Read, ReadFailure, Tables};

/// A group on a node that runs.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) group: Group,
    pub(crate) tables: Arc<Tables>,
}

/// Messages for a queue that come instead of others.
#[derive(Clone, Debug)]
pub(crate) struct Copies {
    pub(crate) topic: String,
    pub(crate) queue: u32,
    pub(crate) bodies: Vec<String>,
}

/// A popped message in a client's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) queue: u32,
    pub(crate) offset: u64,
    pub(crate) pop_time_ms: u64,
}

/// A node that has just started may not know a topic or a group yet.
fn not_yet() -> CommandFailure {
    CommandFailure::Proposed(ProposeError::NotLeader { leader: None })
}

/// Why a command was not carried out.
#[derive(Debug)]
pub(crate) enum CommandFailure {
    Proposed(ProposeError),
    /// The tables refuse.
    Refused(String),
}

impl CommandFailure {
    pub(crate) fn is_definite(&self) -> bool {
        match self {
            CommandFailure::Proposed(error) => error.is_definite(),
            CommandFailure::Refused(_) => true,
        }
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        match self {
            CommandFailure::Proposed(ProposeError::NotLeader { leader }) => *leader,
            CommandFailure::Proposed(_) | CommandFailure::Refused(_) => None,
        }
    }
}

impl Served {
    /// Messages for a queue, one for each body.
    fn messages(&self, topic: &str, queue: u32, bodies: &[String]) -> MessagesProposal {
        let host = crate::net::address(self.group.node().0);
        let mut records = BytesMut::new();
        for body in bodies {
            let message = NewMessage {
                topic,
                queue_id: QueueId(queue),
                flag: 0,
                sys_flag: 0,
                born_timestamp: 0,
                born_host: host,
                store_host: host,
                reconsume_times: 0,
                prepared_transaction_offset: 0,
                body: body.as_bytes(),
                properties: "",
            };
            wire::encode_message(&message, &mut records).expect("a legal message");
        }
        MessagesProposal { topic: topic.into(), queue: QueueId(queue), records, count: bodies.len() as u32 }
    }

    /// Sends messages together, one for each body.
    pub(crate) async fn send(
        self,
        topic: String,
        queue: u32,
        bodies: Vec<String>,
    ) -> Result<Receipt, ProposeError> {
        let proposal = self.messages(&topic, queue, &bodies);
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move |result| {
            let _ = tx.send(result);
        });
        self.group.propose_messages(proposal, done);
        rx.await.unwrap_or(Err(ProposeError::Unknown("the answer was dropped")))
    }

    /// A command, and copies of what it is about, by topic and queue.
    async fn coupled(&self, command: Command, copies: Vec<Copies>) -> Result<Vec<Receipt>, ProposeError> {
        let messages =
            copies.iter().map(|copies| self.messages(&copies.topic, copies.queue, &copies.bodies)).collect();
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move |result| {
            let _ = tx.send(result);
        });
        self.group.propose_coupled(command.coupled(messages), done);
        let receipt = rx.await.unwrap_or(Err(ProposeError::Unknown("the answer was dropped")))?;
        Ok(receipt.receipts)
    }

    pub(crate) async fn command(&self, command: Command) -> Result<(), CommandFailure> {
        self.reply(command).await.map(drop)
    }

    /// What the tables say to a command that they do not refuse.
    async fn reply(&self, command: Command) -> Result<Reply, CommandFailure> {
        let answer = self.group.propose_command(command.proposal()).await;
        let answer = answer.map_err(CommandFailure::Proposed)?;
        match Reply::decode(answer) {
            Ok(reply) if reply.code == 0 => Ok(reply),
            Ok(reply) => Err(CommandFailure::Refused(reply.remark)),
            Err(error) => Err(CommandFailure::Refused(error.to_string())),
        }
    }

    /// Makes a topic and consumer groups, unless they exist. The numbers of the topic and of the groups.
    pub(crate) async fn prepare(
        self,
        topic: &'static str,
        queues: u32,
        consumers: Vec<String>,
    ) -> Result<(u32, Vec<u32>), CommandFailure> {
        let config = TopicConfig {
            name: topic.to_owned(),
            read_queues: queues,
            write_queues: queues,
            perm: 6,
            ..TopicConfig::default()
        };
        self.command(Command::create_topic(config)).await?;
        for consumer in &consumers {
            self.command(Command::create_group(rules::default_group(consumer))).await?;
        }
        let numbers = consumers.iter().map(|consumer| self.consumers(consumer));
        Ok((self.topic(topic)?, numbers.collect::<Result<_, _>>()?))
    }

    /// A topic's number. A node that has just started may not know it yet.
    fn topic(&self, name: &str) -> Result<u32, CommandFailure> {
        let topic = self.tables.state.topic(name).ok_or_else(not_yet)?;
        Ok(topic.id.0)
    }

    fn consumers(&self, name: &str) -> Result<u32, CommandFailure> {
        let group = self.tables.state.group(name).ok_or_else(not_yet)?;
        Ok(group.id.0)
    }

    /// Pending messages of a queue: with `is_current` what is pending now, else what this node knows.
    pub(crate) async fn pending(
        self,
        topic: String,
        queue: u32,
        is_current: bool,
        max: usize,
    ) -> Result<Vec<u64>, ReadError> {
        if is_current {
            self.group.read_barrier().await?;
        }
        let pending = self.tables.state.pending(&topic, QueueId(queue), QueueOffset(0), max);
        Ok(pending.into_iter().map(|offset| offset.0).collect())
    }

    /// Marks messages of a source queue done, and stores their copies.
    pub(crate) async fn release(
        self,
        source: (String, u32),
        offsets: Vec<u64>,
        copies: Vec<Copies>,
    ) -> Result<Vec<Receipt>, CommandFailure> {
        let sources = vec![Source { topic: self.topic(&source.0)?, queue: source.1, offsets }];
        let command = Kind::Release(Release { sources, how: released::DELIVERED });
        self.coupled(command.into(), copies).await.map_err(CommandFailure::Proposed)
    }

    /// Marks messages of a source queue done, and nothing comes instead. Those that were pending.
    pub(crate) async fn discard(
        self,
        source: (String, u32),
        offsets: Vec<u64>,
    ) -> Result<Vec<u64>, CommandFailure> {
        let sources =
            vec![Source { topic: self.topic(&source.0)?, queue: source.1, offsets: offsets.clone() }];
        let command = Kind::Release(Release { sources, how: released::ROLLED_BACK });
        let reply = self.reply(command.into()).await?;
        Ok(reply.granted.iter().map(|place| offsets[*place as usize]).collect())
    }

    /// The next messages of a queue, for a pop consumer: their offsets, and the pop time. Nothing where there is nothing, or
    /// somebody else was faster.
    pub(crate) async fn pop(
        self,
        queue: u32,
        max: u64,
        invisible_ms: u64,
    ) -> Result<Option<(Vec<u64>, u64)>, CommandFailure> {
        let (topic, group) = (self.topic(POPPED)?, self.consumers(POPPERS)?);
        let state = &self.tables.state;
        let cursor = state.pop_place(POPPED, POPPERS, QueueId(queue)).cursor.map(|offset| offset.0);
        let end = state.queue(POPPED, QueueId(queue)).map_or(0, |range| range.next.0);
        let from = cursor.unwrap_or(0);
        let next = end.min(from + max);
        let offsets: Vec<u64> = (from..next).collect();
        if offsets.is_empty() {
            return Ok(None);
        }
        let part = TakePart { topic, queue, cursor, next, offsets: offsets.clone() };
        let take =
            PopTake { group, parts: vec![part], invisible_ms, order: false, attempt_id: String::new() };
        let reply = self.reply(Kind::PopTake(take).into()).await?;
        Ok((reply.granted == [0]).then_some((offsets, reply.time_ms)))
    }

    /// The next messages of a queue in order, for an attempt; as [`Served::pop`]. What was acknowledged already is not among
    /// them.
    pub(crate) async fn pop_in_order(
        self,
        queue: u32,
        max: u64,
        invisible_ms: u64,
        attempt_id: String,
    ) -> Result<Option<(Vec<u64>, u64)>, CommandFailure> {
        let (topic, group) = (self.topic(ORDERED)?, self.consumers(ORDERLY)?);
        let state = &self.tables.state;
        let place = state.pop_place(ORDERED, ORDERLY, QueueId(queue));
        let cursor = place.cursor.map(|offset| offset.0);
        let end = state.queue(ORDERED, QueueId(queue)).map_or(0, |range| range.next.0);
        let from = cursor.unwrap_or(0);
        let next = end.min(from + max);
        let ahead = place.acknowledged_ahead();
        let offsets: Vec<u64> =
            (from..next).filter(|offset| !ahead.contains(&QueueOffset(*offset))).collect();
        if offsets.is_empty() {
            return Ok(None);
        }
        let part = TakePart { topic, queue, cursor, next, offsets: offsets.clone() };
        let take = PopTake { group, parts: vec![part], invisible_ms, order: true, attempt_id };
        let reply = self.reply(Kind::PopTake(take).into()).await?;
        Ok((reply.granted == [0]).then_some((offsets, reply.time_ms)))
    }

    /// Messages of a queue that are not consumed in order, as far as this node knows.
    pub(crate) fn left_in_order(&self, queue: u32) -> u64 {
        let state = &self.tables.state;
        let cursor = state.pop_place(ORDERED, ORDERLY, QueueId(queue)).cursor.map_or(0, |offset| offset.0);
        state.queue(ORDERED, QueueId(queue)).map_or(0, |range| range.next.0 - cursor)
    }

    /// Acknowledges what was popped of a topic by a group; for each whether it was still the caller's.
    pub(crate) async fn ack(
        self,
        topic: &'static str,
        consumer: &'static str,
        held: Vec<Held>,
    ) -> Result<Vec<bool>, CommandFailure> {
        let (topic, group) = (self.topic(topic)?, self.consumers(consumer)?);
        let ack = PopAck {
            topics: vec![topic; held.len()],
            groups: vec![group; held.len()],
            queues: held.iter().map(|held| held.queue).collect(),
            offsets: held.iter().map(|held| held.offset).collect(),
            pop_times_ms: held.iter().map(|held| held.pop_time_ms).collect(),
        };
        let reply = self.reply(Kind::PopAck(ack).into()).await?;
        Ok((0..held.len() as u32).map(|place| reply.granted.contains(&place)).collect())
    }

    /// Another invisible time for what was popped; its new pop time, where it was still the caller's.
    pub(crate) async fn hold(self, held: Held, invisible_ms: u64) -> Result<Option<u64>, CommandFailure> {
        let change = PopChange {
            topics: vec![self.topic(POPPED)?],
            groups: vec![self.consumers(POPPERS)?],
            queues: vec![held.queue],
            offsets: vec![held.offset],
            pop_times_ms: vec![held.pop_time_ms],
            invisible_ms: vec![invisible_ms],
        };
        let reply = self.reply(Kind::PopChange(change).into()).await?;
        Ok((reply.granted == [0]).then_some(reply.time_ms))
    }

    /// Messages of a queue whose invisible time is over, as far as this node knows.
    pub(crate) fn due(&self, queue: u32, max: usize) -> Vec<u64> {
        let due = self.tables.state.pop_due(self.group.log_now_ms(), None, 100);
        let here = due.into_iter().filter(|due| due.queue.0 == queue).map(|due| due.offset.0);
        let mut offsets: Vec<u64> = here.take(max).collect();
        offsets.sort_unstable();
        offsets
    }

    /// Takes messages out of the hands of whoever popped them, and stores their copies.
    pub(crate) async fn revive(
        self,
        queue: u32,
        offsets: Vec<u64>,
        copies: Vec<Copies>,
    ) -> Result<Vec<Receipt>, CommandFailure> {
        let batch = PopBatch { topic: self.topic(POPPED)?, group: self.consumers(POPPERS)?, queue, offsets };
        let command = Kind::PopRevive(PopRevive { batches: vec![batch] });
        self.coupled(command.into(), copies).await.map_err(CommandFailure::Proposed)
    }

    /// Counts an attempt with each of some messages of a source queue. Those that were pending.
    pub(crate) async fn attempt(
        self,
        source: (String, u32),
        offsets: Vec<u64>,
    ) -> Result<Vec<u64>, CommandFailure> {
        let (topic, queue) = (self.topic(&source.0)?, source.1);
        let attempt = Attempt { source: Source { topic, queue, offsets: offsets.clone() } };
        let reply = self.reply(Kind::Attempt(attempt).into()).await?;
        Ok(reply.granted.iter().map(|place| offsets[*place as usize]).collect())
    }

    /// Sets the offset of [`READERS`] in a queue, as an administrator does.
    pub(crate) async fn reset(self, topic: String, queue: u32, offset: u64) -> Result<(), CommandFailure> {
        let (topic, group) = (self.topic(&topic)?, self.consumers(READERS)?);
        let reset = ResetOffsets { topic, group, queues: vec![queue], offsets: vec![offset] };
        self.command(Kind::ResetOffsets(reset).into()).await
    }

    /// Notes that a consumer was told of the reset of a queue that this node knows of, if it knows of one.
    pub(crate) async fn told(self, topic: String, queue: u32) -> Result<(), CommandFailure> {
        let reset = self.tables.state.pending_reset(&topic, READERS, QueueId(queue));
        let Some(QueueOffset(offset)) = reset else { return Ok(()) };
        let take = TakeResets {
            topics: vec![self.topic(&topic)?],
            groups: vec![self.consumers(READERS)?],
            queues: vec![queue],
            offsets: vec![offset],
        };
        self.command(Kind::TakeResets(take).into()).await
    }

    /// Locks or unlocks a queue; whether that was granted.
    pub(crate) async fn lock(
        self,
        topic: String,
        queue: u32,
        client: String,
        unlock: bool,
        lease_ms: u64,
    ) -> Result<bool, CommandFailure> {
        let (topics, group) = (vec![self.topic(&topic)?], self.consumers(LOCKERS)?);
        let lock = Lock { group, client, unlock, lease_ms, topics, queues: vec![queue] };
        let reply = self.reply(Kind::Lock(lock).into()).await?;
        Ok(reply.granted == [0])
    }

    pub(crate) async fn commit(
        self,
        topic: String,
        consumer: String,
        queue: u32,
        offset: u64,
    ) -> Result<(), CommandFailure> {
        let key = self.tables.state.commit_key(&topic, &consumer).map_err(|_| not_yet())?;
        let batch = CommitBatch::single(key, QueueId(queue), QueueOffset(offset));
        self.command(batch.into_command()).await
    }

    pub(crate) async fn offset(
        self,
        topic: String,
        consumer: String,
        queue: u32,
    ) -> Result<Option<u64>, ReadError> {
        self.group.read_barrier().await?;
        Ok(self.tables.state.offset(&topic, &consumer, QueueId(queue)).map(|offset| offset.0))
    }

    pub(crate) async fn end(self, topic: String, queue: u32) -> Result<Option<u64>, ReadError> {
        self.group.read_barrier().await?;
        Ok(self.tables.state.queue(&topic, QueueId(queue)).map(|range| range.next.0))
    }

    pub(crate) fn pull(
        &self,
        topic: &str,
        queue: u32,
        from: u64,
        max: usize,
    ) -> Result<Vec<Read>, ReadFailure> {
        self.tables.read(self.group.log(), topic, queue, from, max)
    }

    /// Drops the log up to its newest boundary.
    pub(crate) async fn purge(self) -> std::io::Result<Option<LogId>> {
        self.group.purge().await
    }

    pub(crate) async fn transfer(self, to: u64) -> Result<(), TransferError> {
        self.group.transfer_leadership(NodeId(to)).await
    }
}

/// Nodes that run, for their clients.
#[derive(Clone, Default)]
pub(crate) struct Directory(Arc<Mutex<BTreeMap<u64, Member>>>);

/// The runtime of a node, and its groups.
type Member = (Handle, Vec<Served>);

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// It has not reached the node.
    NotSent,
    /// It may have been carried out.
    Unknown,
}

/// A client waits so long.
const PATIENCE: Duration = Duration::from_secs(4);

impl Directory {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<u64, (Handle, Vec<Served>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn publish(&self, node: u64, handle: Handle, served: Vec<Served>) {
        let before = self.nodes().insert(node, (handle, served));
        drop(before);
    }

    pub(crate) fn withdraw(&self, node: u64) {
        let before = self.nodes().remove(&node);
        drop(before);
    }

    /// Runs a request at a node. The way there takes `there_ms`, the way back `back_ms`, of which at least one must be more
    /// than 0; without `back_ms` the answer is lost.
    pub(crate) async fn ask<T, F>(
        &self,
        node: u64,
        group: usize,
        there_ms: u64,
        back_ms: Option<u64>,
        request: F,
    ) -> Result<T, NoAnswer>
    where
        T: Send + 'static,
        F: FnOnce(Served) -> BoxFuture<'static, T> + Send + 'static,
    {
        tokio::time::sleep(Duration::from_millis(there_ms)).await;
        let (tx, rx) = oneshot::channel();
        {
            let nodes = self.nodes();
            let Some((handle, served)) = nodes.get(&node) else { return Err(NoAnswer::NotSent) };
            let Some(served) = served.get(group).cloned() else { return Err(NoAnswer::NotSent) };
            handle.spawn(async move {
                // The client may have given up.
                let _ = tx.send(request(served).await);
            });
        }
        let answer = tokio::time::timeout(PATIENCE, rx).await;
        let Some(back_ms) = back_ms else { return Err(NoAnswer::Unknown) };
        tokio::time::sleep(Duration::from_millis(back_ms.max(1))).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(NoAnswer::Unknown),
        }
    }
}
