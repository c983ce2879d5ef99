//! Which files cover which ranges of the log, for one kind of file; pure.
//!
//! ```text
//! start                                                      end = from of the oldest part in memory
//! │ file │ file │ gap, to be built again │ file │ file │ file │
//! ```
//! Spans are in the order of the log and share their bounds: nothing between start and end is forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::codec::{Kind, LogRange};
use super::key_file::KeyHeader;
use super::queue_file::QueueHeader;
use super::sizes::Sizes;

/// What the first page of a file says, so that it need not be read again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Header {
    Queue(QueueHeader),
    Keys(KeyHeader),
}

/// A file that is in place.
#[derive(Debug)]
pub(super) struct Run {
    /// Never used twice in a process, unlike the file's name.
    pub(super) id: u64,
    pub(super) header: Header,
}

impl Run {
    pub(super) const fn range(&self) -> LogRange {
        match &self.header {
            Header::Queue(header) => header.range,
            Header::Keys(header) => header.range,
        }
    }

    pub(super) const fn kind(&self) -> Kind {
        match &self.header {
            Header::Queue(_) => Kind::Queue,
            Header::Keys(_) => Kind::Keys,
        }
    }

    pub(super) const fn units(&self) -> u64 {
        match &self.header {
            Header::Queue(header) => header.units,
            Header::Keys(header) => header.units as u64,
        }
    }

    pub(super) const fn next_index(&self) -> u64 {
        match &self.header {
            Header::Queue(header) => header.next_index,
            Header::Keys(header) => header.next_index,
        }
    }

    /// The segment that it lies in.
    const fn segment(&self, segment_size: u64) -> u64 {
        self.range().from / segment_size
    }
}

#[derive(Clone, Debug)]
pub(super) enum Span {
    File(Arc<Run>),
    Gap(LogRange),
}

impl Span {
    pub(super) fn range(&self) -> LogRange {
        match self {
            Self::File(run) => run.range(),
            Self::Gap(range) => *range,
        }
    }
}

/// See the head of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf(Vec<Span>);

impl Shelf {
    pub(super) fn spans(&self) -> &[Span] {
        &self.0
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.0.iter().filter_map(|span| match span {
            Span::File(run) => Some(run),
            Span::Gap(_) => None,
        })
    }

    pub(super) fn gaps(&self) -> impl DoubleEndedIterator<Item = LogRange> {
        self.0.iter().filter_map(|span| match span {
            Span::File(_) => None,
            Span::Gap(range) => Some(*range),
        })
    }

    /// Adds a span at the end; the caller keeps the spans joined.
    pub(super) fn push(&mut self, span: Span) {
        debug_assert!(self.0.last().is_none_or(|last| last.range().to == span.range().from));
        self.0.push(span);
    }

    /// Adds a gap at the end, cut where segments start, so that each piece can be built by itself.
    pub(super) fn push_gap(&mut self, range: LogRange, segment_size: u64) {
        let mut from = range.from;
        while from < range.to {
            let to = range.to.min((from / segment_size + 1) * segment_size);
            self.push(Span::Gap(LogRange { from, to }));
            from = to;
        }
    }

    /// Puts a new file in the place of the gaps and files that its range covers, and gives back the files. Refused (no
    /// change) when the range is not all there or a file is only in part within it.
    pub(super) fn put(&mut self, run: &Arc<Run>) -> Option<Vec<Arc<Run>>> {
        let range = run.range();
        let mut spans = Vec::with_capacity(self.0.len() + 2);
        let mut replaced = Vec::new();
        let mut covered = 0;
        for span in &self.0 {
            let old = span.range();
            let common = LogRange { from: old.from.max(range.from), to: old.to.min(range.to) };
            if common.from >= common.to {
                spans.push(span.clone());
                continue;
            }
            match span {
                Span::File(old) if range.contains(old.range()) => replaced.push(Arc::clone(old)),
                Span::File(_) => return None,
                Span::Gap(_) => {}
            }
            if old.from < common.from {
                spans.push(Span::Gap(LogRange { from: old.from, to: common.from }));
            }
            if covered == 0 {
                spans.push(Span::File(Arc::clone(run)));
            }
            covered += common.to - common.from;
            if common.to < old.to {
                spans.push(Span::Gap(LogRange { from: common.to, to: old.to }));
            }
        }
        if covered != range.to - range.from {
            return None;
        }
        self.0 = spans;
        Some(replaced)
    }

