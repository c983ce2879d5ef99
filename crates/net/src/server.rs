//! Listening sockets, the accept loops, limits on connections, and the ways to stop.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::connection::{Connection, ConnectionConfig, Listener, Stage};
use crate::driver::{Handler, Traffic, drive};
use crate::error::CloseReason;
use crate::limits;
use crate::lock;
use crate::registry::{Registry, next_id};
use crate::transport::Transport;

/// Limits of a server; defaults are in [`crate::limits`].
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub connection: ConnectionConfig,
    pub connections_max: usize,
    pub connections_per_ip_max: usize,
    /// The kernel asks silent peers whether they are there, and a connection whose peer is not ends
    /// ([`limits::KEEPALIVE_IDLE`]). Without, the idle timeout tells.
    pub keepalive: bool,
    /// What a connection may have sent that was not read yet, in the kernel; 0: what the system gives it.
    pub receive_buffer_bytes: usize,
    /// How often deadlines are looked at, and so how late they may be.
    pub sweep_interval: Duration,
    /// Bytes held for peers. Clones of a configuration share it: give every server of a process a
    /// clone of one configuration, and the total holds for the process.
    pub budget: Arc<Budget>,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            connection: ConnectionConfig::default(),
            connections_max: limits::CONNECTIONS_MAX,
            connections_per_ip_max: limits::CONNECTIONS_PER_IP_MAX,
            keepalive: true,
            receive_buffer_bytes: limits::RECEIVE_BUFFER_BYTES,
            sweep_interval: limits::SWEEP_INTERVAL,
            budget: Arc::default(),
        }
    }
}

/// Bound sockets. They take connections into their backlog from the moment they are bound, before a
/// server is started on them.
#[derive(Default)]
pub struct Listeners {
    bound: Vec<(Listener, std::net::TcpListener)>,
}

impl Listeners {
    pub fn new() -> Listeners {
        Listeners::default()
    }

    /// Binds one more address. Port 0 lets the kernel choose.
    pub fn bind(self, tag: &str, address: SocketAddr) -> io::Result<Listeners> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restarted process takes its port back while old connections are in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(limits::BACKLOG)?;
        self.adopt(tag, socket.into())
    }

    /// Adds a socket that listens already, such as one from systemd.
    pub fn adopt(mut self, tag: &str, listener: std::net::TcpListener) -> io::Result<Listeners> {
        listener.set_nonblocking(true)?;
        let listener_address = listener.local_addr()?;
        self.bound.push((Listener { tag: tag.to_owned(), address: listener_address }, listener));
        Ok(self)
    }

    /// The addresses as bound, in the order in which they were added.
    pub fn addresses(&self) -> Vec<Listener> {
        self.bound.iter().map(|(listener, _)| listener.clone()).collect()
    }
}

/// A running server. Dropping it stops it at once, with a reset for every connection; see
/// [`Server::shutdown`] for the kind way.
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    tasks: TaskTracker,
}

struct Shared {
    config: ServerConfig,
    connection_config: Arc<ConnectionConfig>,
    registry: Registry,
    per_ip: Mutex<HashMap<IpAddr, usize>>,
    /// Accepted connections whose task has not ended.
    count: AtomicUsize,
    accepting: CancellationToken,
    draining: CancellationToken,
    stopped: CancellationToken,
    traffic: Arc<Traffic>,
    accepted: AtomicU64,
    refused: AtomicU64,
    ended: [AtomicU64; CloseReason::COUNT],
}

/// Figures of a server, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStats {
    pub connections: usize,
    pub accepted_total: u64,
    /// Connections dropped at once because there were too many.
    pub refused_total: u64,
    pub requests_total: u64,
    pub read_bytes_total: u64,
    pub written_bytes_total: u64,
    /// How often a connection was not read for a while because its requests were refused.
    pub pauses_total: u64,
    /// Of the whole budget, which other servers may share.
    pub in_flight_bytes: usize,
    pub outbound_bytes: usize,
    /// Ended connections by reason.
    pub ended_total: Vec<(&'static str, u64)>,
}

impl Server {
    /// Starts to accept, on the current tokio runtime.
    pub fn start<H: Handler + ?Sized>(
        config: ServerConfig,
        listeners: Listeners,
        handler: Arc<H>,
    ) -> io::Result<Server> {
        let shared = Arc::new(Shared {
            connection_config: Arc::new(config.connection.clone()),
            config,
            registry: Registry::default(),
            per_ip: Mutex::default(),
            count: AtomicUsize::new(0),
            accepting: CancellationToken::new(),
            draining: CancellationToken::new(),
            stopped: CancellationToken::new(),
            traffic: Arc::default(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            ended: Default::default(),
        });
        let server = Server { listeners: listeners.addresses(), shared, tasks: TaskTracker::new() };
        for (listener, socket) in listeners.bound {
            let socket = TcpListener::from_std(socket)?;
            let (shared, handler, tasks) = (server.shared.clone(), handler.clone(), server.tasks.clone());
            server.tasks.spawn(accept(shared, Arc::new(listener), socket, handler, tasks));
        }
        server.tasks.spawn(sweep(server.shared.clone()));
        Ok(server)
    }

    /// Where it listens.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The open connection with this id.
    pub fn connection(&self, id: u64) -> Option<Arc<Connection>> {
        self.shared.registry.get(id)
    }

    /// Every open connection.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.shared.registry.all()
    }

    /// Cancelled when [`Server::shutdown`] begins: the sign to answer what is held.
    pub fn draining(&self) -> CancellationToken {
        self.shared.draining.clone()
    }

