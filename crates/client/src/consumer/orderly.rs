//! Messages to the listener in their order, under a lock at the broker
//! (client/impl/consumer/ConsumeMessageOrderlyService.java, RebalanceImpl.lock).
//!
//! A queue is consumed only while the broker's lock counts, 30 s after each confirmation; it is
//! confirmed every 20 s. A lock that is lost or runs out drops the queue: rebalance takes it up again
//! from the stored offset once the broker gives the lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use wire::{LockBatchRequestBody, LockBatchResponseBody, MessageQueue, QueueOffset, RequestCode};

use super::assigned::Assigned;
use super::push::{PushMember, Verdict};
use super::received::ReceivedMessage;
use crate::client::stopped_within;
use crate::error::ClientError;
use crate::limits::{LOCK_RENEW, ORDERLY_RETRY};
use wire::Body as _;

impl PushMember {
    /// Locks are needed: broadcasting members share nothing.
    pub(crate) fn is_locking(&self) -> bool {
        self.listener.is_orderly && self.is_clustering()
    }

    /// Consumes one queue until it is dropped or the consumer stops; never leaves a listener call
    /// half way.
    pub(crate) async fn consume_in_order(self: Arc<Self>, assigned: Arc<Assigned>) {
        let mut failures: HashMap<QueueOffset, i32> = HashMap::new();
        while let Some(batch) = self.next_batch(&assigned).await {
            if self.is_locking() && !assigned.has_lock(self.shared.tick_ms()) {
                tracing::warn!(group = &*self.group, queue = ?assigned.queue, "the lock ran out");
                assigned.dropped.cancel();
                self.rebalance_soon();
                break;
            }
            let verdict = match self.slots.acquire().await {
                Ok(_slot) => self.ask_listener(batch.clone()).await,
                Err(_) => break,
            };
            let offsets = batch.iter().map(ReceivedMessage::offset);
            if verdict == Verdict::Success {
                self.counters.consumed.fetch_add(batch.len() as u64, Ordering::Relaxed);
                failures.clear();
                assigned.done(offsets);
                continue;
            }
            self.counters.failed.fetch_add(batch.len() as u64, Ordering::Relaxed);
            if self.give_up(&assigned, &batch, verdict, &mut failures).await {
                failures.clear();
                assigned.done(offsets);
            } else if stopped_within(&assigned.dropped, ORDERLY_RETRY).await {
                break;
            }
        }
        assigned.finish();
        // A queue that waited for this end is looked at again.
        self.rebalance_soon();
    }

    /// The lowest messages, once there are any; `None` at the end.
    async fn next_batch(&self, assigned: &Assigned) -> Option<Vec<ReceivedMessage>> {
        loop {
            let changed = assigned.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if assigned.is_dropped() || self.stop.is_cancelled() {
                return None;
            }
            let batch: Vec<_> =
                assigned.window().peek(self.config.batch).map(|(_, message)| message.clone()).collect();
            if !batch.is_empty() {
                return Some(batch);
            }
            tokio::select! {
                () = changed => {}
                () = assigned.dropped.cancelled() => return None,
                () = self.stop.cancelled() => return None,
            }
        }
    }

    /// Counts failures; messages that have had their attempts leave by way of the retry topic, which
    /// the broker turns into the dead-letter queue while it holds our lock. True: they are gone.
    async fn give_up(
        &self,
        assigned: &Assigned,
        batch: &[ReceivedMessage],
        verdict: Verdict,
        failures: &mut HashMap<QueueOffset, i32>,
    ) -> bool {
        if !self.is_clustering() {
            let (queue, offset) = (&assigned.queue, batch[0].offset().get());
            tracing::warn!(group = &*self.group, ?queue, offset, "broadcasting: failed messages are dropped");
            return true;
        }
        let mut are_gone = true;
        for message in batch {
            let times = failures.entry(message.offset()).or_insert_with(|| message.reconsume_times());
            *times = times.saturating_add(1);
            let is_over = verdict == Verdict::DeadLetter || *times > self.reconsume_times();
            let is_gone = is_over && self.send_away(message, *times).await;
            are_gone &= is_gone;
        }
        are_gone
    }

