//! What a run did and saw, as lines of JSON: the one thing that workloads, nemeses and checkers share.
//!
//! ```text
//! {"t_ns":81,"process":3,"type":"invoke","op":{"send":{"queue":"broker-a/t/0","value":"3-17"}}}
//! {"t_ns":95,"process":3,"type":"ok","op":{"send":{"queue":"broker-a/t/0","value":"3-17","offset":12}},"node":2}
//!       │             │          │          └─ the operation with its arguments; of a completion also its results
//!       │             │          └─ invoke, then one of ok, fail, info (outcome.rs)
//!       │             └─ a logical client: one operation at a time, and a new number after an info
//!       └─ CLOCK_MONOTONIC of this host, the same for all processes and network namespaces
//! ```
//! Rules of a history, which `check::discipline` asserts:
//! - `invoke` is recorded before the request leaves, the completion after its answer is here. So of two lines the order
//!   in the file is one that real time allows, and `t_ns` never falls within a file.
//! - An operation that never completes counts as `info`.
//! - The counters of a process's values are 0, 1, 2 … in the order of their invocation; no value is sent by two
//!   operations.
//! - The first line is the [`Plan`]; the last one marks [`Phase::End`]. A history without it is of a run that broke
//!   off.
//!
//! What is no request of a client (a nemesis, samples of nodes, digests, the drain, deliveries to a listener, marks) is
//! one line without an invocation, of type `ok`.

mod read;
mod record;
mod value;

use std::ops::Not;

use serde::{Deserialize, Serialize};

pub use self::read::{HistoryError, Reader};
pub use self::record::{Details, Process, Recorder, Written, now_ns};
pub use self::value::{BadText, Queue, Read, Value};
use crate::outcome::Outcome;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    pub t_ns: u64,
    pub process: u32,
    #[serde(rename = "type")]
    pub kind: Kind,
    pub op: Op,
    /// Who was asked, or who answered where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u64>,
    /// The term of whoever answered, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
    /// How often the request was sent, where the client sends it again by itself. Absent: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// The response code, where there was an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// With `code`: the remark of that answer as it came. Without: the client's error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Invoke,
    Ok,
    Fail,
    Info,
}

impl From<Outcome> for Kind {
    fn from(outcome: Outcome) -> Kind {
        match outcome {
            Outcome::Ok => Kind::Ok,
            Outcome::Fail => Kind::Fail,
            Outcome::Info => Kind::Info,
        }
    }
}

