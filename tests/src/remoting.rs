//! The remoting protocol over a blocking socket: enough to ask, to send, to read back, and to send nonsense.
//! Written apart from crates/wire on purpose.
//!
//! | off | len | frame |
//! |---|---|---|
//! | 0 | 4 | bytes after this word |
//! | 4 | 1 | header format: 0 JSON, 1 ROCKETMQ |
//! | 5 | 3 | header length h |
//! | 8 | h | header |
//! | 8 + h | | body |

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

pub const SEND_MESSAGE: i32 = 10;
pub const PULL_MESSAGE: i32 = 11;
pub const UPDATE_AND_CREATE_TOPIC: i32 = 17;
pub const GET_BROKER_RUNTIME_INFO: i32 = 28;
pub const GET_MAX_OFFSET: i32 = 30;
pub const HEART_BEAT: i32 = 34;
pub const GET_CONSUMER_LIST_BY_GROUP: i32 = 38;
pub const LOCK_BATCH_MQ: i32 = 41;
pub const GET_ROUTEINFO_BY_TOPIC: i32 = 105;
pub const GET_BROKER_CLUSTER_INFO: i32 = 106;
pub const SEND_MESSAGE_V2: i32 = 310;
pub const SET_MESSAGE_REQUEST_MODE: i32 = 401;

/// A response code.
pub const REQUEST_CODE_NOT_SUPPORTED: i32 = 3;

/// V5_3_3: what we claim to be.
const VERSION: i32 = 479;

pub type Fields<'a> = &'a [(&'a str, &'a str)];

/// A request or a response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    pub code: i32,
    pub opaque: i32,
    pub flag: i32,
    pub remark: String,
    pub fields: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Command {
    pub fn field(&self, name: &str) -> Result<&str> {
        let value = self.fields.get(name).map(String::as_str);
        value.with_context(|| format!("no field {name} in {self:?}"))
    }

    /// The body as JSON; see [`loose_json`].
    pub fn json(&self) -> Result<Value> {
        loose_json(&self.body)
    }

    fn decode(frame: &[u8]) -> Result<Command> {
        let word = frame.get(..4).context("a frame without header length")?;
        ensure!(word[0] == 0, "header format {}, JSON expected", word[0]);
        let header_end = 4 + u32::from_be_bytes([0, word[1], word[2], word[3]]) as usize;
        let header: Value = serde_json::from_slice(frame.get(4..header_end).context("short frame")?)?;
        let number = |name: &str| header[name].as_i64().with_context(|| format!("no {name} in {header}"));
        let fields = header["extFields"].as_object().into_iter().flatten().map(|(name, value)| {
            (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        });
        Ok(Command {
            code: number("code")? as i32,
            opaque: number("opaque")? as i32,
            flag: number("flag")? as i32,
            remark: header["remark"].as_str().unwrap_or("").to_owned(),
            fields: fields.collect(),
            body: frame[header_end..].to_vec(),
        })
    }
}

/// A whole request frame with a JSON header.
pub fn encode(code: i32, opaque: i32, flag: i32, fields: Fields, body: &[u8]) -> Vec<u8> {
    let fields: BTreeMap<&str, &str> = fields.iter().copied().collect();
    let header = json!({
        "code": code, "language": "JAVA", "version": VERSION, "opaque": opaque, "flag": flag,
        "serializeTypeCurrentRPC": "JSON", "extFields": fields,
    });
    frame(header.to_string().as_bytes(), body)
}

/// A frame around any header bytes, said to be JSON.
pub fn frame(header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + header.len() + body.len());
    frame.extend(((4 + header.len() + body.len()) as u32).to_be_bytes());
    frame.extend((header.len() as u32).to_be_bytes());
    frame.extend(header);
    frame.extend(body);
    frame
}

/// JSON as fastjson prints it: integer keys of maps may lack their quotes. (Object keys are not understood.)
pub fn loose_json(text: &[u8]) -> Result<Value> {
    let mut strict = Vec::with_capacity(text.len() + 16);
    let mut quoted = false;
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        if quoted {
            strict.push(byte);
            if byte == b'\\' {
                at += 1;
                strict.extend(text.get(at));
            }
            quoted = byte != b'"';
        } else if byte == b'{' || byte == b',' {
            strict.push(byte);
            let digits = text[at + 1..].iter().take_while(|b| b.is_ascii_digit() || **b == b'-').count();
            if digits > 0 && text.get(at + 1 + digits) == Some(&b':') {
                strict.push(b'"');
                strict.extend(&text[at + 1..=at + digits]);
                strict.push(b'"');
                at += digits;
            }
        } else {
            quoted = byte == b'"';
            strict.push(byte);
        }
        at += 1;
    }
    serde_json::from_slice(&strict).with_context(|| format!("not JSON: {}", String::from_utf8_lossy(text)))
}

