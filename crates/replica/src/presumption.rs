//! [`Mutant::AckOnLeaderAlone`]: what a leader has sent counts as stored at the follower, which is not asked any more once it
//! has shown that it follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, future, stream};
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use store::Mutant;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::server::openraft_log_id;
use crate::types::{RaftLogId, TypeConfig};

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// The ends of what was sent.
pub(crate) struct Presumed {
    ends: mpsc::UnboundedReceiver<Option<RaftLogId>>,
}

/// Notes the end of each request.
pub(crate) fn tap<S>(
    requests: S,
) -> (impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static, Presumed)
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    let (sent, ends) = mpsc::unbounded_channel();
    let requests = requests.inspect(move |request| {
        let end = request.entries.last().map(|entry| *openraft_log_id(entry));
        // Nobody may be there to presume anything.
        let _ = sent.send(end.or(request.prev_log_id));
    });
    (requests, Presumed { ends })
}

impl Presumed {
    /// Answers at once, as soon as the follower has given one that is true. With another mutant: what it says.
    pub(crate) fn instead_of<'a>(
        self,
        answers: impl Stream<Item = Answer> + Send + 'a,
    ) -> BoxStream<'a, Answer> {
        if !Mutant::AckOnLeaderAlone.is_on() {
            return answers.boxed();
        }
        let follows = Arc::new(AtomicBool::new(false));
        let has_followed = follows.clone();
        let answers = answers.inspect(move |answer| {
            follows.fetch_or(matches!(answer, Ok(Ok(_))), Ordering::Relaxed);
        });
        let over = RPCError::Network(NetworkError::new(&openraft::AnyError::error("the stream has ended")));
        let answers = answers.chain(stream::once(future::ready(Err(over))));
        let presumed = UnboundedReceiverStream::new(self.ends)
            .filter(move |_| future::ready(has_followed.load(Ordering::Relaxed)))
            .map(|end| Ok(Ok(end)));
        let mut last = None;
        stream::select(answers, presumed)
            .filter(move |answer| {
                future::ready(match answer {
                    Ok(Ok(end)) => {
                        let is_news = last.is_none_or(|last| *end > last);
                        last = last.max(Some(*end));
                        is_news
                    }
                    _ => true,
                })
            })
            .boxed()
    }
}
