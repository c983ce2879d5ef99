//! Records with the frames that hold them. The CRC of a stored message covers its body only; that of the frame covers all of
//! it. So what is to be stored anew, where it would look sound again, is read here.
//!
//! ```text
//! sparse entry ─▶ header ─▶ header ─▶ … ─▶ the frame that holds the record: its CRC, its position
//! ```
//! Frames that are in memory were checked when they came there.

use bytes::Bytes;
use wire::LogPosition;

use crate::error::StoreError;
use crate::flush::lock;
use crate::frame::{Frame, Head};
use crate::ids::LogIndex;
use crate::limits::{HEADER_LEN, SEGMENT_HEADER_LEN, SPARSE_STEP};
use crate::log::Log;
use crate::read::View;
use crate::segment::{SegmentEntry, SegmentKind};
use crate::sparse::Sparse;

impl Log {
    /// The entry in whose frame a byte lies, as it was written; `None` where no frame has it: in a header or the rest of a
    /// segment, in a foreign segment, beyond the end. May read the disk.
    ///
    /// # Errors
    /// `Corrupt` where the frame, or one on the way to it, is damaged; `Purged` below the first segment; those of the disk.
    pub fn frame_with(&self, position: LogPosition) -> Result<Option<Frame>, StoreError> {
        Walk::default().frame_with(self, position)
    }

    /// Records as [`Log::read_records`] takes them, each checked with its frame; best in the order of the log. May read the
    /// disk, up to 64 KiB and the frame for each record that does not follow the one before.
    ///
    /// # Errors
    /// For each record on its own: those of [`Log::frame_with`]; `OutOfRange` where no frame has the whole of it.
    pub fn read_checked(&self, wanted: &[(LogPosition, u32)]) -> Vec<Result<Bytes, StoreError>> {
        let mut walk = Walk::default();
        wanted.iter().map(|place| walk.record(self, *place)).collect()
    }

    /// [`Log::read_checked`] without the disk: `None` when it would be needed.
    pub fn read_checked_in_memory(&self, position: LogPosition, len: u32) -> Option<Bytes> {
        let frame = lock(&self.0.state).frame_with(position).cloned()?;
        slice(&frame, position, len)
    }
}

/// The bytes of a record, where the records of the frame have it.
fn slice(frame: &Frame, position: LogPosition, len: u32) -> Option<Bytes> {
    let records = frame.records();
    let skip = usize::try_from(position.0.checked_sub(frame.records_position().0)?).ok()?;
    let end = skip.checked_add(len as usize)?;
    // A copy: thousands of records that wait to be stored anew must not keep as many pieces of the log in memory.
    records.get(skip..end).map(Bytes::copy_from_slice)
}

/// Finds frame after frame.
#[derive(Default)]
struct Walk {
    /// The frame found last.
    frame: Option<Frame>,
    /// Bytes of a segment's file, the position of the first, and the truncations before they were read.
    piece: Option<(LogPosition, Bytes, u64)>,
}

impl Walk {
    fn record(&mut self, log: &Log, (position, len): (LogPosition, u32)) -> Result<Bytes, StoreError> {
        let is_inside = |frame: &Frame| frame.position() <= position && position < frame.end();
        if !self.frame.as_ref().is_some_and(is_inside) {
            // Kept meanwhile: the one that is looked for is often the next.
            self.frame = self.frame_with(log, position)?;
        }
        let record = self.frame.as_ref().and_then(|frame| slice(frame, position, len));
        record.ok_or_else(|| StoreError::OutOfRange { position, len: len.into(), end: log.state().end })
    }

    fn frame_with(&mut self, log: &Log, position: LogPosition) -> Result<Option<Frame>, StoreError> {
        loop {
            let (view, epoch) = {
                let state = lock(&log.0.state);
                if position >= state.tail.end {
                    return Ok(None);
                }
                if let Some(frame) = state.frame_with(position) {
                    return Ok(Some(frame.clone()));
                }
                (state.view(), state.epoch)
            };
            let outcome = self.look(log, &view, epoch, position);
            // A truncation under the read may have given it old bytes, or new ones: look again.
            if lock(&log.0.state).epoch == epoch {
                return outcome;
            }
            (self.frame, self.piece) = (None, None);
        }
    }

