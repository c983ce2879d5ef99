//! Messages to the listener, several at a time
//! (client/impl/consumer/ConsumeMessageConcurrentlyService.java).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::SemaphorePermit;

use super::assigned::Assigned;
use super::push::{PushMember, Verdict};
use super::received::ReceivedMessage;
use crate::client::stopped_within;
use crate::limits::{CONSUME_TIMEOUT_DELAY_LEVEL, SEND_BACK_RETRY};

impl PushMember {
    /// Consumes what one pull brought. One task per pull; its listener calls run side by side in it, as
    /// many as the consumer's slots allow.
    pub(crate) async fn consume(self: Arc<Self>, assigned: Arc<Assigned>, messages: Vec<ReceivedMessage>) {
        let mut calls = FuturesUnordered::new();
        for batch in messages.chunks(self.config.batch) {
            let acquire = self.slots.acquire();
            tokio::pin!(acquire);
            let slot = loop {
                tokio::select! {
                    biased;
                    () = assigned.dropped.cancelled() => break None,
                    () = self.stop.cancelled() => break None,
                    slot = &mut acquire => break slot.ok(),
                    Some(()) = calls.next(), if !calls.is_empty() => {}
                }
            };
            let Some(slot) = slot else { break };
            calls.push(self.consume_batch(&assigned, batch, slot));
        }
        while calls.next().await.is_some() {}
    }

    async fn consume_batch(
        self: &Arc<Self>,
        assigned: &Arc<Assigned>,
        batch: &[ReceivedMessage],
        slot: SemaphorePermit<'_>,
    ) {
        let call = self.ask_listener(batch.to_vec());
        let verdict = tokio::time::timeout(self.consume_timeout(), call).await.unwrap_or_else(|_| {
            let queue = &assigned.queue;
            tracing::warn!(
                group = &*self.group,
                ?queue,
                offset = batch[0].offset().get(),
                "the listener took too long"
            );
            Verdict::LaterAtLevel(CONSUME_TIMEOUT_DELAY_LEVEL as u32)
        });
        drop(slot);
        if assigned.is_dropped() {
            // Whoever has the queue now gets these messages too.
            return;
        }
        let mut again = Vec::new();
        if verdict == Verdict::Success {
            self.counters.consumed.fetch_add(batch.len() as u64, Ordering::Relaxed);
        } else {
            self.counters.failed.fetch_add(batch.len() as u64, Ordering::Relaxed);
            self.take_back(assigned, batch, verdict, &mut again).await;
        }
        let is_again = |message: &ReceivedMessage| again.iter().any(|(other, _)| *other == message.offset());
        assigned.done(batch.iter().filter(|message| !is_again(message)).map(ReceivedMessage::offset));
        if !again.is_empty() {
            let again = again.into_iter().map(|(_, message)| message.retried()).collect();
            self.tasks.spawn(Arc::clone(self).consume_later(Arc::clone(assigned), again));
        }
    }

    /// Failed messages go back to their broker; those that it does not take are put into `again`.
    async fn take_back(
        &self,
        assigned: &Assigned,
        batch: &[ReceivedMessage],
        verdict: Verdict,
        again: &mut Vec<(wire::QueueOffset, ReceivedMessage)>,
    ) {
        let level = match verdict {
            Verdict::Success | Verdict::Later => 0,
            Verdict::LaterAtLevel(level) => i32::try_from(level).unwrap_or(i32::MAX),
            Verdict::DeadLetter => -1,
        };
        for message in batch {
            if !self.is_clustering() {
                let (queue, offset) = (&assigned.queue, message.offset().get());
                tracing::warn!(
                    group = &*self.group,
                    ?queue,
                    offset,
                    "broadcasting: a failed message is dropped"
                );
            } else if assigned.window().contains(message.offset()) && !self.send_back(message, level).await {
                again.push((message.offset(), message.clone()));
            }
        }
    }

    /// Messages that could not be given back are consumed again here. They stay in the window
    /// meanwhile, so nothing passes them over.
    fn consume_later(
        self: Arc<Self>,
        assigned: Arc<Assigned>,
        messages: Vec<ReceivedMessage>,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            tokio::select! {
                () = assigned.dropped.cancelled() => {}
                stopped = stopped_within(&self.stop, SEND_BACK_RETRY) => if !stopped {
                    self.consume(Arc::clone(&assigned), messages).await;
                }
            }
        })
    }
}
