//! Which message of a queue is due when: 16 bytes for each. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Messages by the time at which they are due, ms since 1970, those of one time by their offset.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
}

/// A heap that is full grows by a quarter, so that a million messages have less than 20 bytes each.
const GROWTH: usize = 4;
/// The least by which it grows or shrinks.
const STEP: usize = 1024;

impl Schedule {
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn add(&mut self, due_ms: u64, offset: u64) {
        if self.heap.len() == self.heap.capacity() {
            self.heap.reserve_exact((self.heap.len() / GROWTH).max(STEP));
        }
        self.heap.push(Reverse((due_ms, offset)));
    }

    /// When the next one is due.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes what is due at `now_ms` out, the earliest first, at most `max`: offsets.
    pub(super) fn take(&mut self, now_ms: u64, max: usize) -> Vec<u64> {
        let mut due = Vec::new();
        while due.len() < max && self.next_ms().is_some_and(|next| next <= now_ms) {
            due.extend(self.heap.pop().map(|Reverse((_, offset))| offset));
        }
        if self.heap.capacity() - self.heap.len() > self.heap.len() + 2 * STEP {
            self.heap.shrink_to(self.heap.len() + STEP);
        }
        due
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.heap.capacity() * size_of::<Reverse<(u64, u64)>>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_earliest_first_and_none_early() {
        let mut schedule = Schedule::default();
        for (due, offset) in [(30, 0), (10, 1), (20, 2), (10, 3), (40, 4)] {
            schedule.add(due, offset);
        }
        assert!(schedule.take(9, 10).is_empty());
        assert_eq!(schedule.next_ms(), Some(10));
        assert_eq!(schedule.take(29, 2), [1, 3]);
        assert_eq!(schedule.take(30, 10), [2, 0]);
        assert_eq!((schedule.len(), schedule.next_ms()), (1, Some(40)));
    }

    #[test]
    fn a_million_takes_few_bytes_and_gives_them_back() {
        let mut schedule = Schedule::default();
        let count = 1_000_000;
        for n in 0..count {
            schedule.add(n ^ 0x5555, n);
        }
        assert!(schedule.bytes() <= count as usize * 20, "{}", schedule.bytes());
        while !schedule.take(u64::MAX, 1000).is_empty() {}
        assert!(schedule.bytes() <= 4 * STEP * 16, "{}", schedule.bytes());
    }

    proptest! {
        #[test]
        fn nothing_is_lost(items in proptest::collection::vec((0u64..100, 0u64..1000), 0..200), now in 0u64..100) {
            let mut schedule = Schedule::default();
            for (due, offset) in &items {
                schedule.add(*due, *offset);
            }
            let mut due: Vec<_> = items.iter().filter(|(due, _)| *due <= now).copied().collect();
            due.sort_unstable();
            let due: Vec<u64> = due.into_iter().map(|(_, offset)| offset).collect();
            prop_assert_eq!(schedule.take(now, usize::MAX), due.clone());
            prop_assert_eq!(schedule.len(), items.len() - due.len());
        }
    }
}