    fn look(
        &mut self,
        log: &Log,
        view: &View,
        epoch: u64,
        position: LogPosition,
    ) -> Result<Option<Frame>, StoreError> {
        let segment = Log::segment_with(view, position, 1)?;
        if segment.kind != SegmentKind::RaftV1 {
            return Ok(None);
        }
        let first = LogPosition(segment.start.0 + SEGMENT_HEADER_LEN);
        let limit = view.file_end(segment);
        // From the frame before, where that is near.
        let before = self.frame.as_ref().map(Frame::end).filter(|end| {
            *end >= first && position.0.checked_sub(end.0).is_some_and(|gap| gap < SPARSE_STEP)
        });
        if let Some(before) = before {
            return self.look_from(log, segment, epoch, before, position, limit);
        }
        // The sparse index is derived: missing or wrong, it is no damage to the log.
        let known = || {
            let path = segment.file.index_path();
            let known = segment.file.sparse().find_position(&*log.0.disk, &path, position);
            known.map(|known| known.position.max(first))
        };
        let build_again = || {
            let one = LogIndex(segment.first_index.0 + 1);
            if let Err(error) = log.0.build_sparse(view, segment, segment.first_index, one, 1) {
                tracing::warn!(segment = %segment.file.path.display(), %error, "no sparse index");
            }
        };
        let mut at = known();
        if at.is_none() && segment.sealed.is_some() && matches!(*segment.file.sparse(), Sparse::File) {
            build_again();
            at = known();
        }
        let at = at.unwrap_or(first);
        match self.look_from(log, segment, epoch, at, position, limit) {
            Err(StoreError::Corrupt { position: there, .. }) if there == at && at > first => {
                let found = self.look_from(log, segment, epoch, first, position, limit);
                if found.is_ok() {
                    build_again();
                }
                found
            }
            found => found,
        }
    }

    /// Goes from frame to frame, the first at `at`, to that which holds `position`.
    fn look_from(
        &mut self,
        log: &Log,
        segment: &SegmentEntry,
        epoch: u64,
        mut at: LogPosition,
        position: LogPosition,
        limit: LogPosition,
    ) -> Result<Option<Frame>, StoreError> {
        while at <= position && at.0 + HEADER_LEN as u64 <= limit.0 {
            let corrupt = |reason: String| StoreError::Corrupt {
                file: segment.file.path.clone(),
                position: at,
                index: LogIndex(0),
                reason,
            };
            let bytes = self.fill(log, segment, epoch, at, HEADER_LEN as u64, limit)?;
            let head = Head::decode(&bytes).map_err(|error| corrupt(error.to_string()))?;
            let end = LogPosition(at.0 + head.frame_len());
            if head.position != at || end > limit {
                return Err(corrupt(format!("a frame of {} until {end} is there", head.position)));
            }
            if position >= end {
                at = end;
                continue;
            }
            let bytes = self.fill(log, segment, epoch, at, head.frame_len(), limit)?;
            return Frame::parse_first(&bytes).map(Some).map_err(|error| corrupt(error.to_string()));
        }
        Ok(None)
    }

    /// At least `want` bytes from `at` on, which lie before the limit.
    fn fill(
        &mut self,
        log: &Log,
        segment: &SegmentEntry,
        epoch: u64,
        at: LogPosition,
        want: u64,
        limit: LogPosition,
    ) -> Result<Bytes, StoreError> {
        if let Some((start, bytes, _)) = self.piece.as_ref().filter(|(.., read)| *read == epoch)
            && *start <= at
            && at.0 + want <= start.0 + bytes.len() as u64
        {
            return Ok(bytes.slice((at.0 - start.0) as usize..));
        }
        let len = want.max(SPARSE_STEP).min(limit.0.saturating_sub(at.0)) as usize;
        let bytes = segment.file.read(&*log.0.disk, at, len)?;
        self.piece = Some((at, bytes.clone(), epoch));
        Ok(bytes)
    }
}
