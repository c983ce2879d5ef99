//! What administrators look into: 321 a ConsumeQueue, 345 a subscription.

use serde::{Deserialize, Serialize};

use crate::body::heartbeat::SubscriptionData;
use crate::json::json_bodies;

/// 321.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QueryConsumeQueueResponseBody {
    /// What the broker knows of the expression of the group that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_data: Option<String>,
    pub max_queue_index: i64,
    pub min_queue_index: i64,
    pub queue_data: Vec<ConsumeQueueData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_data: Option<SubscriptionData>,
}

/// One unit of a ConsumeQueue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsumeQueueData {
    /// Whether the expression matches.
    pub eval: bool,
    pub physic_offset: i64,
    pub physic_size: i32,
    pub tags_code: i64,
}

/// 345.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QuerySubscriptionResponseBody {
    pub group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_data: Option<SubscriptionData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

json_bodies!(QueryConsumeQueueResponseBody, QuerySubscriptionResponseBody);
