//! Answers: memory first, under the lock and only as long as it takes to copy what is wanted; then files, without it.

use std::io;
use std::sync::{Arc, PoisonError, RwLockReadGuard};

use wire::{LogPosition, QueueId, QueueOffset};

use super::codec::{Kind, LogRange, Unit, extend_java_hash, key_hash};
use super::key_file::KeyFile;
use super::pages::ReadError;
use super::part::{Part, Place, place};
use super::queue_file::QueueFile;
use super::shelf::{Header, Run, Shelf, Span};
use super::state::State;
use super::{IndexError, IndexStats, Inner, QueueIndex};
use crate::error::StoreError;

impl QueueIndex {
    /// The units of a queue from offset `from` on, at most `max`. Fewer (also none) when the queue ends before, when
    /// it has a hole there, or where a range that is being built again follows. Reads files only when `from` is older
    /// than what is in memory: then call it where a wait for the disk harms nobody.
    ///
    /// # Errors
    /// [`IndexError::Rebuilding`] when `from` may be in such a range; the disk's.
    pub fn units(
        &self,
        topic: &str,
        queue: QueueId,
        from: QueueOffset,
        max: usize,
    ) -> Result<Vec<Unit>, IndexError> {
        let wanted = Wanted { topic, queue: queue.0, from: from.0, max };
        loop {
            match self.0.look(wanted) {
                Look::Done(units) => return Ok(units),
                Look::InFiles(view) => {
                    let units = self.0.units_in_files(wanted, &view, Wait::ForDisk);
                    if let Some(units) = self.0.settle(units)? {
                        return Ok(units);
                    }
                }
            }
        }
    }

    /// As [`QueueIndex::units`], but waits for no disk: what is in files is read where it is in the page cache, of files that
    /// are open already. `None`: it belongs on a thread that may block.
    pub fn units_resident(
        &self,
        topic: &str,
        queue: QueueId,
        from: QueueOffset,
        max: usize,
    ) -> Option<Vec<Unit>> {
        let wanted = Wanted { topic, queue: queue.0, from: from.0, max };
        match self.0.look(wanted) {
            Look::Done(units) => Some(units),
            // Gaps and damage are for who may wait.
            Look::InFiles(view) => self.0.units_in_files(wanted, &view, Wait::Never).ok(),
        }
    }

    /// Whether the units of a queue from an offset on are in this index's own memory, which holds the newest: a reader of
    /// those does not lag.
    pub fn is_in_memory(&self, topic: &str, queue: QueueId, from: QueueOffset) -> bool {
        let wanted = Wanted { topic, queue: queue.0, from: from.0, max: 1 };
        matches!(self.0.look(wanted), Look::Done(_))
    }

    /// One unit; `None` when the queue has none at this offset. About five small reads when it is in a file, so that
    /// a binary search over a queue costs little.
    ///
    /// # Errors
    /// As [`QueueIndex::units`].
    pub fn unit(&self, topic: &str, queue: QueueId, offset: QueueOffset) -> Result<Option<Unit>, IndexError> {
        Ok(self.units(topic, queue, offset, 1)?.first().copied())
    }

    /// The first offset of a queue that is here, and the offset after the last; `None` when nothing of it is here. What
    /// may be read is for the broker's tables to say: the first may lie below the queue's minimum until a purge.
    ///
    /// # Errors
    /// [`IndexError::Rebuilding`] when a range that is being built again may hold either; the disk's.
    pub fn bounds(
        &self,
        topic: &str,
        queue: QueueId,
    ) -> Result<Option<(QueueOffset, QueueOffset)>, IndexError> {
        loop {
            let (view, open) = {
                let state = self.0.state();
                (View::of(&state, Kind::Queue), state.open.bounds(topic, queue.0))
            };
            let bounds = self.0.bounds_in(topic, queue.0, &view, open);
            if let Some(bounds) = self.0.settle(bounds)? {
                return Ok(bounds.map(|(first, next)| (QueueOffset(first), QueueOffset(next))));
            }
        }
    }

