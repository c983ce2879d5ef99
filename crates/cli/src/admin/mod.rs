//! `raftmq admin`: what a cluster is and does, and the few things that an operator changes. A file for each noun;
//! mqadmin's names of the same commands are understood too (names.rs).

mod cluster;
mod consumer;
mod dead_letters;
mod delay;
mod group;
mod message;
mod names;
mod table;
mod topic;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use client::{Client, ClientConfig};
use wire::{RemotingCommand, ResponseCode};

use crate::ClusterArgs;
pub(crate) use names::translate;
use table::Answer;

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct AdminArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Subcommand)]
enum AdminCommand {
    #[command(subcommand)]
    Cluster(ClusterCommand),
    #[command(subcommand)]
    Broker(BrokerCommand),
    #[command(subcommand)]
    Topic(TopicCommand),
    #[command(subcommand)]
    Consumer(ConsumerCommand),
    #[command(subcommand)]
    Producer(ProducerCommand),
    #[command(subcommand)]
    Message(MessageCommand),
    #[command(subcommand)]
    Dlq(DeadLetterCommand),
    #[command(subcommand)]
    Group(GroupCommand),
    /// What waits to be delivered later, by topic and time
    Delay {
        /// Only what goes to this topic
        #[arg(short, long)]
        topic: Option<String>,
        /// Only one broker name; all when left out
        #[arg(long)]
        group: Option<String>,
        /// Only what is due within this time: 90s, 15m, 4h, 2d
        #[arg(long, value_parser = delay::within)]
        within: Option<u64>,
        /// Look at so many messages of each group at most
        #[arg(long, default_value_t = 10_000)]
        max: usize,
    },
    /// The story of a message: where its copies lie, which entry of the log brought each, and who is past it
    Why {
        /// An offset message id, a unique id or a key
        id_or_key: String,
        /// Look in this topic only
        #[arg(short, long)]
        topic: Option<String>,
    },
    /// Have a consumer group go on from a time
    Reset {
        group: String,
        topic: String,
        /// now, milliseconds since 1970, or a time ago: 90s, 15m, 4h, 2d
        #[arg(long, value_parser = consumer::time)]
        to: consumer::Time,
        /// Change nothing; say how many messages would be consumed again or skipped
        #[arg(long)]
        dry_run: bool,
    },
}

/// The brokers
#[derive(Subcommand)]
enum ClusterCommand {
    /// Every broker that the nameserver knows
    List,
}

/// One broker name, node by node
#[derive(Subcommand)]
enum BrokerCommand {
    /// The configuration of every node, or a change of it on every node
    Config {
        /// Broker name
        name: String,
        /// Change this; lasts until the node restarts. May be given more than once
        #[arg(long, value_name = "KEY=VALUE", value_parser = cluster::key_value)]
        set: Vec<(String, String)>,
    },
    /// What every node says of itself
    Status { name: String },
}