    async fn send_away(&self, message: &ReceivedMessage, times: i32) -> bool {
        let queue = message.queue();
        // One more than allowed is what makes the broker bury it at once.
        let times = times.max(self.reconsume_times().saturating_add(1));
        let sent = match self.retry_copy(message, times) {
            Ok(copy) => self.fallback.send(&copy).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = &sent {
            tracing::warn!(group = &*self.group, ?queue, offset = message.offset().get(), %error, "message stays");
        }
        sent.is_ok()
    }

    // Locks.

    pub(crate) async fn lock_loop(self: Arc<Self>) {
        while !stopped_within(&self.stop, LOCK_RENEW).await {
            self.renew_locks().await;
        }
    }

    /// Confirms every lock; queues whose lock is somebody else's now are dropped.
    async fn renew_locks(&self) {
        let mut by_broker: BTreeMap<String, Vec<Arc<Assigned>>> = BTreeMap::new();
        for assigned in self.assigned().values().filter(|assigned| !assigned.is_dropped()) {
            by_broker.entry(assigned.queue.broker_name.clone()).or_default().push(Arc::clone(assigned));
        }
        for (broker, group) in by_broker {
            let queues: Vec<_> = group.iter().map(|assigned| (*assigned.queue).clone()).collect();
            let now_ms = self.shared.tick_ms();
            match self.lock(&broker, &queues).await {
                Ok(ours) => {
                    for assigned in group {
                        if ours.contains(&assigned.queue) {
                            assigned.locked(now_ms);
                        } else {
                            tracing::warn!(group = &*self.group, queue = ?assigned.queue, "the lock was lost");
                            assigned.dropped.cancel();
                            self.rebalance_soon();
                        }
                    }
                }
                Err(error) => tracing::warn!(group = &*self.group, broker, %error, "locks are not confirmed"),
            }
        }
    }

    /// Asks a broker for locks; which it gave.
    pub(crate) async fn lock(
        &self,
        broker: &str,
        queues: &[MessageQueue],
    ) -> Result<Vec<MessageQueue>, ClientError> {
        let answer: LockBatchResponseBody = {
            let address = self.master_of(broker)?;
            let request = self.lock_request(RequestCode::LOCK_BATCH_MQ, queues);
            self.shared.caller.ask_body(&address, request, self.shared.config.call_timeout).await?
        };
        Ok(answer.lock_ok_mq_set)
    }

    pub(crate) async fn unlock(&self, queues: &[MessageQueue]) {
        let mut by_broker: BTreeMap<&str, Vec<MessageQueue>> = BTreeMap::new();
        for queue in queues {
            by_broker.entry(&queue.broker_name).or_default().push(queue.clone());
        }
        for (broker, queues) in by_broker {
            let result = async {
                let address = self.master_of(broker)?;
                let request = self.lock_request(RequestCode::UNLOCK_BATCH_MQ, &queues);
                self.shared.caller.ask(&address, request, self.shared.config.call_timeout).await
            };
            if let Err(error) = result.await {
                tracing::warn!(group = &*self.group, broker, %error, "locks are left to run out");
            }
        }
    }

    fn lock_request(&self, code: RequestCode, queues: &[MessageQueue]) -> wire::RemotingCommand {
        let body = LockBatchRequestBody {
            client_id: self.shared.id.to_string(),
            consumer_group: self.group.to_string(),
            mq_set: queues.to_vec(),
            only_this_broker: false,
        };
        self.shared.caller.bare_request(code).with_body(body.encode())
    }

    fn master_of(&self, broker: &str) -> Result<Arc<str>, ClientError> {
        self.shared
            .routes
            .broker(broker)
            .and_then(|broker| broker.master())
            .ok_or_else(|| ClientError::NotSent { to: broker.to_owned(), why: "it has no master now".into() })
    }
}
