//! What a flusher thread does for one log: takes the jobs of a round in their order, writes, fsyncs, completes.
//!
//! ```text
//! round: [append append append] vote [append truncate append]
//!         └─ one pwritev, one fdatasync per dirty file ─▶ completions ─▶ vote written, fsynced ─▶ completion ─▶ …
//!         … and behind everything the copy of a vote of the round before
//! ```
//! Rules, with their numbers in log.md: completions in order, a vote only after every earlier append is durable (2); a new
//! segment is durable under its name and in the manifest before its first frame (5); truncation lowers the watermark
//! first (5); the first error stops the log for good, nothing is tried again (16).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use wire::LogPosition;

use crate::bytes_at::put;
use crate::disk::{DiskFile, read_file};
use crate::error::{At, StoreError};
use crate::flush::{Chore, lock};
use crate::frame::{Frame, Tail};
use crate::ids::{LogId, LogIndex, Vote};
use crate::limits::{HEADER_LEN, SEGMENT_HEADER_LEN, SLOT_LEN, SPARSE_LEN_MAX, TRAILER_LEN, ZEROS_BATCH_MAX};
use crate::log::{Done, Inner};
use crate::manifest::{Manifest, Mark, Segment};
use crate::mutant::Mutant;
use crate::segment::{
    Sealed, SegmentEntry, SegmentFile, SegmentHeader, SegmentKind, file_len, segment_start,
};
use crate::slot::{VoteSlot, Watermark};
use crate::sparse::Sparse;
use crate::tables::{TablesKind, remove_if_there};

pub(crate) enum Job {
    Append {
        frames: Vec<Frame>,
        ticket: u64,
        done: Done,
    },
    Truncate {
        to: Tail,
        epoch: u64,
    },
    Purge {
        first: Tail,
    },
    /// Drop everything and go on at `origin`.
    Reset {
        origin: Tail,
        epoch: u64,
    },
    Vote {
        vote: Vote,
        done: Done,
    },
    /// Complete when everything before is durable, the watermark too.
    Sync {
        done: Done,
    },
    /// The watermark, because the log is idle.
    Mark,
}

impl Job {
    pub(crate) fn fail(self, reason: &str) {
        match self {
            Job::Append { done, .. } | Job::Vote { done, .. } | Job::Sync { done } => {
                done(Err(failure(reason)));
            }
            Job::Truncate { .. } | Job::Purge { .. } | Job::Reset { .. } | Job::Mark => {}
        }
    }
}

fn failure(reason: &str) -> io::Error {
    io::Error::other(format!("the log stopped after a disk error: {reason}"))
}

/// The files of one log, with the worker that has its lane.
pub(crate) struct Writer {
    open: Option<Open>,
    /// After the last frame that was given to `batch`.
    tail: Tail,
    synced: Tail,
    /// That of the last truncation or reset that was done.
    epoch: u64,
    /// Frames for one write, without a gap, and the position of the first.
    batch: Vec<Bytes>,
    batch_at: LogPosition,
    /// The last append whose frames are all in `batch` or written.
    ticket: u64,
    /// Of the appends whose frames are written but not synced, in order.
    waiting: Vec<Done>,
    /// Of the last watermark slot, and the commit index that it names.
    sequence: u64,
    marked_committed: Option<LogId>,
    vote_file: Arc<dyn DiskFile>,
    vote_sequence: u64,
    /// The newest vote while it is in one slot only.
    lone_vote: Option<Vote>,
    failed: Option<String>,
}

/// The segment to which frames are being added.
pub(crate) struct Open {
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) file: Arc<dyn DiskFile>,
    /// From the tail to this position there may be bytes of frames that were truncated.
    pub(crate) stale_to: LogPosition,
    /// Up to here the file's blocks have been written, be it with zeros ([`crate::limits::ZEROS_AHEAD`]).
    pub(crate) filled_to: LogPosition,
    /// Written since its last sync.
    pub(crate) is_dirty: bool,
    /// What the newest watermark slot of this file says. Of this file: what another one says dies with it.
    pub(crate) marked: Option<(Tail, Option<LogId>)>,
}

