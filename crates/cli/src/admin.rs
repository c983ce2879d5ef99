//! `raftmq admin`: what a cluster is and does, and the few things that an operator changes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use broker::{GROUP_STATUS, GroupReport, TRANSFER_LEADER};
use clap::{Args, Subcommand};
use client::{Client, ClientConfig};
use serde_json::{Value, json};
use wire::{RemotingCommand, RequestCode, ResponseCode, TopicConfig};

use crate::ClusterArgs;

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
    Topic(TopicCommand),
    #[command(subcommand)]
    Consumer(ConsumerCommand),
    #[command(subcommand)]
    Group(GroupCommand),
}

/// The brokers
#[derive(Subcommand)]
enum ClusterCommand {
    /// Every broker that the nameserver knows
    List,
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

/// The same answer for people and for programs.
struct Answer {
    table: Table,
    json: Value,
}

async fn answer(client: &Client, command: AdminCommand) -> anyhow::Result<Answer> {
    match command {
        AdminCommand::Cluster(ClusterCommand::List) => cluster_list(client).await,
        AdminCommand::Topic(TopicCommand::Create { topic, cluster, queues, perm }) => {
            topic_create(client, &topic, cluster, queues, perm).await
        }
        AdminCommand::Topic(TopicCommand::List) => topic_list(client).await,
        AdminCommand::Topic(TopicCommand::Route { topic }) => topic_route(client, &topic).await,
        AdminCommand::Topic(TopicCommand::Status { topic }) => topic_status(client, &topic).await,
        AdminCommand::Consumer(ConsumerCommand::Progress { group }) => progress(client, &group).await,
        AdminCommand::Group(GroupCommand::Status { name }) => group_status(client, name.as_deref()).await,
        AdminCommand::Group(GroupCommand::Transfer { name, to }) => transfer(client, &name, to).await,
    }
}

/// Broker name → broker id → address, of every cluster.
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

async fn cluster_list(client: &Client) -> anyhow::Result<Answer> {
    let mut table = Table::new(&["CLUSTER", "BROKER", "ID", "ADDRESS", "VERSION", "IN TPS", "OUT TPS"]);
    let mut rows = Vec::new();
    for (name, (cluster, addresses)) in brokers(client).await? {
        for (id, address) in addresses {
            let info = client.admin().broker_runtime_info(&address).await;
            let info = info
                .unwrap_or_else(|error| BTreeMap::from([("brokerVersionDesc".into(), error.to_string())]));
            let get = |key: &str| info.get(key).cloned().unwrap_or_default();
            let tps = |key: &str| get(key).split(' ').next().unwrap_or("").to_owned();
            let (version, put, out) = (get("brokerVersionDesc"), tps("putTps"), tps("getTransferredTps"));
            rows.push(
                json!({"cluster": cluster, "broker": name, "id": id, "address": address, "version": version,
                             "in_tps": put, "out_tps": out}),
            );
            table.row([&cluster, &name, &id.to_string(), &address, &version, &put, &out]);
        }
    }
    Ok(Answer { table, json: Value::Array(rows) })
}

async fn topic_create(
    client: &Client,
    topic: &str,
    cluster: Option<String>,
    queues: u32,
    perm: i32,
) -> anyhow::Result<Answer> {
    let cluster = match cluster {
        Some(cluster) => cluster,
        None => {
            let info = client.admin().cluster_info().await?;
            let mut names = info.cluster_addr_table.into_keys();
            match (names.next(), names.next()) {
                (Some(only), None) => only,
                (None, _) => anyhow::bail!("the nameserver knows no cluster"),
                (Some(a), Some(b)) => {
                    anyhow::bail!("there are several clusters ({a}, {b}, …): say --cluster")
                }
            }
        }
    };
    let config = TopicConfig::new(topic, queues as i32, perm);
    client.admin().create_topic(&cluster, &config).await?;
    let mut table = Table::new(&["TOPIC", "CLUSTER", "QUEUES PER GROUP", "PERM"]);
    table.row([topic, &cluster, &queues.to_string(), &perm.to_string()]);
    Ok(Answer { table, json: json!({"topic": topic, "cluster": cluster, "queues": queues, "perm": perm}) })
}

async fn topic_list(client: &Client) -> anyhow::Result<Answer> {
    let mut topics: Vec<String> = client.admin().topic_list().await?.topic_list.into_iter().collect();
    topics.sort_unstable();
    let mut table = Table::new(&["TOPIC"]);
    for topic in &topics {
        table.row([topic.as_str()]);
    }
    Ok(Answer { table, json: json!(topics) })
}

async fn topic_route(client: &Client, topic: &str) -> anyhow::Result<Answer> {
    let route = client.admin().topic_route(topic).await?.with_context(|| format!("no topic {topic}"))?;
    let mut table = Table::new(&["BROKER", "READ QUEUES", "WRITE QUEUES", "PERM", "ADDRESSES"]);
    for queue in &route.queue_datas {
        let addresses: Vec<String> = route
            .broker_datas
            .iter()
            .filter(|b| b.broker_name == queue.broker_name)
            .flat_map(|b| b.broker_addrs.iter().map(|(id, address)| format!("{id}={address}")))
            .collect();
        table.row([
            queue.broker_name.as_str(),
            &queue.read_queue_nums.to_string(),
            &queue.write_queue_nums.to_string(),
            &queue.perm.to_string(),
            &addresses.join(" "),
        ]);
    }
    Ok(Answer { table, json: serde_json::to_value(&route)? })
}

async fn topic_status(client: &Client, topic: &str) -> anyhow::Result<Answer> {
    let stats = client.admin().topic_stats(topic).await?;
    let mut table = Table::new(&["BROKER", "QUEUE", "MIN", "MAX", "LAST STORED (ms)"]);
    let mut rows = Vec::new();
    for (queue, offsets) in stats.offset_table.iter() {
        table.row([
            queue.broker_name.as_str(),
            &queue.queue_id.to_string(),
            &offsets.min_offset.to_string(),
            &offsets.max_offset.to_string(),
            &offsets.last_update_timestamp.to_string(),
        ]);
        rows.push(json!({"broker": queue.broker_name, "queue": queue.queue_id, "min": offsets.min_offset,
                         "max": offsets.max_offset, "last_stored_ms": offsets.last_update_timestamp}));
    }
    Ok(Answer { table, json: Value::Array(rows) })
}

async fn progress(client: &Client, group: &str) -> anyhow::Result<Answer> {
    let stats = client.admin().consume_stats(group, None).await?;
    let mut table = Table::new(&["TOPIC", "BROKER", "QUEUE", "MAX", "CONSUMED", "LAG"]);
    let mut rows = Vec::new();
    let mut total = 0;
    for (queue, offsets) in stats.offset_table.iter() {
        let lag = offsets.broker_offset - offsets.consumer_offset;
        total += lag;
        table.row([
            queue.topic.as_str(),
            &queue.broker_name,
            &queue.queue_id.to_string(),
            &offsets.broker_offset.to_string(),
            &offsets.consumer_offset.to_string(),
            &lag.to_string(),
        ]);
        rows.push(json!({"topic": queue.topic, "broker": queue.broker_name, "queue": queue.queue_id,
                         "max": offsets.broker_offset, "consumed": offsets.consumer_offset, "lag": lag}));
    }
    table.row(["", "", "", "", "total", &total.to_string()]);
    Ok(Answer { table, json: json!({"group": group, "lag": total, "queues": rows}) })
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

async fn group_status(client: &Client, name: Option<&str>) -> anyhow::Result<Answer> {
    let outside = net::Client::new(net::ClientConfig::default());
    let mut table = Table::new(&[
        "GROUP",
        "NODE",
        "STATE",
        "TERM",
        "LEADER",
        "LAST",
        "COMMITTED",
        "APPLIED",
        "FSYNCED",
        "LAG",
        "DURABILITY",
    ]);
    let mut rows = Vec::new();
    let all = brokers(client).await?;
    if let Some(name) = name
        && !all.contains_key(name)
    {
        anyhow::bail!("the nameserver knows no broker name {name}");
    }
    for (broker, (_, addresses)) in all.into_iter().filter(|(b, _)| name.is_none_or(|n| n == b)) {
        for address in addresses.into_values() {
            let request = RemotingCommand::request(RequestCode(GROUP_STATUS));
            let report = match ask(&outside, &address, request).await {
                Ok(answer) => serde_json::from_slice::<GroupReport>(&answer.body)?,
                Err(error) => {
                    table.row([broker.as_str(), "?", &format!("{error:#}"), "", "", "", "", "", "", "", ""]);
                    rows.push(json!({"group": broker, "address": address, "error": format!("{error:#}")}));
                    continue;
                }
            };
            let lags: Vec<String> =
                report.followers.iter().map(|f| format!("{}:{}", f.node, f.lag)).collect();
            table.row([
                &report.group,
                &report.node.to_string(),
                report.stopped.as_ref().unwrap_or(&report.state),
                &report.term.to_string(),
                &report.leader.to_string(),
                &report.last_index.to_string(),
                &report.committed_index.to_string(),
                &report.applied_index.to_string(),
                &report.synced_index.to_string(),
                &lags.join(" "),
                &report.durability,
            ]);
            let mut row = serde_json::to_value(&report)?;
            row["address"] = json!(address);
            rows.push(row);
        }
    }
    outside.close();
    Ok(Answer { table, json: Value::Array(rows) })
}

async fn transfer(client: &Client, name: &str, to: u64) -> anyhow::Result<Answer> {
    let outside = net::Client::new(net::ClientConfig::default());
    let all = brokers(client).await?;
    let (_, addresses) =
        all.get(name).with_context(|| format!("the nameserver knows no broker name {name}"))?;
    let leader = addresses.get(&wire::MASTER_ID).with_context(|| format!("{name} has no leader now"))?;
    let request = RemotingCommand::request(RequestCode(TRANSFER_LEADER)).with_ext("node", &to.to_string());
    ask(&outside, leader, request).await?;
    outside.close();
    let mut table = Table::new(&["GROUP", "LEADER"]);
    table.row([name, &to.to_string()]);
    Ok(Answer { table, json: json!({"group": name, "leader": to}) })
}

/// Columns as wide as their widest cell.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|h| (*h).to_owned()).collect()] }
    }

    fn row<const N: usize>(&mut self, cells: [&(impl AsRef<str> + ?Sized); N]) {
        self.rows.push(cells.iter().map(|c| c.as_ref().to_owned()).collect());
    }

    fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let line: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
            println!("{}", line.join("  ").trim_end());
        }
    }
}
