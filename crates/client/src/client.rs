//! One client of a cluster: its connections, routes and heartbeats, which all its producers and
//! consumers share (Java: MQClientInstance).
//!
//! ```text
//! Client ─┬─ Producer, PushConsumer, PullConsumer, Admin   each holds a Client
//!         └─ Shared ─┬─ Routes      polled every 30 s by `poll_routes`
//!                    ├─ Caller      connections to brokers; a new one is greeted with a heartbeat
//!                    ├─ Groups      who is told of in heartbeats, by `beat`
//!                    └─ notices     what brokers ask of us, answered by `serve` (notice.rs)
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use net::{CloseReason, Connection, Handler, Replier};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::{
    Body, ConsumerData, HeartbeatData, MASTER_ID, ProducerData, RemotingCommand, RequestCode,
    UnregisterClientRequest,
};

use crate::call::Caller;
use crate::config::ClientConfig;
use crate::consumer::{PullMember, PushMember};
use crate::error::ClientError;
use crate::identity::{self, MessageIds};
use crate::limits;
use crate::nameservers::Nameservers;
use crate::notice;
use crate::route::{BORROWED_POLL, Routes, Topic};

/// A client of one cluster. Cheap to clone; the last clone that goes stops it, as [`Client::shutdown`]
/// does in order.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    _stop: Arc<StopOnDrop>,
}

struct StopOnDrop(CancellationToken);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

/// A consumer as heartbeats and notices see it.
#[derive(Clone)]
pub(crate) enum Member {
    Push(Weak<PushMember>),
    Pull(Weak<PullMember>),
}

impl Member {
    fn is_alive(&self) -> bool {
        match self {
            Member::Push(member) => member.strong_count() > 0,
            Member::Pull(member) => member.strong_count() > 0,
        }
    }

    fn is(&self, other: &Member) -> bool {
        match (self, other) {
            (Member::Push(left), Member::Push(right)) => left.ptr_eq(right),
            (Member::Pull(left), Member::Pull(right)) => left.ptr_eq(right),
            (Member::Push(_), Member::Pull(_)) | (Member::Pull(_), Member::Push(_)) => false,
        }
    }

    fn heartbeat(&self) -> Option<ConsumerData> {
        match self {
            Member::Push(member) => member.upgrade().map(|member| member.heartbeat()),
            Member::Pull(member) => member.upgrade().map(|member| member.heartbeat()),
        }
    }
}

#[derive(Default)]
struct Groups {
    /// Producers per group: several may share one.
    producers: HashMap<Arc<str>, usize>,
    consumers: HashMap<Arc<str>, Member>,
}

pub(crate) struct Shared {
    pub(crate) id: Arc<str>,
    pub(crate) config: ClientConfig,
    pub(crate) ids: MessageIds,
    pub(crate) caller: Caller,
    pub(crate) routes: Routes,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// A permit per byte of the bodies under way.
    pub(crate) send_bytes: Semaphore,
    /// What all connections to brokers have yet to write.
    pub(crate) outbound: Arc<net::Budget>,
    /// Zero of the clock that latency records use.
    origin: Instant,
    groups: Mutex<Groups>,
}

/// Hears of new connections and of what brokers ask.
struct BrokerSide {
    shared: Weak<Shared>,
    notices: mpsc::Sender<(RemotingCommand, Replier)>,
}

impl Handler for BrokerSide {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        // 40 only rings a bell, and must not wait behind a listener that 309 calls.
        if request.request_code() == RequestCode::NOTIFY_CONSUMER_IDS_CHANGED {
            replier.forget();
            if let Some(shared) = self.shared.upgrade() {
                shared.rebalance_soon();
            }
            return;
        }
        if let Err(error) = self.notices.try_send((request, replier)) {
            let (request, replier) = error.into_inner();
            tracing::warn!(code = request.code, "too many requests of brokers wait; one is refused");
            replier.refuse(wire::ResponseCode::SYSTEM_BUSY, "the client has too many requests waiting");
        }
    }

    /// A broker forgets a client with its connection, so a new one begins with a heartbeat: without
    /// it, rebalance, transaction checks and reply pushes do not reach us until the next round.
    fn opened(&self, connection: &Arc<Connection>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let Some(body) = shared.heartbeat_body(true) else { return };
        let request = shared.caller.bare_request(RequestCode::HEART_BEAT).with_body(body);
        if let Err(error) = connection.send_oneway(request) {
            tracing::debug!(peer = %connection.peer(), %error, "the greeting failed");
        }
        shared.rebalance_soon();
    }

    fn closed(&self, connection: &Arc<Connection>, reason: &CloseReason) {
        tracing::debug!(peer = %connection.peer(), %reason, "connection to a broker is over");
    }
}

