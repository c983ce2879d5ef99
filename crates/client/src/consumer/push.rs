//! A consumer that is called for its messages (client/impl/consumer/DefaultMQPushConsumerImpl.java).

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::{
    ConsumeFromWhere, ConsumeType, ConsumerData, MessageModel, MessageQueue, QueueOffset, SubscriptionData,
};

use super::assigned::Assigned;
use super::fetch;
use super::filter::Filter;
use super::offsets::OffsetFile;
use super::received::ReceivedMessage;
use crate::client::{Client, Member, Shared, stopped_within};
use crate::config::{ConsumeFrom, ConsumeModel, ConsumerConfig, ProducerConfig};
use crate::error::ClientError;
use crate::identity;
use crate::limits;
use crate::producer::Producer;
use crate::route::Topic;

/// What a listener says of the messages it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Consumed.
    Success,
    /// To be tried again: after a delay that grows with each attempt (orderly: after a second).
    Later,
    /// To be tried again after the delay of this level, 1 to 18. Orderly: as `Later`.
    LaterAtLevel(u32),
    /// Not to be tried again: into the dead-letter queue.
    DeadLetter,
}

type Listening = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// The user's closure.
pub(crate) struct Listener {
    call: Box<dyn Fn(Vec<ReceivedMessage>) -> Listening + Send + Sync>,
    pub(crate) is_orderly: bool,
}

/// A push consumer that does not run yet; see [`Client::push_consumer`].
pub struct PushBuilder {
    client: Client,
    group: Arc<str>,
    config: ConsumerConfig,
    filters: BTreeMap<Arc<str>, Filter>,
}

/// A running push consumer. Dropped without [`PushConsumer::shutdown`], it stops where it is, and what
/// it consumed in the last seconds may be delivered again.
pub struct PushConsumer {
    member: Arc<PushMember>,
    client: Client,
}

impl fmt::Debug for PushConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushConsumer").field("group", &self.member.group).finish_non_exhaustive()
    }
}

/// A topic that is consumed.
pub(crate) struct Subscription {
    pub(crate) topic: Arc<Topic>,
    pub(crate) filter: Filter,
}

/// Numbers since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) consumed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) pulls: AtomicU64,
    pub(crate) pull_ms: AtomicU64,
}

pub(crate) struct PushMember {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: Arc<str>,
    pub(crate) config: ConsumerConfig,
    pub(crate) subscriptions: BTreeMap<Arc<str>, Subscription>,
    pub(crate) sub_version: i64,
    pub(crate) listener: Listener,
    /// The queues assigned to this consumer; locked for a look-up or a change, never across a wait.
    assigned: Mutex<BTreeMap<MessageQueue, Arc<Assigned>>>,
    /// A permit per listener call under way.
    pub(crate) slots: Semaphore,
    pub(crate) wake: Notify,
    pub(crate) is_paused: AtomicBool,
    pub(crate) offset_file: Option<Arc<OffsetFile>>,
    /// For messages that cannot be sent back by code 36.
    pub(crate) fallback: Producer,
    pub(crate) counters: Counters,
    pub(crate) started_ms: u64,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Client {
    /// A push consumer of `group`, to be given subscriptions and a listener.
    pub fn push_consumer(&self, group: &str, config: ConsumerConfig) -> Result<PushBuilder, ClientError> {
        config.check()?;
        wire::validate_group(group).map_err(|error| ClientError::Refused(error.to_string()))?;
        self.shared.check_open()?;
        Ok(PushBuilder { client: self.clone(), group: group.into(), config, filters: BTreeMap::new() })
    }
}

impl PushBuilder {
    /// Adds a topic, or changes its filter.
    #[must_use]
    pub fn subscribe(mut self, topic: &str, filter: Filter) -> PushBuilder {
        self.filters.insert(topic.into(), filter);
        self
    }

    /// Starts; `listener` is called for several messages of a queue at a time, in any order. It runs on
    /// the runtime: what blocks belongs into `spawn_blocking`. A panic counts as [`Verdict::Later`].
    pub async fn listen<F, L>(self, listener: L) -> Result<PushConsumer, ClientError>
    where
        L: Fn(Vec<ReceivedMessage>) -> F + Send + Sync + 'static,
        F: Future<Output = Verdict> + Send + 'static,
    {
        self.start(Listener {
            call: Box::new(move |messages| Box::pin(listener(messages))),
            is_orderly: false,
        })
        .await
    }

