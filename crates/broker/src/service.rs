//! The broker role of one process: its groups, their listeners, and what they share.
//!
//! Start: the listeners open first, and a group takes requests at once, if only to pass them on; then the peers, then
//! each log is recovered and its group joins. Stop: leadership is handed over, clients are given time to hear of it,
//! what is held or in flight is answered, then the connections close, then the logs.
//!
//! Locks here are leaves: each is held for one look-up or change and never across a wait. The one exception is a group's
//! `commits`: under it the tables are read and the proposer's queue is pushed to, so that commits keep their order;
//! nothing takes them the other way round.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use net::{
    Budget, CloseReason, Connection, ConnectionConfig, Handler, Listeners, Replier, Server, ServerConfig,
};
use replica::{Host, HostConfig, NodeId, OpenError, Peers};
use store::{Disk, OsDisk};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::{RemotingCommand, UniqueIds};

use crate::call::Call;
use crate::clients::{Clients, ConnectionId};
use crate::config::{BrokerConfig, GroupConfig};
use crate::forward::Answers;
use crate::handlers::raft::{self, GroupReport};
use crate::handlers::send;
use crate::hosted::{Hosted, Toward};
use crate::limits::{CLOSE_GRACE, DRAIN_MAX, DRAIN_MIN, DRAIN_QUIET, Limits};
use crate::{flow, life, pop, registration, registry};

/// What the groups of a process share.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) config: BrokerConfig,
    pub(crate) clients: Clients,
    /// The version of the registry's local part that was told.
    pub(crate) client_changes: watch::Sender<u64>,
    /// The other nodes' parts of the registry are here, or were waited for long enough.
    pub(crate) registry_ready: watch::Sender<bool>,
    /// Connections that have a client.
    pub(crate) connections: Mutex<HashMap<ConnectionId, Arc<Connection>>>,
    /// Calls to nameservers and to brokers of other nodes' groups.
    pub(crate) outside: net::Client,
    pub(crate) unique_ids: UniqueIds,
    /// Properties that every message gets.
    pub(crate) stamp: String,
    pub(crate) boot_ms: u64,
    started: Instant,
    groups: RwLock<BTreeMap<String, Arc<Hosted>>>,
    peers: OnceLock<Peers>,
    /// A planned stop is under way: this node does not want to lead.
    pub(crate) draining: CancellationToken,
    /// Everything ends.
    pub(crate) stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Node {
    fn new(config: BrokerConfig) -> Arc<Node> {
        let boot_ms = wall_clock_ms();
        let address = config.groups.first().map_or(config.peer_listen, |group| group.listen).ip();
        Arc::new(Node {
            id: NodeId(config.node),
            clients: Clients::new(rand::random(), config.limits.clients),
            client_changes: watch::Sender::new(0),
            registry_ready: watch::Sender::new(false),
            connections: Mutex::default(),
            outside: net::Client::new(net::ClientConfig::default()),
            unique_ids: UniqueIds::new(address, std::process::id(), rand::random()),
            stamp: send::stamp(&config.region, config.trace_on, &config.cluster),
            boot_ms,
            started: Instant::now(),
            groups: RwLock::default(),
            peers: OnceLock::new(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
        })
    }

    pub(crate) fn group(&self, name: &str) -> Option<Arc<Hosted>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Every group of this node, by name.
    pub(crate) fn groups(&self) -> Vec<Arc<Hosted>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// `None` until the peer listener is open.
    pub(crate) fn peers(&self) -> Option<&Peers> {
        self.peers.get()
    }

    pub(crate) fn peer_address(&self, node: NodeId) -> String {
        self.config.peers.get(&node.0).cloned().unwrap_or_else(|| format!("node {node}"))
    }

    /// A clock that does not go back, ms.
    pub(crate) fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Runs a task that ends with the node.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            stopping.run_until_cancelled(task).await;
        });
    }
}

/// Wall clock, ms since 1970: for what people read, never for what the log decides.
pub(crate) fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}

/// What a group's listeners hand their requests to.
struct Front {
    hosted: Arc<Hosted>,
    listener: Arc<str>,
    vip: Arc<str>,
}

/// The names of the two listeners of a group.
const MAIN: &str = "main";
const VIP: &str = "vip";

impl Handler for Front {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        if replier.connection().is_late()
            && let Some((code, remark)) = flow::late(&request)
        {
            self.hosted.stats.put_failed();
            return replier.refuse(code, remark);
        }
        let is_vip = replier.connection().listener().is_some_and(|listener| listener.tag == VIP);
        let listener = if is_vip { &self.vip } else { &self.listener };
        self.hosted.take(Call::from_connection(request, replier, listener.clone(), self.hosted.ticket()));
    }

    fn closed(&self, connection: &Arc<Connection>, _reason: &CloseReason) {
        self.hosted.node.forget(connection.id());
    }
}

