//! One node: the roles of its configuration file, until it is told to stop.

use std::time::Duration;

use anyhow::Context as _;
use broker::{Broker, BrokerConfig, Drain, GroupConfig, Limits};
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
    let nameserver = match checked.nameserver_listen {
        None => None,
        Some(address) => {
            let kv_path = checked.config.nameserver.as_ref().and_then(|n| n.kv_file.clone());
            Some(start_nameserver(address, kv_path)?)
        }
    };
    let mut broker = match broker_config(&checked) {
        None => None,
        Some(config) => Some(Broker::start(config).await?),
    };
    for group in &checked.groups {
        tracing::info!(group = group.name, listen = %group.listen, advertise = %group.advertise, "listening");
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

/// The broker role of a file; `None` where it holds no group.
pub(crate) fn broker_config(checked: &Checked) -> Option<BrokerConfig> {
    let peer_listen = checked.peer_listen?;
    let config = &checked.config;
    let limits = Limits {
        connections: config.limits.connections,
        connections_per_ip: config.limits.connections_per_ip,
        frame_bytes: config.limits.frame_bytes,
        message_bytes: config.limits.message_bytes,
        connection_bytes_in_flight: config.limits.in_flight_bytes_per_connection,
        ..Limits::default()
    };
    let groups = checked.groups.iter().map(|group| GroupConfig {
        name: group.name.clone(),
        voters: group.voters.clone(),
        preferred_leader: group.preferred_leader,
        listen: group.listen,
        advertise: Some(group.advertise.to_string()),
        advertise_leader: group.advertise_leader.map(|address| address.to_string()),
        segment_bytes: group.segment_size,
        follower_reads: group.follower_reads,
        auto_create_topic: config.broker.auto_create_topic,
        auto_create_group: config.broker.auto_create_group,
        default_topic_queues: config.broker.default_queues,
        ..GroupConfig::default()
    });
    Some(BrokerConfig {
        cluster: config.cluster.get_ref().clone(),
        node: *config.node.get_ref(),
        data: config.data.clone(),
        peer_listen,
        peers: checked.peers.clone(),
        nameservers: config.nameservers.iter().map(|n| n.get_ref().clone()).collect(),
        region: config.broker.region.clone(),
        limits,
        groups: groups.collect(),
        ..BrokerConfig::default()
    })
}
