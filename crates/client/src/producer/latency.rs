//! What a producer remembers of each broker's answers, and how long it stays away from a slow one
//! (client/latency/LatencyFaultToleranceImpl.java, MQFaultStrategy.java).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{LATENCY_OF_FAILURE_MS, LATENCY_STEPS};

/// How long a broker stays unavailable after a send that took `latency_ms`.
pub(crate) fn penalty_ms(latency_ms: u64) -> u64 {
    LATENCY_STEPS
        .iter()
        .rev()
        .find(|(at_least, _)| latency_ms >= *at_least)
        .map_or(0, |(_, penalty)| *penalty)
}

/// One broker's record. Times are milliseconds on the producer's own clock, which never goes back.
#[derive(Debug, Default)]
pub(crate) struct Health {
    last_latency_ms: AtomicU64,
    available_at_ms: AtomicU64,
}

/// A record as it was at one moment, to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Glance {
    available: bool,
    last_latency_ms: u64,
    available_at_ms: u64,
}

impl Health {
    /// A send was answered, whatever the answer said about the message.
    pub(crate) fn answered(&self, now_ms: u64, latency_ms: u64) {
        self.note(now_ms, latency_ms, penalty_ms(latency_ms));
    }

    /// A send failed: the broker is left alone however quickly it did.
    pub(crate) fn failed(&self, now_ms: u64, latency_ms: u64) {
        self.note(now_ms, latency_ms, penalty_ms(LATENCY_OF_FAILURE_MS));
    }

    fn note(&self, now_ms: u64, latency_ms: u64, penalty_ms: u64) {
        self.last_latency_ms.store(latency_ms, Relaxed);
        // A penalty only ever extends the one that runs: of many answers to one slow second, the
        // quick ones do not bring the broker back.
        if penalty_ms > 0 {
            self.available_at_ms.fetch_max(now_ms + penalty_ms, Relaxed);
        }
    }

    pub(crate) fn is_available(&self, now_ms: u64) -> bool {
        now_ms >= self.available_at_ms.load(Relaxed)
    }

    pub(crate) fn glance(&self, now_ms: u64) -> Glance {
        let available_at_ms = self.available_at_ms.load(Relaxed);
        Glance {
            available: now_ms >= available_at_ms,
            last_latency_ms: self.last_latency_ms.load(Relaxed),
            available_at_ms,
        }
    }
}

/// The better record first: available now, then the lower last latency, then the earlier return.
impl Ord for Glance {
    fn cmp(&self, other: &Glance) -> Ordering {
        let key = |glance: &Glance| (!glance.available, glance.last_latency_ms, glance.available_at_ms);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Glance {
    fn partial_cmp(&self, other: &Glance) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The records of one producer, by broker name. They outlive routes: a broker that comes back under
/// the same name keeps its record. As many as there are brokers in routes, never pruned.
#[derive(Debug, Default)]
pub(crate) struct HealthTable {
    by_broker: Mutex<HashMap<Arc<str>, Arc<Health>>>,
}

impl HealthTable {
    pub(crate) fn of(&self, broker: &Arc<str>) -> Arc<Health> {
        let mut table = self.by_broker.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(table.entry(Arc::clone(broker)).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Java: `{50, 100, 550, 1800, 3000, 5000, 15000}` → `{0, 0, 2000, 5000, 6000, 10000, 30000}`.
    #[test]
    fn latency_to_penalty_as_in_java() {
        let expect = [
            (0, 0),
            (49, 0),
            (50, 0),
            (100, 0),
            (549, 0),
            (550, 2000),
            (1799, 2000),
            (1800, 5000),
            (2999, 5000),
            (3000, 6000),
            (4999, 6000),
            (5000, 10_000),
            (14_999, 10_000),
            (15_000, 30_000),
            (u64::MAX, 30_000),
        ];
        for (latency, penalty) in expect {
            assert_eq!(penalty_ms(latency), penalty, "latency {latency}");
        }
    }

    #[test]
    fn a_slow_broker_goes_and_comes_back() {
        let health = Health::default();
        assert!(health.is_available(0));
        health.answered(1000, 600);
        assert!(!health.is_available(1000));
        assert!(!health.is_available(2999));
        assert!(health.is_available(3000));
        // A quick failure isolates like a send of 10 s.
        health.failed(3000, 1);
        assert!(!health.is_available(12_999));
        assert!(health.is_available(13_000));
    }

    #[test]
    fn quick_answers_do_not_shorten_a_penalty() {
        let health = Health::default();
        health.answered(0, 2000);
        health.answered(100, 3);
        health.answered(200, 600);
        assert!(!health.is_available(4999));
        assert!(health.is_available(5000));
    }

    #[test]
    fn order_is_available_then_latency_then_return() {
        let glance = |available, last_latency_ms, available_at_ms| Glance {
            available,
            last_latency_ms,
            available_at_ms,
        };
        let mut records = vec![
            glance(false, 1, 9),
            glance(true, 7, 0),
            glance(false, 1, 8),
            glance(true, 2, 5),
            glance(true, 2, 0),
        ];
        records.sort();
        assert_eq!(
            records,
            [
                glance(true, 2, 0),
                glance(true, 2, 5),
                glance(true, 7, 0),
                glance(false, 1, 8),
                glance(false, 1, 9)
            ]
        );
    }

    #[test]
    fn a_name_keeps_its_record() {
        let table = HealthTable::default();
        let name: Arc<str> = "a".into();
        table.of(&name).failed(0, 0);
        assert!(!table.of(&Arc::from("a")).is_available(1));
        assert!(table.of(&Arc::from("b")).is_available(1));
    }
}
