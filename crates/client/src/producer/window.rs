//! Many sends in flight on one task: what a load generator, or anybody with a stream of messages,
//! drives itself.

use std::pin::Pin;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::task::unconstrained;

use super::batch::MessageBatch;
use super::front::{Producer, SendReceipt};
use super::message::Message;
use crate::error::ClientError;

type Sending<T> = Pin<Box<dyn Future<Output = (T, Result<SendReceipt, ClientError>)> + Send>>;

// Why `unconstrained`: all these sends share one task and so tokio's budget of 128 readings per turn. An
// answer that is read after it is used up goes to the end of the line, again and again: of 1024 sends
// one in a hundred took 0.7 s instead of 7 ms. The window bounds how much one turn can find.

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
    /// it waits for an outcome first, and returns it; cancelled while it waits, the message is not sent.
    pub async fn push(&mut self, message: Message, tag: T) -> Option<(T, Result<SendReceipt, ClientError>)> {
        let inner = self.producer.inner.clone();
        self.add(Box::pin(unconstrained(async move { (tag, inner.send(&message, None).await) }))).await
    }

    /// Adds a batch, likewise.
    pub async fn push_batch(
        &mut self,
        batch: MessageBatch,
        tag: T,
    ) -> Option<(T, Result<SendReceipt, ClientError>)> {
        let inner = self.producer.inner.clone();
        self.add(Box::pin(unconstrained(async move { (tag, inner.send_batch(&batch, None).await) }))).await
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
