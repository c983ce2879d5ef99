//! What the log's command entries say: one protobuf message `Command` for each entry (docs/formats.md 2.3).
//!
//! No map fields, so equal values have equal bytes. Numbers are never reused. A replica that meets a kind or a
//! level that it does not know stops: applying half a log would make it differ from its peers (log.md 15).
//!
//! | number | kind | changes queues |
//! |---|---|---|
//! | 2 | Bootstrap | yes |
//! | 3 | CreateTopic | yes |
//! | 4 | UpdateTopic | yes |
//! | 5 | DeleteTopic | yes |
//! | 6 | CreateGroup: the group and its retry topic, each unless it exists | yes |
//! | 7 | UpdateGroup | no |
//! | 8 | DeleteGroup | no |
//! | 9 | CommitOffsets | no |
//! | 10 | Release *(may be coupled)* | no |
//! | 11 | Attempt | no |
//! | 12 | PopTake | no |
//! | 13 | PopAck | no |
//! | 14 | PopChange | no |
//! | 15 | Lock | no |
//! | 16 | ResetOffsets | no |
//! | 17 | TakeResets | no |
//! | 18 | RequestMode | no |
//! | 19 | PopRevive *(may be coupled)* | no |
//! | 20 | RaiseLevel | no |
//! | 21–31 | for rare kinds to come: retention, ACL | |
//!
//! 10 to 19 are of level 2; 20 is of the level that it raises the group to. One that may be coupled stands in an entry with the messages that come instead, and both
//! take effect or neither does.

use bytes::Bytes;
use prost::Message;
use replica::{CommandProposal, CoupledProposal, MessagesProposal};

/// The feature level that this build applies (log.md 15).
pub const FEATURE_LEVEL: u32 = 2;

/// The body of a command entry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// The feature level that the entry needs.
    #[prost(uint32, tag = "1")]
    pub level: u32,
    #[prost(oneof = "Kind", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20")]
    pub kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    #[prost(message, tag = "2")]
    Bootstrap(Bootstrap),
    #[prost(message, tag = "3")]
    CreateTopic(TopicConfig),
    #[prost(message, tag = "4")]
    UpdateTopic(UpdateTopic),
    #[prost(message, tag = "5")]
    DeleteTopic(DeleteTopic),
    #[prost(message, tag = "6")]
    CreateGroup(GroupConfig),
    #[prost(message, tag = "7")]
    UpdateGroup(GroupConfig),
    #[prost(message, tag = "8")]
    DeleteGroup(DeleteGroup),
    #[prost(message, tag = "9")]
    CommitOffsets(CommitOffsets),
    #[prost(message, tag = "10")]
    Release(Release),
    #[prost(message, tag = "11")]
    Attempt(Attempt),
    #[prost(message, tag = "12")]
    PopTake(PopTake),
    #[prost(message, tag = "13")]
    PopAck(PopAck),
    #[prost(message, tag = "14")]
    PopChange(PopChange),
    #[prost(message, tag = "15")]
    Lock(Lock),
    #[prost(message, tag = "16")]
    ResetOffsets(ResetOffsets),
    #[prost(message, tag = "17")]
    TakeResets(TakeResets),
    #[prost(message, tag = "18")]
    RequestMode(SetRequestMode),
    #[prost(message, tag = "19")]
    PopRevive(PopRevive),
    #[prost(message, tag = "20")]
    RaiseLevel(RaiseLevel),
}

impl Kind {
    /// What the table above says of it: the feature level that it came with, so that a replica of a lower one stops at it,
    /// and whether it creates, deletes or changes queues.
    fn level_and_queues(&self) -> (u32, bool) {
        match self {
            Kind::Bootstrap(_)
            | Kind::CreateTopic(_)
            | Kind::UpdateTopic(_)
            | Kind::DeleteTopic(_)
            | Kind::CreateGroup(_) => (1, true),
            Kind::UpdateGroup(_) | Kind::DeleteGroup(_) | Kind::CommitOffsets(_) => (1, false),
            Kind::Release(_)
            | Kind::Attempt(_)
            | Kind::PopTake(_)
            | Kind::PopAck(_)
            | Kind::PopChange(_)
            | Kind::Lock(_)
            | Kind::ResetOffsets(_)
            | Kind::TakeResets(_)
            | Kind::RequestMode(_)
            | Kind::PopRevive(_) => (2, false),
            Kind::RaiseLevel(raise) => (raise.level, false),
        }
    }

