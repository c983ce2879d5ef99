//! A node's share of the cluster: the peer listener, the channels to the other nodes, the flusher of the disk, and the
//! groups that live here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use openraft::{Config, SnapshotPolicy};
use prost::Message as _;
use store::{Disk, Flusher, Identity, Log, Mutant, StoreError, TablesMeta};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::catch_up::CatchUpLimits;
use crate::formation::{self, FormationError};
use crate::group::{Group, Raft, start_tasks};
use crate::limits::{
    CHECKPOINT_INTERVAL, COUPLED_LEVEL, FIRST_LEADER_HEAD_START, PEER_FRAME_BYTES, PEER_RESETS_MAX,
    PEER_WINDOW_BYTES,
};
use crate::log_clock::WallClock;
use crate::log_storage::LogStorage;
use crate::network::Network;
use crate::peers::{PeerHandler, Peers};
use crate::server::{GroupSlot, Levels, PeerServer, Registry};
use crate::state_machine::Machine;
use crate::transport::Transport;
use crate::{NodeId, StateMachine, proto};

/// What a host needs to know.
pub struct HostConfig {
    /// Name of the cluster: a node of another cluster is refused.
    pub cluster: String,
    pub node: NodeId,
    /// Where the other nodes reach this one.
    pub listen: SocketAddr,
    /// `host:port` of every node of the cluster, this one included.
    pub peers: BTreeMap<NodeId, String>,
    /// Concurrent fdatasync calls (at most 4 are useful; log.md 16).
    pub flush_threads: usize,
}

/// What a host stands on: a machine, or what a simulation has in its place.
pub struct Ground {
    pub disk: Arc<dyn Disk>,
    /// That of the disk.
    pub flusher: Flusher,
    /// `None`: TCP.
    pub transport: Option<Arc<dyn Transport>>,
}

/// What a group needs to know. `name` is the RocketMQ broker name.
pub struct GroupConfig {
    pub name: String,
    pub directory: PathBuf,
    /// The voters that form the group; the same list on every node.
    pub voters: Vec<NodeId>,
    /// A property of the group: every node must give the same (log.md 8).
    pub segment_size: u64,
    /// The voter that stands first when the group is formed; the lowest unless set.
    pub first_leader: Option<NodeId>,
    pub heartbeat_ms: u64,
    /// Detection takes the maximum plus a random time between the two (openraft.md 1.4).
    pub election_ms: (u64, u64),
    /// How often the tables are saved while anything is applied.
    pub checkpoint_interval: Duration,
    /// How a node that is far behind is sent what it lacks while this one leads.
    pub catch_up: CatchUpLimits,
    /// The feature level of the entries and tables that this build knows, from 1.
    pub level: u32,
    /// Up to which level this node lets the group go, at most `level`: below it, entries that need more are not proposed
    /// until every node does.
    pub level_max: u32,
    /// What only tests and simulations change of the log.
    pub log: store::Options,
    /// The system's, except in tests.
    pub wall_clock: WallClock,
}

impl GroupConfig {
    /// A group with the timing of design.md: heartbeat 50 ms, election 150–300 ms.
    pub fn new(name: impl Into<String>, directory: impl Into<PathBuf>, voters: Vec<NodeId>) -> Self {
        GroupConfig {
            name: name.into(),
            directory: directory.into(),
            voters,
            segment_size: 1 << 30,
            first_leader: None,
            heartbeat_ms: 50,
            election_ms: (150, 300),
            checkpoint_interval: CHECKPOINT_INTERVAL,
            catch_up: CatchUpLimits::default(),
            level: COUPLED_LEVEL,
            level_max: COUPLED_LEVEL,
            log: store::Options::default(),
            wall_clock: WallClock::default(),
        }
    }
}

/// Why a host or a group does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot listen for peers on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the address of a peer: {0}")]
    PeerAddress(#[from] tonic::transport::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Formation(#[from] FormationError),
    #[error("group {group}: {reason}")]
    Group { group: String, reason: String },
}

/// A node's share of the cluster. A clone is a reference.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: String,
    node: NodeId,
    peers: Peers,
    registry: Arc<Registry>,
    flusher: Flusher,
    disk: Arc<dyn Disk>,
    consensus: Handle,
    serving: Handle,
    stop: CancellationToken,
}

/// A group whose log is recovered and whose tables are read, but which does not take part yet.
pub struct OpenedGroup {
    slot: Arc<GroupSlot>,
    config: GroupConfig,
    checkpoint: Option<(TablesMeta, proto::Tables)>,
}

impl OpenedGroup {
    pub fn log(&self) -> &Log {
        &self.slot.log
    }

