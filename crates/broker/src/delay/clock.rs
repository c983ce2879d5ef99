//! What time it is for messages that wait: that of the log, so that one node's wrong clock delivers nothing early.
//!
//! Log time is told with each entry (crates/replica/src/log_clock.rs) and stands between two of them; here it goes on as the
//! wall clock does, but runs ahead of the monotonic clock by a second at most, as log time itself, and never falls.

use std::time::Instant;

/// How far the wall clock may be ahead of what the log said last and the time that has passed since.
const LEAD_MS: u64 = 1000;

#[derive(Debug)]
pub(super) struct Clock {
    log_ms: u64,
    at: Instant,
}

impl Clock {
    pub(super) fn new(log_ms: u64, at: Instant) -> Clock {
        Clock { log_ms, at }
    }

    /// The time, ms since 1970, when the log's newest entry says `log_ms` and this node's clock `wall_ms`.
    pub(super) fn now_ms(&mut self, log_ms: u64, wall_ms: u64, now: Instant) -> u64 {
        if log_ms > self.log_ms {
            *self = Clock { log_ms, at: now };
        }
        let paced_ms = self.log_ms + now.saturating_duration_since(self.at).as_millis() as u64;
        wall_ms.min(paced_ms + LEAD_MS).max(self.log_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_wrong_clock_hastens_nothing() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = Clock::new(100_000, start);
        assert_eq!(clock.now_ms(100_000, 100_500, at(500)), 100_500);
        assert_eq!(clock.now_ms(100_000, 9_000_000, at(600)), 101_600, "far ahead");
        assert_eq!(clock.now_ms(100_000, 50_000, at(700)), 100_000, "set back: as log time, it stands");
        // An entry says that a majority's clocks are there.
        assert_eq!(clock.now_ms(9_000_000, 9_000_001, at(700)), 9_000_001);
        assert_eq!(clock.now_ms(8_000_000, 9_000_401, at(1100)), 9_000_401);
    }
}
