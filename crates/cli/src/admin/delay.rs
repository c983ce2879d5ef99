//! What waits to be delivered later.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use broker::{PendingMessage, PendingPage, PendingQuery, duration_ms};
use client::Client;
use serde_json::{Value, json};

use super::table::{Answer, Table};
use super::{ask, brokers};

/// Messages of one page.
const PAGE: usize = 500;

/// What waits for one topic.
#[derive(Debug, Default, PartialEq, Eq)]
struct Waiting {
    messages: u64,
    first_due_ms: u64,
    last_due_ms: u64,
    /// Messages that are tried again among them.
    retries: u64,
}

impl Waiting {
    fn add(&mut self, message: &PendingMessage) {
        self.first_due_ms =
            if self.messages == 0 { message.due_ms } else { self.first_due_ms.min(message.due_ms) };
        self.last_due_ms = self.last_due_ms.max(message.due_ms);
        self.messages += 1;
        self.retries += u64::from(message.reconsume_times > 0);
    }
}

/// `90s`, `15m`, `4h`, `2d` in milliseconds; for clap.
pub(super) fn within(text: &str) -> Result<u64, String> {
    duration_ms(text).map_err(|rule| format!("{text} {rule}"))
}

pub(super) async fn pending(
    client: &Client,
    topic: Option<String>,
    group: Option<&str>,
    within_ms: Option<u64>,
    max: usize,
) -> anyhow::Result<Answer> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let until_ms = within_ms.map(|within| now_ms.saturating_add(within));
    let outside = net::Client::new(net::ClientConfig::default());
    let mut table = Table::new(&["GROUP", "TOPIC", "MESSAGES", "RETRIES", "FIRST DUE (ms)", "LAST DUE (ms)"]);
    let mut rows = Vec::new();
    for (broker, (_, addresses)) in brokers(client).await? {
        if group.is_some_and(|group| group != broker) {
            continue;
        }
        let leader =
            addresses.get(&wire::MASTER_ID).with_context(|| format!("{broker} has no leader now"))?;
        let mut query = PendingQuery { topic: topic.clone(), until_ms, max: PAGE, ..PendingQuery::default() };
        let mut by_topic: BTreeMap<String, Waiting> = BTreeMap::new();
        let mut looked_at = 0;
        let (queues, is_cut) = loop {
            let answer = ask(&outside, leader, query.request()).await?;
            let page: PendingPage = serde_json::from_slice(&answer.body)?;
            looked_at += page.messages.len();
            for message in &page.messages {
                by_topic.entry(message.topic.clone()).or_default().add(message);
            }
            if page.next.is_none() || looked_at >= max {
                break (page.queues, page.next.is_some());
            }
            query.after = page.next;
        };
        let waiting: u64 = queues.iter().map(|queue| queue.pending).sum();
        let mut topics = Vec::new();
        for (topic, found) in &by_topic {
            table.row([
                &broker,
                topic,
                &found.messages.to_string(),
                &found.retries.to_string(),
                &found.first_due_ms.to_string(),
                &found.last_due_ms.to_string(),
            ]);
            topics.push(json!({"topic": topic, "messages": found.messages, "retries": found.retries,
                               "first_due_ms": found.first_due_ms, "last_due_ms": found.last_due_ms}));
        }
        let all = if is_cut { "of all topics, not all looked at" } else { "of all topics" };
        table.row([broker.as_str(), all, &waiting.to_string(), "", "", ""]);
        rows.push(json!({"group": broker, "waiting": waiting, "queues": queues, "topics": topics,
                         "is_cut": is_cut}));
    }
    outside.close();
    Ok(Answer { table, json: Value::Array(rows) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_topic() {
        let mut waiting = Waiting::default();
        for (due_ms, reconsume_times) in [(50, 0), (30, 2), (90, 0)] {
            waiting.add(&PendingMessage { due_ms, reconsume_times, ..PendingMessage::default() });
        }
        assert_eq!(waiting, Waiting { messages: 3, first_due_ms: 30, last_due_ms: 90, retries: 1 });
    }

    #[test]
    fn times() {
        assert_eq!(within("15m"), Ok(900_000));
        assert!(within("15").is_err() && within("x").is_err());
    }
}
