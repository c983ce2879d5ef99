//! Java's string hash, on which tag filtering and the index rest.

use crate::names::topic;

/// `String.hashCode` of Java, over UTF-16 code units.
pub fn java_string_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The tags code in a ConsumeQueue unit: the hash, sign-extended; 0 for no tag.
pub fn tags_code(tags: &str) -> i64 {
    i64::from(java_string_hash(tags))
}

/// What a ConsumeQueue unit has as its tags code: that of the tags; but in the two topics in which messages wait for
/// their time, what says when it comes, so that a scan of the queue need not read the messages. In SCHEDULE_TOPIC_XXXX
/// that is the store time (RocketMQ adds the delay of the level, which is a setting), in rmq_sys_wheel_timer
/// `TIMER_OUT_MS`, 0 where that is no number; both in ms since 1970.
pub fn unit_code(topic: &str, tags: Option<&str>, store_timestamp: i64, timer_out: Option<&str>) -> i64 {
    match topic {
        topic::SCHEDULE => store_timestamp,
        topic::WHEEL_TIMER => timer_out.and_then(|time| time.parse().ok()).unwrap_or(0),
        _ => tags.map_or(0, tags_code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_messages_wait_the_code_says_until_when() {
        assert_eq!(unit_code("T", Some("TagA"), 7, Some("9")), 2_598_919);
        assert_eq!(unit_code("T", None, 7, None), 0);
        assert_eq!(unit_code(topic::SCHEDULE, Some("TagA"), 7, None), 7);
        assert_eq!(unit_code(topic::WHEEL_TIMER, Some("TagA"), 7, Some("9")), 9);
        for bad in [None, Some(""), Some("x"), Some("9223372036854775808")] {
            assert_eq!(unit_code(topic::WHEEL_TIMER, None, 7, bad), 0, "{bad:?}");
        }
    }

    #[test]
    fn hashes_of_java() {
        for (text, hash) in
            [("", 0), ("TagA", 2_598_919), ("中文😀", 622_957_533), ("polygenelubricants", i32::MIN)]
        {
            assert_eq!(java_string_hash(text), hash, "{text}");
            assert_eq!(tags_code(text), i64::from(hash));
        }
    }
}
