//! Transactions: 37, 39, 323.

use crate::header::headers;

headers! {
    /// 37, one-way from the producer.
    pub EndTransactionRequest {
        "topic" => topic: Option<String>,
        "producerGroup" => producer_group: String,
        /// Queue offset of the half message.
        "tranStateTableOffset" => tran_state_table_offset: i64,
        /// Commit-log position of the half message.
        "commitLogOffset" => commit_log_offset: i64,
        /// [`crate::sysflag`]: TRANSACTION_COMMIT, TRANSACTION_ROLLBACK, or 0 for unknown.
        "commitOrRollback" => commit_or_rollback: i32,
        "fromTransactionCheck" => from_transaction_check: bool = false,
        "msgId" => msg_id: String = String::new(),
        "transactionId" => transaction_id: Option<String>,
    }

    /// 39, one-way from the broker; its body is the half message with its own topic restored.
    pub CheckTransactionStateRequest {
        "topic" => topic: Option<String>,
        "tranStateTableOffset" => tran_state_table_offset: i64,
        "commitLogOffset" => commit_log_offset: i64,
        /// Unique id of the message.
        "msgId" => msg_id: Option<String>,
        "transactionId" => transaction_id: Option<String>,
        "offsetMsgId" => offset_msg_id: Option<String>,
        "bname" => broker_name: Option<String>,
    }

    /// 323.
    pub ResumeCheckHalfMessageRequest {
        "topic" => topic: Option<String>,
        "msgId" => msg_id: Option<String>,
    }
}
