//! A nameserver as a process runs it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use net::{Listener, Listeners, Server, ServerConfig, ServerStats};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::handler::Desk;
use crate::kv::Kv;
use crate::routes::Snapshot;
use crate::settings::Settings;

#[derive(Clone, Debug)]
pub struct NameServerConfig {
    pub server: ServerConfig,
    /// Where the key-value table is kept; `None`: in memory only.
    pub kv_path: Option<PathBuf>,
    pub settings: Settings,
    /// 318 is obeyed, for the keys of [`Settings`].
    pub allows_updates: bool,
}

impl Default for NameServerConfig {
    fn default() -> NameServerConfig {
        NameServerConfig {
            // A broker that is cut off from this nameserver alone keeps its routes for two minutes (protocol.md 2).
            server: ServerConfig { keepalive: false, ..ServerConfig::default() },
            kv_path: None,
            settings: Settings::default(),
            allows_updates: true,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NameServerError {
    #[error("cannot read the key-value table {path}: {error}")]
    Kv { path: PathBuf, error: io::Error },
    #[error("cannot listen: {0}")]
    Listen(io::Error),
}

/// A running nameserver. Dropped, it stops at once; see [`NameServer::shutdown`].
pub struct NameServer {
    server: Server,
    desk: Arc<Desk>,
    _scan: DropGuard,
}

impl NameServer {
    /// Starts to serve, on the current tokio runtime.
    pub fn start(config: NameServerConfig, listeners: Listeners) -> Result<NameServer, NameServerError> {
        let NameServerConfig { server, kv_path, settings, allows_updates } = config;
        let kv = Kv::open(kv_path.as_deref())
            .map_err(|error| NameServerError::Kv { path: kv_path.unwrap_or_default(), error })?;
        let desk = Arc::new(Desk::new(settings, allows_updates, kv));
        let server = Server::start(server, listeners, desk.clone()).map_err(NameServerError::Listen)?;
        let stop = CancellationToken::new();
        let scan = scan(desk.clone());
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(scan).await });
        Ok(NameServer { server, desk, _scan: stop.drop_guard() })
    }

    /// Where it listens.
    pub fn listeners(&self) -> &[Listener] {
        self.server.listeners()
    }

    /// The tables, for people and metrics.
    pub fn snapshot(&self) -> Snapshot {
        let now_ms = self.desk.now_ms();
        self.desk.routes().snapshot(now_ms)
    }

    pub fn settings(&self) -> Settings {
        self.desk.settings()
    }

    pub fn stats(&self) -> ServerStats {
        self.server.stats()
    }

    /// Answers what has arrived and closes; clients go on with another nameserver.
    pub async fn shutdown(self, grace: Duration) {
        self.server.shutdown(grace).await;
    }
}

/// Ends silent registrations and holds when they are due.
async fn scan(desk: Arc<Desk>) {
    let mut next_scan_ms = 0;
    loop {
        let now_ms = desk.now_ms();
        let next_hold_end_ms = desk.routes().next_hold_end_ms().unwrap_or(u64::MAX);
        if now_ms >= next_scan_ms || now_ms >= next_hold_end_ms {
            let silent = desk.routes_mut().tick(now_ms);
            for connection in silent.into_iter().filter_map(|id| desk.registrant(id)) {
                tracing::info!(peer = %connection.peer(), "closing the connection of a silent broker");
                connection.close();
            }
            next_scan_ms = now_ms + desk.settings().scan_interval_ms;
            continue;
        }
        // A setting may have made the interval shorter.
        next_scan_ms = next_scan_ms.min(now_ms + desk.settings().scan_interval_ms);
        tokio::select! {
            () = tokio::time::sleep_until(desk.instant(next_scan_ms.min(next_hold_end_ms))) => {}
            () = desk.changed.notified() => {}
        }
    }
}