/// How a connection reacted to something illegal.
#[derive(Debug, PartialEq, Eq)]
pub enum Reaction {
    /// FIN or RST.
    Closed,
    Answered(Command),
}

/// One connection; requests one at a time.
pub struct Connection {
    stream: TcpStream,
    opaque: i32,
}

impl Connection {
    /// Connects; `limit` holds for the connect, each write and each read.
    pub fn open(address: &str, limit: Duration) -> Result<Connection> {
        let address: SocketAddr = address.parse().with_context(|| format!("address {address}"))?;
        let stream =
            TcpStream::connect_timeout(&address, limit).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Connection { stream, opaque: 0 })
    }

    /// A request and its response, whatever its code.
    pub fn ask(&mut self, code: i32, fields: Fields, body: &[u8]) -> Result<Command> {
        self.opaque += 1;
        self.write(&encode(code, self.opaque, 0, fields, body))?;
        loop {
            let command = self.read()?.context("the connection was closed")?;
            // Requests of the server (40 and the like) have bit 0 clear.
            if command.flag & 1 == 1 && command.opaque == self.opaque {
                return Ok(command);
            }
        }
    }

    /// A request that must succeed.
    pub fn call(&mut self, code: i32, fields: Fields, body: &[u8]) -> Result<Command> {
        let response = self.ask(code, fields, body)?;
        ensure!(response.code == 0, "request {code}: code {}: {}", response.code, response.remark);
        Ok(response)
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The next frame; `None` when the peer has closed or reset the connection.
    pub fn read(&mut self) -> Result<Option<Command>> {
        let mut length = [0; 4];
        if !self.read_whole(&mut length)? {
            return Ok(None);
        }
        let length = u32::from_be_bytes(length) as usize;
        ensure!(length <= 1 << 26, "a frame of {length} bytes");
        let mut frame = vec![0; length];
        if !self.read_whole(&mut frame)? {
            return Ok(None);
        }
        Command::decode(&frame).map(Some)
    }

    fn read_whole(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("no answer in time")
            }
            Err(_) => Ok(false),
        }
    }

    /// Writes bytes that may be illegal and waits for what comes of it; an error when nothing does.
    pub fn provoke(&mut self, bytes: &[u8]) -> Result<Reaction> {
        // The peer may close before it has read everything.
        let _ = self.stream.write_all(bytes);
        Ok(self.read()?.map_or(Reaction::Closed, Reaction::Answered))
    }

    /// Ends as if this host had lost its power: nothing is sent to the peer, which hears of it when it asks. Needs root
    /// (CAP_NET_ADMIN), and Linux.
    pub fn vanish(self) -> Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open as long as `self.stream`, and the option's value is an int that outlives the call.
        let answer = unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_REPAIR,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        ensure!(answer == 0, "TCP_REPAIR: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Says that nothing more will be written.
    pub fn finish_writing(&mut self) -> Result<()> {
        Ok(self.stream.shutdown(std::net::Shutdown::Write)?)
    }
}

/// One request over its own connection.
pub fn call(address: &str, code: i32, fields: Fields, body: &[u8]) -> Result<Command> {
    Connection::open(address, Duration::from_secs(3))?.call(code, fields, body)
}

/// brokerName → brokerId → address, as one nameserver knows it.
pub type Brokers = BTreeMap<String, BTreeMap<u64, String>>;

/// The brokers that a nameserver knows.
pub fn brokers(namesrv: &str) -> Result<Brokers> {
    addresses(&call(namesrv, GET_BROKER_CLUSTER_INFO, &[], &[])?.json()?["brokerAddrTable"])
}

/// The brokers that hold a topic, for clients of `namesrv`; empty for an unknown topic.
pub fn route(namesrv: &str, topic: &str) -> Result<Brokers> {
    let mut connection = Connection::open(namesrv, Duration::from_secs(3))?;
    let response = connection.ask(GET_ROUTEINFO_BY_TOPIC, &[("topic", topic)], &[])?;
    if response.code == 17 {
        return Ok(Brokers::new());
    }
    ensure!(response.code == 0, "route of {topic}: code {}: {}", response.code, response.remark);
    let json = response.json()?;
    let datas = json["brokerDatas"].as_array().context("no brokerDatas")?;
    let named = datas.iter().map(|data| (data["brokerName"].as_str().unwrap_or("").to_owned(), data.clone()));
    addresses(&Value::Object(named.collect()))
}