/// What is done. Fields without a default are arguments; those with one are results, and empty in an invocation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Op {
    /// What the run is meant to be. First line; process 0.
    Plan(Box<Plan>),
    /// A phase begins.
    Phase(Phase),
    /// One message to a chosen queue.
    Send {
        queue: Queue,
        value: Value,
        /// The queue offset that the acknowledgement named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        /// The position in the log that it named (the end of the offset message id).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<u64>,
    },
    /// A batch to a chosen queue, stored whole or not at all.
    Batch {
        queue: Queue,
        /// In the order of the batch, with consecutive counters.
        values: Vec<Value>,
        /// Of the first message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        /// Of the first message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<u64>,
    },
    /// A pull without a filter.
    Pull {
        queue: Queue,
        from: u64,
        /// One of a sequence by which this process reads the whole queue: the next one begins where this one ended, and
        /// the sequence reaches the queue's end before the drain. Other pulls are at random places.
        assigned: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<PullStatus>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        messages: Vec<Read>,
        /// `nextBeginOffset`, `minOffset` and `maxOffset` of the answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<u64>,
    },
    /// Messages came to a member of a consumer group, which began at the queue's first offset. No invocation.
    Deliver { group: String, queue: Queue, messages: Vec<Read> },
    /// The next offset of a queue (30).
    MaxOffset {
        queue: Queue,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
    /// The first offset of a queue (31).
    MinOffset {
        queue: Queue,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
    /// A consumer's offset is stored (15).
    Commit {
        group: String,
        queue: Queue,
        offset: u64,
        /// Without an answer: done or not, as one-way requests are. Its completion is `info`.
        #[serde(default, skip_serializing_if = "Not::not")]
        oneway: bool,
    },
    /// A consumer's offset is asked for (14). An `ok` without an offset: none is stored (22).
    Query {
        group: String,
        queue: Queue,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
    /// A topic is made, changed, or (without `config`) deleted.
    TopicWrite {
        broker: String,
        topic: String,
        /// What of its configuration is compared, as text of the workload's own, different in each write.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<String>,
    },
    /// A topic is asked for. An `ok` without `config`: there is none.
    TopicRead {
        broker: String,
        topic: String,
        /// Asked by a request of class Current (docs/requests.md); what others answer may be out of date.
        current: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<String>,
    },
    /// A message of which the place is known is looked up. An answer that there is none is `ok` with nothing found.
    Lookup {
        queue: Queue,
        value: Value,
        by: LookupBy,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        found: Vec<Found>,
    },
    /// One message to a chosen queue that is to be delivered there later. An acknowledgement says that it waits.
    SendLater { queue: Queue, value: Value, delay: Delay },
    /// The first half of a transaction: a message to a chosen queue that nobody gets unless it is committed.
    SendHalf {
        queue: Queue,
        value: Value,
        /// Where it waits: offset among the half messages, and position in the log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        half: Option<(u64, u64)>,
    },
    /// A transaction is ended (37), with an answer, which no stock client asks for.
    EndTransaction {
        queue: Queue,
        value: Value,
        how: Ending,
        /// It answers a question of the broker's.
        checked: bool,
        /// Of a `fail`: because it is over already.
        #[serde(default, skip_serializing_if = "Not::not")]
        over: bool,
    },
    /// The broker asked a producer what became of a transaction (39). No invocation.
    CheckTransaction { queue: Queue, value: Value },
    /// Messages of any queue of a topic are taken, and those that come again. An `ok` without messages: there was nothing.
    Pop {
        broker: String,
        topic: String,
        group: String,
        /// How long they are this consumer's.
        invisible_ms: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        messages: Vec<Popped>,
    },
    /// Popped messages are acknowledged, several in one request or one.
    Ack { group: String, messages: Vec<Popped> },
    /// A popped message is its consumer's for so long from now on.
    ChangeInvisible {
        group: String,
        message: Popped,
        invisible_ms: u64,
        /// What stands for `pop_ms` of the message from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pop_ms: Option<u64>,
    },
    /// What a node gave of the dead letters of a group, in pieces that follow each other from the first on; from replica 100 on it
    /// is a reader that asks whoever leads. No invocation.
    DeadLetters { replica: u64, group: String, messages: Vec<Read> },
    /// After convergence: what one replica holds of a queue, in pieces that follow each other. No invocation.
    Drain {
        replica: u64,
        queue: Queue,
        way: Way,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        messages: Vec<Read>,
        /// In the last piece: the queue's bounds at that replica.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bounds: Option<Bounds>,
    },
    /// How a node says that a group is. No invocation.
    Node(Box<NodeSample>),
    /// The machine under the whole run stood still for a while. No invocation.
    Machine(Machine),
    /// A hash of what a node holds, after convergence. No invocation.
    Digest(Box<Digest>),
    /// A fault begins or ends. No invocation: the line is written when it is done, with what was really done.
    Nemesis(Box<Nemesis>),
}

impl Op {
    /// The name in a line.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Plan(_) => "plan",
            Op::Phase(_) => "phase",
            Op::Send { .. } => "send",
            Op::Batch { .. } => "batch",
            Op::Pull { .. } => "pull",
            Op::Deliver { .. } => "deliver",
            Op::MaxOffset { .. } => "max-offset",
            Op::MinOffset { .. } => "min-offset",
            Op::Commit { .. } => "commit",
            Op::Query { .. } => "query",
            Op::TopicWrite { .. } => "topic-write",
            Op::TopicRead { .. } => "topic-read",
            Op::Lookup { .. } => "lookup",
            Op::SendLater { .. } => "send-later",
            Op::SendHalf { .. } => "send-half",
            Op::EndTransaction { .. } => "end-transaction",
            Op::CheckTransaction { .. } => "check-transaction",
            Op::Pop { .. } => "pop",
            Op::Ack { .. } => "ack",
            Op::ChangeInvisible { .. } => "change-invisible",
            Op::DeadLetters { .. } => "dead-letters",
            Op::Drain { .. } => "drain",
            Op::Node(_) => "node",
            Op::Machine(_) => "machine",
            Op::Digest(_) => "digest",
            Op::Nemesis(_) => "nemesis",
        }
    }

    /// Whether it is a client's request, with an invocation and a completion.
    pub fn is_request(&self) -> bool {
        match self {
            Op::Send { .. }
            | Op::Batch { .. }
            | Op::Pull { .. }
            | Op::MaxOffset { .. }
            | Op::MinOffset { .. }
            | Op::Commit { .. }
            | Op::Query { .. }
            | Op::TopicWrite { .. }
            | Op::TopicRead { .. }
            | Op::Lookup { .. }
            | Op::SendLater { .. }
            | Op::SendHalf { .. }
            | Op::EndTransaction { .. }
            | Op::Pop { .. }
            | Op::Ack { .. }
            | Op::ChangeInvisible { .. } => true,
            Op::Plan(_)
            | Op::Phase(_)
            | Op::Deliver { .. }
            | Op::CheckTransaction { .. }
            | Op::DeadLetters { .. }
            | Op::Drain { .. }
            | Op::Node(_)
            | Op::Machine(_)
            | Op::Digest(_)
            | Op::Nemesis(_) => false,
        }
    }

    /// Whether it changes something at the broker, and every answer says whether it did. A pop is none of these: that
    /// there was nothing to take has a code of its own.
    pub fn is_write(&self) -> bool {
        matches!(
            self,
            Op::Send { .. }
                | Op::Batch { .. }
                | Op::Commit { .. }
                | Op::TopicWrite { .. }
                | Op::SendLater { .. }
                | Op::SendHalf { .. }
                | Op::EndTransaction { .. }
                | Op::Ack { .. }
                | Op::ChangeInvisible { .. }
        )
    }

    pub fn queue(&self) -> Option<&Queue> {
        match self {
            Op::Send { queue, .. }
            | Op::Batch { queue, .. }
            | Op::Pull { queue, .. }
            | Op::Deliver { queue, .. }
            | Op::MaxOffset { queue, .. }
            | Op::MinOffset { queue, .. }
            | Op::Commit { queue, .. }
            | Op::Query { queue, .. }
            | Op::Lookup { queue, .. }
            | Op::SendLater { queue, .. }
            | Op::SendHalf { queue, .. }
            | Op::EndTransaction { queue, .. }
            | Op::CheckTransaction { queue, .. }
            | Op::Drain { queue, .. } => Some(queue),
            Op::Plan(_)
            | Op::Phase(_)
            | Op::Pop { .. }
            | Op::Ack { .. }
            | Op::ChangeInvisible { .. }
            | Op::DeadLetters { .. }
            | Op::TopicWrite { .. }
            | Op::TopicRead { .. }
            | Op::Node(_)
            | Op::Machine(_)
            | Op::Digest(_)
            | Op::Nemesis(_) => None,
        }
    }

    /// The values that a send of whatever kind or a batch is about.
    pub fn sends(&self) -> &[Value] {
        match self {
            Op::Send { value, .. } | Op::SendLater { value, .. } | Op::SendHalf { value, .. } => {
                std::slice::from_ref(value)
            }
            Op::Batch { values, .. } => values,
            _ => &[],
        }
    }
}

