//! News of commits that ride with entries.
//!
//! openraft tells followers of every commit at once, by a request of its own unless entries wait to be sent. Under load
//! the next entry follows within a fraction of a millisecond, and the separate request doubles what goes between nodes:
//! each costs both ends a frame, an answer and a turn of the core. So such a request waits for a moment, and what comes
//! next, which says the same and more, takes its place. Followers learn of a commit later by [`COMMIT_NOTICE_DELAY`]
//! (and what a timer adds) at the most; nothing that a client waits for at the leader depends on it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::Fuse;
use futures::{Stream, StreamExt};
use tokio::time::{Instant, Sleep};

use crate::limits::COMMIT_NOTICE_DELAY;
use crate::proto::AppendRequest;

/// A leader's requests to one follower, with fewer that carry nothing but a commit.
///
/// openraft takes an answer as one to every request up to the same entry, so that a request may go without its own
/// (its `InflightAppendQueue::drain_acked`).
pub(crate) struct CommitsWithEntries<S: Stream> {
    /// openraft's requests panic when they are asked for after their end; what was held is given out in between.
    input: Fuse<S>,
    /// The first request goes at once: it opens the stream, and finds out where the follower's log ends.
    is_open: bool,
    held: Option<AppendRequest>,
    /// When `held` goes by itself.
    due: Pin<Box<Sleep>>,
}

impl<S: Stream> CommitsWithEntries<S> {
    pub(crate) fn new(input: S) -> Self {
        let due = Box::pin(tokio::time::sleep(COMMIT_NOTICE_DELAY));
        CommitsWithEntries { input: input.fuse(), is_open: false, held: None, due }
    }
}

impl<S: Stream<Item = AppendRequest> + Unpin> Stream for CommitsWithEntries<S> {
    type Item = AppendRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AppendRequest>> {
        let this = self.get_mut();
        loop {
            match this.input.poll_next_unpin(cx) {
                Poll::Ready(Some(request)) if request.frames.is_empty() && this.is_open => {
                    // The time runs from the first that waits: a row of them cannot put it off.
                    if this.held.replace(request).is_none() {
                        this.due.as_mut().reset(Instant::now() + COMMIT_NOTICE_DELAY);
                    }
                }
                Poll::Ready(Some(request)) => {
                    this.is_open = true;
                    this.held = None;
                    return Poll::Ready(Some(request));
                }
                Poll::Ready(None) => return Poll::Ready(this.held.take()),
                Poll::Pending if this.held.is_none() => return Poll::Pending,
                Poll::Pending => {
                    ready!(this.due.as_mut().poll(cx));
                    return Poll::Ready(this.held.take());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::proto::LogId;

    type Requests = CommitsWithEntries<UnboundedReceiver<AppendRequest>>;

    /// A stream that has sent its first request.
    fn opened() -> (UnboundedSender<AppendRequest>, Requests) {
        let (input, output) = unbounded();
        let mut requests = CommitsWithEntries::new(output);
        input.unbounded_send(request(0, 1)).unwrap();
        assert_eq!(next_at_once(&mut requests), Some((0, 1)), "the first request goes at once");
        (input, requests)
    }

    fn request(entries: usize, commit: u64) -> AppendRequest {
        AppendRequest {
            frames: vec![bytes::Bytes::from_static(b"frame"); entries],
            leader_commit: Some(LogId { term: 1, index: commit }),
            ..AppendRequest::default()
        }
    }

    fn told(request: &AppendRequest) -> (usize, u64) {
        (request.frames.len(), request.leader_commit.as_ref().map_or(0, |id| id.index))
    }

    fn next_at_once(requests: &mut Requests) -> Option<(usize, u64)> {
        requests.next().now_or_never().flatten().as_ref().map(told)
    }

    // Nothing becomes due between two polls: the test's only thread turns the timers as well.
    #[tokio::test]
    async fn a_commit_rides_with_the_entries_behind_it() {
        let (input, mut requests) = opened();
        input.unbounded_send(request(0, 2)).unwrap();
        assert_eq!(next_at_once(&mut requests), None);
        input.unbounded_send(request(1, 3)).unwrap();
        assert_eq!(next_at_once(&mut requests), Some((1, 3)));
        tokio::time::sleep(COMMIT_NOTICE_DELAY * 2).await;
        assert_eq!(next_at_once(&mut requests), None, "it went with the entries");
    }

    #[tokio::test]
    async fn a_commit_without_entries_goes_when_its_time_is_up() {
        let (input, mut requests) = opened();
        input.unbounded_send(request(0, 2)).unwrap();
        assert_eq!(next_at_once(&mut requests), None);
        input.unbounded_send(request(0, 3)).unwrap();
        assert_eq!(requests.next().await.as_ref().map(told), Some((0, 3)), "the newest of them");
        assert_eq!(next_at_once(&mut requests), None, "and once");
    }

    #[tokio::test]
    async fn commits_that_follow_do_not_put_off_the_first() {
        let (input, mut requests) = opened();
        input.unbounded_send(request(0, 2)).unwrap();
        assert_eq!(next_at_once(&mut requests), None);
        tokio::time::sleep(COMMIT_NOTICE_DELAY * 2).await;
        input.unbounded_send(request(0, 3)).unwrap();
        assert_eq!(next_at_once(&mut requests), Some((0, 3)));
    }

    /// As openraft's: it panics when it is asked again after its end.
    #[tokio::test]
    async fn a_stream_that_ends_keeps_nothing_back() {
        let mut commits = 1..=2;
        let input = futures::stream::poll_fn(move |_| Poll::Ready(commits.next()));
        let input = futures::stream::unfold(input, |mut input| async {
            let commit = input.next().await?;
            Some((request(0, commit), input))
        });
        let mut requests = CommitsWithEntries::new(Box::pin(input));
        assert_eq!(requests.next().await.as_ref().map(told), Some((0, 1)));
        assert_eq!(requests.next().await.as_ref().map(told), Some((0, 2)));
        assert!(requests.next().await.is_none());
    }
}