fn addresses(table: &Value) -> Result<Brokers> {
    let table = table.as_object().context("no table of brokers")?;
    let mut brokers = Brokers::new();
    for (name, broker) in table {
        let ids = broker["brokerAddrs"].as_object().context("no brokerAddrs")?;
        for (id, address) in ids {
            let address = address.as_str().context("an address that is no string")?;
            brokers.entry(name.clone()).or_default().insert(id.parse()?, address.to_owned());
        }
    }
    Ok(brokers)
}

/// Creates or updates a topic on one broker.
pub fn create_topic(broker: &str, topic: &str, queues: u32) -> Result<()> {
    let queues = queues.to_string();
    let fields = [
        ("topic", topic),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", &queues),
        ("writeQueueNums", &queues),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("topicSysFlag", "0"),
        ("order", "false"),
    ];
    call(broker, UPDATE_AND_CREATE_TOPIC, &fields, &[])?;
    Ok(())
}

/// How a group takes the messages of a topic from one broker: `PULL`, or `POP` by every client from every queue.
pub fn set_request_mode(broker: &str, topic: &str, group: &str, mode: &str) -> Result<()> {
    let body = json!({ "topic": topic, "consumerGroup": group, "mode": mode, "popShareQueueNum": 0 });
    call(broker, SET_MESSAGE_REQUEST_MODE, &[], body.to_string().as_bytes())?;
    Ok(())
}

/// The header fields of a send (code 10).
pub fn send_fields<'a>(topic: &'a str, queue: &'a str, properties: &'a str) -> [(&'a str, &'a str); 12] {
    [
        ("producerGroup", "it_raw"),
        ("topic", topic),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "4"),
        ("queueId", queue),
        ("sysFlag", "0"),
        ("bornTimestamp", "1700000000000"),
        ("flag", "0"),
        ("properties", properties),
        ("reconsumeTimes", "0"),
        ("unitMode", "false"),
        ("batch", "false"),
    ]
}

/// Where a message went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub queue: u32,
    pub offset: i64,
    /// The offset message id: address and position in the log.
    pub id: String,
}

impl Connection {
    /// Sends one message; an error unless it was stored.
    pub fn send(&mut self, topic: &str, queue: u32, body: &[u8]) -> Result<Stored> {
        let response = self.call(SEND_MESSAGE, &send_fields(topic, &queue.to_string(), ""), body)?;
        Ok(Stored {
            queue: response.field("queueId")?.parse()?,
            offset: response.field("queueOffset")?.parse()?,
            id: response.field("msgId")?.to_owned(),
        })
    }

    pub fn max_offset(&mut self, topic: &str, queue: u32) -> Result<i64> {
        let queue = queue.to_string();
        let response = self.call(GET_MAX_OFFSET, &[("topic", topic), ("queueId", &queue)], &[])?;
        Ok(response.field("offset")?.parse()?)
    }

    /// The broker's own numbers (code 28).
    pub fn runtime(&mut self) -> Result<BTreeMap<String, String>> {
        let json = self.call(GET_BROKER_RUNTIME_INFO, &[], &[])?.json()?;
        let table = json["table"].as_object().context("no table")?;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Ok(table.iter().map(|(name, value)| (name.clone(), text(value))).collect())
    }

    /// One pull from `offset` on, without waiting for messages; empty at the end of the queue.
    pub fn pull(&mut self, topic: &str, queue: u32, offset: i64) -> Result<Vec<StoredMessage>> {
        let (queue, offset) = (queue.to_string(), offset.to_string());
        let fields = [
            ("consumerGroup", "it_raw"),
            ("topic", topic),
            ("queueId", &queue),
            ("queueOffset", &offset),
            ("maxMsgNums", "32"),
            // the subscription is in this request
            ("sysFlag", "4"),
            ("commitOffset", "0"),
            ("suspendTimeoutMillis", "0"),
            ("subscription", "*"),
            ("subVersion", "0"),
            ("expressionType", "TAG"),
        ];
        let response = self.ask(PULL_MESSAGE, &fields, &[])?;
        match response.code {
            0 => StoredMessage::decode_all(&response.body),
            // PULL_NOT_FOUND, PULL_RETRY_IMMEDIATELY
            19 | 20 => Ok(Vec::new()),
            code => bail!("pull: code {code}: {}", response.remark),
        }
    }
}

