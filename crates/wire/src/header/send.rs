//! Sending: 10, 310, 320, 324, 325, 326, 36, 370.

use crate::codes::RequestCode;
use crate::ext::ExtFields;
use crate::header::{Header, HeaderError, headers};

headers! {
    /// 10, 310, 320, 324 and 325. 310, 320 and 325 write it with one-letter keys; see
    /// [`SendMessageRequest::decode_for`].
    pub SendMessageRequest<'a> {
        // Java marks the first and the next two after `topic` as required, yet works without them;
        // the ROCKETMQ header cannot say "empty".
        "producerGroup" => producer_group: &'a str = "",
        "topic" => topic: &'a str,
        /// The topic whose configuration a topic made on demand takes, usually TBW102.
        "defaultTopic" => default_topic: &'a str = "",
        "defaultTopicQueueNums" => default_topic_queue_nums: i32 = 0,
        /// Negative: any queue.
        "queueId" => queue_id: i32,
        /// [`crate::sysflag`].
        "sysFlag" => sys_flag: i32,
        /// Milliseconds since 1970.
        "bornTimestamp" => born_timestamp: i64,
        /// The user's own flag, stored and returned.
        "flag" => flag: i32,
        /// [`crate::properties_get`].
        "properties" => properties: Option<&'a str>,
        "reconsumeTimes" => reconsume_times: Option<i32>,
        "unitMode" => unit_mode: Option<bool>,
        "maxReconsumeTimes" => max_reconsume_times: Option<i32>,
        "batch" => batch: Option<bool>,
        "bname" => broker_name: Option<&'a str>,
    }

    ShortSendMessageRequest<'a> {
        "a" => producer_group: &'a str = "",
        "b" => topic: &'a str,
        "c" => default_topic: &'a str = "",
        "d" => default_topic_queue_nums: i32 = 0,
        "e" => queue_id: i32,
        "f" => sys_flag: i32,
        "g" => born_timestamp: i64,
        "h" => flag: i32,
        "i" => properties: Option<&'a str>,
        "j" => reconsume_times: Option<i32>,
        "k" => unit_mode: Option<bool>,
        "l" => max_reconsume_times: Option<i32>,
        "m" => batch: Option<bool>,
        "n" => broker_name: Option<&'a str>,
    }

    /// The answer to every kind of send. Clients also want extension fields beside it: see
    /// [`crate::ext_key::MSG_REGION`].
    pub SendMessageResponse {
        /// Offset message id; of a batch all of them, comma-joined.
        "msgId" => msg_id: String,
        "queueId" => queue_id: i32,
        /// Of a batch the first.
        "queueOffset" => queue_offset: i64,
        /// The unique id.
        "transactionId" => transaction_id: Option<String>,
        "batchUniqId" => batch_uniq_id: Option<String>,
        "recallHandle" => recall_handle: Option<String>,
    }

    /// 326, broker to client.
    pub ReplyMessageRequest {
        "producerGroup" => producer_group: String,
        "topic" => topic: String,
        "defaultTopic" => default_topic: String,
        "defaultTopicQueueNums" => default_topic_queue_nums: i32,
        "queueId" => queue_id: i32,
        "sysFlag" => sys_flag: i32,
        "bornTimestamp" => born_timestamp: i64,
        "flag" => flag: i32,
        "properties" => properties: Option<String>,
        "reconsumeTimes" => reconsume_times: Option<i32>,
        "unitMode" => unit_mode: bool = false,
        /// "ip:port".
        "bornHost" => born_host: String,
        "storeHost" => store_host: String,
        "storeTimestamp" => store_timestamp: i64 = 0,
    }

    /// 36.
    pub ConsumerSendMsgBackRequest {
        /// Commit-log position of the message.
        "offset" => offset: i64,
        "group" => group: String,
        /// 0: by the number of attempts so far; negative: dead letter.
        "delayLevel" => delay_level: i32,
        "originMsgId" => origin_msg_id: Option<String>,
        "originTopic" => origin_topic: Option<String>,
        "unitMode" => unit_mode: bool = false,
        "maxReconsumeTimes" => max_reconsume_times: Option<i32>,
    }

    /// 370.
    pub RecallMessageRequest {
        "producerGroup" => producer_group: Option<String>,
        "topic" => topic: String,
        "recallHandle" => recall_handle: String,
    }

    pub RecallMessageResponse {
        "msgId" => msg_id: String,
    }
}

impl<'a> SendMessageRequest<'a> {
    /// Reads the header of a send with the keys that `code` uses.
    pub fn decode_for(code: RequestCode, ext: &'a ExtFields) -> Result<Self, HeaderError> {
        if Self::has_short_keys(code) { Self::decode_short(ext) } else { Self::decode(ext) }
    }

    /// Writes the header with the keys that `code` uses.
    pub fn encode_for(&self, code: RequestCode, ext: &mut ExtFields) {
        if Self::has_short_keys(code) { self.encode_short(ext) } else { self.encode(ext) }
    }

    fn has_short_keys(code: RequestCode) -> bool {
        matches!(
            code,
            RequestCode::SEND_MESSAGE_V2
                | RequestCode::SEND_BATCH_MESSAGE
                | RequestCode::SEND_REPLY_MESSAGE_V2
        )
    }

    fn decode_short(ext: &'a ExtFields) -> Result<Self, HeaderError> {
        let ShortSendMessageRequest {
            producer_group,
            topic,
            default_topic,
            default_topic_queue_nums,
            queue_id,
            sys_flag,
            born_timestamp,
            flag,
            properties,
            reconsume_times,
            unit_mode,
            max_reconsume_times,
            batch,
            broker_name,
        } = ShortSendMessageRequest::decode(ext)?;
        Ok(SendMessageRequest {
            producer_group,
            topic,
            default_topic,
            default_topic_queue_nums,
            queue_id,
            sys_flag,
            born_timestamp,
            flag,
            properties,
            reconsume_times,
            unit_mode,
            max_reconsume_times,
            batch,
            broker_name,
        })
    }

    fn encode_short(&self, ext: &mut ExtFields) {
        let SendMessageRequest {
            producer_group,
            topic,
            default_topic,
            default_topic_queue_nums,
            queue_id,
            sys_flag,
            born_timestamp,
            flag,
            properties,
            reconsume_times,
            unit_mode,
            max_reconsume_times,
            batch,
            broker_name,
        } = *self;
        let short = ShortSendMessageRequest {
            producer_group,
            topic,
            default_topic,
            default_topic_queue_nums,
            queue_id,
            sys_flag,
            born_timestamp,
            flag,
            properties,
            reconsume_times,
            unit_mode,
            max_reconsume_times,
            batch,
            broker_name,
        };
        short.encode(ext);
    }
}
