//! One node: the roles of its configuration file, until it is told to stop.

use std::time::Duration;

use anyhow::Context as _;
use broker::{Broker, Drain};
use nameserver::{NameServer, NameServerConfig};
use net::Listeners;

use crate::config::Checked;

/// How long a nameserver answers what has arrived, at a planned stop.
const NAMESERVER_GRACE: Duration = Duration::from_secs(1);

/// `raftmq server`: runs until SIGTERM or Ctrl-C; a second one cuts the planned stop short.
pub(crate) fn run(checked: Checked) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("serving").build()?;
    runtime.block_on(serve(checked))
}

async fn serve(checked: Checked) -> anyhow::Result<()> {
    let nameserver = match checked.nameserver {
        None => None,
        Some(role) => Some(start_nameserver(role.listen, role.kv_file)?),
    };
    let groups = checked.broker.as_ref().map_or_else(Vec::new, |config| config.groups.clone());
    let mut broker = match checked.broker {
        None => None,
        Some(config) => Some(Broker::start(config).await?),
    };
    for group in groups {
        let advertise = group.advertised();
        tracing::info!(group = group.name, listen = %group.listen, advertise, "listening");
    }
    tokio::select! {
        result = stop_signal() => result?,
        error = failed(&mut broker) => return Err(error).context("a group cannot take part"),
    }
    tracing::info!("stopping: leadership is handed over, and clients are given time to hear of it");
    if let Some(broker) = broker {
        let stopped = tokio::select! {
            () = broker.shutdown(Drain::WaitForClients) => true,
            _ = stop_signal() => false,
        };
        if !stopped {
            tracing::warn!("stopped at once by a second signal");
        }
    }
    if let Some(nameserver) = nameserver {
        nameserver.shutdown(NAMESERVER_GRACE).await;
    }
    Ok(())
}

async fn failed(broker: &mut Option<Broker>) -> broker::BrokerError {
    match broker {
        Some(broker) => broker.failed().await,
        None => std::future::pending().await,
    }
}

/// Returns at SIGTERM or Ctrl-C.
pub(crate) async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    Ok(())
}

pub(crate) fn start_nameserver(
    address: std::net::SocketAddr,
    kv_path: Option<std::path::PathBuf>,
) -> anyhow::Result<NameServer> {
    let listeners = Listeners::new()
        .bind("nameserver", address)
        .with_context(|| format!("the nameserver cannot listen on {address}"))?;
    Ok(NameServer::start(NameServerConfig { kv_path, ..NameServerConfig::default() }, listeners)?)
}
