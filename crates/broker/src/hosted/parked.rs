//! What waits in the park: done in order as soon as somebody leads, here or there.

use std::sync::Arc;
use std::time::Instant;

use replica::NodeId;
use tokio::task::JoinHandle;

use super::{Hosted, Toward, role_is_over};
use crate::call::Call;
use crate::forward;
use crate::limits::{FORWARD_BATCH, FORWARD_BATCH_BYTES, PARK_RETRY};
use crate::requests::{self, Class, Row};

impl Hosted {
    /// Does what waits as soon as somebody leads, in order; gives up what has waited too long. What ends with its commit
    /// is passed on in batches, one under way at a time.
    pub(crate) async fn keep_park(self: Arc<Self>) {
        let mut standing = self.standing.subscribe();
        let mut under_way: Option<(NodeId, JoinHandle<()>)> = None;
        // Kept from turn to turn: on a far link an answer takes longer than a turn.
        let mut scout = Box::pin(self.clone().scout());
        // What a leader refused is not thrown at it again at once.
        let mut pause_until = Instant::now();
        loop {
            self.park.take_expired(Instant::now()).into_iter().for_each(expire);
            let refused = self.park.first(|call| call.tried) == Some(true);
            let is_paused = refused && Instant::now() < pause_until;
            let toward = self.toward();
            if let Some((asked, _)) = &under_way
                && matches!(toward, Toward::Here | Toward::Node(_))
                && toward != Toward::Node(*asked)
            {
                // Another node leads now. The one that was asked may never answer; its calls end by their own
                // deadlines. What waits here was not sent and need not wait for that.
                under_way = None;
            }
            match toward {
                Toward::Nobody => {}
                Toward::Here | Toward::Node(_) if is_paused => {}
                Toward::Here => {
                    self.park.dispatch(|call| match requests::row_of(call.code()) {
                        Some(row) => self.route(row, call),
                        None => call.give_up(),
                    });
                    pause_until = Instant::now() + PARK_RETRY;
                }
                Toward::Node(_) if under_way.is_some() => {}
                Toward::Node(leader) => {
                    let calls = self.park.take_front(FORWARD_BATCH, FORWARD_BATCH_BYTES);
                    if !calls.is_empty() {
                        // Also where none of them makes a batch: what comes back must not be thrown at it at once.
                        pause_until = Instant::now() + PARK_RETRY;
                    }
                    let batch = self.pass_on(leader, calls);
                    if !batch.is_empty() {
                        let hosted = self.clone();
                        let batch = async move { forward::batch(&hosted, leader, batch).await };
                        under_way = Some((leader, tokio::spawn(batch)));
                    }
                }
            }
            let waits = self.park.first(|_| ()).is_some();
            tokio::select! {
                _ = standing.changed() => pause_until = Instant::now(),
                () = finished(&mut under_way) => under_way = None,
                () = self.park.arrived(), if !waits => {}
                () = &mut scout, if waits => scout = Box::pin(self.clone().scout()),
                () = tokio::time::sleep(PARK_RETRY), if waits => {}
            }
        }
    }

    /// What of the parked calls goes to the leader in one batch. The others do not belong there: what another node has
    /// passed on is passed on once only, a question's answer may be large and its order does not count, and what waits for
    /// more than its commit would hold up the answers of all the others and the next batch.
    fn pass_on(self: &Arc<Self>, leader: NodeId, calls: Vec<Call>) -> Vec<Call> {
        let mut batch = Vec::with_capacity(calls.len());
        for call in calls {
            if call.is_forwarded() {
                call.not_here(Some(leader));
                continue;
            }
            match requests::row_of(call.code()) {
                Some(row) if row.is_brief => batch.push(call),
                Some(Row { class: Class::Log, .. }) => {
                    let hosted = self.clone();
                    tokio::spawn(async move { forward::batch(&hosted, leader, vec![call]).await });
                }
                _ => forward::alone(self, leader, call),
            }
        }
        batch
    }

    /// Returns when another node has said who leads; only while this node's own replica does not know.
    async fn scout(self: Arc<Self>) {
        loop {
            if self.serving().is_none_or(|serving| role_is_over(&serving.group))
                && let Some(leader) = forward::who_leads(&self).await
            {
                return self.take_hint(Some(leader));
            }
            tokio::time::sleep(PARK_RETRY).await;
        }
    }
}

/// Waits for the batch that is under way; for ever when there is none.
async fn finished(under_way: &mut Option<(NodeId, JoinHandle<()>)>) {
    match under_way {
        // A batch that panicked has dropped its calls, which tells their clients.
        Some((_, batch)) => drop(batch.await),
        None => std::future::pending().await,
    }
}

/// A call that has waited long enough, and was not done.
fn expire(call: Call) {
    if call.is_forwarded() {
        call.not_here(None);
    } else {
        call.give_up();
    }
}
