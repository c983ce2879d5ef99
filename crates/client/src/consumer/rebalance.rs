//! Which queues are ours, again and again (client/impl/consumer/RebalanceImpl.java).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wire::{
    ConsumerGroupRequest, GetConsumerListByGroupResponseBody, MessageQueue, RequestCode, ResponseCode,
};

use super::assigned::Assigned;
use super::assignment::java_order;
use super::push::{PushMember, Subscription};
use crate::client::stopped_within;
use crate::config::ConsumeModel;
use crate::error::ClientError;
use crate::identity;
use crate::limits::{REBALANCE_MIN, RETRY_TOPIC_AWAITED};
use crate::route::Route;

impl PushMember {
    /// Every 20 s, when a broker says that the group changed, and when a route did; at most once a
    /// second.
    pub(crate) async fn rebalance_loop(self: Arc<Self>) {
        let mut routes = self.shared.routes.changes();
        loop {
            let started = Instant::now();
            routes.mark_unchanged();
            let round = self.stop.run_until_cancelled(self.rebalance()).await;
            let Some(is_balanced) = round else { break };
            let wait = if is_balanced { self.shared.config.rebalance } else { REBALANCE_MIN };
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.wake.notified() => {}
                _ = routes.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
            let rest = REBALANCE_MIN.saturating_sub(started.elapsed());
            if rest > Duration::ZERO && stopped_within(&self.stop, rest).await {
                break;
            }
        }
    }

    /// One round. False: something is not as it should be yet.
    async fn rebalance(self: &Arc<Self>) -> bool {
        let mut is_balanced = true;
        for subscription in self.subscriptions.values() {
            match self.rebalance_topic(subscription).await {
                Ok(done) => is_balanced &= done,
                Err(error) => {
                    let topic = &*subscription.topic.name;
                    // A retry topic is made by the first heartbeats; a broker that does not make it has
                    // nothing to retry.
                    if !wire::is_retry_topic(topic) {
                        tracing::warn!(group = &*self.group, topic, %error, "rebalance failed");
                        is_balanced = false;
                    } else if self.is_young() {
                        is_balanced = false;
                    }
                }
            }
        }
        is_balanced
    }

    fn is_young(&self) -> bool {
        identity::now_ms().saturating_sub(self.started_ms) < RETRY_TOPIC_AWAITED.as_millis() as u64
    }

    async fn rebalance_topic(self: &Arc<Self>, subscription: &Subscription) -> Result<bool, ClientError> {
        let topic = &subscription.topic;
        let route = self.shared.routes.for_consuming(topic).await?;
        let mine = match self.config.model {
            ConsumeModel::Broadcasting => route.readable.clone(),
            ConsumeModel::Clustering => {
                let mut clients = self.members(&route).await?;
                clients.sort_by(|left, right| java_order(left, right));
                self.config.assignment.share(&self.shared.id, &route.readable, &clients)
            }
        };
        self.drop_others(&topic.name, &mine).await;
        let mut is_balanced = true;
        for queue in mine {
            is_balanced &= self.take_up(queue).await;
        }
        Ok(is_balanced)
    }

    /// The members of the group, as a broker of the topic knows them.
    async fn members(&self, route: &Route) -> Result<Vec<String>, ClientError> {
        let nobody =
            |why: &str| ClientError::NotSent { to: "any broker of the topic".into(), why: why.into() };
        if route.brokers.is_empty() {
            return Err(nobody("the route names none"));
        }
        let broker = &route.brokers[rand::random_range(0..route.brokers.len())];
        let address = broker.any().ok_or_else(|| nobody("it has no address"))?;
        let header = ConsumerGroupRequest { consumer_group: self.group.to_string() };
        let caller = &self.shared.caller;
        let request = caller.request(RequestCode::GET_CONSUMER_LIST_BY_GROUP, &header);
        let answer = caller.ask_body(&address, request, self.shared.config.call_timeout).await;
        let clients = match answer {
            Ok(GetConsumerListByGroupResponseBody { consumer_id_list }) => consumer_id_list,
            Err(error) => {
                if error.code() == Some(ResponseCode::SYSTEM_ERROR) {
                    self.shared.beat_at(&address).await;
                }
                return Err(error);
            }
        };
        if !clients.iter().any(|client| **client == *self.shared.id) {
            // A broker that has just started knows few clients. Java would give all its queues up.
            self.shared.beat_at(&address).await;
            return Err(ClientError::BadAnswer {
                from: address.to_string(),
                why: "its list of members lacks us".into(),
            });
        }
        Ok(clients)
    }

    async fn drop_others(&self, topic: &str, mine: &[MessageQueue]) {
        let mine: BTreeSet<&MessageQueue> = mine.iter().collect();
        let gone: Vec<_> = {
            let assigned = self.assigned();
            let is_gone = |queue: &MessageQueue, assigned: &Assigned| {
                queue.topic == topic && (assigned.is_dropped() || !mine.contains(queue))
            };
            assigned
                .iter()
                .filter(|(queue, assigned)| is_gone(queue, assigned))
                .map(|(_, it)| Arc::clone(it))
                .collect()
        };
        for assigned in gone {
            if assigned.is_settling() {
                continue;
            }
            // Dropped by a lost lock, an illegal offset or a reset: the offset was dealt with there.
            let is_news = !assigned.is_dropped();
            assigned.dropped.cancel();
            if is_news {
                tracing::info!(group = &*self.group, queue = ?assigned.queue, "queue is given up");
                self.commit_last(&assigned).await;
            }
            if self.listener.is_orderly {
                if !assigned.is_finished() {
                    // A listener call is under way; the lock stays until it ends.
                    continue;
                }
                if self.is_locking() {
                    self.unlock(std::slice::from_ref(&*assigned.queue)).await;
                }
            }
            self.assigned().remove(&*assigned.queue);
        }
    }

    /// Begins with a queue, unless we have it. False: it could not be had yet.
    async fn take_up(self: &Arc<Self>, queue: MessageQueue) -> bool {
        if let Some(assigned) = self.assigned().get(&queue) {
            return !assigned.is_dropped();
        }
        let now_ms = self.shared.tick_ms();
        if self.is_locking() {
            match self.lock(&queue.broker_name, std::slice::from_ref(&queue)).await {
                Ok(ours) if ours.contains(&queue) => {}
                Ok(_) => {
                    tracing::info!(group = &*self.group, ?queue, "another member has the lock");
                    return false;
                }
                Err(error) => {
                    tracing::warn!(group = &*self.group, ?queue, %error, "no lock");
                    return false;
                }
            }
        }
        let from = match self.start_of(&queue).await {
            Ok(start) => start,
            Err(error) => {
                tracing::warn!(group = &*self.group, ?queue, %error, "no offset to begin at");
                return false;
            }
        };
        tracing::info!(group = &*self.group, ?queue, from = from.get(), "queue is taken up");
        let assigned = Arc::new(Assigned::new(queue.clone(), from));
        assigned.locked(now_ms);
        self.assigned().insert(queue, Arc::clone(&assigned));
        if self.listener.is_orderly {
            self.tasks.spawn(Arc::clone(self).consume_in_order(Arc::clone(&assigned)));
        }
        self.tasks.spawn(Arc::clone(self).pull_loop(assigned, from));
        true
    }
}
