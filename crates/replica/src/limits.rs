//! Every limit of this crate, with the assertions that hold between them.

use std::time::Duration;

/// Messages that one entry holds at most, in bytes, unless one proposal alone is larger (log.md 19).
pub(crate) const ENTRY_BYTES: usize = 256 << 10;
/// The largest proposal: one client frame.
pub(crate) const PROPOSAL_BYTES_MAX: usize = 8 << 20;
/// Proposed and not yet applied bytes of one group; beyond them proposals are refused.
pub(crate) const PENDING_BYTES_MAX: usize = 64 << 20;
/// Entries in flight below which a part-filled entry is proposed at once. Few are enough (openraft.md 1.1).
pub(crate) const ENTRIES_IN_FLIGHT_EAGER: usize = 2;
/// Bytes in flight up to which full entries are proposed: a far link must not cost throughput.
pub(crate) const BYTES_IN_FLIGHT_MAX: usize = 16 << 20;
/// A node whose full disk has less room than this lacks room for messages (log.md 10).
pub(crate) const ROOM_LOW_BYTES: u64 = (BYTES_IN_FLIGHT_MAX + PROPOSAL_BYTES_MAX) as u64;
/// For how long a node's word that it lacks room counts.
pub(crate) const ROOM_WORD_VALID: Duration = Duration::from_secs(1);
/// One read for replication.
pub(crate) const REPLICATION_READ_BYTES: usize = 1 << 20;
/// A message between peers.
pub const PEER_MESSAGE_BYTES: usize = 16 << 20;
/// HTTP/2 windows of the log channel: what is in flight to one peer.
pub(crate) const PEER_WINDOW_BYTES: u32 = 8 << 20;
/// What lies further behind the end of a leader's log than this is sent at the rate of catching up: more than can be under way
/// of what is written now.
pub(crate) const CATCH_UP_FROM_BYTES: u64 = PENDING_BYTES_MAX as u64;
/// The rate of catching up unless another is set, bytes a second: half of what a small volume in a cloud reads or writes.
pub const CATCH_UP_RATE: u64 = 64 << 20;
/// For how long news of a commit waits for entries that it can go with.
pub(crate) const COMMIT_NOTICE_DELAY: Duration = Duration::from_millis(1);
/// Bytes of a leader's stream that a follower has taken in and that are not on its disk yet (log.md 19).
pub(crate) const UNFLUSHED_BYTES_MAX: usize = 8 << 20;
/// Tables that a snapshot may bring.
pub(crate) const SNAPSHOT_BYTES_MAX: usize = 1 << 30;
/// HTTP/2 frames of the log channel: at the default of 16 KiB, 1 MiB of log is 64 of them.
pub(crate) const PEER_FRAME_BYTES: u32 = 128 << 10;
/// Before another stream to a peer is opened after one that could not be. openraft's own back-off is before a stream's
/// requests: without this, it opens streams to a dead node as fast as the connection is refused.
pub(crate) const REOPEN_PAUSE: Duration = Duration::from_millis(50);
/// Calls of one connection that were given up before this node has looked at them.
pub(crate) const PEER_RESETS_MAX: usize = 64 << 10;
/// A snapshot chunk.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// A proposal whose entry is not applied by then is reported as unknown (RocketMQ's DLedger waits 2.5 s as well).
pub(crate) const PROPOSAL_TIMEOUT: Duration = Duration::from_millis(2500);
/// How long a leader whose proposal was rejected or void waits before it proposes again in the same term.
pub(crate) const REJECTED_PAUSE: Duration = Duration::from_millis(10);
/// How long new proposals wait for those in flight to be decided, where that must be waited for.
pub(crate) const SETTLE_GRACE: Duration = Duration::from_millis(100);
/// How long the other voters of a new group leave its first entry to the one that is to lead first.
pub(crate) const FIRST_LEADER_HEAD_START: Duration = Duration::from_secs(1);
/// Log bytes after which a checkpoint is due.
pub(crate) const CHECKPOINT_BYTES: u64 = 256 << 20;
/// Time after which a checkpoint is due when anything was applied.
pub(crate) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// A leader whose disk completes no flush for so long gives up leadership (log.md 9, 16).
pub(crate) const FLUSH_STUCK: Duration = Duration::from_secs(2);
/// How long a purge waits for each of its steps: the core may be busy with a disk.
pub(crate) const PURGE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a transfer waits for the target to have everything (log.md 17).
pub(crate) const TRANSFER_CATCH_UP: Duration = Duration::from_millis(200);
/// How long a transfer waits for the new term (log.md 17).
pub(crate) const TRANSFER_WATCH: Duration = Duration::from_millis(500);
/// One round of ReadIndex; a client waits 3 s at most.
pub(crate) const BARRIER_TIMEOUT: Duration = Duration::from_secs(2);
/// Reads that wait for a round of ReadIndex.
pub(crate) const BARRIERS_WAITING_MAX: usize = 16 << 10;
/// How long a voter without room leaves it to others to stand (log.md 10).
pub(crate) const FULL_HOLD_BACK: Duration = Duration::from_secs(1);
/// How far log time may run ahead of the monotonic clock by this node's wall clock alone (log.md 15).
pub(crate) const CLOCK_LEAD: Duration = Duration::from_secs(1);
/// How far a leader's wall clock counts that is not the one in the middle of the voters' (formats.md 2.4): more than clocks are
/// apart that something keeps right, and what others say of theirs is late.
pub(crate) const CLOCK_SLACK: Duration = Duration::from_millis(100);
/// Wall clocks that differ by no more than this agree (log.md 15).
pub(crate) const CLOCKS_APART: Duration = Duration::from_mins(1);
/// For how long a node's word about its clock counts: it comes with each heartbeat.
pub(crate) const CLOCK_WORD_VALID: Duration = Duration::from_secs(10);
/// A member that has answered within this time is there (log.md 15): answers come with each heartbeat.
pub(crate) const MEMBER_WORD_VALID: Duration = Duration::from_secs(3);
/// The feature level at which entries of kind coupled came (formats.md 2.2).
pub const COUPLED_LEVEL: u32 = 2;
/// After a snapshot that a follower did not take: its disk may be full, and stay so for long.
pub(crate) const SNAPSHOT_RETRY: Duration = Duration::from_secs(1);
/// Between two tries of a leader without room on its disk to hand over to a node that has some (log.md 10).
pub(crate) const ROOM_TRANSFER_PAUSE: Duration = Duration::from_secs(5);

const _: () = assert!(ENTRY_BYTES <= PROPOSAL_BYTES_MAX);
const _: () = assert!(REPLICATION_READ_BYTES + PROPOSAL_BYTES_MAX < PEER_MESSAGE_BYTES);
const _: () = assert!(PROPOSAL_BYTES_MAX < BYTES_IN_FLIGHT_MAX);
const _: () = assert!(BYTES_IN_FLIGHT_MAX <= PENDING_BYTES_MAX);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES < PEER_MESSAGE_BYTES);
