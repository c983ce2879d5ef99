//! One stored message: the same bytes in the log and in the bodies of pull, pop, query and view.
//!
//! ```text
//! off  size     field                    off    size     field             (offsets for v4 hosts)
//!  0   4        total size               56     8        store time, ms
//!  4   4        magic (V1, V2)           64     8 | 20   store host
//!  8   4        CRC-32 of body, 31 bits  72     4        reconsume times
//! 12   4        queue id                 76     8        position of the half message
//! 16   4        flag (the user's)        84     4 + n    body, as sent
//! 20   8        queue offset             88+n   1|2 + t  topic (length 1 byte in V1, 2 in V2)
//! 28   8        position                 ..     2 + p    properties
//! 36   4        sysFlag
//! 40   8        born time, ms
//! 48   8 | 20   born host: ip, port i32  16-byte ip if sysFlag says so, likewise for the store host
//! ```
//! All integers big-endian (MessageDecoder, MessageExtEncoder). Queue offset, position and store time are left to
//! patch once the place in the log is known; no other byte depends on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::compression::{DecompressError, decompress_body};
use crate::ids::{LogPosition, QueueId, QueueOffset};
use crate::message_id::OffsetMessageId;
use crate::properties::{Properties, prop, properties_get, properties_to_map};
use crate::sysflag;
use crate::tags::{tags_code, unit_code};

/// Magic of a record whose topic is at most 127 bytes.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a record with a longer topic.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Magic of the filler at the end of a RocketMQ segment.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;

/// Largest body a broker accepts by default: 4 MiB (maxMessageSize of MessageStoreConfig).
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest properties text; its length is an i16.
pub const PROPERTIES_BYTES_MAX: usize = i16::MAX as usize;
/// A record without body, topic and properties, in V1 with two v4 hosts.
pub const RECORD_BYTES_MIN: usize = 91;

const TOPIC_BYTES_V1_MAX: usize = 127;
const OFF_SYS_FLAG: usize = 36;
const OFF_QUEUE_OFFSET: usize = 20;
const OFF_POSITION: usize = 28;
const OFF_BORN_HOST: usize = 48;

/// CRC-32 of a body as stored, its top bit cleared as Java does.
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}

/// Why bytes are not a stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The record goes on after the bytes given; `needed` bytes in all, as far as known.
    #[error("record needs {needed} bytes, {have} are there")]
    Truncated { needed: usize, have: usize },
    #[error("magic {0:#010x} is not that of a message")]
    BadMagic(u32),
    /// End-of-segment filler of `size` bytes.
    #[error("filler of {size} bytes instead of a message")]
    Blank { size: u32 },
    /// A field contradicts the others.
    #[error("record is malformed: {0}")]
    Malformed(&'static str),
    /// Only from [`StoredMessage::verify`].
    #[error("body has CRC {found:#x}, record says {expected:#x}")]
    BodyCrc { expected: u32, found: u32 },
}

/// Why a message cannot be written; none of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("topic of {0} bytes; 1 to 32767 are possible")]
    TopicLength(usize),
    #[error("properties of {0} bytes; 32767 are possible")]
    PropertiesLength(usize),
    #[error("body of {0} bytes does not fit a record")]
    BodyLength(usize),
}

/// A stored message, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMessage<'a> {
    /// The whole record.
    pub record: &'a [u8],
    pub body_crc: u32,
    pub queue_id: QueueId,
    pub flag: i32,
    pub queue_offset: QueueOffset,
    pub position: LogPosition,
    /// [`crate::sysflag`].
    pub sys_flag: i32,
    /// Milliseconds since 1970, as is `store_timestamp`.
    pub born_timestamp: i64,
    pub born_host: SocketAddr,
    pub store_timestamp: i64,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    /// Of a committed transactional message the position of its half message.
    pub prepared_transaction_offset: i64,
    /// As sent: still compressed when `sys_flag` says so.
    pub body: &'a [u8],
    pub topic: &'a str,
    /// See [`properties_get`].
    pub properties: &'a str,
}

