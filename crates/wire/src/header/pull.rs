//! Pulling, offsets, queries: 11, 361, 12, 14, 15, 29 to 33, 321.

use crate::header::headers;

/// Bits of `sysFlag` in [`PullMessageRequest`].
pub mod pull_flag {
    /// Store `commitOffset`.
    pub const COMMIT_OFFSET: i32 = 1;
    /// The request may be held.
    pub const SUSPEND: i32 = 2;
    /// Use the subscription in the request.
    pub const SUBSCRIPTION: i32 = 4;
    pub const CLASS_FILTER: i32 = 8;
    pub const LITE_PULL: i32 = 16;
}

headers! {
    /// 11 and 361.
    pub PullMessageRequest {
        "consumerGroup" => consumer_group: String,
        "topic" => topic: String,
        "queueId" => queue_id: i32,
        "queueOffset" => queue_offset: i64,
        "maxMsgNums" => max_msg_nums: i32,
        /// [`pull_flag`].
        "sysFlag" => sys_flag: i32,
        "commitOffset" => commit_offset: i64,
        "suspendTimeoutMillis" => suspend_timeout_millis: i64,
        "subscription" => subscription: Option<String>,
        "subVersion" => sub_version: i64,
        /// "TAG" or "SQL92".
        "expressionType" => expression_type: Option<String>,
        "maxMsgBytes" => max_msg_bytes: Option<i32>,
        /// -1 SDK, 0 proxy in order, 1 proxy broadcast, 2 proxy stream.
        "requestSource" => request_source: Option<i32>,
        // RocketMQ's spelling.
        "proxyFrowardClientId" => proxy_forward_client_id: Option<String>,
    }

    pub PullMessageResponse {
        "suggestWhichBrokerId" => suggest_which_broker_id: i64,
        "nextBeginOffset" => next_begin_offset: i64,
        "minOffset" => min_offset: i64,
        "maxOffset" => max_offset: i64,
        "offsetDelta" => offset_delta: Option<i64>,
        "topicSysFlag" => topic_sys_flag: Option<i32>,
        "groupSysFlag" => group_sys_flag: Option<i32>,
        /// 1 broker, 2 group, 3 topic, 4 broadcast disabled, 5 subscription.
        "forbiddenType" => forbidden_type: Option<i32>,
    }

    /// 14; answered with [`OffsetResponse`].
    pub QueryConsumerOffsetRequest {
        "consumerGroup" => consumer_group: String,
        "topic" => topic: String,
        "queueId" => queue_id: i32,
        "setZeroIfNotFound" => set_zero_if_not_found: Option<bool>,
    }

    /// 15, often one-way.
    pub UpdateConsumerOffsetRequest {
        "consumerGroup" => consumer_group: String,
        "topic" => topic: String,
        "queueId" => queue_id: i32,
        "commitOffset" => commit_offset: i64,
    }

    /// 29; answered with [`OffsetResponse`].
    pub SearchOffsetRequest {
        "topic" => topic: String,
        "queueId" => queue_id: i32,
        /// Milliseconds since 1970, compared with store times.
        "timestamp" => timestamp: i64,
        /// "LOWER" or "UPPER", any case; absent is LOWER.
        "boundaryType" => boundary_type: Option<String>,
    }

    /// 30; answered with [`OffsetResponse`].
    pub GetMaxOffsetRequest {
        "topic" => topic: String,
        "queueId" => queue_id: i32,
        "committed" => committed: bool = true,
    }

    /// 31, answered with [`OffsetResponse`], and 32, with [`GetEarliestMsgStoretimeResponse`].
    pub GetMinOffsetRequest {
        "topic" => topic: String,
        "queueId" => queue_id: i32,
    }

    /// 14, 29, 30, 31.
    pub OffsetResponse {
        "offset" => offset: i64,
    }

    /// 32.
    pub GetEarliestMsgStoretimeResponse {
        /// Milliseconds since 1970; -1 if there is no message.
        "timestamp" => timestamp: i64,
    }

    /// 33.
    pub ViewMessageRequest {
        "topic" => topic: Option<String>,
        /// Commit-log position.
        "offset" => offset: i64,
    }

    /// 12; see also [`crate::ext_key::UNIQUE_KEY_QUERY`].
    pub QueryMessageRequest {
        "topic" => topic: String,
        "key" => key: String,
        "maxNum" => max_num: i32,
        "beginTimestamp" => begin_timestamp: i64,
        "endTimestamp" => end_timestamp: i64,
    }

    pub QueryMessageResponse {
        "indexLastUpdateTimestamp" => index_last_update_timestamp: i64,
        "indexLastUpdatePhyoffset" => index_last_update_phyoffset: i64,
    }

    /// 321.
    pub QueryConsumeQueueRequest {
        "topic" => topic: Option<String>,
        "queueId" => queue_id: i32 = 0,
        "index" => index: i64 = 0,
        "count" => count: i32 = 0,
        "consumerGroup" => consumer_group: Option<String>,
    }
}