    /// Positions of messages of a topic that carry a key (a word of KEYS, or the unique id), stored within
    /// `[begin_ms, end_ms]` (ms since 1970, to the second), newest first, at most `max`. Other keys may have the same
    /// hash: compare the message's own.
    ///
    /// # Errors
    /// [`IndexError::Rebuilding`] when a range that is being built again may hold one of the newest `max`; the disk's.
    pub fn find_key(
        &self,
        topic: &str,
        key: &str,
        begin_ms: u64,
        end_ms: u64,
        max: usize,
    ) -> Result<Vec<LogPosition>, IndexError> {
        let java_hash = extend_java_hash(extend_java_hash(0, topic), "#");
        let wanted = WantedKey { hash: key_hash(extend_java_hash(java_hash, key)), begin_ms, end_ms, max };
        loop {
            let (view, open) = {
                let state = self.0.state();
                (View::of(&state, Kind::Keys), state.open.keys().clone())
            };
            let mut found = Vec::new();
            open.find(wanted.hash, begin_ms, end_ms, max, &mut found);
            let found = self.0.keys_in(wanted, &view, open.begin_ms(), found);
            if let Some(found) = self.0.settle(found)? {
                return Ok(found);
            }
        }
    }

    /// How far the index is, and what it holds.
    pub fn stats(&self) -> IndexStats {
        let state = self.0.state();
        let parts = || state.parts.iter().map(|part| &**part).chain([&state.open]);
        let shelves = [&state.queue_shelf, &state.key_shelf];
        let gaps = || shelves.iter().flat_map(|shelf| shelf.gaps());
        IndexStats {
            built: LogPosition(state.built()),
            memory_units: parts().map(Part::units).sum(),
            memory_keys: parts().map(|part| part.keys().len()).sum(),
            memory_bytes: parts().map(Part::memory).sum(),
            memory_log_bytes: state.built() - state.memory_from(),
            files: shelves.iter().map(|shelf| shelf.files().count()).sum(),
            gaps: gaps().count(),
            gap_bytes: gaps().map(|gap| gap.to - gap.from).sum(),
            lost_files: state.lost_files,
            descriptors: self.0.files.open_count(),
        }
    }
}

#[derive(Clone, Copy)]
struct Wanted<'a> {
    topic: &'a str,
    queue: u32,
    from: u64,
    max: usize,
}

/// What a read of a file that is not in memory does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    ForDisk,
    /// It fails.
    Never,
}

#[derive(Clone, Copy)]
struct WantedKey {
    hash: u32,
    begin_ms: u64,
    end_ms: u64,
    max: usize,
}

/// What a reader keeps of the state: immutable, so that it needs no lock to look at it.
struct View {
    shelf: Arc<Shelf>,
    parts: Vec<Arc<Part>>,
    /// Units of the open part that may be wanted, from this offset on.
    ahead: Option<(u64, Vec<Unit>)>,
}

impl View {
    fn of(state: &State, kind: Kind) -> Self {
        Self { shelf: Arc::clone(state.shelf(kind)), parts: state.parts.clone(), ahead: None }
    }
}

enum Look {
    Done(Vec<Unit>),
    InFiles(View),
}

/// Why files gave no answer.
enum Trouble {
    Gap(LogRange),
    /// With this file.
    File(Arc<Run>, ReadError),
}

fn in_file(run: &Arc<Run>) -> impl Fn(ReadError) -> Trouble {
    move |error| Trouble::File(Arc::clone(run), error)
}

