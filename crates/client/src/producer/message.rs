//! What a producer sends.

use std::sync::Arc;

use bytes::Bytes;
use wire::{prop, properties_get, properties_push, properties_remove};

use crate::error::ClientError;
use crate::limits::{MESSAGE_BYTES_MAX, PROPERTIES_BYTES_MAX, RECONSUME_TIMES};

/// A message to send. The setters take what breaks a rule as well; the send then says so.
///
/// ```
/// let message = client::Message::new("orders", "body").tag("paid").key("order-17").property("colour", "red");
/// assert_eq!(message.get("TAGS"), Some("paid"));
/// ```
#[derive(Clone, Debug)]
pub struct Message {
    topic: Arc<str>,
    body: Bytes,
    flag: i32,
    /// In RocketMQ's text form, as they travel: most messages have two or three.
    properties: String,
    problem: Option<Box<str>>,
}

impl Message {
    pub fn new(topic: impl Into<Arc<str>>, body: impl Into<Bytes>) -> Message {
        Message { topic: topic.into(), body: body.into(), flag: 0, properties: String::new(), problem: None }
    }

    /// The tag that consumers select by.
    #[must_use]
    pub fn tag(self, tag: &str) -> Message {
        self.reserved(prop::TAGS, tag)
    }

    /// A key under which the message can be found. May be called again for more.
    #[must_use]
    pub fn key(self, key: &str) -> Message {
        if key.contains(' ') {
            return self.with_problem(format!("key {key:?} has a space in it, which separates keys"));
        }
        match self.get(prop::KEYS) {
            Some(keys) => {
                let keys = format!("{keys} {key}");
                self.reserved(prop::KEYS, &keys)
            }
            None => self.reserved(prop::KEYS, key),
        }
    }

    /// A property of the user's own.
    #[must_use]
    pub fn property(self, name: &str, value: &str) -> Message {
        if wire::PROPERTIES_RESERVED.contains(&name) {
            return self.with_problem(format!("property {name} is used by the system"));
        }
        self.reserved(name, value)
    }

    /// One of RocketMQ's own properties ([`wire::prop`]), for tools and tests.
    #[must_use]
    pub fn reserved(mut self, name: &str, value: &str) -> Message {
        let bad = |text: &str| text.is_empty() || text.contains(['\u{1}', '\u{2}']);
        if bad(name) || bad(value) {
            return self
                .with_problem(format!("property {name:?} = {value:?}: empty, or has a control character"));
        }
        if properties_get(&self.properties, name).is_some() {
            properties_remove(&mut self.properties, name);
        }
        properties_push(&mut self.properties, name, value);
        self
    }

    /// Delivered after the delay of this level, 1 to 18 (1 s to 2 h by default).
    #[must_use]
    pub fn delay_level(self, level: u32) -> Message {
        self.reserved(prop::DELAY, &level.to_string())
    }

    /// Delivered at this time, milliseconds since 1970.
    #[must_use]
    pub fn deliver_at_ms(self, time_ms: u64) -> Message {
        self.reserved(prop::TIMER_DELIVER_MS, &time_ms.to_string())
    }

    /// Messages with the same key go to the same queue when sent with
    /// [`crate::Producer::send_by_key`].
    #[must_use]
    pub fn sharding_key(self, key: &str) -> Message {
        self.reserved(prop::SHARDING_KEY, key)
    }

    /// False: the broker need not wait for replication and disk.
    #[must_use]
    pub fn wait_stored(self, wait: bool) -> Message {
        self.reserved(prop::WAIT, if wait { "true" } else { "false" })
    }

    /// A number of the user's own that is stored with the message.
    #[must_use]
    pub fn flag(mut self, flag: i32) -> Message {
        self.flag = flag;
        self
    }

    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// A property's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        properties_get(&self.properties, name)
    }

    pub(crate) fn flag_value(&self) -> i32 {
        self.flag
    }

    /// Of a message to a retry topic: how often it was consumed, and how often it may be.
    pub(crate) fn reconsume(&self) -> Option<(i32, i32)> {
        if !wire::is_retry_topic(&self.topic) {
            return None;
        }
        let number = |name: &str| self.get(name)?.parse().ok();
        Some((number(prop::RECONSUME_TIME)?, number(prop::MAX_RECONSUME_TIMES).unwrap_or(RECONSUME_TIMES)))
    }

    pub(crate) fn properties(&self) -> &str {
        &self.properties
    }

    /// The rules that hold for every message; those of topic names are checked with the route.
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if let Some(problem) = &self.problem {
            return Err(ClientError::refused(&**problem));
        }
        if self.body.is_empty() {
            return Err(ClientError::refused("the body is empty"));
        }
        if self.body.len() > MESSAGE_BYTES_MAX {
            let bytes = self.body.len();
            return Err(ClientError::Refused(format!(
                "the body has {bytes} bytes, {MESSAGE_BYTES_MAX} are allowed"
            )));
        }
        Ok(())
    }

    fn with_problem(mut self, problem: String) -> Message {
        self.problem.get_or_insert(problem.into());
        self
    }
}

pub(crate) fn check_properties(properties: &str) -> Result<(), ClientError> {
    if properties.len() > PROPERTIES_BYTES_MAX {
        let bytes = properties.len();
        return Err(ClientError::Refused(format!(
            "the properties have {bytes} bytes, {PROPERTIES_BYTES_MAX} are allowed"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setters_write_the_text_form() {
        let message =
            Message::new("t", "b").tag("x").key("k1").key("k2").property("a", "1").property("a", "2");
        assert_eq!(message.properties(), "TAGS\u{1}x\u{2}KEYS\u{1}k1 k2\u{2}a\u{1}2\u{2}");
        assert!(message.check().is_ok());
    }

    #[test]
    fn the_first_problem_is_told_by_check() {
        let told = |message: Message| message.check().expect_err("refused").to_string();
        assert_eq!(told(Message::new("t", "")), "the body is empty");
        assert!(told(Message::new("t", "b").property("KEYS", "x").key("a b")).contains("property KEYS"));
        assert!(told(Message::new("t", "b").key("a b")).contains("space"));
        assert!(told(Message::new("t", "b").tag("")).contains("TAGS"));
        assert!(told(Message::new("t", "b").property("n", "a\u{2}b")).contains("control"));
        assert!(told(Message::new("t", vec![0; MESSAGE_BYTES_MAX + 1])).contains("4194305"));
        assert!(check_properties(&"x".repeat(PROPERTIES_BYTES_MAX + 1)).is_err());
    }
}
