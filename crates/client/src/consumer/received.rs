//! A message as a consumer gets it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use wire::{LogPosition, MessageError, MessageQueue, Messages, QueueOffset, StoredMessage, prop, sysflag};

use crate::limits::INFLATED_BYTES_MAX;

/// A received message. Cheap to make and to clone: body, topic and properties share the memory of
/// the response that brought them, so keeping one keeps up to a pull's worth of bytes.
#[derive(Clone, Debug)]
pub struct ReceivedMessage {
    queue: Arc<MessageQueue>,
    topic: Bytes,
    body: Bytes,
    properties: Bytes,
    offset: QueueOffset,
    position: LogPosition,
    flag: i32,
    sys_flag: i32,
    born_timestamp_ms: i64,
    store_timestamp_ms: i64,
    born_host: SocketAddr,
    store_host: SocketAddr,
    reconsume_times: i32,
    record_bytes: u32,
}

impl ReceivedMessage {
    /// The queue it came from; of a retried message that of the retry topic.
    pub fn queue(&self) -> &Arc<MessageQueue> {
        &self.queue
    }

    /// The topic it was sent to, also when it came by way of a retry topic.
    pub fn topic(&self) -> &str {
        let topic = text(&self.topic);
        let origin = if wire::is_retry_topic(topic) { self.property(prop::RETRY_TOPIC) } else { None };
        origin.unwrap_or(topic)
    }

    /// As the producer sent it. Still compressed if it is larger than [`INFLATED_BYTES_MAX`] or of a
    /// kind that is not supported; [`ReceivedMessage::is_compressed`] tells.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    pub fn is_compressed(&self) -> bool {
        self.sys_flag & sysflag::COMPRESSED != 0
    }

    /// The id that its producer gave it, or else the offset message id.
    pub fn message_id(&self) -> String {
        self.property(prop::UNIQ_KEY).map_or_else(|| self.offset_message_id(), str::to_owned)
    }

    /// The id by which brokers find it ([`crate::Admin::view_message`]).
    pub fn offset_message_id(&self) -> String {
        wire::OffsetMessageId { host: self.store_host, position: self.position }.to_string()
    }

    pub fn tag(&self) -> Option<&str> {
        self.property(prop::TAGS)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.property(prop::KEYS).unwrap_or_default().split(' ').filter(|key| !key.is_empty())
    }

    pub fn property(&self, name: &str) -> Option<&str> {
        wire::properties_get(self.properties_text(), name)
    }

    /// All properties, in the order they were set.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        wire::properties_iter(self.properties_text())
    }

    pub fn properties_text(&self) -> &str {
        text(&self.properties)
    }

    pub fn offset(&self) -> QueueOffset {
        self.offset
    }

    pub fn position(&self) -> LogPosition {
        self.position
    }

    pub fn flag(&self) -> i32 {
        self.flag
    }

    /// [`wire::sysflag`], less the compression bits once the body is plain.
    pub fn sys_flag(&self) -> i32 {
        self.sys_flag
    }

    /// When its producer made it, milliseconds since 1970.
    pub fn born_timestamp_ms(&self) -> i64 {
        self.born_timestamp_ms
    }

    /// When its broker stored it, milliseconds since 1970.
    pub fn store_timestamp_ms(&self) -> i64 {
        self.store_timestamp_ms
    }

    pub fn born_host(&self) -> SocketAddr {
        self.born_host
    }

    pub fn store_host(&self) -> SocketAddr {
        self.store_host
    }

    /// How often the group has tried it before.
    pub fn reconsume_times(&self) -> i32 {
        self.reconsume_times
    }

    /// Bytes of its record in the log.
    pub fn record_bytes(&self) -> usize {
        self.record_bytes as usize
    }

    /// The message as it is at its next attempt.
    pub(crate) fn retried(mut self) -> ReceivedMessage {
        self.reconsume_times = self.reconsume_times.saturating_add(1);
        self
    }

    /// Every message of a response body, in order.
    pub(crate) fn decode_all(
        queue: &Arc<MessageQueue>,
        body: &Bytes,
    ) -> Result<Vec<ReceivedMessage>, MessageError> {
        let mut messages = Vec::new();
        for stored in Messages::new(body) {
            messages.push(ReceivedMessage::from_stored(queue, &stored?, body));
        }
        Ok(messages)
    }

    pub(crate) fn from_stored(
        queue: &Arc<MessageQueue>,
        stored: &StoredMessage<'_>,
        source: &Bytes,
    ) -> ReceivedMessage {
        let mut sys_flag = stored.sys_flag;
        let mut body = source.slice_ref(stored.body);
        if sys_flag & sysflag::COMPRESSED != 0 {
            match wire::decompress_body(sys_flag, stored.body, INFLATED_BYTES_MAX) {
                Ok(plain) => {
                    body = Bytes::from(plain);
                    sys_flag &= !(sysflag::COMPRESSED | sysflag::COMPRESSION_TYPE);
                }
                Err(error) => tracing::warn!(
                    topic = stored.topic,
                    offset = stored.queue_offset.get(),
                    %error,
                    "body is delivered compressed"
                ),
            }
        }
        ReceivedMessage {
            queue: Arc::clone(queue),
            topic: source.slice_ref(stored.topic.as_bytes()),
            body,
            properties: source.slice_ref(stored.properties.as_bytes()),
            offset: stored.queue_offset,
            position: stored.position,
            flag: stored.flag,
            sys_flag,
            born_timestamp_ms: stored.born_timestamp,
            store_timestamp_ms: stored.store_timestamp,
            born_host: stored.born_host,
            store_host: stored.store_host,
            reconsume_times: stored.reconsume_times,
            record_bytes: stored.size() as u32,
        }
    }
}

