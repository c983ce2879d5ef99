//! How fast a node that is far behind gets what it lacks (log.md 19).
//!
//! A node that was away for an hour would be sent what it lacks as fast as two disks and a network can, and what is written
//! now would wait behind that: on the leader's disk, which reads for it, on the other's, and between them. So what lies far
//! behind the end of the log goes at a rate that is set, a token bucket for each node; and never more slowly than the log
//! grows, and half as fast again, or the node would stay behind for ever.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use store::LogPosition;
use tokio::time::{Instant, Sleep};

use crate::limits::{CATCH_UP_FROM_BYTES, CATCH_UP_RATE_MIN};
use crate::types::{LogEntry, TypeConfig};

/// How much faster than the log grows.
const AHEAD: f64 = 1.5;
/// What may go at once.
const BURST: Duration = Duration::from_millis(100);
/// Over how long it is measured how fast the log grows.
const MEASURED: Duration = Duration::from_millis(500);

/// The rate of one node's stream.
#[derive(Debug)]
pub(crate) struct CatchUp {
    /// Bytes a second; 0: any.
    rate: u64,
    /// When the bucket is full again, if nothing is taken.
    full_at: Instant,
    /// Where the log ended, and when; and how fast it grew before that, in bytes a second.
    measured: (LogPosition, Instant),
    growth: f64,
}

/// What of the log is to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) from: LogPosition,
    pub(crate) bytes: usize,
    /// Where the log ends now.
    pub(crate) end: LogPosition,
}

impl Stretch {
    /// `None`: there is no entry in the request.
    pub(crate) fn of(request: &AppendEntriesRequest<TypeConfig>, end: LogPosition) -> Option<Stretch> {
        let frames = || {
            request.entries.iter().filter_map(|entry| match entry {
                LogEntry::Frame { frame, .. } => Some(frame),
                LogEntry::Draft { .. } => None,
            })
        };
        let from = frames().next()?.position();
        Some(Stretch { from, bytes: frames().map(|frame| frame.bytes().len()).sum(), end })
    }
}

impl CatchUp {
    /// `rate`: bytes a second, 1 MiB at least; 0: any.
    pub(crate) fn new(rate: u64, end: LogPosition) -> CatchUp {
        let now = Instant::now();
        let rate = if rate == 0 { 0 } else { rate.max(CATCH_UP_RATE_MIN) };
        CatchUp { rate, full_at: now, measured: (end, now), growth: 0.0 }
    }

    /// How long this is to wait.
    pub(crate) fn delay(&mut self, stretch: Stretch) -> Duration {
        let Stretch { from, bytes, end } = stretch;
        if self.rate == 0 || end.0.saturating_sub(from.0) <= CATCH_UP_FROM_BYTES {
            return Duration::ZERO;
        }
        let now = Instant::now();
        self.measure(end, now);
        let rate = (self.rate as f64).max(self.growth * AHEAD);
        self.full_at = self.full_at.max(now) + Duration::from_secs_f64(bytes as f64 / rate);
        (self.full_at - now).saturating_sub(BURST)
    }

    fn measure(&mut self, end: LogPosition, now: Instant) {
        let (before, at) = self.measured;
        let took = now - at;
        if took >= MEASURED {
            self.growth = end.0.saturating_sub(before.0) as f64 / took.as_secs_f64();
            self.measured = (end, now);
        }
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

    /// So long requests of 1 MiB take, one behind the other, on a clock that stands while nothing waits. `grows`: by so many
    /// bytes a second the log grows meanwhile.
    async fn take(rate: u64, behind: u64, requests: u64, grows: u64) -> Duration {
        let start = Instant::now();
        let mut pace = CatchUp::new(rate, LogPosition(behind));
        let delay = move |at: &u64| {
            let grown = (start.elapsed().as_secs_f64() * grows as f64) as u64;
            let (from, end) = (LogPosition(at * MIB), LogPosition(behind + grown));
            pace.delay(Stretch { from, bytes: MIB as usize, end })
        };
        let sent: Vec<u64> = Paced::new(stream::iter(0..requests), delay).collect().await;
        assert_eq!(sent, (0..requests).collect::<Vec<_>>(), "all of it, in order");
        start.elapsed()
    }

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
        is_about(take(64 * MIB, 1024 * MIB, 640, 0).await, seconds(640 * MIB, 64 * MIB));
        assert_eq!(take(0, 1024 * MIB, 640, 0).await, Duration::ZERO, "any rate");
        // One that would take days is none that anybody means.
        is_about(take(1, 1024 * MIB, 64, 0).await, seconds(64 * MIB, MIB));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_near_the_end_goes_at_once() {
        assert_eq!(take(MIB, CATCH_UP_FROM_BYTES, 64, 0).await, Duration::ZERO);
        // Of a hundred of them, those that are more than that behind wait.
        let far = 100 * MIB - CATCH_UP_FROM_BYTES;
        is_about(take(MIB, 100 * MIB, 100, 0).await, seconds(far, MIB));
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_grows_faster_is_caught_up_with_all_the_same() {
        // 8 GiB behind, at 10 MiB a second, while 100 come: at 150, but for the first half second.
        let took = take(10 * MIB, 8192 * MIB, 3000, 100 * MIB).await;
        let wanted = seconds(3000 * MIB, 150 * MIB);
        assert!(took >= wanted && took < wanted + Duration::from_secs(2), "{took:?}, not {wanted:?}");
    }
}
