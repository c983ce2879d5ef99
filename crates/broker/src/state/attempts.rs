//! How often, and when last, it was tried to learn what is to become of a message that is pending: of half messages,
//! the checks of their transactions. A message that is done has no attempts, and neither has one below its queue's
//! minimum: whoever raises a minimum (retention will) ends those below it in the same entry, on every replica alike. A
//! snapshot that has others is refused.

use std::collections::BTreeMap;

use super::{TopicId, limits};

type Queue = (TopicId, u32);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tried {
    count: u32,
    last_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    queues: BTreeMap<Queue, BTreeMap<u64, Tried>>,
    /// Derived.
    count: usize,
}

/// Attempts of one queue's messages, as columns of equal length.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AttemptsRecord {
    #[prost(uint32, tag = "1")]
    topic: u32,
    #[prost(uint32, tag = "2")]
    queue: u32,
    #[prost(uint64, repeated, tag = "3")]
    offsets: Vec<u64>,
    #[prost(uint32, repeated, tag = "4")]
    counts: Vec<u32>,
    #[prost(uint64, repeated, tag = "5")]
    last_ms: Vec<u64>,
}

impl Attempts {
    /// How many, and the log time of the last, ms; zeros when there was none.
    pub(super) fn of(&self, queue: Queue, offset: u64) -> (u32, u64) {
        let tried = self.queues.get(&queue).and_then(|offsets| offsets.get(&offset));
        tried.map_or((0, 0), |tried| (tried.count, tried.last_ms))
    }

    /// Counts one more; false when so many are counted already that there is no room for another message.
    pub(super) fn add(&mut self, queue: Queue, offset: u64, now_ms: u64) -> bool {
        let is_full = self.count >= limits::ATTEMPTS_MAX;
        if is_full && self.of(queue, offset).0 == 0 {
            return false;
        }
        let tried = self.queues.entry(queue).or_default().entry(offset).or_default();
        self.count += usize::from(tried.count == 0);
        *tried = Tried { count: tried.count.saturating_add(1), last_ms: now_ms };
        true
    }

    /// The message is done.
    pub(super) fn end(&mut self, queue: Queue, offset: u64) {
        // Most sources have none.
        let Some(offsets) = self.queues.get_mut(&queue) else { return };
        if offsets.remove(&offset).is_some() {
            self.count -= 1;
        }
        if offsets.is_empty() {
            self.queues.remove(&queue);
        }
    }

    pub(super) fn end_topic(&mut self, topic: TopicId) {
        let queues: Vec<Queue> =
            self.queues.range((topic, 0)..=(topic, u32::MAX)).map(|(queue, _)| *queue).collect();
        for queue in queues {
            self.count -= self.queues.remove(&queue).map_or(0, |offsets| offsets.len());
        }
    }

    pub(super) fn encode(&self) -> Vec<AttemptsRecord> {
        let records = self.queues.iter().map(|((topic, queue), offsets)| AttemptsRecord {
            topic: topic.0,
            queue: *queue,
            offsets: offsets.keys().copied().collect(),
            counts: offsets.values().map(|tried| tried.count).collect(),
            last_ms: offsets.values().map(|tried| tried.last_ms).collect(),
        });
        records.collect()
    }

    /// `is_pending` knows the queues and what of them is done.
    pub(super) fn decode(
        records: Vec<AttemptsRecord>,
        is_pending: impl Fn(TopicId, u32, u64) -> bool,
    ) -> Result<Attempts, String> {
        let mut attempts = Attempts::default();
        for AttemptsRecord { topic, queue, offsets, counts, last_ms } in records {
            let impossible = || format!("attempts of queue {queue} of topic {topic} cannot be");
            if counts.len() != offsets.len() || last_ms.len() != offsets.len() || offsets.is_empty() {
                return Err(impossible());
            }
            let mut tried = BTreeMap::new();
            for ((offset, count), last_ms) in offsets.into_iter().zip(counts).zip(last_ms) {
                let is_new = tried.insert(offset, Tried { count, last_ms }).is_none();
                if !is_new || count == 0 || !is_pending(TopicId(topic), queue, offset) {
                    return Err(impossible());
                }
            }
            attempts.count += tried.len();
            if attempts.queues.insert((TopicId(topic), queue), tried).is_some() {
                return Err(impossible());
            }
        }
        Ok(attempts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: Queue = (TopicId(3), 1);

    #[test]
    fn counted_until_it_is_done() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.of(Q, 5), (0, 0));
        assert!(attempts.add(Q, 5, 100) && attempts.add(Q, 5, 200) && attempts.add(Q, 6, 200));
        assert_eq!((attempts.of(Q, 5), attempts.of(Q, 6), attempts.count), ((2, 200), (1, 200), 2));
        attempts.end(Q, 7);
        attempts.end(Q, 5);
        assert_eq!((attempts.of(Q, 5), attempts.count), ((0, 0), 1));
        attempts.add((TopicId(4), 0), 1, 300);
        attempts.end_topic(TopicId(3));
        assert_eq!((attempts.of(Q, 6), attempts.count), ((0, 0), 1));
        attempts.end((TopicId(4), 0), 1);
        assert!(attempts.queues.is_empty() && attempts.count == 0);
    }

    #[test]
    fn bounded() {
        let mut attempts = Attempts::default();
        attempts.add(Q, 1, 1);
        attempts.count = limits::ATTEMPTS_MAX;
        assert!(!attempts.add(Q, 2, 2), "no room for another one");
        assert!(attempts.add(Q, 1, 2), "known ones go on");
    }

    #[test]
    fn encoded() {
        let mut attempts = Attempts::default();
        for (offset, now_ms) in [(9, 1), (5, 2), (9, 3)] {
            attempts.add(Q, offset, now_ms);
        }
        let records = attempts.encode();
        let decoded = Attempts::decode(records.clone(), |topic, queue, _| (topic, queue) == Q).unwrap();
        assert_eq!((decoded.of(Q, 9), decoded.count), ((2, 3), 2));
        assert_eq!(decoded.encode(), records);
        let refused = |change: fn(&mut AttemptsRecord)| {
            let mut records = records.clone();
            change(&mut records[0]);
            Attempts::decode(records, |_, _, offset| offset < 10).is_err()
        };
        assert!(!refused(|_| {}));
        assert!(refused(|record| record.offsets[0] = 10), "done or not stored");
        assert!(refused(|record| record.offsets[0] = 9), "twice");
        assert!(refused(|record| record.counts[0] = 0));
        assert!(refused(|record| record.counts.truncate(1)));
        assert!(refused(|record| record.last_ms.truncate(1)));
        assert!(Attempts::decode([records.clone(), records].concat(), |_, _, _| true).is_err());
    }
}