impl Writer {
    pub(crate) fn new(
        open: Option<Open>,
        tail: Tail,
        sequence: u64,
        vote_file: Arc<dyn DiskFile>,
        vote_sequence: u64,
    ) -> Self {
        Self {
            open,
            tail,
            synced: tail,
            epoch: 0,
            batch: Vec::new(),
            batch_at: tail.end,
            ticket: 0,
            waiting: Vec::new(),
            sequence,
            marked_committed: None,
            vote_file,
            vote_sequence,
            lone_vote: None,
            failed: None,
        }
    }

    /// Does the jobs of one round; true when nothing is left to do when the log is idle.
    pub(crate) fn round(&mut self, inner: &Inner, mut jobs: VecDeque<Job>) -> bool {
        let outcome = match &self.failed {
            Some(reason) => Err(reason.clone()),
            None => self.work(inner, &mut jobs).map_err(|error| error.to_string()),
        };
        let Err(reason) = outcome else { return self.is_marked(inner) && self.lone_vote.is_none() };
        if self.failed.is_none() {
            tracing::error!(
                group = inner.identity.group,
                reason,
                "the log stops: a write or an fsync failed"
            );
            self.failed = Some(reason.clone());
            self.batch.clear();
            inner.poison(&reason);
        }
        for done in self.waiting.drain(..) {
            done(Err(failure(&reason)));
        }
        for job in jobs {
            job.fail(&reason);
        }
        true
    }

    fn work(&mut self, inner: &Inner, jobs: &mut VecDeque<Job>) -> Result<(), StoreError> {
        let lone_before = self.lone_vote;
        while let Some(job) = jobs.pop_front() {
            match job {
                Job::Append { frames, ticket, done } => {
                    let outcome = self.add(inner, frames);
                    self.waiting.push(done);
                    outcome?;
                    self.ticket = ticket;
                }
                Job::Truncate { to, epoch } => self.truncate(inner, to, epoch)?,
                Job::Purge { first } => self.purge(inner, first)?,
                Job::Reset { origin, epoch } => self.reset(inner, origin, epoch)?,
                Job::Vote { vote, done } => {
                    let outcome = self.save_vote(inner, vote);
                    self.finish(done, outcome)?;
                }
                Job::Sync { done } => {
                    let outcome = self.settle(inner);
                    self.finish(done, outcome)?;
                }
                Job::Mark => {
                    self.flush(inner)?;
                    self.mark(inner)?;
                }
            }
        }
        self.flush(inner)?;
        // That of an earlier round: now nobody waits for what comes next but who asks for more.
        if lone_before.is_some() && self.lone_vote == lone_before {
            self.copy_vote(inner)?;
        }
        Ok(())
    }

    /// Everything durable, with nothing left for an idle log to do.
    fn settle(&mut self, inner: &Inner) -> Result<(), StoreError> {
        self.flush(inner)?;
        self.mark(inner)?;
        self.copy_vote(inner)
    }

    fn finish(&mut self, done: Done, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        if outcome.is_ok() {
            done(Ok(()));
        } else {
            self.waiting.push(done);
        }
        outcome
    }

    /// Takes frames for the next write; rolls where they open a segment.
    fn add(&mut self, inner: &Inner, frames: Vec<Frame>) -> Result<(), StoreError> {
        for frame in frames {
            let start = segment_start(frame.position(), inner.identity.segment_size);
            if self.open.as_ref().is_none_or(|open| open.segment.start != start) {
                self.roll(inner, start)?;
            }
            if self.batch.is_empty() {
                self.batch_at = frame.position();
            }
            if let Some(open) = &self.open {
                open.segment.sparse().add(start, frame.id(), frame.position());
            }
            self.tail = Tail::after(&frame);
            self.batch.push(frame.bytes().clone());
        }
        Ok(())
    }

