//! Sending (client/impl/producer/DefaultMQProducerImpl.java).
//!
//! ```text
//! send ─▶ Outlet (the topic's queues, whose turn) ─▶ attempt ─▶ answer, or another attempt elsewhere
//!            choice.rs, latency.rs                                within one budget of 3 s
//! ```
//! `Producer::send` is driven by its caller; `submit` hands the message to the producer's one task
//! (submit.rs); `SendWindow` keeps many sends in flight on the caller's task (window.rs). None spawns
//! a task per message.

mod batch;
mod choice;
mod latency;
mod message;
mod submit;
mod window;

pub use batch::MessageBatch;
pub use message::Message;
pub use submit::Pending;
pub use window::SendWindow;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::{
    MessageQueue, QueueId, QueueOffset, RemotingCommand, RequestCode, ResponseCode, SendMessageRequest,
    SendMessageResponse, prop, properties_get, properties_push, sysflag,
};

use crate::call::{bad_answer, refusal};
use crate::client::{Client, Shared};
use crate::config::ProducerConfig;
use crate::error::ClientError;
use crate::identity;
use crate::limits;
use crate::route::{Broker, Topic};
use choice::Wheel;
use latency::{Health, HealthTable};

/// Sends messages for a producer group. Cheap to clone.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
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

struct Inner {
    shared: Arc<Shared>,
    group: Arc<str>,
    config: ProducerConfig,
    health: HealthTable,
    outlets: RwLock<HashMap<Arc<str>, Arc<Outlet>>>,
    /// A permit per send under way; closed when the producer is.
    in_flight: Semaphore,
    submitted: submit::Queue,
    stop: CancellationToken,
}

/// A topic as one producer sees it: built from one version of its route.
#[derive(Debug)]
struct Outlet {
    topic: Arc<Topic>,
    version: u64,
    brokers: Vec<(Arc<Broker>, Arc<Health>)>,
    wheel: Wheel,
}

/// What travels, ready to be sent again.
struct Parcel<'a> {
    code: RequestCode,
    body: Bytes,
    properties: &'a str,
    flag: i32,
    sys_flag: i32,
    /// For retry topics: how often the message was consumed, and how often it may be.
    reconsume: Option<(i32, i32)>,
    message_id: String,
}

