//! Keeping the files: open, add, spill, merge, build again, purge. All but `add` read and write the disk, and none of
//! them while `state` is locked.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use wire::LogPosition;

use super::codec::{Kind, LogRange};
use super::files::Files;
use super::key_file::{KeyFile, KeyHeader};
use super::merge::{MergeError, merge_keys, merge_queues};
use super::pages::ReadError;
use super::part::Part;
use super::queue_file::QueueFile;
use super::records::records;
use super::shelf::{Header, Run, Span};
use super::sizes::Sizes;
use super::state::State;
use super::{FrameSource, IndexedLog, Inner, IsVoid, Pace, QueueIndex};
use crate::disk::Disk;
use crate::error::{At, StoreError};
use crate::frame::Frame;
use crate::tables::TablesMeta;

/// The directory within the group's.
const DIR: &str = "queues";
/// Bytes of log read between two questions to the caller whether to go on.
const PACE_LEN: u64 = 1 << 20;

impl QueueIndex {
    /// Opens the index in `<group>/queues`, which is made when missing. Files that do not fit the log or are not what
    /// they ought to be are removed; what is missing after the newest good file is read from the log now, up to
    /// [`crate::limits::INDEX_TAIL_LOG_BYTES_MAX`], the rest by [`QueueIndex::rebuild_step`].
    ///
    /// # Errors
    /// Those of the disk. An error of the log is not one: what it cannot give now is a gap.
    pub fn open(
        disk: Arc<dyn Disk>,
        group_dir: &Path,
        log: &IndexedLog,
        frames: &FrameSource<'_>,
        is_void: &IsVoid<'_>,
    ) -> Result<Self, StoreError> {
        Self::open_with(disk, group_dir, log, frames, is_void, Sizes::shared(log.indexes))
    }

    pub(super) fn open_with(
        disk: Arc<dyn Disk>,
        group_dir: &Path,
        log: &IndexedLog,
        frames: &FrameSource<'_>,
        is_void: &IsVoid<'_>,
        sizes: Sizes,
    ) -> Result<Self, StoreError> {
        let IndexedLog { start, checkpoint, segment_size, indexes: _ } = *log;
        let (start, checkpoint) = (start.0, checkpoint.0.max(start.0));
        let dir = group_dir.join(DIR);
        let files = Files::new(disk, dir.clone(), sizes.descriptors).at("create", &dir)?;
        let found = files.list().at("list", &dir)?;
        let mut state = State {
            queue_shelf: Arc::default(),
            key_shelf: Arc::default(),
            parts: Vec::new(),
            open: Part::new(start),
            next_index: 0,
            garbage: Vec::new(),
            lost_files: 0,
        };
        let mut ends = [start; 2];
        for (kind, end) in Kind::ALL.into_iter().zip(&mut ends) {
            let mut ranges: Vec<LogRange> =
                found.iter().filter(|(other, _)| *other == kind).map(|(_, range)| *range).collect();
            // Of files that start at one place the longest first: it was merged from the others.
            ranges.sort_unstable_by_key(|range| (range.from, u64::MAX - range.to));
            for range in ranges {
                let fits = range.from >= *end && range.to <= checkpoint;
                match files.admit(kind, range, fits)? {
                    Some(run) => {
                        let shelf = state.shelf_mut(kind);
                        shelf.push_gap(LogRange { from: *end, to: range.from }, segment_size);
                        shelf.push(Span::File(run));
                        *end = range.to;
                    }
                    None => state.lost_files += u64::from(fits),
                }
            }
        }
        // Where the files of one kind end before those of the other, that is a gap like any.
        let end = ends.into_iter().fold(start, u64::max);
        for (kind, from) in Kind::ALL.into_iter().zip(ends) {
            state.shelf_mut(kind).push_gap(LogRange { from, to: end }, segment_size);
            if let Some(Span::File(run)) = state.shelf(kind).spans().last()
                && run.range().to == end
            {
                state.next_index = state.next_index.max(run.next_index());
            }
        }
        state.open = Part::new(end);
        let index = Self(Arc::new(Inner {
            files,
            sizes,
            segment_size,
            state: RwLock::new(state),
            spilling: Mutex::default(),
            upkeep: Mutex::default(),
        }));
        index.0.read_tail(checkpoint, frames, is_void);
        Ok(index)
    }

