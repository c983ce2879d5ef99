//! One remoting command, and the frame it travels in.
//!
//! ```text
//! off  len        field                                                       all big-endian
//!  0    4         length L of what follows (= 4 + header + body)
//!  4    1         serialisation of the header: 0 JSON, 1 ROCKETMQ
//!  5    3         length of the header
//!  8    header    header            (json_header.rs, binary_header.rs)
//!  ..   rest      body, often empty
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::codes::{RequestCode, ResponseCode};
use crate::ext::ExtFields;
use crate::language::{Language, VERSION};
use crate::{binary_header, json_header};

/// Largest frame a Java server takes, length word included: 16 MiB (NettyDecoder).
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

const FLAG_RESPONSE: i32 = 1;
const FLAG_ONEWAY: i32 = 2;

/// How the header of a frame is written. A reply uses what its request used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SerializeType {
    #[default]
    Json,
    RocketMq,
}

/// A request or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotingCommand {
    /// A [`RequestCode`] or, in a response, a [`ResponseCode`].
    pub code: i32,
    pub language: Language,
    /// Version ordinal of the sender (see [`crate::version`]).
    pub version: i32,
    /// The sender's number of the request, repeated in the response.
    pub opaque: i32,
    /// Bit 0: response. Bit 1: one-way, no response wanted.
    pub flag: i32,
    pub remark: Option<String>,
    pub ext: ExtFields,
    pub serialize: SerializeType,
    pub body: Bytes,
}

impl RemotingCommand {
    /// A request with opaque 0 (the connection gives it its number), in JSON, as a Java client of
    /// [`VERSION`].
    pub fn request(code: RequestCode) -> RemotingCommand {
        RemotingCommand {
            code: code.get(),
            language: Language::Java,
            version: VERSION,
            opaque: 0,
            flag: 0,
            remark: None,
            ext: ExtFields::new(),
            serialize: SerializeType::Json,
            body: Bytes::new(),
        }
    }

    /// The response to `request`: its opaque, its serialisation, bit 0 set. Says `JAVA` and
    /// [`VERSION`], which every client knows.
    pub fn response_to(request: &RemotingCommand, code: ResponseCode) -> RemotingCommand {
        RemotingCommand {
            code: code.get(),
            opaque: request.opaque,
            flag: FLAG_RESPONSE,
            serialize: request.serialize,
            ..RemotingCommand::request(RequestCode(0))
        }
    }

    #[must_use]
    pub fn with_remark(mut self, remark: impl Into<String>) -> RemotingCommand {
        self.remark = Some(remark.into());
        self
    }

    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> RemotingCommand {
        self.body = body.into();
        self
    }

    /// Adds the fields of a header.
    #[must_use]
    pub fn with_header(mut self, header: &impl crate::header::Header) -> RemotingCommand {
        header.encode(&mut self.ext);
        self
    }

    /// Sets one extension field.
    #[must_use]
    pub fn with_ext(mut self, key: &str, value: &str) -> RemotingCommand {
        self.ext.set(key, value);
        self
    }