/// Where a message goes.
enum Target<'a> {
    Any,
    Queue(&'a MessageQueue),
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
        // Brokers that are connected already hear of the group now, others with their connection.
        self.shared.beat().await;
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
        let queues = self.queues(message.topic()).await?;
        let place = select(&queues);
        let queue = queues
            .get(place)
            .ok_or_else(|| ClientError::Refused(format!("queue {place} was selected of {}", queues.len())))?;
        self.inner.send(message, Some(queue)).await
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

impl Inner {
    async fn send(
        &self,
        message: &Message,
        queue: Option<&MessageQueue>,
    ) -> Result<SendReceipt, ClientError> {
        let _place = self.in_flight.acquire().await.map_err(|_| ClientError::Closed)?;
        self.send_in_place(message, queue).await
    }

    /// A send that has its place among those under way.
    async fn send_in_place(
        &self,
        message: &Message,
        queue: Option<&MessageQueue>,
    ) -> Result<SendReceipt, ClientError> {
        let topic = self.check(message.topic(), queue)?;
        message.check()?;
        let (properties, message_id) = self.with_id(message)?;
        let parcel = self.parcel(message, &properties, message_id);
        self.deliver(&topic, &parcel, queue.map_or(Target::Any, Target::Queue)).await
    }

    async fn send_batch(
        &self,
        batch: &MessageBatch,
        queue: Option<&MessageQueue>,
    ) -> Result<SendReceipt, ClientError> {
        let _place = self.in_flight.acquire().await.map_err(|_| ClientError::Closed)?;
        let topic = self.check(batch.topic(), queue)?;
        let mut properties = String::new();
        // The batch has an id of its own, as Java's; brokers do not store it.
        properties_push(&mut properties, prop::UNIQ_KEY, &self.shared.ids.next(identity::now_ms()));
        if !batch.wait_stored {
            properties_push(&mut properties, prop::WAIT, "false");
        }
        let parcel = Parcel {
            code: RequestCode::SEND_BATCH_MESSAGE,
            body: batch.body.clone(),
            properties: &properties,
            flag: 0,
            sys_flag: 0,
            reconsume: None,
            message_id: batch.message_ids().join(","),
        };
        self.deliver(&topic, &parcel, queue.map_or(Target::Any, Target::Queue)).await
    }

    async fn send_oneway(&self, message: &Message) -> Result<(), ClientError> {
        let _place = self.in_flight.acquire().await.map_err(|_| ClientError::Closed)?;
        let topic = self.check(message.topic(), None)?;
        message.check()?;
        let (properties, message_id) = self.with_id(message)?;
        let parcel = self.parcel(message, &properties, message_id);
        let deadline = Instant::now() + self.config.send_timeout;
        // `net` has no event for "written"; a sender of one-way messages that outruns the network looks
        // again each millisecond. The bound is what a connection survives, see OUTBOUND_BYTES_MAX.
        while self.shared.outbound.outbound_bytes() > limits::SEND_BYTES_IN_FLIGHT_MAX {
            if Instant::now() >= deadline {
                return Err(ClientError::Busy("bytes wait to be written"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let outlet = self.outlet(&topic, deadline).await?;
        let (broker, queue_id) = outlet.choose(&self.shared, None, self.config.fault_tolerance)?;
        let (broker, health) = &outlet.brokers[broker];
        let address = master_of(broker)?;
        let request = self.request(&topic, &parcel, broker, queue_id as i32);
        let result = self.shared.caller.net().send_oneway(&address, request, self.config.send_timeout).await;
        if result.is_err() {
            health.failed(self.shared.tick_ms(), 0);
            self.shared.refresh_in_background(&topic);
        }
        result.map_err(ClientError::from)
    }

    /// What holds for every send, and the topic's entry.
    fn check(&self, topic: &Arc<str>, queue: Option<&MessageQueue>) -> Result<Arc<Topic>, ClientError> {
        if wire::is_send_forbidden(topic) {
            return Err(ClientError::Refused(format!("topic {topic} is the system's own")));
        }
        if let Some(queue) = queue
            && queue.topic != **topic
        {
            return Err(ClientError::Refused(format!(
                "the message is for {topic}, the queue of {}",
                queue.topic
            )));
        }
        self.shared.routes.follow(topic)
    }

    /// The properties with the unique id, which a message keeps through all attempts.
    fn with_id(&self, message: &Message) -> Result<(String, String), ClientError> {
        let mut properties = String::with_capacity(message.properties().len() + 48);
        properties.push_str(message.properties());
        let id = match properties_get(message.properties(), prop::UNIQ_KEY) {
            Some(id) => id.to_owned(),
            None => {
                let id = self.shared.ids.next(identity::now_ms());
                properties_push(&mut properties, prop::UNIQ_KEY, &id);
                id
            }
        };
        message::check_properties(&properties)?;
        Ok((properties, id))
    }

    fn parcel<'a>(&self, message: &Message, properties: &'a str, message_id: String) -> Parcel<'a> {
        let mut parcel = Parcel {
            code: RequestCode::SEND_MESSAGE_V2,
            body: message.body().clone(),
            properties,
            flag: message.flag_value(),
            sys_flag: 0,
            reconsume: message.reconsume(),
            message_id,
        };
        if self.config.compress_from_bytes.is_some_and(|from| parcel.body.len() >= from) {
            let zlib = wire::compress_body(&parcel.body, limits::COMPRESS_LEVEL);
            if zlib.len() < parcel.body.len() {
                parcel.body = zlib.into();
                parcel.sys_flag |= sysflag::COMPRESSED | sysflag::COMPRESSION_ZLIB;
            }
        }
        parcel
    }

    fn request(&self, topic: &Topic, parcel: &Parcel<'_>, broker: &Broker, queue_id: i32) -> RemotingCommand {
        let header = SendMessageRequest {
            producer_group: &self.group,
            topic: &topic.name,
            default_topic: wire::topic::AUTO_CREATE,
            default_topic_queue_nums: i32::try_from(self.config.default_topic_queues).unwrap_or(i32::MAX),
            queue_id,
            sys_flag: parcel.sys_flag,
            born_timestamp: identity::now_ms() as i64,
            flag: parcel.flag,
            properties: Some(parcel.properties),
            reconsume_times: Some(parcel.reconsume.map_or(0, |(times, _)| times)),
            unit_mode: Some(false),
            max_reconsume_times: parcel.reconsume.map(|(_, max)| max),
            batch: Some(parcel.code == RequestCode::SEND_BATCH_MESSAGE),
            broker_name: Some(&broker.name),
        };
        let mut request = self.shared.caller.bare_request(parcel.code).with_body(parcel.body.clone());
        header.encode_for(parcel.code, &mut request.ext);
        request
    }

    /// Attempts until one is answered, the error is final, or the time is up.
    async fn deliver(
        &self,
        topic: &Arc<Topic>,
        parcel: &Parcel<'_>,
        target: Target<'_>,
    ) -> Result<SendReceipt, ClientError> {
        let deadline = Instant::now() + self.config.send_timeout;
        let bytes = u32::try_from(parcel.body.len().max(1)).unwrap_or(u32::MAX);
        let room = tokio::time::timeout_at(deadline, self.shared.send_bytes.acquire_many(bytes)).await;
        let _room = match room {
            Ok(permit) => permit.map_err(|_| ClientError::Closed)?,
            Err(_) => return Err(ClientError::Busy("bytes of sends under way")),
        };
        // A chosen queue gets one attempt, as in Java: a second after an unknown outcome could change the
        // order of messages.
        let retries = if matches!(target, Target::Any) { self.config.retries } else { 0 };
        let mut attempts = 0;
        let mut may_be_stored = false;
        let mut pause = limits::SEND_PAUSE.0;
        let mut failed_on: Option<Arc<Broker>> = None;
        loop {
            attempts += 1;
            let outlet = self.outlet(topic, deadline).await;
            let has_other;
            let result = match outlet {
                Err(error) => {
                    has_other = false;
                    Err(error)
                }
                Ok(outlet) => {
                    let chosen = match target {
                        Target::Any => {
                            let avoid = failed_on.as_ref().and_then(|failed| outlet.place_of(failed));
                            outlet.choose(&self.shared, avoid, self.config.fault_tolerance)
                        }
                        Target::Queue(queue) => outlet.locate(queue),
                    };
                    match chosen {
                        Err(error) => {
                            has_other = false;
                            Err(error)
                        }
                        Ok((place, queue_id)) => {
                            has_other = matches!(target, Target::Any) && outlet.wheel.has_other_than(place);
                            let may_follow = has_other && attempts <= retries;
                            let (broker, health) = &outlet.brokers[place];
                            failed_on = Some(Arc::clone(broker));
                            self.attempt(topic, parcel, broker, health, queue_id as i32, deadline, may_follow)
                                .await
                        }
                    }
                }
            };
            let error = match result {
                Ok(receipt) => return Ok(SendReceipt { attempts, ..receipt }),
                Err(error) => error,
            };
            may_be_stored |= error.may_have_happened();
            let is_repeatable =
                error.is_retried() && (self.config.retry_unknown || !error.may_have_happened());
            let waits = self.config.wait_for_leader && error.is_for_want_of_a_leader();
            let goes_on = is_repeatable && (attempts <= retries || waits);
            if error.is_retried() {
                self.shared.refresh_in_background(topic);
            }
            // Somewhere else at once; at the same place, or when every place was tried, after a pause.
            let pauses = goes_on
                && (attempts > retries || !has_other)
                && error.code() != Some(ResponseCode::TOPIC_NOT_EXIST);
            let is_late = Instant::now() + if pauses { pause } else { Duration::ZERO } >= deadline;
            if !goes_on || is_late || self.stop.is_cancelled() {
                return Err(match attempts {
                    1 => error,
                    _ => ClientError::SendFailed { attempts, may_be_stored, last: Box::new(error) },
                });
            }
            tracing::debug!(topic = &*topic.name, attempts, %error, "a send is tried again");
            if pauses {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(limits::SEND_PAUSE.1);
            }
        }
    }

    /// One request to one broker.
    async fn attempt(
        &self,
        topic: &Topic,
        parcel: &Parcel<'_>,
        broker: &Broker,
        health: &Health,
        queue_id: i32,
        deadline: Instant,
        may_follow: bool,
    ) -> Result<SendReceipt, ClientError> {
        let started = Instant::now();
        let result = self.exchange(topic, parcel, broker, queue_id, deadline, may_follow).await;
        let latency_ms = started.elapsed().as_millis() as u64;
        match &result {
            Err(error) if error.is_retried() => health.failed(self.shared.tick_ms(), latency_ms),
            _ => health.answered(self.shared.tick_ms(), latency_ms),
        }
        result
    }

    async fn exchange(
        &self,
        topic: &Topic,
        parcel: &Parcel<'_>,
        broker: &Broker,
        queue_id: i32,
        deadline: Instant,
        may_follow: bool,
    ) -> Result<SendReceipt, ClientError> {
        let address = master_of(broker)?;
        let left = || deadline.saturating_duration_since(Instant::now());
        let connect = if may_follow { left().min(limits::SEND_CONNECT_TIMEOUT) } else { left() };
        let connection = self.shared.caller.net().connection(&address, connect).await?;
        let timeout = match self.config.attempt_timeout {
            Some(most) if may_follow => left().min(most),
            _ => left(),
        };
        let request = self.request(topic, parcel, broker, queue_id);
        let answer = connection.request(request, timeout).await?;
        let status = match answer.response_code() {
            ResponseCode::SUCCESS => SendStatus::Stored,
            ResponseCode::FLUSH_DISK_TIMEOUT => SendStatus::FlushDiskTimeout,
            ResponseCode::FLUSH_SLAVE_TIMEOUT => SendStatus::FlushSlaveTimeout,
            ResponseCode::SLAVE_NOT_AVAILABLE => SendStatus::SlaveNotAvailable,
            _ => return Err(refusal(&address, answer)),
        };
        let header = SendMessageResponse::decode(&answer.ext).map_err(|error| bad_answer(&address, error))?;
        Ok(SendReceipt {
            status,
            message_id: parcel.message_id.clone(),
            offset_message_id: header.msg_id,
            topic: Arc::clone(&topic.name),
            broker: Arc::clone(&broker.name),
            queue_id: QueueId::from_wire(header.queue_id)
                .ok_or_else(|| bad_answer(&address, "negative queue id"))?,
            queue_offset: QueueOffset::from_wire(header.queue_offset)
                .ok_or_else(|| bad_answer(&address, "negative queue offset"))?,
            recall_handle: header.recall_handle,
            attempts: 1,
        })
    }

    /// The topic's queues by its newest route.
    async fn outlet(&self, topic: &Arc<Topic>, deadline: Instant) -> Result<Arc<Outlet>, ClientError> {
        let old = self.outlets.read().unwrap_or_else(PoisonError::into_inner).get(&topic.name).cloned();
        if let Some(outlet) = &old
            && outlet.version == topic.version()
        {
            return Ok(Arc::clone(outlet));
        }
        let routes = &self.shared.routes;
        let route = routes.for_sending(topic, self.config.default_topic_queues);
        let route = tokio::time::timeout_at(deadline, route).await.unwrap_or_else(|_| {
            Err(ClientError::NoRoute {
                topic: topic.name.to_string(),
                why: "no nameserver answered in time".into(),
            })
        })?;
        let brokers: Vec<_> = route
            .writable
            .iter()
            .map(|(broker, _)| (Arc::clone(broker), self.health.of(&broker.name)))
            .collect();
        let sizes =
            brokers.iter().zip(&route.writable).map(|((_, health), (_, count))| (Arc::clone(health), *count));
        let turn = old.map_or_else(|| rand::random::<u16>().into(), |outlet| outlet.wheel.turn());
        let wheel = Wheel::new(sizes, turn);
        let outlet = Arc::new(Outlet { topic: Arc::clone(topic), version: route.version, brokers, wheel });
        let mut outlets = self.outlets.write().unwrap_or_else(PoisonError::into_inner);
        outlets.insert(Arc::clone(&topic.name), Arc::clone(&outlet));
        Ok(outlet)
    }
}

impl Outlet {
    /// A broker (its place) and a queue there.
    fn choose(
        &self,
        shared: &Shared,
        avoid: Option<usize>,
        fault_tolerance: bool,
    ) -> Result<(usize, usize), ClientError> {
        let place = self.wheel.choose(shared.tick_ms(), avoid, fault_tolerance);
        place.and_then(|place| self.wheel.locate(place)).ok_or_else(|| ClientError::NoRoute {
            topic: self.topic.name.to_string(),
            why: "it has no queue that takes writes".into(),
        })
    }

    fn place_of(&self, broker: &Arc<Broker>) -> Option<usize> {
        self.brokers.iter().position(|(own, _)| Arc::ptr_eq(own, broker))
    }

    fn locate(&self, queue: &MessageQueue) -> Result<(usize, usize), ClientError> {
        let place = self.brokers.iter().position(|(broker, _)| *broker.name == *queue.broker_name);
        match (place, usize::try_from(queue.queue_id)) {
            (Some(place), Ok(id)) => Ok((place, id)),
            _ => Err(ClientError::NoRoute {
                topic: self.topic.name.to_string(),
                why: format!("broker {} takes no writes for it now", queue.broker_name),
            }),
        }
    }
}

fn master_of(broker: &Broker) -> Result<Arc<str>, ClientError> {
    broker.master().ok_or_else(|| ClientError::NotSent {
        to: broker.name.to_string(),
        why: "it has no master now".into(),
    })
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