impl<'a> StoredMessage<'a> {
    /// Reads the record at the start of `bytes`. The body's CRC is not computed: see
    /// [`StoredMessage::verify`].
    pub fn parse(bytes: &'a [u8]) -> Result<StoredMessage<'a>, MessageError> {
        use MessageError::Malformed;
        let mut head = bytes;
        let too_short = || MessageError::Truncated { needed: RECORD_BYTES_MIN, have: bytes.len() };
        let size = head.try_get_u32().map_err(|_| too_short())?;
        let magic = head.try_get_u32().map_err(|_| too_short())?;
        let long_topic = match magic {
            MAGIC_V1 => false,
            MAGIC_V2 => true,
            MAGIC_BLANK => return Err(MessageError::Blank { size }),
            other => return Err(MessageError::BadMagic(other)),
        };
        if (size as usize) < RECORD_BYTES_MIN || size > i32::MAX as u32 {
            return Err(Malformed("total size"));
        }
        let Some(record) = bytes.get(..size as usize) else {
            return Err(MessageError::Truncated { needed: size as usize, have: bytes.len() });
        };
        let mut rest = record.get(8..).unwrap_or_default();
        let short = |_| Malformed("total size is smaller than its fields");
        let body_crc = rest.try_get_u32().map_err(short)?;
        let queue_id = rest.try_get_i32().map_err(short)?;
        let flag = rest.try_get_i32().map_err(short)?;
        let queue_offset = rest.try_get_i64().map_err(short)?;
        let position = rest.try_get_i64().map_err(short)?;
        let sys_flag = rest.try_get_i32().map_err(short)?;
        let born_timestamp = rest.try_get_i64().map_err(short)?;
        let born_host = take_host(&mut rest, sys_flag & sysflag::BORNHOST_V6 != 0)?;
        let store_timestamp = rest.try_get_i64().map_err(short)?;
        let store_host = take_host(&mut rest, sys_flag & sysflag::STOREHOST_V6 != 0)?;
        let reconsume_times = rest.try_get_i32().map_err(short)?;
        let prepared_transaction_offset = rest.try_get_i64().map_err(short)?;
        let body_bytes = rest.try_get_u32().map_err(short)?;
        let body = take(&mut rest, body_bytes as usize, "body length")?;
        let topic_bytes = if long_topic {
            rest.try_get_u16().map_err(short)?
        } else {
            u16::from(rest.try_get_u8().map_err(short)?)
        };
        let topic = take(&mut rest, topic_bytes as usize, "topic length")?;
        let properties_bytes = rest.try_get_u16().map_err(short)?;
        if properties_bytes as usize > PROPERTIES_BYTES_MAX {
            return Err(Malformed("properties length"));
        }
        let properties = take(&mut rest, properties_bytes as usize, "properties length")?;
        if !rest.is_empty() {
            return Err(Malformed("total size is larger than its fields"));
        }
        Ok(StoredMessage {
            record,
            body_crc,
            queue_id: QueueId::from_wire(queue_id).ok_or(Malformed("queue id"))?,
            flag,
            queue_offset: QueueOffset::from_wire(queue_offset).ok_or(Malformed("queue offset"))?,
            position: LogPosition::from_wire(position).ok_or(Malformed("position"))?,
            sys_flag,
            born_timestamp,
            born_host,
            store_timestamp,
            store_host,
            reconsume_times,
            prepared_transaction_offset,
            body,
            topic: std::str::from_utf8(topic).map_err(|_| Malformed("topic is not UTF-8"))?,
            properties: std::str::from_utf8(properties).map_err(|_| Malformed("properties are not UTF-8"))?,
        })
    }

    /// Checks the body against its CRC. A CRC of 0 is not checked: RocketMQ writes none there when
    /// it is told not to.
    pub fn verify(&self) -> Result<(), MessageError> {
        let found = body_crc(self.body);
        if self.body_crc == 0 || self.body_crc == found {
            return Ok(());
        }
        Err(MessageError::BodyCrc { expected: self.body_crc, found })
    }

    /// Length of the record in bytes.
    pub fn size(&self) -> usize {
        self.record.len()
    }

    pub fn property(&self, name: &str) -> Option<&'a str> {
        properties_get(self.properties, name)
    }

