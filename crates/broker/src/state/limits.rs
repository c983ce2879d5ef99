//! Every maximum of the replicated state. What `apply` itself refuses by these numbers is part of the log's
//! meaning: raising or lowering one marked *(apply)* is a new feature level (log.md 15).

/// Names of topics ever known, live ones and the remembered deleted ones. *(apply)*
pub const TOPIC_NAMES_MAX: usize = 100_000;
/// Consumer groups ever known, live ones and deleted ones that keep offsets. *(apply)*
pub const GROUP_NAMES_MAX: usize = 100_000;
/// Queues of one topic, for reading or for writing. *(apply)*
pub const QUEUES_PER_TOPIC_MAX: u32 = 65_536;
/// Queues of all topics together, those of remembered deleted topics included. *(apply)*
pub const QUEUES_MAX: usize = 1_000_000;
/// Consumer offsets stored, one for each (topic, group, queue). *(apply)*
pub const CONSUMER_OFFSETS_MAX: usize = 10_000_000;
/// Attributes of one topic or group. *(apply)*
pub const ATTRIBUTES_MAX: usize = 32;

/// Source queues of which messages are done: the delay levels, the timer wheel, half messages. *(apply)*
pub const SOURCES_MAX: usize = 1_024;
/// Pending messages whose attempts are counted. *(apply)*
pub const ATTEMPTS_MAX: usize = 1_000_000;
/// Locked queues of all groups together. *(apply)*
pub const LOCKS_MAX: usize = 200_000;
/// Bytes of the client id that holds a lock. *(apply)*
pub const LOCK_CLIENT_BYTES_MAX: usize = 1_024;
/// Resets that no consumer has been told of, one for each (topic, group, queue). *(apply)*
pub const RESETS_MAX: usize = 1_000_000;
/// Pairs of topic and group that have a message request mode. *(apply)*
pub const REQUEST_MODES_MAX: usize = 100_000;
/// Messages of one queue in the hands of one group's pop consumers. *(apply)*
pub const IN_FLIGHT_PER_QUEUE_MAX: usize = 10_000;
/// Messages in the hands of all pop consumers. *(apply)*
pub const IN_FLIGHT_MAX: usize = 1_000_000;
/// Bytes of the attempt id of an orderly pop. *(apply)*
pub const ATTEMPT_ID_BYTES_MAX: usize = 255;

/// Bytes of any name; clients may choose shorter ones only (wire::validate_topic). *(apply)*
pub const NAME_BYTES_MAX: usize = 255;

/// Steps of a group's retry policy, and its fixed subscriptions.
pub const GROUP_LIST_MAX: usize = 256;
/// Bytes of an expression in a fixed subscription.
pub const EXPRESSION_BYTES_MAX: usize = 4096;

/// Changes at which a merged batch of offset commits is due before its second is over (log.md 13).
pub const COMMIT_BATCH_CHANGES: usize = 1_000;
/// Time between merged batches of offset commits, ms (log.md 13).
pub const COMMIT_BATCH_INTERVAL_MS: u64 = 1_000;
/// Merged offset commits waiting for their turn; more are refused (one-way: dropped; the client sends them
/// again within 5 s).
pub const COMMIT_PENDING_MAX: usize = 200_000;
/// Changes in one entry of offset commits: about 16 B each, so far below the entry limit of 8 MiB.
pub const COMMIT_CHANGES_PER_ENTRY_MAX: usize = 10_000;

const _: () = {
    assert!(wire::TOPIC_LEN_MAX <= NAME_BYTES_MAX && wire::RETRY_OR_DLQ_TOPIC_LEN_MAX <= NAME_BYTES_MAX);
    assert!(wire::GROUP_LEN_MAX + wire::RETRY_TOPIC_PREFIX.len() <= wire::RETRY_OR_DLQ_TOPIC_LEN_MAX);
    assert!(QUEUES_PER_TOPIC_MAX as usize <= QUEUES_MAX);
    assert!(COMMIT_BATCH_CHANGES <= COMMIT_CHANGES_PER_ENTRY_MAX);
    assert!(COMMIT_CHANGES_PER_ENTRY_MAX * 16 < 1024 * 1024);
    assert!(IN_FLIGHT_PER_QUEUE_MAX <= IN_FLIGHT_MAX);
};
