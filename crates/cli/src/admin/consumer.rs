//! Consumer groups, producers, and where groups go on from.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use client::Client;
use serde_json::{Value, json};
use wire::{Connection, SubscriptionGroupConfig};

use super::table::{Answer, Table};
use super::the_cluster;

pub(super) async fn progress(client: &Client, group: &str) -> anyhow::Result<Answer> {
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

pub(super) async fn create(
    client: &Client,
    group: &str,
    cluster: Option<String>,
    retries: i32,
    orderly: bool,
) -> anyhow::Result<Answer> {
    let cluster = the_cluster(client, cluster).await?;
    let config = SubscriptionGroupConfig {
        retry_max_times: retries,
        consume_message_orderly: orderly,
        ..SubscriptionGroupConfig::new(group)
    };
    client.admin().update_group(&cluster, &config).await?;
    let mut table = Table::new(&["CONSUMER GROUP", "CLUSTER", "RETRIES", "ORDERLY"]);
    table.row([group, &cluster, &retries.to_string(), &orderly.to_string()]);
    let json = json!({"group": group, "cluster": cluster, "retries": retries, "orderly": orderly});
    Ok(Answer { table, json })
}

pub(super) async fn delete(
    client: &Client,
    group: &str,
    cluster: Option<String>,
    with_offsets: bool,
) -> anyhow::Result<Answer> {
    let cluster = the_cluster(client, cluster).await?;
    client.admin().delete_group(&cluster, group, with_offsets).await?;
    let mut table = Table::new(&["DELETED CONSUMER GROUP", "CLUSTER", "OFFSETS"]);
    table.row([group, &cluster, if with_offsets { "deleted" } else { "kept" }]);
    let json = json!({"group": group, "cluster": cluster, "deleted": true, "offsets_deleted": with_offsets});
    Ok(Answer { table, json })
}

fn connections(set: &[Connection]) -> (Table, Vec<Value>) {
    let mut table = Table::new(&["CLIENT", "ADDRESS", "LANGUAGE", "VERSION"]);
    let mut rows = Vec::new();
    for connection in set {
        let (language, version) = (connection.language.name(), connection.version.to_string());
        table.row([connection.client_id.as_str(), &connection.client_addr, language, &version]);
        rows.push(json!({"client": connection.client_id, "address": connection.client_addr,
                         "language": language, "version": connection.version}));
    }
    (table, rows)
}

pub(super) async fn connection(client: &Client, group: &str) -> anyhow::Result<Answer> {
    let found = client.admin().consumer_connection(group).await?;
    let (mut table, rows) = connections(&found.connection_set);
    table.row(["", "", "", ""]);
    table.row(["TOPIC", "EXPRESSION", "TYPE", ""]);
    for (topic, data) in &found.subscription_table {
        table.row([topic.as_str(), &data.sub_string, &data.expression_type, ""]);
    }
    let json = json!({
        "group": group, "connections": rows, "consume_type": found.consume_type.name(),
        "message_model": found.message_model.name(), "consume_from": found.consume_from_where.name(),
        "subscriptions": found.subscription_table,
    });
    Ok(Answer { table, json })
}

pub(super) async fn producer_connection(client: &Client, group: &str, topic: &str) -> anyhow::Result<Answer> {
    let found = client.admin().producer_connection(group, topic).await?.unwrap_or_default();
    let (table, rows) = connections(&found.connection_set);
    Ok(Answer { table, json: json!({"group": group, "connections": rows}) })
}

/// Has a group go on from a time, or says what that would do.
pub(super) async fn reset(
    client: &Client,
    group: &str,
    topic: &str,
    to: Time,
    is_dry_run: bool,
) -> anyhow::Result<Answer> {
    let stats = client.admin().consume_stats(group, Some(topic)).await?;
    let goals: Vec<(wire::MessageQueue, i64)> = match (to, is_dry_run) {
        (to, false) => {
            let told = client.admin().reset_offsets(group, topic, to.to_wire()).await?;
            told.offset_table.0.into_iter().collect()
        }
        (Time::End, true) => {
            let ends = stats.offset_table.iter().filter(|(queue, _)| queue.topic == topic);
            ends.map(|(queue, offsets)| (queue.clone(), offsets.broker_offset)).collect()
        }
        (Time::Ms(ms), true) => {
            let found = client.admin().offsets_at(topic, ms).await?;
            found.into_iter().map(|(queue, offset)| (queue, offset.to_wire())).collect()
        }
    };
    let mut table = Table::new(&["BROKER", "QUEUE", "CONSUMED", "GOES ON FROM", "AGAIN", "SKIPPED"]);
    let mut rows = Vec::new();
    let mut total = Move::default();
    for (queue, goal) in goals {
        let consumed = stats.offset_table.get(&queue).map_or(0, |offsets| offsets.consumer_offset);
        let step = Move::between(consumed, goal);
        total.again += step.again;
        total.skipped += step.skipped;
        table.row([
            queue.broker_name.as_str(),
            &queue.queue_id.to_string(),
            &consumed.to_string(),
            &goal.to_string(),
            &step.again.to_string(),
            &step.skipped.to_string(),
        ]);
        rows.push(json!({"broker": queue.broker_name, "queue": queue.queue_id, "consumed": consumed,
                         "goes_on_from": goal, "again": step.again, "skipped": step.skipped}));
    }
    table.row(["", "", "", "total", &total.again.to_string(), &total.skipped.to_string()]);
    let json = json!({"group": group, "topic": topic, "dry_run": is_dry_run, "again": total.again,
                      "skipped": total.skipped, "queues": rows});
    Ok(Answer { table, json })
}

/// What a reset of one queue does, in messages.
#[derive(Debug, Default, PartialEq, Eq)]
struct Move {
    /// Consumed already, and will be once more.
    again: i64,
    /// Not consumed, and will not be.
    skipped: i64,
}

impl Move {
    fn between(consumed: i64, goal: i64) -> Move {
        Move { again: (consumed - goal).max(0), skipped: (goal - consumed).max(0) }
    }
}

/// From when on a group is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// Behind everything that is stored.
    End,
    /// Milliseconds since 1970.
    Ms(i64),
}