    fn write_batch(&mut self, inner: &Inner) -> Result<(), StoreError> {
        let Some(open) = self.open.as_mut().filter(|_| !self.batch.is_empty()) else { return Ok(()) };
        let mut slices: Vec<IoSlice<'_>> = self.batch.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let offset = self.batch_at.0 - open.segment.start.0;
        let end = self.tail.end;
        if end > open.filled_to {
            let is_small = end.0 - self.batch_at.0 <= ZEROS_BATCH_MAX;
            let ahead = if is_small { inner.options.zeros_ahead } else { 0 };
            // To a fixed grid, so that a run of small writes fills each part once.
            let filled = end.0.checked_div(ahead).map_or(end.0, |part| (part + 1) * ahead);
            let filled = filled.min(open.segment.start.0 + inner.identity.segment_size);
            push_zeros(&mut slices, filled - end.0);
            open.filled_to = LogPosition(filled);
        }
        open.is_dirty = true;
        open.file.write_at(offset, &slices).at("write", &open.segment.path)?;
        open.stale_to = open.stale_to.max(self.tail.end);
        self.batch.clear();
        Ok(())
    }

    /// Makes everything taken so far durable and completes it.
    fn flush(&mut self, inner: &Inner) -> Result<(), StoreError> {
        self.write_batch(inner)?;
        if self.open.as_ref().is_some_and(|open| open.is_dirty) {
            // The watermark of the round before, so that it costs no sync of its own.
            self.write_mark(inner)?;
            if Mutant::AckBeforeFsync.is_on() {
                self.waiting.drain(..).for_each(|done| done(Ok(())));
            }
            if let Some(open) = &mut self.open {
                inner.sync_file(&*open.file, &open.segment.path)?;
                open.is_dirty = false;
            }
            self.synced = self.tail;
        }
        {
            let mut state = lock(&inner.state);
            if state.epoch == self.epoch {
                state.synced = self.synced;
            }
            state.written_ticket = self.ticket;
            state.evict(inner.options.recent_bytes_max);
        }
        for done in self.waiting.drain(..) {
            done(Ok(()));
        }
        Ok(())
    }

    /// Seals the open segment and begins the one at `start`.
    fn roll(&mut self, inner: &Inner, start: LogPosition) -> Result<(), StoreError> {
        self.write_batch(inner)?;
        self.clear_rest(inner)?;
        self.flush(inner)?;
        let size = inner.identity.segment_size;
        let prepared = inner.take_prepared()?;
        let identity = &inner.identity;
        let header = SegmentHeader::new(&identity.cluster, &identity.group, size, start, &self.tail);
        prepared.file.write_all_at(0, &header.encode()).at("write", &prepared.path)?;
        // With the header comes a watermark, the same that the segment before has: should a crash bring back the slots that
        // are cut off there, one with a higher sequence is here, whatever this process still gets to write.
        let committed = self.committed(inner);
        let mark = Watermark::new(self.sequence + 1, &self.synced, committed);
        let mut slots = [0; TRAILER_LEN as usize];
        put(&mut slots, (mark.offset(size) - size) as usize, &mark.encode());
        prepared.file.write_all_at(size, &slots).at("write", &prepared.path)?;
        inner.sync_file(&*prepared.file, &prepared.path)?;
        (self.sequence, self.marked_committed) = (mark.sequence, committed);
        let marked = Some((self.synced, committed));
        let segment = SegmentFile::with_file(&inner.log_dir, start, size, Arc::clone(&prepared.file));
        inner.disk.rename(&prepared.path, &segment.path).at("rename", &prepared.path)?;
        inner.sync_log_dir()?;

        let sealed = self.open.is_some().then_some(self.tail);
        let first_index = self.tail.next;
        inner.flush_manifest(|manifest| {
            if let (Some(last), Some(sealed)) = (manifest.segments.last_mut(), sealed) {
                last.sealed = Some(Mark::from(sealed));
            }
            manifest.segments.push(Segment::raft(start, first_index, None));
        })?;
        {
            let mut state = lock(&inner.state);
            let mut segments = Vec::clone(&state.segments);
            if let (Some(last), Some(tail)) = (segments.last_mut(), sealed) {
                last.sealed = Some(Sealed { tail });
            }
            let file = Arc::clone(&segment);
            segments.push(SegmentEntry { start, kind: SegmentKind::RaftV1, first_index, sealed: None, file });
            state.segments = Arc::new(segments);
            state.rolls_queued = state.rolls_queued.saturating_sub(1);
        }
        let stale_to = start.plus(SEGMENT_HEADER_LEN);
        let filled_to = stale_to;
        let open = Open { segment, file: prepared.file, stale_to, filled_to, is_dirty: false, marked };
        let old = self.open.replace(open);
        if let Some(old) = old {
            // The manifest says now what its watermark slots said; without them the file is the same on every replica.
            old.file.set_len(size).at("cut", &old.segment.path)?;
            inner.flusher.add_chore(Chore::WriteSparse(inner.me.clone(), old.segment));
        }
        Ok(())
    }

