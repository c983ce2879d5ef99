//! Bodies about queues: 41, 42, 202, 208, 220, 221, 222.
//!
//! Java keys some of these maps by an object and reads back only a raw one,
//! `{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:5}}`, which is not JSON: written by
//! hand here, read through [`crate::standardise`].

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::{Body, BodyError, from_json, json_bodies, to_json};

/// One queue of a topic on one broker group. Orders by topic, broker name, queue, as clients sort
/// before they divide queues among themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MessageQueue {
    pub topic: String,
    pub broker_name: String,
    /// -1 in pop assignments: every queue.
    pub queue_id: i32,
}

impl MessageQueue {
    pub fn new(topic: &str, broker_name: &str, queue_id: i32) -> MessageQueue {
        MessageQueue { topic: topic.to_owned(), broker_name: broker_name.to_owned(), queue_id }
    }
}

/// In the order of Java's output, which is not the order in which queues compare.
impl Serialize for MessageQueue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("MessageQueue", 3)?;
        fields.serialize_field("brokerName", &self.broker_name)?;
        fields.serialize_field("queueId", &self.queue_id)?;
        fields.serialize_field("topic", &self.topic)?;
        fields.end()
    }
}

/// Something per queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueTable<V>(pub BTreeMap<MessageQueue, V>);

impl<V> Default for QueueTable<V> {
    fn default() -> QueueTable<V> {
        QueueTable(BTreeMap::new())
    }
}

impl<V> std::ops::Deref for QueueTable<V> {
    type Target = BTreeMap<MessageQueue, V>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<V> std::ops::DerefMut for QueueTable<V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<V> FromIterator<(MessageQueue, V)> for QueueTable<V> {
    fn from_iter<I: IntoIterator<Item = (MessageQueue, V)>>(pairs: I) -> QueueTable<V> {
        QueueTable(pairs.into_iter().collect())
    }
}

impl<V: Serialize> QueueTable<V> {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, (queue, value)) in self.0.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            put(out, queue);
            out.push(b':');
            put(out, value);
        }
        out.push(b'}');
    }
}

fn put(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing plain structs and numbers into memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for QueueTable<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<QueueTable<V>, D::Error> {
        struct Table<V>(std::marker::PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Table<V> {
            type Value = QueueTable<V>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map from message queues")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<QueueTable<V>, A::Error> {
                let mut table = QueueTable::default();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    let queue = serde_json::from_str(&key).map_err(A::Error::custom)?;
                    table.0.insert(queue, value);
                }
                Ok(table)
            }
        }

        deserializer.deserialize_map(Table(std::marker::PhantomData))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicOffset {
    /// Milliseconds since 1970; 0 for an empty queue.
    pub last_update_timestamp: i64,
    pub max_offset: i64,
    pub min_offset: i64,
}

/// 202.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicStatsTable {
    pub offset_table: QueueTable<TopicOffset>,
    /// Messages per second.
    pub topic_put_tps: f64,
}

impl Body for TopicStatsTable {
    fn encode(&self) -> Bytes {
        let mut out = b"{\"offsetTable\":".to_vec();
        self.offset_table.write(&mut out);
        out.extend_from_slice(b",\"topicPutTps\":");
        put(&mut out, &self.topic_put_tps);
        out.push(b'}');
        out.into()
    }

    fn decode(body: &[u8]) -> Result<TopicStatsTable, BodyError> {
        from_json(body)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OffsetWrapper {
    pub broker_offset: i64,
    pub consumer_offset: i64,
    /// Store time of the last message consumed, in milliseconds since 1970.
    pub last_timestamp: i64,
    pub pull_offset: i64,
}

/// 208.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumeStats {
    /// Messages per second.
    pub consume_tps: f64,
    pub offset_table: QueueTable<OffsetWrapper>,
}

impl ConsumeStats {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"consumeTps\":");
        put(out, &self.consume_tps);
        out.extend_from_slice(b",\"offsetTable\":");
        self.offset_table.write(out);
        out.push(b'}');
    }
}