    /// The feature level that it came with.
    fn level(&self) -> u32 {
        self.level_and_queues().0
    }
}

impl Command {
    /// Creates the topic unless it exists (then code 0 and `changed == false`).
    pub fn create_topic(config: TopicConfig) -> Command {
        Kind::CreateTopic(config).into()
    }

    /// Creates the group unless it exists, and `%RETRY%group` unless it exists (a heartbeat's effect).
    pub fn create_group(config: GroupConfig) -> Command {
        Kind::CreateGroup(config).into()
    }

    /// Whether it creates, deletes or changes queues, so that the proposer must let it pass alone (log.md 4).
    pub fn is_barrier(&self) -> bool {
        self.kind.as_ref().is_some_and(|kind| kind.level_and_queues().1)
    }

    /// As an entry of its own.
    pub fn proposal(&self) -> CommandProposal {
        CommandProposal { body: self.to_bytes(), barrier: self.is_barrier(), level: self.level }
    }

    /// As an entry with messages that take effect together with it.
    pub fn coupled(&self, messages: Vec<MessagesProposal>) -> CoupledProposal {
        CoupledProposal { command: self.to_bytes(), level: self.level, messages }
    }

    /// The bytes of the entry's body.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

impl From<Kind> for Command {
    fn from(kind: Kind) -> Command {
        Command { level: kind.level(), kind: Some(kind) }
    }
}

/// How a command ended, on every replica alike: the bytes of the entry's outcome.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// A response code of RocketMQ, 0 for success.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Why not; empty on success.
    #[prost(string, tag = "2")]
    pub remark: String,
    /// Whether a table changed. A topic or group that changed is to be registered before the answer.
    #[prost(bool, tag = "3")]
    pub changed: bool,
    /// Which parts of the command were granted: places in its list, ascending, from 0.
    #[prost(uint32, repeated, tag = "4")]
    pub granted: Vec<u32>,
    /// Log time of the entry, ms; of kinds 10 to 19 only.
    #[prost(uint64, tag = "5")]
    pub time_ms: u64,
}

/// What a broker creates at its first start (protocol.md 4.8), each unless it exists.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bootstrap {
    #[prost(message, repeated, tag = "1")]
    pub topics: Vec<TopicConfig>,
    #[prost(message, repeated, tag = "2")]
    pub groups: Vec<GroupConfig>,
}

/// Every member of the group knows entries up to this level, from now on. It changes nothing else: an entry that needs a level
/// says as much.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RaiseLevel {
    #[prost(uint32, tag = "1")]
    pub level: u32,
}

/// A topic as it is configured. Attributes are sorted by key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TopicConfig {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint32, tag = "2")]
    pub read_queues: u32,
    #[prost(uint32, tag = "3")]
    pub write_queues: u32,
    /// [`wire::perm`].
    #[prost(int32, tag = "4")]
    pub perm: i32,
    /// False: SINGLE_TAG.
    #[prost(bool, tag = "5")]
    pub multi_tag: bool,
    #[prost(int32, tag = "6")]
    pub sys_flag: i32,
    #[prost(bool, tag = "7")]
    pub order: bool,
    #[prost(message, repeated, tag = "8")]
    pub attributes: Vec<Attribute>,
}

/// An attribute of a topic, without the sign of the change syntax.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct Attribute {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Creates or changes a topic. `config.attributes` are set, `unset` removed, others stay.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateTopic {
    #[prost(message, required, tag = "1")]
    pub config: TopicConfig,
    #[prost(string, repeated, tag = "2")]
    pub unset: Vec<String>,
}

/// Deletes a topic and every group's offsets in it. The numbering of its queues is remembered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeleteTopic {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A consumer group as it is configured (protocol.md 5). It has no attributes: RocketMQ 5.3 knows none.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GroupConfig {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(bool, tag = "2")]
    pub consume_enable: bool,
    #[prost(bool, tag = "3")]
    pub consume_from_min_enable: bool,
    #[prost(bool, tag = "4")]
    pub consume_broadcast_enable: bool,
    #[prost(bool, tag = "5")]
    pub consume_message_orderly: bool,
    #[prost(int32, tag = "6")]
    pub retry_queue_nums: i32,
    #[prost(int32, tag = "7")]
    pub retry_max_times: i32,
    #[prost(message, required, tag = "8")]
    pub retry_policy: RetryPolicy,
    #[prost(int64, tag = "9")]
    pub broker_id: i64,
    #[prost(int64, tag = "10")]
    pub which_broker_when_consume_slowly: i64,
    #[prost(bool, tag = "11")]
    pub notify_consumer_ids_changed_enable: bool,
    #[prost(int32, tag = "12")]
    pub group_sys_flag: i32,
    #[prost(int32, tag = "13")]
    pub consume_timeout_minute: i32,
    /// Fixed by an administrator.
    #[prost(message, repeated, tag = "14")]
    pub subscriptions: Vec<Subscription>,
}

