//! What the lock `state` guards: memory only, and the same picture for all who look at once.

use std::sync::Arc;

use super::codec::{Kind, LogRange};
use super::part::Part;
use super::records::Record;
use super::shelf::{Run, Shelf, Span};
use super::sizes::Sizes;
use crate::frame::Frame;

pub(super) struct State {
    pub(super) queue_shelf: Arc<Shelf>,
    pub(super) key_shelf: Arc<Shelf>,
    /// Full parts, oldest first; the first starts where the shelves end.
    pub(super) parts: Vec<Arc<Part>>,
    /// The part that grows; it starts where the last of `parts` ends.
    pub(super) open: Part,
    /// Index of the next entry; 0: not known.
    pub(super) next_index: u64,
    /// Runs whose files are to be removed.
    pub(super) garbage: Vec<Arc<Run>>,
    pub(super) lost_files: u64,
}

impl State {
    /// The index covers the log up to here.
    pub(super) const fn built(&self) -> u64 {
        self.open.range().to
    }

    /// Where the part of the index that is in memory starts.
    pub(super) fn memory_from(&self) -> u64 {
        self.parts.first().map_or(self.open.range().from, |part| part.range().from)
    }

    /// Where the index starts: nothing below is to be had.
    pub(super) fn start(&self) -> u64 {
        let shelves = [&self.queue_shelf, &self.key_shelf].into_iter();
        let starts = shelves.filter_map(|shelf| shelf.spans().first()).map(|span| span.range().from);
        starts.fold(self.memory_from(), u64::min)
    }

    pub(super) const fn shelf(&self, kind: Kind) -> &Arc<Shelf> {
        match kind {
            Kind::Queue => &self.queue_shelf,
            Kind::Keys => &self.key_shelf,
        }
    }

    pub(super) fn shelf_mut(&mut self, kind: Kind) -> &mut Shelf {
        Arc::make_mut(match kind {
            Kind::Queue => &mut self.queue_shelf,
            Kind::Keys => &mut self.key_shelf,
        })
    }

    /// Goes on to the end of a frame.
    pub(super) fn pass(&mut self, frame: &Frame, records: &[Record<'_>], sizes: &Sizes, segment_size: u64) {
        let (position, end) = (frame.position().0, frame.end().0);
        if end <= self.built() {
            return;
        }
        let (index, expected, built) = (frame.id().index.0, self.next_index, self.built());
        if position < built {
            tracing::error!(index, position, built, "not indexed: an entry begins below what is built");
            return;
        }
        if expected != 0 && index != expected {
            tracing::error!(
                index,
                expected,
                position,
                built,
                "an entry was left out: built again from the log"
            );
            self.give_up_memory(position, segment_size);
        }
        if !self.open.is_in_segment(position, segment_size) {
            let segment_start = position - position % segment_size;
            self.open.extend_to(segment_start);
            self.seal(sizes, segment_size);
        }
        self.open.add(frame, records);
        self.next_index = index + 1;
        if self.open.is_full(sizes) {
            self.seal(sizes, segment_size);
        }
    }

    /// Puts the open part among those that wait to be spilled.
    pub(super) fn seal(&mut self, sizes: &Sizes, segment_size: u64) {
        if self.open.is_empty() {
            return;
        }
        let next = Part::new(self.open.range().to);
        self.parts.push(Arc::new(std::mem::replace(&mut self.open, next)));
        while self.parts.len() > sizes.parts_waiting {
            let range = self.parts.remove(0).range();
            tracing::warn!(%range, "the index is not written fast enough; a part is given up and built again later");
            self.push_gap(range, segment_size);
        }
    }

    /// Forgets what is in memory and goes on at `to`.
    fn give_up_memory(&mut self, to: u64, segment_size: u64) {
        let from = self.memory_from();
        self.parts.clear();
        self.push_gap(LogRange { from, to }, segment_size);
        self.open = Part::new(to);
    }

    /// Forgets what lies wholly below a position; beyond what is built the index starts anew at it.
    pub(super) fn forget(&mut self, before: u64) {
        for kind in Kind::ALL {
            let gone = self.shelf_mut(kind).purge(before);
            self.garbage.extend(gone);
        }
        self.parts.retain(|part| part.range().to > before);
        if self.built() < before {
            self.next_index = 0;
        }
        if self.built() <= before {
            self.open = Part::new(before);
        }
    }

    pub(super) fn push_gap(&mut self, range: LogRange, segment_size: u64) {
        for kind in Kind::ALL {
            self.shelf_mut(kind).push_gap(range, segment_size);
        }
    }

    /// Puts runs that were written from a part in its place; what they replace becomes garbage, and so do runs that
    /// have no place any more.
    pub(super) fn install(&mut self, part: &Arc<Part>, runs: Vec<Arc<Run>>) {
        if self.parts.first().is_some_and(|first| Arc::ptr_eq(first, part)) {
            self.parts.remove(0);
            for kind in Kind::ALL {
                self.shelf_mut(kind).push(Span::Gap(part.range()));
            }
        }
        for run in runs {
            self.replace(&run);
        }
    }

    /// Puts a run in the place of what its range covers.
    pub(super) fn replace(&mut self, run: &Arc<Run>) {
        match self.shelf_mut(run.kind()).put(run) {
            Some(replaced) => self.garbage.extend(replaced),
            None => self.garbage.push(Arc::clone(run)),
        }
    }
}
