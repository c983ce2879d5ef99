//! Which queue takes the next message.
//!
//! ```text
//! 1  in turn over all queues, passing over brokers that are unavailable or just failed this message
//! 2  none left: brokers sorted by (available now, last latency, earliest return);
//!    one of the better half in turn, its queues in turn
//! 3  fault tolerance off: in turn, passing over the broker that just failed this message
//! ```
//! Step 1 and 3 are MQFaultStrategy.selectOneMessageQueue; step 2 is `pickOneAtLeast` of the 4.x
//! client, which 5.x replaced by a random reachable broker. Here it looks only at brokers that have
//! the topic, and not at the one that just failed the message while there is another.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::latency::Health;

/// The writable queues of one topic, and whose turn it is.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// Broker (place in `brokers`) of each queue. Queues of one broker are neighbours.
    queues: Vec<usize>,
    brokers: Vec<(Arc<Health>, Range<usize>)>,
    turn: AtomicUsize,
    turn_when_all_are_bad: AtomicUsize,
}

impl Wheel {
    /// `brokers`: each broker's record and number of queues, in the order of the topic's queues.
    /// `start` spreads the first choices of many producers.
    pub(crate) fn new(brokers: impl IntoIterator<Item = (Arc<Health>, usize)>, start: usize) -> Wheel {
        let mut queues = Vec::new();
        let mut ranges = Vec::new();
        for (health, count) in brokers {
            let first = queues.len();
            queues.extend(std::iter::repeat_n(ranges.len(), count));
            ranges.push((health, first..queues.len()));
        }
        Wheel {
            queues,
            brokers: ranges,
            turn: AtomicUsize::new(start),
            turn_when_all_are_bad: AtomicUsize::new(0),
        }
    }

    /// Whose turn it is now, to go on from in the wheel that follows this one.
    pub(crate) fn turn(&self) -> usize {
        self.turn.load(Relaxed)
    }

    /// Place of the chosen queue; `None` when there is no queue. `avoid` is the broker (its place)
    /// that just failed the message.
    pub(crate) fn choose(&self, now_ms: u64, avoid: Option<usize>, fault_tolerance: bool) -> Option<usize> {
        for _ in 0..self.queues.len() {
            let (place, broker) = self.next()?;
            if Some(broker) == avoid {
                continue;
            }
            if !fault_tolerance || self.brokers[broker].0.is_available(now_ms) {
                return Some(place);
            }
        }
        if fault_tolerance && let Some(place) = self.best(now_ms, avoid) {
            return Some(place);
        }
        self.next().map(|(place, _)| place)
    }

    /// Broker (its place) of a queue.
    pub(crate) fn broker_of(&self, place: usize) -> Option<usize> {
        self.queues.get(place).copied()
    }

    /// Broker (its place) and number there of a queue.
    pub(crate) fn locate(&self, place: usize) -> Option<(usize, usize)> {
        let broker = self.broker_of(place)?;
        Some((broker, place - self.brokers[broker].1.start))
    }

    /// Whether a message that failed on `broker` (its place) could go elsewhere.
    pub(crate) fn has_other_than(&self, broker: usize) -> bool {
        self.brokers.iter().enumerate().any(|(place, (_, queues))| place != broker && !queues.is_empty())
    }

    fn next(&self) -> Option<(usize, usize)> {
        if self.queues.is_empty() {
            return None;
        }
        let place = self.turn.fetch_add(1, Relaxed) % self.queues.len();
        Some((place, self.queues[place]))
    }