    /// Adds an applied entry that is not void. Frames come in the order of the log; one that is covered already is
    /// ignored. Memory only: no wait but for readers that copy a few units.
    pub fn add(&self, frame: &Frame) {
        if frame.end().0 <= self.built().0 {
            return;
        }
        let stored = frame.records();
        // Parsed before the lock is taken.
        let records = records(frame, &stored);
        self.0.state_mut().pass(frame, &records, &self.0.sizes, self.0.segment_size);
    }

    /// Goes past an applied entry that is void (log.md 4): its messages are in no queue.
    pub fn skip(&self, frame: &Frame) {
        self.0.state_mut().pass(frame, &[], &self.0.sizes, self.0.segment_size);
    }

    /// The index covers the log up to here, apart from gaps.
    pub fn built(&self) -> LogPosition {
        LogPosition(self.0.state().built())
    }

    /// True when a full part waits that lies below the fsynced position: time for [`QueueIndex::spill`].
    pub fn spill_due(&self, synced: LogPosition) -> bool {
        self.0.state().parts.first().is_some_and(|part| part.range().to <= synced.0)
    }

    /// Writes what is in memory, the part that still grows too, as far as it lies below the fsynced position: a pair
    /// of files for each part. Call it when it is due, and before a stop. It does not wait for a merge or a rebuild, and
    /// the pace of one may call it.
    ///
    /// # Errors
    /// Those of the disk; what was not written stays in memory.
    pub fn spill(&self, synced: LogPosition) -> Result<(), StoreError> {
        let _spilling = self.0.spilling.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.write_waiting(synced.0)?;
        {
            let mut state = self.0.state_mut();
            if state.built() <= synced.0 {
                state.seal(&self.0.sizes, self.0.segment_size);
            }
        }
        self.0.write_waiting(synced.0)
    }

    /// Makes one file out of several, if there are some worth it; true when it ought to be called again. Files beyond
    /// the checkpoint are left as they are.
    ///
    /// # Errors
    /// Those of the disk; the files are as they were.
    pub fn merge_step(&self, checkpoint: LogPosition, pace: &mut Pace<'_>) -> Result<bool, StoreError> {
        let _upkeep = self.0.upkeep();
        self.0.remove_garbage();
        let found = {
            let state = self.0.state();
            let open_segment = state.memory_from() / self.0.segment_size;
            let mergeable = |kind: Kind| {
                state.shelf(kind).mergeable(checkpoint.0, open_segment, self.0.segment_size, &self.0.sizes)
            };
            Kind::ALL.into_iter().find_map(mergeable)
        };
        let Some(inputs) = found else { return Ok(false) };
        match self.0.merge(&inputs, pace) {
            Ok(()) | Err(MergeError::Stopped) => Ok(true),
            Err(MergeError::Damaged(number, reason)) => {
                if let Some(input) = inputs.get(number) {
                    self.0.lose(input, &reason);
                }
                Ok(true)
            }
            Err(MergeError::Io(error)) => Err(StoreError::io("merge files in", self.0.files.dir(), error)),
        }
    }

