//! The load that shows what clients see: one writer and one reader for each queue of a topic of its own. A writer sends
//! one message after the other and repeats each until it is acknowledged, so that whatever is missing, doubled or out of
//! order afterwards is the group's doing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use client::{Client, Filter, Message, MessageQueue, Producer, ProducerConfig, PullConsumer, QueueOffset};
use tokio::task::JoinHandle;

use super::lock;
use super::scenario::Canary;

/// Between attempts at a message that was not acknowledged.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long the last messages may take once the load is to end.
const LAST_WORD: Duration = Duration::from_secs(15);
/// How long a broker may hold a pull.
const HOLD: Duration = Duration::from_millis(500);
/// A broker that has not answered by then is given up: it may be paused, or cut off.
const PATIENCE: Duration = Duration::from_secs(1);
const PULL_MESSAGES: u32 = 32;

/// A message that was acknowledged. Times are seconds since the drill's start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Acked {
    pub(crate) queue: u32,
    pub(crate) value: u64,
    pub(crate) offset: u64,
    pub(crate) at_s: f64,
    /// Attempts of which the outcome is unknown: each may have stored it too.
    pub(crate) unknown: u32,
}

/// A message that was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Read {
    pub(crate) queue: u32,
    pub(crate) offset: u64,
    /// `None`: not of this drill.
    pub(crate) value: Option<u64>,
    pub(crate) at_s: f64,
}

#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) acked: Vec<Acked>,
    pub(crate) read: Vec<Read>,
    /// Messages whose last attempts have all failed: it is not known whether they are stored.
    pub(crate) open: Vec<(u32, u64)>,
}

/// What writers and readers share.
struct Shared {
    notes: Mutex<Notes>,
    since: Instant,
    run: String,
    stop_writing: AtomicBool,
    stop_reading: AtomicBool,
    refused: AtomicU64,
    unknown: AtomicU64,
    read_errors: AtomicU64,
    /// Reading ends at these offsets, by queue, once writing has ended.
    ends: Mutex<Option<Vec<u64>>>,
}

pub(crate) struct Load {
    shared: Arc<Shared>,
    producer: Producer,
    reader: Arc<PullConsumer>,
    queues: Vec<MessageQueue>,
    /// First offset of the drill, by queue.
    pub(crate) begins: Vec<u64>,
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
}

/// What the load has seen.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) notes: Notes,
    pub(crate) begins: Vec<u64>,
    pub(crate) ends: Vec<u64>,
    /// Definite refusals that a client saw and repeated.
    pub(crate) refused: u64,
    /// Answers of unknown outcome.
    pub(crate) unknown: u64,
    pub(crate) read_errors: u64,
    /// Readers that did not reach the end in time.
    pub(crate) unread: Vec<u32>,
}

impl Load {
    /// # Errors
    /// The topic has no queue in the group, or its offsets cannot be had.
    pub(crate) async fn start(
        client: &Client,
        canary: &Canary,
        group: &str,
        since: Instant,
    ) -> anyhow::Result<Load> {
        let config = ProducerConfig {
            send_timeout: PATIENCE,
            retries: 0,
            retry_unknown: false,
            ..ProducerConfig::default()
        };
        let producer = client.producer("raftmq-drill", config).await?;
        let reader = Arc::new(client.pull_consumer("raftmq-drill").await?);
        let mut queues = producer.queues(&canary.topic.as_str().into()).await?;
        queues.retain(|queue| queue.broker_name == group);
        queues.truncate(canary.queues as usize);
        anyhow::ensure!(!queues.is_empty(), "topic {} has no queue in group {group}", canary.topic);
        let mut begins = Vec::new();
        for queue in &queues {
            begins.push(reader.max_offset(queue).await.context("the canary's first offsets")?.0);
        }
        let run = run_name();
        let shared = Arc::new(Shared {
            notes: Mutex::default(),
            since,
            run,
            stop_writing: AtomicBool::new(false),
            stop_reading: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            read_errors: AtomicU64::new(0),
            ends: Mutex::new(None),
        });
        let pace = Duration::from_secs_f64(queues.len() as f64 / f64::from(canary.messages_per_s));
        let mut load =
            Load { shared, producer, reader, queues, begins, writers: Vec::new(), readers: Vec::new() };
        for (number, queue) in load.queues.iter().enumerate() {
            let writer = Writer {
                shared: load.shared.clone(),
                producer: load.producer.clone(),
                queue: queue.clone(),
                number: number as u32,
                pace,
                body_bytes: canary.body_bytes,
            };
            load.writers.push(tokio::spawn(writer.run()));
            let reader = Reader {
                shared: load.shared.clone(),
                consumer: load.reader.clone(),
                queue: queue.clone(),
                number: number as u32,
                next: load.begins[number],
            };
            load.readers.push(tokio::spawn(reader.run()));
        }
        Ok(load)
    }

    /// Messages acknowledged so far.
    pub(crate) fn acked(&self) -> usize {
        lock(&self.shared.notes).acked.len()
    }

