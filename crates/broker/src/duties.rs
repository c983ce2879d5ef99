//! Tasks that the leader of a group has and no other node: what is due is delivered, transactions are checked, messages
//! that nobody acknowledged are handed out again.
//!
//! ```text
//! leads, and is prepared ──▶ every duty runs, told by a token when its term is over ──▶ all have ended ──▶ …
//! ```
//! A duty holds no truth. At the start of a term it reads the tables and the log, then it waits for what it does next: a
//! time, new messages in a source queue ([`SourceArrivals`]), or the end. It decides nothing: an entry of the log does, and
//! one that a former leader still proposes is void or comes first. So it may be dropped at any point where it waits.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use futures::FutureExt;
use futures::future::BoxFuture;
use replica::StateMachine as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::delay;
use crate::errors::Error;
use crate::hosted::{Hosted, Toward};
use crate::limits::DUTY_RETRY;
use crate::pop;
use crate::state::Advance;
use crate::state::command::{FEATURE_LEVEL, Kind, RaiseLevel};
use crate::transactions::check;

type Run = dyn Fn(Arc<Hosted>, CancellationToken) -> BoxFuture<'static, Result<(), Error>> + Send + Sync;

/// A task of the leader. See the module.
#[derive(Clone)]
pub(crate) struct Duty {
    name: &'static str,
    run: Arc<Run>,
}

impl Duty {
    /// `run` gets the group and a token that is cancelled when the term is over; then it is dropped where it waits, but
    /// what it has running elsewhere (blocking reads) has to look at the token. One that returns without an error has
    /// nothing more to do in this term.
    pub(crate) fn new<F>(
        name: &'static str,
        run: impl Fn(Arc<Hosted>, CancellationToken) -> F + Send + Sync + 'static,
    ) -> Duty
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        Duty { name, run: Arc::new(move |hosted, over| run(hosted, over).boxed()) }
    }
}

/// Every duty of a group.
pub(crate) fn all() -> Vec<Duty> {
    vec![
        Duty::new("feature level", |hosted, _| raise_level(hosted)),
        Duty::new("delay levels", delay::levels),
        Duty::new("timers", delay::timers),
        Duty::new("transaction checks", check::run),
        Duty::new("pop revive", |hosted, _| pop::revive(hosted)),
    ]
}

/// Raises the group's feature level to this build's, as soon as every member knows it: from then on a member that is down
/// holds nothing back.
async fn raise_level(hosted: Arc<Hosted>) -> Result<(), Error> {
    if hosted.state.level() >= FEATURE_LEVEL {
        return Ok(());
    }
    hosted.served_here()?.group.level_known_to_all(FEATURE_LEVEL).await;
    propose_level(&hosted).await
}

/// Has the log say that the group is at this build's feature level. Twice harms nobody.
pub(crate) async fn propose_level(hosted: &Arc<Hosted>) -> Result<(), Error> {
    let reply = hosted.propose_here(Kind::RaiseLevel(RaiseLevel { level: FEATURE_LEVEL }).into()).await?;
    if reply.code != 0 {
        return Err(Error::refused(wire::ResponseCode(reply.code), reply.remark));
    }
    tracing::info!(group = hosted.name(), level = FEATURE_LEVEL, "the group has reached this feature level");
    Ok(())
}

/// Runs duties whenever this node leads and is prepared. Those of one term have ended before the next ones start. Ends with
/// the node.
pub(crate) async fn keep(hosted: Arc<Hosted>, duties: Vec<Duty>) {
    loop {
        hosted.standing_is(|toward| toward == Toward::Here).await;
        let term = hosted.term();
        let over = CancellationToken::new();
        // Whatever ends this function ends them.
        let _ends = over.clone().drop_guard();
        let running = TaskTracker::new();
        for duty in &duties {
            let (duty, hosted, over) = (duty.clone(), hosted.clone(), over.clone());
            let node = hosted.node.clone();
            node.spawn(running.track_future(async move {
                over.run_until_cancelled(again_and_again(&duty, &hosted, term, &over)).await;
            }));
        }
        hosted.standing_is(|toward| toward != Toward::Here || hosted.term() != term).await;
        over.cancel();
        running.close();
        running.wait().await;
    }
}

/// Runs a duty until it has nothing more to do. One that fails, or panics, starts again after a while.
async fn again_and_again(duty: &Duty, hosted: &Arc<Hosted>, term: u64, over: &CancellationToken) {
    let mut told = String::new();
    loop {
        let ended = AssertUnwindSafe((duty.run)(hosted.clone(), over.clone())).catch_unwind().await;
        let why = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        if why != told {
            tracing::warn!(group = hosted.name(), duty = duty.name, term, error = why, "a duty starts again");
            told = why;
        }
        tokio::time::sleep(DUTY_RETRY).await;
    }
}

/// Topics in whose queues messages are awaited by a duty. While there are none, an applied batch costs the look at a
/// counter; a leader has a few.
#[derive(Default)]
pub(crate) struct Sources {
    count: AtomicUsize,
    topics: RwLock<Vec<(Arc<str>, Arc<Notify>)>>,
}

impl Sources {
    pub(crate) fn watch(self: &Arc<Self>, topic: &str) -> SourceArrivals {
        let arrived = Arc::new(Notify::new());
        let mut topics = self.write();
        topics.push((topic.into(), arrived.clone()));
        self.count.store(topics.len(), Ordering::Release);
        drop(topics);
        SourceArrivals { sources: self.clone(), arrived }
    }

    /// Called by the apply task.
    pub(crate) fn note(&self, advance: &Advance) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        for (topic, arrived) in topics.iter() {
            if advance.restored || advance.queues.iter().any(|queue| *queue.topic == **topic) {
                arrived.notify_one();
            }
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<(Arc<str>, Arc<Notify>)>> {
        self.topics.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears of new messages in the queues of one topic.
pub(crate) struct SourceArrivals {
    sources: Arc<Sources>,
    arrived: Arc<Notify>,
}

impl SourceArrivals {
    /// Waits until messages were applied since this was made or last returned. They are in the tables by then.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl Drop for SourceArrivals {
    fn drop(&mut self) {
        let mut topics = self.sources.write();
        topics.retain(|(_, arrived)| !Arc::ptr_eq(arrived, &self.arrived));
        self.sources.count.store(topics.len(), Ordering::Release);
    }
}
