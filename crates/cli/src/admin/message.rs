//! Single messages: found by id or key, and the story of one.

use broker::{Copy, MESSAGE_STORY, MessageStory};
use client::{Client, ReceivedMessage};
use serde_json::{Value, json};
use wire::{RemotingCommand, RequestCode};

use super::table::{Answer, Table};
use super::{ask, brokers};

/// A message by its offset message id or, with its topic, by its unique id.
pub(super) async fn by_id(client: &Client, id: &str, topic: Option<&str>) -> anyhow::Result<Answer> {
    let found = match topic {
        Some(topic) => client.admin().query_by_unique_id(topic, id).await?,
        None => vec![client.admin().view_message(id).await?],
    };
    anyhow::ensure!(!found.is_empty(), "no message {id}");
    Ok(shown(&found))
}

pub(super) async fn by_key(client: &Client, topic: &str, key: &str, max: u32) -> anyhow::Result<Answer> {
    Ok(shown(&client.admin().query_by_key(topic, key, 0, i64::MAX as u64, max).await?))
}

fn shown(messages: &[ReceivedMessage]) -> Answer {
    let mut table =
        Table::new(&["ID", "OFFSET ID", "TOPIC", "BROKER", "QUEUE", "OFFSET", "STORED (ms)", "BODY"]);
    let mut rows = Vec::new();
    for message in messages {
        let queue = message.queue();
        let body = String::from_utf8_lossy(message.body());
        let start: String = body.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
        table.row([
            message.message_id().as_str(),
            &message.offset_message_id(),
            &queue.topic,
            &queue.broker_name,
            &queue.queue_id.to_string(),
            &message.offset().to_string(),
            &message.store_timestamp_ms().to_string(),
            &start,
        ]);
        rows.push(json_of(message));
    }
    Answer { table, json: Value::Array(rows) }
}

pub(super) fn json_of(message: &ReceivedMessage) -> Value {
    let properties: serde_json::Map<String, Value> =
        message.properties().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    json!({
        "id": message.message_id(), "offset_id": message.offset_message_id(), "topic": message.topic(),
        "queue_topic": message.queue().topic, "broker": message.queue().broker_name,
        "queue": message.queue().queue_id, "offset": message.offset(), "position": message.position(),
        "stored_ms": message.store_timestamp_ms(), "born_ms": message.born_timestamp_ms(),
        "reconsume_times": message.reconsume_times(), "properties": properties,
        "body": String::from_utf8_lossy(message.body()),
    })
}

/// Asks the leader of every group for what it knows of a message.
pub(super) async fn why(client: &Client, key: &str, topic: Option<&str>) -> anyhow::Result<Answer> {
    let outside = net::Client::new(net::ClientConfig::default());
    let mut table = Table::new(&["WHEN (ms)", "GROUP", "WHAT", "WHERE", "ENTRY", "CONSUMERS"]);
    let mut stories = Vec::new();
    for (broker, (_, addresses)) in brokers(client).await? {
        let Some(address) = addresses.get(&wire::MASTER_ID) else {
            table.row(["", &broker, "has no leader now: not asked", "", "", ""]);
            stories.push(json!({"group": broker, "error": "no leader"}));
            continue;
        };
        let mut request = RemotingCommand::request(RequestCode(MESSAGE_STORY)).with_ext("key", key);
        if let Some(topic) = topic {
            request = request.with_ext("topic", topic);
        }
        let answer = ask(&outside, address, request).await?;
        let story: MessageStory = serde_json::from_slice(&answer.body)?;
        for copy in &story.copies {
            let readers: Vec<String> = copy
                .readers
                .iter()
                .map(|r| {
                    format!("{}@{} {}", r.group, r.offset, if r.has_passed { "past it" } else { "not yet" })
                })
                .collect();
            table.row([
                &copy.stored_ms.to_string(),
                &story.group,
                &what(copy),
                &format!("{} queue {} offset {}", copy.topic, copy.queue, copy.offset),
                &format!("{}/{} at {}", copy.term, copy.index, copy.position),
                &readers.join(", "),
            ]);
        }
        if story.is_cut {
            table.row(["", &story.group, "and more, which are not shown: name the topic", "", "", ""]);
        }
        stories.push(serde_json::to_value(&story)?);
    }
    outside.close();
    let count: usize = stories.iter().filter_map(|story| story["copies"].as_array()).map(Vec::len).sum();
    anyhow::ensure!(count > 0, "no message {key} in any group that has a leader");
    Ok(Answer { table, json: Value::Array(stories) })
}

/// What a copy is, by the topic in which it lies.
fn what(copy: &Copy) -> String {
    let goal = || copy.real_topic.as_deref().unwrap_or("its topic");
    let waits = if copy.is_done == Some(true) { "waited" } else { "waits" };
    if copy.topic == wire::topic::SCHEDULE {
        // A level's queue is the level less one.
        return format!("{waits}, level {}, for {}", copy.queue + 1, goal());
    }
    if copy.topic == wire::topic::WHEEL_TIMER {
        let due = copy.due_ms.map_or_else(String::new, |ms| format!(" until {ms}"));
        return format!("{waits}{due}, for {}", goal());
    }
    if copy.topic == wire::topic::TRANS_HALF {
        let end = if copy.is_done == Some(true) { "has ended" } else { "goes on" };
        return format!("half message of a transaction that {end}, for {}", goal());
    }
    if let Some(group) = copy.topic.strip_prefix(wire::DLQ_TOPIC_PREFIX) {
        return format!("dead letter of {group}, after {} attempts", copy.reconsume_times);
    }
    if let Some(group) = copy.topic.strip_prefix(wire::RETRY_TOPIC_PREFIX) {
        return format!("attempt {} of {group}", copy.reconsume_times + 1);
    }
    "as it was sent".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_told_apart_by_their_topic() {
        let told = |topic: &str, queue| {
            what(&Copy {
                topic: topic.into(),
                queue,
                reconsume_times: 2,
                real_topic: Some("orders".into()),
                due_ms: Some(5),
                ..Copy::default()
            })
        };
        assert_eq!(told("orders", 0), "as it was sent");
        assert_eq!(told("SCHEDULE_TOPIC_XXXX", 2), "waits, level 3, for orders");
        assert_eq!(told("rmq_sys_wheel_timer", 0), "waits until 5, for orders");
        assert_eq!(told("%RETRY%g", 0), "attempt 3 of g");
        assert_eq!(told("%DLQ%g", 0), "dead letter of g, after 2 attempts");
        assert_eq!(
            told("RMQ_SYS_TRANS_HALF_TOPIC", 0),
            "half message of a transaction that goes on, for orders"
        );
        let done = Copy { topic: "SCHEDULE_TOPIC_XXXX".into(), is_done: Some(true), ..Copy::default() };
        assert_eq!(what(&done), "waited, level 1, for its topic");
    }
}
