//! Which names, numbers and attributes a client may ask for (protocol.md 3.1, 4.8, 5), as pure functions.
//!
//! They are asked before anything is proposed, so they may change between versions; what `apply` checks may not.

use wire::topic as system;
use wire::{ResponseCode, SubscriptionGroupConfig, perm};

use super::command::{Attribute, GroupConfig, TopicConfig};
use super::limits;

/// Bits of a broker's permission in its configuration.
pub const PERM_READ: u32 = perm::READ as u32;
pub const PERM_WRITE: u32 = perm::WRITE as u32;

/// Groups that every broker has.
pub const SYSTEM_GROUPS: [&str; 8] = [
    wire::group::TOOLS_CONSUMER,
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    wire::group::TRANS,
];

/// A request that is refused before anything happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: ResponseCode,
    pub remark: String,
}

impl Refusal {
    pub(crate) fn new(code: ResponseCode, remark: impl Into<String>) -> Refusal {
        Refusal { code, remark: remark.into() }
    }

    fn invalid(remark: impl Into<String>) -> Refusal {
        Refusal::new(ResponseCode::INVALID_PARAMETER, remark)
    }
}

/// Names of this broker, which are system topics too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub cluster: String,
    pub broker: String,
}

impl Names {
    /// Whether no client may create, change or delete the topic.
    pub fn is_system_topic(&self, topic: &str) -> bool {
        wire::is_system_topic(topic)
            || topic == self.cluster
            || topic == self.broker
            || topic == wire::reply_topic(&self.cluster)
    }

    /// All system topics that have a name, sorted (305).
    pub fn system_topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = [
            system::AUTO_CREATE,
            system::BENCHMARK,
            system::CHECKPOINT,
            system::OFFSET_MOVED_EVENT,
            system::SCHEDULE,
            system::SELF_TEST,
            system::TRACE,
            system::TRANS_CHECK_MAX_TIME,
            system::TRANS_HALF,
            system::TRANS_OP_HALF,
            system::WHEEL_TIMER,
        ]
        .map(str::to_owned)
        .into();
        topics.extend([
            self.cluster.clone(),
            self.broker.clone(),
            wire::reply_topic(&self.cluster),
            revive_topic(&self.cluster),
            sync_member_topic(&self.broker),
        ]);
        topics.sort_unstable();
        topics.dedup();
        topics
    }
}

/// The topic by which RocketMQ's pop keeps its checkpoints.
pub(super) fn revive_topic(cluster: &str) -> String {
    format!("{}REVIVE_LOG_{cluster}", wire::SYSTEM_TOPIC_PREFIX)
}

/// A topic by which RocketMQ's brokers of one name know each other.
pub(super) fn sync_member_topic(broker: &str) -> String {
    format!("{}SYNC_BROKER_MEMBER_{broker}", wire::SYSTEM_TOPIC_PREFIX)
}

/// Refuses a send to a topic that only the broker writes (16).
pub fn sendable(topic: &str) -> Result<(), Refusal> {
    if wire::is_send_forbidden(topic) {
        return Err(Refusal::new(
            ResponseCode::NO_PERMISSION,
            format!("Sending message to topic[{topic}] is forbidden."),
        ));
    }
    Ok(())
}

/// Checks a topic's name (29).
pub fn topic_name(topic: &str) -> Result<(), Refusal> {
    wire::validate_topic(topic).map_err(|error| Refusal::invalid(error.to_string()))?;
    if topic.starts_with(wire::LMQ_PREFIX) {
        return Err(Refusal::invalid("light message queues (%LMQ%) are not supported"));
    }
    Ok(())
}

/// Checks a consumer group's name (29).
pub fn group_name(group: &str) -> Result<(), Refusal> {
    wire::validate_group(group).map_err(|error| Refusal::invalid(error.to_string()))
}

/// A group as a heartbeat or a first pull makes it.
pub fn default_group(name: &str) -> GroupConfig {
    GroupConfig::from(&SubscriptionGroupConfig::new(name))
}