    pub fn stats(&self) -> ServerStats {
        let shared = &self.shared;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ServerStats {
            connections: shared.registry.len(),
            accepted_total: get(&shared.accepted),
            refused_total: get(&shared.refused),
            requests_total: get(&shared.traffic.requests),
            read_bytes_total: get(&shared.traffic.read_bytes),
            written_bytes_total: get(&shared.traffic.written_bytes),
            pauses_total: get(&shared.traffic.pauses),
            in_flight_bytes: shared.config.budget.in_flight_bytes(),
            outbound_bytes: shared.config.budget.outbound_bytes(),
            ended_total: CloseReason::NAMES.into_iter().zip(shared.ended.iter().map(get)).collect(),
        }
    }

    /// A planned stop. Accepts no more; each connection is closed, with FIN, at the first moment when
    /// all its requests are answered and nothing is unread. After half of `grace` nothing more is
    /// read, so that a busy connection comes to that moment too; what it sends after that gets no
    /// answer. When `grace` is over the rest is reset.
    pub async fn shutdown(self, grace: Duration) {
        let shared = &self.shared;
        let start = Instant::now();
        shared.accepting.cancel();
        shared.draining.cancel();
        shared.registry.advance(&Stage::Draining);
        self.tasks.close();
        let connections_gone = self.tasks.wait();
        tokio::pin!(connections_gone);
        // The sweeper is one of the tasks.
        shared.stopped.cancel();
        for (deadline, stage) in [(grace / 2, Stage::Stopping), (grace, Stage::Ending(CloseReason::Stopped))]
        {
            if tokio::time::timeout_at(start + deadline, &mut connections_gone).await.is_ok() {
                return;
            }
            shared.registry.advance(&stage);
        }
        // Resets need no peer; parting from one takes no longer than its timeout.
        connections_gone.await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.accepting.cancel();
        self.shared.draining.cancel();
        self.shared.stopped.cancel();
        self.shared.registry.advance(&Stage::Ending(CloseReason::Stopped));
    }
}

async fn accept<H: Handler + ?Sized>(
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    socket: TcpListener,
    handler: Arc<H>,
    tasks: TaskTracker,
) {
    let accepting = shared.accepting.clone();
    while let Some(accepted) = accepting.run_until_cancelled(socket.accept()).await {
        match accepted {
            Ok((stream, peer)) => admit(&shared, &listener, stream, peer, &handler, &tasks),
            // The peer gave up while it was in the backlog.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of descriptors or memory, mostly. Not a busy loop: the socket stays readable.
                tracing::warn!(listener = %listener.address, %error, "cannot accept");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit<H: Handler + ?Sized>(
    shared: &Arc<Shared>,
    listener: &Arc<Listener>,
    stream: TcpStream,
    peer: SocketAddr,
    handler: &Arc<H>,
    tasks: &TaskTracker,
) {
    let config = &shared.config;
    let transport = match Transport::accepted(stream, peer, config.keepalive, config.receive_buffer_bytes) {
        Ok(transport) => transport,
        Err(error) => {
            // Mostly it has ended meanwhile.
            tracing::debug!(%peer, listener = %listener.address, %error, "a connection is not taken in");
            return;
        }
    };
    let Some(seat) = Seat::take(shared, peer.ip()) else {
        // Dropping it answers RST, so the client goes elsewhere at once.
        shared.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%peer, listener = %listener.address, "too many connections, one refused");
        return;
    };
    shared.accepted.fetch_add(1, Ordering::Relaxed);
    let connection = Arc::new(Connection::new(
        next_id(),
        transport.peer(),
        Some(listener.clone()),
        shared.connection_config.clone(),
        shared.config.budget.clone(),
    ));
    shared.registry.add(connection.clone());
    // A shutdown or drop may have passed over the registry before this one was in it.
    if shared.draining.is_cancelled() {
        connection.advance(Stage::Ending(CloseReason::Stopped));
    }
    let (handler, traffic) = (handler.clone(), shared.traffic.clone());
    tasks.spawn(async move {
        let id = connection.id();
        let leave = Leave { seat, id };
        let reason = drive(connection, transport, handler, traffic).await;
        leave.seat.shared.ended[reason.index()].fetch_add(1, Ordering::Relaxed);
    });
}

/// A connection's place within the limits.
struct Seat {
    shared: Arc<Shared>,
    ip: IpAddr,
}

impl Seat {
    fn take(shared: &Arc<Shared>, ip: IpAddr) -> Option<Seat> {
        let config = &shared.config;
        if shared.count.fetch_add(1, Ordering::AcqRel) >= config.connections_max {
            shared.count.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        let mut per_ip = lock(&shared.per_ip);
        let here = per_ip.entry(ip).or_default();
        if *here >= config.connections_per_ip_max {
            drop(per_ip);
            shared.count.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        *here += 1;
        Some(Seat { shared: shared.clone(), ip })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.count.fetch_sub(1, Ordering::AcqRel);
        let mut per_ip = lock(&self.shared.per_ip);
        if let Some(here) = per_ip.get_mut(&self.ip) {
            *here -= 1;
            if *here == 0 {
                per_ip.remove(&self.ip);
            }
        }
    }
}

/// Takes a connection off the books, also when its handler panicked.
struct Leave {
    seat: Seat,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let panicked = &self.seat.shared.ended[CloseReason::Panicked.index()];
            panicked.fetch_add(1, Ordering::Relaxed);
        }
        self.seat.shared.registry.remove(self.id);
    }
}

async fn sweep(shared: Arc<Shared>) {
    let stopped = shared.stopped.clone();
    let pause = || tokio::time::sleep(shared.config.sweep_interval);
    while stopped.run_until_cancelled(pause()).await.is_some() {
        shared.registry.sweep();
    }
}
