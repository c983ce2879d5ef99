//! Many files of neighbouring ranges into one, reading each from front to back once: memory for some pages of each
//! input, the directory that is written (about 70 bytes a queue) and the slots (one byte a key).

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::Pace;
use super::codec::{LogRange, UNIT_LEN};
use super::key_file::{KeyFile, KeyFileWriter, KeyHeader};
use super::pages::ReadError;
use super::queue_file::{QueueCursor, QueueFile, QueueFileWriter, QueueHeader};
use crate::disk::DiskFile;

/// Units copied at once.
const COPY_UNITS: u64 = 3_000;
/// Bytes written between two questions to the caller whether to go on.
const PACE_LEN: u64 = 1 << 20;

/// Why there is no merged file.
#[derive(Debug)]
pub(super) enum MergeError {
    /// The input of this number.
    Damaged(usize, String),
    Io(io::Error),
    /// The caller's pace said so.
    Stopped,
}

impl MergeError {
    pub(super) fn input(number: usize) -> impl Fn(ReadError) -> Self {
        move |error| match error {
            ReadError::Damaged(reason) => Self::Damaged(number, reason),
            ReadError::Io(error) => Self::Io(error),
        }
    }
}

impl From<io::Error> for MergeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Tells the caller's pace what was written, a megabyte or so at a time.
struct Paced<'a, 'b> {
    pace: &'a mut Pace<'b>,
    told: u64,
}

impl Paced<'_, '_> {
    fn at(&mut self, written: u64) -> Result<(), MergeError> {
        if written - self.told < PACE_LEN {
            return Ok(());
        }
        let more = written - self.told;
        self.told = written;
        match (self.pace)(more) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(MergeError::Stopped),
        }
    }
}

pub(super) fn merge_queues(
    inputs: &[QueueFile],
    range: LogRange,
    next_index: u64,
    file: Arc<dyn DiskFile>,
    pace: &mut Pace<'_>,
) -> Result<QueueHeader, MergeError> {
    let mut paced = Paced { pace, told: 0 };
    let mut cursors = Vec::with_capacity(inputs.len());
    for (number, input) in inputs.iter().enumerate() {
        cursors.push(input.cursor().map_err(MergeError::input(number))?);
    }
    let mut writer = QueueFileWriter::new(file, range);
    // The least entry; among those of one queue, offsets rise with the inputs.
    while let Some((number, cursor)) = cursors
        .iter_mut()
        .enumerate()
        .filter(|(_, cursor)| cursor.entry().is_some())
        .min_by(|(_, a), (_, b)| QueueCursor::entry(a).cmp(&QueueCursor::entry(b)))
    {
        let Some(entry) = cursor.entry().cloned() else { break };
        let mut left = entry.count;
        writer.entry(entry)?;
        while left > 0 {
            let count = left.min(COPY_UNITS);
            let units = cursor.take_units(count as usize).map_err(MergeError::input(number))?;
            debug_assert_eq!(units.len(), count as usize * UNIT_LEN);
            writer.units(units)?;
            left -= count;
            paced.at(writer.written())?;
        }
        cursor.advance().map_err(MergeError::input(number))?;
    }
    Ok(writer.finish(next_index)?)
}

pub(super) fn merge_keys(
    inputs: &[(KeyFile, KeyHeader)],
    range: LogRange,
    next_index: u64,
    file: Arc<dyn DiskFile>,
    pace: &mut Pace<'_>,
) -> Result<KeyHeader, MergeError> {
    let mut paced = Paced { pace, told: 0 };
    let headers = || inputs.iter().map(|(_, header)| header);
    let units = headers().map(|header| u64::from(header.units)).sum();
    let end_ms = headers().rev().find(|header| header.units > 0).map_or(0, |header| header.end_ms);
    let mut writer = KeyFileWriter::new(file, range, units)?;
    for (number, (input, _)) in inputs.iter().enumerate() {
        let mut cursor = input.cursor();
        while let Some(unit) = cursor.next().map_err(MergeError::input(number))? {
            writer.put(unit)?;
            paced.at(writer.written())?;
        }
    }
    Ok(writer.finish(next_index, end_ms)?)
}