    /// Puts a gap in the place of a file; false when the file is no longer there.
    pub(super) fn lose(&mut self, run: &Run) -> bool {
        for span in &mut self.0 {
            if matches!(span, Span::File(file) if file.id == run.id) {
                *span = Span::Gap(run.range());
                return true;
            }
        }
        false
    }

    /// Takes out what ends at or below `before`, and gives back the files; gaps end there too, as their log is gone.
    pub(super) fn purge(&mut self, before: u64) -> Vec<Arc<Run>> {
        let mut gone = Vec::new();
        self.0.retain_mut(|span| {
            let keep = span.range().to > before;
            match span {
                Span::File(run) if !keep => gone.push(Arc::clone(run)),
                Span::Gap(range) => range.from = range.from.max(before),
                Span::File(_) => {}
            }
            keep
        });
        gone
    }

    /// The newest gap that lies below `to`.
    pub(super) fn newest_gap(&self, to: u64) -> Option<LogRange> {
        self.gaps().rev().find(|gap| gap.to <= to)
    }

    /// Neighbours that are to become one file: all of a segment that is complete (it ends below segment
    /// `open_segment`), as far as the maximum of units allows; some of like size in one that still grows. Only files
    /// that end at or below `checkpoint`, because a restart drops those that reach beyond it.
    pub(super) fn mergeable(
        &self,
        checkpoint: u64,
        open_segment: u64,
        segment_size: u64,
        sizes: &Sizes,
    ) -> Option<Vec<Arc<Run>>> {
        // Merging a segment that is being built again would merge again with each of its pieces.
        let broken: BTreeSet<u64> = self.gaps().map(|gap| gap.from / segment_size).collect();
        // Nor is one complete that the checkpoint has not left behind.
        let open_segment = open_segment.min(checkpoint / segment_size);
        let neighbours = |a: &Span, b: &Span| match (a, b) {
            (Span::File(a), Span::File(b)) => a.segment(segment_size) == b.segment(segment_size),
            _ => false,
        };
        for group in self.0.chunk_by(neighbours) {
            let group: Vec<&Arc<Run>> = group
                .iter()
                .filter_map(|span| match span {
                    Span::File(run) if run.range().to <= checkpoint => Some(run),
                    _ => None,
                })
                .collect();
            let Some(segment) = group.first().map(|run| run.segment(segment_size)) else { continue };
            let window = if segment < open_segment && !broken.contains(&segment) {
                window(&group, 2, sizes)
            } else {
                // The smallest first: what is merged for the first time costs least.
                (0..=tier(u64::MAX)).find_map(|level| {
                    group
                        .chunk_by(|a, b| tier(a.units()) <= level && tier(b.units()) <= level)
                        .find_map(|like| window(like, sizes.merge_fan, sizes))
                })
            };
            if window.is_some() {
                return window;
            }
        }
        None
    }
}

/// The first longest stretch of at least `least` files that fits one merged file.
fn window(group: &[&Arc<Run>], least: usize, sizes: &Sizes) -> Option<Vec<Arc<Run>>> {
    let mut rest = group;
    while rest.len() >= least {
        let mut units = 0;
        let fitting = rest.iter().take_while(|run| {
            units += run.units();
            units <= sizes.merged_units
        });
        let count = fitting.count().min(MERGE_INPUTS_MAX);
        if count >= least {
            return Some(rest.iter().take(count).map(|run| Arc::clone(run)).collect());
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    None
}

/// Files that one merge reads at once, each through 64 KiB of memory and one descriptor.
const MERGE_INPUTS_MAX: usize = 64;

/// Files of one tier differ in size by less than 8.
const fn tier(units: u64) -> u32 {
    match units.checked_ilog2() {
        Some(log) => log / 3,
        None => 0,
    }
}