/// When a message is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// From when the broker stores it.
    pub ms: u64,
    /// Asked for by this level of the broker's; `None`: by a time of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u32>,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    Commit,
    Rollback,
}

/// A message in the hands of a pop consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Popped {
    /// Where it was taken from: a queue of the topic that was asked for, or of the group's retry topic.
    pub queue: Queue,
    pub offset: u64,
    pub value: Value,
    /// When it was handed out by the broker's clock, ms since 1970: tells this time from any other.
    pub pop_ms: u64,
    /// How often it had been handed out before.
    pub attempt: u32,
}

/// How the machine held up threads of nodes, and of the harness that want next to nothing, up to the time of the line. It
/// excuses nothing; it tells a busy machine from a slow broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// A thread that slept woke up so late.
    pub late_ms: u64,
    /// An fsync of one page on the disk that holds the disk images took so long.
    pub sync_ms: u64,
    /// In a tenth of a second, one thread of a node could run and waited so long for a processor.
    pub queued_ms: u64,
    /// A flush of a node had been under way for so long, also where a fault was at its disk or at the node.
    pub flushing_ms: u64,
}

/// What a run is meant to be: what it must have done to count, and the bounds that hold for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// The row of the matrix, such as `F1`, or a name.
    pub run: String,
    pub seed: u64,
    /// Commit of the source and the command, for the table of results.
    pub commit: String,
    pub command: String,
    /// Every node that ever is a voter.
    pub nodes: Vec<u64>,
    /// Broker names, that is, groups.
    pub brokers: Vec<String>,
    /// Queues that must be drained from each node.
    pub queues: Vec<Queue>,
    /// Faults that must have happened, each at least so often; fewer make the run invalid.
    pub faults: Vec<RequiredFault>,
    /// Rules that must have had something to check, such as `L9` or `P2`.
    pub rules: Vec<String>,
    /// Sends that must have been acknowledged.
    pub ok_sends_min: u64,
    /// Other bounds than those of check/liveness.rs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness: Option<LivenessBounds>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequiredFault {
    pub fault: String,
    pub times: u64,
}