/// Delays before each retry of a pop message; without tables they are RocketMQ's own.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RetryPolicy {
    /// False: the table applies.
    #[prost(bool, tag = "1")]
    pub exponential: bool,
    #[prost(message, optional, tag = "2")]
    pub table: Option<RetryTable>,
    #[prost(message, optional, tag = "3")]
    pub growth: Option<RetryGrowth>,
}

/// Milliseconds by attempt.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RetryTable {
    #[prost(int64, repeated, tag = "1")]
    pub delays_ms: Vec<i64>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RetryGrowth {
    #[prost(int64, tag = "1")]
    pub initial_ms: i64,
    #[prost(int64, tag = "2")]
    pub max_ms: i64,
    #[prost(int64, tag = "3")]
    pub multiplier: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Subscription {
    #[prost(string, tag = "1")]
    pub topic: String,
    #[prost(string, tag = "2")]
    pub expression_type: String,
    #[prost(string, tag = "3")]
    pub expression: String,
    #[prost(int64, tag = "4")]
    pub version: i64,
}

/// Deletes a group's configuration and, if asked, its offsets.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeleteGroup {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(bool, tag = "2")]
    pub clean_offsets: bool,
}

/// Consumer offsets, as columns of equal length: row i sets the offset of (groups[i], topics[i], queues[i]).
/// Ids are those that the log gave to the names; a row whose topic, group or queue is gone is dropped.
/// Absolute values: an offset may go back when a client says so.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommitOffsets {
    #[prost(uint32, repeated, tag = "1")]
    pub topics: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    pub groups: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    pub queues: Vec<u32>,
    #[prost(uint64, repeated, tag = "4")]
    pub offsets: Vec<u64>,
}

/// Messages of source queues are done: they have been delivered, or will never be (decisions/0011).
///
/// In a coupled entry all of them must be pending, each named once and ascending within its source, or the entry is
/// void. In an entry of its own those that are not pending are passed over; `granted` counts through the offsets of all
/// sources.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Release {
    #[prost(message, repeated, tag = "1")]
    pub sources: Vec<Source>,
    /// Why, for the story of a message: one of [`released`]. `apply` does not look at it.
    #[prost(uint32, tag = "2")]
    pub how: u32,
}

/// Why a message of a source queue is done.
pub mod released {
    /// It is in its own queue now.
    pub const DELIVERED: u32 = 0;
    /// It was called back.
    pub const CANCELLED: u32 = 1;
    /// Its transaction was rolled back.
    pub const ROLLED_BACK: u32 = 2;
    /// It goes on in another topic.
    pub const MOVED: u32 = 3;
    /// It cannot be delivered.
    pub const DROPPED: u32 = 4;
}

/// Messages of one queue.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Source {
    #[prost(uint32, tag = "1")]
    pub topic: u32,
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Ascending.
    #[prost(uint64, repeated, tag = "3")]
    pub offsets: Vec<u64>,
}

/// One more attempt to learn what is to become of messages that are pending. Those that are not are not granted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attempt {
    #[prost(message, required, tag = "1")]
    pub source: Source,
}

/// Messages of some queues go to one pop consumer of a group, at one pop time. Each part is granted as a whole or not at
/// all: the tables are not as it says, or would hold too much; `granted` counts the parts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PopTake {
    #[prost(uint32, tag = "1")]
    pub group: u32,
    #[prost(message, repeated, tag = "2")]
    pub parts: Vec<TakePart>,
    #[prost(uint64, tag = "3")]
    pub invisible_ms: u64,
    /// One batch of a queue at a time, and the offset follows the acknowledgements.
    #[prost(bool, tag = "4")]
    pub order: bool,
    /// With `order`: the same attempt may take its batch again.
    #[prost(string, tag = "5")]
    pub attempt_id: String,
}