    /// The user's tag.
    pub fn tags(&self) -> Option<&'a str> {
        self.property(prop::TAGS)
    }

    /// The user's keys.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.property(prop::KEYS).unwrap_or_default().split(' ').filter(|key| !key.is_empty())
    }

    /// The id that the producer gave the message.
    pub fn unique_id(&self) -> Option<&'a str> {
        self.property(prop::UNIQ_KEY)
    }

    /// What filters by tag compare.
    pub fn tags_code(&self) -> i64 {
        self.tags().map_or(0, tags_code)
    }

    /// What its ConsumeQueue unit has as the tags code.
    pub fn unit_code(&self) -> i64 {
        unit_code(self.topic, self.tags(), self.store_timestamp, self.property(prop::TIMER_OUT_MS))
    }

    /// The id that names the message by store host and position.
    pub fn offset_message_id(&self) -> OffsetMessageId {
        OffsetMessageId { host: self.store_host, position: self.position }
    }
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize, what: &'static str) -> Result<&'a [u8], MessageError> {
    let (head, tail) = rest.split_at_checked(bytes).ok_or(MessageError::Malformed(what))?;
    *rest = tail;
    Ok(head)
}

fn take_host(rest: &mut &[u8], v6: bool) -> Result<SocketAddr, MessageError> {
    let short = |_| MessageError::Malformed("total size is smaller than its fields");
    let ip = if v6 {
        IpAddr::V6(Ipv6Addr::from(rest.try_get_u128().map_err(short)?))
    } else {
        IpAddr::V4(Ipv4Addr::from(rest.try_get_u32().map_err(short)?))
    };
    let port = rest.try_get_i32().map_err(short)?;
    let port = u16::try_from(port).map_err(|_| MessageError::Malformed("port of a host"))?;
    Ok(SocketAddr::new(ip, port))
}

/// The records in a body of concatenated ones; ends after the first error.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub fn new(bytes: &'a [u8]) -> Messages<'a> {
        Messages { rest: bytes }
    }

    /// The bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<StoredMessage<'a>, MessageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = StoredMessage::parse(self.rest);
        self.rest = match &message {
            Ok(message) => self.rest.get(message.size()..).unwrap_or_default(),
            Err(_) => &[],
        };
        Some(message)
    }
}

/// What goes into a record, apart from what the log decides.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a> {
    pub topic: &'a str,
    pub queue_id: QueueId,
    pub flag: i32,
    /// The two host bits are set by the hosts given, whatever they are here.
    pub sys_flag: i32,
    /// Milliseconds since 1970.
    pub born_timestamp: i64,
    pub born_host: SocketAddr,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: i64,
    pub body: &'a [u8],
    pub properties: &'a str,
}

/// Bytes that [`encode_message`] will append.
pub fn message_size(message: &NewMessage<'_>) -> usize {
    let hosts = host_bytes(message.born_host) + host_bytes(message.store_host) - 16;
    let long_topic = usize::from(message.topic.len() > TOPIC_BYTES_V1_MAX);
    RECORD_BYTES_MIN
        + hosts
        + long_topic
        + message.body.len()
        + message.topic.len()
        + message.properties.len()
}