    /// Zeros from the tail to the end of the segment: no frame will come there.
    fn clear_rest(&mut self, inner: &Inner) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let end = open.stale_to.0.min(open.segment.start.0 + inner.identity.segment_size);
        if end <= self.tail.end.0 {
            return Ok(());
        }
        let mut slices = Vec::new();
        push_zeros(&mut slices, end - self.tail.end.0);
        open.is_dirty = true;
        let offset = self.tail.end.0 - open.segment.start.0;
        open.file.write_at(offset, &slices).at("write", &open.segment.path)
    }

    fn truncate(&mut self, inner: &Inner, to: Tail, epoch: u64) -> Result<(), StoreError> {
        self.flush(inner)?;
        let size = inner.identity.segment_size;
        let segments = Arc::clone(&lock(&inner.state).segments);
        let (kept, gone): (Vec<SegmentEntry>, Vec<SegmentEntry>) = segments
            .iter()
            .cloned()
            .partition(|segment| segment.start < to.end || segment.kind != SegmentKind::RaftV1);
        let last = kept.last().filter(|segment| segment.kind == SegmentKind::RaftV1).cloned();

        // First the watermark: from here on the entries above `to` may be cut. When no segment is left that could hold
        // it, the one that goes takes it, so that it claims nothing any more.
        if let Some(holder) = last.as_ref().or(gone.first()).filter(|_| !Mutant::WatermarkNotLowered.is_on())
        {
            let file = holder.file.open(&*inner.disk)?;
            if holder.sealed.is_some() {
                file.allocate(file_len(size)).at("allocate", &holder.file.path)?;
            }
            self.synced = to;
            let open = Open {
                segment: Arc::clone(&holder.file),
                file: Arc::clone(file),
                stale_to: holder.start.plus(size),
                filled_to: to.end,
                is_dirty: false,
                marked: None,
            };
            self.open = Some(open);
            self.write_mark(inner)?;
            inner.sync_file(&**file, &holder.file.path)?;
        }

        let is_reopened = last.as_ref().is_some_and(|last| last.sealed.is_some());
        if gone.is_empty() && !is_reopened {
            if let Some(open) = &self.open {
                open.segment.sparse().cut(to.end);
            }
        } else {
            inner.flush_manifest(|manifest| {
                manifest.segments.retain(|segment| segment.is_foreign() || segment.start < to.end.0);
                if let Some(last) = manifest.segments.last_mut().filter(|segment| !segment.is_foreign()) {
                    last.sealed = None;
                }
            })?;
            for segment in &gone {
                remove_if_there(&*inner.disk, &segment.file.path)?;
                remove_if_there(&*inner.disk, &segment.file.index_path())?;
            }
            inner.sync_log_dir()?;
            let mut kept = kept;
            let marked = self.open.as_ref().and_then(|open| open.marked);
            self.open = match kept.last_mut().filter(|segment| segment.kind == SegmentKind::RaftV1) {
                Some(last) => Some(Open { marked, ..reopen(inner, last, to)? }),
                None => None,
            };
            lock(&inner.state).segments = Arc::new(kept);
        }
        self.end_at(inner, to)?;
        self.tail = to;
        self.synced = to;
        self.epoch = epoch;
        let mut state = lock(&inner.state);
        if state.epoch == epoch {
            state.synced = to;
        }
        Ok(())
    }

    /// Zeros in the place of the next header, so that what was truncated is not found again by the next start. (Safety does
    /// not need it: such entries were never committed, and no frame that is written over them continues them.)
    fn end_at(&mut self, inner: &Inner, to: Tail) -> Result<(), StoreError> {
        let Some(open) = &self.open else { return Ok(()) };
        let at = to.end.0 - open.segment.start.0;
        if at + HEADER_LEN as u64 <= inner.identity.segment_size {
            open.file.write_all_at(at, &[0; HEADER_LEN]).at("write", &open.segment.path)?;
            inner.sync_file(&*open.file, &open.segment.path)?;
        }
        Ok(())
    }

    fn purge(&mut self, inner: &Inner, first: Tail) -> Result<(), StoreError> {
        // The manifest may not name what is not durable.
        self.flush(inner)?;
        inner.flush_manifest(|manifest| {
            manifest.first = Mark::from(first);
            manifest.segments.retain(|segment| {
                let sealed = segment.sealed.filter(|mark| segment.is_foreign() || mark.index <= first.next.0);
                sealed.is_none_or(|mark| mark.position > first.end.0)
            });
        })?;
        let gone = {
            let mut state = lock(&inner.state);
            let (kept, gone): (Vec<SegmentEntry>, Vec<SegmentEntry>) =
                state.segments.iter().cloned().partition(|segment| {
                    let is_foreign = segment.kind != SegmentKind::RaftV1;
                    let sealed = segment.sealed.filter(|sealed| is_foreign || sealed.tail.next <= first.next);
                    sealed.is_none_or(|sealed| sealed.tail.end > first.end)
                });
            state.segments = Arc::new(kept);
            gone
        };
        let files =
            gone.iter().flat_map(|segment| [segment.file.path.clone(), segment.file.index_path()]).collect();
        inner.flusher.add_chore(Chore::Remove(inner.me.clone(), files));
        Ok(())
    }

    fn reset(&mut self, inner: &Inner, origin: Tail, epoch: u64) -> Result<(), StoreError> {
        self.flush(inner)?;
        if self.open.is_some() {
            // The old log claims nothing any more, whatever a crash leaves of it.
            self.synced = Tail { id: None, next: LogIndex(0), end: LogPosition(0), chain: 0, log_time_ms: 0 };
            self.write_mark(inner)?;
            if let Some(open) = &self.open {
                inner.sync_file(&*open.file, &open.segment.path)?;
            }
        }
        inner.flush_manifest(|manifest| {
            manifest.first = Mark::from(origin);
            manifest.segments.clear();
        })?;
        let gone = std::mem::take(&mut lock(&inner.state).segments);
        for segment in gone.iter() {
            remove_if_there(&*inner.disk, &segment.file.path)?;
            remove_if_there(&*inner.disk, &segment.file.index_path())?;
        }
        inner.sync_log_dir()?;
        inner.flusher.add_chore(Chore::Remove(inner.me.clone(), Vec::new()));
        self.open = None;
        self.tail = origin;
        self.synced = origin;
        self.epoch = epoch;
        let mut state = lock(&inner.state);
        if state.epoch == epoch {
            state.synced = origin;
        }
        Ok(())
    }

    /// The vote, after every append that was queued before it (log.md 2). Its slot is the one that does not hold the vote
    /// before it, or holds but a copy of it: a torn write loses this vote only.
    fn save_vote(&mut self, inner: &Inner, vote: Vote) -> Result<(), StoreError> {
        if !Mutant::VoteBesideFlushQueue.is_on() {
            self.flush(inner)?;
        }
        self.vote_sequence += 1;
        self.write_vote(inner, vote, self.vote_sequence % 2)?;
        self.lone_vote = Some(vote);
        lock(&inner.state).vote = Some(vote);
        Ok(())
    }

    /// The same into the other slot, so that a bad sector does not bring back the vote before. Not at once: the vote for
    /// itself that makes a node the leader, and then its blank, would wait for one more fsync each.
    fn copy_vote(&mut self, inner: &Inner) -> Result<(), StoreError> {
        let Some(vote) = self.lone_vote else { return Ok(()) };
        self.write_vote(inner, vote, (self.vote_sequence + 1) % 2)?;
        self.lone_vote = None;
        Ok(())
    }

    fn write_vote(&self, inner: &Inner, vote: Vote, slot: u64) -> Result<(), StoreError> {
        let path = inner.dir.join("vote");
        let bytes = VoteSlot { sequence: self.vote_sequence, vote: Some(vote) }.encode();
        self.vote_file.write_all_at(slot * SLOT_LEN, &bytes).at("write", &path)?;
        if Mutant::VoteNotFsynced.is_on() {
            return Ok(());
        }
        inner.sync_file(&*self.vote_file, &path)
    }

    /// At open: the watermark of what recovery found.
    pub(crate) fn mark_now(&mut self, inner: &Inner) -> Result<(), StoreError> {
        self.mark(inner)
    }

    /// Writes and syncs the watermark, when it says something new.
    fn mark(&mut self, inner: &Inner) -> Result<(), StoreError> {
        if self.write_mark(inner)?
            && let Some(open) = &self.open
        {
            inner.sync_file(&*open.file, &open.segment.path)?;
        }
        Ok(())
    }

    /// Writes a slot behind the open segment, when it says something new there; the caller syncs.
    fn write_mark(&mut self, inner: &Inner) -> Result<bool, StoreError> {
        if self.is_marked(inner) {
            return Ok(false);
        }
        let committed = self.committed(inner);
        let Some(open) = &mut self.open else { return Ok(false) };
        let mark = Watermark::new(self.sequence + 1, &self.synced, committed);
        let offset = mark.offset(inner.identity.segment_size);
        open.file.write_all_at(offset, &mark.encode()).at("write", &open.segment.path)?;
        open.marked = Some((self.synced, committed));
        (self.sequence, self.marked_committed) = (mark.sequence, committed);
        Ok(true)
    }

    fn is_marked(&self, inner: &Inner) -> bool {
        let Some(open) = &self.open else { return true };
        open.marked == Some((self.synced, self.committed(inner)))
    }

    /// The commit index that may be on disk: never beyond what is synced (log.md 3). While a truncation is queued it may be
    /// that of an entry which is not yet in the place of another one; then it stays as it was.
    fn committed(&self, inner: &Inner) -> Option<LogId> {
        let state = lock(&inner.state);
        if state.epoch != self.epoch {
            return self.marked_committed.filter(|id| id.index < self.synced.next);
        }
        let committed = state.committed?;
        let is_durable = committed.index < self.synced.next || Mutant::CommitBeyondFsync.is_on();
        if is_durable { Some(committed) } else { self.synced.id }
    }
}