impl Inner {
    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, wanted: Wanted<'_>) -> Look {
        let Wanted { topic, queue, from, max } = wanted;
        let mut next = from;
        let mut units = Vec::new();
        if max == 0 {
            return Look::Done(units);
        }
        let view = {
            let state = self.state();
            let open = &state.open;
            match open.place(topic, queue, from) {
                Place::Here => {
                    open.collect(topic, queue, &mut next, max, &mut units);
                    return Look::Done(units);
                }
                Place::Newer => return Look::Done(units),
                Place::Older | Place::Absent => {}
            }
            let mut view = View::of(&state, Kind::Queue);
            if let Some((mut first, _)) = open.bounds(topic, queue)
                && let Some(room) = (max as u64).checked_sub(first - from).filter(|room| *room > 0)
            {
                let start = first;
                let mut ahead = Vec::new();
                open.collect(topic, queue, &mut first, room as usize, &mut ahead);
                view.ahead = Some((start, ahead));
            }
            view
        };
        for (at, part) in view.parts.iter().enumerate().rev() {
            match part.place(topic, queue, from) {
                Place::Here => {
                    view.collect_parts(wanted, at, &mut next, &mut units);
                    return Look::Done(units);
                }
                Place::Newer => return Look::Done(units),
                Place::Older | Place::Absent => {}
            }
        }
        if view.shelf.spans().is_empty() { Look::Done(units) } else { Look::InFiles(view) }
    }

    fn units_in_files(&self, wanted: Wanted<'_>, view: &View, wait: Wait) -> Result<Vec<Unit>, Trouble> {
        let Wanted { topic, queue, from, max } = wanted;
        let mut units = Vec::new();
        let spans = view.shelf.spans();
        let Some(found) = self.find(wanted, spans, wait)? else { return Ok(units) };
        let mut next = from;
        for span in spans.iter().skip(found) {
            // What follows a gap proves by its offset that nothing is missing.
            let Span::File(run) = span else { continue };
            let file = self.queue_file(run, wait)?;
            let extents = file.extents(topic, queue).map_err(in_file(run))?;
            let Some(extent) = extents.iter().find(|extent| next < extent.first + extent.count) else {
                continue;
            };
            let Some(skip) = next.checked_sub(extent.first) else { return Ok(units) };
            let more = file.units(*extent, skip, max - units.len()).map_err(in_file(run))?;
            next += more.len() as u64;
            units.extend(more);
            if units.len() == max {
                return Ok(units);
            }
        }
        view.collect_parts(wanted, 0, &mut next, &mut units);
        Ok(units)
    }

    /// The file that holds an offset, by bisection: offsets of a queue rise with the log. Files without the queue say
    /// nothing, so the search walks down to the next that has it; a queue that is in every file costs a logarithm.
    fn find(&self, wanted: Wanted<'_>, spans: &[Span], wait: Wait) -> Result<Option<usize>, Trouble> {
        let (mut low, mut high) = (0, spans.len());
        // A gap that may hold the offset: it lies above everything that is known to be older.
        let mut gap = None;
        while low < high {
            let middle = usize::midpoint(low, high);
            let mut gap_here = None;
            let mut verdict = None;
            for (at, span) in spans.iter().enumerate().take(middle + 1).skip(low).rev() {
                let run = match span {
                    Span::Gap(range) => {
                        gap_here = gap_here.or(Some(*range));
                        continue;
                    }
                    Span::File(run) => run,
                };
                let file = self.queue_file(run, wait)?;
                let extents = file.extents(wanted.topic, wanted.queue).map_err(in_file(run))?;
                let extents = extents.iter().map(|extent| (extent.first, extent.first + extent.count));
                match place(extents, wanted.from) {
                    Place::Absent => {}
                    Place::Here => return Ok(Some(at)),
                    Place::Older => {
                        verdict = Some((at, false));
                        break;
                    }
                    Place::Newer => {
                        verdict = Some((at, true));
                        break;
                    }
                }
            }
            match verdict {
                Some((at, false)) => high = at,
                Some((_, true)) => {
                    low = middle + 1;
                    gap = gap_here;
                }
                None => {
                    low = middle + 1;
                    gap = gap.or(gap_here);
                }
            }
        }
        match gap {
            Some(range) => Err(Trouble::Gap(range)),
            None => Ok(None),
        }
    }

    #[allow(clippy::type_complexity, reason = "first and next offset, if the queue is here")]
    fn bounds_in(
        &self,
        topic: &str,
        queue: u32,
        view: &View,
        open: Option<(u64, u64)>,
    ) -> Result<Option<(u64, u64)>, Trouble> {
        let in_memory = || view.parts.iter().filter_map(|part| part.bounds(topic, queue)).chain(open);
        let in_span = |span: &Span| match span {
            Span::Gap(range) => Err(Trouble::Gap(*range)),
            Span::File(run) => {
                let file = self.queue_file(run, Wait::ForDisk)?;
                let extents = file.extents(topic, queue).map_err(in_file(run))?;
                let ends = extents.first().zip(extents.last());
                Ok(ends.map(|(first, last)| (first.first, last.first + last.count)))
            }
        };
        let mut first = None;
        for span in view.shelf.spans() {
            first = in_span(span)?.map(|(first, _)| first);
            if first.is_some() {
                break;
            }
        }
        let Some(first) = first.or_else(|| in_memory().next().map(|(first, _)| first)) else {
            return Ok(None);
        };
        let mut next = in_memory().last().map(|(_, next)| next);
        for span in view.shelf.spans().iter().rev() {
            if next.is_some() {
                break;
            }
            next = in_span(span)?.map(|(_, next)| next);
        }
        Ok(next.map(|next| (first, next)))
    }

    fn keys_in(
        &self,
        wanted: WantedKey,
        view: &View,
        open_begin_ms: Option<u64>,
        mut found: Vec<LogPosition>,
    ) -> Result<Vec<LogPosition>, Trouble> {
        let WantedKey { hash, begin_ms, end_ms, max } = wanted;
        // Everything older was stored at or before this time.
        let mut newest_ms = open_begin_ms.map_or(u64::MAX, end_of_second);
        for part in view.parts.iter().rev() {
            part.keys().find(hash, begin_ms, end_ms, max, &mut found);
            newest_ms = part.keys().begin_ms().map_or(newest_ms, end_of_second);
        }
        let spans = view.shelf.spans();
        for (at, span) in spans.iter().enumerate().rev() {
            if found.len() >= max || newest_ms < begin_ms {
                break;
            }
            let run = match span {
                Span::File(run) => run,
                Span::Gap(range) => {
                    let older = spans.iter().take(at).rev().find_map(|span| match span {
                        Span::File(run) => key_header(run).filter(|header| header.units > 0),
                        Span::Gap(_) => None,
                    });
                    // Log time does not fall.
                    if older.is_none_or(|header| header.end_ms / 1000 <= end_ms / 1000) {
                        return Err(Trouble::Gap(*range));
                    }
                    continue;
                }
            };
            let Some(header) = key_header(run) else { continue };
            if header.meets(begin_ms, end_ms) {
                let file = self.files.open(run).map_err(|error| in_file(run)(error.into()))?;
                KeyFile::new(header, file)
                    .find(hash, begin_ms, end_ms, max, &mut found)
                    .map_err(in_file(run))?;
            }
            if header.units > 0 {
                newest_ms = end_of_second(header.begin_ms);
            }
        }
        Ok(found)
    }

    fn queue_file(&self, run: &Arc<Run>, wait: Wait) -> Result<QueueFile, Trouble> {
        let Header::Queue(header) = run.header else {
            return Err(in_file(run)(ReadError::damaged("not a queue file")));
        };
        let file = match wait {
            Wait::ForDisk => self.files.open(run),
            // To open a file may take reads.
            Wait::Never => self.files.open_already(run).ok_or_else(|| io::ErrorKind::WouldBlock.into()),
        };
        let file = file.map_err(|error| in_file(run)(error.into()))?;
        QueueFile::new(header, file, wait == Wait::ForDisk).map_err(in_file(run))
    }

    /// Turns trouble into an error, or into `None`: look again, the picture has changed.
    fn settle<T>(&self, answer: Result<T, Trouble>) -> Result<Option<T>, IndexError> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(Trouble::Gap(LogRange { from, to })) => {
                Err(IndexError::Rebuilding { from: LogPosition(from), to: LogPosition(to) })
            }
            Err(Trouble::File(run, ReadError::Damaged(reason))) => {
                self.lose(&run, &reason);
                Ok(None)
            }
            Err(Trouble::File(run, ReadError::Io(error))) => {
                let path = self.files.path(run.kind(), run.range());
                Err(StoreError::io("read", &path, error).into())
            }
        }
    }

    /// A file is not what it was: its range is a gap from now on, unless it was replaced meanwhile (its name may have
    /// gone while a reader still used the run).
    pub(super) fn lose(&self, run: &Arc<Run>, reason: &str) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.shelf_mut(run.kind()).lose(run) {
            state.garbage.push(Arc::clone(run));
            state.lost_files += 1;
            drop(state);
            let file = self.files.path(run.kind(), run.range());
            tracing::warn!(file = %file.display(), reason, "damaged; it is built again from the log");
        }
        self.files.forget(run);
    }
}

impl View {
    /// Goes on with what the parts from number `at` on, and then the open part, have.
    fn collect_parts(&self, wanted: Wanted<'_>, at: usize, next: &mut u64, units: &mut Vec<Unit>) {
        let Wanted { topic, queue, max, .. } = wanted;
        for part in self.parts.iter().skip(at) {
            if !part.collect(topic, queue, next, max, units) {
                return;
            }
        }
        if let Some((first, ahead)) = &self.ahead
            && first == next
        {
            units.extend(ahead.iter().take(max - units.len()));
        }
    }
}

const fn end_of_second(second_ms: u64) -> u64 {
    second_ms.saturating_add(999)
}

fn key_header(run: &Run) -> Option<super::key_file::KeyHeader> {
    match run.header {
        Header::Keys(header) => Some(header),
        Header::Queue(_) => None,
    }
}
