//! Topic configuration: 17, 18, 21, 103, 351, and the tables of 28 and 219.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::{BodyError, json_bodies};

/// State of a table that brokers and nameservers compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DataVersion {
    pub counter: i64,
    /// With us the Raft term.
    pub state_version: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
}

impl DataVersion {
    /// After a change at `now_millis` in term `state_version`.
    #[must_use]
    pub fn next(self, state_version: i64, now_millis: i64) -> DataVersion {
        DataVersion { counter: self.counter.wrapping_add(1), state_version, timestamp: now_millis }
    }
}

/// By state version, then counter, then time (DataVersion.compare).
impl Ord for DataVersion {
    fn cmp(&self, other: &DataVersion) -> std::cmp::Ordering {
        let key = |version: &DataVersion| (version.state_version, version.counter, version.timestamp);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for DataVersion {
    fn partial_cmp(&self, other: &DataVersion) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// How a topic is set up on one broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicConfig {
    /// Such as `message.type` and `queue.type` (TopicAttributes).
    pub attributes: BTreeMap<String, String>,
    pub order: bool,
    /// [`crate::perm`].
    pub perm: i32,
    pub read_queue_nums: i32,
    /// "SINGLE_TAG" or "MULTI_TAG".
    pub topic_filter_type: String,
    pub topic_name: String,
    pub topic_sys_flag: i32,
    pub write_queue_nums: i32,
}

/// 16 queues each way, readable and writable.
impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig {
            attributes: BTreeMap::new(),
            order: false,
            perm: crate::body::perm::READ_WRITE,
            read_queue_nums: 16,
            topic_filter_type: SINGLE_TAG.to_owned(),
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queue_nums: 16,
        }
    }
}

const SINGLE_TAG: &str = "SINGLE_TAG";

impl TopicConfig {
    /// An ordinary topic with as many queues for reading as for writing.
    pub fn new(name: &str, queue_nums: i32, perm: i32) -> TopicConfig {
        TopicConfig {
            topic_name: name.to_owned(),
            read_queue_nums: queue_nums,
            write_queue_nums: queue_nums,
            perm,
            ..TopicConfig::default()
        }
    }

    /// The line of a compressed registration: `name read write perm filter attributes`. `order` and
    /// `topic_sys_flag` are lost.
    pub fn to_text(&self) -> String {
        let TopicConfig {
            topic_name,
            read_queue_nums,
            write_queue_nums,
            perm,
            topic_filter_type,
            attributes,
            ..
        } = self;
        let attributes = serde_json::to_string(attributes).unwrap_or_else(|_| "{}".to_owned());
        format!("{topic_name} {read_queue_nums} {write_queue_nums} {perm} {topic_filter_type} {attributes}")
    }

    pub fn from_text(text: &str) -> Result<TopicConfig, BodyError> {
        fn number(text: Option<&str>) -> Result<i32, BodyError> {
            text.and_then(|text| text.parse().ok()).ok_or(BodyError::Malformed("number in a topic line"))
        }
        let mut parts = text.splitn(6, ' ');
        let topic_name = parts.next().filter(|name| !name.is_empty());
        let mut config = TopicConfig {
            topic_name: topic_name.ok_or(BodyError::Malformed("topic line without a name"))?.to_owned(),
            read_queue_nums: number(parts.next())?,
            write_queue_nums: number(parts.next())?,
            perm: number(parts.next())?,
            topic_filter_type: parts
                .next()
                .ok_or(BodyError::Malformed("topic line without a filter type"))?
                .to_owned(),
            ..TopicConfig::default()
        };
        if let Some(attributes) = parts.next().filter(|text| !text.trim().is_empty()) {
            config.attributes = crate::json::from_json(attributes.as_bytes())?;
        }
        Ok(config)
    }
}

/// 21, and what a registration says of topics. The two mapping tables belong to static topics and
/// are carried unread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicConfigSerializeWrapper {
    pub data_version: DataVersion,
    pub mapping_data_version: DataVersion,
    pub topic_config_table: BTreeMap<String, TopicConfig>,
    pub topic_queue_mapping_detail_map: BTreeMap<String, serde_json::Value>,
    pub topic_queue_mapping_info_map: BTreeMap<String, serde_json::Value>,
}

/// 18.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CreateTopicListRequestBody {
    pub topic_config_list: Vec<TopicConfig>,
}

/// 28, 219, and the answer to 103.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KvTable {
    pub table: BTreeMap<String, String>,
}

json_bodies!(DataVersion, TopicConfig, TopicConfigSerializeWrapper, CreateTopicListRequestBody, KvTable);
