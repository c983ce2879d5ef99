//! Message properties: `name \u{1} value \u{2}` repeated, as one string (MessageDecoder).
//!
//! Read as RocketMQ does: a pair with an empty name or value does not exist, the last of equal names
//! counts, the last separator may be missing.

use std::collections::BTreeMap;

/// Properties, by name.
pub type Properties = BTreeMap<String, String>;

const NAME_END: char = '\u{1}';
const PAIR_END: char = '\u{2}';

macro_rules! names {
    ($($name:ident = $text:literal,)*) => {
        /// Names of properties that RocketMQ reserves (MessageConst).
        pub mod prop {
            $(pub const $name: &str = $text;)*
        }

        /// Every name in [`prop`].
        pub const PROPERTIES_RESERVED: &[&str] = &[$($text,)*];
    };
}

names! {
    KEYS = "KEYS",
    TAGS = "TAGS",
    WAIT = "WAIT",
    DELAY = "DELAY",
    RETRY_TOPIC = "RETRY_TOPIC",
    REAL_TOPIC = "REAL_TOPIC",
    REAL_QID = "REAL_QID",
    TRAN_MSG = "TRAN_MSG",
    PGROUP = "PGROUP",
    MIN_OFFSET = "MIN_OFFSET",
    MAX_OFFSET = "MAX_OFFSET",
    BUYER_ID = "BUYER_ID",
    ORIGIN_MESSAGE_ID = "ORIGIN_MESSAGE_ID",
    TRANSFER_FLAG = "TRANSFER_FLAG",
    CORRECTION_FLAG = "CORRECTION_FLAG",
    MQ2_FLAG = "MQ2_FLAG",
    RECONSUME_TIME = "RECONSUME_TIME",
    MSG_REGION = "MSG_REGION",
    TRACE_ON = "TRACE_ON",
    UNIQ_KEY = "UNIQ_KEY",
    EXTEND_UNIQ_INFO = "EXTEND_UNIQ_INFO",
    MAX_RECONSUME_TIMES = "MAX_RECONSUME_TIMES",
    CONSUME_START_TIME = "CONSUME_START_TIME",
    INNER_NUM = "INNER_NUM",
    INNER_BASE = "INNER_BASE",
    DUP_INFO = "DUP_INFO",
    CHECK_IMMUNITY_TIME_IN_SECONDS = "CHECK_IMMUNITY_TIME_IN_SECONDS",
    TRAN_PREPARED_QUEUE_OFFSET = "TRAN_PREPARED_QUEUE_OFFSET",
    TRANSACTION_ID = "__transactionId__",
    TRANSACTION_CHECK_TIMES = "TRANSACTION_CHECK_TIMES",
    INSTANCE_ID = "INSTANCE_ID",
    CORRELATION_ID = "CORRELATION_ID",
    REPLY_TO_CLIENT = "REPLY_TO_CLIENT",
    TTL = "TTL",
    ARRIVE_TIME = "ARRIVE_TIME",
    PUSH_REPLY_TIME = "PUSH_REPLY_TIME",
    CLUSTER = "CLUSTER",
    MSG_TYPE = "MSG_TYPE",
    POP_CK = "POP_CK",
    POP_CK_OFFSET = "POP_CK_OFFSET",
    FIRST_POP_TIME = "1ST_POP_TIME",
    SHARDING_KEY = "__SHARDINGKEY",
    FORWARD_QUEUE_ID = "PROPERTY_FORWARD_QUEUE_ID",
    REDIRECT = "REDIRECT",
    INNER_MULTI_DISPATCH = "INNER_MULTI_DISPATCH",
    INNER_MULTI_QUEUE_OFFSET = "INNER_MULTI_QUEUE_OFFSET",
    TRACE_CONTEXT = "TRACE_CONTEXT",
    TIMER_DELAY_SEC = "TIMER_DELAY_SEC",
    TIMER_DELAY_MS = "TIMER_DELAY_MS",
    TIMER_DELIVER_MS = "TIMER_DELIVER_MS",
    TIMER_ENQUEUE_MS = "TIMER_ENQUEUE_MS",
    TIMER_DEQUEUE_MS = "TIMER_DEQUEUE_MS",
    TIMER_ROLL_TIMES = "TIMER_ROLL_TIMES",
    TIMER_OUT_MS = "TIMER_OUT_MS",
    TIMER_DEL_UNIQKEY = "TIMER_DEL_UNIQKEY",
    TIMER_DELAY_LEVEL = "TIMER_DELAY_LEVEL",
    BORN_HOST = "__BORNHOST",
    BORN_TIMESTAMP = "BORN_TIMESTAMP",
    CRC32 = "__CRC32#",
    DLQ_ORIGIN_TOPIC = "DLQ_ORIGIN_TOPIC",
    DLQ_ORIGIN_MESSAGE_ID = "DLQ_ORIGIN_MESSAGE_ID",
}

/// Properties whose name begins so are never stored.
pub const PROPERTY_TRANSIENT_PREFIX: &str = "__RMQ.TRANSIENT.";

