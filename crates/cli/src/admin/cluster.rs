//! Brokers: a list of all, and what each says of itself.

use std::collections::BTreeMap;

use anyhow::Context as _;
use client::Client;
use serde_json::{Value, json};

use super::brokers;
use super::table::{Answer, Table};

pub(super) async fn list(client: &Client) -> anyhow::Result<Answer> {
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

/// The nodes of a broker name, leader first.
async fn nodes(client: &Client, name: &str) -> anyhow::Result<Vec<(i64, String)>> {
    let all = brokers(client).await?;
    let (_, addresses) =
        all.get(name).with_context(|| format!("the nameserver knows no broker name {name}"))?;
    Ok(addresses.iter().map(|(id, address)| (*id, address.clone())).collect())
}

/// 26 or 28 of every node, side by side in rows of key and value.
fn side_by_side(answers: Vec<(i64, String, BTreeMap<String, String>)>) -> Answer {
    let mut table = Table::new(&["ID", "ADDRESS", "KEY", "VALUE"]);
    let mut rows = Vec::new();
    for (id, address, values) in answers {
        for (key, value) in &values {
            table.row([&id.to_string(), &address, key, value]);
        }
        rows.push(json!({"id": id, "address": address, "values": values}));
    }
    Answer { table, json: Value::Array(rows) }
}

pub(super) async fn broker_status(client: &Client, name: &str) -> anyhow::Result<Answer> {
    let mut answers = Vec::new();
    for (id, address) in nodes(client, name).await? {
        let values = client.admin().broker_runtime_info(&address).await?;
        answers.push((id, address, values));
    }
    Ok(side_by_side(answers))
}

/// Shows the configuration of every node of a broker name, after it was changed if that is asked for. A change is made
/// on every node: leadership moves, and a setting belongs to its node.
pub(super) async fn broker_config(
    client: &Client,
    name: &str,
    changes: &[(String, String)],
) -> anyhow::Result<Answer> {
    let nodes = nodes(client, name).await?;
    if !changes.is_empty() {
        let values: BTreeMap<String, String> = changes.iter().cloned().collect();
        let mut table = Table::new(&["ID", "ADDRESS", "TAKEN"]);
        let mut rows = Vec::new();
        for (id, address) in nodes {
            let taken = client.admin().update_broker_config(&address, &values).await?;
            table.row([&id.to_string(), &address, &taken]);
            rows.push(json!({"id": id, "address": address, "taken": taken}));
        }
        return Ok(Answer { table, json: Value::Array(rows) });
    }
    let mut answers = Vec::new();
    for (id, address) in nodes {
        let values = client.admin().broker_config(&address).await?;
        answers.push((id, address, values));
    }
    Ok(side_by_side(answers))
}

/// `KEY=VALUE`, for clap.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text} is not KEY=VALUE"))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}
