//! The messages of one queue that were fetched and are not consumed yet, and the offset that may be
//! committed while they are (client/impl/consumer/ProcessQueue.java).
//!
//! ```text
//! committed ──▶ 17 [18] 19 [20] 21 .. .. ◀── end   18 and 20 are done: 17 may be committed, and the
//!                                                  end once 17, 19 and 21 are done; what stands
//!                                                  before it and was never put is not wanted
//! ```

use std::collections::BTreeMap;

use wire::QueueOffset;

/// Limits above which nothing more is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    pub messages_max: usize,
    pub bytes_max: usize,
    /// Between the lowest and the highest offset; not for orderly consumption.
    pub span_max: Option<u64>,
}

/// The window over one queue. `T` is what is kept of a message.
#[derive(Debug)]
pub(crate) struct ProcessQueue<T> {
    pending: BTreeMap<QueueOffset, (usize, T)>,
    bytes: usize,
    /// One above the highest offset ever put or passed over; what may be committed when nothing is
    /// pending.
    end: QueueOffset,
}

impl<T> ProcessQueue<T> {
    pub(crate) fn new() -> ProcessQueue<T> {
        ProcessQueue { pending: BTreeMap::new(), bytes: 0, end: QueueOffset(0) }
    }

    /// Adds a fetched message of `bytes`; one with the same offset is replaced, as a broker may send
    /// a message again.
    pub(crate) fn put(&mut self, offset: QueueOffset, bytes: usize, message: T) {
        if let Some((old_bytes, _)) = self.pending.insert(offset, (bytes, message)) {
            self.bytes -= old_bytes;
        }
        self.bytes += bytes;
        self.end = self.end.max(offset.plus(1));
    }

    /// Everything below `next` was fetched or is not wanted. What may be committed, when nothing is
    /// pending.
    pub(crate) fn reach(&mut self, next: QueueOffset) -> Option<QueueOffset> {
        self.end = self.end.max(next);
        self.pending.is_empty().then_some(self.end)
    }

    /// Takes consumed messages out. What may be committed now: the lowest pending offset, or one
    /// above the highest; `None` when nothing was pending before, as then nothing new is known.
    pub(crate) fn done(&mut self, offsets: impl IntoIterator<Item = QueueOffset>) -> Option<QueueOffset> {
        if self.pending.is_empty() {
            return None;
        }
        for offset in offsets {
            if let Some((bytes, _)) = self.pending.remove(&offset) {
                self.bytes -= bytes;
            }
        }
        Some(self.lowest().unwrap_or(self.end))
    }

    pub(crate) fn contains(&self, offset: QueueOffset) -> bool {
        self.pending.contains_key(&offset)
    }

    pub(crate) fn lowest(&self) -> Option<QueueOffset> {
        self.pending.first_key_value().map(|(offset, _)| *offset)
    }

    pub(crate) fn highest(&self) -> Option<QueueOffset> {
        self.pending.last_key_value().map(|(offset, _)| *offset)
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Up to `count` messages from the lowest offset, left in place.
    pub(crate) fn peek(&self, count: usize) -> impl Iterator<Item = (QueueOffset, &T)> {
        self.pending.iter().take(count).map(|(offset, (_, message))| (*offset, message))
    }

    /// May more be fetched? Java compares with "greater than", so one pull beyond each limit is
    /// normal.
    pub(crate) fn has_room(&self, limits: &FlowLimits) -> bool {
        let span = match (self.lowest(), self.highest()) {
            (Some(low), Some(high)) => high.get() - low.get(),
            _ => 0,
        };
        self.len() <= limits.messages_max
            && self.bytes <= limits.bytes_max
            && limits.span_max.is_none_or(|max| span <= max)
    }

    pub(crate) fn clear(&mut self) {
        self.pending.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LIMITS: FlowLimits = FlowLimits { messages_max: 3, bytes_max: 100, span_max: Some(10) };

    fn at(offset: u64) -> QueueOffset {
        QueueOffset(offset)
    }

    #[test]
    fn commits_never_pass_a_pending_message() {
        let mut queue = ProcessQueue::new();
        for offset in 17..=21 {
            queue.put(at(offset), 1, ());
        }
        assert_eq!(queue.done([at(18), at(20)]), Some(at(17)));
        assert_eq!(queue.done([at(17)]), Some(at(19)));
        assert_eq!(queue.done([at(21), at(19)]), Some(at(22)));
        assert_eq!(queue.done([at(21)]), None);
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
    }

    #[test]
    fn what_is_not_wanted_counts_as_consumed() {
        let mut queue = ProcessQueue::new();
        assert_eq!(queue.reach(at(5)), Some(at(5)));
        queue.put(at(7), 1, ());
        assert_eq!(queue.reach(at(20)), None);
        assert_eq!(queue.done([at(7)]), Some(at(20)));
        assert_eq!(queue.reach(at(9)), Some(at(20)), "never back");
    }

    #[test]
    fn each_limit_stops_fetching() {
        let mut queue = ProcessQueue::new();
        assert!(queue.has_room(&LIMITS));
        for offset in 0..3 {
            queue.put(at(offset), 10, ());
        }
        assert!(queue.has_room(&LIMITS));
        queue.put(at(3), 10, ());
        assert!(!queue.has_room(&LIMITS), "messages");
        queue.done([at(1), at(2), at(3)]);
        assert!(queue.has_room(&LIMITS));
        queue.put(at(4), 91, ());
        assert!(!queue.has_room(&LIMITS), "bytes");
        queue.done([at(4)]);
        queue.put(at(11), 1, ());
        assert!(!queue.has_room(&LIMITS), "span");
        assert!(queue.has_room(&FlowLimits { span_max: None, ..LIMITS }));
        queue.clear();
        assert!(queue.has_room(&LIMITS));
    }

    proptest! {
        /// The committed offset never skips a pending message, never falls, and reaches the end.
        #[test]
        fn agrees_with_a_model(
            gaps in prop::collection::vec((1u64..4, 0usize..50), 1..60),
            order in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
        ) {
            let mut queue = ProcessQueue::new();
            let mut pending = BTreeSet::new();
            let mut offset = 0;
            let mut bytes = 0;
            for (gap, size) in &gaps {
                offset += gap;
                queue.put(at(offset), *size, offset);
                pending.insert(offset);
                bytes += size;
            }
            prop_assert_eq!(queue.bytes(), bytes);
            let mut committed = 0;
            for pick in order {
                if pending.is_empty() { break }
                let one = *pick.get(&pending.iter().copied().collect::<Vec<_>>());
                pending.remove(&one);
                let now = queue.done([at(one)]).expect("something was pending").get();
                prop_assert_eq!(now, pending.first().copied().unwrap_or(offset + 1));
                prop_assert!(now >= committed);
                committed = now;
                prop_assert_eq!(queue.len(), pending.len());
                prop_assert_eq!(queue.peek(1).next().map(|(_, offset)| *offset), pending.first().copied());
            }
            let rest: Vec<_> = pending.iter().copied().map(at).collect();
            if !rest.is_empty() {
                prop_assert_eq!(queue.done(rest), Some(at(offset + 1)));
            }
            prop_assert_eq!(queue.bytes(), 0);
        }
    }
}
