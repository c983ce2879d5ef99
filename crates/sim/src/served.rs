//! What a node does for clients: the broker's handlers in small. A client's request runs on the node's runtime, so that it
//! dies with the node; between the two lies the way there and back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker::state::{Command, CommitBatch, Reply, TopicConfig, rules};
use bytes::BytesMut;
use futures::future::BoxFuture;
use prost::Message as _;
use replica::{Group, MessagesProposal, NodeId, ProposeError, ReadError, Receipt, TransferError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use wire::{NewMessage, QueueId, QueueOffset};

use crate::tables::{Read, ReadFailure, Tables};

/// A group on a node that runs.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) group: Group,
    pub(crate) tables: Arc<Tables>,
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
    /// Sends messages together, one for each body.
    pub(crate) async fn send(
        self,
        topic: String,
        queue: u32,
        bodies: Vec<String>,
    ) -> Result<Receipt, ProposeError> {
        let host = crate::net::address(self.group.node().0);
        let mut records = BytesMut::new();
        for body in &bodies {
            let message = NewMessage {
                topic: &topic,
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
        let count = bodies.len() as u32;
        let proposal = MessagesProposal { topic: topic.into(), queue: QueueId(queue), records, count };
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move |result| {
            let _ = tx.send(result);
        });
        self.group.propose_messages(proposal, done);
        rx.await.unwrap_or(Err(ProposeError::Unknown("the answer was dropped")))
    }

    pub(crate) async fn command(&self, command: Command) -> Result<(), CommandFailure> {
        let answer = self.group.propose_command(command.proposal()).await;
        let answer = answer.map_err(CommandFailure::Proposed)?;
        match Reply::decode(answer) {
            Ok(reply) if reply.code == 0 => Ok(()),
            Ok(reply) => Err(CommandFailure::Refused(reply.remark)),
            Err(error) => Err(CommandFailure::Refused(error.to_string())),
        }
    }

    /// Makes a topic and a consumer group, unless they exist.
    pub(crate) async fn prepare(
        self,
        topic: &'static str,
        queues: u32,
        consumers: Vec<String>,
    ) -> Result<(), CommandFailure> {
        let config = TopicConfig {
            name: topic.to_owned(),
            read_queues: queues,
            write_queues: queues,
            perm: 6,
            ..TopicConfig::default()
        };
        self.command(Command::create_topic(config)).await?;
        for consumer in consumers {
            self.command(Command::create_group(rules::default_group(&consumer))).await?;
        }
        Ok(())
    }

    pub(crate) async fn commit(
        self,
        topic: String,
        consumer: String,
        queue: u32,
        offset: u64,
    ) -> Result<(), CommandFailure> {
        // A node that has just started may not know them yet.
        let unknown = |_| CommandFailure::Proposed(ProposeError::NotLeader { leader: None });
        let key = self.tables.state.commit_key(&topic, &consumer).map_err(unknown)?;
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