/// A message as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    pub queue: u32,
    pub offset: i64,
    pub position: i64,
    pub stored_ms: i64,
    pub body: Vec<u8>,
    pub topic: String,
    pub properties: String,
}

impl StoredMessage {
    fn decode_all(mut bytes: &[u8]) -> Result<Vec<StoredMessage>> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let size = Reader(bytes).u32()? as usize;
            ensure!(size >= 88 && size <= bytes.len(), "a message of {size} bytes, {} left", bytes.len());
            messages.push(Self::decode(&bytes[..size])?);
            bytes = &bytes[size..];
        }
        Ok(messages)
    }

    fn decode(bytes: &[u8]) -> Result<StoredMessage> {
        const BORN_V6: u32 = 1 << 4;
        const STORE_V6: u32 = 1 << 5;
        let mut reader = Reader(bytes);
        reader.take(4)?;
        let v2 = match reader.u32()? {
            0xDAA3_20A7 => false,
            0xDAA3_20AB => true,
            magic => bail!("magic {magic:08x}"),
        };
        reader.take(4)?;
        let queue = reader.u32()?;
        reader.take(4)?;
        let (offset, position) = (reader.i64()?, reader.i64()?);
        let flags = reader.u32()?;
        reader.take(8 + if flags & BORN_V6 == 0 { 8 } else { 20 })?;
        let stored_ms = reader.i64()?;
        reader.take(if flags & STORE_V6 == 0 { 8 } else { 20 } + 4 + 8)?;
        let length = reader.u32()? as usize;
        let body = reader.take(length)?.to_vec();
        let length = if v2 { reader.u16()? as usize } else { reader.take(1)?[0] as usize };
        let topic = String::from_utf8(reader.take(length)?.to_vec())?;
        let length = reader.u16()? as usize;
        let properties = String::from_utf8(reader.take(length)?.to_vec())?;
        Ok(StoredMessage { queue, offset, position, stored_ms, body, topic, properties })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length).context("a message ends early")?;
        self.0 = rest;
        Ok(head)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into()?))
    }

    fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.take(8)?.try_into()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_a_round_trip() {
        let bytes = encode(105, 7, 0, &[("topic", "t")], b"body");
        assert_eq!(bytes.len() - 4, u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize);
        let command = Command::decode(&bytes[4..]).unwrap();
        assert_eq!((command.code, command.opaque, command.body.as_slice()), (105, 7, b"body".as_slice()));
        assert_eq!(command.field("topic").unwrap(), "t");
        assert!(command.field("other").is_err());
    }

    #[test]
    fn fastjson_keys_get_their_quotes() {
        let value = loose_json(br#"{"a":{0:"x:1",-1:"y"},"b":[1,2,{3:4}],"c":"{5:\"6"}"#).unwrap();
        assert_eq!(value, json!({"a": {"0": "x:1", "-1": "y"}, "b": [1, 2, {"3": 4}], "c": "{5:\"6"}));
        assert!(loose_json(b"{").is_err());
    }

    #[test]
    fn a_stored_message_is_read() {
        let mut bytes = Vec::new();
        bytes.extend(0xDAA3_20A7_u32.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(3_u32.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(11_i64.to_be_bytes());
        bytes.extend(4096_i64.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend([0; 16]);
        bytes.extend(99_i64.to_be_bytes());
        bytes.extend([0; 20]);
        bytes.extend(2_u32.to_be_bytes());
        bytes.extend(b"hi\x01t\x00\x03a\x01b");
        let mut whole = ((bytes.len() + 4) as u32).to_be_bytes().to_vec();
        whole.extend(bytes);
        let twice = [whole.clone(), whole.clone()].concat();
        let messages = StoredMessage::decode_all(&twice).unwrap();
        assert_eq!(messages.len(), 2);
        let StoredMessage { queue, offset, position, stored_ms, body, topic, properties } = &messages[1];
        assert_eq!((*queue, *offset, *position, *stored_ms), (3, 11, 4096, 99));
        assert_eq!((body.as_slice(), topic.as_str(), properties.as_str()), (&b"hi"[..], "t", "a\u{1}b"));
        assert!(StoredMessage::decode_all(&whole[..whole.len() - 1]).is_err());
    }
}
