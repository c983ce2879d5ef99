//! Index → position: one entry for the first frame that starts in each 64 KiB of a segment (docs/formats.md 6). Never one
//! in memory per log entry (log.md 19).

use std::path::Path;

use wire::LogPosition;

use crate::bytes_at::u64_at;
use crate::disk::Disk;
use crate::ids::{LogId, LogIndex, Term};
use crate::limits::SPARSE_STEP;

const ENTRY_LEN: usize = 24;

/// A frame that look-ups may start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SparseEntry {
    pub(crate) id: LogId,
    pub(crate) position: LogPosition,
}

impl SparseEntry {
    fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        let (index, rest) = bytes.split_at_mut(8);
        let (position, term) = rest.split_at_mut(8);
        index.copy_from_slice(&self.id.index.0.to_be_bytes());
        position.copy_from_slice(&self.position.0.to_be_bytes());
        term.copy_from_slice(&self.id.term.0.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        Self {
            id: LogId { index: LogIndex(u64_at(bytes, 0)), term: Term(u64_at(bytes, 16)) },
            position: LogPosition(u64_at(bytes, 8)),
        }
    }
}

/// The entries of one segment: in memory (all that are known, ascending, while it is open) or in its file.
#[derive(Debug)]
pub(crate) enum Sparse {
    Memory(Vec<SparseEntry>),
    File,
}

impl Default for Sparse {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl Sparse {
    /// Takes note of a frame; frames that are not the first of their 64 KiB change nothing.
    pub(crate) fn add(&mut self, segment: LogPosition, id: LogId, position: LogPosition) {
        let Self::Memory(entries) = self else { return };
        let stretch = |position: LogPosition| position.0.saturating_sub(segment.0) / SPARSE_STEP;
        let new = SparseEntry { id, position };
        // Almost always behind the last one.
        let at = match entries.last() {
            Some(last) if last.position >= position => {
                entries.partition_point(|entry| entry.position < position)
            }
            _ => entries.len(),
        };
        let taken = |entry: Option<&SparseEntry>| {
            entry.is_some_and(|entry| stretch(entry.position) == stretch(position))
        };
        if taken(at.checked_sub(1).and_then(|before| entries.get(before))) {
            return;
        }
        match entries.get_mut(at) {
            Some(after) if stretch(after.position) == stretch(position) => *after = new,
            _ => entries.insert(at, new),
        }
    }

    /// Forgets everything at and after a position.
    pub(crate) fn cut(&mut self, position: LogPosition) {
        if let Self::Memory(entries) = self {
            entries.retain(|entry| entry.position < position);
        }
    }

    /// The last entry at or before `index`, from memory or from the file; `None` when there is none, or the file is
    /// missing or not ascending where it was looked at.
    pub(crate) fn find(&self, disk: &dyn Disk, path: &Path, index: LogIndex) -> Option<SparseEntry> {
        self.last_that(disk, path, |entry| entry.id.index <= index)
    }

    /// The same for a position.
    pub(crate) fn find_position(
        &self,
        disk: &dyn Disk,
        path: &Path,
        position: LogPosition,
    ) -> Option<SparseEntry> {
        self.last_that(disk, path, |entry| entry.position <= position)
    }

    /// The last entry of those, all at the beginning, that are as asked for.
    fn last_that(
        &self,
        disk: &dyn Disk,
        path: &Path,
        is_one: impl Fn(&SparseEntry) -> bool,
    ) -> Option<SparseEntry> {
        match self {
            Self::Memory(entries) => {
                let after = entries.partition_point(is_one);
                entries.get(after.checked_sub(1)?).copied()
            }
            Self::File => {
                let file = disk.open(path).ok()?;
                let read = |n: u64| {
                    let mut bytes = [0; ENTRY_LEN];
                    file.read_exact_at(n * ENTRY_LEN as u64, &mut bytes).ok()?;
                    Some(SparseEntry::decode(&bytes))
                };
                let (mut low, mut high) = (0, file.len().ok()? / ENTRY_LEN as u64);
                while low < high {
                    let middle = u64::midpoint(low, high);
                    if is_one(&read(middle)?) { low = middle + 1 } else { high = middle }
                }
                read(low.checked_sub(1)?)
            }
        }
    }

    /// The entries as bytes, for the file; `None` when they are there already.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let Self::Memory(entries) = self else { return None };
        Some(entries.iter().flat_map(SparseEntry::encode).collect())
    }

    /// The entries of a file below a position; empty when they are not ascending positions within the segment.
    pub(crate) fn decode(bytes: &[u8], segment: LogPosition, below: LogPosition) -> Self {
        let entries: Vec<SparseEntry> = bytes
            .chunks_exact(ENTRY_LEN)
            .map(SparseEntry::decode)
            .take_while(|entry| entry.position >= segment && entry.position < below)
            .collect();
        let ascends = entries
            .iter()
            .zip(entries.iter().skip(1))
            .all(|(a, b)| a.position < b.position && a.id.index < b.id.index && a.id.term <= b.id.term);
        Self::Memory(if ascends { entries } else { Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::{CrashDisk, replace_file};

    proptest! {
        #[test]
        fn finds_the_last_entry_at_or_before_an_index(
            lens in prop::collection::vec(1_u64..40_000, 1..200), order: bool, wanted in 0_u64..220, first in 0_u64..20,
        ) {
            let segment = LogPosition(1 << 20);
            let mut at = segment.0 + 4096;
            let mut frames = Vec::new();
            for (n, len) in lens.iter().enumerate() {
                frames.push((LogId::new(1, first + n as u64), LogPosition(at)));
                at += len * 8;
            }
            let mut model: Vec<(LogId, LogPosition)> = Vec::new();
            for frame in &frames {
                let stretch = |p: LogPosition| (p.0 - segment.0) / SPARSE_STEP;
                if model.last().is_none_or(|last| stretch(last.1) != stretch(frame.1)) {
                    model.push(*frame);
                }
            }
            let mut sparse = Sparse::default();
            let mut fed = frames.clone();
            if order { fed.reverse() }
            for (id, position) in fed {
                sparse.add(segment, id, position);
            }
            let expect = model.iter().rev().find(|(id, _)| id.index.0 <= wanted)
                .map(|(id, position)| SparseEntry { id: *id, position: *position });
            let disk = CrashDisk::new(0);
            let path = Path::new("/x.index");
            prop_assert_eq!(sparse.find(&disk, path, LogIndex(wanted)), expect);
            let bytes = sparse.encode().unwrap();
            replace_file(&disk, path, &[&bytes]).unwrap();
            prop_assert_eq!(Sparse::File.find(&disk, path, LogIndex(wanted)), expect);
            let back = Sparse::decode(&bytes, segment, LogPosition(u64::MAX));
            prop_assert_eq!(back.find(&disk, path, LogIndex(wanted)), expect);
            // By position: from each frame's own to the last byte before the next, the last one known.
            for (id, position) in &frames {
                let expect = model.iter().rev().find(|(known, _)| known.index <= id.index)
                    .map(|(id, position)| SparseEntry { id: *id, position: *position });
                for position in [*position, LogPosition(position.0 + 7)] {
                    prop_assert_eq!(sparse.find_position(&disk, path, position), expect);
                    prop_assert_eq!(Sparse::File.find_position(&disk, path, position), expect);
                }
            }
            prop_assert_eq!(sparse.find_position(&disk, path, segment), None);
        }
    }

    #[test]
    fn a_missing_file_finds_nothing() {
        assert_eq!(Sparse::File.find(&CrashDisk::new(0), Path::new("/none"), LogIndex(1)), None);
    }
}