/// Why a broker does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The key of the configuration, and the rule that it breaks.
    #[error("{key}: {rule}")]
    Config { key: String, rule: String },
    #[error("cannot listen for clients of {group} on {address}: {source}")]
    Listen { group: String, address: SocketAddr, source: std::io::Error },
    #[error("the address {address} that group {group} advertises has no IP address")]
    Advertise { group: String, address: String },
    #[error("no runtime for consensus: {0}")]
    Runtime(std::io::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// How a planned stop treats clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Goes on passing requests on until every client has heard who leads: 35 s and more.
    WaitForClients,
    /// Hands leadership over, answers what is in flight, and closes.
    Now,
}

/// A running broker. Dropping it is a crash, as far as its clients can tell; see [`Broker::shutdown`].
pub struct Broker {
    node: Arc<Node>,
    host: Host,
    servers: Vec<(Arc<Hosted>, Server)>,
    consensus: Option<tokio::runtime::Runtime>,
    failures: mpsc::UnboundedReceiver<BrokerError>,
}

impl Broker {
    /// Starts every group of the configuration, on the current runtime; consensus gets one of its own. Returns when
    /// the listeners are open: see [`Broker::ready`].
    pub async fn start(config: BrokerConfig) -> Result<Broker, BrokerError> {
        Broker::start_on(config, Arc::new(OsDisk)).await
    }

