//! Messages that travel in one request (320) and are appended in one piece (protocol.md 3.1, 4.3).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use wire::{BatchItem, encode_batch_item, is_retry_topic, prop, properties_push};

use super::message::{Message, check_properties};
use crate::error::ClientError;
use crate::identity::MessageIds;
use crate::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};

/// What one item needs besides body and properties.
const ITEM_BYTES: usize = 22;

/// Messages of one topic, encoded to go to one queue in one request. Made by
/// [`crate::Producer::batches`].
#[derive(Clone, Debug)]
pub struct MessageBatch {
    pub(crate) topic: Arc<str>,
    pub(crate) body: Bytes,
    pub(crate) ids: Vec<String>,
    pub(crate) wait_stored: bool,
}

impl MessageBatch {
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Unique ids of the messages, in order.
    pub fn message_ids(&self) -> &[String] {
        &self.ids
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Bytes of the request's body.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }
}

/// Encodes `messages` in order, in as few batches as the limits allow. All must have one topic; a
/// batch cannot hold delayed messages, and messages to retry topics go one by one.
pub(crate) fn split(
    messages: &[Message],
    ids: &MessageIds,
    now_ms: u64,
    bytes_max: usize,
    messages_max: usize,
) -> Result<Vec<MessageBatch>, ClientError> {
    let Some(first) = messages.first() else { return Err(ClientError::refused("the batch is empty")) };
    let topic = first.topic();
    if is_retry_topic(topic) {
        return Err(ClientError::refused("a batch cannot go to a retry topic"));
    }
    let wait = |message: &Message| message.get(prop::WAIT) != Some("false");
    let bytes_max = bytes_max.min(BATCH_BYTES_MAX);
    let messages_max = messages_max.clamp(1, BATCH_MESSAGES_MAX);
    let mut batches = Vec::new();
    let mut body = BytesMut::new();
    let mut batch_ids = Vec::new();
    let mut finish = |body: &mut BytesMut, batch_ids: &mut Vec<String>| {
        batches.push(MessageBatch {
            topic: Arc::clone(topic),
            body: body.split().freeze(),
            ids: std::mem::take(batch_ids),
            wait_stored: wait(first),
        });
    };
    for message in messages {
        message.check()?;
        if message.topic() != topic {
            return Err(ClientError::Refused(format!(
                "a batch has one topic; here are {topic} and {}",
                message.topic()
            )));
        }
        if wait(message) != wait(first) {
            return Err(ClientError::refused("the messages of a batch must agree on wait_stored"));
        }
        for name in
            [prop::DELAY, prop::TIMER_DELAY_MS, prop::TIMER_DELAY_SEC, prop::TIMER_DELIVER_MS, prop::TRAN_MSG]
        {
            if message.get(name).is_some() {
                return Err(ClientError::Refused(format!(
                    "a batch cannot hold a message with property {name}"
                )));
            }
        }
        let mut properties = message.properties().to_owned();
        let id = match message.get(prop::UNIQ_KEY) {
            Some(id) => id.to_owned(),
            None => {
                let id = ids.next(now_ms);
                properties_push(&mut properties, prop::UNIQ_KEY, &id);
                id
            }
        };
        check_properties(&properties)?;
        let item_bytes = ITEM_BYTES + message.body().len() + properties.len();
        if item_bytes > bytes_max {
            return Err(ClientError::Refused(format!(
                "a message of {item_bytes} bytes exceeds a batch's {bytes_max}"
            )));
        }
        if body.len() + item_bytes > bytes_max || batch_ids.len() >= messages_max {
            finish(&mut body, &mut batch_ids);
        }
        let item = BatchItem { flag: message.flag_value(), body: message.body(), properties: &properties };
        encode_batch_item(&item, &mut body).map_err(|error| ClientError::Refused(error.to_string()))?;
        batch_ids.push(id);
    }
    finish(&mut body, &mut batch_ids);
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
    use std::net::{IpAddr, Ipv4Addr};
    use wire::{BatchItems, properties_get};

    fn ids() -> MessageIds {
        MessageIds::new(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    fn refusal(messages: &[Message]) -> String {
        split(messages, &ids(), 0, BATCH_BYTES_MAX, BATCH_MESSAGES_MAX).expect_err("refused").to_string()
    }

    #[test]
    fn what_a_batch_cannot_hold() {
        assert!(refusal(&[]).contains("empty"));
        assert!(refusal(&[Message::new("%RETRY%g", "x")]).contains("retry"));
        assert!(refusal(&[Message::new("a", "x"), Message::new("b", "x")]).contains("one topic"));
        assert!(refusal(&[Message::new("a", "x").delay_level(3)]).contains("DELAY"));
        assert!(
            refusal(&[Message::new("a", "x"), Message::new("a", "x").wait_stored(false)]).contains("agree")
        );
        assert!(refusal(&[Message::new("a", "x"), Message::new("a", "")]).contains("body is empty"));
    }

    proptest! {
        #[test]
        fn every_message_travels_once_in_order_within_the_limits(
            sizes in vec(1usize..400, 1..80),
            bytes_max in 700usize..3000,
            messages_max in 1usize..30,
        ) {
            let messages: Vec<_> =
                sizes.iter().enumerate().map(|(i, size)| Message::new("t", vec![i as u8; *size]).flag(i as i32)).collect();
            let batches = split(&messages, &ids(), 1_760_000_000_000, bytes_max, messages_max).expect("batches");
            let mut seen = 0;
            for batch in &batches {
                prop_assert!(batch.bytes() <= bytes_max && batch.len() <= messages_max && !batch.is_empty());
                let mut count = 0;
                for (item, id) in BatchItems::new(&batch.body).zip(batch.message_ids()) {
                    let item = item.expect("an item");
                    prop_assert_eq!(item.flag, seen);
                    prop_assert_eq!(item.body.len(), sizes[seen as usize]);
                    prop_assert_eq!(properties_get(item.properties, prop::UNIQ_KEY), Some(id.as_str()));
                    seen += 1;
                    count += 1;
                }
                prop_assert_eq!(count, batch.len());
            }
            prop_assert_eq!(seen as usize, sizes.len());
        }
    }
}