/// The topic that a first send makes, after `pattern`, the live topic that the client named as its default
/// (TBW102): its queue number at most, the client's at most, its permissions without inheritance.
pub fn auto_create(
    topic: &str,
    pattern: Option<&TopicConfig>,
    client_queues: i32,
    sys_flag: i32,
) -> Result<TopicConfig, Refusal> {
    topic_name(topic)?;
    let refused = |why: &str| {
        Refusal::new(
            ResponseCode::TOPIC_NOT_EXIST,
            format!("topic[{topic}] not exist, apply first please! ({why})"),
        )
    };
    let pattern = pattern.ok_or_else(|| refused("topics are not created by a first send here"))?;
    if pattern.perm & perm::INHERIT == 0 {
        return Err(refused("the default topic does not allow it"));
    }
    let queues = u32::try_from(client_queues).unwrap_or(0).min(pattern.write_queues);
    if queues == 0 {
        return Err(refused("its number of queues would be 0"));
    }
    Ok(TopicConfig {
        name: topic.to_owned(),
        read_queues: queues,
        write_queues: queues,
        perm: pattern.perm & !perm::INHERIT,
        multi_tag: pattern.multi_tag,
        sys_flag,
        order: false,
        attributes: Vec::new(),
    })
}

/// Checks the numbers of a topic that an administrator asks for (29).
pub fn topic_numbers(read_queues: i32, write_queues: i32, perm: i32) -> Result<(u32, u32, i32), Refusal> {
    let queues = |what: &str, n: i32| {
        u32::try_from(n).ok().filter(|n| (1..=limits::QUEUES_PER_TOPIC_MAX).contains(n)).ok_or_else(|| {
            Refusal::invalid(format!("{what} is {n}, not from 1 to {}", limits::QUEUES_PER_TOPIC_MAX))
        })
    };
    if !(0..=perm::READ_WRITE | perm::INHERIT).contains(&perm) {
        return Err(Refusal::invalid(format!(
            "perm is {perm}, not a sum of 4 (read), 2 (write), 1 (inherit)"
        )));
    }
    Ok((queues("readQueueNums", read_queues)?, queues("writeQueueNums", write_queues)?, perm))
}

/// Checks a group that an administrator asks for (29).
pub fn group_config(config: &SubscriptionGroupConfig) -> Result<(), Refusal> {
    group_name(&config.group_name)?;
    if let Some(key) = config.attributes.keys().next() {
        return Err(Refusal::invalid(format!("unsupported key: {key}; groups have no attributes")));
    }
    // Its retry topic has as many queues.
    if !u32::try_from(config.retry_queue_nums).is_ok_and(|n| n <= limits::QUEUES_PER_TOPIC_MAX) {
        return Err(Refusal::invalid(format!(
            "retryQueueNums is {}, not from 0 to {}",
            config.retry_queue_nums,
            limits::QUEUES_PER_TOPIC_MAX
        )));
    }
    let delays =
        config.group_retry_policy.customized_retry_policy.as_ref().map_or(0, |table| table.next.len());
    let subscriptions = config.subscription_data_set.as_deref().unwrap_or_default();
    if delays.max(subscriptions.len()) > limits::GROUP_LIST_MAX {
        return Err(Refusal::invalid(format!(
            "a group has at most {} retry delays and {} fixed subscriptions",
            limits::GROUP_LIST_MAX,
            limits::GROUP_LIST_MAX
        )));
    }
    for subscription in subscriptions {
        topic_name(&subscription.topic)?;
        if subscription.expression.len().max(subscription.expression_type.len())
            > limits::EXPRESSION_BYTES_MAX
        {
            return Err(Refusal::invalid(format!(
                "the expression for topic {} is longer than {} bytes",
                subscription.topic,
                limits::EXPRESSION_BYTES_MAX
            )));
        }
    }
    Ok(())
}

/// What a request changes of a topic's attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttributeChange {
    /// Sorted by key.
    pub set: Vec<Attribute>,
    /// Sorted.
    pub unset: Vec<String>,
}

