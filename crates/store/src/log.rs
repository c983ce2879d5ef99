//! The log of one group: what is in memory, and the calls that change it. Files are touched by the [`crate::writer`] (on a
//! thread of the flusher), by [`crate::recovery`] at open, and by reads ([`crate::read`]).
//!
//! ```text
//!  purged      first                      recent.front          synced          last
//!    ┊───────────┊── in files ──────────────┊── also in memory ───┊── queued ─────┊─▶ append
//! ```
//! Watermarks, and what bounds them: `purged < first ≤ synced ≤ last`; `committed ≤ last` in memory, `≤ synced` on disk.
//! Frames that are not yet written are always in `recent`; so a reader never waits for the flusher.
//!
//! Lock order: `order` → `tables` → `writer` → `manifest` → `state` → `lane`; `pool`, `flushing` and `segment.sparse` are
//! leaves.
//! Only `writer`, `manifest` and `tables` are held during I/O, and none of these is taken by append or by a read.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::Instant;

use wire::LogPosition;

use crate::disk::{Disk, DiskFile};
use crate::error::{At, StoreError};
use crate::flush::{Chore, Flusher, lock};
use crate::frame::{Draft, Frame, Tail};
use crate::ids::{LogId, LogIndex, Vote};
use crate::limits::{
    NAME_LEN_MAX, RECENT_BYTES_MAX, SEGMENT_HEADER_LEN, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN,
    SEGMENT_SIZE_TEST_MIN, WATERMARK_IDLE, ZEROS_AHEAD,
};
use crate::manifest::Manifest;
use crate::mutant::Mutant;
use crate::room::Pool;
use crate::segment::{SegmentEntry, SegmentKind, opens_segment, place, segment_start};
use crate::tables::{TablesDir, TablesKind, TablesMeta};
use crate::writer::{Job, Writer};

/// Called once when the work is durable, or with the error that stopped the log. It runs on a thread of the flusher and
/// must not wait.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Whose directory it is. All parts are compared with what the directory says (log.md 19).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the group (RocketMQ's brokerName).
    pub group: String,
    /// This node's number; never used again once its directory is lost.
    pub node: u64,
    /// Bytes of a segment: a property of the group, a multiple of 4096, at least 16 MiB.
    pub segment_size: u64,
}

/// What a test may change.
#[derive(Clone, Debug)]
pub struct Options {
    /// Frames that are on disk stay in memory up to this many bytes.
    pub recent_bytes_max: usize,
    /// Allow segments from 8 KiB on, so that a test rolls soon. Frames are then limited by the segment.
    pub small_segments: bool,
    /// See [`crate::limits::ZEROS_AHEAD`]; 0: none.
    pub zeros_ahead: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { recent_bytes_max: RECENT_BYTES_MAX, small_segments: false, zeros_ahead: ZEROS_AHEAD }
    }
}

/// What to append.
#[derive(Debug)]
pub enum NewEntry {
    /// The leader's own: finished here.
    Draft(Draft),
    /// A leader's frame: checked against the end of this log and written as it is.
    Frame(Frame),
}

/// A moment's view of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    /// Index of the first entry that is still here (or would be the next, when there is none).
    pub first_index: LogIndex,
    /// Frames start at or after this position.
    pub first_position: LogPosition,
    /// The last entry that is gone.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` when there is none.
    pub last: Option<LogId>,
    /// The position after the last frame.
    pub end: LogPosition,
    /// The chain value of the last frame.
    pub chain: u64,
    /// The log time of the last frame, ms.
    pub log_time_ms: u64,
    /// The last entry that is fsynced here.
    pub synced: Option<LogId>,
    /// The position after it.
    pub synced_end: LogPosition,
    /// The last entry that is known to be committed.
    pub committed: Option<LogId>,
    /// The current snapshot: the boundary to which the log is, or is about to be, purged. One that a leader sent may be
    /// ahead of all the others until the log starts at it.
    pub snapshot: Option<LogId>,
    /// The newest tables that are saved here, the current snapshot among them.
    pub checkpoint: Option<LogId>,
}

/// A segment, as retention and bulk copies see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Position of its first byte.
    pub start: LogPosition,
    /// What its bytes are.
    pub kind: SegmentKind,
    /// Index of its first entry.
    pub first_index: LogIndex,
    /// `None`: open.
    pub sealed: Option<SealedInfo>,
}

/// How a sealed segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedInfo {
    /// Its last entry: a boundary. `None` in a foreign segment.
    pub last: Option<LogId>,
    /// The position after its last frame.
    pub end: LogPosition,
    /// The chain value of its last frame.
    pub chain: u64,
    /// The log time of its last frame, ms.
    pub log_time_ms: u64,
}

