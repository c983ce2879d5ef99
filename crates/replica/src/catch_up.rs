//! How fast a node that is far behind gets what it lacks (log.md 19).
//!
//! A node that was away for an hour would be sent what it lacks as fast as two disks and a network can, and what is written
//! now would wait behind that: on the leader's disk, which reads for it, on the other's, and between them. So what lies far
//! behind the end of the log goes at a rate that is set, a token bucket for each node; and never more slowly than the log
//! grows, and half as fast again, or the node would stay behind for ever. Where nothing is committed without it, because
//! another node is down, everybody waits for it, and it goes as fast as it can.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use store::{LogIndex, LogPosition, LogState};
use tokio::time::{Instant, Sleep};

use crate::limits::{CATCH_UP_FROM_BYTES, CATCH_UP_RATE};
use crate::types::{LogEntry, TypeConfig};

/// How much faster than the log grows.
const AHEAD: f64 = 1.5;
/// What may go at once.
const BURST: Duration = Duration::from_millis(100);
/// The most that one request waits, so that what has changed is seen.
const DELAY_MAX: Duration = Duration::from_millis(500);
/// Over how long it is measured how fast the log grows.
const MEASURED: Duration = Duration::from_millis(500);
/// When nothing was committed for so long, and something waits for it, it takes a node that is behind.
const STUCK: Duration = Duration::from_millis(250);

/// How a leader sends a node that is far behind what it lacks.
#[derive(Debug, Clone, Copy)]
pub struct CatchUpLimits {
    /// Bytes a second of one group to one node; 0: as fast as it goes.
    pub rate: u64,
    /// For what lies further than this behind the end of the log, bytes.
    pub from: u64,
}

impl Default for CatchUpLimits {
    fn default() -> Self {
        CatchUpLimits { rate: CATCH_UP_RATE, from: CATCH_UP_FROM_BYTES }
    }
}

/// The rate of one node.
#[derive(Debug)]
pub(crate) struct CatchUp {
    limits: CatchUpLimits,
    /// When the bucket is full again, if nothing is taken.
    full_at: Instant,
    /// Where the log ended, and when; and how fast it grew before that, in bytes a second.
    measured: Option<(LogPosition, Instant)>,
    growth: f64,
    /// The last entry that was committed, and since when it is.
    committed: Option<(LogIndex, Instant)>,
}

/// What of the log is to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    from: LogPosition,
    bytes: usize,
}

/// Where the leader's log stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    end: LogPosition,
    last: LogIndex,
    committed: LogIndex,
}

impl From<LogState> for Standing {
    fn from(state: LogState) -> Self {
        let index = |id: Option<store::LogId>| id.map_or(LogIndex(0), |id| id.index);
        Standing { end: state.end, last: index(state.last), committed: index(state.committed) }
    }
}

impl Stretch {
    /// `None`: there is no entry in the request.
    pub(crate) fn of(request: &AppendEntriesRequest<TypeConfig>) -> Option<Stretch> {
        let frames = || {
            request.entries.iter().filter_map(|entry| match entry {
                LogEntry::Frame { frame, .. } => Some(frame),
                LogEntry::Draft { .. } => None,
            })
        };
        let from = frames().next()?.position();
        Some(Stretch { from, bytes: frames().map(|frame| frame.bytes().len()).sum() })
    }
}

impl CatchUp {
    pub(crate) fn new(limits: CatchUpLimits) -> CatchUp {
        CatchUp { limits, full_at: Instant::now(), measured: None, growth: 0.0, committed: None }
    }

    /// How long this is to wait.
    pub(crate) fn delay(&mut self, stretch: Stretch, standing: Standing) -> Duration {
        let now = Instant::now();
        self.measure(standing.end, now);
        let is_stuck = self.is_stuck(standing, now);
        let Stretch { from, bytes } = stretch;
        let lag = standing.end.0.saturating_sub(from.0);
        if self.limits.rate == 0 || lag <= self.limits.from || is_stuck {
            return Duration::ZERO;
        }
        let rate = (self.limits.rate as f64).max(self.growth * AHEAD);
        self.full_at = self.full_at.max(now) + Duration::from_secs_f64(bytes as f64 / rate);
        (self.full_at - now).saturating_sub(BURST).min(DELAY_MAX)
    }

    fn measure(&mut self, end: LogPosition, now: Instant) {
        let (before, at) = *self.measured.get_or_insert((end, now));
        let took = now - at;
        if took >= MEASURED {
            self.growth = end.0.saturating_sub(before.0) as f64 / took.as_secs_f64();
            self.measured = Some((end, now));
        }
    }