impl Client {
    /// Starts a client; connections are made when they are needed.
    pub async fn start(config: ClientConfig) -> Result<Client, ClientError> {
        config.check()?;
        let mut nameserver = None;
        for address in &config.nameservers {
            if let Some(found) =
                tokio::net::lookup_host(address).await.ok().and_then(|mut found| found.next())
            {
                nameserver = Some(found);
                break;
            }
        }
        let ip = identity::local_ip_towards(nameserver);
        let id = identity::client_id(ip, config.instance.as_deref(), config.unit.as_deref());
        let (sender, notices) = mpsc::channel(limits::NOTICES_MAX);
        let net_config = net::ClientConfig {
            connect_timeout: config.connect_timeout,
            connection: net::ConnectionConfig {
                // Our own sends must not count as a peer that does not read: `in_flight_bytes_max` of
                // the producers is the bound that senders wait at.
                outbound_bytes_max: limits::OUTBOUND_BYTES_MAX,
                ..net::ConnectionConfig::default()
            },
            ..net::ClientConfig::default()
        };
        let outbound = Arc::clone(&net_config.budget);
        let shared = Arc::new_cyclic(|weak: &Weak<Shared>| {
            let side = BrokerSide { shared: Weak::clone(weak), notices: sender };
            let brokers = net::Client::with_handler(net_config, Arc::new(side));
            let to_nameservers =
                Caller::new(net::Client::new(net::ClientConfig::default()), config.json_headers);
            let nameservers =
                Nameservers::new(to_nameservers, config.nameservers.clone(), config.call_timeout);
            Shared {
                id: id.into(),
                ids: MessageIds::new(ip),
                caller: Caller::new(brokers, config.json_headers),
                routes: Routes::new(nameservers),
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
                send_bytes: Semaphore::new(config.send_bytes_in_flight_max),
                outbound,
                origin: Instant::now(),
                groups: Mutex::default(),
                config,
            }
        });
        for task in [Task::Routes, Task::BorrowedRoutes, Task::Heartbeat] {
            shared.spawn(task.run(Arc::clone(&shared)));
        }
        shared.spawn(notice::serve(Arc::downgrade(&shared), notices, shared.stop.clone()));
        tracing::info!(id = &*shared.id, nameservers = ?shared.config.nameservers, "client started");
        let stop = Arc::new(StopOnDrop(shared.stop.clone()));
        Ok(Client { shared, _stop: stop })
    }

    /// `ip@instance`, by which brokers know this client.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Queues of a topic that can be written now.
    pub async fn write_queues(&self, topic: &str) -> Result<Vec<wire::MessageQueue>, ClientError> {
        let topic = self.shared.routes.follow(&topic.into())?;
        let route = self.shared.routes.for_sending(&topic, limits::DEFAULT_TOPIC_QUEUES).await?;
        Ok(route.write_queues(&topic.name))
    }

    /// Queues of a topic that can be read now.
    pub async fn read_queues(&self, topic: &str) -> Result<Vec<wire::MessageQueue>, ClientError> {
        let topic = self.shared.routes.follow(&topic.into())?;
        Ok(self.shared.routes.for_consuming(&topic).await?.readable.clone())
    }

    /// Stops: no more heartbeats and polls, connections closed. Shut producers and consumers down
    /// first; what they still have under way fails.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(limits::SHUTDOWN_TIMEOUT, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks of the client did not end in time");
        }
        self.shared.caller.net().close();
        self.shared.routes.nameservers().close();
        tracing::info!(id = &*self.shared.id, "client stopped");
    }
}

/// What runs as long as the client.
enum Task {
    Routes,
    BorrowedRoutes,
    Heartbeat,
}