impl Time {
    fn to_wire(self) -> i64 {
        match self {
            Time::End => -1,
            Time::Ms(ms) => ms,
        }
    }
}

/// `now`, milliseconds since 1970, or a time that long ago, as 90s, 15m, 4h, 2d; for clap.
pub(super) fn time(text: &str) -> Result<Time, String> {
    time_at(text, SystemTime::now())
}

fn time_at(text: &str, now: SystemTime) -> Result<Time, String> {
    let bad = || format!("{text} is not now, milliseconds since 1970, or a time ago as 90s, 15m, 4h, 2d");
    if text == "now" {
        return Ok(Time::End);
    }
    let ms = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).map_err(|_| bad())?;
        i64::try_from(since.as_millis()).map_err(|_| bad())
    };
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return text.parse().ok().filter(|ms: &i64| *ms >= 0).map(Time::Ms).ok_or_else(bad),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    let ago = Duration::from_secs(count.checked_mul(unit).ok_or_else(bad)?);
    ms(now.checked_sub(ago).ok_or_else(bad)?).map(Time::Ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (text, want) in [
            ("now", Some(Time::End)),
            ("0", Some(Time::Ms(0))),
            ("1700000000000", Some(Time::Ms(1_700_000_000_000))),
            ("90s", Some(Time::Ms(999_910_000))),
            ("2h", Some(Time::Ms(992_800_000))),
            ("1d", Some(Time::Ms(913_600_000))),
            ("-1", None),
            ("m", None),
            ("1w", None),
            ("99999999999999999999d", None),
            ("99999999d", None),
            ("", None),
        ] {
            assert_eq!(time_at(text, now).ok(), want, "{text}");
        }
    }

    #[test]
    fn what_a_reset_does() {
        assert_eq!(Move::between(10, 4), Move { again: 6, skipped: 0 });
        assert_eq!(Move::between(4, 10), Move { again: 0, skipped: 6 });
        assert_eq!(Move::between(4, 4), Move::default());
    }
}