/// Appends one record, with queue offset, position and store time 0 until they are patched;
/// returns its length. V2 if the topic needs it.
pub fn encode_message(message: &NewMessage<'_>, out: &mut BytesMut) -> Result<usize, EncodeError> {
    let NewMessage {
        topic,
        queue_id,
        flag,
        sys_flag,
        born_timestamp,
        born_host,
        store_host,
        reconsume_times,
        prepared_transaction_offset,
        body,
        properties,
    } = *message;
    if topic.is_empty() || topic.len() > i16::MAX as usize {
        return Err(EncodeError::TopicLength(topic.len()));
    }
    if properties.len() > PROPERTIES_BYTES_MAX {
        return Err(EncodeError::PropertiesLength(properties.len()));
    }
    let size = message_size(message);
    if size > i32::MAX as usize {
        return Err(EncodeError::BodyLength(body.len()));
    }
    let (born_host, store_host) = (canonical(born_host), canonical(store_host));
    let mut sys_flag = sys_flag & !(sysflag::BORNHOST_V6 | sysflag::STOREHOST_V6);
    if born_host.is_ipv6() {
        sys_flag |= sysflag::BORNHOST_V6;
    }
    if store_host.is_ipv6() {
        sys_flag |= sysflag::STOREHOST_V6;
    }
    let long_topic = topic.len() > TOPIC_BYTES_V1_MAX;
    out.reserve(size);
    out.put_u32(size as u32);
    out.put_u32(if long_topic { MAGIC_V2 } else { MAGIC_V1 });
    out.put_u32(body_crc(body));
    out.put_i32(queue_id.to_wire());
    out.put_i32(flag);
    out.put_u64(0);
    out.put_u64(0);
    out.put_i32(sys_flag);
    out.put_i64(born_timestamp);
    put_host(born_host, out);
    out.put_i64(0);
    put_host(store_host, out);
    out.put_i32(reconsume_times);
    out.put_i64(prepared_transaction_offset);
    out.put_u32(body.len() as u32);
    out.extend_from_slice(body);
    if long_topic {
        out.put_u16(topic.len() as u16);
    } else {
        out.put_u8(topic.len() as u8);
    }
    out.extend_from_slice(topic.as_bytes());
    out.put_u16(properties.len() as u16);
    out.extend_from_slice(properties.as_bytes());
    Ok(size)
}

/// An address from a dual-stack socket in the form that Java sees: v4 where it is one.
fn canonical(host: SocketAddr) -> SocketAddr {
    SocketAddr::new(host.ip().to_canonical(), host.port())
}

fn host_bytes(host: SocketAddr) -> usize {
    if canonical(host).is_ipv6() { 20 } else { 8 }
}

fn put_host(host: SocketAddr, out: &mut BytesMut) {
    match host.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.put_i32(i32::from(host.port()));
}

/// Writes the queue offset into the record at the start of `record`.
pub fn patch_queue_offset(record: &mut [u8], offset: QueueOffset) -> Result<(), MessageError> {
    patch(record, OFF_QUEUE_OFFSET, offset.to_wire())
}

/// Writes the position (RocketMQ's physical offset) into the record at the start of `record`.
pub fn patch_position(record: &mut [u8], position: LogPosition) -> Result<(), MessageError> {
    patch(record, OFF_POSITION, position.to_wire())
}

/// Writes the store time, in milliseconds since 1970, into the record at the start of `record`.
pub fn patch_store_timestamp(record: &mut [u8], millis: i64) -> Result<(), MessageError> {
    let have = record.len();
    let mut flags = record.get(OFF_SYS_FLAG..).unwrap_or_default();
    let sys_flag =
        flags.try_get_i32().map_err(|_| MessageError::Truncated { needed: RECORD_BYTES_MIN, have })?;
    let host = if sys_flag & sysflag::BORNHOST_V6 != 0 { 20 } else { 8 };
    patch(record, OFF_BORN_HOST + host, millis)
}

fn patch(record: &mut [u8], at: usize, value: i64) -> Result<(), MessageError> {
    let have = record.len();
    match record.get_mut(at..at + 8) {
        Some(mut field) => {
            field.put_i64(value);
            Ok(())
        }
        None => Err(MessageError::Truncated { needed: RECORD_BYTES_MIN, have }),
    }
}