    /// The newest saved tables of the state machine, to be restored before [`Host::start_group`].
    pub fn checkpoint(&self) -> Option<(&TablesMeta, &[u8])> {
        self.checkpoint.as_ref().map(|(at, tables)| (at, &tables.state[..]))
    }
}

impl Host {
    /// Starts the peer listener. Consensus, peers and their timers run on `consensus`, a runtime of their own that
    /// nothing else may block; answers to calls are worked out on `serving`.
    pub fn start(
        config: &HostConfig,
        disk: Arc<dyn Disk>,
        handler: Arc<dyn PeerHandler>,
        consensus: Handle,
        serving: Handle,
    ) -> Result<Host, OpenError> {
        let ground = Ground { disk, flusher: Flusher::start(config.flush_threads), transport: None };
        Host::start_on(config, ground, handler, consensus, serving)
    }

    /// The same on another ground.
    pub fn start_on(
        config: &HostConfig,
        ground: Ground,
        handler: Arc<dyn PeerHandler>,
        consensus: Handle,
        serving: Handle,
    ) -> Result<Host, OpenError> {
        let Ground { disk, flusher, transport } = ground;
        let _inside = consensus.enter();
        let peers = Peers::new(&config.cluster, config.node, &config.peers, transport.as_ref())?;
        let registry = Arc::new(Registry::default());
        let stop = CancellationToken::new();
        let server = PeerServer {
            cluster: config.cluster.clone(),
            me: config.node,
            nodes: config.peers.keys().copied().collect(),
            registry: registry.clone(),
            handler,
            serving: serving.clone(),
        };
        let listen_error = |source| OpenError::Listen { address: config.listen, source };
        match &transport {
            Some(transport) => {
                let incoming = transport.listen(config.listen).map_err(listen_error)?;
                consensus.spawn(serve_peers(server, incoming, stop.clone()));
            }
            None => {
                let listener = std::net::TcpListener::bind(config.listen).map_err(listen_error)?;
                listener.set_nonblocking(true).map_err(listen_error)?;
                let listener = tokio::net::TcpListener::from_std(listener).map_err(listen_error)?;
                let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
                consensus.spawn(serve_peers(server, incoming, stop.clone()));
            }
        }
        let inner = Inner {
            cluster: config.cluster.clone(),
            node: config.node,
            peers,
            registry,
            flusher,
            disk,
            consensus: consensus.clone(),
            serving,
            stop,
        };
        Ok(Host { inner: Arc::new(inner) })
    }

    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    pub fn peers(&self) -> &Peers {
        &self.inner.peers
    }

    /// Recovers a group's log and reads its newest checkpoint. Blocks on the disk.
    pub fn open_group(&self, config: GroupConfig) -> Result<OpenedGroup, OpenError> {
        let identity = Identity {
            cluster: self.inner.cluster.clone(),
            group: config.name.clone(),
            node: self.inner.node.0,
            segment_size: config.segment_size,
        };
        let log = Log::open_with(
            self.inner.disk.clone(),
            &config.directory,
            &identity,
            &self.inner.flusher,
            config.log.clone(),
        )?;
        let checkpoint = match log.load_newest_checkpoint()? {
            None => None,
            Some((at, bytes)) => {
                let tables = proto::Tables::decode(&bytes[..])
                    .map_err(|e| OpenError::Group { group: config.name.clone(), reason: e.to_string() })?;
                Some((at, tables))
            }
        };
        let mut voters = config.voters.clone();
        voters.sort_unstable();
        voters.dedup();
        let (cluster, wall_clock) = (&self.inner.cluster, config.wall_clock.clone());
        let levels = Levels { known: config.level, max: config.level_max.min(config.level) };
        let slot = GroupSlot::new(cluster, &config.name, self.inner.node, voters, log, levels, wall_clock);
        let slot = Arc::new(slot);
        self.inner.registry.insert(slot.clone());
        Ok(OpenedGroup { slot, config, checkpoint })
    }

    /// Forms the group if it is new (waiting for every voter), then takes part in it.
    pub async fn start_group(
        &self,
        opened: OpenedGroup,
        tables: Arc<dyn StateMachine>,
    ) -> Result<Group, OpenError> {
        let (this, group) = (self.clone(), opened.config.name.clone());
        let task = self.inner.consensus.spawn(async move { this.start_inside(opened, tables).await });
        let started = task.await.unwrap_or_else(|e| {
            Err(OpenError::Group { group: group.clone(), reason: format!("the start was interrupted: {e}") })
        });
        if started.is_err() {
            // Peers hear that it is not here, and its directory is free.
            self.remove_group(&group);
        }
        started
    }

