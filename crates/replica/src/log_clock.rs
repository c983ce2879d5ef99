//! Log time: the clock by which the log counts (log.md 15). Store timestamps, retention and leases follow it, so one node
//! whose wall clock is wrong must not carry the group into the future: log time never falls, and it jumps ahead of the
//! monotonic clock only to where the clocks of a majority are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use store::Mutant;

use crate::NodeId;
use crate::limits::{CLOCK_LEAD, CLOCK_WORD_VALID, CLOCKS_APART};

/// A node's wall clock. A clone is the same clock.
#[derive(Debug, Clone, Default)]
pub struct WallClock {
    ahead_ms: Arc<AtomicI64>,
}

impl WallClock {
    /// Milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> u64 {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        system.saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// Makes it wrong: so far ahead of the system's clock, or behind. For tests.
    pub fn set_ahead_ms(&self, ahead_ms: i64) {
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }
}

/// Two clocks are equal that show the same time.
impl PartialEq for WallClock {
    fn eq(&self, other: &WallClock) -> bool {
        self.ahead_ms.load(Ordering::Relaxed) == other.ahead_ms.load(Ordering::Relaxed)
    }
}

impl Eq for WallClock {}

/// What the other voters' clocks said when they last answered this node.
#[derive(Default)]
pub(crate) struct VoterClocks(Mutex<BTreeMap<NodeId, (u64, Instant)>>);

impl VoterClocks {
    /// `wall_ms` is 0 where a node does not say.
    pub(crate) fn note(&self, node: NodeId, wall_ms: u64, now: Instant) {
        if wall_ms > 0 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node, (wall_ms, now));
        }
    }

    /// Whether a majority of `voters` voters, of which this node is one, has a clock that says about `wall_ms` now.
    fn agree(&self, wall_ms: u64, voters: usize, now: Instant) -> bool {
        let clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let near = |&&(said, at): &&(u64, Instant)| {
            let since = now.saturating_duration_since(at);
            // What a node that is gone said last vouches for nothing.
            let is_fresh = since <= CLOCK_WORD_VALID;
            is_fresh && (said + since.as_millis() as u64).abs_diff(wall_ms) <= CLOCKS_APART.as_millis() as u64
        };
        1 + clocks.values().filter(near).count() > voters / 2
    }
}

/// The log time of the newest entry, and when it was taken or arrived here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogClock {
    last_ms: u64,
    at: Instant,
}

/// A wall clock that is ahead of what a majority says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) by_ms: u64,
}

impl LogClock {
    pub(crate) fn new(last_ms: u64, at: Instant) -> Self {
        LogClock { last_ms, at }
    }

    /// The log time of an entry that is made `now`, when this node's clock says `wall_ms`.
    pub(crate) fn next(
        &mut self,
        wall_ms: u64,
        now: Instant,
        clocks: &VoterClocks,
        voters: usize,
    ) -> (u64, Option<Ahead>) {
        let (time, ahead) = self.peek(wall_ms, now, clocks, voters);
        *self = LogClock { last_ms: time, at: now };
        (time, ahead)
    }

    /// The same, if an entry were made; none is.
    pub(crate) fn peek(
        &self,
        wall_ms: u64,
        now: Instant,
        clocks: &VoterClocks,
        voters: usize,
    ) -> (u64, Option<Ahead>) {
        let paced_ms = self.last_ms + now.saturating_duration_since(self.at).as_millis() as u64;
        // The first entry of a group has nothing to be measured by.
        let is_first = self.last_ms == 0;
        let is_pace = is_first || wall_ms <= paced_ms + CLOCK_LEAD.as_millis() as u64;
        if is_pace || clocks.agree(wall_ms, voters, now) || Mutant::LogTimeFollowsClock.is_on() {
            (wall_ms.max(self.last_ms), None)
        } else {
            (paced_ms, Some(Ahead { by_ms: wall_ms - paced_ms }))
        }
    }
}

const _: () = assert!(CLOCK_LEAD.as_millis() < CLOCKS_APART.as_millis());

