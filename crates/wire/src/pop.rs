//! What pop consumers and brokers tell each other in text: handles, and where the messages of an answer come from
//! (ExtraInfoUtil and KeyBuilder of RocketMQ).
//!
//! ```text
//! handle            startOffset popTime invisibleTime reviveQid retry brokerName queueId queueOffset
//! startOffsetInfo   retry queueId startOffset ; …
//! msgOffsetInfo     retry queueId offset,offset,… ; …
//! orderCountInfo    retry queueId count ; retry qo<queueId>%<offset> count ; …
//! ```
//! A key (the first two words) occurs once in each of them: Java's client refuses an answer with one twice.

use std::fmt;

use crate::decimal::Decimal;
use crate::ids::{QueueId, QueueOffset};
use crate::names::RETRY_TOPIC_PREFIX;

/// The revive queue that marks what was popped in order.
pub const POP_ORDER_REVIVE_QUEUE: i32 = 999;
/// Revive queues of what was not: 0 and up, below this (`reviveQueueNum`).
pub const POP_REVIVE_QUEUES: u32 = 8;
/// Messages that one pop may ask for.
pub const POP_MESSAGES_MAX: i32 = 32;

/// Which topic a popped message comes from: the one that was asked for, or one of the two forms of its retry topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PopSource {
    Normal,
    /// `%RETRY%group_topic`.
    Retry,
    /// `%RETRY%group+topic`.
    RetryV2,
}

impl PopSource {
    /// What the name of the topic says.
    pub fn of(topic: &str) -> PopSource {
        match topic.strip_prefix(RETRY_TOPIC_PREFIX) {
            None => PopSource::Normal,
            Some(rest) if rest.contains('+') => PopSource::RetryV2,
            Some(_) => PopSource::Retry,
        }
    }

    /// As it is written in handles and answers.
    pub const fn flag(self) -> &'static str {
        match self {
            PopSource::Normal => "0",
            PopSource::Retry => "1",
            PopSource::RetryV2 => "2",
        }
    }

    pub fn from_flag(flag: &str) -> Option<PopSource> {
        match flag {
            "0" => Some(PopSource::Normal),
            "1" => Some(PopSource::Retry),
            "2" => Some(PopSource::RetryV2),
            _ => None,
        }
    }

    /// The topic that a message asked for as `topic` was really in.
    pub fn real_topic(self, topic: &str, group: &str) -> String {
        match self {
            PopSource::Normal => topic.to_owned(),
            PopSource::Retry => pop_retry_topic(topic, group),
            PopSource::RetryV2 => format!("{RETRY_TOPIC_PREFIX}{group}+{topic}"),
        }
    }
}

/// `%RETRY%group_topic`: where messages go that a pop consumer of the group did not acknowledge in time.
pub fn pop_retry_topic(topic: &str, group: &str) -> String {
    format!("{RETRY_TOPIC_PREFIX}{group}_{topic}")
}

/// What a consumer acknowledges a popped message with (property POP_CK, `extraInfo` of 200051 and 200053).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PopHandle {
    /// Where in the queue the pop began.
    pub start_offset: i64,
    /// Milliseconds since 1970.
    pub pop_time: i64,
    /// Milliseconds.
    pub invisible_time: i64,
    /// [`POP_ORDER_REVIVE_QUEUE`]: popped in order.
    pub revive_queue: i32,
    pub source: PopSource,
    pub broker_name: String,
    pub queue_id: i32,
    pub queue_offset: i64,
}

/// A text that is no handle; says what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PopHandleError {
    #[error("extraInfo has {0} fields of 8")]
    Fields(usize),
    #[error("{field} of extraInfo is illegal: {value}")]
    Field { field: &'static str, value: String },
}

impl PopHandle {
    pub fn parse(text: &str) -> Result<PopHandle, PopHandleError> {
        let fields: Vec<&str> = text.split(' ').take(9).collect();
        let [start, pop_time, invisible, revive, source, broker, queue, offset] = *fields else {
            return Err(PopHandleError::Fields(fields.len()));
        };
        Ok(PopHandle {
            start_offset: number("startOffset", start)?,
            pop_time: number("popTime", pop_time)?,
            invisible_time: number("invisibleTime", invisible)?,
            revive_queue: number("reviveQid", revive)?,
            source: PopSource::from_flag(source).ok_or_else(|| illegal("retry", source))?,
            broker_name: broker.to_owned(),
            queue_id: number("queueId", queue)?,
            queue_offset: number("queueOffset", offset)?,
        })
    }

    /// Popped in order: acknowledged in order, too.
    pub fn is_ordered(&self) -> bool {
        self.revive_queue == POP_ORDER_REVIVE_QUEUE
    }
}

