//! Names of topics and groups: which are allowed, which belong to the system (TopicValidator).

/// Longest ordinary topic name, in characters.
pub const TOPIC_LEN_MAX: usize = 127;
/// Longest name of a retry or dead-letter topic.
pub const RETRY_OR_DLQ_TOPIC_LEN_MAX: usize = 255;
/// Longest group name whose retry topic is a valid name. RocketMQ up to 5.3.3 allows 255 characters,
/// later 120; a group made under the older rule must go on working.
pub const GROUP_LEN_MAX: usize = RETRY_OR_DLQ_TOPIC_LEN_MAX - RETRY_TOPIC_PREFIX.len();

pub const RETRY_TOPIC_PREFIX: &str = "%RETRY%";
pub const DLQ_TOPIC_PREFIX: &str = "%DLQ%";
pub const LMQ_PREFIX: &str = "%LMQ%";
pub const SYSTEM_TOPIC_PREFIX: &str = "rmq_sys_";
pub const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";
pub const REPLY_TOPIC_SUFFIX: &str = "REPLY_TOPIC";

/// Topics with a meaning of their own.
pub mod topic {
    /// Its configuration is what topics made on demand take.
    pub const AUTO_CREATE: &str = "TBW102";
    pub const SCHEDULE: &str = "SCHEDULE_TOPIC_XXXX";
    pub const BENCHMARK: &str = "BenchmarkTest";
    pub const TRANS_HALF: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
    pub const TRANS_OP_HALF: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
    pub const TRANS_CHECK_MAX_TIME: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
    pub const TRACE: &str = "RMQ_SYS_TRACE_TOPIC";
    pub const SELF_TEST: &str = "SELF_TEST_TOPIC";
    pub const OFFSET_MOVED_EVENT: &str = "OFFSET_MOVED_EVENT";
    pub const CHECKPOINT: &str = "CHECKPOINT_TOPIC";
    pub const WHEEL_TIMER: &str = "rmq_sys_wheel_timer";
}

/// Groups with a meaning of their own.
pub mod group {
    pub const TOOLS_CONSUMER: &str = "TOOLS_CONSUMER";
    pub const DEFAULT_PRODUCER: &str = "DEFAULT_PRODUCER";
    pub const DEFAULT_CONSUMER: &str = "DEFAULT_CONSUMER";
    pub const CLIENT_INNER_PRODUCER: &str = "CLIENT_INNER_PRODUCER";
    pub const TRANS: &str = "CID_RMQ_SYS_TRANS";
}

const SYSTEM_TOPICS: &[&str] = &[
    topic::AUTO_CREATE,
    topic::SCHEDULE,
    topic::BENCHMARK,
    topic::TRANS_HALF,
    topic::TRACE,
    topic::TRANS_OP_HALF,
    topic::TRANS_CHECK_MAX_TIME,
    topic::SELF_TEST,
    topic::OFFSET_MOVED_EVENT,
    topic::CHECKPOINT,
];

const NO_SEND_TOPICS: &[&str] = &[
    topic::SCHEDULE,
    topic::TRANS_HALF,
    topic::TRANS_OP_HALF,
    topic::TRANS_CHECK_MAX_TIME,
    topic::SELF_TEST,
    topic::OFFSET_MOVED_EVENT,
    // RocketMQ lets clients send there; what it holds is for the broker alone to write.
    topic::WHEEL_TIMER,
];

const SYSTEM_GROUPS: &[&str] = &[
    group::TOOLS_CONSUMER,
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    group::TRANS,
];

/// What is wrong with a name; its text is fit for the remark of a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("The specified {0} is blank.")]
    Blank(&'static str),
    #[error("The specified {0} contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$")]
    IllegalCharacter(&'static str),
    #[error("The specified {what} is longer than {what} max length {max}.")]
    TooLong { what: &'static str, max: usize },
}

/// Checks the name of a topic that a client wants to use or make.
pub fn validate_topic(topic: &str) -> Result<(), NameError> {
    let max =
        if is_retry_topic(topic) || is_dlq_topic(topic) { RETRY_OR_DLQ_TOPIC_LEN_MAX } else { TOPIC_LEN_MAX };
    validate("topic", topic, max)
}

/// Checks the name of a consumer or producer group.
pub fn validate_group(group: &str) -> Result<(), NameError> {
    validate("group", group, GROUP_LEN_MAX)
}

fn validate(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank(what));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'_' | b'-')) {
        return Err(NameError::IllegalCharacter(what));
    }
    if name.len() > max {
        return Err(NameError::TooLong { what, max });
    }
    Ok(())
}

/// True for the topics of RocketMQ itself; those named after cluster and broker are not known here.
pub fn is_system_topic(topic: &str) -> bool {
    topic.starts_with(SYSTEM_TOPIC_PREFIX) || SYSTEM_TOPICS.contains(&topic)
}

/// True for the topics to which a client may not send.
pub fn is_send_forbidden(topic: &str) -> bool {
    NO_SEND_TOPICS.contains(&topic)
}

pub fn is_system_group(group: &str) -> bool {
    group.starts_with(SYSTEM_GROUP_PREFIX) || SYSTEM_GROUPS.contains(&group)
}

pub fn is_retry_topic(topic: &str) -> bool {
    topic.starts_with(RETRY_TOPIC_PREFIX)
}

pub fn is_dlq_topic(topic: &str) -> bool {
    topic.starts_with(DLQ_TOPIC_PREFIX)
}

/// `%RETRY%group`.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_TOPIC_PREFIX}{group}")
}

/// `%DLQ%group`.
pub fn dlq_topic(group: &str) -> String {
    format!("{DLQ_TOPIC_PREFIX}{group}")
}

/// The topic of replies in a cluster.
pub fn reply_topic(cluster: &str) -> String {
    format!("{cluster}_{REPLY_TOPIC_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics() {
        let check = |topic: &str, expect: &str| {
            let said = validate_topic(topic).map_or_else(|error| error.to_string(), |()| "ok".to_owned());
            assert_eq!(said, expect, "{topic:?}");
        };
        check("orders_1-a|b%c", "ok");
        check("TBW102", "ok");
        check(&"a".repeat(127), "ok");
        check(&retry_topic(&"a".repeat(GROUP_LEN_MAX)), "ok");
        check("", "The specified topic is blank.");
        check(" ", "The specified topic is blank.");
        check("a b", "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$");
        check("é", "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$");
        check(&"a".repeat(128), "The specified topic is longer than topic max length 127.");
        check(&dlq_topic(&"a".repeat(251)), "The specified topic is longer than topic max length 255.");
    }

    #[test]
    fn groups() {
        assert!(validate_group("CID-1").is_ok());
        assert!(validate_group("").is_err());
        assert!(validate_group("a+b").is_err());
        assert!(validate_group(&"a".repeat(GROUP_LEN_MAX)).is_ok());
        assert!(validate_group(&"a".repeat(GROUP_LEN_MAX + 1)).is_err());
        assert!(
            is_system_group("CID_RMQ_SYS_x") && is_system_group("TOOLS_CONSUMER") && !is_system_group("g")
        );
    }

    #[test]
    fn system_topics() {
        for name in SYSTEM_TOPICS {
            assert!(is_system_topic(name));
        }
        assert!(is_system_topic("rmq_sys_x") && !is_system_topic("orders"));
        assert!(is_send_forbidden(topic::SCHEDULE) && !is_send_forbidden(topic::AUTO_CREATE));
        assert_eq!(reply_topic("c"), "c_REPLY_TOPIC");
    }
}
