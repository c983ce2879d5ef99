//! Pop: 200050 to 200055. What is a primitive in Java's class is 0 or false when
//! absent, although marked as required.

use crate::header::headers;

headers! {
    /// 200050.
    pub PopMessageRequest {
        "consumerGroup" => consumer_group: String,
        "topic" => topic: String,
        /// -1: any queue.
        "queueId" => queue_id: i32 = 0,
        /// At most 32.
        "maxMsgNums" => max_msg_nums: i32 = 0,
        /// Milliseconds.
        "invisibleTime" => invisible_time: i64 = 0,
        /// Milliseconds the request may be held.
        "pollTime" => poll_time: i64 = 0,
        /// Milliseconds since 1970, the client's clock.
        "bornTime" => born_time: i64 = 0,
        /// Where a new group begins: 0 first message, 1 end.
        "initMode" => init_mode: i32 = 0,
        "expType" => exp_type: Option<String>,
        "exp" => exp: Option<String>,
        "order" => order: bool = false,
        "attemptId" => attempt_id: Option<String>,
    }

    pub PopMessageResponse {
        "popTime" => pop_time: i64 = 0,
        "invisibleTime" => invisible_time: i64 = 0,
        "reviveQid" => revive_qid: i32 = 0,
        "restNum" => rest_num: i64 = 0,
        "startOffsetInfo" => start_offset_info: Option<String>,
        "msgOffsetInfo" => msg_offset_info: Option<String>,
        "orderCountInfo" => order_count_info: Option<String>,
    }

    /// 200051.
    pub AckMessageRequest {
        "consumerGroup" => consumer_group: String,
        "topic" => topic: String,
        "queueId" => queue_id: i32,
        /// The handle, POP_CK.
        "extraInfo" => extra_info: String,
        "offset" => offset: i64,
    }

    /// 200053.
    pub ChangeInvisibleTimeRequest {
        "consumerGroup" => consumer_group: String,
        "topic" => topic: String,
        "queueId" => queue_id: i32,
        "extraInfo" => extra_info: String,
        "offset" => offset: i64,
        "invisibleTime" => invisible_time: i64,
    }

    pub ChangeInvisibleTimeResponse {
        "popTime" => pop_time: i64 = 0,
        "invisibleTime" => invisible_time: i64 = 0,
        "reviveQid" => revive_qid: i32 = 0,
    }

    /// 200054.
    pub NotificationRequest {
        "consumerGroup" => consumer_group: String,
        "topic" => topic: String,
        "queueId" => queue_id: i32 = 0,
        "pollTime" => poll_time: i64 = 0,
        "bornTime" => born_time: i64 = 0,
        "order" => order: bool = false,
        "attemptId" => attempt_id: Option<String>,
    }

    pub NotificationResponse {
        "hasMsg" => has_msg: bool = false,
        "pollingFull" => polling_full: bool = false,
    }

    /// 200055.
    pub PollingInfoRequest {
        "consumerGroup" => consumer_group: String,
        "topic" => topic: String,
        "queueId" => queue_id: i32 = 0,
    }

    pub PollingInfoResponse {
        "pollingNum" => polling_num: i32 = 0,
    }

    /// 200052.
    pub PeekMessageRequest {
        "consumerGroup" => consumer_group: String,
        "topic" => topic: String,
        "queueId" => queue_id: i32 = 0,
        "maxMsgNums" => max_msg_nums: i32 = 0,
    }
}
