//! Reading the log: frames by index, bytes by position, everything in order. No read takes a lock that is held during I/O.
//!
//! The newest frames are served from memory. Below them a read of bytes uses the map of a segment where the pages are
//! resident and the frames committed, else `pread`; frames are read with `pread` and checked, because what is above the
//! commit index may be written again under a reader (log.md 9, 18).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use wire::LogPosition;

use crate::error::StoreError;
use crate::flush::{Chore, lock};
use crate::frame::{Frame, Tail};
use crate::ids::{LogId, LogIndex};
use crate::limits::{HEADER_LEN, SEGMENT_HEADER_LEN};
use crate::log::{Inner, Log, State};
use crate::recovery::Window;
use crate::segment::{SegmentEntry, SegmentKind, segment_start};
use crate::sparse::Sparse;

/// What a read from the files needs to know of a moment.
pub(crate) struct View {
    segments: Arc<Vec<SegmentEntry>>,
    epoch: u64,
    first: Tail,
    pub(crate) tail: Tail,
    /// The position of the first frame in memory.
    memory: Option<LogPosition>,
    /// Frames that end at or before this position are in the files; the others are in memory.
    files_end: LogPosition,
    committed_end: LogPosition,
}

impl State {
    pub(crate) fn view(&self) -> View {
        View {
            segments: Arc::clone(&self.segments),
            epoch: self.epoch,
            first: self.first,
            tail: self.tail,
            memory: self.recent.front().map(|recent| recent.frame.position()),
            files_end: self.files_end,
            committed_end: self.committed_end,
        }
    }

    fn purged(&self) -> StoreError {
        StoreError::Purged { first_index: self.first.next, first_position: self.first.end }
    }

    /// Frames from memory; `None` when the first one is not there.
    fn frames(&self, from: LogIndex, until: LogIndex, max_bytes: usize) -> Option<Vec<Frame>> {
        let front = self.recent.front()?.frame.id().index;
        let skip = usize::try_from(from.0.checked_sub(front.0)?).ok()?;
        let mut frames = Vec::new();
        let mut bytes = 0;
        for recent in self.recent.range(skip.min(self.recent.len())..) {
            let frame = &recent.frame;
            bytes += frame.bytes().len();
            if frame.id().index >= until || (bytes > max_bytes && !frames.is_empty()) {
                break;
            }
            frames.push(frame.clone());
        }
        Some(frames)
    }

    /// The frame in memory whose bytes hold a position.
    pub(crate) fn frame_with(&self, position: LogPosition) -> Option<&Frame> {
        let after = self.recent.partition_point(|recent| recent.frame.position() <= position);
        let frame = &self.recent.get(after.checked_sub(1)?)?.frame;
        (position < frame.end()).then_some(frame)
    }

    /// The first frame in memory that starts at or after a position, if that is where it belongs.
    fn frame_from(&self, position: LogPosition) -> Option<&Frame> {
        let at = self.recent.partition_point(|recent| recent.frame.position() < position);
        self.recent.get(at).map(|recent| &recent.frame)
    }
}

impl View {
    fn is_raft(segment: &SegmentEntry) -> bool {
        segment.kind == SegmentKind::RaftV1
    }

    /// The segment whose bytes hold a position.
    fn segment_at(&self, position: LogPosition) -> Option<&SegmentEntry> {
        let after = self.segments.partition_point(|segment| segment.start <= position);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        (position.0 < segment.start.0 + segment.file.len).then_some(segment)
    }

    /// The segment in which an entry starts.
    fn segment_of(&self, index: LogIndex) -> Option<&SegmentEntry> {
        self.segments.iter().rev().find(|segment| Self::is_raft(segment) && segment.first_index <= index)
    }

    /// Where the frames of this log end in the file of a segment. While a truncation is queued the segment still says how it
    /// was sealed before.
    pub(crate) fn file_end(&self, segment: &SegmentEntry) -> LogPosition {
        let end = segment.sealed.map_or(self.files_end, |sealed| sealed.tail.end.min(self.files_end));
        LogPosition(end.0.min(segment.start.0 + segment.file.len))
    }

    /// Frames that end at or before this position are in the files for good: a map may show them (log.md 18).
    fn never_written_again(&self) -> LogPosition {
        self.committed_end.min(self.files_end)
    }

    /// Everything in the file of a segment is part of this log, its padding too.
    fn is_whole(&self, segment: &SegmentEntry) -> bool {
        segment.sealed.is_some_and(|sealed| sealed.tail.end <= self.files_end)
    }
}