/// A stored message that owns what it holds, for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub flag: i32,
    pub properties: Properties,
    /// As sent; see [`Message::plain_body`].
    pub body: Bytes,
    /// What users see as the id: the unique id, or else the offset message id.
    pub msg_id: String,
    pub offset_msg_id: String,
    pub queue_id: QueueId,
    pub queue_offset: QueueOffset,
    pub position: LogPosition,
    /// [`crate::sysflag`].
    pub sys_flag: i32,
    /// Milliseconds since 1970, as is `store_timestamp`.
    pub born_timestamp: i64,
    pub born_host: SocketAddr,
    pub store_timestamp: i64,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: i64,
    pub body_crc: u32,
    /// Length of its record in bytes.
    pub store_size: usize,
}

impl Message {
    /// Every message of a response body, in order; bodies share its memory. On an error the ones
    /// before it are lost: a peer that sends half a record cannot be trusted with the others.
    pub fn decode_all(bytes: &Bytes) -> Result<Vec<Message>, MessageError> {
        Messages::new(bytes).map(|stored| stored.map(|stored| Message::from_stored(&stored, bytes))).collect()
    }

    /// Copies what `stored` shows; the body shares the memory of `source` if it lies within.
    pub fn from_stored(stored: &StoredMessage<'_>, source: &Bytes) -> Message {
        let offset_msg_id = stored.offset_message_id().to_string();
        Message {
            topic: stored.topic.to_owned(),
            flag: stored.flag,
            properties: properties_to_map(stored.properties),
            body: share(source, stored.body),
            msg_id: stored.unique_id().map_or_else(|| offset_msg_id.clone(), str::to_owned),
            offset_msg_id,
            queue_id: stored.queue_id,
            queue_offset: stored.queue_offset,
            position: stored.position,
            sys_flag: stored.sys_flag,
            born_timestamp: stored.born_timestamp,
            born_host: stored.born_host,
            store_timestamp: stored.store_timestamp,
            store_host: stored.store_host,
            reconsume_times: stored.reconsume_times,
            prepared_transaction_offset: stored.prepared_transaction_offset,
            body_crc: stored.body_crc,
            store_size: stored.size(),
        }
    }

    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }

    pub fn tags(&self) -> Option<&str> {
        self.property(prop::TAGS)
    }

    /// The body as the producer gave it to its client, at most `max` bytes.
    pub fn plain_body(&self, max: usize) -> Result<Bytes, DecompressError> {
        if self.sys_flag & sysflag::COMPRESSED == 0 {
            return Ok(self.body.clone());
        }
        decompress_body(self.sys_flag, &self.body, max).map(Bytes::from)
    }
}

