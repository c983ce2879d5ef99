//! From a message to the broker's answer: whom to try, how often, how long.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::{
    MessageQueue, QueueId, QueueOffset, RemotingCommand, RequestCode, ResponseCode, SendMessageRequest,
    SendMessageResponse, prop, properties_get, properties_push, sysflag,
};

use super::batch::MessageBatch;
use super::choice::Wheel;
use super::front::{SendReceipt, SendStatus};
use super::latency::{Health, HealthTable};
use super::message::{self, Message};
use super::submit;
use crate::call::{bad_answer, refusal};
use crate::client::Shared;
use crate::config::ProducerConfig;
use crate::error::ClientError;
use crate::identity;
use crate::limits;
use crate::route::{Broker, Routes, Topic};

/// What all clones of a producer share.
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) group: Arc<str>,
    pub(super) config: ProducerConfig,
    pub(super) health: HealthTable,
    pub(super) outlets: RwLock<HashMap<Arc<str>, Arc<Outlet>>>,
    /// A permit per send under way; closed when the producer is.
    pub(super) in_flight: Semaphore,
    pub(super) submitted: submit::Queue,
    pub(super) stop: CancellationToken,
}

/// A topic as one producer sees it: built from one version of its route.
#[derive(Debug)]
pub(super) struct Outlet {
    topic: Arc<Topic>,
    version: u64,
    brokers: Vec<(Arc<Broker>, Arc<Health>)>,
    wheel: Wheel,
    /// The queues in the wheel's order, for selectors.
    queues: OnceLock<Vec<MessageQueue>>,
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

impl Inner {
    pub(super) async fn send(
        &self,
        message: &Message,
        queue: Option<&MessageQueue>,
    ) -> Result<SendReceipt, ClientError> {
        let _place = self.in_flight.acquire().await.map_err(|_| ClientError::Closed)?;
        self.send_in_place(message, queue).await
    }

    /// A send that has its place among those under way.
    pub(super) async fn send_in_place(
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

    /// Sends to the queue that `select` chooses among the topic's queues (its place in the list).
    pub(super) async fn send_by(
        &self,
        message: &Message,
        select: impl FnOnce(&[MessageQueue]) -> usize,
    ) -> Result<SendReceipt, ClientError> {
        let topic = self.check(message.topic(), None)?;
        let outlet = self.outlet(&topic, Instant::now() + self.config.send_timeout).await?;
        let queues = outlet.queues();
        let place = select(queues);
        let queue = queues
            .get(place)
            .ok_or_else(|| ClientError::Refused(format!("queue {place} was selected of {}", queues.len())))?;
        self.send(message, Some(queue)).await
    }

    pub(super) async fn send_batch(
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

    pub(super) async fn send_oneway(&self, message: &Message) -> Result<(), ClientError> {
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
            let version = topic.version();
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
                        Target::Queue(queue) => outlet.locate(queue, &self.shared.routes),
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
                // Unless there is another route meanwhile, which may name another leader.
                let mut changes = self.shared.routes.changes();
                if topic.version() == version {
                    let _ = tokio::time::timeout(pause, changes.changed()).await;
                }
                pause = (pause * 2).min(limits::SEND_PAUSE.1);
            }
        }
    }

    /// One request to one broker.
    async fn attempt(
        &self,
        topic: &Arc<Topic>,
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
        topic: &Arc<Topic>,
        parcel: &Parcel<'_>,
        broker: &Broker,
        queue_id: i32,
        deadline: Instant,
        may_follow: bool,
    ) -> Result<SendReceipt, ClientError> {
        let address = master_of(broker)?;
        let left = || deadline.saturating_duration_since(Instant::now());
        let connect = if may_follow { left().min(limits::SEND_CONNECT_TIMEOUT) } else { left() };
        let answer = async {
            let connection = self.shared.caller.net().connection(&address, connect).await?;
            let timeout = match self.config.attempt_timeout {
                Some(most) if may_follow => left().min(most),
                _ => left(),
            };
            connection.request(self.request(topic, parcel, broker, queue_id), timeout).await
        };
        let mut answer = pin!(answer);
        let answer = loop {
            match tokio::time::timeout(limits::ROUTE_WHILE_WAITING, &mut answer).await {
                Ok(answer) => break answer?,
                Err(_) => self.shared.refresh_in_background(topic),
            }
        };
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
        let outlet = Arc::new(Outlet {
            topic: Arc::clone(topic),
            version: route.version,
            brokers,
            wheel,
            queues: OnceLock::new(),
        });
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

    fn queues(&self) -> &[MessageQueue] {
        self.queues.get_or_init(|| {
            let of = |place| {
                let (broker, id) = self.wheel.locate(place)?;
                Some(MessageQueue::new(&self.topic.name, &self.brokers[broker].0.name, id as i32))
            };
            (0..).map_while(of).collect()
        })
    }

    fn place_of(&self, broker: &Arc<Broker>) -> Option<usize> {
        self.brokers.iter().position(|(own, _)| Arc::ptr_eq(own, broker))
    }

    fn locate(&self, queue: &MessageQueue, routes: &Routes) -> Result<(usize, usize), ClientError> {
        let place = self.brokers.iter().position(|(broker, _)| *broker.name == *queue.broker_name);
        let topic = || self.topic.name.to_string();
        let name = &queue.broker_name;
        match (place, usize::try_from(queue.queue_id)) {
            (Some(place), Ok(id)) => Ok((place, id)),
            // It was there before: a leader is being elected, or writes are off for a while.
            (None, Ok(_)) if routes.broker(name).is_some() => {
                Err(ClientError::NotWritable { topic: topic(), why: format!("broker {name} takes none now") })
            }
            _ => Err(ClientError::NoRoute {
                topic: topic(),
                why: format!("no broker {name}, or no such queue"),
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