/// Reads "+key=value,-key" and checks it against the attributes that topics have. `topic` is the live topic; `None`
/// when the request creates it.
pub fn attribute_change(text: &str, topic: Option<&TopicConfig>) -> Result<AttributeChange, Refusal> {
    let mut change = AttributeChange::default();
    if text.is_empty() {
        return Ok(change);
    }
    for item in text.split(',') {
        let (signed, value) = match item.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (item, None),
        };
        match (signed.strip_prefix('+'), signed.strip_prefix('-'), value) {
            (Some(key), _, Some(value)) => {
                check_attribute(key, Some(value), topic.is_some())?;
                change.set.push(Attribute { key: key.to_owned(), value: value.to_owned() });
            }
            (_, Some(key), None) => {
                check_attribute(key, None, topic.is_some())?;
                match topic {
                    None => {
                        return Err(Refusal::invalid(format!(
                            "only add attribute is supported while creating topic. key: {key}"
                        )));
                    }
                    Some(topic) if !topic.attributes.iter().any(|has| has.key == key) => {
                        return Err(Refusal::invalid(format!("attempt to delete a nonexistent key: {key}")));
                    }
                    Some(_) => change.unset.push(key.to_owned()),
                }
            }
            _ => {
                return Err(Refusal::invalid(format!(
                    "attribute format is wrong: {item}; use +key=value or -key, joined by commas"
                )));
            }
        }
    }
    change.set.sort_unstable();
    change.unset.sort_unstable();
    let mut keys: Vec<&str> =
        change.set.iter().map(|a| a.key.as_str()).chain(change.unset.iter().map(String::as_str)).collect();
    keys.sort_unstable();
    if let Some([twice, ..]) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Refusal::invalid(format!("key duplication: {twice}")));
    }
    Ok(change)
}