/// How often a clock that is ahead is spoken of.
pub(crate) const AHEAD_NOTICE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    const YEARS: u64 = 10 * 365 * 24 * 3600 * 1000;

    fn clocks(said: &[(u64, u64)], at: Instant) -> VoterClocks {
        let clocks = VoterClocks::default();
        for (node, ms) in said {
            clocks.note(NodeId(*node), *ms, at);
        }
        clocks
    }

    #[test]
    fn it_follows_the_wall_clock_and_never_falls() {
        let start = Instant::now();
        let nobody = VoterClocks::default();
        let mut clock = LogClock::new(1_000_000, start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(clock.next(1_000_500, at(500), &nobody, 3), (1_000_500, None));
        assert_eq!(clock.next(900_000, at(600), &nobody, 3), (1_000_500, None), "set back");
        assert_eq!(clock.next(1_000_700, at(700), &nobody, 3), (1_000_700, None));
        assert_eq!(clock.next(1_001_700, at(700), &nobody, 3), (1_001_700, None), "slewed, within the lead");
    }

    #[test]
    fn a_look_changes_nothing() {
        let start = Instant::now();
        let nobody = VoterClocks::default();
        let clock = LogClock::new(1_000_000, start);
        // However often one looks, a clock that is ahead gets no further than the pace.
        for n in 1..=10 {
            let now = start + Duration::from_millis(n * 100);
            let ahead = clock.peek(1_000_000 + YEARS, now, &nobody, 3);
            assert_eq!(ahead.0, 1_000_000 + n * 100);
        }
        let later = start + Duration::from_secs(1);
        assert_eq!(clock.peek(1_002_000, later, &nobody, 3), (1_002_000, None));
        assert_eq!(clock.peek(900_000, later, &nobody, 3), (1_000_000, None), "as the next entry would be");
    }

    #[test]
    fn a_new_group_starts_at_its_first_leaders_time() {
        let start = Instant::now();
        let others = clocks(&[(2, 77), (3, 99)], start);
        assert_eq!(LogClock::new(0, start).next(1_000_000, start, &others, 3), (1_000_000, None));
    }

    #[test]
    fn one_wrong_clock_does_not_carry_the_group_into_the_future() {
        let start = Instant::now();
        let others = clocks(&[(2, 1_000_000), (3, 1_000_010)], start);
        let mut clock = LogClock::new(1_000_000, start);
        let mut now = start;
        for n in 1..=100 {
            now += Duration::from_millis(10);
            let wall = 1_000_000 + YEARS + n * 10;
            let (time, ahead) = clock.next(wall, now, &others, 3);
            assert_eq!(time, 1_000_000 + n * 10, "the pace of the monotonic clock");
            assert_eq!(ahead, Some(Ahead { by_ms: YEARS }));
        }
    }

    #[test]
    fn a_majority_may_jump() {
        let start = Instant::now();
        // The whole cluster was down for a day; one clock is wrong.
        let day = 24 * 3600 * 1000;
        let mut clock = LogClock::new(1_000_000, start);
        let others = clocks(&[(2, 1_000_000 + day), (3, 77)], start);
        let now = start + Duration::from_secs(2);
        assert_eq!(clock.next(1_002_000 + day, now, &others, 3), (1_002_000 + day, None));
        let mut clock = LogClock::new(1_000_000, start);
        let nobody = VoterClocks::default();
        let waits = clock.next(1_002_000 + day, now, &nobody, 3);
        assert_eq!(waits, (1_002_000, Some(Ahead { by_ms: day })), "until another says so too");
        let mut clock = LogClock::new(1_000_000, start);
        let later = now + CLOCK_WORD_VALID;
        let stale = clock.next(1_002_000 + day, later, &others, 3);
        assert!(stale.1.is_some(), "a node that has not been heard of since confirms nothing: {stale:?}");
        let mut alone = LogClock::new(1_000_000, start);
        assert_eq!(alone.next(1_002_000 + day, now, &nobody, 1), (1_002_000 + day, None));
    }
}