/// Bounds that a plan sets for itself; `None` keeps the one of check/liveness.rs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LivenessBounds {
    /// Longest time without an acknowledged send, or without an answered pull, in which no fault was at work.
    pub quiet_gap_ms: Option<u64>,
    /// The same with any fault at work that leaves a majority.
    pub fault_gap_ms: Option<u64>,
    /// Sends to be acknowledged during each fault that leaves a majority and lasts 5 s or more.
    pub progress_min: Option<u64>,
    /// From [`Phase::Heal`] until consumers have everything and replicas are level.
    pub converge_ms: Option<u64>,
    pub elections_per_minute: Option<u64>,
    /// From when a delayed message is due until a consumer has it.
    pub late_ms: Option<u64>,
    /// From when the producer of a half message has its acknowledgement until it is asked, where it does not end it.
    pub ask_ms: Option<u64>,
    /// From when a popped message is no consumer's any more until another one has it.
    pub again_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Clients work, no faults yet.
    Load,
    /// Clients work, faults come and go.
    Faults,
    /// Everything is healed at this moment; clients may go on.
    Heal,
    /// Producers have stopped; consumers read what is left, replicas become level.
    Converge,
    /// Each replica is read.
    Drain,
    /// The run ended as planned.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullStatus {
    /// Code 0.
    Found,
    /// Code 19: nothing at the offset yet.
    NothingNew,
    /// Code 20.
    NoneMatched,
    /// Code 21: the offset is outside the queue.
    Moved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LookupBy {
    /// By the value as message key (12). Every message is sent with its value as key.
    Key,
    /// By the unique id that the client made (12).
    UniqueId,
    /// By the offset message id of the acknowledgement (33).
    OffsetId,
}

/// A message that a look-up gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    pub queue: Queue,
    pub offset: u64,
    pub value: Value,
}

/// By which way a replica was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    Pull,
    Pop,
    Grpc,
    /// From the files of the stopped node.
    Files,
}

/// The first offset of a queue and the one behind its last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    pub min: u64,
    pub max: u64,
}

/// A group as one node sees it. Indexes are those of Raft entries; `None` says that the node did not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSample {
    pub node: u64,
    pub broker: String,
    /// Of the data directory; another one has no past.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Another process has begun anew with what is in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
    /// The vote on its disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vote: Option<Vote>,
    /// Whom it holds for the leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<u64>,
    /// It says of itself that it leads `term`.
    pub leads: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// Fsynced on this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// Of the newest tables that it can start from, the current snapshot among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<u64>,
    /// The current snapshot; one that came from a leader is ahead of `last` until the log starts at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purged: Option<u64>,
    /// End of what is fsynced on this node, a byte position in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_position: Option<u64>,
    /// First offsets of queues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub minimums: Vec<(Queue, u64)>,
    /// Why the group has stopped on this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// What a node has promised, on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    pub term: u64,
    /// The node that it is for.
    pub node: u64,
    /// That node is known to have been elected in the term: it leads.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub committed: bool,
}

