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
//! | 10–15 | for frequent kinds to come: delay progress, pop acks, order locks, transactions, offset resets | |
//! | 16–31 | for rare kinds to come: retention, feature level, ACL | |

use bytes::Bytes;
use prost::Message;

/// The feature level that this build applies (log.md 15).
pub const FEATURE_LEVEL: u32 = 1;

/// The body of a command entry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// The feature level that the entry needs.
    #[prost(uint32, tag = "1")]
    pub level: u32,
    #[prost(oneof = "Kind", tags = "2, 3, 4, 5, 6, 7, 8, 9")]
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
        match &self.kind {
            Some(
                Kind::Bootstrap(_)
                | Kind::CreateTopic(_)
                | Kind::UpdateTopic(_)
                | Kind::DeleteTopic(_)
                | Kind::CreateGroup(_),
            ) => true,
            Some(Kind::UpdateGroup(_) | Kind::DeleteGroup(_) | Kind::CommitOffsets(_)) | None => false,
        }
    }

    /// The bytes of the entry's body.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

impl From<Kind> for Command {
    fn from(kind: Kind) -> Command {
        Command { level: FEATURE_LEVEL, kind: Some(kind) }
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
}

/// What a broker creates at its first start (protocol.md 4.8), each unless it exists.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bootstrap {
    #[prost(message, repeated, tag = "1")]
    pub topics: Vec<TopicConfig>,
    #[prost(message, repeated, tag = "2")]
    pub groups: Vec<GroupConfig>,
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