/// `len` zeros for a vectored write.
fn push_zeros(slices: &mut Vec<IoSlice<'_>>, len: u64) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let (whole, rest) = (len as usize / ZEROS.len(), len as usize % ZEROS.len());
    slices.extend(std::iter::repeat_n(IoSlice::new(&ZEROS), whole));
    slices.push(IoSlice::new(ZEROS.get(..rest).unwrap_or_default()));
}

/// The last segment that a truncation leaves, as the open one. Its entry gets a file of its own: whatever is still queued
/// for the sealed one then means nothing.
fn reopen(inner: &Inner, entry: &mut SegmentEntry, to: Tail) -> Result<Open, StoreError> {
    let size = inner.identity.segment_size;
    let old = Arc::clone(&entry.file);
    let known = old.sparse().encode();
    let index = match known {
        Some(bytes) => bytes,
        None => {
            read_file(&*inner.disk, &old.index_path(), SPARSE_LEN_MAX).unwrap_or_default().unwrap_or_default()
        }
    };
    let sparse = Sparse::decode(&index, entry.start, to.end);
    remove_if_there(&*inner.disk, &old.index_path())?;
    let segment = SegmentFile::new(&inner.log_dir, entry.start, size, sparse);
    let file = Arc::clone(segment.open(&*inner.disk)?);
    entry.sealed = None;
    entry.file = Arc::clone(&segment);
    let stale_to = entry.start.plus(size);
    Ok(Open { segment, file, stale_to, filled_to: to.end, is_dirty: false, marked: None })
}

