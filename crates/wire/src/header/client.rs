//! Clients and their groups: 35, 38, 40, 203, 204, 207, 208, 220 to 223, 307, 309, 352. 34, 41, 42, 46, 200, 328 and 400 have a body and no header.

use crate::header::headers;

headers! {
    /// 35.
    pub UnregisterClientRequest {
        "clientID" => client_id: String,
        "producerGroup" => producer_group: Option<String>,
        "consumerGroup" => consumer_group: Option<String>,
    }

    /// 38, 40 (broker to client), 203.
    pub ConsumerGroupRequest {
        "consumerGroup" => consumer_group: String,
    }

    /// 204.
    pub ProducerGroupRequest {
        "producerGroup" => producer_group: String,
    }

    /// 343, 352.
    pub GroupRequest {
        "group" => group: String,
    }

    /// 207.
    pub DeleteSubscriptionGroupRequest {
        "groupName" => group_name: String,
        "cleanOffset" => clean_offset: bool = false,
    }

    /// 208.
    pub GetConsumeStatsRequest {
        "consumerGroup" => consumer_group: String,
        "topic" => topic: Option<String>,
        /// Topics, joined by `;`.
        "topicList" => topic_list: Option<String>,
    }

    /// 222 (admin to broker), 220 (broker to client).
    pub ResetOffsetRequest {
        "group" => group: String,
        "topic" => topic: String,
        /// -1: all queues.
        "queueId" => queue_id: i32 = -1,
        "offset" => offset: Option<i64>,
        /// Milliseconds since 1970; -1: the end.
        "timestamp" => timestamp: i64 = 0,
        "isForce" => is_force: bool = false,
    }

    /// 221 (broker to client), 223 (admin to broker).
    pub GetConsumerStatusRequest {
        "topic" => topic: String,
        "group" => group: String,
        "clientAddr" => client_addr: Option<String>,
    }

    /// 307, relayed to the client.
    pub GetConsumerRunningInfoRequest {
        "consumerGroup" => consumer_group: String,
        "clientId" => client_id: String,
        "jstackEnable" => jstack_enable: bool = false,
    }

    /// 309, relayed to the client with one stored message as body.
    pub ConsumeMessageDirectlyRequest {
        "consumerGroup" => consumer_group: String,
        "clientId" => client_id: Option<String>,
        /// Offset message id.
        "msgId" => msg_id: Option<String>,
        "brokerName" => broker_name: Option<String>,
        "topic" => topic: Option<String>,
        "topicSysFlag" => topic_sys_flag: Option<i32>,
        "groupSysFlag" => group_sys_flag: Option<i32>,
    }

    /// 303.
    pub QueryConsumeTimeSpanRequest {
        "topic" => topic: String,
        "group" => group: String,
    }

    /// 308.
    pub QueryCorrectionOffsetRequest {
        /// Groups that do not count, with commas between.
        "filterGroups" => filter_groups: Option<String>,
        "compareGroup" => compare_group: String,
        "topic" => topic: String,
    }

    /// 314.
    pub CloneGroupOffsetRequest {
        "srcGroup" => src_group: String,
        "destGroup" => dest_group: String,
        "topic" => topic: Option<String>,
        "offline" => offline: bool = false,
    }

    /// 345.
    pub QuerySubscriptionByConsumerRequest {
        "group" => group: String,
        "topic" => topic: Option<String>,
    }

    /// 353.
    pub UpdateGroupForbiddenRequest {
        "group" => group: String,
        "topic" => topic: String,
        "readable" => readable: Option<bool>,
    }
}
