//! Sends that go on without their caller: one task per producer drives them all.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::unconstrained;

use super::deliver::Inner;
use super::front::SendReceipt;
use super::message::Message;
use crate::error::ClientError;
use crate::limits::SUBMIT_QUEUE;

type Outcome = Result<SendReceipt, ClientError>;
type Callback = Box<dyn FnOnce(Outcome) + Send>;

pub(super) type Queue = mpsc::Sender<Job>;

pub(super) struct Job {
    message: Message,
    done: Done,
}

enum Done {
    Tell(oneshot::Sender<Outcome>),
    Call(Callback),
}

/// A message under way; a future of its outcome.
#[derive(Debug)]
#[must_use = "the outcome of the send is lost when nobody looks"]
pub struct Pending(oneshot::Receiver<Outcome>);

impl Future for Pending {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.0).poll(cx).map(|told| told.unwrap_or(Err(ClientError::Closed)))
    }
}

pub(super) fn queue() -> (Queue, mpsc::Receiver<Job>) {
    mpsc::channel(SUBMIT_QUEUE)
}

pub(super) async fn submit(inner: &Inner, message: Message) -> Result<Pending, ClientError> {
    let (sender, outcome) = oneshot::channel();
    enqueue(inner, message, Done::Tell(sender)).await?;
    Ok(Pending(outcome))
}

pub(super) async fn submit_then(inner: &Inner, message: Message, done: Callback) -> Result<(), ClientError> {
    enqueue(inner, message, Done::Call(done)).await
}

async fn enqueue(inner: &Inner, message: Message, done: Done) -> Result<(), ClientError> {
    // The place is taken here, where the caller waits for it, and given back when the send ends.
    let place = inner.in_flight.acquire().await.map_err(|_| ClientError::Closed)?;
    inner.submitted.send(Job { message, done }).await.map_err(|_| ClientError::Closed)?;
    place.forget();
    Ok(())
}

/// Gives a place back when a send ends, however it does.
struct Place<'a>(&'a Inner);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.in_flight.add_permits(1);
    }
}

pub(super) async fn drive(inner: Arc<Inner>, mut jobs: mpsc::Receiver<Job>) {
    let mut sends = FuturesUnordered::new();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => break,
            Some(()) = sends.next(), if !sends.is_empty() => {}
            count = jobs.recv_many(&mut batch, SUBMIT_QUEUE) => {
                if count == 0 {
                    break;
                }
                // See window.rs.
                sends.extend(batch.drain(..).map(|job| unconstrained(run(&inner, job))));
            }
        }
    }
    // What is not done by now is told `Closed` by the dropping of its sender; callbacks are called.
    drop(sends);
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        let _place = Place(&inner);
        job.done.tell(Err(ClientError::Closed));
    }
}

async fn run(inner: &Inner, job: Job) {
    let _place = Place(inner);
    let mut done = TellClosed(Some(job.done));
    let outcome = inner.send_in_place(&job.message, None).await;
    if let Some(done) = done.0.take() {
        done.tell(outcome);
    }
}

/// A send that is dropped half way tells so; whether the message was stored is unknown.
struct TellClosed(Option<Done>);

impl Drop for TellClosed {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            let why = "the producer was shut down".to_owned();
            done.tell(Err(ClientError::Unknown { from: "the broker".into(), why }));
        }
    }
}

impl Done {
    fn tell(self, outcome: Outcome) {
        match self {
            // The caller may not care.
            Done::Tell(sender) => drop(sender.send(outcome)),
            Done::Call(callback) => callback(outcome),
        }
    }
}
