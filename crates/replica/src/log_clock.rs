//! Log time: the clock by which the log counts (log.md 15). Store timestamps, delays, retention and leases follow it, so one
//! node whose wall clock is wrong must not carry the group along, into the future or into standing still: log time follows
//! the clock in the middle of the voters' clocks, never falls, and jumps ahead of the monotonic clock only to where the clocks
//! of a majority are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use store::Mutant;

use crate::NodeId;
use crate::limits::{CLOCK_LEAD, CLOCK_SLACK, CLOCK_WORD_VALID, CLOCKS_APART};

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
    /// `wall_ms` is 0 where a node does not say. The newest word counts, though it may have been long under way: an older one
    /// may be of a clock that has been set right since, and with another wrong one would be a majority.
    pub(crate) fn note(&self, node: NodeId, wall_ms: u64, now: Instant) {
        if wall_ms > 0 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node, (wall_ms, now));
        }
    }

    /// What this clock, which says `wall_ms`, and those of the other voters say now, sorted.
    fn all(&self, wall_ms: u64, now: Instant) -> Vec<u64> {
        let clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = clocks.values().filter_map(|word| says_now(*word, now));
        let mut all: Vec<u64> = others.chain([wall_ms]).collect();
        all.sort_unstable();
        all
    }
}

/// What a clock says by now that said something at a time; `None` where that is too long ago: a node that is gone vouches for
/// nothing.
fn says_now((said_ms, at): (u64, Instant), now: Instant) -> Option<u64> {
    let since = now.saturating_duration_since(at);
    (since <= CLOCK_WORD_VALID).then(|| said_ms + since.as_millis() as u64)
}

/// The clock in the middle, so that it takes two wrong ones of three to lead astray. Of two in the middle, that one counts which
/// has gone on as time has.
fn middle(sorted: &[u64], paced_ms: u64) -> u64 {
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    if low.abs_diff(paced_ms) <= high.abs_diff(paced_ms) { low } else { high }
}

/// Whether clocks of a majority of `voters` voters say about `time_ms`.
fn agree(all: &[u64], time_ms: u64, voters: usize) -> bool {
    let near = |clock: &&u64| clock.abs_diff(time_ms) <= CLOCKS_APART.as_millis() as u64;
    all.iter().filter(near).count() > voters / 2
}

/// The log time of the newest entry, and when it was that: when the entry was made or arrived here, or a little before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogClock {
    last_ms: u64,
    at: Instant,
}

/// This node's wall clock is not that of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Astray {
    /// How far ahead of log time it is.
    pub(crate) by_ms: i64,
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
    ) -> (u64, Option<Astray>) {
        *self = self.then(wall_ms, now, clocks, voters);
        (self.last_ms, self.astray(wall_ms))
    }

    /// The same, if an entry were made; none is.
    pub(crate) fn peek(
        &self,
        wall_ms: u64,
        now: Instant,
        clocks: &VoterClocks,
        voters: usize,
    ) -> (u64, Option<Astray>) {
        let then = self.then(wall_ms, now, clocks, voters);
        (then.last_ms, then.astray(wall_ms))
    }

    fn then(&self, wall_ms: u64, now: Instant, clocks: &VoterClocks, voters: usize) -> LogClock {
        let LogClock { last_ms, at } = *self;
        // The first entry of a group has nothing to be measured by.
        if last_ms == 0 || Mutant::LogTimeFollowsClock.is_on() {
            return LogClock { last_ms: wall_ms.max(last_ms), at: now };
        }
        let passed_ms = now.saturating_duration_since(at).as_millis() as u64;
        let paced_ms = last_ms + passed_ms;
        let all = clocks.all(wall_ms, now);
        let middle_ms = middle(&all, paced_ms);
        let (lead_ms, slack_ms) = (CLOCK_LEAD.as_millis() as u64, CLOCK_SLACK.as_millis() as u64);
        // What others say comes some milliseconds late, now more and now less: a delay would be counted from one and to another.
        // So one's own clock counts as far as it may be right.
        let clock_ms = wall_ms.clamp(middle_ms.saturating_sub(slack_ms), middle_ms + slack_ms);
        // What is less than a millisecond is kept for the next one: there may be many in each.
        let after =
            |ms: u64, passed_ms: u64| LogClock { last_ms: ms, at: at + Duration::from_millis(passed_ms) };
        if clock_ms > paced_ms + lead_ms && !agree(&all, clock_ms, voters) {
            return after(paced_ms, passed_ms);
        }
        // Clocks that were set back are waited for, but not by standing still: what is due would have to wait as long.
        let slowed_ms = last_ms + passed_ms / 2;
        if clock_ms < slowed_ms {
            return after(slowed_ms, passed_ms / 2 * 2);
        }
        // Of several entries in one millisecond the first counts: time is told to others from when one of them was applied.
        LogClock { last_ms: clock_ms, at: if clock_ms == last_ms { at } else { now } }
    }

    fn astray(&self, wall_ms: u64) -> Option<Astray> {
        let by_ms = wall_ms.cast_signed() - self.last_ms.cast_signed();
        (by_ms.unsigned_abs() > CLOCK_LEAD.as_millis() as u64).then_some(Astray { by_ms })
    }
}

const _: () = assert!(CLOCK_LEAD.as_millis() < CLOCKS_APART.as_millis());