impl Log {
    /// Entries `from` (inclusive) to `until` (exclusive), as many as there are, up to `max_bytes` of frames but at least
    /// one. From memory when it can; else it reads the disk, so not for a thread of consensus.
    ///
    /// # Errors
    /// `Purged` when `from` is gone; `Corrupt`, naming the frame; those of the disk.
    pub fn read(&self, from: LogIndex, until: LogIndex, max_bytes: usize) -> Result<Vec<Frame>, StoreError> {
        loop {
            let view = {
                let state = lock(&self.0.state);
                if from < state.first.next {
                    return Err(state.purged());
                }
                if from >= until || from >= state.tail.next {
                    return Ok(Vec::new());
                }
                if let Some(frames) = state.frames(from, until, max_bytes) {
                    return Ok(frames);
                }
                state.view()
            };
            let outcome = self.0.read_files(&view, from, until, max_bytes);
            // A truncation under the read may have given it old bytes, or new ones: look again.
            if lock(&self.0.state).epoch == view.epoch {
                return outcome;
            }
        }
    }

    /// [`Log::read`] without the disk: `None` when it would be needed.
    pub fn read_in_memory(&self, from: LogIndex, until: LogIndex, max_bytes: usize) -> Option<Vec<Frame>> {
        let state = lock(&self.0.state);
        if from >= until || from >= state.tail.next {
            return (from >= state.first.next).then(Vec::new);
        }
        if from < state.first.next {
            return None;
        }
        state.frames(from, until, max_bytes)
    }

    /// Where the frame of an entry is. May read the disk.
    ///
    /// # Errors
    /// As [`Log::read`]; `OutOfRange` beyond the last entry.
    pub fn position_of(&self, index: LogIndex) -> Result<LogPosition, StoreError> {
        match self.read(index, index.next(), 1)?.first() {
            Some(frame) => Ok(frame.position()),
            None => {
                let end = self.state().end;
                Err(StoreError::OutOfRange { position: end, len: 0, end })
            }
        }
    }

    /// The state after an entry of this log.
    pub(crate) fn tail_of(&self, id: Option<LogId>) -> Result<Tail, StoreError> {
        let Some(id) = id else {
            return Err(StoreError::Mismatch {
                index: LogIndex(0),
                reason: "entries before it are purged".into(),
            });
        };
        match self.read(id.index, id.index.next(), 1)?.first() {
            Some(frame) if frame.id() == id => Ok(Tail::after(frame)),
            Some(frame) => Err(StoreError::Mismatch {
                index: id.index,
                reason: format!("the entry is {}, not {id}", frame.id()),
            }),
            None => Err(StoreError::Mismatch { index: id.index, reason: "the log ends before it".into() }),
        }
    }

    /// `len` bytes at a position, within one segment: a record of a message, or any part of a sealed or foreign segment. The
    /// caller asks for committed bytes only. May read the disk: see [`Log::read_bytes_resident`]; and for more than one
    /// record [`Log::read_records`].
    ///
    /// # Errors
    /// `Purged` below the first segment; `OutOfRange` beyond the end or across segments; those of the disk.
    pub fn read_bytes(&self, position: LogPosition, len: usize) -> Result<Bytes, StoreError> {
        let view = match self.bytes_in_memory(position, len)? {
            Ok(bytes) => return Ok(bytes),
            Err(view) => view,
        };
        match self.bytes_in_map(&view, position, len)? {
            Some(bytes) => Ok(bytes),
            None => self.bytes_in_files(&view, position, len),
        }
    }

    /// [`Log::read_bytes`] that waits for no disk: `None` when it might, and belongs on a thread that may block.
    pub fn read_bytes_resident(
        &self,
        position: LogPosition,
        len: usize,
    ) -> Option<Result<Bytes, StoreError>> {
        match self.bytes_in_memory(position, len) {
            Ok(Ok(bytes)) => Some(Ok(bytes)),
            Ok(Err(view)) => self.bytes_in_map(&view, position, len).transpose(),
            Err(error) => Some(Err(error)),
        }
    }

    fn bytes_in_memory(&self, position: LogPosition, len: usize) -> Result<Result<Bytes, View>, StoreError> {
        let state = lock(&self.0.state);
        if position >= state.tail.end && position.plus(len as u64) > state.tail.end {
            return Err(StoreError::OutOfRange { position, len: len as u64, end: state.tail.end });
        }
        if let Some(frame) = state.frame_with(position) {
            let skip = (position.0 - frame.position().0) as usize;
            if skip + len <= frame.bytes().len() {
                return Ok(Ok(frame.bytes().slice(skip..skip + len)));
            }
        }
        Ok(Err(state.view()))
    }