impl Task {
    async fn run(self, shared: Arc<Shared>) {
        let period = match self {
            Task::Routes => shared.config.route_poll,
            Task::BorrowedRoutes => BORROWED_POLL,
            Task::Heartbeat => shared.config.heartbeat,
        };
        let stop = shared.stop.clone();
        while !stopped_within(&stop, period).await {
            let round = async {
                match self {
                    Task::Routes => shared.routes.poll(false).await,
                    Task::BorrowedRoutes => shared.routes.poll(true).await,
                    Task::Heartbeat => shared.beat().await,
                }
            };
            if stop.run_until_cancelled(round).await.is_none() {
                break;
            }
        }
    }
}

/// Waits for `period`; true when it was stopped meanwhile.
pub(crate) async fn stopped_within(stop: &CancellationToken, period: Duration) -> bool {
    tokio::time::timeout(period, stop.cancelled()).await.is_ok()
}

impl Shared {
    /// Runs a task that `Client::shutdown` waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Milliseconds on a clock that never goes back.
    pub(crate) fn tick_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    pub(crate) fn check_open(&self) -> Result<(), ClientError> {
        if self.stop.is_cancelled() { Err(ClientError::Closed) } else { Ok(()) }
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_producer(&self, group: &Arc<str>) -> Result<(), ClientError> {
        let mut groups = self.groups();
        if groups.producers.len() >= limits::GROUPS_MAX {
            return Err(ClientError::Busy("producer groups of one client"));
        }
        *groups.producers.entry(Arc::clone(group)).or_default() += 1;
        Ok(())
    }

    /// True when it was the group's last.
    pub(crate) fn remove_producer(&self, group: &str) -> bool {
        let mut groups = self.groups();
        let left = groups.producers.get_mut(group).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            groups.producers.remove(group);
        }
        left == Some(0)
    }

    pub(crate) fn add_consumer(&self, group: &Arc<str>, member: Member) -> Result<(), ClientError> {
        let mut groups = self.groups();
        groups.consumers.retain(|_, member| member.is_alive());
        if groups.consumers.contains_key(group) {
            return Err(ClientError::Refused(format!(
                "this client has a consumer of group {group} already; two need two clients, or brokers cannot tell them apart"
            )));
        }
        if groups.consumers.len() >= limits::GROUPS_MAX {
            return Err(ClientError::Busy("consumer groups of one client"));
        }
        groups.consumers.insert(Arc::clone(group), member);
        Ok(())
    }

    /// Takes this consumer out; another of the same group that came meanwhile stays.
    pub(crate) fn remove_consumer(&self, group: &str, member: &Member) {
        let mut groups = self.groups();
        if groups.consumers.get(group).is_some_and(|own| own.is(member)) {
            groups.consumers.remove(group);
        }
    }

    /// The push consumer of a group.
    pub(crate) fn push_member(&self, group: &str) -> Option<Arc<PushMember>> {
        match self.groups().consumers.get(group)? {
            Member::Push(member) => member.upgrade(),
            Member::Pull(_) => None,
        }
    }

    /// Every push consumer looks at its assignment now (Java does so for a notice of any group).
    pub(crate) fn rebalance_soon(&self) {
        for member in self.groups().consumers.values() {
            if let Member::Push(member) = member
                && let Some(member) = member.upgrade()
            {
                member.rebalance_soon();
            }
        }
    }

    /// Asks for a topic's route because something failed. Many failures ask once in a while, and for as long as there are some.
    pub(crate) fn refresh_in_background(self: &Arc<Self>, topic: &Arc<Topic>) {
        if self.stop.is_cancelled() || !topic.begin_refresh() {
            return;
        }
        let (shared, topic) = (Arc::clone(self), Arc::clone(topic));
        self.spawn(async move {
            for asked in 1.. {
                let wishes = topic.wishes();
                if let Some(Err(error)) = shared.stop.run_until_cancelled(shared.routes.refresh(&topic)).await
                {
                    tracing::warn!(topic = &*topic.name, %error, "the route cannot be asked for");
                }
                let is_soon = asked <= limits::ROUTE_ASKED_SOON;
                let pause = if is_soon { limits::ROUTE_AFTER_FAILURE } else { limits::ROUTE_AFTER_MANY };
                let is_stopped = stopped_within(&shared.stop, pause).await;
                if is_stopped || topic.end_refresh(wishes) {
                    break;
                }
            }
        });
    }

