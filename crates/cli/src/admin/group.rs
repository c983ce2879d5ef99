//! Groups of nodes: how they are, and who leads.

use anyhow::Context as _;
use broker::{GROUP_STATUS, GroupReport, RAISE_LEVEL, TRANSFER_LEADER};
use client::Client;
use serde_json::{Value, json};
use wire::{RemotingCommand, RequestCode};

use super::table::{Answer, Table};
use super::{ask, brokers};

/// A flush that has been under way for so long is worth a word.
const SLOW_FLUSH_MS: u64 = 100;

pub(super) async fn status(client: &Client, name: Option<&str>) -> anyhow::Result<Answer> {
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
                &state(&report),
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

/// What is to be seen at first glance: why the group has stopped there, or that a flush takes long.
fn state(report: &GroupReport) -> String {
    match (&report.stopped, report.flushing_ms) {
        (Some(why), _) => why.clone(),
        (None, Some(ms)) if ms >= SLOW_FLUSH_MS => format!("{}, a flush takes {ms} ms", report.state),
        _ => report.state.clone(),
    }
}

/// The answer of a group's leader.
async fn ask_leader(
    client: &Client,
    name: &str,
    request: RemotingCommand,
) -> anyhow::Result<RemotingCommand> {
    let outside = net::Client::new(net::ClientConfig::default());
    let all = brokers(client).await?;
    let (_, addresses) =
        all.get(name).with_context(|| format!("the nameserver knows no broker name {name}"))?;
    let leader = addresses.get(&wire::MASTER_ID).with_context(|| format!("{name} has no leader now"))?;
    let answer = ask(&outside, leader, request).await?;
    outside.close();
    Ok(answer)
}

pub(super) async fn transfer(client: &Client, name: &str, to: u64) -> anyhow::Result<Answer> {
    let request = RemotingCommand::request(RequestCode(TRANSFER_LEADER)).with_ext("node", &to.to_string());
    ask_leader(client, name, request).await?;
    let mut table = Table::new(&["GROUP", "LEADER"]);
    table.row([name, &to.to_string()]);
    Ok(Answer { table, json: json!({"group": name, "leader": to}) })
}

pub(super) async fn raise_level(client: &Client, name: &str, without: &[u64]) -> anyhow::Result<Answer> {
    let nodes: Vec<String> = without.iter().map(u64::to_string).collect();
    let request = RemotingCommand::request(RequestCode(RAISE_LEVEL)).with_ext("without", &nodes.join(","));
    let answer = ask_leader(client, name, request).await?;
    let level: u32 = answer.ext.get("level").context("the answer names no level")?.parse()?;
    let mut table = Table::new(&["GROUP", "FEATURE LEVEL", "WITHOUT"]);
    table.row([name, &level.to_string(), &nodes.join(" ")]);
    Ok(Answer { table, json: json!({"group": name, "level": level, "without": without}) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_flush_and_the_end_of_a_group_are_seen_in_its_state() {
        let report = |stopped: Option<&str>, flushing_ms| {
            let stopped = stopped.map(str::to_owned);
            state(&GroupReport { state: "follower".into(), stopped, flushing_ms, ..GroupReport::default() })
        };
        assert_eq!(report(None, None), "follower");
        assert_eq!(report(None, Some(SLOW_FLUSH_MS - 1)), "follower");
        assert_eq!(report(None, Some(1250)), "follower, a flush takes 1250 ms");
        assert_eq!(report(Some("no space"), Some(1250)), "no space");
    }
}