    async fn start_inside(
        &self,
        opened: OpenedGroup,
        tables: Arc<dyn StateMachine>,
    ) -> Result<Group, OpenError> {
        let OpenedGroup { slot, config, checkpoint } = opened;
        let name = config.name.clone();
        if slot.tables.set(tables.clone()).is_err() {
            return Err(OpenError::Group { group: name, reason: "the group is running already".into() });
        }
        let failed = |reason: String| OpenError::Group { group: name.clone(), reason };
        let formed_now = formation::form(&slot, &self.inner.peers).await?;
        let mut machine =
            Machine::new(tables.clone(), slot.log.clone(), checkpoint).map_err(|e| failed(e.to_string()))?;
        machine.set_checkpoint_interval(config.checkpoint_interval);
        let applied = machine.watch_applied();
        let raft_config = raft_config(&config).map_err(|e| failed(e.to_string()))?;
        let network =
            Network { peers: self.inner.peers.clone(), slot: slot.clone(), catch_up: config.catch_up };
        let raft = Raft::new(
            self.inner.node.0,
            Arc::new(raft_config),
            network,
            LogStorage::new(slot.log.clone()),
            machine,
        )
        .await
        .map_err(|e| failed(e.to_string()))?;
        if slot.raft.set(raft.clone()).is_err() {
            return Err(failed("the group is running already".into()));
        }
        // Every voter writes the same first entry: it names the voters and nothing else. A node that was stopped
        // between forming the group and writing it does so now.
        let initialized = raft.is_initialized().await.map_err(|e| failed(e.to_string()))?;
        if formed_now || !initialized {
            let first = config.first_leader.or_else(|| slot.voters.first().copied());
            if first == Some(slot.me) {
                initialize(&raft, &slot).await.map_err(failed)?;
            } else {
                // Writing it makes a node stand for election; if all did so at once, none would win.
                let (raft, slot) = (raft.clone(), slot.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(FIRST_LEADER_HEAD_START).await;
                    if let Err(error) = initialize(&raft, &slot).await {
                        tracing::error!(group = slot.group, error, "the first entry was not written");
                    }
                });
            }
        }
        let (consensus, serving) = (self.inner.consensus.clone(), self.inner.serving.clone());
        Ok(start_tasks(slot, raft, tables, applied, self.inner.peers.clone(), consensus, serving))
    }

    /// Stops listening to peers and flushing. The groups must have been stopped before.
    pub fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.flusher.clone().stop();
    }

    /// Forgets a group that has stopped on this node.
    pub fn remove_group(&self, name: &str) {
        self.inner.registry.remove(name);
    }
}

/// Answers the streams that other nodes open, until `stop`.
async fn serve_peers<I, S, E>(server: PeerServer, incoming: I, stop: CancellationToken)
where
    I: Stream<Item = Result<S, E>>,
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let served = tonic::transport::Server::builder()
        .initial_connection_window_size(PEER_WINDOW_BYTES)
        .initial_stream_window_size(PEER_WINDOW_BYTES)
        .max_frame_size(PEER_FRAME_BYTES)
        // Calls that are given up are reset streams, often many at once after a cut. At h2's default of 20 (which is against
        // strangers) the whole connection would be closed, and all that was under way on it of unknown outcome.
        .http2_max_pending_accept_reset_streams(Some(PEER_RESETS_MAX))
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_millis(1500)))
        .add_service(server.into_service())
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the peer listener has ended");
    }
}

/// Writes the first entry, unless another voter has and it is here already.
#[allow(clippy::zero_sized_map_values)] // openraft's parameter: our nodes are known by their ids alone
async fn initialize(raft: &Raft, slot: &GroupSlot) -> Result<(), String> {
    use openraft::errors::{InitializeError, RaftError};
    let members: BTreeMap<u64, openraft::EmptyNode> =
        slot.voters.iter().map(|v| (v.0, openraft::EmptyNode {})).collect();
    match raft.initialize(members).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn raft_config(config: &GroupConfig) -> Result<Config, openraft::ConfigError> {
    Config {
        cluster_name: config.name.clone(),
        heartbeat_interval: config.heartbeat_ms,
        election_timeout_min: config.election_ms.0,
        election_timeout_max: config.election_ms.1,
        // Bytes, not entries, bound a read: see `LogStorage`.
        max_payload_entries: 4096,
        // The log is the data: nothing is purged because a snapshot exists (log.md 7).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(!Mutant::NoPreVote.is_on()),
        // A leader that restarts must win an election first: its entries reached followers before its own fsync, so it
        // could write a second entry under a (term, index) that exists (log.md 1).
        enable_leader_restore: Some(Mutant::LeaderRestored.is_on()),
        allow_log_reversion: Some(false),
        backoff: "50ms".to_owned(),
        ..Config::default()
    }
    .validate()
}