    /// Marks a request as one-way.
    #[must_use]
    pub fn oneway(mut self) -> RemotingCommand {
        self.flag |= FLAG_ONEWAY;
        self
    }

    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONEWAY != 0
    }

    /// The code, read as a request's.
    pub fn request_code(&self) -> RequestCode {
        RequestCode(self.code)
    }

    /// The code, read as a response's.
    pub fn response_code(&self) -> ResponseCode {
        ResponseCode(self.code)
    }

    /// Appends the whole frame to `out`. The length word saturates for a frame beyond 4 GiB, which
    /// no peer accepts; keep bodies below [`FRAME_BYTES_MAX`].
    pub fn encode(&self, out: &mut BytesMut) {
        self.encode_head(out, self.body.len());
        out.extend_from_slice(&self.body);
    }

    /// Appends everything before the body, for a writer that sends a body of `body_bytes` bytes
    /// from elsewhere (a mapped segment) right after.
    pub fn encode_head(&self, out: &mut BytesMut, body_bytes: usize) {
        let start = out.len();
        let remark_bytes = self.remark.as_ref().map_or(0, String::len);
        out.reserve(160 + self.ext.text_bytes() + self.ext.len() * 6 + remark_bytes);
        out.put_u64(0);
        match self.serialize {
            SerializeType::Json => json_header::encode(self, out),
            SerializeType::RocketMq => binary_header::encode(self, out),
        }
        let header_bytes = out.len() - start - 8;
        let kind = match self.serialize {
            SerializeType::Json => 0,
            SerializeType::RocketMq => 1,
        };
        let length = u32::try_from(4 + header_bytes + body_bytes).unwrap_or(u32::MAX);
        let word = (kind << 24) | (header_bytes as u32 & 0x00FF_FFFF);
        if let Some(mut head) = out.get_mut(start..start + 8) {
            head.put_u32(length);
            head.put_u32(word);
        }
    }
}

/// Why bytes are not a frame. After any of these the stream has no meaning any more: close the
/// connection, as the Java broker does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Most often a peer that speaks another protocol, or TLS where none is expected.
    #[error("frame of {length} bytes exceeds the maximum of {max}")]
    TooLarge { length: u64, max: usize },
    #[error("frame length {0} is too short to hold a header")]
    TooShort(u32),
    #[error("header of {header} bytes does not fit a frame of {frame}")]
    HeaderOverrun { header: u32, frame: u32 },
    #[error("unknown header serialisation {0}")]
    UnknownSerializeType(u8),
    #[error("header cannot be read: {0}")]
    BadHeader(String),
}

impl FrameError {
    pub(crate) fn header(why: impl Into<String>) -> FrameError {
        FrameError::BadHeader(why.into())
    }
}