/// What goes out of one queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TakePart {
    #[prost(uint32, tag = "1")]
    pub topic: u32,
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// The consumer offset by which it was worked out; none: none is stored.
    #[prost(uint64, optional, tag = "3")]
    pub cursor: Option<u64>,
    /// The consumer offset afterwards; with `order`, once all is acknowledged. Below `cursor` only where that is beyond
    /// the end of the queue.
    #[prost(uint64, tag = "4")]
    pub next: u64,
    /// What is handed out, ascending, below `next`; what the filter left out is not among them. May be empty: then only
    /// the offset moves.
    #[prost(uint64, repeated, tag = "5")]
    pub offsets: Vec<u64>,
}

/// Acknowledgements, as columns of equal length. A row whose message is not in flight with this pop time is not
/// granted: somebody else has it, or nobody.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PopAck {
    #[prost(uint32, repeated, tag = "1")]
    pub topics: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    pub groups: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    pub queues: Vec<u32>,
    #[prost(uint64, repeated, tag = "4")]
    pub offsets: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    pub pop_times_ms: Vec<u64>,
}

/// Other invisible times, counted from the entry's log time, as columns of equal length. The pop time becomes the
/// entry's log time, but not that of an orderly batch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PopChange {
    #[prost(uint32, repeated, tag = "1")]
    pub topics: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    pub groups: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    pub queues: Vec<u32>,
    #[prost(uint64, repeated, tag = "4")]
    pub offsets: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    pub pop_times_ms: Vec<u64>,
    #[prost(uint64, repeated, tag = "6")]
    pub invisible_ms: Vec<u64>,
}

/// Locks or unlocks queues for one client of one group; topics and queues are columns of equal length. A lock ends
/// `lease_ms` after the entry's log time unless it is renewed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Lock {
    #[prost(uint32, tag = "1")]
    pub group: u32,
    #[prost(string, tag = "2")]
    pub client: String,
    #[prost(bool, tag = "3")]
    pub unlock: bool,
    #[prost(uint64, tag = "4")]
    pub lease_ms: u64,
    #[prost(uint32, repeated, tag = "5")]
    pub topics: Vec<u32>,
    #[prost(uint32, repeated, tag = "6")]
    pub queues: Vec<u32>,
}

/// Sets offsets of a group in a topic, and what it commits for these queues counts for nothing until a consumer has
/// been told. Queues and offsets are columns of equal length.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResetOffsets {
    #[prost(uint32, tag = "1")]
    pub topic: u32,
    #[prost(uint32, tag = "2")]
    pub group: u32,
    #[prost(uint32, repeated, tag = "3")]
    pub queues: Vec<u32>,
    #[prost(uint64, repeated, tag = "4")]
    pub offsets: Vec<u64>,
}

/// Consumers were told of resets, as columns of equal length. A row whose reset is to another offset, or taken
/// already, is not granted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TakeResets {
    #[prost(uint32, repeated, tag = "1")]
    pub topics: Vec<u32>,
    #[prost(uint32, repeated, tag = "2")]
    pub groups: Vec<u32>,
    #[prost(uint32, repeated, tag = "3")]
    pub queues: Vec<u32>,
    #[prost(uint64, repeated, tag = "4")]
    pub offsets: Vec<u64>,
}

/// How a group is to get a topic's messages (401). By name: RocketMQ asks neither for the topic nor for the group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetRequestMode {
    #[prost(string, tag = "1")]
    pub topic: String,
    #[prost(string, tag = "2")]
    pub group: String,
    /// Pop; else pull.
    #[prost(bool, tag = "3")]
    pub pop: bool,
    /// Queues that a pop client shares; 0: all.
    #[prost(int32, tag = "4")]
    pub pop_share_queues: i32,
}

/// Messages whose invisible time is over leave the hands of their consumers. In a coupled entry, with their copies for
/// the retry or the dead-letter topic, all of them must be due at the entry's log time, each named once, or the entry
/// is void. In an entry of its own those that are not due are passed over; `granted` counts through all batches.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PopRevive {
    #[prost(message, repeated, tag = "1")]
    pub batches: Vec<PopBatch>,
}

/// Messages of one queue in the hands of one group.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PopBatch {
    #[prost(uint32, tag = "1")]
    pub topic: u32,
    #[prost(uint32, tag = "2")]
    pub group: u32,
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Ascending.
    #[prost(uint64, repeated, tag = "4")]
    pub offsets: Vec<u64>,
}