/// The log of one group in one directory. Clones share it; the directory is free again when the last one is dropped.
#[derive(Clone)]
pub struct Log(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    /// For the flusher's queues.
    pub(crate) me: Weak<Inner>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) options: Options,
    pub(crate) incarnation: String,
    pub(crate) flusher: Flusher,
    /// Held by the calls that change the log, so that jobs are queued in the order of the log.
    pub(crate) order: Mutex<()>,
    pub(crate) state: Mutex<State>,
    pub(crate) lane: Mutex<Lane>,
    /// Since when the round in progress waits for the disk: from its start, or from its last sync that completed.
    pub(crate) flushing: Mutex<Option<Instant>>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) manifest: Mutex<Manifest>,
    /// Held while tables are written.
    pub(crate) tables: Mutex<()>,
    pub(crate) pool: Mutex<Pool>,
    pub(crate) prepared_ever: AtomicU64,
    /// Numbers the snapshots that leaders sent.
    pub(crate) received_ever: AtomicU64,
    /// Dropped last: the lock of the directory.
    pub(crate) _dir_lock: Box<dyn Send + Sync>,
}

pub(crate) struct State {
    /// What the first retained entry continues.
    pub(crate) first: Tail,
    pub(crate) tail: Tail,
    /// The newest frames, without a gap up to the tail.
    pub(crate) recent: VecDeque<Recent>,
    pub(crate) recent_bytes: usize,
    /// The position after the last frame before `recent`: up to here everything is in the files.
    pub(crate) files_end: LogPosition,
    /// Frames of tickets up to this one are in the files. (An index would not do: after a truncation the same index is
    /// written again.)
    pub(crate) written_ticket: u64,
    pub(crate) next_ticket: u64,
    /// Truncations and resets so far.
    pub(crate) epoch: u64,
    pub(crate) synced: Tail,
    pub(crate) committed: Option<LogId>,
    /// Frames that end at or before this position are committed, so their bytes never change.
    pub(crate) committed_end: LogPosition,
    pub(crate) vote: Option<Vote>,
    pub(crate) segments: Arc<Vec<SegmentEntry>>,
    /// The newest checkpoint.
    pub(crate) checkpoint: Option<LogId>,
    /// The manifest's current snapshot, for who must not wait for the manifest.
    pub(crate) snapshot: Option<LogId>,
    pub(crate) poisoned: Option<String>,
    /// Bytes promised to callers of `reserve`.
    pub(crate) reserved: u64,
    /// Segments that queued frames will open.
    pub(crate) rolls_queued: u64,
}

pub(crate) struct Recent {
    pub(crate) frame: Frame,
    ticket: u64,
}

/// The queue of jobs of one log.
#[derive(Default)]
pub(crate) struct Lane {
    jobs: VecDeque<Job>,
    /// On the flusher's ready list, or with a worker.
    is_scheduled: bool,
    last_round: Option<Instant>,
    has_timer: bool,
    poisoned: Option<String>,
}

/// A job that a stopped log does not take.
struct Refused {
    reason: String,
    job: Job,
}

impl Refused {
    fn into_error(self) -> StoreError {
        StoreError::Poisoned { reason: self.reason }
    }

    /// Calls the job's `done`; no lock may be held.
    fn fail(self) {
        self.job.fail(&self.reason);
    }
}

impl Identity {
    pub(crate) fn check(&self, options: &Options) -> Result<(), StoreError> {
        let min = if options.small_segments { SEGMENT_SIZE_TEST_MIN } else { SEGMENT_SIZE_MIN };
        let size = self.segment_size;
        if !size.is_multiple_of(SEGMENT_HEADER_LEN) || size < min || size > SEGMENT_SIZE_MAX {
            return Err(StoreError::Invariant(format!(
                "a segment size of {size} bytes: it must be a multiple of {SEGMENT_HEADER_LEN} from {min} to {SEGMENT_SIZE_MAX}"
            )));
        }
        for name in [&self.cluster, &self.group] {
            if name.is_empty() || name.len() > NAME_LEN_MAX {
                return Err(StoreError::Invariant(format!("a name of {} bytes", name.len())));
            }
        }
        Ok(())
    }
}