/// Takes the first frame off `buffer`; `Ok(None)` when it has not arrived whole. Lengths are checked
/// as soon as their bytes are there, before anything is allocated; `max_frame` bounds the frame
/// with its length word (see [`FRAME_BYTES_MAX`]). The body shares the buffer's memory.
pub fn decode_frame(buffer: &mut BytesMut, max_frame: usize) -> Result<Option<RemotingCommand>, FrameError> {
    let mut peek: &[u8] = buffer;
    let Ok(frame) = peek.try_get_u32() else { return Ok(None) };
    let whole = frame as usize + 4;
    if whole > max_frame {
        return Err(FrameError::TooLarge { length: whole as u64, max: max_frame });
    }
    if frame < 4 {
        return Err(FrameError::TooShort(frame));
    }
    let Ok(word) = peek.try_get_u32() else { return Ok(None) };
    let header = word & 0x00FF_FFFF;
    if header > frame - 4 {
        return Err(FrameError::HeaderOverrun { header, frame });
    }
    let serialize = match (word >> 24) as u8 {
        0 => SerializeType::Json,
        1 => SerializeType::RocketMq,
        other => return Err(FrameError::UnknownSerializeType(other)),
    };
    if buffer.len() < whole {
        return Ok(None);
    }
    let mut bytes = buffer.split_to(whole).freeze();
    bytes.advance(8);
    let header_bytes = bytes.split_to(header as usize);
    let mut command = match serialize {
        SerializeType::Json => json_header::decode(&header_bytes)?,
        SerializeType::RocketMq => binary_header::decode(&header_bytes)?,
    };
    if !bytes.is_empty() {
        command.body = bytes;
    }
    Ok(Some(command))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::golden::{self, unhex};
    use crate::{PopMessageRequest, SendMessageRequest};

    fn decode(bytes: &[u8]) -> Result<Option<RemotingCommand>, FrameError> {
        decode_frame(&mut BytesMut::from(bytes), FRAME_BYTES_MAX)
    }

    fn encode(command: &RemotingCommand) -> Vec<u8> {
        let mut out = BytesMut::new();
        command.encode(&mut out);
        out.to_vec()
    }

    #[test]
    fn java_frames_read_and_write_back_byte_for_byte() {
        for (hex, code, opaque) in [
            (golden::SEND_310_JSON, 310, 42),
            (golden::SEND_310_ROCKETMQ, 310, 42),
            (golden::SEND_10_JSON, 10, 43),
            (golden::SEND_10_ROCKETMQ, 10, 43),
        ] {
            let bytes = unhex(hex);
            let command = decode(&bytes).unwrap().unwrap();
            assert_eq!((command.code, command.opaque, command.version), (code, opaque, VERSION));
            assert_eq!(command.body, "hello");
            let header = SendMessageRequest::decode_for(command.request_code(), &command.ext).unwrap();
            assert_eq!(
                header,
                SendMessageRequest {
                    producer_group: "group-1",
                    topic: "orders",
                    default_topic: "TBW102",
                    default_topic_queue_nums: 4,
                    queue_id: 3,
                    sys_flag: 0,
                    born_timestamp: 1_700_000_000_123,
                    flag: 7,
                    properties: Some(
                        "UNIQ_KEY\u{1}7F0000010ABC18B4AAC20000000A0001\u{2}TAGS\u{1}tag\"é中\u{2}WAIT\u{1}true\u{2}"
                    ),
                    reconsume_times: Some(0),
                    unit_mode: Some(false),
                    max_reconsume_times: None,
                    batch: Some(false),
                    broker_name: Some("broker-a"),
                }
            );
            assert_eq!(encode(&command), bytes);
        }
    }

    #[test]
    fn java_responses_and_pop() {
        for hex in [golden::RESPONSE_JSON, golden::RESPONSE_ROCKETMQ] {
            let bytes = unhex(hex);
            let command = decode(&bytes).unwrap().unwrap();
            assert!(command.is_response());
            assert_eq!(command.response_code(), ResponseCode::TOPIC_NOT_EXIST);
            assert_eq!((command.opaque, command.remark.as_deref()), (-5, Some("topic[é] not exist\n")));
            assert_eq!(encode(&command), bytes);
        }
        let bytes = unhex(golden::POP_ROCKETMQ);
        let command = decode(&bytes).unwrap().unwrap();
        assert_eq!(command.request_code(), RequestCode::POP_MESSAGE);
        assert_eq!(PopMessageRequest::decode(&command.ext).unwrap().queue_id, -1);
        assert_eq!(encode(&command), bytes);
    }

    #[test]
    fn reply_frame() {
        let mut request = RemotingCommand::request(RequestCode::SEND_MESSAGE_V2);
        request.opaque = 7;
        let reply = RemotingCommand::response_to(&request, ResponseCode::SYSTEM_BUSY)
            .with_remark("a \"quoted\" \\ line\u{1}")
            .with_ext("queueId", "3")
            .with_body("body");
        let bytes = encode(&reply);
        let header = String::from_utf8_lossy(&bytes[8..bytes.len() - 4]).into_owned();
        insta::assert_snapshot!(header, @r#"{"code":2,"extFields":{"queueId":"3"},"flag":1,"language":"JAVA","opaque":7,"remark":"a \"quoted\" \\ line\u0001","serializeTypeCurrentRPC":"JSON","version":479}"#);
        assert_eq!(decode(&bytes).unwrap().unwrap(), reply);

        request.serialize = SerializeType::RocketMq;
        let mirrored = RemotingCommand::response_to(&request, ResponseCode::SUCCESS);
        assert_eq!(mirrored.serialize, SerializeType::RocketMq);
        assert!(mirrored.is_response() && !mirrored.is_oneway());
        assert!(RemotingCommand::request(RequestCode::HEART_BEAT).oneway().is_oneway());
    }

    #[test]
    fn lengths_are_checked_before_anything_else() {
        let check = |bytes: &[u8], max: usize, expect: Result<Option<()>, FrameError>| {
            let mut buffer = BytesMut::from(bytes);
            assert_eq!(decode_frame(&mut buffer, max).map(|frame| frame.map(|_| ())), expect, "{bytes:?}");
            assert_eq!(buffer, bytes, "nothing is taken from a frame that is not there");
        };
        check(b"", 64, Ok(None));
        check(&[0, 0, 0], 64, Ok(None));
        check(&[0, 0, 0, 60, 0], 64, Ok(None));
        check(&[0, 0, 0, 61], 64, Err(FrameError::TooLarge { length: 65, max: 64 }));
        check(b"GET / HTTP/1.1", 64, Err(FrameError::TooLarge { length: 0x4745_5420 + 4, max: 64 }));
        check(
            &[255; 4],
            FRAME_BYTES_MAX,
            Err(FrameError::TooLarge { length: 1 << 32 | 3, max: FRAME_BYTES_MAX }),
        );
        check(&[0, 0, 0, 3], 64, Err(FrameError::TooShort(3)));
        check(&[0, 0, 0, 9, 0, 0, 0, 6], 64, Err(FrameError::HeaderOverrun { header: 6, frame: 9 }));
        check(&[0, 0, 0, 9, 2, 0, 0, 5], 64, Err(FrameError::UnknownSerializeType(2)));
    }

    #[test]
    fn bad_headers_are_errors() {
        for (kind, header) in [
            (0, &b""[..]),
            (0, b"{"),
            (0, b"[]"),
            (0, b"{\"code\":1}x"),
            (0, b"{\"remark\":\"\xff\"}"),
            (1, b""),
            (1, &[0; 16]),
            (1, &[0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0]),
        ] {
            let mut bytes = BytesMut::new();
            bytes.put_u32(4 + header.len() as u32);
            bytes.put_u32(kind << 24 | header.len() as u32);
            bytes.extend_from_slice(header);
            assert!(matches!(decode(&bytes), Err(FrameError::BadHeader(_))), "{header:?}");
        }
    }

    fn any_ext() -> impl Strategy<Value = ExtFields> {
        prop::collection::vec(("[a-zA-Z_]{1,12}", ".{1,40}|[\u{0}-\u{20}\"\\\\]{1,9}"), 0..20)
            .prop_map(|pairs| pairs.into_iter().collect())
    }

    prop_compose! {
        fn any_command()(
            code in -1000_i32..32_000,
            language in prop::sample::select(Language::ALL),
            version in 0_i32..1000,
            opaque in any::<i32>(),
            flag in any::<i32>(),
            remark in prop::option::of(".{1,60}"),
            ext in any_ext(),
            binary in any::<bool>(),
            body in prop::collection::vec(any::<u8>(), 0..64),
        ) -> RemotingCommand {
            let serialize = if binary { SerializeType::RocketMq } else { SerializeType::Json };
            // 3442 and its kin read as pop codes.
            let code = if flag & 1 == 0 { code % 3000 } else { code };
            RemotingCommand { code, language, version, opaque, flag, remark, ext, serialize, body: body.into() }
        }
    }

    proptest! {
        #[test]
        fn frames_round_trip_however_they_arrive(
            commands in prop::collection::vec(any_command(), 1..4),
            piece in 1_usize..200,
        ) {
            let mut stream = BytesMut::new();
            for command in &commands {
                command.encode(&mut stream);
            }
            let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
            for bytes in stream.chunks(piece) {
                buffer.extend_from_slice(bytes);
                while let Some(command) = decode_frame(&mut buffer, FRAME_BYTES_MAX).unwrap() {
                    read.push(command);
                }
            }
            prop_assert_eq!(read, commands);
            prop_assert!(buffer.is_empty());
        }
    }
}