    /// Starts; `listener` is called for the messages of a queue one after the other, in their order,
    /// while a lock at the broker keeps other members away.
    pub async fn listen_orderly<F, L>(self, listener: L) -> Result<PushConsumer, ClientError>
    where
        L: Fn(Vec<ReceivedMessage>) -> F + Send + Sync + 'static,
        F: Future<Output = Verdict> + Send + 'static,
    {
        self.start(Listener {
            call: Box::new(move |messages| Box::pin(listener(messages))),
            is_orderly: true,
        })
        .await
    }

    async fn start(mut self, listener: Listener) -> Result<PushConsumer, ClientError> {
        if self.filters.is_empty() {
            return Err(ClientError::refused("the consumer subscribes to no topic"));
        }
        let shared = &self.client.shared;
        let is_clustering = self.config.model == ConsumeModel::Clustering;
        if is_clustering {
            // Failed messages come back through it.
            self.filters.insert(wire::retry_topic(&self.group).into(), Filter::all());
        }
        let mut subscriptions = BTreeMap::new();
        for (name, filter) in self.filters {
            let topic = shared.routes.follow(&name)?;
            subscriptions.insert(name, Subscription { topic, filter });
        }
        let offset_file = match self.config.model {
            ConsumeModel::Clustering => None,
            ConsumeModel::Broadcasting => {
                // The file must be found again after a restart, so a client without a name of its own
                // uses Java's.
                let id = match &shared.config.instance {
                    Some(_) => shared.id.to_string(),
                    None => shared.id.split('@').next().unwrap_or_default().to_owned() + "@DEFAULT",
                };
                Some(Arc::new(OffsetFile::open(self.config.offset_dir.as_deref(), &id, &self.group)?))
            }
        };
        let fallback =
            self.client.producer(wire::group::CLIENT_INNER_PRODUCER, ProducerConfig::default()).await?;
        let member = Arc::new(PushMember {
            shared: Arc::clone(shared),
            group: Arc::clone(&self.group),
            slots: Semaphore::new(self.config.concurrency),
            config: self.config,
            subscriptions,
            sub_version: identity::now_ms() as i64,
            listener,
            assigned: Mutex::default(),
            wake: Notify::new(),
            is_paused: AtomicBool::new(false),
            offset_file,
            fallback,
            counters: Counters::default(),
            started_ms: identity::now_ms(),
            stop: shared.stop.child_token(),
            tasks: TaskTracker::new(),
        });
        shared.add_consumer(&self.group, Member::Push(Arc::downgrade(&member)))?;
        let consumer = PushConsumer { member, client: self.client };
        let member = &consumer.member;
        // Brokers must know of us before they are asked who is in the group; and their first heartbeat of a
        // group makes its retry topic.
        member.find_routes().await;
        member.shared.beat().await;
        member.find_routes().await;
        member.tasks.spawn(Arc::clone(member).rebalance_loop());
        member.tasks.spawn(Arc::clone(member).commit_loop());
        if member.listener.is_orderly && is_clustering {
            member.tasks.spawn(Arc::clone(member).lock_loop());
        }
        tracing::info!(group = &*member.group, client = &*member.shared.id, "push consumer started");
        Ok(consumer)
    }
}

impl PushConsumer {
    pub fn group(&self) -> &str {
        &self.member.group
    }

    /// Queues that this consumer has now, sorted.
    pub fn assigned(&self) -> Vec<MessageQueue> {
        let assigned = self.member.assigned();
        assigned
            .iter()
            .filter(|(_, assigned)| !assigned.is_dropped())
            .map(|(queue, _)| queue.clone())
            .collect()
    }

    /// What may be committed of each queue: the offset of the lowest message not consumed yet.
    pub fn offsets(&self) -> Vec<(MessageQueue, QueueOffset)> {
        let assigned = self.member.assigned();
        assigned.iter().map(|(queue, assigned)| (queue.clone(), assigned.consumed())).collect()
    }

    /// Messages consumed and failed since the start.
    pub fn counts(&self) -> (u64, u64) {
        let counters = &self.member.counters;
        (counters.consumed.load(Ordering::Relaxed), counters.failed.load(Ordering::Relaxed))
    }

    /// Fetches nothing more until [`PushConsumer::resume`]; what is fetched is consumed.
    pub fn pause(&self) {
        self.member.is_paused.store(true, Ordering::Release);
    }

    pub fn resume(&self) {
        self.member.is_paused.store(false, Ordering::Release);
        for assigned in self.member.assigned().values() {
            assigned.changed.notify_waiters();
        }
    }

