//! Dead letters of a consumer group: what lies there, and another try for it.
//!
//! How far dead letters were given another try is kept by the brokers, as the offset of a group of its own, [`REDRIVE`],
//! in the dead-letter topic: the letter itself stays where it is. A redrive sends first and notes then, so that one which
//! is cut off repeats at most the letter that it was at. That it can be noted is tried before anything is sent.

use std::collections::HashSet;

use anyhow::Context as _;
use client::{
    Client, ClientError, Filter, Message, ProducerConfig, PullConsumer, Pulled, QueueOffset, ReceivedMessage,
};
use serde_json::{Value, json};
use wire::{MessageQueue, ResponseCode, SubscriptionGroupConfig, prop};

use super::message::json_of;
use super::table::{Answer, Table};

/// The consumer group whose offsets say which dead letters were given another try.
const REDRIVE: &str = "CID_RMQ_SYS_REDRIVE";
/// Messages of one pull.
const PULL: u32 = 32;

/// Where a redrive sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Goal {
    /// The group's retry topic: this group alone gets it again
    Group,
    /// The topic that the message was sent to: every group gets it again
    Topic,
}

/// Lists dead letters, at most `max`; those that had another try too if `all`.
pub(super) async fn list(client: &Client, group: &str, max: usize, all: bool) -> anyhow::Result<Answer> {
    let mut table = Table::new(&["BROKER", "OFFSET", "STORED (ms)", "TOPIC", "ID", "ATTEMPTS", "REDRIVEN"]);
    let mut rows = Vec::new();
    each(client, group, max, all, async |_, queue, letter, is_redriven| {
        table.row([
            queue.broker_name.as_str(),
            &letter.offset().to_string(),
            &letter.store_timestamp_ms().to_string(),
            origin(letter),
            &letter.message_id(),
            &letter.reconsume_times().to_string(),
            if is_redriven { "yes" } else { "no" },
        ]);
        let mut row = json_of(letter);
        row["redriven"] = json!(is_redriven);
        row["origin_topic"] = json!(origin(letter));
        rows.push(row);
        Ok(())
    })
    .await?;
    Ok(Answer { table, json: Value::Array(rows) })
}

/// Gives dead letters that had none another try, at most `max`.
pub(super) async fn redrive(client: &Client, group: &str, max: usize, goal: Goal) -> anyhow::Result<Answer> {
    let producer = client.producer("CID_RMQ_SYS_REDRIVE_PRODUCER", ProducerConfig::default()).await?;
    let mut table = Table::new(&["BROKER", "OFFSET", "ID", "SENT TO", "AT"]);
    let mut rows = Vec::new();
    let mut noted = HashSet::new();
    let result = each(client, group, max, false, async |consumer, queue, letter, _| {
        if noted.insert(queue.clone()) {
            consumer.commit(queue, letter.offset()).await?;
        }
        let next = letter.offset().plus(1);
        let Some(copy) = another_try(letter, group, goal) else {
            // It is not to be in the way of those behind it.
            consumer.commit(queue, next).await?;
            let offset = letter.offset();
            table.row([queue.broker_name.as_str(), &offset.to_string(), &letter.message_id(), "", SKIPPED]);
            rows.push(json!({"broker": queue.broker_name, "offset": offset, "id": letter.message_id(),
                             "skipped": SKIPPED}));
            return Ok(());
        };
        let receipt = producer.send(&copy).await?;
        consumer.commit(queue, next).await?;
        let at = format!("{} queue {} offset {}", receipt.broker, receipt.queue_id, receipt.queue_offset);
        table.row([
            queue.broker_name.as_str(),
            &letter.offset().to_string(),
            &letter.message_id(),
            &receipt.topic,
            &at,
        ]);
        rows.push(json!({"broker": queue.broker_name, "offset": letter.offset(), "id": letter.message_id(),
                         "sent_to": &*receipt.topic, "to_broker": &*receipt.broker,
                         "to_queue": receipt.queue_id, "to_offset": receipt.queue_offset}));
        Ok(())
    })
    .await;
    producer.shutdown().await;
    result?;
    Ok(Answer { table, json: Value::Array(rows) })
}

/// Why a letter gets no other try.
const SKIPPED: &str = "skipped: it does not say what topic it was sent to";

