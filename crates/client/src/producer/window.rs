//! Many sends in flight on one task: what a load generator, or anybody with a stream of messages,
//! drives itself.

use std::pin::Pin;

use futures::stream::{FuturesUnordered, StreamExt};

use super::{Message, MessageBatch, Producer, SendReceipt};
use crate::error::ClientError;

type Sending<T> = Pin<Box<dyn Future<Output = (T, Result<SendReceipt, ClientError>)> + Send>>;

/// Up to a number of sends under way. `T` comes back with each outcome, to know which one it is.
///
/// ```no_run
/// # async fn example(producer: client::Producer) -> Result<(), client::ClientError> {
/// let mut window = producer.window(1024);
/// for number in 0..1_000_000 {
///     let message = client::Message::new("topic", "body");
///     if let Some((_number, outcome)) = window.push(message, number).await {
///         outcome?;
///     }
/// }
/// while let Some((_number, outcome)) = window.next().await {
///     outcome?;
/// }
/// # Ok(()) }
/// ```
pub struct SendWindow<T> {
    producer: Producer,
    sends: FuturesUnordered<Sending<T>>,
    max: usize,
}

impl<T: Send + 'static> SendWindow<T> {
    pub(super) fn new(producer: Producer, max: usize) -> SendWindow<T> {
        SendWindow { producer, sends: FuturesUnordered::new(), max: max.max(1) }
    }

    /// Sends under way.
    pub fn len(&self) -> usize {
        self.sends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sends.is_empty()
    }

    /// Adds a send, which leaves with the next call of this or of [`SendWindow::next`]. In a full window
    /// it waits for an outcome first, and returns it.
    pub async fn push(&mut self, message: Message, tag: T) -> Option<(T, Result<SendReceipt, ClientError>)> {
        let inner = self.producer.inner.clone();
        self.add(Box::pin(async move { (tag, inner.send(&message, None).await) })).await
    }

    /// Adds a batch, likewise.
    pub async fn push_batch(
        &mut self,
        batch: MessageBatch,
        tag: T,
    ) -> Option<(T, Result<SendReceipt, ClientError>)> {
        let inner = self.producer.inner.clone();
        self.add(Box::pin(async move { (tag, inner.send_batch(&batch, None).await) })).await
    }

    async fn add(&mut self, sending: Sending<T>) -> Option<(T, Result<SendReceipt, ClientError>)> {
        let outcome = if self.len() >= self.max { self.next().await } else { None };
        self.sends.push(sending);
        outcome
    }

    /// The next outcome; `None` when nothing is under way. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<(T, Result<SendReceipt, ClientError>)> {
        self.sends.next().await
    }
}