    /// Builds a piece of the newest gap below the fsynced position again; true when it ought to be called again.
    ///
    /// # Errors
    /// Those of the disk and of the log; the gap stays.
    pub fn rebuild_step(
        &self,
        synced: LogPosition,
        frames: &FrameSource<'_>,
        is_void: &IsVoid<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<bool, StoreError> {
        let _upkeep = self.0.upkeep();
        self.0.remove_garbage();
        let Some((range, kinds)) = self.0.newest_gap(synced.0) else { return Ok(false) };
        let Some(part) = self.0.build(range, frames, is_void, pace)? else { return Ok(true) };
        self.0.write_part(&Arc::new(part), &kinds)?;
        Ok(self.0.newest_gap(synced.0).is_some())
    }

    /// Forgets what lies wholly below a position that the log was purged to; best the start of the first segment that
    /// is left, because files end where segments do. When the position is beyond what is built, the index starts anew at
    /// it. Waits for a merge in progress, unless there is nothing to forget.
    ///
    /// # Errors
    /// Those of the disk; a file that could not be removed is tried again by the next merge, rebuild or open.
    pub fn purge(&self, before: LogPosition) -> Result<(), StoreError> {
        if self.0.state().start() >= before.0 {
            return Ok(());
        }
        let _upkeep = self.0.upkeep();
        self.0.state_mut().forget(before.0);
        match self.0.remove_garbage() {
            Some(error) => Err(StoreError::io("remove files in", self.0.files.dir(), error)),
            None => Ok(()),
        }
    }

    /// Starts anew behind a snapshot of a leader that took the place of the tables: what was indexed lies below the log
    /// that follows, and what the snapshot jumped over never comes. Call it before the next entry is added. Memory only:
    /// the files go with the next merge or rebuild, and what one under way makes of them has no place any more.
    ///
    /// # Errors
    /// `Invariant` where no log can go on at the snapshot.
    pub fn start_behind(&self, snapshot: &TablesMeta) -> Result<(), StoreError> {
        let resume = snapshot.resume(self.0.segment_size)?.end;
        self.0.state_mut().forget(resume.0);
        Ok(())
    }
}

impl Inner {
    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn upkeep(&self) -> MutexGuard<'_, ()> {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is missing up to the checkpoint from the log.
    fn read_tail(&self, to: u64, frames: &FrameSource<'_>, is_void: &IsVoid<'_>) {
        let mut pace = |_| ControlFlow::Continue(());
        let mut range = LogRange { from: self.state().built(), to };
        let is_short = to - range.from <= self.sizes.tail_log_bytes;
        while is_short && range.from < range.to {
            match self.build(range, frames, is_void, &mut pace) {
                Ok(Some(part)) => {
                    range.from = part.range().to;
                    let mut state = self.state_mut();
                    state.next_index = state.next_index.max(part.next_index());
                    state.open = part;
                    if state.open.is_full(&self.sizes) || range.from < range.to {
                        state.seal(&self.sizes, self.segment_size);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%range, %error, "the log cannot be read; its index is built later");
                    break;
                }
            }
            // A disk that cannot take files now is no reason not to start: they wait in memory, or become a gap.
            if let Err(error) = self.write_waiting(to) {
                tracing::warn!(%error, "the index cannot be written");
            }
        }
        if range.from < range.to {
            let mut state = self.state_mut();
            let from = state.memory_from();
            state.push_gap(LogRange { from, to }, self.segment_size);
            state.parts.clear();
            state.open = Part::new(to);
            state.next_index = 0;
        }
    }