    fn bytes_in_map(
        &self,
        view: &View,
        position: LogPosition,
        len: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        if position.plus(len as u64) > view.never_written_again() {
            return Ok(None);
        }
        let segment = Self::segment_with(view, position, len)?;
        let bytes = self.start_in_map(view, segment, position, len)?;
        Ok((bytes.len() == len).then_some(bytes))
    }

    /// Of a range within a segment, from its start on, what may be read from the map: what is resident and never written
    /// again.
    pub(crate) fn start_in_map(
        &self,
        view: &View,
        segment: &SegmentEntry,
        position: LogPosition,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        let final_len = view.never_written_again().0.saturating_sub(position.0).min(len as u64) as usize;
        if final_len == 0 {
            return Ok(Bytes::new());
        }
        let Some(map) = segment.file.map(&*self.0.disk)? else { return Ok(Bytes::new()) };
        let offset = position.0 - segment.start.0;
        Ok(map.bytes(offset, map.resident(offset, final_len)).unwrap_or_default())
    }

    pub(crate) fn bytes_in_files(
        &self,
        view: &View,
        position: LogPosition,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        let segment = Self::segment_with(view, position, len)?;
        // What the files do not have yet is laid over what they have.
        let in_file = if view.is_whole(segment) { u64::MAX } else { view.files_end.0 };
        let from_file = in_file.saturating_sub(position.0).min(len as u64) as usize;
        let bytes =
            if from_file > 0 { segment.file.read(&*self.0.disk, position, from_file)? } else { Bytes::new() };
        if from_file == len {
            return Ok(bytes);
        }
        let mut whole = BytesMut::from(bytes);
        whole.resize(len, 0);
        let state = lock(&self.0.state);
        for recent in &state.recent {
            let (at, frame) = (recent.frame.position().0, recent.frame.bytes());
            let start = at.max(position.0);
            let end = (at + frame.len() as u64).min(position.0 + len as u64);
            if start < end {
                let source = frame.get((start - at) as usize..(end - at) as usize);
                let target = whole.get_mut((start - position.0) as usize..(end - position.0) as usize);
                if let (Some(source), Some(target)) = (source, target) {
                    target.copy_from_slice(source);
                }
            }
        }
        Ok(whole.freeze())
    }

    pub(crate) fn segment_with(
        view: &View,
        position: LogPosition,
        len: usize,
    ) -> Result<&SegmentEntry, StoreError> {
        let Some(segment) = view.segment_at(position) else {
            let oldest = view.segments.first().map_or(view.first.end, |segment| segment.start);
            if position < oldest {
                return Err(StoreError::Purged {
                    first_index: view.first.next,
                    first_position: view.first.end,
                });
            }
            return Err(StoreError::OutOfRange { position, len: len as u64, end: view.tail.end });
        };
        let whole = LogPosition(segment.start.0 + segment.file.len);
        let end = if view.is_whole(segment) { whole } else { whole.min(view.tail.end) };
        if position.plus(len as u64) > end {
            return Err(StoreError::OutOfRange { position, len: len as u64, end });
        }
        Ok(segment)
    }

    /// Everything from a position on, in order: the one way to walk the log (rebuild, scrub, audit). A position before the
    /// first frame starts there; else it must be that of a frame, the end of one, or the start of a segment. Entries above
    /// the commit index may be truncated under the reader, which then says so: stop at what is committed.
    pub fn frames_from(&self, position: LogPosition) -> FrameReader {
        FrameReader {
            log: self.clone(),
            at: position,
            before: None,
            piece: None,
            epoch: lock(&self.0.state).epoch,
        }
    }
}

impl Inner {
    /// Frames from the files. The entry is not in memory, so it is in a file, unless the log is truncated meanwhile.
    fn read_files(
        &self,
        view: &View,
        from: LogIndex,
        until: LogIndex,
        max_bytes: usize,
    ) -> Result<Vec<Frame>, StoreError> {
        let Some(segment) = view.segment_of(from) else {
            return Err(StoreError::Invariant(format!("no segment holds entry {from}")));
        };
        match self.read_segment(view, segment, from, until, max_bytes, true)? {
            Some(frames) => Ok(frames),
            None => self.build_sparse(view, segment, from, until, max_bytes)?.ok_or_else(|| {
                StoreError::Invariant(format!("segment {} has no entry {from}", segment.start))
            }),
        }
    }

