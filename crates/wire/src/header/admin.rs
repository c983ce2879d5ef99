//! Administration of a broker: 17, 21, 26, 201, 202, 215, 300, 315, 317, 351.

use crate::header::headers;

headers! {
    /// 202, 215, 217, 300, 351.
    pub TopicRequest {
        "topic" => topic: String,
    }

    /// 17.
    pub CreateTopicRequest {
        "topic" => topic: String,
        "defaultTopic" => default_topic: String = String::new(),
        "readQueueNums" => read_queue_nums: i32,
        "writeQueueNums" => write_queue_nums: i32,
        /// [`crate::perm`].
        "perm" => perm: i32,
        /// "SINGLE_TAG" or "MULTI_TAG".
        "topicFilterType" => topic_filter_type: String = "SINGLE_TAG".to_owned(),
        "topicSysFlag" => topic_sys_flag: Option<i32>,
        "order" => order: bool = false,
        /// "+key=value,-key".
        "attributes" => attributes: Option<String>,
        "force" => force: Option<bool>,
    }

    /// 21; without fields everything is wanted.
    pub GetAllTopicConfigRequest {
        "topicSeq" => topic_seq: Option<i32>,
        "maxTopicNum" => max_topic_num: Option<i32>,
        "dataVersion" => data_version: Option<String>,
    }

    pub GetAllTopicConfigResponse {
        "totalTopicNum" => total_topic_num: Option<i32>,
    }

    /// 201; without fields everything is wanted.
    pub GetAllSubscriptionGroupConfigRequest {
        "groupSeq" => group_seq: Option<i32>,
        "maxGroupNum" => max_group_num: Option<i32>,
        "dataVersion" => data_version: Option<String>,
    }

    pub GetAllSubscriptionGroupConfigResponse {
        "totalGroupNum" => total_group_num: Option<i32>,
    }

    /// 26.
    pub GetBrokerConfigResponse {
        /// JSON of a [`crate::DataVersion`].
        "version" => version: String,
    }

    /// 315.
    pub ViewBrokerStatsDataRequest {
        "statsName" => stats_name: String,
        "statsKey" => stats_key: String,
    }

    /// 317.
    pub GetConsumeStatsInBrokerRequest {
        "isOrder" => is_order: bool = false,
    }
}
