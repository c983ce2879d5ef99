//! `replica` makes the log of `store` the Raft log: propose, commit, apply, read barrier, snapshot, membership.
//!
//! ```text
//!  broker ── propose ──▶ proposer ──▶ openraft ──▶ log storage ──▶ store::Log ──▶ disk
//!                        (one task;      │  ▲
//!                        queue offsets,  │  └── peers: Append stream, Heartbeat, Vote (tonic)
//!                        log time)       ▼
//!  broker ◀─ receipt ── apply: StateMachine::apply, in log order, memory only
//! ```
//!
//! It is the only crate that names openraft. A [`Host`] is a node's share of the cluster: the peer listener, the
//! channels to the other nodes and the flusher of the disk. A [`Group`] is one Raft group; a host has several.
//! What must hold here is written in ARCHITECTURE.md ("The replicated log") and tested beside the code.

mod blocking;
mod catch_up;
mod commits;
mod formation;
mod group;
mod host;
mod level;
mod limits;
mod log_clock;
mod log_storage;
mod network;
mod peers;
#[cfg(feature = "mutants")]
mod presumption;
mod proposer;
mod proto;
mod server;
mod state_machine;
#[cfg(test)]
mod tests;
mod transport;
mod types;

use std::fmt;

use bytes::{Bytes, BytesMut};
use store::Frame;
use wire::{LogPosition, QueueId, QueueOffset};

pub use catch_up::CatchUpLimits;
pub use formation::FormationError;
pub use group::{Group, GroupStatus, PeerProgress, ReadError, Role, TransferError};
pub use host::{Ground, GroupConfig, Host, HostConfig, OpenError, OpenedGroup};
pub use level::ExcuseError;
pub use limits::{CATCH_UP_RATE, COUPLED_LEVEL, PEER_MESSAGE_BYTES};
pub use log_clock::WallClock;
pub use peers::{CallError, PeerHandler, Peers, Service};
pub use proposer::Done;
pub use state_machine::aside;
pub use transport::{PeerStream, Transport};

/// The id of a node: given in its configuration, unique in the cluster, never used again for another data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The tables that are a function of the log. Calls of `apply` come one at a time, in log order, from one task.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one committed frame: deterministic, memory only. An entry whose first queue offsets are not the tables' next
    /// ones is void (log.md 4), and so is a coupled one whose command does not fit the tables.
    fn apply(&self, frame: &Frame) -> Outcome;

    /// Takes note of a frame that changes no table (a blank or a membership): whatever is derived from the log must see
    /// every frame in order.
    fn pass(&self, frame: &Frame);

    /// The next queue offset of a queue in the applied tables; `None` where the topic or the queue does not exist.
    fn next_offset(&self, topic: &str, queue: QueueId) -> Option<QueueOffset>;

    /// The highest feature level of an applied entry, from 1: every member of the group knows it, for ever.
    fn level(&self) -> u32;

    /// The tables after the last applied frame. Equal tables give equal bytes.
    fn encode(&self) -> Vec<u8>;

    /// Replaces the tables by encoded ones, taken after the entry `at`.
    fn restore(&self, tables: &[u8], at: &store::TablesMeta) -> Result<(), String>;

    /// The frames up to `end` have been applied: wake whoever waits for them.
    fn after_apply(&self, end: LogPosition);

    /// Everything below `end` is durable here and the tables are saved: derived files may be written up to there.
    /// Called from a thread that may block.
    fn checkpointed(&self, end: LogPosition);
}

/// What an entry did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: its queue offsets, or the command that is coupled with its messages, did not fit the tables. Its bytes stay
    /// in the log, no index points to them.
    Void,
    /// Its messages are in their queues.
    Messages,
    /// A command ran, with this answer.
    Command(Bytes),
    /// Its command ran, with this answer, and its messages are in their queues.
    Coupled(Bytes),
}

/// Messages for one queue that go into the log together or not at all.
#[derive(Debug)]
pub struct MessagesProposal {
    pub topic: std::sync::Arc<str>,
    pub queue: QueueId,
    /// `count` stored messages in RocketMQ's layout, back to back; queue offset, store timestamp and physical offset
    /// are filled in by the proposer and by the leader's append.
    pub records: BytesMut,
    pub count: u32,
}

/// A command of the broker.
#[derive(Debug)]
pub struct CommandProposal {
    pub body: Bytes,
    /// It changes queues: it is proposed when everything before it is applied, and nothing is proposed until it is applied
    /// itself.
    pub barrier: bool,
    /// The feature level that it needs, from 1.
    pub level: u32,
}

/// A command and messages that take effect together or not at all.
#[derive(Debug)]
pub struct CoupledProposal {
    pub command: Bytes,
    /// The feature level that the entry needs, from 2.
    pub level: u32,
    /// In the order of the log. The same queue may come more than once.
    pub messages: Vec<MessagesProposal>,
}

/// What a coupled entry did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoupledReceipt {
    /// The command's.
    pub answer: Bytes,
    /// One for each of the proposal's `messages`.
    pub receipts: Vec<Receipt>,
}

/// Where proposed messages lie. They are committed and applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub first_offset: QueueOffset,
    /// Of the first record; the others follow back to back.
    pub position: LogPosition,
    pub store_timestamp_ms: u64,
}

/// Why a proposal did not succeed. Only [`ProposeError::Unknown`] leaves open whether it did.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// Definitely not proposed.
    #[error("this node does not lead the group{}", match leader { Some(l) => format!("; node {l} does"), None => String::new() })]
    NotLeader { leader: Option<NodeId> },
    /// Definitely not proposed: the topic or the queue is not in the tables.
    #[error("no queue {queue} of topic {topic}")]
    NoQueue { topic: String, queue: QueueId },
    /// Definitely not stored; may be sent again.
    #[error("the entry is void: its queue offsets, or its command, did not fit the tables")]
    Void,
    /// It may or may not be stored.
    #[error("the outcome is unknown: {0}")]
    Unknown(&'static str),
    /// Definitely not proposed: a limit is reached.
    #[error("{pending_bytes} bytes wait to be committed in this group (limit {limit_bytes})")]
    Full { pending_bytes: usize, limit_bytes: usize },
    /// Definitely not proposed: this node's disk, or those of a majority, have no room.
    #[error("no room for messages: {reason}")]
    NoRoom { reason: String },
    /// Definitely not proposed.
    #[error("{len} bytes are more than one entry may hold ({limit})")]
    TooLarge { len: usize, limit: usize },
    /// Definitely not proposed: members of the group have not said that they know such entries.
    #[error(
        "feature level {needed} is needed, and {} not said to know it: every node of the group must run a release that does \
         (its feature_level too)",
        level::nodes_have(nodes)
    )]
    Level { needed: u32, nodes: Vec<NodeId> },
    /// Definitely not proposed: the group has stopped on this node.
    #[error("the group has stopped on this node")]
    Stopped,
}

impl ProposeError {
    /// Whether the proposal is certainly not in the log, so that it may be sent again.
    pub fn is_definite(&self) -> bool {
        !matches!(self, ProposeError::Unknown(_))
    }
}