fn share(source: &Bytes, part: &[u8]) -> Bytes {
    let start = (part.as_ptr() as usize).checked_sub(source.as_ptr() as usize);
    match start {
        Some(start) if start.checked_add(part.len()).is_some_and(|end| end <= source.len()) => {
            source.slice(start..start + part.len())
        }
        _ => Bytes::copy_from_slice(part),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compression::compress_body;
    use crate::golden::{self, unhex};

    fn host(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn sample(born: &str, store: &str) -> NewMessage<'static> {
        NewMessage {
            topic: "orders",
            queue_id: QueueId(3),
            flag: 7,
            sys_flag: 0,
            born_timestamp: 1_700_000_000_123,
            born_host: host(born),
            store_host: host(store),
            reconsume_times: 2,
            prepared_transaction_offset: 99,
            body: b"hello world",
            properties: "KEYS\u{1}k1 k2\u{2}k\u{1}v\u{2}TAGS\u{1}TagA\u{2}",
        }
    }

    fn record(message: &NewMessage<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        let size = encode_message(message, &mut out).unwrap();
        assert_eq!((size, message_size(message)), (out.len(), out.len()));
        patch_queue_offset(&mut out, QueueOffset(5)).unwrap();
        patch_position(&mut out, LogPosition(1234)).unwrap();
        patch_store_timestamp(&mut out, 1_700_000_000_456).unwrap();
        out
    }

    #[test]
    fn records_equal_those_of_java() {
        for (hex, born, store) in [
            (golden::STORED_V4, "10.0.0.7:5555", "127.0.0.1:10911"),
            (golden::STORED_V4, "[::ffff:10.0.0.7]:5555", "127.0.0.1:10911"),
            (golden::STORED_V6, "[2001:db8::1]:5555", "[2001:db8::2]:10911"),
        ] {
            assert_eq!(record(&sample(born, store)), unhex(hex), "{born}");
        }
    }

    #[test]
    fn java_record_reads() {
        let bytes = Bytes::from(unhex(golden::STORED_V6));
        let stored = StoredMessage::parse(&bytes).unwrap();
        stored.verify().unwrap();
        assert_eq!(stored.tags(), Some("TagA"));
        assert_eq!(stored.tags_code(), 2_598_919);
        assert_eq!(stored.keys().collect::<Vec<_>>(), ["k1", "k2"]);
        assert_eq!(stored.unique_id(), None);
        let message = Message::decode_all(&bytes).unwrap().remove(0);
        assert_eq!(message.msg_id, "20010DB800000000000000000000000200002A9F00000000000004D2");
        assert_eq!(message.offset_msg_id, message.msg_id);
        assert_eq!((message.queue_id, message.queue_offset), (QueueId(3), QueueOffset(5)));
        assert_eq!(message.property("k"), Some("v"));
        assert_eq!(message.plain_body(11).unwrap(), "hello world");
        assert_eq!(message.body.as_ptr(), stored.body.as_ptr(), "the body is shared");
        assert_eq!(message.store_size, bytes.len());
    }

    #[test]
    fn long_topics_take_the_second_version() {
        let topic = "%RETRY%".to_owned() + &"x".repeat(140);
        let message = NewMessage { topic: &topic, ..sample("10.0.0.7:5555", "127.0.0.1:10911") };
        let bytes = record(&message);
        assert_eq!(bytes[4..8], MAGIC_V2.to_be_bytes());
        assert_eq!(StoredMessage::parse(&bytes).unwrap().topic, topic);
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let (mut out, long) = (BytesMut::new(), "x".repeat(32_768));
        let good = sample("10.0.0.7:1", "10.0.0.7:2");
        for (message, error) in [
            (NewMessage { topic: "", ..good }, EncodeError::TopicLength(0)),
            (NewMessage { topic: &long, ..good }, EncodeError::TopicLength(32_768)),
            (NewMessage { properties: &long, ..good }, EncodeError::PropertiesLength(32_768)),
        ] {
            assert_eq!(encode_message(&message, &mut out), Err(error));
            assert!(out.is_empty());
        }
    }

    #[test]
    fn damage_is_named() {
        let good = unhex(golden::STORED_V4);
        let check = |at: usize, byte: u8, expect: &str| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let error = StoredMessage::parse(&bytes).and_then(|stored| stored.verify()).unwrap_err();
            assert_eq!(error.to_string(), expect);
        };
        check(7, 0, "magic 0xdaa32000 is not that of a message");
        check(3, 0x84, "record is malformed: properties length");
        check(3, 0x86, "record needs 134 bytes, 133 are there");
        check(0, 0x80, "record is malformed: total size");
        check(12, 0x80, "record is malformed: queue id");
        check(52, 1, "record is malformed: port of a host");
        check(39, 0x10, "record is malformed: port of a host");
        check(87, 0xFF, "record is malformed: body length");
        check(90, b'H', "body has CRC 0x5257c22a, record says 0xd4a1185");
        check(100, 0xFF, "record is malformed: topic is not UTF-8");
        assert_eq!(StoredMessage::parse(&good[..10]), Err(MessageError::Truncated { needed: 133, have: 10 }));
        assert_eq!(StoredMessage::parse(&[]), Err(MessageError::Truncated { needed: 91, have: 0 }));
        let blank = [&[0, 0, 0, 50][..], &MAGIC_BLANK.to_be_bytes()].concat();
        assert_eq!(StoredMessage::parse(&blank), Err(MessageError::Blank { size: 50 }));
        assert!(patch_store_timestamp(&mut [0; 60], 1).is_err());
        assert!(patch_position(&mut [0; 35], LogPosition(1)).is_err());
    }

    #[test]
    fn many_records_end_at_the_first_that_is_damaged() {
        let one = unhex(golden::STORED_V4);
        let bytes = [&one[..], &one[..], &one[..20]].concat();
        let read: Vec<_> =
            Messages::new(&bytes).map(|message| message.map(|message| message.size())).collect();
        assert_eq!(read, [Ok(133), Ok(133), Err(MessageError::Truncated { needed: 133, have: 20 })]);
        assert!(Message::decode_all(&Bytes::from(bytes)).is_err());
    }

    #[test]
    fn compressed_bodies_open_within_the_limit() {
        let plain = b"to be compressed ".repeat(100);
        let body = compress_body(&plain, 5);
        let message = NewMessage {
            sys_flag: sysflag::COMPRESSED | sysflag::COMPRESSION_ZLIB,
            body: &body,
            ..sample("10.0.0.7:1", "10.0.0.7:2")
        };
        let message = Message::decode_all(&record(&message).freeze()).unwrap().remove(0);
        assert_eq!(message.plain_body(plain.len()).unwrap(), plain);
        assert_eq!(message.plain_body(plain.len() - 1), Err(DecompressError::TooLarge(plain.len() - 1)));
    }

    fn any_host() -> impl Strategy<Value = SocketAddr> {
        (any::<std::net::IpAddr>(), any::<u16>())
            .prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
    }

    proptest! {
        #[test]
        fn records_round_trip(
            topic in ".{1,80}",
            properties in ".{0,80}",
            body in proptest::collection::vec(any::<u8>(), 0..100),
            born_host in any_host(),
            store_host in any_host(),
            (queue_id, queue_offset, position) in (0..=i32::MAX as u32, 0..=i64::MAX as u64, 0..=i64::MAX as u64),
            (flag, sys_flag, reconsume_times) in any::<(i32, i32, i32)>(),
            (born_timestamp, store_timestamp, prepared_transaction_offset) in any::<(i64, i64, i64)>(),
        ) {
            let (topic, properties, body) = (topic.as_str(), properties.as_str(), body.as_slice());
            let message = NewMessage {
                topic, queue_id: QueueId(queue_id), flag, sys_flag, born_timestamp, born_host, store_host,
                reconsume_times, prepared_transaction_offset, body, properties,
            };
            let mut out = BytesMut::from(&b"before"[..]);
            encode_message(&message, &mut out).unwrap();
            let mut record = out.split_off(6);
            patch_queue_offset(&mut record, QueueOffset(queue_offset)).unwrap();
            patch_position(&mut record, LogPosition(position)).unwrap();
            patch_store_timestamp(&mut record, store_timestamp).unwrap();
            let stored = StoredMessage::parse(&record).unwrap();
            stored.verify().unwrap();
            let hosts = sysflag::BORNHOST_V6 | sysflag::STOREHOST_V6;
            prop_assert_eq!(stored, StoredMessage {
                record: &record, body_crc: body_crc(body), queue_id: QueueId(queue_id), flag,
                queue_offset: QueueOffset(queue_offset), position: LogPosition(position),
                sys_flag: stored.sys_flag, born_timestamp, born_host, store_timestamp, store_host,
                reconsume_times, prepared_transaction_offset, body, topic, properties,
            });
            prop_assert_eq!(stored.sys_flag & !hosts, sys_flag & !hosts);
        }
    }
}