    fn has_consumers(&self) -> bool {
        !self.groups().consumers.is_empty()
    }

    /// The heartbeat as it is now; `None` when there is nobody to tell of. Followers hear of no
    /// producers.
    fn heartbeat_body(&self, with_producers: bool) -> Option<Bytes> {
        let groups = self.groups();
        let producers = groups.producers.keys().filter(|_| with_producers);
        let data = HeartbeatData {
            client_id: self.id.to_string(),
            consumer_data_set: groups.consumers.values().filter_map(Member::heartbeat).collect(),
            producer_data_set: producers
                .map(|group| ProducerData { group_name: group.to_string() })
                .collect(),
            ..HeartbeatData::default()
        };
        drop(groups);
        let nobody = data.consumer_data_set.is_empty() && data.producer_data_set.is_empty();
        (!nobody).then(|| data.encode())
    }

    /// Addresses that get heartbeats: every master, and with consumers everybody.
    fn heartbeat_targets(&self) -> Vec<(i64, Arc<str>)> {
        let everybody = self.has_consumers();
        let mut targets: Vec<(i64, Arc<str>)> =
            self.routes.brokers_in_use().iter().flat_map(|broker| broker.all()).collect();
        targets.retain(|(id, _)| everybody || *id == MASTER_ID);
        targets.sort_unstable_by(|left, right| left.1.cmp(&right.1));
        targets.dedup_by(|left, right| left.1 == right.1);
        targets
    }

    /// One heartbeat to every broker in use, all at a time.
    pub(crate) async fn beat(&self) {
        self.beat_at_all(self.heartbeat_targets()).await;
    }

    /// One to those that we are connected to; others get theirs with the connection.
    pub(crate) async fn beat_at_connected(&self) {
        let connected = self.caller.net().connected();
        let mut targets = self.heartbeat_targets();
        targets.retain(|(_, address)| connected.iter().any(|other| **other == **address));
        self.beat_at_all(targets).await;
    }

    async fn beat_at_all(&self, targets: Vec<(i64, Arc<str>)>) {
        let (Some(to_masters), to_others) = (self.heartbeat_body(true), self.heartbeat_body(false)) else {
            return;
        };
        let mut beats = FuturesUnordered::new();
        for (id, address) in targets {
            let body = if id == MASTER_ID { Some(to_masters.clone()) } else { to_others.clone() };
            let Some(body) = body else { continue };
            beats.push(async move {
                let result = self.beat_one(&address, body).await;
                (address, result)
            });
        }
        while let Some((address, result)) = beats.next().await {
            if let Err(error) = result {
                tracing::warn!(address = &*address, %error, "heartbeat failed");
            }
        }
    }

    async fn beat_one(&self, address: &str, body: Bytes) -> Result<(), ClientError> {
        let request = self.caller.bare_request(RequestCode::HEART_BEAT).with_body(body);
        self.caller.ask(address, request, self.config.call_timeout).await.map(drop)
    }

    /// A heartbeat to one broker that seems not to know us.
    pub(crate) async fn beat_at(&self, address: &str) {
        let Some(body) = self.heartbeat_body(true) else { return };
        if let Err(error) = self.beat_one(address, body).await {
            tracing::warn!(address, %error, "heartbeat failed");
        }
    }

    /// Tells every broker in use that a group has left.
    pub(crate) async fn unregister(&self, producer: Option<&str>, consumer: Option<&str>) {
        let header = UnregisterClientRequest {
            client_id: self.id.to_string(),
            producer_group: producer.map(str::to_owned),
            consumer_group: consumer.map(str::to_owned),
        };
        // Those that we are not connected to do not know us.
        let connected = self.caller.net().connected();
        let mut calls = FuturesUnordered::new();
        for address in connected {
            let request = self.caller.request(RequestCode::UNREGISTER_CLIENT, &header);
            calls.push(async move {
                let result = self.caller.ask(&address, request, self.config.call_timeout).await;
                (address, result)
            });
        }
        while let Some((address, result)) = calls.next().await {
            if let Err(error) = result {
                tracing::debug!(address, %error, "unregister failed");
            }
        }
    }
}