fn number<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<T, PopHandleError> {
    text.parse().map_err(|_| illegal(field, text))
}

fn illegal(field: &'static str, text: &str) -> PopHandleError {
    PopHandleError::Field { field, value: text.chars().take(64).collect() }
}

impl fmt::Display for PopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PopHandle {
            start_offset,
            pop_time,
            invisible_time,
            revive_queue,
            source,
            broker_name,
            queue_id,
            queue_offset,
        } = self;
        write!(
            f,
            "{start_offset} {pop_time} {invisible_time} {revive_queue} {} {broker_name} {queue_id} {queue_offset}",
            source.flag()
        )
    }
}

/// Where the messages of an answer to a pop come from, as it is said in the answer's header. Each queue is told once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PopOffsets {
    pub starts: String,
    pub messages: String,
    pub counts: String,
}

impl PopOffsets {
    /// Messages of a queue, in the order in which they are in the body. `start`: where the pop began in it.
    pub fn push(
        &mut self,
        source: PopSource,
        queue: QueueId,
        start: QueueOffset,
        offsets: impl IntoIterator<Item = QueueOffset>,
    ) {
        open(&mut self.starts, source, queue);
        self.starts.push_str(Decimal::new(start.to_wire()).as_str());
        open(&mut self.messages, source, queue);
        for (at, offset) in offsets.into_iter().enumerate() {
            if at > 0 {
                self.messages.push(',');
            }
            self.messages.push_str(Decimal::new(offset.to_wire()).as_str());
        }
    }

    /// How often the messages of an ordered queue were handed out before: each that was, and the least of all, which
    /// is what old clients read.
    pub fn push_counts(
        &mut self,
        source: PopSource,
        queue: QueueId,
        counts: impl IntoIterator<Item = (QueueOffset, u32)>,
    ) {
        use fmt::Write as _;
        let mut least: Option<u32> = None;
        for (offset, count) in counts {
            least = Some(least.map_or(count, |least| least.min(count)));
            if count > 0 {
                let separator = if self.counts.is_empty() { "" } else { ";" };
                // Writing into a String cannot fail.
                let _ =
                    write!(self.counts, "{separator}{} qo{}%{} {count}", source.flag(), queue.0, offset.0);
            }
        }
        open(&mut self.counts, source, queue);
        self.counts.push_str(Decimal::new(i64::from(least.unwrap_or(0))).as_str());
    }
}

/// Begins the entry of a queue.
fn open(info: &mut String, source: PopSource, queue: QueueId) {
    if !info.is_empty() {
        info.push(';');
    }
    info.push_str(source.flag());
    info.push(' ');
    info.push_str(Decimal::new(i64::from(queue.0)).as_str());
    info.push(' ');
}

/// The messages of an answer that come from one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoppedQueue {
    pub source: PopSource,
    pub queue: i32,
    /// Where the pop began.
    pub start: i64,
    /// Of the messages, in the order of the body.
    pub offsets: Vec<i64>,
}

/// Where the messages of an answer come from, read as Java's client reads it. `None` where it would refuse the answer.
pub fn parse_pop_offsets(starts: &str, messages: &str) -> Option<Vec<PoppedQueue>> {
    let mut queues: Vec<PoppedQueue> = Vec::new();
    for (source, queue, start) in entries(starts) {
        let (source, queue) = (PopSource::from_flag(source)?, queue.parse().ok()?);
        if queues.iter().any(|has| (has.source, has.queue) == (source, queue)) {
            return None;
        }
        queues.push(PoppedQueue { source, queue, start: start?.parse().ok()?, offsets: Vec::new() });
    }
    for (source, queue, offsets) in entries(messages) {
        let (source, queue): (_, i32) = (PopSource::from_flag(source)?, queue.parse().ok()?);
        let into = queues.iter_mut().find(|has| (has.source, has.queue) == (source, queue))?;
        if !into.offsets.is_empty() {
            return None;
        }
        into.offsets = offsets?.split(',').map(|offset| offset.parse().ok()).collect::<Option<_>>()?;
    }
    Some(queues)
}