/// Topics
#[derive(Subcommand)]
enum TopicCommand {
    /// Create a topic, or change it, in every group of a cluster
    Create {
        topic: String,
        /// The cluster; may be left out where there is only one
        #[arg(long)]
        cluster: Option<String>,
        #[arg(long, default_value_t = 8)]
        queues: u32,
        /// 2 write, 4 read, 6 both
        #[arg(long, default_value_t = 6)]
        perm: i32,
    },
    /// Delete a topic with its messages, in every group of a cluster
    Delete {
        topic: String,
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Change who may use a topic, and nothing else of it
    Perm {
        topic: String,
        /// 2 write, 4 read, 6 both
        perm: i32,
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Every topic
    List,
    /// Where a topic's queues are
    Route { topic: String },
    /// Offsets of each queue
    Status { topic: String },
}

/// Consumer groups
#[derive(Subcommand)]
enum ConsumerCommand {
    /// How far a group has consumed
    Progress { group: String },
    /// Who consumes in a group, and what
    Connection { group: String },
    /// Create a consumer group, or change it, in every group of a cluster
    Create {
        group: String,
        #[arg(long)]
        cluster: Option<String>,
        /// Attempts after the first, before a message is a dead letter
        #[arg(long, default_value_t = 16)]
        retries: i32,
        /// For pop consumers: messages of a queue one after the other
        #[arg(long)]
        orderly: bool,
    },
    /// Delete a consumer group with its retry and dead-letter topics, in every group of a cluster
    Delete {
        group: String,
        #[arg(long)]
        cluster: Option<String>,
        /// With its offsets
        #[arg(long)]
        offsets: bool,
    },
}

/// Producers
#[derive(Subcommand)]
enum ProducerCommand {
    /// Who produces for a group
    Connection {
        group: String,
        #[arg(short, long)]
        topic: String,
    },
}

/// Single messages
#[derive(Subcommand)]
enum MessageCommand {
    /// By offset message id or, with the topic, by unique id
    Id {
        id: String,
        #[arg(short, long)]
        topic: Option<String>,
    },
    /// By key
    Key {
        topic: String,
        key: String,
        #[arg(long, default_value_t = 32)]
        max: u32,
    },
}

/// Dead letters of a consumer group
#[derive(Subcommand)]
enum DeadLetterCommand {
    /// What lies there and had no other try
    List {
        group: String,
        #[arg(long, default_value_t = 100)]
        max: usize,
        /// Also what had another try
        #[arg(long)]
        all: bool,
    },
    /// Give it another try; what was redriven is not again
    Redrive {
        group: String,
        #[arg(long, default_value_t = 100)]
        max: usize,
        /// Who gets it again
        #[arg(long, value_enum, default_value_t = dead_letters::Goal::Group)]
        to: dead_letters::Goal,
    },
}

/// Groups of nodes: one is a Raft group and a RocketMQ broker name
#[derive(Subcommand)]
enum GroupCommand {
    /// Leader, term, log and followers, as each node of the group sees them
    Status {
        /// Broker name; all when left out
        name: Option<String>,
    },
    /// Hand leadership to another node
    Transfer {
        name: String,
        /// The node that shall lead
        #[arg(long)]
        to: u64,
    },
    /// Let the group use what its release brought although a node is gone for good that has not said to know it
    ///
    /// A group uses new kinds of entries as soon as all of its nodes run a release that knows them; until then what needs them
    /// is refused and the remark names the nodes. This goes without the word of nodes that will not say it any more. There is
    /// no way back: such a node can only come back with this release or a newer one.
    RaiseLevel {
        name: String,
        /// A node that is gone; may be given several times
        #[arg(long, required = true)]
        without: Vec<u64>,
    },
}

pub(crate) fn run(args: AdminArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::start(ClientConfig::from_list(&args.cluster.nameserver)).await?;
        let answer = answer(&client, args.command).await;
        client.shutdown().await;
        let answer = answer?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&answer.json)?);
        } else {
            answer.table.print();
        }
        Ok(())
    })
}