    /// Builds a sparse index that is missing or wrong from the frames, and gives some of them.
    pub(crate) fn build_sparse(
        &self,
        view: &View,
        segment: &SegmentEntry,
        from: LogIndex,
        until: LogIndex,
        max_bytes: usize,
    ) -> Result<Option<Vec<Frame>>, StoreError> {
        tracing::info!(segment = %segment.file.path.display(), "building a sparse index again");
        *segment.file.sparse() = Sparse::default();
        let frames = self.read_segment(view, segment, from, until, max_bytes, false)?;
        self.flusher.add_chore(Chore::WriteSparse(self.me.clone(), Arc::clone(&segment.file)));
        Ok(frames)
    }

    /// Reads on from the nearest known frame. `None`: what is known is wrong. Without `trust` the whole segment is read, so
    /// that its sparse index becomes complete.
    fn read_segment(
        &self,
        view: &View,
        segment: &SegmentEntry,
        from: LogIndex,
        until: LogIndex,
        max_bytes: usize,
        trust: bool,
    ) -> Result<Option<Vec<Frame>>, StoreError> {
        let path = segment.file.index_path();
        let is_missing = segment.sealed.is_some() && matches!(*segment.file.sparse(), Sparse::File);
        let known = if trust { segment.file.sparse().find(&*self.disk, &path, from) } else { None };
        if trust && is_missing && known.is_none() {
            return Ok(None);
        }
        let start = LogPosition(segment.start.0 + SEGMENT_HEADER_LEN);
        let limit = view.file_end(segment);
        let mut at = known.map_or(start, |known| known.position);
        if at < start || at >= limit {
            return Ok(None);
        }
        let mut expect = known.map_or(segment.first_index, |known| known.id.index);
        let mut window = Window::new(&*self.disk, &segment.file, limit.0);
        let mut frames = Vec::new();
        let mut bytes = 0;
        let mut is_done = false;
        while at.0 + HEADER_LEN as u64 <= limit.0 && !(is_done && trust) {
            let frame = match window.frame(at)? {
                Ok(frame) if frame.position() == at && frame.id().index == expect => frame,
                // The first one was found by the sparse index, which may be wrong.
                _ if known.is_some_and(|known| known.position == at) => return Ok(None),
                Ok(frame) => return Err(Self::corrupt(segment, at, expect, format!("{frame:?} is there"))),
                Err(error) => return Err(Self::corrupt(segment, at, expect, error.to_string())),
            };
            segment.file.sparse().add(segment.start, frame.id(), at);
            at = frame.end();
            expect = expect.next();
            if frame.id().index < from || is_done {
                continue;
            }
            bytes += frame.bytes().len();
            if frame.id().index >= until || (bytes > max_bytes && !frames.is_empty()) {
                is_done = true;
                continue;
            }
            frames.push(frame);
            is_done = bytes >= max_bytes;
        }
        if frames.is_empty() { Ok(None) } else { Ok(Some(frames)) }
    }

    fn corrupt(segment: &SegmentEntry, position: LogPosition, index: LogIndex, reason: String) -> StoreError {
        StoreError::Corrupt { file: segment.file.path.clone(), position, index, reason }
    }
}

/// What a [`FrameReader`] meets.
#[derive(Debug)]
pub enum LogItem {
    /// An entry.
    Frame(Frame),
    /// A foreign segment below the first entry, to be read with [`Log::read_bytes`].
    Foreign {
        /// What it is.
        kind: String,
        /// Position of its first byte.
        start: LogPosition,
        /// The position after its last byte.
        end: LogPosition,
    },
}

/// Walks the log forwards; see [`Log::frames_from`]. It reads the disk in large pieces and checks every frame and the chain.
/// It can be asked again after it has reached the end.
pub struct FrameReader {
    log: Log,
    at: LogPosition,
    /// After the last frame given out.
    before: Option<Tail>,
    /// A piece of the file of a segment, the position of its first byte, and the truncations so far when it was read.
    piece: Option<(LogPosition, Bytes, u64)>,
    /// Truncations so far when the reader began.
    epoch: u64,
}

/// How much a reader takes from the disk at once.
const PIECE: u64 = 1 << 20;

impl FrameReader {
    /// The position from which it goes on.
    pub fn position(&self) -> LogPosition {
        self.at
    }

    /// The next entry or foreign segment; `None` at the end of the log, as it is now.
    ///
    /// # Errors
    /// `Corrupt` when the bytes there are no frame, or one that does not follow; `Invariant` when that is because the log
    /// was truncated under the reader; those of the disk.
    pub fn next_item(&mut self) -> Result<Option<LogItem>, StoreError> {
        let outcome = self.step();
        let is_truncated = || lock(&self.log.0.state).epoch != self.epoch;
        match outcome {
            Err(error @ StoreError::Corrupt { .. }) if is_truncated() => {
                Err(StoreError::Invariant(format!("the log was truncated under its reader: {error}")))
            }
            outcome => outcome,
        }
    }