impl Log {
    /// Opens the directory of a group, or makes a new one. Recovers by log.md 5: damage below the synced watermark is an
    /// error, a torn tail above it is cut and logged.
    ///
    /// # Errors
    /// Everything in [`StoreError`] but the errors of single calls.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: &Identity,
        flusher: &Flusher,
    ) -> Result<Self, StoreError> {
        Self::open_with(disk, dir, identity, flusher, Options::default())
    }

    /// [`Log::open`] with options that only tests change.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: &Identity,
        flusher: &Flusher,
        options: Options,
    ) -> Result<Self, StoreError> {
        crate::recovery::open(disk, dir, identity, flusher, options)
    }

    /// Appends entries; they are readable on return. `done` is called once they are on disk, after that of every earlier
    /// append, truncation and vote. Touches no file on this thread.
    ///
    /// # Errors
    /// Nothing was appended then, and `done` is not called. `Mismatch`: an entry does not continue the log; `TooLarge`;
    /// `NoRoom`; `Poisoned`.
    pub fn append(&self, entries: Vec<NewEntry>, done: Done) -> Result<(), StoreError> {
        let inner = &*self.0;
        let _order = lock(&inner.order);
        let mut tail = {
            let state = lock(&inner.state);
            state.check_poison()?;
            state.tail
        };
        let mut frames = Vec::with_capacity(entries.len());
        let mut bytes = 0;
        let mut rolls = 0;
        for entry in entries {
            let frame = inner.next_frame(entry, &tail)?;
            rolls += u64::from(opens_segment(frame.position(), inner.identity.segment_size));
            bytes += frame.len();
            tail = Tail::after(&frame);
            frames.push(frame);
        }
        let ticket = {
            let mut state = lock(&inner.state);
            if rolls > 0 {
                inner.check_room(&state, rolls, bytes)?;
            }
            state.rolls_queued += rolls;
            state.tail = tail;
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            for frame in &frames {
                state.recent_bytes += frame.bytes().len();
                state.recent.push_back(Recent { frame: frame.clone(), ticket });
            }
            state.evict(inner.options.recent_bytes_max);
            ticket
        };
        inner.enqueue(Job::Append { frames, ticket, done }).map_err(Refused::into_error)
    }

    /// Drops the entries after `last` (`None`: all). Readable at once; on disk before any later append.
    ///
    /// # Errors
    /// `Mismatch` when `last` is not an entry of this log; `Invariant` when entries would go that are committed or
    /// behind a checkpoint; those of the disk when `last` must be read.
    pub fn truncate_after(&self, last: Option<LogId>) -> Result<(), StoreError> {
        let inner = &*self.0;
        let _order = lock(&inner.order);
        let (first, tail, committed, checkpoint) = {
            let state = lock(&inner.state);
            state.check_poison()?;
            (state.first, state.tail, state.committed, state.checkpoint)
        };
        if last == tail.id {
            return Ok(());
        }
        let to = if last == first.id { first } else { self.tail_of(last)? };
        let kept = [committed, checkpoint].into_iter().flatten().max_by_key(|id| id.index);
        if let Some(kept) = kept.filter(|kept| kept.index >= to.next) {
            return Err(StoreError::Invariant(format!(
                "truncation after {last:?} would drop {kept}, which is committed"
            )));
        }
        let epoch = {
            let mut state = lock(&inner.state);
            while state.recent.back().is_some_and(|recent| recent.frame.id().index >= to.next) {
                if let Some(gone) = state.recent.pop_back() {
                    state.recent_bytes -= gone.frame.bytes().len();
                }
            }
            state.files_end = state.files_end.min(to.end);
            state.tail = to;
            state.epoch += 1;
            if state.synced.next > to.next {
                state.synced = to;
            }
            state.epoch
        };
        inner.enqueue(Job::Truncate { to, epoch }).map_err(Refused::into_error)
    }

    /// Drops the entries up to `upto` for good (log.md 7). Beyond the last entry it is obeyed only at the snapshot that was
    /// installed: then all local segments go, and the log starts at the boundary of that snapshot. The files go behind
    /// this call; a crash at any point leaves the log before or after it.
    ///
    /// # Errors
    /// `Invariant` beyond the last entry without an installed snapshot; `Mismatch` when `upto` is not an entry of this
    /// log; those of the disk when it must be read.
    pub fn purge(&self, upto: LogId) -> Result<(), StoreError> {
        let inner = &*self.0;
        // Not under `order`, for which an append waits: the manifest is held while it is written.
        let snapshot = lock(&inner.manifest).snapshot.map(Tail::from);
        let _order = lock(&inner.order);
        let (first, tail, segments) = {
            let state = lock(&inner.state);
            state.check_poison()?;
            (state.first, state.tail, Arc::clone(&state.segments))
        };
        if upto.index < first.next {
            return Ok(());
        }
        let size = inner.identity.segment_size;
        if upto.index >= tail.next {
            let Some(origin) = snapshot.filter(|snapshot| snapshot.id == Some(upto)) else {
                return Err(StoreError::Invariant(format!(
                    "purge to {upto} beyond the last entry {:?} without a snapshot installed there",
                    tail.id
                )));
            };
            let origin = origin.at_next_segment(size)?;
            let epoch = {
                let mut state = lock(&inner.state);
                (state.first, state.tail) = (origin, origin);
                state.recent.clear();
                state.recent_bytes = 0;
                state.files_end = origin.end;
                state.epoch += 1;
                state.committed = state.committed.max(Some(upto));
                state.committed_end = origin.end;
                state.epoch
            };
            return inner.enqueue(Job::Reset { origin, epoch }).map_err(Refused::into_error);
        }
        let sealed = segments.iter().filter_map(|segment| segment.sealed);
        let boundary =
            sealed.filter(|sealed| sealed.tail.next < tail.next).find(|sealed| sealed.tail.id == Some(upto));
        let first = match boundary {
            // At a boundary the log goes on in the next segment.
            Some(sealed) => sealed.tail.at_next_segment(size)?,
            None => self.tail_of(Some(upto))?,
        };
        {
            let mut state = lock(&inner.state);
            state.first = first;
            state.committed = state.committed.max(Some(upto));
            let written = state.written_ticket;
            let is_gone = |recent: &Recent| recent.frame.id().index < first.next && recent.ticket <= written;
            while state.recent.front().is_some_and(is_gone) {
                state.pop_recent();
            }
        }
        inner.enqueue(Job::Purge { first }).map_err(Refused::into_error)
    }

    /// Saves the vote. `done` is called when it is on disk, and with it everything that was appended before (log.md 2).
    pub fn save_vote(&self, vote: Vote, done: Done) {
        if let Err(refused) = self.0.enqueue(Job::Vote { vote, done }) {
            refused.fail();
        }
    }

    /// The last vote that was saved.
    pub fn vote(&self) -> Option<Vote> {
        lock(&self.0.state).vote
    }

    /// Remembers the commit index; on disk lazily, and never beyond the last fsynced entry (log.md 3).
    pub fn save_committed(&self, id: Option<LogId>) {
        let inner = &*self.0;
        {
            let mut state = lock(&inner.state);
            state.committed = id;
            let end = match id {
                Some(id) if id.index.next() == state.tail.next => Some(state.tail.end),
                Some(id) => state.recent_at(id.index).map(|frame| frame.end()),
                None => None,
            };
            state.committed_end = state.committed_end.max(end.unwrap_or_default());
        }
        inner.arm_timer();
    }

    /// The saved commit index, clamped to the last entry.
    pub fn read_committed(&self) -> Option<LogId> {
        let state = lock(&self.0.state);
        match (state.committed, state.tail.id) {
            (Some(committed), Some(last)) if committed.index > last.index => Some(last),
            (Some(_), None) => None,
            (committed, _) => committed,
        }
    }

    /// Where the log stands.
    pub fn state(&self) -> LogState {
        let state = lock(&self.0.state);
        LogState {
            first_index: state.first.next,
            first_position: state.first.end,
            purged: state.first.id,
            last: state.tail.id,
            end: state.tail.end,
            chain: state.tail.chain,
            log_time_ms: state.tail.log_time_ms,
            synced: state.synced.id,
            synced_end: state.synced.end,
            committed: state.committed,
            snapshot: state.snapshot,
            checkpoint: state.checkpoint.max(state.snapshot),
        }
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let segments = Arc::clone(&lock(&self.0.state).segments);
        let info = |segment: &SegmentEntry| SegmentInfo {
            start: segment.start,
            kind: segment.kind.clone(),
            first_index: segment.first_index,
            sealed: segment.sealed.map(|sealed| SealedInfo {
                last: sealed.tail.id.filter(|_| segment.kind == SegmentKind::RaftV1),
                end: sealed.tail.end,
                chain: sealed.tail.chain,
                log_time_ms: sealed.tail.log_time_ms,
            }),
        };
        segments.iter().map(info).collect()
    }

    /// True when `frame` is the first of its segment: the entry before it is a boundary. The tables at that boundary are
    /// taken before `frame`, which is committed by then, is applied.
    pub fn opens_segment(&self, frame: &Frame) -> bool {
        opens_segment(frame.position(), self.0.identity.segment_size)
    }

    /// The start of the segment that holds a position.
    pub fn segment_start(&self, position: LogPosition) -> LogPosition {
        segment_start(position, self.0.identity.segment_size)
    }

    /// Since when the disk owes an answer, to this log or to any other that shares its flusher: a disk that hangs shows
    /// here, in all groups on it (log.md 9, 16). See [`Flusher::stuck_for`], which says what counts.
    pub fn oldest_pending_flush(&self) -> Option<Instant> {
        self.0.flusher.oldest_flush()
    }

    /// Calls `done` when everything that was queued before is durable, and the watermark and commit index that say so.
    pub fn sync(&self, done: Done) {
        if let Err(refused) = self.0.enqueue(Job::Sync { done }) {
            refused.fail();
        }
    }

    /// [`Log::sync`] and wait for it.
    ///
    /// # Errors
    /// The error that stopped the log.
    pub fn sync_all(&self) -> Result<(), StoreError> {
        let (sender, receiver) = mpsc::channel();
        self.sync(Box::new(move |outcome| {
            let _ = sender.send(outcome);
        }));
        let outcome = self.wait(&receiver);
        outcome.map_err(|source| StoreError::io("sync", &self.0.dir, source))
    }

    /// Clean stop: everything is durable and the log takes no more writes (save the last checkpoint before). Reads go on.
    ///
    /// # Errors
    /// The error that stopped the log.
    pub fn close(&self) -> Result<(), StoreError> {
        let outcome = self.sync_all();
        self.0.poison("it was closed");
        outcome
    }

    /// [`Log::save_vote`] and wait for it.
    ///
    /// # Errors
    /// The error that stopped the log.
    pub fn save_vote_now(&self, vote: Vote) -> Result<(), StoreError> {
        let (sender, receiver) = mpsc::channel();
        self.save_vote(
            vote,
            Box::new(move |outcome| {
                let _ = sender.send(outcome);
            }),
        );
        self.wait(&receiver).map_err(|source| StoreError::io("save the vote in", &self.0.dir, source))
    }

    fn wait(&self, receiver: &mpsc::Receiver<io::Result<()>>) -> io::Result<()> {
        if self.0.flusher.is_manual() {
            while self.0.flusher.turn() {}
        }
        receiver.recv().unwrap_or_else(|_| Err(io::Error::other("the flusher stopped")))
    }

    /// Why this log takes nothing more: the write or fsync that failed, or that it was closed.
    pub fn failure(&self) -> Option<String> {
        lock(&self.0.state).poisoned.clone()
    }

    /// The random number of this directory's life, 32 hex digits: new with each empty directory.
    pub fn incarnation(&self) -> &str {
        &self.0.incarnation
    }

    /// Whose log it is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The directory of the group.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The disk of the directory.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.0.disk
    }

    /// Node → incarnation of the members with which the group was formed; `None` before.
    pub fn formed(&self) -> Option<BTreeMap<u64, String>> {
        lock(&self.0.manifest).formed.clone()
    }

    /// Remembers with whom the group was formed; durable on return.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn set_formed(&self, formed: BTreeMap<u64, String>) -> Result<(), StoreError> {
        lock(&self.0.state).check_poison()?;
        self.0.change_manifest(|manifest| manifest.formed = Some(formed))
    }

    /// Saves the tables at an entry; durable on return. Blocks: not for a thread of consensus. A boundary's `meta` is that
    /// of the last entry of a segment, known once the next one is committed.
    ///
    /// # Errors
    /// `NotDurable` when the log is not fsynced up to that entry (log.md 3); those of the disk.
    pub fn save_tables(&self, kind: TablesKind, meta: &TablesMeta, tables: &[u8]) -> Result<(), StoreError> {
        let inner = &*self.0;
        let _tables = lock(&inner.tables);
        {
            let state = lock(&inner.state);
            state.check_poison()?;
            if meta.last.index >= state.synced.next && !Mutant::CheckpointBeyondFsync.is_on() {
                let synced = state.synced.id.map(|id| id.index);
                return Err(StoreError::NotDurable { index: meta.last.index, synced });
            }
        }
        let dir = inner.tables_dir();
        dir.save(kind, meta, tables)?;
        if kind == TablesKind::Checkpoint {
            let segments = {
                let mut state = lock(&inner.state);
                state.checkpoint = state.checkpoint.max(Some(meta.last));
                Arc::clone(&state.segments)
            };
            let indexes = dir.list(kind)?;
            let drop = indexes.len().saturating_sub(crate::limits::CHECKPOINTS_KEPT);
            let oldest_kept = indexes.get(drop).copied().unwrap_or_default();
            dir.remove(kind, |index| index < oldest_kept)?;
            // So that the next start needs to read only what lies after this checkpoint.
            if let Some(open) = segments.last().filter(|segment| segment.sealed.is_none()) {
                inner
                    .flusher
                    .add_chore(crate::flush::Chore::WriteSparse(inner.me.clone(), Arc::clone(&open.file)));
            }
        }
        Ok(())
    }

    /// The newest tables that this node's log reaches: the newest checkpoint, or the current snapshot when that is newer
    /// (a node that was given one) and the log has been purged to it. A damaged checkpoint is passed over for an older.
    ///
    /// # Errors
    /// Those of the disk; `Corrupt` when the current snapshot is needed and damaged.
    pub fn load_newest_checkpoint(&self) -> Result<Option<(TablesMeta, Vec<u8>)>, StoreError> {
        let inner = &*self.0;
        let _tables = lock(&inner.tables);
        let (last, purged) = {
            let state = lock(&inner.state);
            (state.tail.id, state.first.id)
        };
        let dir = inner.tables_dir();
        let checkpoint = match last {
            Some(last) => dir.newest_checkpoint(Some(last.index))?,
            None => None,
        };
        let snapshot = lock(&inner.manifest).snapshot.and_then(|mark| Tail::from(mark).id);
        let older = |id: LogId| checkpoint.as_ref().is_none_or(|(meta, _)| meta.last.index < id.index);
        let Some(snapshot) = snapshot.filter(|snapshot| older(*snapshot)) else { return Ok(checkpoint) };
        if purged != Some(snapshot) {
            match self.tail_of(Some(snapshot)) {
                Ok(_) => {}
                // An installed snapshot that the log does not reach, or contradicts, waits for the purge to it.
                Err(StoreError::Mismatch { .. }) => return Ok(checkpoint),
                Err(error) => return Err(error),
            }
        }
        dir.load(TablesKind::Boundary, snapshot.index)
    }

    /// Indexes of the boundary snapshots that are here, ascending.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn boundaries(&self) -> Result<Vec<LogIndex>, StoreError> {
        self.0.tables_dir().list(TablesKind::Boundary)
    }

    /// The boundary snapshot at an index, if it is here.
    ///
    /// # Errors
    /// Those of the disk; `Corrupt` when its bytes are damaged.
    pub fn boundary(&self, index: LogIndex) -> Result<Option<(TablesMeta, Vec<u8>)>, StoreError> {
        self.0.tables_dir().load(TablesKind::Boundary, index)
    }

    /// Makes a boundary snapshot the current one; durable on return. The step before [`Log::purge`] to it (log.md 7).
    ///
    /// # Errors
    /// `Invariant` when there is no such boundary snapshot, or it is older than the current one; `Corrupt` when its bytes
    /// are damaged; those of the disk.
    pub fn set_current_snapshot(&self, id: LogId) -> Result<(), StoreError> {
        let inner = &*self.0;
        let _tables = lock(&inner.tables);
        lock(&inner.state).check_poison()?;
        let Some((meta, _)) =
            inner.tables_dir().load(TablesKind::Boundary, id.index)?.filter(|(meta, _)| meta.last == id)
        else {
            return Err(StoreError::Invariant(format!("there is no boundary snapshot at {id}")));
        };
        inner.set_snapshot(&meta)
    }

    /// The current snapshot: the boundary to which the log is (or is about to be) purged. `None` before the first purge.
    ///
    /// # Errors
    /// `Corrupt` when its bytes are damaged or gone; those of the disk.
    pub fn current_snapshot(&self) -> Result<Option<(TablesMeta, Vec<u8>)>, StoreError> {
        let inner = &*self.0;
        let Some(id) = lock(&inner.manifest).snapshot.and_then(|mark| Tail::from(mark).id) else {
            return Ok(None);
        };
        let dir = inner.tables_dir();
        match dir.load(TablesKind::Boundary, id.index)? {
            Some(found) => Ok(Some(found)),
            None => Err(StoreError::damaged(
                &dir.path(TablesKind::Boundary, id.index),
                "the current snapshot is gone",
            )),
        }
    }

    /// Takes room for a leader's snapshot with `len` bytes of tables, to be filled ([`ReceivedSnapshot::fill`]) and then installed
    /// ([`Log::install_snapshot`]). A full disk refuses here, where it does no harm, and not once Raft counts on it (log.md 10).
    ///
    /// # Errors
    /// `Invariant` when it names a place where no log can be; those of the disk.
    pub fn receive_snapshot(&self, meta: &TablesMeta, len: u64) -> Result<ReceivedSnapshot, StoreError> {
        let inner = &*self.0;
        // The peer's word: what cannot be purged to, or read back, must not get into the manifest.
        meta.resume(inner.identity.segment_size)?;
        lock(&inner.state).check_poison()?;
        let number = inner.received_ever.fetch_add(1, Ordering::Relaxed);
        let (path, file) = inner.tables_dir().receive(number, meta.last.index, len)?;
        let of = Arc::downgrade(&self.0);
        Ok(ReceivedSnapshot { of, meta: *meta, path, file, stage: Mutex::new(Stage::Empty) })
    }

    /// Makes a leader's snapshot the current one; durable on return. Never touches the log: only a following
    /// [`Log::purge`] to its last entry does, which starts the log at the segment after its end (log.md 7). Waits for what
    /// is queued: openraft truncates a log that contradicts the snapshot before, and a start with that snapshot but
    /// without the truncation would find a log that it takes for corrupt.
    ///
    /// # Errors
    /// `Invariant` when it is older than the current one, was not filled, or another log received it; those of the disk.
    pub fn install_snapshot(&self, received: &ReceivedSnapshot) -> Result<(), StoreError> {
        let inner = &*self.0;
        if !received.of.ptr_eq(&Arc::downgrade(&self.0)) {
            return Err(StoreError::Invariant("another log received this snapshot".into()));
        }
        self.sync_all()?;
        let _tables = lock(&inner.tables);
        lock(&inner.state).check_poison()?;
        let mut stage = lock(&received.stage);
        match *stage {
            Stage::Empty => return Err(StoreError::Invariant("this snapshot was not filled".into())),
            Stage::Filled => inner.tables_dir().adopt(&received.path, &received.meta)?,
            Stage::Adopted => {}
        }
        *stage = Stage::Adopted;
        drop(stage);
        inner.set_snapshot(&received.meta)
    }

    /// Asserts design.md invariant 6 and the order of this module's watermarks: `purged = current snapshot ≤ newest
    /// checkpoint ≤ synced ≤ last` and `committed ≤ last`. The current snapshot is itself a checkpoint (see
    /// [`Log::load_newest_checkpoint`]), so the newest is never older; between the steps of a purge it is ahead of
    /// `purged`, and an installed one is ahead of everything until the purge to it.
    ///
    /// # Errors
    /// `Invariant`, naming what does not hold.
    pub fn check(&self) -> Result<(), StoreError> {
        let inner = &*self.0;
        let snapshot = lock(&inner.manifest).snapshot.map(Tail::from);
        let _order = lock(&inner.order);
        let state = lock(&inner.state);
        let must = |holds: bool, what: &str| {
            if holds { Ok(()) } else { Err(StoreError::Invariant(format!("{what}: {}", state.describe()))) }
        };
        // While a purge is queued, `synced` is still that of the old log.
        must(state.first.next <= state.synced.next || inner.has_jobs(), "purged ≤ synced")?;
        must(state.synced.next <= state.tail.next, "synced ≤ last")?;
        must(state.first.next <= state.tail.next, "purged ≤ last")?;
        must(state.first.end <= state.tail.end, "the log ends where it starts or later")?;
        must(state.committed.is_none_or(|id| id.index < state.tail.next), "committed ≤ last")?;
        if let Some(purged) = state.first.id {
            must(snapshot.is_some_and(|snapshot| snapshot.id >= Some(purged)), "purged = current snapshot")?;
        }
        must(state.checkpoint.is_none_or(|id| id.index < state.synced.next), "newest checkpoint ≤ synced")?;
        let mut before: Option<&Frame> = None;
        for recent in &state.recent {
            if let Some(before) = before {
                let tail = Tail::after(before);
                let position = place(tail.end, recent.frame.len(), inner.identity.segment_size);
                must(tail.check(&recent.frame, position).is_ok(), "recent frames are a chain")?;
            }
            before = Some(&recent.frame);
        }
        must(before.is_none_or(|last| Tail::after(last) == state.tail), "recent frames reach the end")
    }
}