    /// Ends the writing, waits until everything is read, within a bound, and says what was seen.
    ///
    /// # Errors
    /// The last offsets cannot be had.
    pub(crate) async fn finish(self) -> anyhow::Result<Seen> {
        self.shared.stop_writing.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await?;
        }
        let mut ends = Vec::new();
        for queue in &self.queues {
            ends.push(self.reader.max_offset(queue).await.context("the canary's last offsets")?.0);
        }
        *lock(&self.shared.ends) = Some(ends.clone());
        let deadline = tokio::time::Instant::now() + LAST_WORD;
        let mut unread = Vec::new();
        for (number, reader) in self.readers.into_iter().enumerate() {
            let mut reader = reader;
            if tokio::time::timeout_at(deadline, &mut reader).await.is_err() {
                self.shared.stop_reading.store(true, Ordering::Relaxed);
                unread.push(number as u32);
                reader.abort();
            }
        }
        self.producer.shutdown().await;
        let notes = std::mem::take(&mut *lock(&self.shared.notes));
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Seen {
            notes,
            begins: self.begins,
            ends,
            refused: count(&self.shared.refused),
            unknown: count(&self.shared.unknown),
            read_errors: count(&self.shared.read_errors),
            unread,
        })
    }
}

struct Writer {
    shared: Arc<Shared>,
    producer: Producer,
    queue: MessageQueue,
    number: u32,
    pace: Duration,
    body_bytes: usize,
}

impl Writer {
    async fn run(self) {
        let mut due = tokio::time::Instant::now();
        let mut value = 0;
        while !self.shared.stop_writing.load(Ordering::Relaxed) {
            tokio::time::sleep_until(due).await;
            self.write(value).await;
            value += 1;
            // What could not be sent during a gap is not sent in a burst after it.
            due = (due + self.pace).max(tokio::time::Instant::now());
        }
    }

    async fn write(&self, value: u64) {
        let message = Message::new(
            self.queue.topic.as_str(),
            body(&self.shared.run, self.number, value, self.body_bytes),
        );
        let mut unknown = 0;
        let mut stopped = None;
        loop {
            match self.producer.send_to(&message, &self.queue).await {
                Ok(receipt) => {
                    let at_s = self.shared.since.elapsed().as_secs_f64();
                    let offset = receipt.queue_offset.0;
                    let acked = Acked { queue: self.number, value, offset, at_s, unknown };
                    lock(&self.shared.notes).acked.push(acked);
                    return;
                }
                Err(error) if error.may_have_happened() => {
                    unknown += 1;
                    self.shared.unknown.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {
                    self.shared.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            if self.shared.stop_writing.load(Ordering::Relaxed) {
                let since = *stopped.get_or_insert_with(Instant::now);
                if since.elapsed() >= LAST_WORD {
                    lock(&self.shared.notes).open.push((self.number, value));
                    return;
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

struct Reader {
    shared: Arc<Shared>,
    consumer: Arc<PullConsumer>,
    queue: MessageQueue,
    number: u32,
    next: u64,
}

impl Reader {
    async fn run(mut self) {
        while !self.is_done() {
            let from = QueueOffset(self.next);
            let filter = Filter::all();
            let pull = self.consumer.pull(&self.queue, from, &filter, PULL_MESSAGES, Some(HOLD));
            match tokio::time::timeout(PATIENCE, pull).await {
                Ok(Ok(pulled)) => {
                    let at_s = self.shared.since.elapsed().as_secs_f64();
                    let mut notes = lock(&self.shared.notes);
                    for message in &pulled.messages {
                        let (offset, value) =
                            (message.offset().0, value_of(&self.shared.run, self.number, message.body()));
                        notes.read.push(Read { queue: self.number, offset, value, at_s });
                    }
                    drop(notes);
                    // What the broker says is next is believed also where it goes back: the verdict sees it.
                    self.next = pulled.next.0;
                }
                Ok(Err(_)) | Err(_) => {
                    self.shared.read_errors.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        if self.shared.stop_reading.load(Ordering::Relaxed) {
            return true;
        }
        let ends = lock(&self.shared.ends);
        ends.as_ref().is_some_and(|ends| ends.get(self.number as usize).is_none_or(|end| self.next >= *end))
    }
}

/// Tells the messages of this drill from those of another.
fn run_name() -> String {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since_1970.as_millis(), std::process::id())
}

/// `raftmq-drill RUN QUEUE VALUE `, and dots up to the wanted length.
fn body(run: &str, queue: u32, value: u64, bytes: usize) -> String {
    let head = format!("raftmq-drill {run} {queue} {value} ");
    format!("{head:.<bytes$}")
}

fn value_of(run: &str, queue: u32, body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let mut words = text.split(' ');
    let is_ours = words.next() == Some("raftmq-drill")
        && words.next() == Some(run)
        && words.next()?.parse() == Ok(queue);
    if is_ours { words.next()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_its_value_to_its_own_drill() {
        let text = body("r1", 2, 17, 64);
        assert_eq!(text.len(), 64);
        assert_eq!(value_of("r1", 2, text.as_bytes()), Some(17));
        assert_eq!(value_of("r2", 2, text.as_bytes()), None);
        assert_eq!(value_of("r1", 3, text.as_bytes()), None);
        assert_eq!(value_of("r1", 2, b"raftmq-drill r1"), None);
        assert_eq!(value_of("r1", 2, &[0xFF, 0xFE]), None);
    }
}
