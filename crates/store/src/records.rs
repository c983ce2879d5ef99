//! Records of messages, many at once: what a pull brings.
//!
//! ```text
//! wanted   ▪▪▪ ▪▪ ▪      ▪ ▪▪       ▪▪▪▪ ▪
//!          stretch 1     stretch 2  │ in memory      a stretch: one question whether it is resident, or one pread
//!          ──── files ──────────────┴────────────
//! pieces   ─── ── ─      ─ ──       ──── ─           records side by side (of one entry) share a piece
//! ```
//! The lock of the log is taken once, whatever the number of records.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use wire::LogPosition;

use crate::error::StoreError;
use crate::flush::lock;
use crate::frame::Frame;
use crate::log::{Log, State};
use crate::read::View;

/// Position and size of a record, as a unit of a queue has them.
type Place = (LogPosition, u32);

/// Records with less than this between them are one stretch. It is the smallest page, so no page of a stretch is without
/// a byte that is wanted: whether all of it is resident says nothing of others.
const GAP: u64 = 4096;

/// The same where only residency is asked: a few pages more in the answer to one question cost less than a question for each
/// record, and mostly what lies between the messages of one queue, of others, was read a moment ago as well. Where it was not,
/// the record behind it is asked for by itself.
const WIDE_GAP: u64 = 16 << 10;

/// What was found of the records that were asked for.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// How many: the first ones of those that were asked for.
    pub count: usize,
    /// Their bytes, in order. They are slices of entries in memory, which they keep alive, or of a map, whose pages were
    /// resident a moment ago: what is to wait (in the queue of a slow reader) is better [copied](Records::copy).
    pub pieces: Vec<Bytes>,
}

impl Records {
    /// Bytes of all of them.
    pub fn size(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// All of them, one after the other, in a buffer of their own.
    pub fn copy(&self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.size());
        for piece in &self.pieces {
            whole.extend_from_slice(piece);
        }
        whole.freeze()
    }
}

impl Log {
    /// Many records at once: position and size of each, as the units of a queue give them, and in their order, which is
    /// that of the log. (Any other order is served too, only slower.) All of them, or an error. The caller asks for
    /// committed ones only. May read the disk: see [`Log::read_records_resident`].
    ///
    /// # Errors
    /// `Purged` below the first segment; `OutOfRange` beyond the end, or where no single frame holds the bytes; those of
    /// the disk.
    pub fn read_records(&self, wanted: &[(LogPosition, u32)]) -> Result<Records, StoreError> {
        self.records(wanted, true)
    }

    /// [`Log::read_records`] that waits for no disk: only as many, from the first one on, as are in memory at this moment.
    /// None at all: the read belongs on a thread that may block.
    ///
    /// # Errors
    /// As [`Log::read_records`]; of the disk only those of opening and mapping a segment.
    pub fn read_records_resident(&self, wanted: &[(LogPosition, u32)]) -> Result<Records, StoreError> {
        self.records(wanted, false)
    }

    fn records(&self, wanted: &[Place], may_block: bool) -> Result<Records, StoreError> {
        let mut found = Gathered::default();
        // One turn, unless the records are in no order.
        while let Some(rest) = wanted.get(found.count..).filter(|rest| !rest.is_empty()) {
            let (in_files, in_memory, view) = {
                let state = lock(&self.0.state);
                let memory = state.memory_from();
                let split = rest.iter().position(|(position, _)| *position >= memory);
                let (in_files, others) = rest.split_at(split.unwrap_or(rest.len()));
                (in_files, state.gather(others), state.view())
            };
            let is_nowhere = in_files.is_empty() && in_memory.count == 0;
            if let Some((position, len)) = rest.first().filter(|_| is_nowhere).copied() {
                return Err(StoreError::OutOfRange { position, len: len.into(), end: view.tail.end });
            }
            if !self.gather_from_files(&view, in_files, may_block, &mut found)? {
                break;
            }
            found.join(in_memory);
        }
        Ok(found.finish())
    }

