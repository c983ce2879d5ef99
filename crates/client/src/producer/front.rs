//! The producer as its users see it.

use std::fmt;
use std::sync::{Arc, RwLock};

use tokio::sync::Semaphore;
use wire::{MessageQueue, QueueId, QueueOffset};

use super::batch::{self, MessageBatch};
use super::deliver::Inner;
use super::latency::HealthTable;
use super::message::Message;
use super::submit::{self, Pending};
use super::window::SendWindow;
use crate::client::Client;
use crate::config::ProducerConfig;
use crate::error::ClientError;
use crate::identity;
use crate::limits;

/// Sends messages for a producer group. Cheap to clone.
#[derive(Clone)]
pub struct Producer {
    pub(super) inner: Arc<Inner>,
    _stop: Arc<StopOnDrop>,
}

/// Leaves the group when the last clone is dropped without [`Producer::shutdown`].
struct StopOnDrop {
    inner: Arc<Inner>,
    /// Keeps the client alive.
    _client: Client,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.inner.stop.cancel();
        if !self.inner.in_flight.is_closed() {
            self.inner.in_flight.close();
            self.inner.shared.remove_producer(&self.inner.group);
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("group", &self.inner.group).finish_non_exhaustive()
    }
}

/// What became of a sent message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    Stored,
    /// Codes 10, 12 and 11 of Apache brokers: stored by the master, but its disk or its slave did not
    /// follow in time. RaftMQ never answers so.
    FlushDiskTimeout,
    FlushSlaveTimeout,
    SlaveNotAvailable,
}

/// The answer to a send.
#[derive(Clone, Debug)]
pub struct SendReceipt {
    pub status: SendStatus,
    /// The message's unique id; of a batch all of them, comma-joined.
    pub message_id: String,
    /// The id by which the broker finds it; of a batch all of them, comma-joined.
    pub offset_message_id: String,
    pub topic: Arc<str>,
    pub broker: Arc<str>,
    pub queue_id: QueueId,
    /// Of a batch the first.
    pub queue_offset: QueueOffset,
    /// Set for messages that can be recalled.
    pub recall_handle: Option<String>,
    pub attempts: u32,
}

impl SendReceipt {
    pub fn queue(&self) -> MessageQueue {
        MessageQueue::new(&self.topic, &self.broker, self.queue_id.to_wire())
    }
}

impl Client {
    /// A producer of `group`.
    pub async fn producer(&self, group: &str, config: ProducerConfig) -> Result<Producer, ClientError> {
        config.check()?;
        wire::validate_group(group).map_err(|error| ClientError::Refused(error.to_string()))?;
        self.shared.check_open()?;
        let group: Arc<str> = group.into();
        self.shared.add_producer(&group)?;
        let (submitted, jobs) = submit::queue();
        let inner = Arc::new(Inner {
            shared: Arc::clone(&self.shared),
            group,
            in_flight: Semaphore::new(config.in_flight_max),
            config,
            health: HealthTable::default(),
            outlets: RwLock::default(),
            submitted,
            stop: self.shared.stop.child_token(),
        });
        self.shared.spawn(submit::drive(Arc::clone(&inner), jobs));
        self.shared.beat_at_connected().await;
        let stop = Arc::new(StopOnDrop { inner: Arc::clone(&inner), _client: self.clone() });
        Ok(Producer { inner, _stop: stop })
    }
}

impl Producer {
    pub fn group(&self) -> &str {
        &self.inner.group
    }

    /// Sends and waits for the broker's answer.
    pub async fn send(&self, message: &Message) -> Result<SendReceipt, ClientError> {
        self.inner.send(message, None).await
    }

    /// Sends to this queue.
    pub async fn send_to(&self, message: &Message, queue: &MessageQueue) -> Result<SendReceipt, ClientError> {
        self.inner.send(message, Some(queue)).await
    }

    /// Sends to the queue that `select` chooses among the topic's queues (its place in the list).
    pub async fn send_by(
        &self,
        message: &Message,
        select: impl FnOnce(&[MessageQueue]) -> usize,
    ) -> Result<SendReceipt, ClientError> {
        self.inner.send_by(message, select).await
    }