    /// A part made from the log: of `range` or, when that is too much for one part, of its beginning. `None` when the
    /// pace said stop.
    fn build(
        &self,
        range: LogRange,
        frames: &FrameSource<'_>,
        is_void: &IsVoid<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<Option<Part>, StoreError> {
        let mut part = Part::new(range.from);
        let mut told = range.from;
        let mut ends_here = false;
        for frame in frames(LogPosition(range.from))? {
            let frame = frame?;
            let (position, end) = (frame.position().0, frame.end().0);
            if end <= range.from {
                continue;
            }
            if position >= range.to {
                ends_here = true;
                break;
            }
            if position < range.from || end > range.to {
                return Err(StoreError::Invariant(format!(
                    "the range {range} of an index file ends within the frame at {position}"
                )));
            }
            if !part.is_in_segment(position, self.segment_size) {
                part.extend_to(position - position % self.segment_size);
                return Ok(Some(part));
            }
            let stored = frame.records();
            let records = if is_void(frame.id().index) { Vec::new() } else { records(&frame, &stored) };
            part.add(&frame, &records);
            if part.is_full(&self.sizes) {
                return Ok(Some(part));
            }
            if end - told >= PACE_LEN {
                if pace(end - told).is_break() {
                    return Ok(None);
                }
                told = end;
            }
        }
        if !ends_here && part.range().to < range.to {
            return Err(StoreError::Invariant(format!(
                "the log ends at {}, before the end of the range {range} that it was indexed for",
                part.range().to
            )));
        }
        part.extend_to(range.to);
        Ok(Some(part))
    }

    /// What to build next, and for which kinds of files.
    fn newest_gap(&self, synced: u64) -> Option<(LogRange, Vec<Kind>)> {
        let state = self.state();
        let gaps = Kind::ALL.into_iter().filter_map(|kind| state.shelf(kind).newest_gap(synced));
        let mut range = gaps.max_by_key(|gap| gap.from)?;
        let holds = |gap: &LogRange| gap.from <= range.from && range.from < gap.to;
        let gaps: Vec<(Kind, LogRange)> = Kind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, state.shelf(kind).gaps().find(holds)?)))
            .collect();
        for (_, gap) in &gaps {
            range.to = range.to.min(gap.to);
        }
        Some((range, gaps.into_iter().map(|(kind, _)| kind).collect()))
    }

    /// Writes the full parts that lie below a position.
    fn write_waiting(&self, below: u64) -> Result<(), StoreError> {
        loop {
            let part = self.state().parts.first().filter(|part| part.range().to <= below).cloned();
            let Some(part) = part else { return Ok(()) };
            self.write_part(&part, &Kind::ALL)?;
        }
    }

    /// Writes the files of a part and puts them in its place, or in that of the gap that it was made for.
    fn write_part(&self, part: &Arc<Part>, kinds: &[Kind]) -> Result<(), StoreError> {
        let write = || -> io::Result<Vec<Arc<Run>>> {
            let mut runs = Vec::with_capacity(kinds.len());
            for kind in kinds {
                let header = self.files.write(*kind, part.range(), |file| match kind {
                    Kind::Queue => part.write_queues(file).map(Header::Queue),
                    Kind::Keys => part.write_keys(file).map(Header::Keys),
                })?;
                runs.push(self.files.run(header));
            }
            self.files.sync()?;
            Ok(runs)
        };
        let runs = write().at("write files in", self.files.dir())?;
        self.state_mut().install(part, runs);
        Ok(())
    }

    fn merge(&self, inputs: &[Arc<Run>], pace: &mut Pace<'_>) -> Result<(), MergeError> {
        let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else { return Ok(()) };
        let range = LogRange { from: first.range().from, to: last.range().to };
        let next_index = inputs.iter().map(|run| run.next_index()).max().unwrap_or_default();
        // Not through the descriptors that readers share: each is used once, from front to back.
        let mut queues: Vec<QueueFile> = Vec::new();
        let mut keys: Vec<(KeyFile, KeyHeader)> = Vec::new();
        for (number, run) in inputs.iter().enumerate() {
            let damaged = |error: ReadError| MergeError::input(number)(error);
            let file =
                self.files.open_unknown(run.kind(), run.range()).map_err(|error| damaged(error.into()))?;
            match run.header {
                Header::Queue(header) => queues.push(QueueFile::new(header, file, true).map_err(damaged)?),
                Header::Keys(header) => keys.push((KeyFile::new(header, file), header)),
            }
        }
        let header = self.files.write(first.kind(), range, |file| match first.kind() {
            Kind::Queue => merge_queues(&queues, range, next_index, file, pace).map(Header::Queue),
            Kind::Keys => merge_keys(&keys, range, next_index, file, pace).map(Header::Keys),
        })?;
        // From here on the merged file may be found at open, and supersedes its inputs; they go once it is sure to be.
        self.files.sync()?;
        let run = self.files.run(header);
        self.state_mut().replace(&run);
        self.remove_garbage();
        Ok(())
    }

    /// Removes files that no run in use has; the last error, if any. What could not be removed is tried again.
    fn remove_garbage(&self) -> Option<io::Error> {
        let (garbage, live) = {
            let mut state = self.state_mut();
            let garbage = std::mem::take(&mut state.garbage);
            // A file that was built again has the name of the one that was lost.
            let live: Vec<bool> = garbage
                .iter()
                .map(|run| state.shelf(run.kind()).files().any(|file| file.range() == run.range()))
                .collect();
            (garbage, live)
        };
        let mut trouble = None;
        for (run, _) in garbage.into_iter().zip(live).filter(|(_, live)| !live) {
            self.files.forget(&run);
            if let Err(error) = self.files.remove(run.kind(), run.range()) {
                tracing::warn!(range = %run.range(), %error, "a file of the index cannot be removed");
                self.state_mut().garbage.push(run);
                trouble = Some(error);
            }
        }
        trouble
    }
}

impl Files {
    /// The run of a file that was found in the directory, or `None` after its removal: when it does not fit, or its
    /// first page or length are not what they ought to be.
    fn admit(&self, kind: Kind, range: LogRange, fits: bool) -> Result<Option<Arc<Run>>, StoreError> {
        let path = self.path(kind, range);
        if fits {
            let check = || {
                let file = self.open_unknown(kind, range)?;
                match kind {
                    Kind::Queue => QueueFile::check(&*file, range).map(Header::Queue),
                    Kind::Keys => KeyFile::check(&*file, range).map(Header::Keys),
                }
            };
            match check() {
                Ok(header) => return Ok(Some(self.run(header))),
                Err(ReadError::Io(error)) => return Err(StoreError::io("read", &path, error)),
                Err(ReadError::Damaged(reason)) => {
                    tracing::warn!(file = %path.display(), reason, "damaged; it is built again from the log");
                }
            }
        }
        self.remove(kind, range).at("remove", &path)?;
        Ok(None)
    }
}