    /// Stores the offsets now.
    pub async fn commit(&self) {
        self.member.commit_all(true).await;
    }

    /// Fetches nothing more, waits for listener calls under way, stores the offsets, and tells the
    /// brokers that this member leaves its group.
    pub async fn shutdown(self) {
        let member = &self.member;
        member.stop.cancel();
        member.tasks.close();
        if tokio::time::timeout(limits::SHUTDOWN_TIMEOUT, member.tasks.wait()).await.is_err() {
            tracing::warn!(group = &*member.group, "some listener calls did not end in time");
        }
        member.commit_all(true).await;
        if member.is_locking() {
            let queues: Vec<_> = member.assigned().keys().cloned().collect();
            member.unlock(&queues).await;
        }
        member.shared.remove_consumer(&member.group, &Member::Push(Arc::downgrade(member)));
        member.shared.unregister(None, Some(&member.group)).await;
        member.fallback.shutdown().await;
        tracing::info!(group = &*member.group, client = self.client.id(), "push consumer stopped");
    }
}

impl Drop for PushConsumer {
    fn drop(&mut self) {
        self.member.stop.cancel();
        self.member.tasks.close();
        self.member.shared.remove_consumer(&self.member.group, &Member::Push(Arc::downgrade(&self.member)));
    }
}

impl PushMember {
    pub(crate) fn heartbeat(&self) -> ConsumerData {
        let subscription = |subscription: &Subscription| {
            subscription.filter.subscription_data(&subscription.topic.name, self.sub_version)
        };
        ConsumerData {
            consume_from_where: match self.config.from {
                ConsumeFrom::Last => ConsumeFromWhere::LastOffset,
                ConsumeFrom::First => ConsumeFromWhere::FirstOffset,
                ConsumeFrom::Timestamp(_) => ConsumeFromWhere::Timestamp,
            },
            consume_type: ConsumeType::Passively,
            group_name: self.group.to_string(),
            message_model: match self.config.model {
                ConsumeModel::Clustering => MessageModel::Clustering,
                ConsumeModel::Broadcasting => MessageModel::Broadcasting,
            },
            subscription_data_set: self.subscriptions.values().map(subscription).collect(),
            unit_mode: false,
        }
    }

    /// Asks for the routes that are missing.
    async fn find_routes(&self) {
        for subscription in self.subscriptions.values().filter(|it| it.topic.route().is_none()) {
            let topic = &subscription.topic;
            if let Err(error) = self.shared.routes.refresh_if_older(topic, Duration::ZERO).await {
                tracing::warn!(group = &*self.group, topic = &*topic.name, %error, "no route yet");
            }
        }
    }

    pub(crate) fn subscription_set(&self) -> Vec<SubscriptionData> {
        self.heartbeat().subscription_data_set
    }

    pub(crate) fn assigned(&self) -> MutexGuard<'_, BTreeMap<MessageQueue, Arc<Assigned>>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rebalance_soon(&self) {
        self.wake.notify_one();
    }

    pub(crate) fn is_clustering(&self) -> bool {
        self.config.model == ConsumeModel::Clustering
    }

    /// Retries before a message is dead.
    pub(crate) fn reconsume_times(&self) -> i32 {
        let otherwise = if self.listener.is_orderly { i32::MAX } else { limits::RECONSUME_TIMES };
        self.config.reconsume_times.map_or(otherwise, |times| i32::try_from(times).unwrap_or(i32::MAX))
    }

    /// The user's word on these messages.
    pub(crate) async fn ask_listener(&self, messages: Vec<ReceivedMessage>) -> Verdict {
        // The call itself may panic as well as its future.
        let call = AssertUnwindSafe(async { (self.listener.call)(messages).await });
        call.catch_unwind().await.unwrap_or_else(|_| {
            tracing::warn!(group = &*self.group, "the listener panicked");
            Verdict::Later
        })
    }

    // Offsets.

    async fn commit_loop(self: Arc<Self>) {
        while !stopped_within(&self.stop, self.shared.config.offset_commit).await {
            self.commit_all(false).await;
        }
    }

    /// Stores what is due; `waits`: everything, and until the brokers have it.
    pub(crate) async fn commit_all(&self, waits: bool) {
        let assigned: Vec<_> = self.assigned().values().cloned().collect();
        // A queue that was given up has another owner, whose offset is ahead of ours.
        for assigned in assigned.into_iter().filter(|assigned| !assigned.is_dropped()) {
            let offset = if waits { Some(assigned.consumed()) } else { assigned.due() };
            if let Some(offset) = offset {
                self.commit(&assigned, offset, waits).await;
            }
        }
        self.save_offset_file().await;
    }

