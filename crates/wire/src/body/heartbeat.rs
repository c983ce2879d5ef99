//! What clients tell about themselves: 34, 46, 203.

use std::collections::BTreeSet;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::body::named_enums;
use crate::json::{BodyError, json_bodies};
use crate::tags::java_string_hash;

named_enums! {
    ConsumeType {
        /// Pull.
        Actively = "CONSUME_ACTIVELY",
        /// Push.
        Passively = "CONSUME_PASSIVELY",
        Pop = "CONSUME_POP",
    }

    MessageModel {
        Broadcasting = "BROADCASTING",
        Clustering = "CLUSTERING",
    }

    /// Where a group without an offset begins.
    ConsumeFromWhere {
        LastOffset = "CONSUME_FROM_LAST_OFFSET",
        LastOffsetAndFromMinWhenBootFirst = "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
        MinOffset = "CONSUME_FROM_MIN_OFFSET",
        MaxOffset = "CONSUME_FROM_MAX_OFFSET",
        FirstOffset = "CONSUME_FROM_FIRST_OFFSET",
        Timestamp = "CONSUME_FROM_TIMESTAMP",
    }
}

/// 34.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeartbeatData {
    #[serde(rename = "clientID")]
    pub client_id: String,
    pub consumer_data_set: Vec<ConsumerData>,
    /// Not 0: the client speaks heartbeat V2, and this is a hash of its subscriptions.
    pub heartbeat_fingerprint: i32,
    pub producer_data_set: Vec<ProducerData>,
    /// With a fingerprint: subscriptions are left out, keep those known.
    pub without_sub: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumerData {
    pub consume_from_where: ConsumeFromWhere,
    pub consume_type: ConsumeType,
    pub group_name: String,
    pub message_model: MessageModel,
    pub subscription_data_set: Vec<SubscriptionData>,
    pub unit_mode: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProducerData {
    pub group_name: String,
}

/// The only expression type that needs no evaluation at the broker.
pub const EXPRESSION_TYPE_TAG: &str = "TAG";
pub const EXPRESSION_TYPE_SQL92: &str = "SQL92";
/// The subscription that takes everything.
pub const SUB_ALL: &str = "*";

/// What a group wants of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SubscriptionData {
    pub class_filter_mode: bool,
    /// Java hashes of `tags_set`.
    #[serde(deserialize_with = "codes")]
    pub code_set: BTreeSet<i32>,
    pub expression_type: String,
    pub sub_string: String,
    /// Milliseconds since 1970 at which the client made it; the newest counts.
    pub sub_version: i64,
    pub tags_set: BTreeSet<String>,
    pub topic: String,
}

/// Go's client writes them in quotes; Java reads both.
fn codes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<i32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Code {
        Number(i32),
        Text(String),
    }

    let codes = Vec::<Code>::deserialize(deserializer)?;
    let read = |code| match code {
        Code::Number(code) => Ok(code),
        Code::Text(text) => text.trim().parse().map_err(D::Error::custom),
    };
    codes.into_iter().map(read).collect()
}

impl Default for SubscriptionData {
    fn default() -> SubscriptionData {
        SubscriptionData {
            class_filter_mode: false,
            code_set: BTreeSet::new(),
            expression_type: EXPRESSION_TYPE_TAG.to_owned(),
            sub_string: String::new(),
            sub_version: 0,
            tags_set: BTreeSet::new(),
            topic: String::new(),
        }
    }
}

impl SubscriptionData {
    /// The subscription that a tag expression such as `a || b`, `*` or nothing means (FilterAPI).
    /// Fails for one that names nothing, such as `||`.
    pub fn from_tags(topic: &str, expression: &str, sub_version: i64) -> Result<SubscriptionData, BodyError> {
        let mut data = SubscriptionData { topic: topic.to_owned(), sub_version, ..Default::default() };
        if expression.is_empty() || expression == SUB_ALL {
            SUB_ALL.clone_into(&mut data.sub_string);
            return Ok(data);
        }
        expression.clone_into(&mut data.sub_string);
        for tag in expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()) {
            data.tags_set.insert(tag.to_owned());
            data.code_set.insert(java_string_hash(tag));
        }
        if data.tags_set.is_empty() && expression.split("||").all(str::is_empty) {
            return Err(BodyError::Malformed("subscription names no tag"));
        }
        Ok(data)
    }

    /// A subscription of another expression type, taken as it is.
    pub fn from_expression(topic: &str, kind: &str, expression: &str, sub_version: i64) -> SubscriptionData {
        SubscriptionData {
            topic: topic.to_owned(),
            expression_type: kind.to_owned(),
            sub_string: expression.to_owned(),
            sub_version,
            ..Default::default()
        }
    }

    pub fn is_tag_type(&self) -> bool {
        self.expression_type.is_empty() || self.expression_type == EXPRESSION_TYPE_TAG
    }

    /// Whether a message with this tags code may match, by hash; clients compare the tag itself
    /// again. Always true for a subscription that does not go by tags.
    pub fn may_match(&self, tags_code: i64) -> bool {
        !self.is_tag_type()
            || self.class_filter_mode
            || self.sub_string == SUB_ALL
            || self.code_set.contains(&(tags_code as i32))
    }
}

/// 46.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CheckClientRequestBody {
    pub client_id: String,
    pub group: String,
    pub namespace: Option<String>,
    pub subscription_data: SubscriptionData,
}

json_bodies!(HeartbeatData, SubscriptionData, CheckClientRequestBody);
