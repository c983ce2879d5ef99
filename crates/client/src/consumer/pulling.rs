//! The pull task of each assigned queue (DefaultMQPushConsumerImpl.pullMessage).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wire::{QueueOffset, ResponseCode};

use super::assigned::Assigned;
use super::fetch::{self, PullAsk, PullStatus, Pulled};
use super::process_queue::FlowLimits;
use super::push::{PushMember, Subscription};
use super::received::ReceivedMessage;
use crate::error::ClientError;
use crate::limits;

/// A pull without result that took less was not held.
const PULL_HELD_MS_MIN: u64 = 10;

impl PushMember {
    /// Pulls one queue until it is dropped, and hands over what comes.
    pub(crate) async fn pull_loop(self: Arc<Self>, assigned: Arc<Assigned>, from: QueueOffset) {
        let ended = async {
            tokio::select! {
                () = assigned.dropped.cancelled() => {}
                () = self.stop.cancelled() => {}
            }
        };
        let moved = tokio::select! {
            biased;
            () = ended => return,
            moved = self.pull_on(&assigned, from) => moved,
        };
        if let Some(moved) = moved {
            self.reset(&assigned, moved).await;
            self.rebalance_soon();
        }
    }

    /// Pulls until the broker says that the offset is not legal; then where to go on.
    async fn pull_on(
        self: &Arc<Self>,
        assigned: &Arc<Assigned>,
        mut from: QueueOffset,
    ) -> Option<QueueOffset> {
        let queue = &assigned.queue;
        let subscription = self.subscriptions.get(queue.topic.as_str())?;
        let mut pause = limits::PULL_RETRY_FIRST;
        loop {
            self.wait_for_room(assigned).await;
            let started_ms = self.shared.tick_ms();
            let pulled = match self.pull_once(assigned, subscription, from).await {
                Ok(pulled) => pulled,
                Err(error) => {
                    let wait = match error.code() {
                        Some(ResponseCode::FLOW_CONTROL) => limits::PULL_RETRY_FLOW_CONTROL,
                        _ => pause,
                    };
                    self.after_failed_pull(assigned, subscription, &error).await;
                    tokio::time::sleep(wait).await;
                    pause = (pause * 2).min(limits::PULL_RETRY);
                    continue;
                }
            };
            pause = limits::PULL_RETRY_FIRST;
            assigned.suggested_broker_id.store(pulled.suggested_broker_id, Ordering::Relaxed);
            self.counters.pulls.fetch_add(1, Ordering::Relaxed);
            self.counters.pull_ms.fetch_add(self.shared.tick_ms() - started_ms, Ordering::Relaxed);
            let Pulled { status, next, messages, .. } = pulled;
            match status {
                PullStatus::Found | PullStatus::NoNewMessages | PullStatus::NoneMatched => {
                    let reached = {
                        let mut window = assigned.window();
                        for message in &messages {
                            window.put(message.offset(), message.body().len(), message.clone());
                        }
                        // Java sees to what is not wanted only with the next pull (correctTagsOffset), which
                        // a broker may hold for 15 s.
                        window.reach(next)
                    };
                    if let Some(reached) = reached {
                        assigned.advance(reached);
                    }
                    if !messages.is_empty() {
                        self.hand_over(assigned, messages);
                    } else if next == from && self.shared.tick_ms() - started_ms < PULL_HELD_MS_MIN {
                        // A broker that neither holds nor has anything must not be asked in a tight loop.
                        tokio::time::sleep(limits::PULL_RETRY_FLOW_CONTROL).await;
                    }
                    from = next;
                }
                PullStatus::OffsetIllegal => {
                    tracing::warn!(
                        group = &*self.group,
                        ?queue,
                        asked = from.get(),
                        moved_to = next.get(),
                        "offset was not legal"
                    );
                    return Some(next);
                }
            }
        }
    }

    fn hand_over(self: &Arc<Self>, assigned: &Arc<Assigned>, messages: Vec<ReceivedMessage>) {
        if self.listener.is_orderly {
            // Its own task looks into the window.
            assigned.changed.notify_waiters();
        } else {
            self.tasks.spawn(Arc::clone(self).consume(Arc::clone(assigned), messages));
        }
    }

    async fn pull_once(
        &self,
        assigned: &Assigned,
        subscription: &Subscription,
        from: QueueOffset,
    ) -> Result<Pulled, ClientError> {
        let queue = &assigned.queue;
        let broker = self.shared.routes.broker(&queue.broker_name).ok_or_else(|| ClientError::NoRoute {
            topic: queue.topic.clone(),
            why: format!("broker {} is not known", queue.broker_name),
        })?;
        let ask = PullAsk {
            group: &self.group,
            queue,
            from,
            messages_max: self.config.pull_messages,
            bytes_max: self.config.pull_bytes,
            suspend: Some(self.config.suspend),
            timeout: limits::PULL_TIMEOUT,
            commit: self.is_clustering().then(|| assigned.consumed()),
            filter: &subscription.filter,
            inline_filter: false,
            sub_version: self.sub_version,
        };
        fetch::pull(&self.shared, &broker, assigned.suggested_broker_id.load(Ordering::Relaxed), &ask).await
    }

    async fn wait_for_room(&self, assigned: &Assigned) {
        let limits = FlowLimits {
            span_max: self.config.flow.span_max.filter(|_| !self.listener.is_orderly),
            ..self.config.flow
        };
        loop {
            let changed = assigned.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.is_paused.load(Ordering::Acquire) && assigned.window().has_room(&limits) {
                return;
            }
            changed.await;
        }
    }

    async fn after_failed_pull(&self, assigned: &Assigned, subscription: &Subscription, error: &ClientError) {
        let queue = &assigned.queue;
        tracing::warn!(group = &*self.group, ?queue, %error, "pull failed");
        match error.code() {
            // A broker that has lost us: it has restarted, or leads since a moment ago.
            Some(
                ResponseCode::SUBSCRIPTION_NOT_EXIST
                | ResponseCode::SUBSCRIPTION_NOT_LATEST
                | ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST,
            ) => {
                if let Some((_, address)) = self.shared.routes.broker(&queue.broker_name).and_then(|broker| {
                    broker.for_reading(assigned.suggested_broker_id.load(Ordering::Relaxed))
                }) {
                    self.shared.beat_at(&address).await;
                }
            }
            Some(ResponseCode::FLOW_CONTROL) => {}
            _ => self.shared.refresh_in_background(&subscription.topic),
        }
    }
}