/// A hash of a part of what a node holds. Two of the same `what`, `key`, `from` and `to` must be equal on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    pub node: u64,
    pub broker: String,
    pub what: DigestOf,
    /// The segment's start, the queue, the table's name.
    pub key: String,
    /// The range that was hashed: positions of the log, or offsets of a queue; 0 and 0 of a table. Of a node that runs, of
    /// tables and the log's chain: 0 and the entry behind which they were taken.
    #[serde(default)]
    pub from: u64,
    #[serde(default)]
    pub to: u64,
    /// Any text; compared as it is.
    pub hash: String,
    /// Of derived files or tables that were deleted and built again from the log.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub rebuilt: bool,
    /// While the node ran: the others may be down, or have no answer.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub live: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestOf {
    /// Bytes of the log.
    Log,
    /// Chained hash over a queue's messages.
    Queue,
    /// ConsumeQueue units.
    Units,
    /// Entries of the IndexFile.
    Keys,
    /// A replicated table: topics, groups, offsets.
    Table,
}

/// One fault's beginning or end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nemesis {
    /// Pairs the end with the beginning; unique in the run.
    pub id: u32,
    /// A name of `check::faults`.
    pub fault: String,
    pub action: Action,
    /// The nodes that it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<u64>,
    /// While it lasts, a majority of each group's voters runs, reaches one another and can write.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub leaves_majority: bool,
    /// What was really done, or found to have happened by now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<Effect>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    #[default]
    Start,
    Stop,
}

/// One thing that was done to a node, a link or a file, measured where that is possible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effect {
    pub what: EffectOf,
    /// Absent where it is no node: a nameserver, a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u64>,
    /// The other end of a link; the new leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Packets, calls, flipped bits, milliseconds of a clock or a delay: what [`EffectOf`] says.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub count: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// A file, an address, a group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub at: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Effect {
    pub fn new(what: EffectOf) -> Effect {
        Effect { what, node: None, to: None, pid: None, count: 0, bytes: 0, at: String::new() }
    }

    pub fn on(what: EffectOf, node: u64) -> Effect {
        Effect { node: Some(node), ..Effect::new(what) }
    }

    pub fn link(what: EffectOf, from: u64, to: u64) -> Effect {
        Effect { node: Some(from), to: Some(to), ..Effect::new(what) }
    }

    pub fn pid(self, pid: u32) -> Effect {
        Effect { pid: Some(pid), ..self }
    }

    pub fn count(self, count: u64) -> Effect {
        Effect { count, ..self }
    }

    pub fn bytes(self, bytes: u64) -> Effect {
        Effect { bytes, ..self }
    }

    pub fn at(self, at: impl Into<String>) -> Effect {
        Effect { at: at.into(), ..self }
    }
}