    fn best(&self, now_ms: u64, avoid: Option<usize>) -> Option<usize> {
        let has_queue = |place: &usize| !self.brokers[*place].1.is_empty();
        let mut candidates: Vec<usize> =
            (0..self.brokers.len()).filter(has_queue).filter(|place| Some(*place) != avoid).collect();
        if candidates.is_empty() {
            candidates.extend((0..self.brokers.len()).filter(has_queue));
        }
        candidates.sort_by_key(|place| self.brokers[*place].0.glance(now_ms));
        let turn = self.turn_when_all_are_bad.fetch_add(1, Relaxed);
        let better_half = (candidates.len() / 2).max(1);
        let broker = *candidates.get(turn % better_half)?;
        let queues = &self.brokers[broker].1;
        Some(queues.start + (turn / better_half) % queues.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A wheel of brokers with `counts` queues each, and their records.
    fn wheel(counts: &[usize]) -> (Wheel, Vec<Arc<Health>>) {
        let records: Vec<_> = counts.iter().map(|_| Arc::new(Health::default())).collect();
        (Wheel::new(records.iter().cloned().zip(counts.iter().copied()), 0), records)
    }

    fn brokers_chosen(wheel: &Wheel, now_ms: u64, avoid: Option<usize>, times: usize) -> Vec<usize> {
        (0..times)
            .map(|_| wheel.broker_of(wheel.choose(now_ms, avoid, true).expect("a queue")).expect("a broker"))
            .collect()
    }

    #[test]
    fn queues_take_turns() {
        let (wheel, _) = wheel(&[2, 3]);
        let places: Vec<_> = (0..10).map(|_| wheel.choose(0, None, true)).collect();
        assert_eq!(places, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4].map(Some));
        let (empty, _) = self::wheel(&[]);
        assert_eq!(empty.choose(0, None, true), None);
        assert_eq!(empty.choose(0, None, false), None);
    }

    #[test]
    fn a_slow_broker_is_avoided_and_comes_back() {
        let (wheel, records) = wheel(&[2, 2, 2]);
        records[1].answered(0, 700);
        assert_eq!(brokers_chosen(&wheel, 1999, None, 8), [0, 0, 2, 2, 0, 0, 2, 2]);
        let after = brokers_chosen(&wheel, 2000, None, 6);
        assert!(after.contains(&1), "{after:?}");
    }

    #[test]
    fn a_retry_goes_to_another_broker() {
        let (wheel, records) = wheel(&[4, 4]);
        records[0].failed(0, 2);
        assert_eq!(brokers_chosen(&wheel, 1, Some(0), 5), [1; 5]);
        // Without fault tolerance as well.
        let (plain, _) = self::wheel(&[4, 4]);
        for _ in 0..8 {
            assert_eq!(plain.broker_of(plain.choose(0, Some(0), false).expect("a queue")), Some(1));
        }
    }

    #[test]
    fn one_broker_is_used_however_bad() {
        let (wheel, records) = wheel(&[3]);
        records[0].failed(0, 5);
        assert_eq!(
            (0..4).map(|_| wheel.choose(1, Some(0), true)).collect::<Vec<_>>(),
            [0, 1, 2, 0].map(Some)
        );
        assert!(wheel.choose(1, Some(0), false).is_some());
    }

    #[test]
    fn when_all_are_bad_the_better_half_takes_turns() {
        let (wheel, records) = wheel(&[1, 2, 1, 2]);
        for (record, latency) in records.iter().zip([900, 600, 800, 700]) {
            record.answered(0, latency);
        }
        assert_eq!(brokers_chosen(&wheel, 1, None, 4), [1, 3, 1, 3]);
        // Of the better half's queues, all are used.
        let mut places: Vec<_> = (0..8).filter_map(|_| wheel.choose(1, None, true)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places, [1, 2, 4, 5]);
        // The best but for the one that just failed the message.
        assert_eq!(brokers_chosen(&wheel, 1, Some(1), 3), [3; 3]);
    }

    #[test]
    fn without_fault_tolerance_records_do_not_count() {
        let (wheel, records) = wheel(&[1, 1]);
        records[0].failed(0, 9);
        let places: Vec<_> = (0..4).map(|_| wheel.choose(1, None, false)).collect();
        assert_eq!(places, [0, 1, 0, 1].map(Some));
    }

    proptest! {
        /// A queue is chosen whenever there is one; an unavailable or failed broker's only when no
        /// other broker is available; and over a long time available brokers get equal shares.
        #[test]
        fn choice_keeps_its_promises(
            counts in prop::collection::vec(0usize..5, 0..6),
            bad in prop::collection::vec(any::<bool>(), 6),
            avoid in prop::option::of(0usize..6),
            start in any::<usize>(),
        ) {
            let records: Vec<_> = counts.iter().map(|_| Arc::new(Health::default())).collect();
            for (record, bad) in records.iter().zip(&bad) {
                if *bad { record.failed(0, 1) }
            }
            let wheel = Wheel::new(records.iter().cloned().zip(counts.iter().copied()), start);
            let total: usize = counts.iter().sum();
            let good = |broker: usize| counts[broker] > 0 && !bad[broker] && Some(broker) != avoid;
            let some_good = (0..counts.len()).any(good);
            let others = (0..counts.len()).any(|broker| counts[broker] > 0 && Some(broker) != avoid);
            let mut seen = vec![0usize; total];
            for _ in 0..total * 4 {
                let place = wheel.choose(5, avoid, true);
                prop_assert_eq!(place.is_some(), total > 0);
                let Some(place) = place else { continue };
                let broker = wheel.broker_of(place).expect("a broker");
                prop_assert!(good(broker) || !some_good);
                prop_assert!(Some(broker) != avoid || !others);
                seen[place] += 1;
            }
            if some_good && avoid.is_none() && bad.iter().take(counts.len()).all(|bad| !bad) {
                prop_assert!(seen.iter().all(|count| *count == 4) || start.checked_add(total * 4).is_none());
            }
        }
    }
}