    /// Sends to the queue that `key` hashes to, as Java's `SelectMessageQueueByHash` does.
    pub async fn send_by_key(&self, message: &Message, key: &str) -> Result<SendReceipt, ClientError> {
        self.send_by(message, |queues| queue_by_hash(key, queues.len())).await
    }

    /// Sends without an answer. `Ok` says that the message was queued on an open connection.
    pub async fn send_oneway(&self, message: &Message) -> Result<(), ClientError> {
        self.inner.send_oneway(message).await
    }

    /// Hands the message to the producer's task, waiting only for a place among those under way. It
    /// is sent whether or not [`Pending`] is awaited.
    pub async fn submit(&self, message: Message) -> Result<Pending, ClientError> {
        submit::submit(&self.inner, message).await
    }

    /// As [`Producer::submit`], with the outcome told to `done`, on the producer's task.
    pub async fn submit_then(
        &self,
        message: Message,
        done: impl FnOnce(Result<SendReceipt, ClientError>) + Send + 'static,
    ) -> Result<(), ClientError> {
        submit::submit_then(&self.inner, message, Box::new(done)).await
    }

    /// Sends from the caller's own task with up to `in_flight_max` messages under way: the cheapest way
    /// to send many.
    pub fn window<T: Send + 'static>(&self, in_flight_max: usize) -> SendWindow<T> {
        SendWindow::new(self.clone(), in_flight_max)
    }

    /// Packs messages of one topic into as few batches as fit.
    pub fn batches(&self, messages: &[Message]) -> Result<Vec<MessageBatch>, ClientError> {
        let ids = &self.inner.shared.ids;
        batch::split(messages, ids, identity::now_ms(), limits::BATCH_BYTES_MAX, limits::BATCH_MESSAGES_MAX)
    }

    /// Sends a batch: stored as a whole, in one queue, or not at all.
    pub async fn send_batch(&self, batch: &MessageBatch) -> Result<SendReceipt, ClientError> {
        self.inner.send_batch(batch, None).await
    }

    pub async fn send_batch_to(
        &self,
        batch: &MessageBatch,
        queue: &MessageQueue,
    ) -> Result<SendReceipt, ClientError> {
        self.inner.send_batch(batch, Some(queue)).await
    }

    /// Queues of a topic that can be written now, sorted by broker and number.
    pub async fn queues(&self, topic: &Arc<str>) -> Result<Vec<MessageQueue>, ClientError> {
        let topic = self.inner.shared.routes.follow(topic)?;
        let route =
            self.inner.shared.routes.for_sending(&topic, self.inner.config.default_topic_queues).await?;
        Ok(route.write_queues(&topic.name))
    }

    /// Takes no more messages, waits for those under way, and tells the brokers that it leaves.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        if inner.in_flight.is_closed() {
            return;
        }
        let all = u32::try_from(inner.config.in_flight_max).unwrap_or(u32::MAX);
        let places = tokio::time::timeout(limits::SHUTDOWN_TIMEOUT, inner.in_flight.acquire_many(all)).await;
        if places.is_err() {
            tracing::warn!(group = &*inner.group, "some sends did not end in time");
        }
        if inner.in_flight.is_closed() {
            return;
        }
        inner.in_flight.close();
        inner.stop.cancel();
        if inner.shared.remove_producer(&inner.group) {
            inner.shared.unregister(Some(&inner.group), None).await;
        }
    }
}

/// Java: `Math.abs(key.hashCode() % size)`.
fn queue_by_hash(key: &str, queues: usize) -> usize {
    let size = i32::try_from(queues).unwrap_or(i32::MAX).max(1);
    (wire::java_string_hash(key) % size).unsigned_abs() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_choose_queues_as_in_java() {
        // Written by SelectMessageQueueByHash of rocketmq-client 5.3.3.
        let java = [("order-1", 4, 2), ("order-1", 7, 6), ("", 4, 0), ("订单7", 4, 0), ("订单7", 7, 5)];
        for (key, queues, place) in java {
            assert_eq!(queue_by_hash(key, queues), place, "{key} of {queues}");
        }
        assert_eq!(queue_by_hash("x", 0), 0);
    }
}
