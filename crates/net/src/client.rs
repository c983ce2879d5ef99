//! Calls to servers by address: one connection each, opened when it is needed.
//!
//! Locks: `peers` is a leaf, held to look up or change one entry.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use wire::{RemotingCommand, ResponseCode};

use crate::budget::Budget;
use crate::connection::{Connection, ConnectionConfig, Replier, Stage};
use crate::driver::{Handler, Traffic, drive};
use crate::error::{CallError, Failure};
use crate::limits;
use crate::lock;
use crate::registry::{Registry, next_id};
use crate::transport::Transport;

/// Limits of a client; defaults are in [`crate::limits`].
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub connection: ConnectionConfig,
    pub connect_timeout: Duration,
    pub sweep_interval: Duration,
    /// Bytes held for servers; see [`crate::ServerConfig::budget`].
    pub budget: Arc<Budget>,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            connection: ConnectionConfig::default(),
            connect_timeout: limits::CONNECT_TIMEOUT,
            sweep_interval: limits::SWEEP_INTERVAL,
            budget: Arc::default(),
        }
    }
}

/// Refuses what a server asks of a client that expects nothing.
struct RefuseAll;

impl Handler for RefuseAll {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        let remark = format!(" request type {} not supported", request.code);
        replier.refuse(ResponseCode::REQUEST_CODE_NOT_SUPPORTED, remark);
    }
}

/// Cheap to clone; the clones share their connections, which close when the last clone is gone.
#[derive(Clone)]
pub struct Client {
    owner: Arc<Owner>,
}

/// Closes the connections when the last clone of a client is dropped.
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

struct Shared {
    config: ClientConfig,
    connection_config: Arc<ConnectionConfig>,
    handler: Arc<dyn Handler>,
    peers: Mutex<Peers>,
    registry: Registry,
    traffic: Arc<Traffic>,
}

#[derive(Default)]
struct Peers {
    by_address: HashMap<String, Peer>,
    is_closed: bool,
    has_sweeper: bool,
}

enum Peer {
    Open(Arc<Connection>),
    /// Shared by all who want this peer; a failure is told to each of them once.
    Connecting(watch::Receiver<Option<Result<Arc<Connection>, Failure>>>),
}

impl Client {
    /// A client that answers requests of its servers with "not supported".
    pub fn new(config: ClientConfig) -> Client {
        Client::with_handler(config, Arc::new(RefuseAll))
    }

    /// `handler` gets the requests that servers send to this client.
    pub fn with_handler(config: ClientConfig, handler: Arc<dyn Handler>) -> Client {
        let shared = Arc::new(Shared {
            connection_config: Arc::new(config.connection.clone()),
            config,
            handler,
            peers: Mutex::default(),
            registry: Registry::default(),
            traffic: Arc::default(),
        });
        Client { owner: Arc::new(Owner { shared }) }
    }

    /// Sends a request to `address` ("host:port") and waits for its response; `timeout` covers the
    /// connect as well.
    pub async fn call(
        &self,
        address: &str,
        request: RemotingCommand,
        timeout: Duration,
    ) -> Result<RemotingCommand, CallError> {
        let deadline = Instant::now() + timeout;
        let connection = self.connection_until(address, deadline).await?;
        let remaining = deadline.saturating_duration_since(Instant::now());
        connection.request(request, remaining).await
    }

    /// Queues a one-way request. `Ok` says that it was queued on an open connection, no more.
    pub async fn send_oneway(
        &self,
        address: &str,
        request: RemotingCommand,
        timeout: Duration,
    ) -> Result<(), CallError> {
        self.connection(address, timeout).await?.send_oneway(request)
    }

    /// The connection to `address`, opened if there is none.
    pub async fn connection(&self, address: &str, timeout: Duration) -> Result<Arc<Connection>, CallError> {
        self.connection_until(address, Instant::now() + timeout).await
    }

    /// Closes the connection to `address`, if there is one; a later call opens another.
    pub fn disconnect(&self, address: &str) {
        if let Some(Peer::Open(connection)) = lock(&self.owner.shared.peers).by_address.get(address) {
            connection.close();
        }
    }

    /// Addresses with an open connection.
    pub fn connected(&self) -> Vec<String> {
        let peers = lock(&self.owner.shared.peers);
        let open = |peer: &Peer| matches!(peer, Peer::Open(connection) if !connection.is_over());
        peers.by_address.iter().filter(|(_, peer)| open(peer)).map(|(address, _)| address.clone()).collect()
    }

    /// Ends every connection; calls that wait fail, and so do later ones.
    pub fn close(&self) {
        self.owner.shared.close();
    }