/// How often a clock that is wrong is spoken of.
pub(crate) const ASTRAY_NOTICE: Duration = Duration::from_mins(1);

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
        let set_back = clock.next(900_000, at(600), &nobody, 3);
        assert_eq!(set_back, (1_000_550, Some(Astray { by_ms: -100_550 })), "at half the pace");
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
        assert_eq!(clock.peek(900_000, later, &nobody, 3).0, 1_000_500, "as the next entry would be");
    }

    /// What is due by a look at the time of the newest entry that is applied is not too early by the next entry's time.
    #[test]
    fn the_next_entry_is_never_before_a_look() {
        let start = Instant::now();
        let nobody = VoterClocks::default();
        let at = |micros| start + Duration::from_micros(micros);
        let mut clock = LogClock::new(1_000_000, start);
        // Two entries in one millisecond; the first is applied between them.
        assert_eq!(clock.next(1_000_500, at(500_000), &nobody, 3).0, 1_000_500);
        let applied = LogClock::new(1_000_500, at(500_100));
        assert_eq!(clock.next(1_000_500, at(500_900), &nobody, 3).0, 1_000_500);
        // Then the wall clock is set back.
        for n in 0..100 {
            let now = at(501_000 + n * 150);
            let look = applied.peek(900_000, now, &nobody, 3).0;
            assert!(clock.peek(900_000, now, &nobody, 3).0 >= look, "{n}: a look says {look}");
        }
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
            let (time, astray) = clock.next(wall, now, &others, 3);
            assert_eq!(time, 1_000_110 + n * 10, "the middle of three, and the slack");
            assert_eq!(astray, Some(Astray { by_ms: YEARS.cast_signed() - 110 }));
        }
    }

    /// Any of three, by days or seconds, ahead or behind, moves and stops nothing.
    #[test]
    fn log_time_goes_on_with_the_clock_in_the_middle() {
        const DAY: i64 = 24 * 3600 * 1000;
        let start = Instant::now();
        for wrong in 0..3 {
            for by_ms in [2_000, -2_000, 50_000, -50_000, DAY, -DAY, YEARS.cast_signed()] {
                let wrong_by = |node: usize| if node == wrong { by_ms } else { 0 };
                let mut clock = LogClock::new(1_000_000_000_000, start);
                for n in 1..=50 {
                    let (ms, now) = (n * 100, start + Duration::from_millis(n * 100));
                    let said = |node| (1_000_000_000_000 + ms).saturating_add_signed(wrong_by(node));
                    let others = clocks(&[(2, said(1)), (3, said(2))], now);
                    let (time, astray) = clock.next(said(0), now, &others, 3);
                    let slack = if wrong == 0 { CLOCK_SLACK.as_millis() as u64 } else { 0 };
                    let off = time.abs_diff(1_000_000_000_000 + ms);
                    assert!(off <= slack, "{off} ms off, with node {wrong} wrong by {by_ms} ms");
                    assert_eq!(
                        astray.is_some(),
                        wrong == 0,
                        "node {wrong} by {by_ms} ms, after {ms} ms: {astray:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_others_say_late_moves_nothing() {
        let start = Instant::now();
        let mut clock = LogClock::new(1_000_000, start);
        for n in 1..=100 {
            let now = start + Duration::from_millis(n);
            // Replies that were under way for up to 9 ms.
            let said = |node: u64| (node, 1_000_000 + n - n * node % 10);
            let others = clocks(&[said(2), said(3)], now);
            assert_eq!(clock.next(1_000_000 + n, now, &others, 3), (1_000_000 + n, None));
        }
    }

    #[test]
    fn of_two_clocks_the_one_counts_that_goes_on_as_time_does() {
        let start = Instant::now();
        for by_ms in [-3_600_000_i64, 3_600_000] {
            let mut clock = LogClock::new(1_000_000_000, start);
            for n in 1..=100_u64 {
                let now = start + Duration::from_millis(n * 10);
                let right = 1_000_000_000 + n * 10;
                let wrong = right.saturating_add_signed(by_ms);
                let off = clock.next(wrong, now, &clocks(&[(2, right)], now), 3).0.abs_diff(right);
                assert!(off <= CLOCK_SLACK.as_millis() as u64, "{off} ms off");
                let off = clock.peek(right, now, &clocks(&[(2, wrong)], now), 3).0.abs_diff(right);
                assert!(off <= CLOCK_SLACK.as_millis() as u64, "{off} ms off, the other's being wrong");
            }
        }
    }

    /// Two clocks that are wrong by the same, one after the other (simulation, seed 52).
    #[test]
    fn a_clock_that_was_set_right_confirms_no_other() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let others = clocks(&[(2, 1_000_000), (3, 1_000_000 + YEARS)], start);
        others.note(NodeId(3), 1_000_050, at(50));
        others.note(NodeId(2), 1_000_100 + YEARS, at(100));
        assert_eq!(LogClock::new(1_000_000, start).next(1_000_100, at(100), &others, 3), (1_000_100, None));
    }

    /// More than a thousand entries a second must not stop a clock that goes by its pace.
    #[test]
    fn what_is_less_than_a_millisecond_adds_up() {
        let start = Instant::now();
        let nobody = VoterClocks::default();
        for (wall, want) in [(1_000_000 + YEARS, 1_001_000), (900_000, 1_000_500)] {
            let mut clock = LogClock::new(1_000_000, start);
            let mut time = 0;
            for n in 1..=5_000 {
                time = clock.next(wall, start + Duration::from_micros(n * 200), &nobody, 3).0;
            }
            assert_eq!(time, want, "after a second by a clock that says {wall}");
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
        let by_ms = day.cast_signed();
        assert_eq!(waits, (1_002_000, Some(Astray { by_ms })), "until another says so too");
        let mut clock = LogClock::new(1_000_000, start);
        let later = now + CLOCK_WORD_VALID;
        let stale = clock.next(1_002_000 + day, later, &others, 3);
        assert!(stale.1.is_some(), "a node that has not been heard of since confirms nothing: {stale:?}");
        let mut alone = LogClock::new(1_000_000, start);
        assert_eq!(alone.next(1_002_000 + day, now, &nobody, 1), (1_002_000 + day, None));
    }
}
