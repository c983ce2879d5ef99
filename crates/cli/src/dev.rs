//! `raftmq dev`: a nameserver and a three-node group on loopback, in one process.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use broker::{Broker, BrokerConfig, Drain, GroupConfig};
use clap::Args;

use crate::node;

const NODES: u16 = 3;
const NAMESERVER_PORT: u16 = 9876;
/// RocketMQ's broker port; nodes are 10 apart, and each also listens on port − 2.
const BROKER_PORT: u16 = 10911;
/// Where node n listens for its peers, plus n.
const PEER_PORT: u16 = 10900;
/// Segments are allocated whole, a few ahead: small ones suit a developer's disk.
const SEGMENT_BYTES: u64 = 64 << 20;

#[derive(Args)]
pub(crate) struct DevArgs {
    /// Keep the state here; without it everything is gone at the end
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Add N to every port
    #[arg(long, value_name = "N", default_value_t = 0)]
    port_offset: u16,
}

pub(crate) fn run(args: DevArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("serving").build()?;
    runtime.block_on(serve(args, started))
}

async fn serve(args: DevArgs, started: Instant) -> anyhow::Result<()> {
    let port = |base: u16| {
        base.checked_add(args.port_offset)
            .with_context(|| format!("port {base} + {} is too large", args.port_offset))
    };
    let loopback = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let nameserver_address = loopback(port(NAMESERVER_PORT)?);
    let (data, temporary) = match args.data {
        Some(directory) => (directory, None),
        None => {
            let directory = Temporary::new()?;
            (directory.0.clone(), Some(directory))
        }
    };
    let kv_path = data.join("nameserver-kv.json");
    std::fs::create_dir_all(&data).with_context(|| format!("{} cannot be made", data.display()))?;
    let nameserver = node::start_nameserver(nameserver_address, Some(kv_path), &broker::Limits::default())?;
    let nodes = 1..=NODES;
    let mut peers = BTreeMap::new();
    for n in nodes.clone() {
        peers.insert(u64::from(n), loopback(port(PEER_PORT + n)?).to_string());
    }
    let mut brokers = Vec::new();
    for n in nodes {
        let listen = loopback(port(BROKER_PORT + (n - 1) * 10)?);
        let group = GroupConfig {
            name: "broker-a".into(),
            voters: peers.keys().copied().collect(),
            preferred_leader: Some(1),
            listen,
            segment_bytes: SEGMENT_BYTES,
            ..GroupConfig::default()
        };
        let config = BrokerConfig {
            cluster: "dev".into(),
            node: u64::from(n),
            data: data.join(format!("node-{n}")),
            peer_listen: loopback(port(PEER_PORT + n)?),
            peers: peers.clone(),
            nameservers: vec![nameserver_address.to_string()],
            groups: vec![group],
            ..BrokerConfig::default()
        };
        brokers.push(Broker::start(config).await?);
    }
    for broker in &mut brokers {
        tokio::select! {
            ready = broker.ready_or_failed() => ready?,
            result = node::stop_signal() => return result,
        }
    }
    // Who reads that it is ready can send at once.
    futures::future::join_all(brokers.iter().map(Broker::registered)).await;
    say(nameserver_address, port(BROKER_PORT)?, &data, temporary.is_some(), started.elapsed());
    node::stop_signal().await?;
    eprintln!("stopping");
    // All nodes stop together: there is nobody to hand leadership to, and no client to wait for.
    let stopping = brokers.into_iter().map(|broker| broker.shutdown(Drain::Now));
    let all = async {
        let tasks: Vec<_> = stopping.map(tokio::spawn).collect();
        for task in tasks {
            let _ = task.await;
        }
    };
    tokio::select! {
        () = all => {}
        _ = node::stop_signal() => {}
    }
    nameserver.shutdown(Duration::from_millis(200)).await;
    drop(temporary);
    Ok(())
}

fn say(nameserver: SocketAddr, first_port: u16, data: &std::path::Path, temporary: bool, took: Duration) {
    let offset =
        if nameserver.port() == NAMESERVER_PORT { String::new() } else { format!(" -n {nameserver}") };
    println!("RaftMQ is ready after {} ms: a nameserver and a group of three nodes.", took.as_millis());
    println!("  nameserver  {nameserver}");
    for n in 0..NODES {
        println!("  broker-a    127.0.0.1:{}", first_port + n * 10);
    }
    println!(
        "  state       {}{}",
        data.display(),
        if temporary { "  (removed at the end; --data DIR keeps it)" } else { "" }
    );
    println!("Topics are created by the first send. Try, from another terminal:");
    println!("  raftmq produce{offset} --topic hello --count 3");
    println!("  raftmq consume{offset} --topic hello");
    println!("Ctrl-C stops it.");
}

/// A directory that is removed with everything in it.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> anyhow::Result<Temporary> {
        let name =
            format!("raftmq-dev-{}-{}", std::process::id(), std::time::UNIX_EPOCH.elapsed()?.as_nanos());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Temporary(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the temporary state was not removed");
        }
    }
}