async fn answer(client: &Client, command: AdminCommand) -> anyhow::Result<Answer> {
    match command {
        AdminCommand::Cluster(ClusterCommand::List) => cluster::list(client).await,
        AdminCommand::Broker(BrokerCommand::Config { name, set }) => {
            cluster::broker_config(client, &name, &set).await
        }
        AdminCommand::Broker(BrokerCommand::Status { name }) => cluster::broker_status(client, &name).await,
        AdminCommand::Topic(TopicCommand::Create { topic, cluster, queues, perm }) => {
            topic::create(client, &topic, cluster, queues, perm).await
        }
        AdminCommand::Topic(TopicCommand::Delete { topic, cluster }) => {
            topic::delete(client, &topic, cluster).await
        }
        AdminCommand::Topic(TopicCommand::Perm { topic, perm, cluster }) => {
            topic::perm(client, &topic, cluster, perm).await
        }
        AdminCommand::Topic(TopicCommand::List) => topic::list(client).await,
        AdminCommand::Topic(TopicCommand::Route { topic }) => topic::route(client, &topic).await,
        AdminCommand::Topic(TopicCommand::Status { topic }) => topic::status(client, &topic).await,
        AdminCommand::Consumer(ConsumerCommand::Progress { group }) => {
            consumer::progress(client, &group).await
        }
        AdminCommand::Consumer(ConsumerCommand::Connection { group }) => {
            consumer::connection(client, &group).await
        }
        AdminCommand::Consumer(ConsumerCommand::Create { group, cluster, retries, orderly }) => {
            consumer::create(client, &group, cluster, retries, orderly).await
        }
        AdminCommand::Consumer(ConsumerCommand::Delete { group, cluster, offsets }) => {
            consumer::delete(client, &group, cluster, offsets).await
        }
        AdminCommand::Producer(ProducerCommand::Connection { group, topic }) => {
            consumer::producer_connection(client, &group, &topic).await
        }
        AdminCommand::Message(MessageCommand::Id { id, topic }) => {
            message::by_id(client, &id, topic.as_deref()).await
        }
        AdminCommand::Message(MessageCommand::Key { topic, key, max }) => {
            message::by_key(client, &topic, &key, max).await
        }
        AdminCommand::Dlq(DeadLetterCommand::List { group, max, all }) => {
            dead_letters::list(client, &group, max, all).await
        }
        AdminCommand::Dlq(DeadLetterCommand::Redrive { group, max, to }) => {
            dead_letters::redrive(client, &group, max, to).await
        }
        AdminCommand::Group(GroupCommand::Status { name }) => group::status(client, name.as_deref()).await,
        AdminCommand::Group(GroupCommand::Transfer { name, to }) => group::transfer(client, &name, to).await,
        AdminCommand::Group(GroupCommand::RaiseLevel { name, without }) => {
            group::raise_level(client, &name, &without).await
        }
        AdminCommand::Delay { topic, group, within, max } => {
            delay::pending(client, topic, group.as_deref(), within, max).await
        }
        AdminCommand::Why { id_or_key, topic } => message::why(client, &id_or_key, topic.as_deref()).await,
        AdminCommand::Reset { group, topic, to, dry_run } => {
            consumer::reset(client, &group, &topic, to, dry_run).await
        }
    }
}

/// Broker name → its cluster, and broker id → address, of every cluster.
pub(crate) async fn brokers(
    client: &Client,
) -> anyhow::Result<BTreeMap<String, (String, BTreeMap<i64, String>)>> {
    let info = client.admin().cluster_info().await?;
    let mut all = BTreeMap::new();
    for (cluster, names) in info.cluster_addr_table {
        for name in names {
            if let Some(broker) = info.broker_addr_table.get(&name) {
                let addresses = broker.broker_addrs.iter().map(|(id, a)| (*id, a.clone())).collect();
                all.insert(name, (cluster.clone(), addresses));
            }
        }
    }
    Ok(all)
}

/// The cluster that is meant: the one that was named, or the only one.
async fn the_cluster(client: &Client, named: Option<String>) -> anyhow::Result<String> {
    if let Some(cluster) = named {
        return Ok(cluster);
    }
    let mut names = client.admin().cluster_info().await?.cluster_addr_table.into_keys();
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => anyhow::bail!("the nameserver knows no cluster"),
        (Some(a), Some(b)) => anyhow::bail!("there are several clusters ({a}, {b}, …): say --cluster"),
    }
}

/// Asks one broker for what RocketMQ has no code for.
async fn ask(
    outside: &net::Client,
    address: &str,
    request: RemotingCommand,
) -> anyhow::Result<RemotingCommand> {
    let answer = outside.call(address, request, TIMEOUT).await.with_context(|| address.to_owned())?;
    if answer.response_code() != ResponseCode::SUCCESS {
        anyhow::bail!("{address} answered {}: {}", answer.response_code(), answer.remark.unwrap_or_default());
    }
    Ok(answer)
}