    fn is_stuck(&mut self, standing: Standing, now: Instant) -> bool {
        let Standing { last, committed, .. } = standing;
        let (before, since) = *self.committed.get_or_insert((committed, now));
        if before != committed {
            self.committed = Some((committed, now));
            return false;
        }
        committed < last && now - since >= STUCK
    }
}

/// A stream each of whose items waits for as long as `delay` says, and the rest with it.
pub(crate) struct Paced<S: Stream, F> {
    input: S,
    delay: F,
    held: Option<S::Item>,
    until: Pin<Box<Sleep>>,
}

impl<S: Stream, F> Paced<S, F> {
    pub(crate) fn new(input: S, delay: F) -> Self {
        Paced { input, delay, held: None, until: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }
}

// Nothing of it is pinned but what is in a box.
impl<S: Stream + Unpin, F> Unpin for Paced<S, F> {}

impl<S: Stream + Unpin, F: FnMut(&S::Item) -> Duration> Stream for Paced<S, F> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.get_mut();
        if this.held.is_none() {
            let Some(item) = ready!(this.input.poll_next_unpin(cx)) else { return Poll::Ready(None) };
            let delay = (this.delay)(&item);
            if delay.is_zero() {
                return Poll::Ready(Some(item));
            }
            this.held = Some(item);
            this.until.as_mut().reset(Instant::now() + delay);
        }
        ready!(this.until.as_mut().poll(cx));
        Poll::Ready(this.held.take())
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A log that grows by so many bytes a second. What is in it is committed at once, or never any more.
    struct Grows {
        bytes: u64,
        commits: bool,
    }

    /// So long requests of 1 MiB take, one behind the other, on a clock that stands while nothing waits.
    async fn take(rate: u64, behind: u64, requests: u64, grows: Grows) -> Duration {
        let start = Instant::now();
        let limits = CatchUpLimits { rate, ..CatchUpLimits::default() };
        let mut pace = CatchUp::new(limits);
        let delay = move |at: &u64| {
            let end = behind + (start.elapsed().as_secs_f64() * grows.bytes as f64) as u64;
            let (last, committed) = (LogIndex(end), LogIndex(if grows.commits { end } else { behind - 1 }));
            let standing = Standing { end: LogPosition(end), last, committed };
            pace.delay(Stretch { from: LogPosition(at * MIB), bytes: MIB as usize }, standing)
        };
        let sent: Vec<u64> = Paced::new(stream::iter(0..requests), delay).collect().await;
        assert_eq!(sent, (0..requests).collect::<Vec<_>>(), "all of it, in order");
        start.elapsed()
    }

    const STANDS: Grows = Grows { bytes: 0, commits: true };

    fn seconds(bytes: u64, rate: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / rate as f64).saturating_sub(BURST)
    }

    #[track_caller]
    fn is_about(found: Duration, wanted: Duration) {
        let apart = found.abs_diff(wanted);
        assert!(apart < Duration::from_millis(50), "{found:?}, not {wanted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_far_behind_goes_at_its_rate() {
        is_about(take(64 * MIB, 1024 * MIB, 640, STANDS).await, seconds(640 * MIB, 64 * MIB));
        assert_eq!(take(0, 1024 * MIB, 640, STANDS).await, Duration::ZERO, "any rate");
        // One that would take days waits no longer with each request than this.
        is_about(take(1, 1024 * MIB, 64, STANDS).await, DELAY_MAX * 64);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_near_the_end_goes_at_once() {
        assert_eq!(take(4 * MIB, CATCH_UP_FROM_BYTES, 64, STANDS).await, Duration::ZERO);
        // Of a hundred of them, those that are more than that behind wait.
        let far = 100 * MIB - CATCH_UP_FROM_BYTES;
        is_about(take(4 * MIB, 100 * MIB, 100, STANDS).await, seconds(far, 4 * MIB));
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_grows_faster_is_caught_up_with_all_the_same() {
        // 8 GiB behind, at 10 MiB a second, while 100 come: at 150, but for the first half second.
        let grows = Grows { bytes: 100 * MIB, commits: true };
        let took = take(10 * MIB, 8192 * MIB, 3000, grows).await;
        let wanted = seconds(3000 * MIB, 150 * MIB);
        assert!(took >= wanted && took < wanted + Duration::from_secs(2), "{took:?}, not {wanted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_needed_for_a_majority_is_not_held_back() {
        let took = take(4 * MIB, 8192 * MIB, 8000, Grows { bytes: 0, commits: false }).await;
        assert!(took <= STUCK + DELAY_MAX, "{took:?}");
    }
}