/// What was done. Where a measure is named, zero says that it did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EffectOf {
    /// The process `pid` died of a signal that was sent to it, and was seen dead.
    Killed,
    /// The process `pid` ended by itself after it had been asked to.
    Stopped,
    /// The process `pid` runs and has been seen to answer.
    Started,
    /// The process `pid` was seen stopped (state T).
    Paused,
    Resumed,
    /// The node led `at` (a broker) when the fault began.
    Led,
    /// Another node `to` leads `at`, in a term above that of before the fault.
    Elected,
    /// Packets from `node` to `to` are dropped from now on.
    Cut,
    Healed,
    /// `count` packets of `bytes` were dropped from `node` to `to` since the beginning.
    Dropped,
    /// `count` packets were held up.
    Delayed,
    /// The node's file system was shut down; `bytes` that had not been synced are gone.
    PowerLost,
    Remounted,
    /// `bytes` were taken so that the disk was full; a write was refused `count` times.
    Filled,
    Freed,
    /// Writes of the file system were blocked for `count` milliseconds.
    Frozen,
    Thawed,
    /// `count` calls returned an error.
    CallsFailed,
    /// `count` calls were held up.
    CallsDelayed,
    /// `count` bits of the file `at` were flipped.
    Flipped,
    /// `bytes` of the file `at` were overwritten with others.
    Overwritten,
    /// `bytes` were cut off from the file `at`.
    Truncated,
    /// The file or directory `at` is gone.
    Removed,
    /// An older copy of `at` took its place.
    Restored,
    /// The node's wall clock was moved by `count` milliseconds, either way.
    ClockMoved,
    /// `node` gave the leadership of `at` to `to`.
    Transferred,
    /// The voters of `at` changed.
    MembersChanged,
    /// The client process ended or left its group.
    ClientLeft,
    ClientJoined,
    NameserverKilled,
    NameserverStarted,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        Queue::new("broker-a", "t", 3)
    }

    fn send(value: Value, offset: Option<u64>) -> Op {
        Op::Send { queue: queue(), value, offset, position: None }
    }

    #[test]
    fn a_line_is_as_the_head_of_this_file_shows_it() {
        let event = Event {
            t_ns: 95,
            process: 3,
            kind: Kind::Ok,
            op: send(Value::new(3, 17), Some(12)),
            node: Some(2),
            term: None,
            attempts: None,
            code: None,
            error: None,
        };
        let line = r#"{"t_ns":95,"process":3,"type":"ok","op":{"send":{"queue":"broker-a/t/3","value":"3-17","offset":12}},"node":2}"#;
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
        assert_eq!(serde_json::from_str::<Event>(line).unwrap(), event);
    }

    #[test]
    fn every_operation_is_read_as_it_was_written() {
        let read = Read { offset: 7, value: Value::new(1, 2) };
        let popped = Popped { queue: queue(), offset: 7, value: read.value, pop_ms: 99, attempt: 1 };
        let nemesis = Nemesis {
            id: 1,
            fault: "kill".into(),
            effects: vec![
                Effect::on(EffectOf::Killed, 2).pid(77),
                Effect::link(EffectOf::Dropped, 1, 2).count(9),
            ],
            ..Nemesis::default()
        };
        for op in [
            Op::Plan(Box::default()),
            Op::Phase(Phase::Converge),
            Op::Batch { queue: queue(), values: vec![Value::new(1, 2)], offset: None, position: Some(9) },
            Op::Pull {
                queue: queue(),
                from: 7,
                assigned: true,
                status: Some(PullStatus::NothingNew),
                messages: vec![read],
                next: Some(8),
                min: Some(0),
                max: Some(8),
            },
            Op::Deliver { group: "g".into(), queue: queue(), messages: vec![read] },
            Op::MaxOffset { queue: queue(), offset: Some(1) },
            Op::MinOffset { queue: queue(), offset: None },
            Op::Commit { group: "g".into(), queue: queue(), offset: 4, oneway: true },
            Op::Query { group: "g".into(), queue: queue(), offset: Some(4) },
            Op::TopicWrite { broker: "a".into(), topic: "t".into(), config: Some("8".into()) },
            Op::TopicRead { broker: "a".into(), topic: "t".into(), current: true, config: None },
            Op::Lookup {
                queue: queue(),
                value: read.value,
                by: LookupBy::OffsetId,
                found: vec![Found { queue: queue(), offset: 7, value: read.value }],
            },
            Op::SendLater { queue: queue(), value: read.value, delay: Delay { ms: 1_000, level: Some(1) } },
            Op::SendHalf { queue: queue(), value: read.value, half: Some((3, 4096)) },
            Op::EndTransaction {
                queue: queue(),
                value: read.value,
                how: Ending::Rollback,
                checked: true,
                over: true,
            },
            Op::CheckTransaction { queue: queue(), value: read.value },
            Op::Pop {
                broker: "a".into(),
                topic: "t".into(),
                group: "g".into(),
                invisible_ms: 5_000,
                messages: vec![popped.clone()],
            },
            Op::Ack { group: "g".into(), messages: vec![popped.clone()] },
            Op::ChangeInvisible { group: "g".into(), message: popped, invisible_ms: 9, pop_ms: Some(8) },
            Op::DeadLetters { replica: 1, group: "g".into(), messages: vec![read] },
            Op::Drain {
                replica: 2,
                queue: queue(),
                way: Way::Pull,
                messages: vec![read],
                bounds: Some(Bounds { min: 0, max: 8 }),
            },
            Op::Machine(Machine { late_ms: 60, ..Machine::default() }),
            Op::Node(Box::new(NodeSample { minimums: vec![(queue(), 3)], ..NodeSample::default() })),
            Op::Digest(Box::new(Digest {
                node: 1,
                broker: "a".into(),
                what: DigestOf::Log,
                key: "0".into(),
                from: 0,
                to: 9,
                hash: "x".into(),
                rebuilt: true,
                live: false,
            })),
            Op::Nemesis(Box::new(nemesis)),
        ] {
            let text = serde_json::to_string(&op).unwrap();
            assert_eq!(serde_json::from_str::<Op>(&text).unwrap(), op, "{text}");
        }
        let typo = r#"{"max-offset":{"queue":"a/t/0","ofset":3}}"#;
        assert!(serde_json::from_str::<Op>(typo).is_err());
    }
}