/// Checks one attribute; `value` is `None` when it is removed.
fn check_attribute(key: &str, value: Option<&str>, exists: bool) -> Result<(), Refusal> {
    let one_of = |allowed: &[&str]| match value {
        Some(value) if !allowed.contains(&value) => {
            Err(Refusal::invalid(format!("{key} is {value}; it is one of {}", allowed.join(", "))))
        }
        _ => Ok(()),
    };
    let unchangeable = || {
        if exists {
            return Err(Refusal::invalid(format!("attempt to update an unchangeable attribute. key: {key}")));
        }
        Ok(())
    };
    match key {
        "message.type" => {
            if value == Some("MIXED") {
                return Err(Refusal::invalid("MIXED message type is not supported."));
            }
            one_of(&["UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION"])
        }
        "queue.type" => {
            unchangeable()?;
            if value == Some("BatchCQ") {
                return Err(Refusal::invalid("queue.type BatchCQ is not supported"));
            }
            one_of(&["SimpleCQ"])
        }
        "cleanup.policy" => {
            unchangeable()?;
            if value == Some("COMPACTION") {
                return Err(Refusal::invalid("cleanup.policy COMPACTION is not supported"));
            }
            one_of(&["DELETE"])
        }
        "reserve.time" => match value {
            Some(value) if value.parse::<i64>().ok().is_none_or(|ms| ms < -1) => {
                Err(Refusal::invalid(format!("reserve.time is {value}, not a number from -1 up")))
            }
            _ => Ok(()),
        },
        _ => Err(Refusal::invalid(format!("unsupported key: {key}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T>(result: Result<T, Refusal>) -> i32 {
        result.err().map_or(0, |refusal| refusal.code.get())
    }

    #[test]
    fn names() {
        for (name, want) in [
            ("orders", 0),
            ("%RETRY%g", 0),
            ("a|b-c_9", 0),
            ("", 29),
            ("  ", 29),
            ("a b", 29),
            ("a+b", 29),
            ("größe", 29),
            ("a\u{1}", 29),
            ("%LMQ%x", 29),
        ] {
            assert_eq!(code(topic_name(name)), want, "{name:?}");
        }
        assert_eq!(code(topic_name(&"t".repeat(127))), 0);
        assert_eq!(code(topic_name(&"t".repeat(128))), 29);
        assert_eq!(code(group_name(&"g".repeat(wire::GROUP_LEN_MAX))), 0);
        assert_eq!(code(group_name(&"g".repeat(wire::GROUP_LEN_MAX + 1))), 29);
        assert_eq!(code(topic_name(&wire::retry_topic(&"g".repeat(wire::GROUP_LEN_MAX)))), 0);
        assert_eq!(code(group_name("g/h")), 29);
    }

    #[test]
    fn system_topics() {
        let names = Names { cluster: "c1".into(), broker: "b1".into() };
        for topic in names.system_topics() {
            assert!(names.is_system_topic(&topic), "{topic}");
            topic_name(&topic).unwrap();
        }
        assert!(!names.is_system_topic("orders") && !names.is_system_topic("x_REPLY_TOPIC"));
        assert_eq!(code(sendable("SCHEDULE_TOPIC_XXXX")), 16);
        assert_eq!(code(sendable("BenchmarkTest")), 0);
        for group in SYSTEM_GROUPS {
            assert!(wire::is_system_group(group), "{group}");
        }
    }

    #[test]
    fn auto_creation() {
        let tbw = TopicConfig {
            name: system::AUTO_CREATE.into(),
            read_queues: 8,
            write_queues: 8,
            perm: 7,
            ..TopicConfig::default()
        };
        let made = auto_create("orders", Some(&tbw), 4, 2).unwrap();
        assert_eq!((made.read_queues, made.write_queues, made.perm, made.sys_flag), (4, 4, 6, 2));
        assert_eq!(auto_create("orders", Some(&tbw), 100, 0).unwrap().write_queues, 8);
        assert_eq!(code(auto_create("orders", None, 4, 0)), 17);
        assert_eq!(code(auto_create("orders", Some(&tbw), 0, 0)), 17);
        assert_eq!(code(auto_create("orders", Some(&tbw), -1, 0)), 17);
        assert_eq!(code(auto_create("or ders", Some(&tbw), 4, 0)), 29);
        let plain = TopicConfig { perm: 6, ..tbw };
        assert_eq!(code(auto_create("orders", Some(&plain), 4, 0)), 17);
    }

    #[test]
    fn numbers() {
        assert_eq!(topic_numbers(8, 4, 6), Ok((8, 4, 6)));
        for (read, write, perm) in [(0, 1, 6), (1, -1, 6), (1, 1, 8), (1, 1, -1), (65_537, 1, 6)] {
            assert_eq!(code(topic_numbers(read, write, perm)), 29, "{read} {write} {perm}");
        }
    }

    #[test]
    fn groups() {
        let group = |change: fn(&mut SubscriptionGroupConfig)| {
            let mut config = SubscriptionGroupConfig::new("g");
            change(&mut config);
            code(group_config(&config))
        };
        assert_eq!(group(|_| {}), 0);
        assert_eq!(group(|c| c.group_name = "a b".into()), 29);
        assert_eq!(group(|c| c.retry_queue_nums = -1), 29);
        assert_eq!(group(|c| c.retry_queue_nums = 0), 0);
        assert_eq!(group(|c| c.attributes = [("+a".into(), "b".into())].into()), 29);
        assert_eq!(
            group(|c| {
                let next = vec![1; limits::GROUP_LIST_MAX + 1];
                c.group_retry_policy.customized_retry_policy = Some(wire::CustomizedRetryPolicy { next });
            }),
            29
        );
        let config = SubscriptionGroupConfig::new("g");
        assert_eq!(default_group("g").to_wire(), config, "RocketMQ's defaults survive the log's form");
    }

    #[test]
    fn attributes() {
        let topic = TopicConfig {
            attributes: vec![Attribute { key: "message.type".into(), value: "FIFO".into() }],
            ..TopicConfig::default()
        };
        let check = |text: &str, exists: bool| attribute_change(text, exists.then_some(&topic));
        assert_eq!(check("", false).unwrap(), AttributeChange::default());
        let made = check("+message.type=FIFO,+cleanup.policy=DELETE,+reserve.time=-1", false).unwrap();
        let keys: Vec<_> = made.set.iter().map(|a| a.key.as_str()).collect();
        assert_eq!(keys, ["cleanup.policy", "message.type", "reserve.time"]);
        assert_eq!(check("-message.type,+reserve.time=5", true).unwrap().unset, ["message.type"]);
        for (text, exists) in [
            ("message.type=FIFO", false),
            ("+message.type", false),
            ("+message.type=", false),
            ("+message.type=MIXED", false),
            ("+message.type=Fifo", false),
            ("+queue.type=BatchCQ", false),
            ("+cleanup.policy=COMPACTION", false),
            ("+queue.type=SimpleCQ", true),
            ("-message.type", false),
            ("-reserve.time", true),
            ("+reserve.time=soon", false),
            ("+reserve.time=-2", false),
            ("+colour=red", false),
            ("+message.type=FIFO,+message.type=NORMAL", false),
            ("+message.type=FIFO,-message.type", true),
            (",", false),
            ("+", false),
        ] {
            assert_eq!(code(check(text, exists)), 29, "{text}");
        }
    }
}