    /// False when it stopped at a record that is not resident, and may not wait.
    fn gather_from_files(
        &self,
        view: &View,
        mut wanted: &[Place],
        may_block: bool,
        found: &mut Gathered,
    ) -> Result<bool, StoreError> {
        let widest = if may_block { GAP } else { WIDE_GAP };
        let mut gap = widest;
        while let Some((start, first_len)) = wanted.first() {
            let segment = Self::segment_with(view, *start, *first_len as usize)?;
            let (count, len) = stretch(wanted, segment.start.plus(segment.file.len), gap);
            let mut bytes = self.start_in_map(view, segment, *start, len)?;
            if bytes.len() < len && may_block {
                bytes = self.bytes_in_files(view, *start, len)?;
            }
            let mut here = 0;
            for (position, len) in wanted.iter().take(count) {
                let (at, len) = ((position.0 - start.0) as usize, *len as usize);
                if at + len > bytes.len() {
                    break;
                }
                found.add(&bytes, at, len);
                here += 1;
            }
            if here < count && gap == GAP {
                return Ok(false);
            }
            // What is missing may lie between this record and the next.
            gap = if here < count { GAP } else { widest };
            wanted = wanted.get(here..).unwrap_or_default();
        }
        Ok(true)
    }
}

impl State {
    /// Frames from this position on are in memory; everything before it is in the files.
    fn memory_from(&self) -> LogPosition {
        self.recent.front().map_or(self.tail.end, |recent| recent.frame.position())
    }

    /// The first of these records as long as a frame in memory holds them.
    fn gather(&self, wanted: &[Place]) -> Gathered {
        let mut found = Gathered::default();
        let mut frame: Option<&Frame> = None;
        for (position, len) in wanted {
            // Often the frame of the record before.
            let is_inside = |frame: &&Frame| frame.position() <= *position && *position < frame.end();
            frame = frame.filter(is_inside).or_else(|| self.frame_with(*position));
            let Some(frame) = frame else { break };
            let (at, len) = ((position.0 - frame.position().0) as usize, *len as usize);
            if at + len > frame.bytes().len() {
                break;
            }
            found.add(frame.bytes(), at, len);
        }
        found
    }
}

/// How many records, from the first on and with less than `gap` between them, lie in one stretch that ends at or before
/// `limit`, and its length.
fn stretch(wanted: &[Place], limit: LogPosition, gap: u64) -> (usize, usize) {
    let mut records = wanted.iter().map(|(position, len)| (*position, position.plus(u64::from(*len))));
    let Some((start, mut end)) = records.next() else { return (0, 0) };
    let mut count = 1;
    for (position, next_end) in records {
        if position.0.checked_sub(end.0).is_none_or(|between| between >= gap) || next_end > limit {
            break;
        }
        end = next_end;
        count += 1;
    }
    (count, (end.0 - start.0) as usize)
}

/// Puts together what lies side by side in one buffer.
#[derive(Default)]
struct Gathered {
    count: usize,
    pieces: Vec<Bytes>,
    /// The piece that may go on, as a part of its buffer.
    open: Option<(Bytes, Range<usize>)>,
}

impl Gathered {
    fn add(&mut self, buffer: &Bytes, at: usize, len: usize) {
        self.count += 1;
        if let Some((open, range)) = &mut self.open
            && open.as_ptr() == buffer.as_ptr()
            && range.end == at
        {
            range.end += len;
            return;
        }
        self.seal();
        self.open = Some((buffer.clone(), at..at + len));
    }

    fn join(&mut self, other: Self) {
        self.seal();
        self.count += other.count;
        self.pieces.extend(other.pieces);
        self.open = other.open;
    }

    fn seal(&mut self) {
        if let Some((buffer, range)) = self.open.take() {
            self.pieces.push(buffer.slice(range));
        }
    }

    fn finish(mut self) -> Records {
        self.seal();
        Records { count: self.count, pieces: self.pieces }
    }
}