impl Inner {
    /// Waits until a file is durable. Like the two below it is for the flusher, whose rounds are watched: each sync that
    /// completes shows that the disk answers.
    fn sync_file(&self, file: &dyn DiskFile, path: &Path) -> Result<(), StoreError> {
        let synced = file.sync_data().at("sync", path);
        if !Mutant::FsyncErrorIgnored.is_on() {
            synced?;
        }
        self.disk_answers();
        Ok(())
    }

    fn sync_log_dir(&self) -> Result<(), StoreError> {
        self.disk.sync_dir(&self.log_dir).at("sync", &self.log_dir)?;
        self.disk_answers();
        Ok(())
    }

    fn flush_manifest(&self, change: impl FnOnce(&mut Manifest)) -> Result<(), StoreError> {
        self.change_manifest(change)?;
        self.disk_answers();
        Ok(())
    }

    /// Chore: the sparse index of a segment to its file. It is derived, so nothing is synced and an error is only logged.
    pub(crate) fn write_sparse(&self, segment: &Arc<SegmentFile>) {
        let segments = Arc::clone(&lock(&self.state).segments);
        let Some(entry) = segments.iter().find(|entry| Arc::ptr_eq(&entry.file, segment)) else { return };
        let Some(bytes) = segment.sparse().encode() else { return };
        let path = segment.index_path();
        let temporary = path.with_extension("index.new");
        let outcome = (|| {
            let file = self.disk.create(&temporary)?;
            file.write_all_at(0, &bytes)?;
            self.disk.rename(&temporary, &path)
        })();
        match outcome {
            Ok(()) if entry.sealed.is_some() => *segment.sparse() = Sparse::File,
            Ok(()) => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot write a sparse index"),
        }
    }

    /// Chore: removes what a purge left: files that the manifest no longer names, and tables below the current snapshot.
    pub(crate) fn remove_files(&self, files: &[PathBuf]) {
        let _tables = lock(&self.tables);
        let snapshot = lock(&self.manifest).snapshot.map(|mark| LogIndex(mark.index));
        let first = lock(&self.state).first.next;
        let dir = self.tables_dir();
        // Older than both the end of what is purged and the current snapshot.
        let is_old = |index: LogIndex| snapshot.is_some_and(|snapshot| index.next() < snapshot.min(first));
        let outcomes = files
            .iter()
            .map(|path| remove_if_there(&*self.disk, path))
            .chain([dir.remove(TablesKind::Boundary, is_old), dir.remove(TablesKind::Checkpoint, is_old)]);
        for error in outcomes.filter_map(Result::err) {
            tracing::warn!(%error, "cannot remove what was purged; the next start tries again");
        }
        // There may be room again.
        self.prepare();
    }
}
