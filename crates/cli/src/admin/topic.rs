//! Topics.

use anyhow::Context as _;
use client::Client;
use serde_json::{Value, json};
use wire::TopicConfig;

use super::table::{Answer, Table};
use super::{brokers, the_cluster};

pub(super) async fn create(
    client: &Client,
    topic: &str,
    cluster: Option<String>,
    queues: u32,
    perm: i32,
) -> anyhow::Result<Answer> {
    let cluster = the_cluster(client, cluster).await?;
    let config = TopicConfig::new(topic, queues as i32, perm);
    client.admin().create_topic(&cluster, &config).await?;
    let mut table = Table::new(&["TOPIC", "CLUSTER", "QUEUES PER GROUP", "PERM"]);
    table.row([topic, &cluster, &queues.to_string(), &perm.to_string()]);
    Ok(Answer { table, json: json!({"topic": topic, "cluster": cluster, "queues": queues, "perm": perm}) })
}

pub(super) async fn list(client: &Client) -> anyhow::Result<Answer> {
    let mut topics: Vec<String> = client.admin().topic_list().await?.topic_list.into_iter().collect();
    topics.sort_unstable();
    let mut table = Table::new(&["TOPIC"]);
    for topic in &topics {
        table.row([topic.as_str()]);
    }
    Ok(Answer { table, json: json!(topics) })
}

pub(super) async fn route(client: &Client, topic: &str) -> anyhow::Result<Answer> {
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

pub(super) async fn status(client: &Client, topic: &str) -> anyhow::Result<Answer> {
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

pub(super) async fn delete(client: &Client, topic: &str, cluster: Option<String>) -> anyhow::Result<Answer> {
    let cluster = the_cluster(client, cluster).await?;
    client.admin().delete_topic(&cluster, topic).await?;
    let mut table = Table::new(&["DELETED TOPIC", "CLUSTER"]);
    table.row([topic, &cluster]);
    Ok(Answer { table, json: json!({"topic": topic, "cluster": cluster, "deleted": true}) })
}

/// Changes the permission of a topic and nothing else of it, in every group that has it.
pub(super) async fn perm(
    client: &Client,
    topic: &str,
    cluster: Option<String>,
    perm: i32,
) -> anyhow::Result<Answer> {
    let cluster = the_cluster(client, cluster).await?;
    let mut table = Table::new(&["TOPIC", "BROKER", "PERM BEFORE", "PERM"]);
    let mut rows = Vec::new();
    for (broker, (of, addresses)) in brokers(client).await? {
        if of != cluster {
            continue;
        }
        let master =
            addresses.get(&wire::MASTER_ID).with_context(|| format!("{broker} has no leader now"))?;
        let Some(config) = client.admin().topic_config_at(master, topic).await? else { continue };
        let before = config.perm;
        // Attributes that are not named stay as they are.
        let config = TopicConfig { perm, attributes: std::collections::BTreeMap::new(), ..config };
        client.admin().create_topic_at(master, &config).await?;
        table.row([topic, &broker, &before.to_string(), &perm.to_string()]);
        rows.push(json!({"topic": topic, "broker": broker, "before": before, "perm": perm}));
    }
    anyhow::ensure!(!rows.is_empty(), "no broker of {cluster} has a topic {topic}");
    Ok(Answer { table, json: Value::Array(rows) })
}