/// A leader's snapshot on this disk, not yet the current one. Dropped before it is installed, it is removed, by a thread of
/// the flusher. It keeps no log open.
#[must_use]
pub struct ReceivedSnapshot {
    of: Weak<Inner>,
    meta: TablesMeta,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    stage: Mutex<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Empty,
    Filled,
    /// The file has the name of a boundary.
    Adopted,
}

impl ReceivedSnapshot {
    /// Writes the tables, for which room was taken; durable on return.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn fill(&self, tables: &[u8]) -> Result<(), StoreError> {
        self.meta.write(&*self.file, tables).at("write", &self.path)?;
        *lock(&self.stage) = Stage::Filled;
        Ok(())
    }
}

impl std::fmt::Debug for ReceivedSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceivedSnapshot").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for ReceivedSnapshot {
    fn drop(&mut self) {
        if *lock(&self.stage) != Stage::Adopted
            && let Some(inner) = self.of.upgrade()
        {
            // Not here: it may be Raft's own task (log.md 9). Without a log the next open does it.
            let chore = Chore::Remove(inner.me.clone(), vec![std::mem::take(&mut self.path)]);
            inner.flusher.add_chore(chore);
        }
    }
}

impl State {
    pub(crate) fn check_poison(&self) -> Result<(), StoreError> {
        match &self.poisoned {
            Some(reason) => Err(StoreError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// The frame with this index, if it is in memory.
    pub(crate) fn recent_at(&self, index: LogIndex) -> Option<&Frame> {
        let front = self.recent.front()?.frame.id().index;
        let at = usize::try_from(index.0.checked_sub(front.0)?).ok()?;
        self.recent.get(at).map(|recent| &recent.frame)
    }

    /// Forgets the oldest frames that are in the files, down to `max` bytes.
    pub(crate) fn evict(&mut self, max: usize) {
        while self.recent_bytes > max
            && self.recent.front().is_some_and(|recent| recent.ticket <= self.written_ticket)
        {
            self.pop_recent();
        }
    }

    fn pop_recent(&mut self) {
        if let Some(gone) = self.recent.pop_front() {
            self.recent_bytes -= gone.frame.bytes().len();
            self.files_end = gone.frame.end();
        }
    }

    fn describe(&self) -> String {
        format!(
            "purged {:?}, checkpoint {:?}, synced {:?}, committed {:?}, last {:?}",
            self.first.id, self.checkpoint, self.synced.id, self.committed, self.tail.id
        )
    }
}

impl Inner {
    /// Finishes or checks the entry that follows `tail`.
    fn next_frame(&self, entry: NewEntry, tail: &Tail) -> Result<Frame, StoreError> {
        let size = self.identity.segment_size;
        let len = match &entry {
            NewEntry::Draft(draft) => draft.frame_len()?,
            NewEntry::Frame(frame) => frame.len(),
        };
        let max = size - SEGMENT_HEADER_LEN;
        if len > max {
            return Err(StoreError::TooLarge { len, max });
        }
        let position = place(tail.end, len, size);
        let frame = match entry {
            NewEntry::Draft(draft) => draft.finish(position, tail)?,
            NewEntry::Frame(frame) => frame,
        };
        match tail.check(&frame, position) {
            Ok(()) => Ok(frame),
            Err(reason) => Err(StoreError::Mismatch { index: frame.id().index, reason }),
        }
    }

    /// Queues a job. Whatever changes the log is queued with `order` held, so in the order of the log.
    fn enqueue(&self, job: Job) -> Result<(), Refused> {
        let mut lane = lock(&self.lane);
        if let Some(reason) = &lane.poisoned {
            return Err(Refused { reason: reason.clone(), job });
        }
        lane.jobs.push_back(job);
        if !std::mem::replace(&mut lane.is_scheduled, true)
            && let Some(me) = self.me.upgrade()
        {
            self.flusher.schedule(me);
        }
        Ok(())
    }

    /// Does everything that is queued; true when more has arrived meanwhile. By one worker at a time.
    pub(crate) fn round(&self) -> bool {
        let jobs = std::mem::take(&mut lock(&self.lane).jobs);
        *lock(&self.flushing) = Some(Instant::now());
        let is_settled = lock(&self.writer).round(self, jobs);
        *lock(&self.flushing) = None;
        let is_more = {
            let mut lane = lock(&self.lane);
            lane.last_round = Some(Instant::now());
            lane.is_scheduled = !lane.jobs.is_empty();
            lane.is_scheduled
        };
        if !is_settled {
            self.arm_timer();
        }
        is_more
    }

    /// Looks at this log again when it has been idle for a while.
    fn arm_timer(&self) {
        let mut lane = lock(&self.lane);
        if lane.poisoned.is_none() && !std::mem::replace(&mut lane.has_timer, true) {
            self.flusher.set_timer(Instant::now() + WATERMARK_IDLE, self.me.clone());
        }
    }

    /// A sync of the round in progress has completed.
    pub(crate) fn disk_answers(&self) {
        if let Some(since) = &mut *lock(&self.flushing) {
            *since = Instant::now();
        }
    }

    /// The timer went off: makes the watermark durable if nothing happened since. `now` is `None` when time does not
    /// count (a manual flusher).
    pub(crate) fn on_idle(&self, now: Option<Instant>) {
        {
            let mut lane = lock(&self.lane);
            let due = lane.last_round.map(|last| last + WATERMARK_IDLE);
            if let Some(due) = now.and_then(|now| due.filter(|due| *due > now)) {
                self.flusher.set_timer(due, self.me.clone());
                return;
            }
            lane.has_timer = false;
        }
        // A log that stopped needs no watermark.
        let _ = self.enqueue(Job::Mark);
    }

    pub(crate) fn has_jobs(&self) -> bool {
        lock(&self.lane).is_scheduled
    }

    /// Nothing is written any more; what is queued fails in order.
    pub(crate) fn poison(&self, reason: &str) {
        {
            let mut state = lock(&self.state);
            state.poisoned.get_or_insert_with(|| reason.to_owned());
        }
        let mut lane = lock(&self.lane);
        lane.poisoned.get_or_insert_with(|| reason.to_owned());
    }

    /// [`Inner::poison`] when no worker will do the queued jobs: they fail here.
    pub(crate) fn abandon(&self, reason: &str) {
        tracing::error!(group = self.identity.group, reason, "the log stops");
        self.poison(reason);
        let jobs = std::mem::take(&mut lock(&self.lane).jobs);
        for job in jobs {
            job.fail(reason);
        }
    }

    pub(crate) fn tables_dir(&self) -> TablesDir<'_> {
        TablesDir { disk: &*self.disk, dir: self.dir.join("tables") }
    }

    fn set_snapshot(&self, meta: &TablesMeta) -> Result<(), StoreError> {
        let mark = meta.tail().into();
        let mut outcome = Ok(());
        self.change_manifest(|manifest| {
            if manifest.snapshot.is_some_and(|now| now.index > meta.last.index.next().0) {
                outcome =
                    Err(StoreError::Invariant(format!("the current snapshot is newer than {}", meta.last)));
            } else {
                manifest.snapshot = Some(mark);
            }
        })?;
        outcome?;
        lock(&self.state).snapshot = Some(meta.last);
        Ok(())
    }

    /// Changes the manifest, on disk and then in memory.
    pub(crate) fn change_manifest(&self, change: impl FnOnce(&mut Manifest)) -> Result<(), StoreError> {
        let mut manifest = lock(&self.manifest);
        let mut new = manifest.clone();
        change(&mut new);
        if new != *manifest {
            new.save(&*self.disk, &self.dir)?;
            *manifest = new;
        }
        Ok(())
    }
}