fn entries(info: &str) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
    info.split(';').filter(|entry| !entry.is_empty()).map(|entry| {
        let mut words = entry.split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn handle() -> PopHandle {
        PopHandle {
            start_offset: 100,
            pop_time: 1_700_000_000_123,
            invisible_time: 60_000,
            revive_queue: 3,
            source: PopSource::Retry,
            broker_name: "broker-a".into(),
            queue_id: 0,
            queue_offset: 109,
        }
    }

    #[test]
    fn handles_are_as_java_writes_them() {
        let text = "100 1700000000123 60000 3 1 broker-a 0 109";
        assert_eq!(handle().to_string(), text);
        assert_eq!(PopHandle::parse(text), Ok(handle()));
        assert!(!handle().is_ordered());
        assert!(PopHandle { revive_queue: 999, ..handle() }.is_ordered());
    }

    #[test]
    fn what_is_no_handle_is_told() {
        let check = |text: &str, expect: &str| {
            assert_eq!(PopHandle::parse(text).unwrap_err().to_string(), expect, "{text:?}");
        };
        check("", "extraInfo has 1 fields of 8");
        check("1 2 3 4 0 b 6", "extraInfo has 7 fields of 8");
        check("1 2 3 4 0 b 6 7 8 9 10", "extraInfo has 9 fields of 8");
        check("x 2 3 4 0 b 6 7", "startOffset of extraInfo is illegal: x");
        check("1 2 3 4 3 b 6 7", "retry of extraInfo is illegal: 3");
        check("1 2 3 99999999999 0 b 6 7", "reviveQid of extraInfo is illegal: 99999999999");
        check("1 2 3 4 0 b 6 ", "queueOffset of extraInfo is illegal: ");
    }

    #[test]
    fn sources_of_messages() {
        for (topic, source) in [
            ("orders", PopSource::Normal),
            ("a+b", PopSource::Normal),
            ("%RETRY%g", PopSource::Retry),
            ("%RETRY%g_orders", PopSource::Retry),
            ("%RETRY%g+orders", PopSource::RetryV2),
        ] {
            assert_eq!(PopSource::of(topic), source, "{topic}");
        }
        for source in [PopSource::Normal, PopSource::Retry, PopSource::RetryV2] {
            assert_eq!(PopSource::of(&source.real_topic("orders", "g")), source);
            assert_eq!(PopSource::from_flag(source.flag()), Some(source));
        }
        assert_eq!(pop_retry_topic("orders", "g"), "%RETRY%g_orders");
    }

    #[test]
    fn an_answer_says_where_its_messages_come_from() {
        let mut info = PopOffsets::default();
        info.push(PopSource::Normal, QueueId(3), QueueOffset(5), [5, 7].map(QueueOffset));
        info.push(PopSource::Retry, QueueId(0), QueueOffset(0), [QueueOffset(0)]);
        assert_eq!(info.starts, "0 3 5;1 0 0");
        assert_eq!(info.messages, "0 3 5,7;1 0 0");
        info.push_counts(PopSource::Normal, QueueId(3), [(QueueOffset(5), 2), (QueueOffset(7), 0)]);
        info.push_counts(PopSource::Normal, QueueId(4), [(QueueOffset(1), 1), (QueueOffset(2), 3)]);
        assert_eq!(info.counts, "0 qo3%5 2;0 3 0;0 qo4%1 1;0 qo4%2 3;0 4 1");
        let queue = |source, queue, start, offsets: &[i64]| PoppedQueue {
            source,
            queue,
            start,
            offsets: offsets.to_vec(),
        };
        assert_eq!(
            parse_pop_offsets(&info.starts, &info.messages),
            Some(vec![queue(PopSource::Normal, 3, 5, &[5, 7]), queue(PopSource::Retry, 0, 0, &[0])])
        );
        assert_eq!(parse_pop_offsets("0 3 5;0 3 6", "0 3 5"), None, "a key twice");
        assert_eq!(parse_pop_offsets("0 3 5", "0 3 5;0 3 6"), None);
        assert_eq!(parse_pop_offsets("0 3 5", "0 4 5"), None);
    }

    proptest! {
        #[test]
        fn handles_round_trip(
            (start_offset, pop_time, invisible_time, queue_offset) in any::<(i64, i64, i64, i64)>(),
            (revive_queue, queue_id) in any::<(i32, i32)>(),
            source in prop::sample::select(vec![PopSource::Normal, PopSource::Retry, PopSource::RetryV2]),
            broker_name in "[a-zA-Z0-9_-]{0,20}",
        ) {
            let handle = PopHandle {
                start_offset, pop_time, invisible_time, revive_queue, source, broker_name, queue_id, queue_offset,
            };
            prop_assert_eq!(PopHandle::parse(&handle.to_string()), Ok(handle));
        }

        #[test]
        fn no_text_is_a_panic(text in ".{0,60}", other in "[0-9 ;,%q-]{0,60}") {
            let _ = PopHandle::parse(&text);
            let _ = PopHandle::parse(&other);
            let _ = parse_pop_offsets(&other, &text);
            let _ = parse_pop_offsets(&other, &other);
        }
    }
}