    fn step(&mut self) -> Result<Option<LogItem>, StoreError> {
        loop {
            let view = {
                let state = lock(&self.log.0.state);
                if self.at >= state.tail.end {
                    return Ok(None);
                }
                let front = state.recent.front().map(|recent| recent.frame.position());
                if front.is_some_and(|front| front <= self.at) {
                    let Some(frame) = state.frame_from(self.at).cloned() else { return Ok(None) };
                    drop(state);
                    return self.give(frame).map(Some);
                }
                state.view()
            };
            // Behind a segment come the next one, then what is in memory only.
            let starts = view.segments.iter().map(|segment| segment.start).chain(view.memory);
            let next = starts.into_iter().find(|start| *start > self.at);
            let Some(segment) = view.segments.iter().rev().find(|segment| segment.start <= self.at) else {
                let Some(next) = next else { return Ok(None) };
                self.at = next;
                continue;
            };
            if let SegmentKind::Foreign(kind) = &segment.kind {
                let (start, end) = (segment.start, LogPosition(segment.start.0 + segment.file.len));
                let is_inside = self.at < end;
                match next {
                    Some(next) => self.at = next,
                    None if is_inside => self.at = end.max(view.first.end),
                    None => return Ok(None),
                }
                if is_inside {
                    return Ok(Some(LogItem::Foreign { kind: kind.clone(), start, end }));
                }
                continue;
            }
            let begin = LogPosition(segment.start.0 + SEGMENT_HEADER_LEN).max(view.first.end);
            let limit = view.file_end(segment);
            if self.at < begin {
                self.at = begin;
                continue;
            }
            if self.at >= limit {
                let Some(next) = next else { return Ok(None) };
                self.at = next;
                continue;
            }
            self.piece = self.piece.take().filter(|(.., epoch)| *epoch == view.epoch);
            let frame = self.cut_frame(segment, limit, view.epoch);
            if lock(&self.log.0.state).epoch != view.epoch {
                self.piece = None;
                continue;
            }
            return self.give(frame?).map(Some);
        }
    }

    fn give(&mut self, frame: Frame) -> Result<LogItem, StoreError> {
        if let Some(before) = self.before.replace(Tail::after(&frame))
            && (before.next, before.chain) != (frame.id().index, frame.prev())
        {
            let start = segment_start(frame.position(), self.log.0.identity.segment_size);
            return Err(StoreError::Corrupt {
                file: self.log.0.log_dir.join(crate::segment::segment_name(start)),
                position: frame.position(),
                index: before.next,
                reason: format!("{frame:?} does not follow the frame before it"),
            });
        }
        self.at = frame.end();
        Ok(LogItem::Frame(frame))
    }

    fn cut_frame(
        &mut self,
        segment: &SegmentEntry,
        limit: LogPosition,
        epoch: u64,
    ) -> Result<Frame, StoreError> {
        let index = self.before.map_or(LogIndex(0), |before| before.next);
        let mut want = HEADER_LEN as u64;
        loop {
            let bytes = self.fill(segment, want, limit, epoch)?;
            let error = match Frame::parse_first(&bytes) {
                Ok(frame) if frame.position() == self.at => return Ok(frame),
                Ok(frame) => format!("{frame:?} is there"),
                Err(crate::frame::FrameError::Short { needed, .. })
                    if needed > want && self.at.0 + needed <= limit.0 =>
                {
                    want = needed;
                    continue;
                }
                Err(error) => error.to_string(),
            };
            return Err(Inner::corrupt(segment, self.at, index, error));
        }
    }

    /// At least `want` bytes from the current position on, fewer only at the limit.
    fn fill(
        &mut self,
        segment: &SegmentEntry,
        want: u64,
        limit: LogPosition,
        epoch: u64,
    ) -> Result<Bytes, StoreError> {
        let at = self.at;
        if let Some((start, bytes, _)) = &self.piece {
            let end = start.0 + bytes.len() as u64;
            if *start <= at && at.0 + want <= end {
                return Ok(bytes.slice((at.0 - start.0) as usize..));
            }
        }
        let disk = &*self.log.0.disk;
        let len = want.max(PIECE).min(limit.0 - at.0) as usize;
        let offset = at.0 - segment.start.0;
        // What was not in memory before is not kept there after (log.md 9).
        let was_cold = segment.file.map(disk)?.is_some_and(|map| !map.is_resident(offset, len));
        let bytes = segment.file.read(disk, at, len)?;
        if was_cold {
            segment.file.open(disk)?.forget(offset, len as u64);
        }
        self.piece = Some((at, bytes.clone(), epoch));
        Ok(bytes)
    }
}