    async fn connection_until(&self, address: &str, deadline: Instant) -> Result<Arc<Connection>, CallError> {
        let not_sent = |failure| CallError::NotSent { peer: address.to_owned(), failure };
        let mut connecting = match self.owner.shared.look_up(address).map_err(not_sent)? {
            Peer::Open(connection) => return Ok(connection),
            Peer::Connecting(connecting) => connecting,
        };
        match timeout_at(deadline, connecting.wait_for(Option::is_some)).await {
            Ok(Ok(result)) => match &*result {
                Some(Ok(connection)) => Ok(connection.clone()),
                Some(Err(failure)) => Err(not_sent(failure.clone())),
                None => Err(not_sent(Failure::ShutDown)),
            },
            Ok(Err(_)) => Err(not_sent(Failure::ShutDown)),
            Err(_) => Err(not_sent(Failure::Timeout)),
        }
    }
}

impl Shared {
    /// The entry of `address`; starts to connect where there is none.
    fn look_up(self: &Arc<Self>, address: &str) -> Result<Peer, Failure> {
        let mut peers = lock(&self.peers);
        if peers.is_closed {
            return Err(Failure::ShutDown);
        }
        match peers.by_address.get(address) {
            Some(Peer::Open(connection)) if !connection.is_over() => {
                return Ok(Peer::Open(connection.clone()));
            }
            Some(Peer::Connecting(connecting)) => return Ok(Peer::Connecting(connecting.clone())),
            _ => {}
        }
        let (sender, connecting) = watch::channel(None);
        peers.by_address.insert(address.to_owned(), Peer::Connecting(connecting.clone()));
        if !std::mem::replace(&mut peers.has_sweeper, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.config.sweep_interval));
        }
        drop(peers);
        let (shared, address) = (self.clone(), address.to_owned());
        tokio::spawn(async move {
            let result = shared.connect(&address).await;
            let mut peers = lock(&shared.peers);
            let result = match result {
                Ok(connection) if peers.is_closed => {
                    connection.reset();
                    Err(Failure::ShutDown)
                }
                result => result,
            };
            match &result {
                Ok(connection) => peers.by_address.insert(address, Peer::Open(connection.clone())),
                Err(_) => peers.by_address.remove(&address),
            };
            drop(peers);
            sender.send_replace(Some(result));
        });
        Ok(Peer::Connecting(connecting))
    }

    async fn connect(self: &Arc<Self>, address: &str) -> Result<Arc<Connection>, Failure> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let stream = timeout_at(deadline, open(address)).await;
        let stream = stream.unwrap_or(Err(Failure::Connect(io::ErrorKind::TimedOut)))?;
        let transport = Transport::connected(stream).map_err(|error| Failure::Connect(error.kind()))?;
        let connection = Arc::new(Connection::new(
            next_id(),
            transport.peer(),
            None,
            self.connection_config.clone(),
            self.config.budget.clone(),
        ));
        self.registry.add(connection.clone());
        let (shared, driven, address) = (Arc::downgrade(self), connection.clone(), address.to_owned());
        let (handler, traffic) = (self.handler.clone(), self.traffic.clone());
        tokio::spawn(async move {
            let _leave = Leave { shared, address, id: driven.id() };
            drive(driven, transport, handler, traffic).await;
        });
        Ok(connection)
    }

    fn close(&self) {
        lock(&self.peers).is_closed = true;
        self.registry.advance(&Stage::Closing);
    }
}

async fn open(address: &str) -> Result<TcpStream, Failure> {
    let connect = |error: io::Error| Failure::Connect(error.kind());
    if let Ok(address) = address.parse::<SocketAddr>() {
        return TcpStream::connect(address).await.map_err(connect);
    }
    if !address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
        return Err(Failure::Address(address.chars().take(256).collect()));
    }
    let mut last = Failure::Address(address.to_owned());
    for address in lookup_host(address).await.map_err(|error| Failure::Address(error.to_string()))? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = connect(error),
        }
    }
    Err(last)
}

/// Takes a connection off the books, also when its handler panicked.
struct Leave {
    shared: Weak<Shared>,
    address: String,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        shared.registry.remove(self.id);
        let mut peers = lock(&shared.peers);
        let is_mine = |peer: &Peer| matches!(peer, Peer::Open(connection) if connection.id() == self.id);
        if peers.by_address.get(&self.address).is_some_and(is_mine) {
            peers.by_address.remove(&self.address);
        }
    }
}

/// Ends with its client.
async fn sweep(shared: Weak<Shared>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        match shared.upgrade() {
            Some(shared) if !lock(&shared.peers).is_closed => shared.registry.sweep(),
            _ => return,
        }
    }
}
