//! The names of things in a history: queues and messages. Both are text in a line.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// A queue of a topic at a broker name. As text `broker/topic/id`: neither name may hold a slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Queue {
    pub broker: String,
    pub topic: String,
    pub id: u32,
}

impl Queue {
    pub fn new(broker: impl Into<String>, topic: impl Into<String>, id: u32) -> Queue {
        Queue { broker: broker.into(), topic: topic.into(), id }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.broker, self.topic, self.id)
    }
}

impl FromStr for Queue {
    type Err = BadText;

    fn from_str(text: &str) -> Result<Queue, BadText> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next().map(u32::from_str), parts.next()) {
            (Some(broker), Some(topic), Some(Ok(id)), None) if !broker.is_empty() && !topic.is_empty() => {
                Ok(Queue::new(broker, topic, id))
            }
            _ => Err(BadText { what: "queue (broker/topic/id)", text: text.to_owned() }),
        }
    }
}

/// What a message says that it is: who sent it and the how manieth of that process it is. Also the message's key.
/// A message that none of our workloads made, or that came back changed, is *foreign*.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    process: u32,
    counter: u32,
}

/// Behind the text of a value in a body, before the filling.
const BODY_MARK: u8 = b';';
/// `4294967294-4294967295`.
const VALUE_TEXT_MAX: usize = 21;

impl Value {
    /// The process number of foreign values, whose counter is a hash of the bytes.
    const FOREIGN: u32 = u32::MAX;

    pub fn new(process: u32, counter: u32) -> Value {
        Value { process, counter }
    }

    /// Stands for bytes that are no message of a workload.
    pub fn foreign(bytes: &[u8]) -> Value {
        Value { process: Value::FOREIGN, counter: crc32c::crc32c(bytes) }
    }

    pub fn is_foreign(self) -> bool {
        self.process == Value::FOREIGN
    }

    pub fn process(self) -> u32 {
        self.process
    }

    pub fn counter(self) -> u32 {
        self.counter
    }

    /// The value as one number, for tables.
    pub fn pack(self) -> u64 {
        u64::from(self.process) << 32 | u64::from(self.counter)
    }

    pub fn unpack(packed: u64) -> Value {
        Value { process: (packed >> 32) as u32, counter: packed as u32 }
    }

    /// A body of `len` bytes, or of as many as the value's text needs. Every byte follows from the value, so that a
    /// body that was torn, or mixed with another, is noticed.
    pub fn body(self, len: usize) -> Vec<u8> {
        let mut body = self.to_string().into_bytes();
        body.push(BODY_MARK);
        let mut state = self.pack();
        while body.len() < len {
            state = mix(state);
            let left = len - body.len();
            body.extend_from_slice(&state.to_le_bytes()[..left.min(8)]);
        }
        body
    }

    /// The value of a body that [`Value::body`] made; foreign if a single byte is not as it made it.
    pub fn of_body(body: &[u8]) -> Value {
        let head = &body[..body.len().min(VALUE_TEXT_MAX + 1)];
        let text = head.iter().position(|&byte| byte == BODY_MARK).map(|end| &head[..end]);
        let value =
            text.and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse::<Value>().ok());
        match value {
            Some(value) if Value::body(value, body.len()) == body => value,
            _ => Value::foreign(body),
        }
    }
}

/// Steps of SplitMix64.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_foreign() {
            write!(f, "foreign-{:08x}", self.counter)
        } else {
            write!(f, "{}-{}", self.process, self.counter)
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Value {
    type Err = BadText;

    fn from_str(text: &str) -> Result<Value, BadText> {
        let parsed = match text.split_once('-') {
            Some(("foreign", hash)) => {
                u32::from_str_radix(hash, 16).ok().map(|counter| Value { process: Value::FOREIGN, counter })
            }
            Some((process, counter)) => match (process.parse(), counter.parse()) {
                (Ok(process), Ok(counter)) if process != Value::FOREIGN => Some(Value { process, counter }),
                _ => None,
            },
            None => None,
        };
        parsed.ok_or_else(|| BadText { what: "value (process-counter)", text: text.to_owned() })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct BadText {
    what: &'static str,
    text: String,
}

/// Both are text in a line, and read without a copy.
macro_rules! as_text {
    ($type:ty, $expecting:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

as_text!(Queue, "broker/topic/id");
as_text!(Value, "process-counter");

/// A message that somebody got: `[offset, value]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, Value)", into = "(u64, Value)")]
pub struct Read {
    pub offset: u64,
    pub value: Value,
}

impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.value, self.offset)
    }
}

impl From<(u64, Value)> for Read {
    fn from((offset, value): (u64, Value)) -> Read {
        Read { offset, value }
    }
}

impl From<Read> for (u64, Value) {
    fn from(Read { offset, value }: Read) -> (u64, Value) {
        (offset, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_values_and_queues() {
        for value in [Value::new(0, 0), Value::new(7, u32::MAX), Value::foreign(b"x")] {
            assert_eq!(value.to_string().parse::<Value>(), Ok(value));
            assert_eq!(Value::unpack(value.pack()), value);
        }
        for bad in ["", "1", "1-", "-1", "1-2-3", "4294967295-0", "foreign-", "a-b"] {
            assert!(bad.parse::<Value>().is_err(), "{bad}");
        }
        assert_eq!("a/%RETRY%g/2".parse::<Queue>(), Ok(Queue::new("a", "%RETRY%g", 2)));
        for bad in ["", "a/t", "a/t/x", "a//1", "/t/1", "a/t/1/2"] {
            assert!(bad.parse::<Queue>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_changed_body_is_foreign() {
        let value = Value::new(12, 345);
        for len in [0, 7, 8, 15, 64, 1000] {
            let body = value.body(len);
            assert!(body.len() >= len);
            assert_eq!(Value::of_body(&body), value);
        }
        let body = value.body(64);
        for at in 0..body.len() {
            let mut flipped = body.clone();
            flipped[at] ^= 1;
            assert_ne!(Value::of_body(&flipped), value, "byte {at}");
        }
        assert!(Value::of_body(&body[..63]) == value, "a shorter body is one of another length");
        assert!(Value::of_body(&body[..5]).is_foreign());
        assert!(Value::of_body(b"").is_foreign());
        let mixed = [&body[..32], &Value::new(12, 346).body(64)[32..]].concat();
        assert!(Value::of_body(&mixed).is_foreign());
    }
}