/// Pulls letters. A broker that makes no groups by itself is told to make [`REDRIVE`].
async fn pull(
    client: &Client,
    consumer: &PullConsumer,
    queue: &MessageQueue,
    from: QueueOffset,
) -> anyhow::Result<Pulled> {
    match consumer.pull(queue, from, &Filter::all(), PULL, None).await {
        Err(ClientError::Broker { code: ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST, .. }) => {}
        result => return Ok(result?),
    }
    let info = client.admin().cluster_info().await?;
    let broker = info.broker_addr_table.get(&queue.broker_name);
    let master = broker.and_then(|broker| broker.broker_addrs.get(&wire::MASTER_ID));
    let master = master.with_context(|| format!("{} has no leader now", queue.broker_name))?;
    client.admin().update_group_at(master, &SubscriptionGroupConfig::new(REDRIVE)).await?;
    Ok(consumer.pull(queue, from, &Filter::all(), PULL, None).await?)
}

/// Goes through the dead letters of a group, oldest first in each queue.
async fn each(
    client: &Client,
    group: &str,
    max: usize,
    all: bool,
    mut visit: impl AsyncFnMut(&PullConsumer, &MessageQueue, &ReceivedMessage, bool) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let consumer = client.pull_consumer(REDRIVE).await?;
    let result = async {
        let queues = match consumer.queues(&wire::dlq_topic(group)).await {
            // The topic is made with the first dead letter.
            Err(ClientError::NoRoute { .. }) => Vec::new(),
            queues => queues?,
        };
        let mut left = max;
        for queue in queues {
            let redriven = consumer.committed(&queue).await?.unwrap_or(QueueOffset(0));
            let min = consumer.min_offset(&queue).await?;
            let end = consumer.max_offset(&queue).await?;
            let mut next = if all { min } else { redriven.max(min) };
            while next < end && left > 0 {
                let pulled = pull(client, &consumer, &queue, next).await?;
                for letter in pulled.messages.iter().take(left) {
                    visit(&consumer, &queue, letter, letter.offset() < redriven).await?;
                    left -= 1;
                }
                anyhow::ensure!(pulled.next > next, "{queue:?} gives nothing at {next}");
                next = pulled.next;
            }
        }
        Ok(())
    };
    let result = result.await;
    consumer.shutdown().await;
    result
}

/// The topic that the message was sent to.
fn origin(letter: &ReceivedMessage) -> &str {
    letter.property(prop::RETRY_TOPIC).or_else(|| letter.property(prop::DLQ_ORIGIN_TOPIC)).unwrap_or("")
}

/// `None`: it does not say where it came from, which a consumer wants to know too.
fn another_try(letter: &ReceivedMessage, group: &str, goal: Goal) -> Option<Message> {
    let origin = Some(origin(letter)).filter(|topic| !topic.is_empty())?;
    let topic = match goal {
        Goal::Group => wire::retry_topic(group),
        Goal::Topic => origin.to_owned(),
    };
    let mut copy = Message::new(topic, letter.body().clone()).flag(letter.flag());
    for (name, value) in letter.properties().filter(|(name, _)| stays(name, goal)) {
        copy = copy.reserved(name, value);
    }
    if letter.property(prop::ORIGIN_MESSAGE_ID).is_none() {
        copy = copy.reserved(prop::ORIGIN_MESSAGE_ID, &letter.message_id());
    }
    Some(if goal == Goal::Group { copy.reserved(prop::RETRY_TOPIC, origin) } else { copy })
}

/// Whether a property goes along. Delays and counts are those of the attempts that failed.
fn stays(name: &str, goal: Goal) -> bool {
    const GONE: [&str; 14] = [
        prop::DELAY,
        prop::RECONSUME_TIME,
        prop::MAX_RECONSUME_TIMES,
        prop::REAL_TOPIC,
        prop::REAL_QID,
        prop::TRAN_MSG,
        prop::TIMER_DELAY_SEC,
        prop::TIMER_DELAY_MS,
        prop::TIMER_DELIVER_MS,
        prop::TIMER_OUT_MS,
        prop::POP_CK,
        prop::CLUSTER,
        prop::MSG_REGION,
        prop::TRACE_ON,
    ];
    !GONE.contains(&name) && (goal == Goal::Group || name != prop::RETRY_TOPIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_along() {
        for name in [prop::UNIQ_KEY, prop::KEYS, prop::TAGS, prop::ORIGIN_MESSAGE_ID, "colour"] {
            assert!(stays(name, Goal::Group) && stays(name, Goal::Topic), "{name}");
        }
        for name in [prop::DELAY, prop::RECONSUME_TIME, prop::REAL_TOPIC, prop::CLUSTER] {
            assert!(!stays(name, Goal::Group) && !stays(name, Goal::Topic), "{name}");
        }
        // A consumer takes the topic from it, and then it would be the retry topic's no more.
        assert!(stays(prop::RETRY_TOPIC, Goal::Group) && !stays(prop::RETRY_TOPIC, Goal::Topic));
    }
}