/// The value of `name`, without allocating.
pub fn properties_get<'a>(properties: &'a str, name: &str) -> Option<&'a str> {
    if name.is_empty() {
        return None;
    }
    properties.rsplit(PAIR_END).find_map(|pair| {
        let value = pair.strip_prefix(name)?.strip_prefix(NAME_END)?;
        (!value.is_empty()).then_some(value)
    })
}

/// The pairs in the order written; a name that occurs twice comes twice.
pub fn properties_iter(properties: &str) -> impl Iterator<Item = (&str, &str)> {
    properties
        .split(PAIR_END)
        .filter_map(|pair| pair.split_once(NAME_END))
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
}

pub fn properties_to_map(properties: &str) -> Properties {
    properties_iter(properties).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The text form; pairs that could not be read back (an empty half, a separator inside) are left
/// out.
pub fn properties_from<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        push(&mut out, name, value);
    }
    out
}

/// Gives `name` this value, in place of any it had. An empty value removes it.
pub fn properties_set(properties: &mut String, name: &str, value: &str) {
    properties_remove(properties, name);
    push(properties, name, value);
}

/// Appends a pair that is known not to be there yet.
pub fn properties_push(properties: &mut String, name: &str, value: &str) {
    push(properties, name, value);
}

/// Takes every pair of this name out; true when there was one.
pub fn properties_remove(properties: &mut String, name: &str) -> bool {
    if !properties.split(PAIR_END).any(|pair| is_named(pair, name)) {
        return false;
    }
    let kept: String = properties.split_inclusive(PAIR_END).filter(|pair| !is_named(pair, name)).collect();
    *properties = kept;
    true
}

fn is_named(pair: &str, name: &str) -> bool {
    pair.strip_prefix(name).is_some_and(|rest| rest.starts_with(NAME_END))
}

fn push(out: &mut String, name: &str, value: &str) {
    let readable = !name.is_empty()
        && !value.is_empty()
        && !name.contains([NAME_END, PAIR_END])
        && !value.contains(PAIR_END);
    if !readable {
        return;
    }
    if !out.is_empty() && !out.ends_with(PAIR_END) {
        out.push(PAIR_END);
    }
    out.reserve(name.len() + value.len() + 2);
    out.push_str(name);
    out.push(NAME_END);
    out.push_str(value);
    out.push(PAIR_END);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_as_java_does() {
        // What MessageDecoder.string2messageProperties of 5.3.3 gives.
        let check = |text: &str, expect: &[(&str, &str)]| {
            let expect: Properties =
                expect.iter().map(|&(name, value)| (name.into(), value.into())).collect();
            assert_eq!(properties_to_map(text), expect, "{text:?}");
            for name in ["a", "b"] {
                assert_eq!(properties_get(text, name), expect.get(name).map(String::as_str), "{text:?}");
            }
        };
        check("a\u{1}b\u{2}", &[("a", "b")]);
        check("a\u{1}b", &[("a", "b")]);
        check("a\u{1}\u{2}b\u{1}c\u{2}", &[("b", "c")]);
        check("\u{1}b\u{2}", &[]);
        check("a\u{1}b\u{2}a\u{1}c\u{2}", &[("a", "c")]);
        check("a\u{1}b\u{1}c\u{2}", &[("a", "b\u{1}c")]);
        check("", &[]);
        check("ab\u{1}c\u{2}", &[("ab", "c")]);
    }

    #[test]
    fn set_and_remove() {
        let mut text = "a\u{1}1\u{2}b\u{1}2\u{2}a\u{1}3".to_owned();
        properties_set(&mut text, "c", "4");
        assert_eq!(text, "a\u{1}1\u{2}b\u{1}2\u{2}a\u{1}3\u{2}c\u{1}4\u{2}");
        properties_set(&mut text, "a", "5");
        assert_eq!(text, "b\u{1}2\u{2}c\u{1}4\u{2}a\u{1}5\u{2}");
        assert!(properties_remove(&mut text, "b"));
        assert!(!properties_remove(&mut text, "b"));
        properties_set(&mut text, "c", "");
        properties_push(&mut text, "bad\u{1}", "x");
        properties_push(&mut text, "bad", "x\u{2}");
        assert_eq!(text, "a\u{1}5\u{2}");
    }

    proptest! {
        #[test]
        fn maps_round_trip(map in proptest::collection::btree_map("[A-Za-z_]{1,8}", "[^\u{1}\u{2}]{1,12}", 0..8)) {
            let text = properties_from(map.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            prop_assert_eq!(&properties_to_map(&text), &map);
            for (name, value) in &map {
                prop_assert_eq!(properties_get(&text, name), Some(value.as_str()));
                let mut less = text.clone();
                prop_assert!(properties_remove(&mut less, name));
                prop_assert_eq!(properties_to_map(&less).len(), map.len() - 1);
            }
        }

        #[test]
        fn get_is_what_the_map_says(text in "[ab\u{1}\u{2}]{0,12}") {
            let map = properties_to_map(&text);
            for name in ["a", "b", "ab"] {
                prop_assert_eq!(properties_get(&text, name), map.get(name).map(String::as_str));
                let mut less = text.clone();
                properties_remove(&mut less, name);
                prop_assert_eq!(properties_get(&less, name), None);
                properties_set(&mut less, name, "v");
                prop_assert_eq!(properties_get(&less, name), Some("v"));
            }
        }
    }
}