    async fn commit(&self, assigned: &Assigned, offset: QueueOffset, waits: bool) {
        let queue = &assigned.queue;
        if let Some(file) = &self.offset_file {
            file.set(queue, offset);
            return assigned.stored(offset);
        }
        let Some(broker) = self.shared.routes.broker(&queue.broker_name) else { return };
        match fetch::commit(&self.shared, &broker, &self.group, queue, offset, waits).await {
            Ok(()) => assigned.stored(offset),
            Err(error) => {
                tracing::warn!(group = &*self.group, ?queue, offset = offset.get(), %error, "offset is not stored");
            }
        }
    }

    async fn save_offset_file(&self) {
        let Some(file) = self.offset_file.clone().filter(|file| file.has_news()) else { return };
        match tokio::task::spawn_blocking(move || file.save()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(group = &*self.group, %error, "offsets are not saved"),
            Err(error) => tracing::error!(group = &*self.group, %error, "offsets are not saved"),
        }
    }

    /// Stores the offset of a queue that goes, whatever it is.
    pub(crate) async fn commit_last(&self, assigned: &Assigned) {
        self.commit(assigned, assigned.consumed(), true).await;
        self.save_offset_file().await;
    }

    /// Where to begin with a queue (RebalancePushImpl.computePullFromWhereWithException). A start that was
    /// not stored yet is stored first: in Java, if the queue changes hands before a first message is
    /// consumed, its next owner begins at the end of then, and what came in between is skipped.
    pub(crate) async fn start_of(&self, queue: &MessageQueue) -> Result<QueueOffset, ClientError> {
        let broker = self.shared.routes.broker(&queue.broker_name).ok_or_else(|| ClientError::NoRoute {
            topic: queue.topic.clone(),
            why: format!("broker {} is not known", queue.broker_name),
        })?;
        let stored = match &self.offset_file {
            Some(file) => file.get(queue),
            None => fetch::committed(&self.shared, &broker, &self.group, queue).await?,
        };
        if let Some(stored) = stored {
            return Ok(stored);
        }
        let is_retry = wire::is_retry_topic(&queue.topic);
        let start = match self.config.from {
            ConsumeFrom::Last if is_retry => QueueOffset(0),
            ConsumeFrom::Last => fetch::max_offset(&self.shared, &broker, queue).await?,
            // If messages were deleted since, the pull says so and where to go on.
            ConsumeFrom::First => QueueOffset(0),
            ConsumeFrom::Timestamp(_) if is_retry => fetch::max_offset(&self.shared, &broker, queue).await?,
            ConsumeFrom::Timestamp(time_ms) => {
                fetch::search_offset(&self.shared, &broker, queue, time_ms, false).await?
            }
        };
        match &self.offset_file {
            Some(file) => file.set(queue, start),
            None => fetch::commit(&self.shared, &broker, &self.group, queue, start, true).await?,
        }
        Ok(start)
    }

    /// As Java: the store is told, and the queue begins anew from there.
    pub(super) async fn reset(&self, assigned: &Assigned, offset: QueueOffset) {
        assigned.reset(offset);
        self.commit_last(assigned).await;
        assigned.settled();
    }

    /// Moves this consumer to other offsets, as an administrator asked (220).
    pub(crate) async fn reset_offsets(&self, topic: &str, offsets: &BTreeMap<MessageQueue, i64>) {
        let concerned: Vec<_> = {
            let assigned = self.assigned();
            let named = |queue: &MessageQueue| queue.topic == topic && offsets.contains_key(queue);
            assigned
                .iter()
                .filter(|(queue, _)| named(queue))
                .map(|(_, assigned)| Arc::clone(assigned))
                .collect()
        };
        for assigned in concerned {
            let Some(offset) =
                offsets.get(&*assigned.queue).and_then(|offset| QueueOffset::from_wire(*offset))
            else {
                continue;
            };
            tracing::info!(group = &*self.group, queue = ?assigned.queue, offset = offset.get(), "offset is reset");
            self.reset(&assigned, offset).await;
        }
        self.rebalance_soon();
    }

    /// How long a listener may hold messages.
    pub(crate) fn consume_timeout(&self) -> Duration {
        self.config.consume_timeout
    }
}
