//! Every limit of this crate, with the assertions that hold between them.

use std::time::Duration;

/// Messages that one entry holds at most, in bytes, unless one proposal alone is larger (log.md 19).
pub(crate) const ENTRY_BYTES: usize = 256 << 10;
/// The largest proposal: one client frame.
pub(crate) const PROPOSAL_BYTES_MAX: usize = 8 << 20;
/// Proposed and not yet applied bytes of one group; beyond them proposals are refused.
pub(crate) const PENDING_BYTES_MAX: usize = 64 << 20;
/// Entries in flight below which a part-filled entry is proposed at once. Few are enough (openraft.md 1.1).
pub(crate) const ENTRIES_IN_FLIGHT_EAGER: usize = 4;
/// Bytes in flight up to which full entries are proposed: a far link must not cost throughput.
pub(crate) const BYTES_IN_FLIGHT_MAX: usize = 16 << 20;
/// One read for replication.
pub(crate) const REPLICATION_READ_BYTES: usize = 1 << 20;
/// A message between peers.
pub(crate) const PEER_MESSAGE_BYTES: usize = 16 << 20;
/// HTTP/2 windows of the log channel: what is in flight to one peer.
pub(crate) const PEER_WINDOW_BYTES: u32 = 8 << 20;
/// A snapshot chunk.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// A proposal whose entry is not applied by then is reported as unknown (RocketMQ's DLedger waits 2.5 s as well).
pub(crate) const PROPOSAL_TIMEOUT: Duration = Duration::from_millis(2500);
/// How long the other voters of a new group leave its first entry to the one that is to lead first.
pub(crate) const FIRST_LEADER_HEAD_START: Duration = Duration::from_secs(1);
/// Log bytes after which a checkpoint is due.
pub(crate) const CHECKPOINT_BYTES: u64 = 256 << 20;
/// Time after which a checkpoint is due when anything was applied.
pub(crate) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// A leader whose disk completes no flush for so long gives up leadership (log.md 9, 16).
pub(crate) const FLUSH_STUCK: Duration = Duration::from_secs(2);
/// How long a transfer waits for the target to have everything (log.md 17).
pub(crate) const TRANSFER_CATCH_UP: Duration = Duration::from_millis(500);
/// How long a transfer waits for the new term (log.md 17).
pub(crate) const TRANSFER_WATCH: Duration = Duration::from_millis(700);

const _: () = assert!(ENTRY_BYTES <= PROPOSAL_BYTES_MAX);
const _: () = assert!(REPLICATION_READ_BYTES + PROPOSAL_BYTES_MAX < PEER_MESSAGE_BYTES);
const _: () = assert!(PROPOSAL_BYTES_MAX < BYTES_IN_FLIGHT_MAX);
const _: () = assert!(BYTES_IN_FLIGHT_MAX <= PENDING_BYTES_MAX);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES < PEER_MESSAGE_BYTES);