/// Checked when the message was parsed; the check is repeated rather than trusted, as this crate has
/// no unsafe code, and costs less than a copy.
fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use wire::{NewMessage, QueueId, encode_message};

    fn queue() -> Arc<MessageQueue> {
        Arc::new(MessageQueue { topic: "t".into(), broker_name: "b".into(), queue_id: 3 })
    }

    fn record(body: &[u8], sys_flag: i32, properties: &str) -> Bytes {
        let host: SocketAddr = "127.0.0.1:10911".parse().expect("an address");
        let message = NewMessage {
            topic: "%RETRY%g",
            queue_id: QueueId(3),
            flag: 7,
            sys_flag,
            born_timestamp: 11,
            born_host: host,
            store_host: host,
            reconsume_times: 2,
            prepared_transaction_offset: 0,
            body,
            properties,
        };
        let mut out = BytesMut::new();
        encode_message(&message, &mut out).expect("fits");
        out.freeze()
    }

    #[test]
    fn shows_what_was_stored() {
        let properties = "TAGS\u{1}x\u{2}KEYS\u{1}k1 k2\u{2}RETRY_TOPIC\u{1}orders\u{2}UNIQ_KEY\u{1}AB\u{2}";
        let bytes = record(b"hello", 0, properties);
        let messages = ReceivedMessage::decode_all(&queue(), &bytes).expect("one message");
        let [message] = &messages[..] else { panic!("{} messages", messages.len()) };
        assert_eq!(message.topic(), "orders");
        assert_eq!(&message.body()[..], b"hello");
        assert_eq!(message.tag(), Some("x"));
        assert_eq!(message.keys().collect::<Vec<_>>(), ["k1", "k2"]);
        assert_eq!(message.message_id(), "AB");
        assert_eq!((message.flag(), message.reconsume_times()), (7, 2));
        assert_eq!(message.record_bytes(), bytes.len());
        assert_eq!(message.offset_message_id(), "7F00000100002A9F0000000000000000");
    }

    #[test]
    fn compressed_bodies_are_plain_when_they_can_be() {
        let plain = vec![7; 100_000];
        let zlib = wire::compress_body(&plain, 5);
        let flags = sysflag::COMPRESSED | sysflag::COMPRESSION_ZLIB;
        let got = ReceivedMessage::decode_all(&queue(), &record(&zlib, flags, "")).expect("one message");
        assert_eq!(got[0].body().len(), plain.len());
        assert!(!got[0].is_compressed());
        let lz4 = ReceivedMessage::decode_all(
            &queue(),
            &record(b"zzz", sysflag::COMPRESSED | sysflag::COMPRESSION_LZ4, ""),
        );
        assert!(lz4.expect("one message")[0].is_compressed());
    }

    #[test]
    fn half_a_record_is_an_error() {
        let bytes = record(b"hello", 0, "");
        assert!(ReceivedMessage::decode_all(&queue(), &bytes.slice(..bytes.len() - 1)).is_err());
        assert!(ReceivedMessage::decode_all(&queue(), &Bytes::new()).expect("nothing").is_empty());
    }
}