    /// The same, on another disk.
    pub async fn start_on(mut config: BrokerConfig, disk: Arc<dyn Disk>) -> Result<Broker, BrokerError> {
        config.check().map_err(|(key, rule)| BrokerError::Config { key, rule })?;
        let mut bound = Vec::new();
        for group in &mut config.groups {
            bound.push(listen(group)?);
        }
        let consensus = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.consensus_threads.max(1))
            .thread_name("consensus")
            .enable_all()
            .build()
            .map_err(BrokerError::Runtime)?;
        let node = Node::new(config.clone());
        let server_config = config.limits.server_config();
        let mut servers = Vec::new();
        for (group, listeners) in config.groups.iter().zip(bound) {
            let store_host = store_host(group).await?;
            let hosted = Hosted::new(group.clone(), node.clone(), store_host);
            node.groups
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(group.name.clone(), hosted.clone());
            let front = Front { hosted: hosted.clone(), listener: MAIN.into(), vip: VIP.into() };
            let started = Server::start(server_config.clone(), listeners, Arc::new(front));
            let listen_error =
                |source| BrokerError::Listen { group: group.name.clone(), address: group.listen, source };
            servers.push((hosted, started.map_err(listen_error)?));
        }
        let host_config = HostConfig {
            cluster: config.cluster.clone(),
            node: node.id,
            listen: config.peer_listen,
            peers: config.peers.iter().map(|(node, address)| (NodeId(*node), address.clone())).collect(),
            flush_threads: config.flush_threads,
        };
        let answers = Arc::new(Answers(Arc::downgrade(&node)));
        let serving = tokio::runtime::Handle::current();
        let host = Host::start(&host_config, disk, answers, consensus.handle().clone(), serving)?;
        let peers = host.peers().clone();
        assert!(node.peers.set(peers.clone()).is_ok(), "the peers are set once");
        registry::start(&node, &peers);
        let (failed, failures) = mpsc::unbounded_channel();
        for (hosted, _) in &servers {
            registration::start(hosted);
            node.spawn(hosted.clone().keep_park());
            let (hosted, host, failed) = (hosted.clone(), host.clone(), failed.clone());
            node.clone().spawn(async move {
                if let Err(error) = life::open(&hosted, &host).await {
                    tracing::error!(group = hosted.name(), %error, "the group cannot take part");
                    // Nobody listens any more when the broker is stopping.
                    let _ = failed.send(BrokerError::Open(error));
                }
            });
        }
        Ok(Broker { node, host, servers, consensus: Some(consensus), failures })
    }

    /// Where clients reach each group, by name: the main listener as bound.
    pub fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        let address = |(hosted, _): &(Arc<Hosted>, Server)| (hosted.name().to_owned(), hosted.config.listen);
        self.servers.iter().map(address).collect()
    }

    /// Returns when a leader is known for every group, so that a request is done at once.
    pub async fn ready(&self) {
        for (hosted, _) in &self.servers {
            hosted.standing_is(|toward| toward != Toward::Nobody).await;
        }
    }

    /// Returns when a group cannot take part in its cluster: a wrong peer, a lost directory, a damaged log. The other
    /// groups go on. Never returns otherwise.
    pub async fn failed(&mut self) -> BrokerError {
        match self.failures.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// [`Broker::ready`], or what [`Broker::failed`] says if that comes first.
    pub async fn ready_or_failed(&mut self) -> Result<(), BrokerError> {
        let servers = &self.servers;
        let ready = async {
            for (hosted, _) in servers {
                hosted.standing_is(|toward| toward != Toward::Nobody).await;
            }
        };
        tokio::select! {
            () = ready => Ok(()),
            Some(error) = self.failures.recv() => Err(error),
        }
    }

    /// Returns when the nameservers have heard what each group is now, or after half a second: with [`Broker::ready`]
    /// before it, a client that asks them finds what it needs for a first send.
    pub async fn registered(&self) {
        futures::future::join_all(self.servers.iter().map(|(hosted, _)| hosted.register_now())).await;
    }

    /// Each group as this node sees it.
    pub fn status(&self) -> Vec<GroupReport> {
        self.servers.iter().map(|(hosted, _)| raft::report(hosted)).collect()
    }

    /// How often a client connection was not read for a while because it sent too much.
    #[cfg(test)]
    pub(crate) fn pauses(&self) -> u64 {
        self.servers.iter().map(|(_, server)| server.stats().pauses_total).sum()
    }

    #[cfg(test)]
    pub(crate) fn hosted(&self, group: &str) -> Arc<Hosted> {
        self.node.group(group).expect("a group of this node")
    }

    /// A planned stop.
    pub async fn shutdown(mut self, drain: Drain) {
        let node = self.node.clone();
        node.draining.cancel();
        for (hosted, _) in &self.servers {
            life::give_leadership_away(hosted).await;
        }
        let has_heirs = self.servers.iter().any(|(hosted, _)| hosted.config.voters.len() > 1);
        if drain == Drain::WaitForClients && has_heirs {
            self.wait_for_clients().await;
        }
        for (hosted, _) in &self.servers {
            registration::unregister(hosted).await;
            // Later pulls are not held any more.
            for held in hosted.holds.close() {
                crate::handlers::pull::again(hosted, held);
            }
            pop::over(hosted);
        }
        let closing = self.servers.drain(..).map(|(_, server)| server.shutdown(CLOSE_GRACE));
        futures::future::join_all(closing).await;
        node.stopping.cancel();
        node.tasks.close();
        node.tasks.wait().await;
        for hosted in node.groups() {
            life::close(&hosted).await;
        }
        self.host.shutdown();
        node.outside.close();
        // The groups refer to the node.
        node.groups.write().unwrap_or_else(PoisonError::into_inner).clear();
        // What consensus still has running refers to the logs: when this returns, their directories are free.
        if let Some(consensus) = self.consensus.take() {
            let ended = tokio::task::spawn_blocking(move || consensus.shutdown_timeout(CLOSE_GRACE));
            let _ = ended.await;
        }
    }

    /// Clients use an address until they next ask for the route.
    async fn wait_for_clients(&self) {
        let start = Instant::now();
        loop {
            tokio::time::sleep(DRAIN_QUIET / 10).await;
            let quiet = self.servers.iter().all(|(hosted, _)| hosted.quiet_for() >= DRAIN_QUIET);
            if start.elapsed() >= DRAIN_MAX || (start.elapsed() >= DRAIN_MIN && quiet) {
                return;
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.node.stopping.cancel();
        self.host.shutdown();
        if let Some(consensus) = self.consensus.take() {
            // A runtime may not wait for another one to end.
            consensus.shutdown_background();
        }
        self.node.groups.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Opens a group's sockets, and writes into its configuration what the kernel chose.
fn listen(group: &mut GroupConfig) -> Result<Listeners, BrokerError> {
    let name = group.name.clone();
    let failed = |address| {
        let group = name.clone();
        move |source| BrokerError::Listen { group, address, source }
    };
    let vip = group.vip_listen();
    let mut listeners = Listeners::new().bind(MAIN, group.listen).map_err(failed(group.listen))?;
    if let Some(vip) = vip {
        listeners = listeners.bind(VIP, vip).map_err(failed(vip))?;
    }
    if let Some(main) = listeners.addresses().first() {
        group.listen = main.address;
    }
    Ok(listeners)
}

impl Limits {
    /// What a server takes on by these limits, with a budget of its own for what is in flight and unread.
    pub fn server_config(&self) -> ServerConfig {
        ServerConfig {
            connection: ConnectionConfig {
                frame_bytes_max: self.frame_bytes,
                in_flight_bytes_max: self.in_flight_bytes_per_connection,
                ..ConnectionConfig::default()
            },
            connections_max: self.connections,
            connections_per_ip_max: self.connections_per_ip,
            receive_buffer_bytes: self.receive_buffer_bytes,
            budget: Arc::new(Budget::new(self.in_flight_bytes, self.unread_bytes)),
            ..ServerConfig::default()
        }
    }
}

/// The leader's advertised address as an IP address: what offset message ids are made of. Any node of the group answers
/// for a message, so one that moves is the best: it outlives the node.
async fn store_host(group: &GroupConfig) -> Result<SocketAddr, BrokerError> {
    let advertised = group.advertised_as_leader();
    if let Ok(address) = advertised.parse() {
        return Ok(address);
    }
    let unknown = || BrokerError::Advertise { group: group.name.clone(), address: advertised.clone() };
    let mut found = tokio::net::lookup_host(&advertised).await.map_err(|_| unknown())?;
    found.next().ok_or_else(unknown)
}