impl Body for ConsumeStats {
    fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        self.write(&mut out);
        out.into()
    }

    fn decode(body: &[u8]) -> Result<ConsumeStats, BodyError> {
        from_json(body)
    }
}

/// 317: statistics of every topic of every group, one single-entry map per group.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumeStatsList {
    pub broker_addr: String,
    pub consume_stats_list: Vec<BTreeMap<String, Vec<ConsumeStats>>>,
    pub total_diff: i64,
    pub total_inflight_diff: i64,
}

impl Body for ConsumeStatsList {
    fn encode(&self) -> Bytes {
        let mut out = b"{\"brokerAddr\":".to_vec();
        put(&mut out, &self.broker_addr);
        out.extend_from_slice(b",\"consumeStatsList\":[");
        for (at, groups) in self.consume_stats_list.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.push(b'{');
            for (at, (group, list)) in groups.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                put(&mut out, group);
                out.extend_from_slice(b":[");
                for (at, stats) in list.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    stats.write(&mut out);
                }
                out.push(b']');
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"],\"totalDiff\":");
        put(&mut out, &self.total_diff);
        out.extend_from_slice(b",\"totalInflightDiff\":");
        put(&mut out, &self.total_inflight_diff);
        out.push(b'}');
        out.into()
    }

    fn decode(body: &[u8]) -> Result<ConsumeStatsList, BodyError> {
        from_json(body)
    }
}

/// Answer to 222, body of 220.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResetOffsetBody {
    pub offset_table: QueueTable<i64>,
}

impl Body for ResetOffsetBody {
    fn encode(&self) -> Bytes {
        let mut out = b"{\"offsetTable\":".to_vec();
        self.offset_table.write(&mut out);
        out.push(b'}');
        out.into()
    }

    fn decode(body: &[u8]) -> Result<ResetOffsetBody, BodyError> {
        from_json(body)
    }
}

impl ResetOffsetBody {
    /// The same for C++ clients, which cannot read a map of queues: a list (RocketMQ's `ResetOffsetBodyForC`).
    pub fn encode_list(&self) -> Bytes {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Item<'a> {
            broker_name: &'a str,
            offset: i64,
            queue_id: i32,
            topic: &'a str,
        }

        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct List<'a> {
            offset_table: Vec<Item<'a>>,
        }

        let items = self.offset_table.iter().map(|(queue, offset)| Item {
            broker_name: &queue.broker_name,
            offset: *offset,
            queue_id: queue.queue_id,
            topic: &queue.topic,
        });
        to_json(&List { offset_table: items.collect() })
    }
}

/// Answer to 308: by queue id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueryCorrectionOffsetBody {
    pub correction_offsets: BTreeMap<i32, i64>,
}

/// Answer to 221 (from a client) and 223: where each client stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GetConsumerStatusBody {
    pub consumer_table: BTreeMap<String, QueueTable<i64>>,
    pub message_queue_table: QueueTable<i64>,
}

impl Body for GetConsumerStatusBody {
    fn encode(&self) -> Bytes {
        let mut out = b"{\"consumerTable\":{".to_vec();
        for (at, (client, table)) in self.consumer_table.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            put(&mut out, client);
            out.push(b':');
            table.write(&mut out);
        }
        out.extend_from_slice(b"},\"messageQueueTable\":");
        self.message_queue_table.write(&mut out);
        out.push(b'}');
        out.into()
    }

    fn decode(body: &[u8]) -> Result<GetConsumerStatusBody, BodyError> {
        from_json(body)
    }
}

/// 41 and 42.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LockBatchRequestBody {
    pub client_id: String,
    pub consumer_group: String,
    pub mq_set: Vec<MessageQueue>,
    pub only_this_broker: bool,
}

/// Answer to 41.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockBatchResponseBody {
    #[serde(rename = "lockOKMQSet")]
    pub lock_ok_mq_set: Vec<MessageQueue>,
}

json_bodies!(MessageQueue, LockBatchRequestBody, LockBatchResponseBody, QueryCorrectionOffsetBody);
