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
        Some(role) => Some(start_nameserver(role.listen, role.kv_file, &role.limits)?),
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

/// By the limits of its node, but for that of a frame: a broker's may hold its whole table of topics.
pub(crate) fn start_nameserver(
    address: std::net::SocketAddr,
    kv_path: Option<std::path::PathBuf>,
    limits: &broker::Limits,
) -> anyhow::Result<NameServer> {
    let listeners = Listeners::new()
        .bind("nameserver", address)
        .with_context(|| format!("the nameserver cannot listen on {address}"))?;
    let default = NameServerConfig::default();
    let frame_bytes_max = default.server.connection.frame_bytes_max;
    // However little else it may hold: two of these.
    let in_flight_bytes = limits.in_flight_bytes.max(2 * frame_bytes_max);
    let mut server = broker::Limits { in_flight_bytes, ..limits.clone() }.server_config();
    server.connection.frame_bytes_max = frame_bytes_max;
    server.keepalive = default.server.keepalive;
    Ok(NameServer::start(NameServerConfig { server, kv_path, ..default }, listeners)?)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{Ipv4Addr, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_nameserver_keeps_to_the_limits_of_its_node() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let limits = broker::Limits { connections: 2, ..broker::Limits::default() };
        let nameserver = {
            let _inside = runtime.enter();
            start_nameserver((Ipv4Addr::LOCALHOST, 0).into(), None, &limits).unwrap()
        };
        let address = nameserver.listeners()[0].address;
        let connect = || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            stream
        };
        let (mut one, mut two, mut three) = (connect(), connect(), connect());
        three.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut byte = [0];
        // Closed or reset, and the others wait for what the server has to say.
        assert!(!three.read(&mut byte).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        for within in [&mut one, &mut two] {
            let error = within.read(&mut byte).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        }
        runtime.block_on(nameserver.shutdown(Duration::ZERO));
    }
}
