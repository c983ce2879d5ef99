//! When a connection is not read, because what it sent is refused for being too much.
//!
//! ```text
//! refused ─▶ pause ─▶ what has waited, then the socket ─┬─▶ refused, with more behind it ─▶ a pause of twice the time
//!                                                      └─▶ nothing left: as if nothing had been
//! ```
//!
//! To read a request and to refuse it costs a good part of what it costs to do it. So after a refusal the rest stays where it
//! is: in the socket, whose window closes, and then in the peer, which knows best what of it is still wanted. Where something
//! has lain there for too long, all of it is late (`Pauses::is_late`), for what the peer's own socket holds has waited as well:
//! it is read and refused until nothing is left, and what comes then is fresh. Few connections do so at once, in turn
//! (`LateTurn`): each is then through in a moment, where many would share the processors and read no faster than their peers
//! send.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{LATE, LATE_BYTES_MAX, PAUSE_MAX, PAUSE_MIN};

/// What a refusal says of other requests of the same connection. See `Connection::push_back`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushBack {
    /// Requests of one kind are refused. The connection pauses when most of what a read brought is of that kind.
    Request,
    /// All would be. The connection pauses at once, and what has arrived behind the request waits.
    Connection,
}

/// The pauses of one connection. Places are bytes of what it ever sent.
#[derive(Debug)]
pub(crate) struct Pauses {
    /// Of this connection, so that those of many do not end at the same time.
    seed: u64,
    begun: u64,
    /// How many pauses found more waiting, since nothing did.
    level: u32,
    /// What was handled so far.
    taken: u64,
    /// Everything before a place had arrived at a time.
    mark: Option<(u64, Instant)>,
    /// Everything before this place is late, unless we are level before.
    late_until: u64,
}

impl Pauses {
    pub(crate) fn new(seed: u64) -> Pauses {
        Pauses { seed, begun: 0, level: 0, taken: 0, mark: None, late_until: 0 }
    }

    /// So many bytes more were handled.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.taken += bytes as u64;
    }

    /// A pause begins: how long it is. `waiting`: bytes that have arrived and were not handled.
    pub(crate) fn begin(&mut self, waiting: u64, now: Instant) -> Duration {
        if waiting > 0 {
            self.level += 1;
            // One that was passed since says nothing more.
            let mark = self.mark.filter(|&(place, _)| self.taken < place);
            self.mark = mark.or(Some((self.taken + waiting, now)));
        }
        self.begun += 1;
        let most = PAUSE_MIN.saturating_mul(1 << self.level.saturating_sub(1).min(16)).min(PAUSE_MAX);
        // Between three quarters of it and all: the same one must not always come first to what little room there is.
        let spread = self.seed.wrapping_add(self.begun).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
        most.mul_f64(1.0 - spread as f64 / f64::from(1 << 18))
    }

    /// All that had arrived was handled, and no pause came of it.
    pub(crate) fn end(&mut self) {
        self.level = 0;
        self.mark = None;
        self.late_until = 0;
    }

    /// The peer sends more than is taken: a pause began with more waiting, and that is not over.
    pub(crate) fn is_pressed(&self) -> bool {
        self.level > 0
    }

    /// Whether what comes next is late: it, or something before it in the same heap, has waited for [`LATE`] at least.
    pub(crate) fn is_late(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.taken < self.late_until {
            return true;
        }
        let Some((place, at)) = self.mark else { return false };
        if self.taken >= place {
            self.mark = None;
            return false;
        }
        if now().saturating_duration_since(at) < LATE {
            return false;
        }
        // A peer that never stops is to get something done now and then.
        self.mark = None;
        self.late_until = place + LATE_BYTES_MAX;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_more_waits_and_never_beyond_the_longest() {
        let now = Instant::now();
        for seed in 0..100 {
            let mut pauses = Pauses::new(seed);
            for _ in 0..3 {
                let pause = pauses.begin(0, now);
                assert!((PAUSE_MIN.mul_f64(0.75)..=PAUSE_MIN).contains(&pause), "{pause:?}");
                assert!(!pauses.is_pressed(), "nobody waits behind the one that was refused");
            }
            let mut most = PAUSE_MIN;
            for _ in 0..40 {
                let pause = pauses.begin(1, now);
                assert!((most.mul_f64(0.75)..=most).contains(&pause), "{pause:?}");
                assert!(pauses.is_pressed());
                most = (most * 2).min(PAUSE_MAX);
            }
            pauses.end();
            assert!(!pauses.is_pressed());
            assert!(pauses.begin(1, now) <= PAUSE_MIN);
        }
    }

    #[test]
    fn pauses_of_one_connection_and_of_many_are_spread() {
        let now = Instant::now();
        let spread = |pauses: Vec<Duration>| {
            let mean = pauses.iter().sum::<Duration>() / pauses.len() as u32;
            let of_most = mean.as_secs_f64() / PAUSE_MIN.as_secs_f64();
            assert!((0.85..0.9).contains(&of_most), "{of_most}");
            let mut order = pauses.clone();
            order.sort_unstable();
            order.dedup();
            assert!(order.len() > pauses.len() * 9 / 10, "{} of {}", order.len(), pauses.len());
        };
        let mut one = Pauses::new(7);
        spread((0..1000).map(|_| one.begin(0, now)).collect());
        spread((0..1000).map(|seed| Pauses::new(seed).begin(0, now)).collect());
    }

    #[test]
    fn what_has_waited_too_long_is_late_with_all_behind_it() {
        let start = Instant::now();
        let mut pauses = Pauses::new(1);
        pauses.take(100);
        assert!(!pauses.is_late(|| start), "nothing is known of it");
        pauses.begin(50, start);
        let almost = start + LATE - Duration::from_millis(1);
        // A later pause says nothing of what the first one saw.
        pauses.begin(500, almost);
        assert!(!pauses.is_late(|| almost));
        assert!(pauses.is_late(|| start + LATE));
        pauses.take(51);
        assert!(pauses.is_late(|| start + LATE), "it came later, but from the same heap");
        pauses.end();
        assert!(!pauses.is_late(|| start + LATE * 9), "nothing was left");
        // What was taken in time is no reason.
        pauses.begin(50, start);
        pauses.take(50);
        assert!(!pauses.is_late(|| start + LATE));
        // A frame that passes the place of the mark before the next pause begins: the mark is that pause's then.
        pauses.begin(50, start);
        pauses.take(60);
        pauses.begin(50, start);
        assert!(pauses.is_late(|| start + LATE));
        pauses.end();
        // One that never stops.
        pauses.begin(50, start);
        assert!(pauses.is_late(|| start + LATE));
        pauses.take(49 + LATE_BYTES_MAX as usize);
        assert!(pauses.is_late(|| start + LATE));
        pauses.take(1);
        assert!(!pauses.is_late(|| start + LATE));
    }
}
