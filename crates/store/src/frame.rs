//! One Raft entry as bytes: docs/formats.md 2.2.
//!
//! ```text
//!  0 magic  4 kind  8 body length  12 CRC32C  16 term  24 index  32 position  40 log time  48 prev  56 zero  64 body, zeros to 8
//! ```
//! A [`Draft`] becomes a [`Frame`] once, in the leader's append; every other replica takes the frame as it is
//! (log.md 8). `prev` chains the frames: a stale frame can never continue a log that it was not written for (log.md 5).

use bytes::{Bytes, BytesMut};
use wire::LogPosition;
use xxhash_rust::xxh3::xxh3_64;

use crate::bytes_at::{array, put, u32_at, u64_at};
use crate::error::StoreError;
use crate::ids::{LogId, LogIndex, Term};
use crate::limits::{DRAFT_SLACK_MAX, FRAME_ALIGN, FRAME_LEN_MAX, HEADER_LEN, POSITION_MAX};
use crate::mutant::Mutant;

/// `RMQ` and format version 1.
pub const FRAME_MAGIC: u32 = 0x524D_5101;

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Stored messages, back to back.
    Messages = 1,
    /// One command to the broker's tables.
    Command = 2,
    /// Nothing: the first entry of a leader's term.
    Blank = 3,
    /// The members of the group.
    Membership = 4,
    /// A command to the broker's tables and stored messages, which take effect together or not at all.
    Coupled = 5,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Messages),
            2 => Some(Self::Command),
            3 => Some(Self::Blank),
            4 => Some(Self::Membership),
            5 => Some(Self::Coupled),
            _ => None,
        }
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a header, or than the header says.
    #[error("{have} bytes of a frame of {needed}")]
    Short {
        /// Bytes of the frame, as far as known.
        needed: u64,
        /// Bytes that there are.
        have: u64,
    },
    /// More bytes than one frame.
    #[error("{extra} bytes behind the frame")]
    Long {
        /// How many.
        extra: u64,
    },
    /// Not the magic number of a frame of this format.
    #[error("magic {0:#010x}")]
    Magic(u32),
    /// A kind that this version does not know.
    #[error("kind {0}")]
    Kind(u8),
    /// A reserved field or the padding is not zero.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// A coupled body that ends before its command does.
    #[error("a coupled body of {body} bytes whose command ends at {end}")]
    Command {
        /// Where in the body the command would end.
        end: u64,
        /// Bytes of the body.
        body: u32,
    },
    /// Longer than a frame may be.
    #[error("a body of {0} bytes")]
    TooLarge(u32),
    /// The checksum is wrong.
    #[error("CRC32C is {computed:#010x}, the header says {stored:#010x}")]
    Checksum {
        /// From the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
}

/// The fields of a frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: FrameKind,
    pub(crate) body_len: u32,
    pub(crate) crc: u32,
    pub(crate) id: LogId,
    pub(crate) position: LogPosition,
    pub(crate) log_time_ms: u64,
    pub(crate) prev: u64,
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let Head { kind, body_len, crc, id, position, log_time_ms, prev } = *self;
        let mut bytes = [0; HEADER_LEN];
        put(&mut bytes, 0, &FRAME_MAGIC.to_be_bytes());
        put(&mut bytes, 4, &[kind as u8]);
        put(&mut bytes, 8, &body_len.to_be_bytes());
        put(&mut bytes, 12, &crc.to_be_bytes());
        put(&mut bytes, 16, &id.term.0.to_be_bytes());
        put(&mut bytes, 24, &id.index.0.to_be_bytes());
        put(&mut bytes, 32, &position.0.to_be_bytes());
        put(&mut bytes, 40, &log_time_ms.to_be_bytes());
        put(&mut bytes, 48, &prev.to_be_bytes());
        bytes
    }

    /// Reads a header; the checksum is not looked at.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() < HEADER_LEN {
            return Err(FrameError::Short { needed: HEADER_LEN as u64, have: bytes.len() as u64 });
        }
        let magic = u32_at(bytes, 0);
        if magic != FRAME_MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let [kind, reserved @ ..] = array::<4>(bytes, 4);
        let kind = FrameKind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        if reserved != [0; 3] || u64_at(bytes, 56) != 0 {
            return Err(FrameError::Reserved);
        }
        let body_len = u32_at(bytes, 8);
        if frame_len(body_len) > FRAME_LEN_MAX {
            return Err(FrameError::TooLarge(body_len));
        }
        Ok(Self {
            kind,
            body_len,
            crc: u32_at(bytes, 12),
            id: LogId { term: Term(u64_at(bytes, 16)), index: LogIndex(u64_at(bytes, 24)) },
            position: LogPosition(u64_at(bytes, 32)),
            log_time_ms: u64_at(bytes, 40),
            prev: u64_at(bytes, 48),
        })
    }

    pub(crate) fn frame_len(&self) -> u64 {
        frame_len(self.body_len)
    }
}

/// Bytes of the frame of a body: header, body, padding.
pub fn frame_len(body_len: u32) -> u64 {
    (HEADER_LEN as u64 + u64::from(body_len)).next_multiple_of(FRAME_ALIGN)
}

/// Bytes 0..12, 16..64, the body and the padding.
fn checksum(frame: &[u8]) -> u32 {
    let head = crc32c::crc32c(frame.get(..12).unwrap_or_default());
    crc32c::crc32c_append(head, frame.get(16..).unwrap_or_default())
}

/// Bytes of a coupled body before its command: the length of it.
const COMMAND_LEN_LEN: usize = 4;

/// Where in a body its records begin, which end with it. A body without records has them begin at its end.
fn records_at(kind: FrameKind, body: &[u8]) -> Result<usize, FrameError> {
    match kind {
        FrameKind::Messages => Ok(0),
        FrameKind::Command | FrameKind::Blank | FrameKind::Membership => Ok(body.len()),
        FrameKind::Coupled => {
            let short = |end| FrameError::Command { end, body: body.len() as u32 };
            let head = body.first_chunk::<COMMAND_LEN_LEN>().ok_or(short(COMMAND_LEN_LEN as u64))?;
            let end = COMMAND_LEN_LEN as u64 + u64::from(u32::from_be_bytes(*head));
            if end <= body.len() as u64 { Ok(end as usize) } else { Err(short(end)) }
        }
    }
}

/// A finished frame whose bytes were checked. A clone counts a reference.
#[derive(Clone)]
pub struct Frame {
    bytes: Bytes,
    head: Head,
    chain: u64,
    /// Where in the bytes the records begin, at most where the body ends.
    records_at: usize,
}

impl Frame {
    /// Checks the bytes of exactly one frame: magic, kind, lengths, padding, checksum. That it continues a log (position,
    /// chain, index) is for that log to check.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn parse(bytes: Bytes) -> Result<Self, FrameError> {
        let frame = Self::parse_first(&bytes)?;
        match bytes.len() as u64 - frame.len() {
            0 => Ok(frame),
            extra => Err(FrameError::Long { extra }),
        }
    }

    /// Checks the frame at the start of the bytes; what follows is not looked at.
    ///
    /// # Errors
    /// What is wrong with the bytes; [`FrameError::Short`] tells how many are needed.
    pub fn parse_first(bytes: &Bytes) -> Result<Self, FrameError> {
        let head = Head::decode(bytes)?;
        let len = head.frame_len();
        if (bytes.len() as u64) < len {
            return Err(FrameError::Short { needed: len, have: bytes.len() as u64 });
        }
        let bytes = bytes.slice(..len as usize);
        let computed = checksum(&bytes);
        if computed != head.crc {
            return Err(FrameError::Checksum { stored: head.crc, computed });
        }
        let (body, padding) = bytes
            .get(HEADER_LEN..)
            .and_then(|rest| rest.split_at_checked(head.body_len as usize))
            .unwrap_or_default();
        if padding.iter().any(|byte| *byte != 0) {
            return Err(FrameError::Reserved);
        }
        let records_at = HEADER_LEN + records_at(head.kind, body)?;
        let chain = xxh3_64(bytes.get(..HEADER_LEN).unwrap_or_default());
        Ok(Self { bytes, head, chain, records_at })
    }

    /// Term and index.
    pub fn id(&self) -> LogId {
        self.head.id
    }

    /// What it holds.
    pub fn kind(&self) -> FrameKind {
        self.head.kind
    }

    /// Where its header is in the log.
    pub fn position(&self) -> LogPosition {
        self.head.position
    }

    /// Where its body is in the log.
    pub fn body_position(&self) -> LogPosition {
        LogPosition(self.head.position.0.saturating_add(HEADER_LEN as u64))
    }

    /// Where the first of its [records](Frame::records) is in the log.
    pub fn records_position(&self) -> LogPosition {
        LogPosition(self.head.position.0.saturating_add(self.records_at as u64))
    }

    /// The position after its padding.
    pub fn end(&self) -> LogPosition {
        LogPosition(self.head.position.0.saturating_add(self.len()))
    }

    /// Bytes of header, body and padding.
    #[allow(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> u64 {
        self.head.frame_len()
    }

    /// Log time, ms since 1970; never below the previous frame's.
    pub fn log_time_ms(&self) -> u64 {
        self.head.log_time_ms
    }

    /// The chain value of the previous frame, 0 before the first.
    pub fn prev(&self) -> u64 {
        self.head.prev
    }

    /// Its own chain value: XXH3-64 of its header, which covers everything before.
    pub fn chain(&self) -> u64 {
        self.chain
    }

    /// The body, without padding.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(HEADER_LEN..HEADER_LEN + self.head.body_len as usize)
    }

    /// The command of a command entry or of a coupled one.
    pub fn command(&self) -> Option<Bytes> {
        match self.head.kind {
            FrameKind::Command => Some(self.body()),
            FrameKind::Coupled => Some(self.bytes.slice(HEADER_LEN + COMMAND_LEN_LEN..self.records_at)),
            FrameKind::Messages | FrameKind::Blank | FrameKind::Membership => None,
        }
    }

    /// The stored messages of a messages entry or of a coupled one, back to back; empty where it has none.
    pub fn records(&self) -> Bytes {
        self.bytes.slice(self.records_at..HEADER_LEN + self.head.body_len as usize)
    }

    /// The whole frame, as it is on disk and between peers.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Head { kind, body_len, id, position, .. } = self.head;
        write!(f, "{kind:?}{id} at {position}, {body_len} bytes")
    }
}

/// What a leader appends: an entry whose place in the log is not yet known.
#[derive(Debug)]
pub struct Draft {
    /// Term and index; the index is the last one's plus 1.
    pub id: LogId,
    /// What it holds.
    pub kind: FrameKind,
    /// Log time, ms since 1970; 0: that of the previous frame. A time below the previous frame's is raised to it. It
    /// becomes the store timestamp of each record.
    pub log_time_ms: u64,
    /// 64 bytes of room for the header, then the body; see [`Draft::room`]. 7 bytes of spare capacity save a copy.
    pub buffer: BytesMut,
}

impl Draft {
    /// A buffer for a draft: room for the header, and capacity for `body_len` bytes of body and the padding.
    pub fn room(body_len: usize) -> BytesMut {
        let mut buffer = BytesMut::with_capacity(HEADER_LEN + body_len + FRAME_ALIGN as usize - 1);
        buffer.resize(HEADER_LEN, 0);
        buffer
    }

    /// A buffer for a coupled draft: the command is in it, and there is capacity for `records_len` bytes of records, which
    /// come behind.
    pub fn coupled_room(command: &[u8], records_len: usize) -> BytesMut {
        let mut buffer = Self::room(COMMAND_LEN_LEN + command.len() + records_len);
        // What does not fit 32 bits does not fit a frame either, which `append` says.
        buffer.extend_from_slice(&u32::try_from(command.len()).unwrap_or(u32::MAX).to_be_bytes());
        buffer.extend_from_slice(command);
        buffer
    }

    /// A draft whose body is copied.
    pub fn new(id: LogId, kind: FrameKind, log_time_ms: u64, body: &[u8]) -> Self {
        let mut buffer = Self::room(body.len());
        buffer.extend_from_slice(body);
        Self { id, kind, log_time_ms, buffer }
    }

    /// Bytes of the frame that it becomes.
    pub(crate) fn frame_len(&self) -> Result<u64, StoreError> {
        let index = self.id.index;
        let Some(body) = self.buffer.len().checked_sub(HEADER_LEN) else {
            return Err(StoreError::Mismatch { index, reason: "a draft without room for its header".into() });
        };
        let len = (self.buffer.len() as u64).next_multiple_of(FRAME_ALIGN);
        match u32::try_from(body) {
            Ok(_) if len <= FRAME_LEN_MAX => Ok(len),
            _ => Err(StoreError::TooLarge { len, max: FRAME_LEN_MAX }),
        }
    }

    /// Fills in everything that depends on the place in the log, in the buffer itself.
    pub(crate) fn finish(self, position: LogPosition, after: &Tail) -> Result<Frame, StoreError> {
        let len = self.frame_len()? as usize;
        let Draft { id, kind, log_time_ms, buffer: mut bytes } = self;
        let body_len = bytes.len() - HEADER_LEN;
        bytes.resize(len, 0);
        let time = log_time_ms.max(after.log_time_ms);
        let mismatch = |reason| StoreError::Mismatch { index: id.index, reason };
        let body = bytes.get(HEADER_LEN..HEADER_LEN + body_len).unwrap_or_default();
        let records_at = HEADER_LEN + records_at(kind, body).map_err(|error| mismatch(error.to_string()))?;
        let records = bytes.get_mut(records_at..HEADER_LEN + body_len).unwrap_or_default();
        if kind == FrameKind::Messages && records.is_empty() {
            return Err(mismatch("a messages frame without a record".into()));
        }
        let first = position.0 + records_at as u64;
        patch_records(records, first, time.try_into().unwrap_or(i64::MAX)).map_err(mismatch)?;
        let mut head = Head {
            kind,
            body_len: body_len as u32,
            crc: 0,
            id,
            position,
            log_time_ms: time,
            prev: after.chain,
        };
        put(&mut bytes, 0, &head.encode());
        head.crc = checksum(&bytes);
        put(&mut bytes, 12, &head.crc.to_be_bytes());
        let chain = xxh3_64(bytes.get(..HEADER_LEN).unwrap_or_default());
        let bytes = if bytes.capacity() > 2 * len + DRAFT_SLACK_MAX {
            Bytes::copy_from_slice(&bytes)
        } else {
            bytes.freeze()
        };
        Ok(Frame { bytes, head, chain, records_at })
    }
}

/// Writes into each record where it lies and its store time, which is the frame's log time.
fn patch_records(records: &mut [u8], mut position: u64, time_ms: i64) -> Result<(), String> {
    let mut rest = records;
    while !rest.is_empty() {
        let size = u32_at(rest, 0) as usize;
        let magic = u32_at(rest, 4);
        if size < wire::RECORD_BYTES_MIN || size > rest.len() {
            return Err(format!("a record of {size} bytes in {} bytes of body", rest.len()));
        }
        if magic != wire::MAGIC_V1 && magic != wire::MAGIC_V2 {
            return Err(format!("a record with magic {magic:#010x}"));
        }
        let (record, tail) = rest.split_at_mut(size);
        wire::patch_position(record, LogPosition(position)).map_err(|error| error.to_string())?;
        wire::patch_store_timestamp(record, time_ms).map_err(|error| error.to_string())?;
        position += size as u64;
        rest = tail;
    }
    Ok(())
}

/// What the next frame must continue: the state after some frame, or after the origin of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The last entry; `None` before the first entry of a log that starts at index 0.
    pub(crate) id: Option<LogId>,
    /// The index of the next entry.
    pub(crate) next: LogIndex,
    /// The position after the last frame (before placement of the next one).
    pub(crate) end: LogPosition,
    /// The chain value of the last frame, 0 before the first.
    pub(crate) chain: u64,
    /// The log time of the last frame, ms.
    pub(crate) log_time_ms: u64,
}

impl Tail {
    pub(crate) fn after(frame: &Frame) -> Self {
        Self {
            id: Some(frame.id()),
            next: frame.id().index.next(),
            end: frame.end(),
            chain: frame.chain(),
            log_time_ms: frame.log_time_ms(),
        }
    }

    /// Where a log goes on whose entries up to a boundary, this one, are gone: at the start of the next segment.
    pub(crate) fn at_next_segment(self, segment_size: u64) -> Result<Self, StoreError> {
        let end = self.end.0.checked_next_multiple_of(segment_size).filter(|end| *end <= POSITION_MAX);
        match end.filter(|_| self.next.0 < u64::MAX) {
            Some(end) => Ok(Self { end: LogPosition(end), ..self }),
            None => {
                let Self { id, end, .. } = self;
                Err(StoreError::Invariant(format!("{id:?}, which ends at position {end}, is beyond any log")))
            }
        }
    }

    pub(crate) fn term(&self) -> Term {
        self.id.map_or(Term(0), |id| id.term)
    }

    /// Whether `frame`, which belongs at `position`, is the next one.
    pub(crate) fn check(&self, frame: &Frame, position: LogPosition) -> Result<(), String> {
        let Head { id, position: found, prev, log_time_ms, .. } = frame.head;
        if id.index != self.next {
            return Err(format!("index {} where {} belongs", id.index, self.next));
        }
        if found != position {
            return Err(format!("position {found} where {position} belongs"));
        }
        if prev != self.chain && !Mutant::FramesNotChained.is_on() {
            return Err(format!(
                "it follows the frame with chain value {prev:016x}, the last one here has {:016x}",
                self.chain
            ));
        }
        if id.term < self.term() {
            return Err(format!("term {} after term {}", id.term, self.term()));
        }
        if log_time_ms < self.log_time_ms {
            return Err(format!("log time {log_time_ms} after {}", self.log_time_ms));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tail(index: u64, chain: u64, log_time_ms: u64) -> Tail {
        let id = index.checked_sub(1).map(|last| LogId::new(1, last));
        Tail { id, next: LogIndex(index), end: LogPosition(4096), chain, log_time_ms }
    }

    fn frame(body: &[u8]) -> Frame {
        let draft = Draft::new(LogId::new(3, 7), FrameKind::Command, 1_700_000_000_000, body);
        draft.finish(LogPosition(4096), &tail(7, 0x1122_3344_5566_7788, 5)).unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let bytes = frame(b"hello").bytes().clone();
        let rows: Vec<String> = bytes.chunks(8).map(|row| format!("{:016x}", u64_at(row, 0))).collect();
        insta::assert_snapshot!(rows.join("\n"), @r"
        524d510102000000
        00000005f2afbaa6
        0000000000000003
        0000000000000007
        0000000000001000
        0000018bcfe56800
        1122334455667788
        0000000000000000
        68656c6c6f000000
        ");
    }

    /// A message as it is proposed.
    fn record(body: &[u8]) -> BytesMut {
        let host = "10.0.0.1:10911".parse().unwrap();
        let message = wire::NewMessage {
            topic: "T",
            queue_id: wire::QueueId(1),
            flag: 0,
            sys_flag: 0,
            born_timestamp: 7,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body,
            properties: "",
        };
        let mut record = BytesMut::new();
        wire::encode_message(&message, &mut record).unwrap();
        record
    }

    fn coupled(command: &[u8], records: &[u8]) -> Draft {
        let mut buffer = Draft::coupled_room(command, records.len());
        let capacity = buffer.capacity();
        buffer.extend_from_slice(records);
        assert_eq!(buffer.capacity(), capacity, "the room is known before");
        Draft { id: LogId::new(3, 7), kind: FrameKind::Coupled, log_time_ms: 1_700_000_000_000, buffer }
    }

    /// The bytes of a frame with any body, and with a checksum that fits.
    fn framed(kind: u8, body: &[u8]) -> Bytes {
        let mut bytes = frame(body).bytes().to_vec();
        bytes[4] = kind;
        let crc = checksum(&bytes);
        put(&mut bytes, 12, &crc.to_be_bytes());
        Bytes::from(bytes)
    }

    #[test]
    fn the_bytes_of_a_coupled_frame_are_those_of_the_format() {
        let frame = coupled(b"do it", &[]).finish(LogPosition(4096), &tail(7, 0, 5)).unwrap();
        let rows: Vec<String> =
            frame.bytes().chunks(8).map(|row| format!("{:016x}", u64_at(row, 0))).collect();
        insta::assert_snapshot!(rows.join("\n"), @r"
        524d510105000000
        0000000954eaf93f
        0000000000000003
        0000000000000007
        0000000000001000
        0000018bcfe56800
        0000000000000000
        0000000000000000
        00000005646f2069
        7400000000000000
        ");
        let record = record(b"hello");
        let frame = coupled(b"do it", &record).finish(LogPosition(4096), &tail(7, 0, 5)).unwrap();
        assert_eq!(frame.body()[..9], *b"\0\0\0\x05do it");
        assert_eq!(frame.records_position(), LogPosition(4096 + 64 + 9));
        let records = frame.records();
        let stored = wire::StoredMessage::parse(&records).unwrap();
        assert_eq!((stored.position, stored.store_timestamp), (LogPosition(4169), 1_700_000_000_000));
        assert_eq!((stored.body, stored.size()), (&b"hello"[..], record.len()));
    }

    #[test]
    fn the_halves_of_each_kind() {
        let halves = |kind: u8, body: &[u8]| {
            let frame = Frame::parse(framed(kind, body)).unwrap();
            let (body, command, records) = (frame.body(), frame.command(), frame.records());
            // Halves are parts of the body, which they do not copy.
            let at = (frame.records_position().0 - frame.body_position().0) as usize;
            assert_eq!(body.slice(at..), records);
            (command, records)
        };
        let bytes = Bytes::from_static;
        assert_eq!(halves(1, b"records"), (None, bytes(b"records")));
        assert_eq!(halves(2, b"command"), (Some(bytes(b"command")), Bytes::new()));
        assert_eq!(halves(3, b""), (None, Bytes::new()));
        assert_eq!(halves(4, b"members"), (None, Bytes::new()));
        assert_eq!(halves(5, b"\0\0\0\x02dorecords"), (Some(bytes(b"do")), bytes(b"records")));
        assert_eq!(halves(5, b"\0\0\0\x02do"), (Some(bytes(b"do")), Bytes::new()));
        assert_eq!(halves(5, b"\0\0\0\0records"), (Some(Bytes::new()), bytes(b"records")));
        assert_eq!(halves(5, b"\0\0\0\0"), (Some(Bytes::new()), Bytes::new()));
    }

    #[test]
    fn a_command_that_is_longer_than_its_body_is_an_error() {
        for (body, end) in [
            (&b""[..], 4),
            (b"\0\0\0", 4),
            (b"\0\0\0\x01", 5),
            (b"\0\0\0\x06do it", 10),
            (b"\xff\xff\xff\xffdo it", (1 << 32) + 3),
        ] {
            let error = Frame::parse(framed(5, body)).unwrap_err();
            assert_eq!(error, FrameError::Command { end, body: body.len() as u32 });
            let draft = Draft::new(LogId::new(3, 7), FrameKind::Coupled, 1, body);
            let error = draft.finish(LogPosition(4096), &tail(7, 0, 5)).unwrap_err();
            assert!(error.to_string().contains("whose command ends at"), "{error}");
        }
        let error = coupled(b"do it", b"no record").finish(LogPosition(4096), &tail(7, 0, 5)).unwrap_err();
        assert!(error.to_string().contains("in 9 bytes"), "{error}");
    }

    #[test]
    fn what_is_not_a_frame_is_an_error() {
        let good = frame(b"hello").bytes().to_vec();
        let check = |change: &dyn Fn(&mut Vec<u8>), expect: &str| {
            let mut bytes = good.clone();
            change(&mut bytes);
            let error = Frame::parse(Bytes::from(bytes)).unwrap_err().to_string();
            assert!(error.contains(expect), "{error} / {expect}");
        };
        check(&|bytes| bytes.truncate(63), "63 bytes of a frame of 64");
        check(&|bytes| bytes.truncate(71), "71 bytes of a frame of 72");
        check(&|bytes| bytes.push(0), "1 bytes behind");
        check(&|bytes| bytes[3] = 2, "magic 0x524d5102");
        check(&|bytes| bytes[4] = 0, "kind 0");
        check(&|bytes| bytes[4] = 6, "kind 6");
        check(&|bytes| bytes[6] = 1, "reserved");
        check(&|bytes| bytes[60] = 1, "reserved");
        check(&|bytes| bytes[8] = 0xff, "a body of");
        check(&|bytes| bytes[20] ^= 1, "CRC32C");
        check(&|bytes| bytes[66] ^= 1, "CRC32C");
        // Padding that is not zero, with a checksum that says so.
        check(
            &|bytes| {
                bytes[71] = 1;
                let crc = checksum(bytes);
                put(bytes, 12, &crc.to_be_bytes());
            },
            "reserved",
        );
        assert!(Frame::parse(Bytes::from(good)).is_ok());
    }

    proptest! {
        #[test]
        fn a_draft_becomes_a_frame_that_reads_back(
            body: Vec<u8>, term in 1_u64.., index: u64, position: u64, chain: u64, time: u64, after_time: u64, kind in 2_u8..=4,
            flip: u32, spare in 0_usize..100_000,
        ) {
            let kind = FrameKind::from_byte(kind).unwrap();
            let mut buffer = Draft::room(body.len() + spare);
            buffer.extend_from_slice(&body);
            let id = LogId::new(term, index);
            let draft = Draft { id, kind, log_time_ms: time, buffer };
            let len = draft.frame_len().unwrap();
            let position = LogPosition(position >> 2);
            let frame = draft.finish(position, &tail(index, chain, after_time)).unwrap();
            prop_assert_eq!(frame.len(), len);
            let mut bytes = frame.bytes().to_vec();
            let back = Frame::parse(Bytes::from(bytes.clone())).unwrap();
            prop_assert_eq!(back.head, frame.head);
            prop_assert_eq!((back.chain(), back.body()), (frame.chain(), Bytes::from(body)));
            prop_assert_eq!((back.id(), back.kind(), back.position(), back.prev()), (id, kind, position, chain));
            prop_assert_eq!(back.log_time_ms(), time.max(after_time));
            prop_assert_eq!((back.end().0 - position.0, back.end().0 % 8), (len, position.0 % 8));
            let bit = flip as usize % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Frame::parse(Bytes::from(bytes)).is_err());
        }

        #[test]
        fn a_coupled_draft_becomes_a_frame_with_the_same_halves(
            command: Vec<u8>, bodies: Vec<Vec<u8>>, position in 0..1_u64 << 62, time in 0..1_u64 << 60, flip: u32,
        ) {
            let records: Vec<u8> = bodies.iter().flat_map(|body| record(body)).collect();
            let draft = Draft { log_time_ms: time, ..coupled(&command, &records) };
            let frame = draft.finish(LogPosition(position), &tail(7, 0, 5)).unwrap();
            let mut bytes = frame.bytes().to_vec();
            let back = Frame::parse(Bytes::from(bytes.clone())).unwrap();
            prop_assert_eq!((back.kind(), back.command()), (FrameKind::Coupled, Some(Bytes::from(command))));
            prop_assert_eq!((back.records(), back.records_position()), (frame.records(), frame.records_position()));
            prop_assert_eq!(back.records().len(), records.len());
            let (mut at, mut count) = (back.records_position(), 0);
            for (stored, body) in wire::Messages::new(&back.records()).zip(&bodies) {
                let stored = stored.unwrap();
                prop_assert_eq!((stored.position, stored.body), (at, &body[..]));
                prop_assert_eq!(stored.store_timestamp as u64, time.max(5));
                at = at.plus(stored.size() as u64);
                count += 1;
            }
            prop_assert_eq!((count, at.0 - position), (bodies.len(), 64 + back.body().len() as u64));
            let bit = flip as usize % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Frame::parse(Bytes::from(bytes)).is_err());
        }

        #[test]
        fn any_body_of_a_coupled_frame_is_no_panic(mut body: Vec<u8>, small: bool) {
            if small && body.len() > 4 {
                body[..3].fill(0);
            }
            if let Ok(frame) = Frame::parse(framed(5, &body)) {
                let command = frame.command().unwrap();
                prop_assert_eq!(4 + command.len() + frame.records().len(), body.len());
            }
            let draft = Draft::new(LogId::new(1, 0), FrameKind::Coupled, 1, &body);
            let _ = draft.finish(LogPosition(4096), &tail(0, 0, 0));
        }

        #[test]
        fn any_bytes_are_no_panic(mut bytes: Vec<u8>, magic: bool) {
            if magic && bytes.len() > 5 {
                bytes[..4].copy_from_slice(&FRAME_MAGIC.to_be_bytes());
                bytes[4] = 1;
            }
            let _ = Frame::parse(Bytes::from(bytes));
        }

        #[test]
        fn any_body_of_a_messages_draft_is_no_panic(body: Vec<u8>, size: u8, magic: bool) {
            let mut body = body;
            if magic && body.len() > 8 {
                body[..3].fill(0);
                body[3] = size;
                body[4..8].copy_from_slice(&wire::MAGIC_V1.to_be_bytes());
            }
            let draft = Draft::new(LogId::new(1, 0), FrameKind::Messages, 1, &body);
            let _ = draft.finish(LogPosition(4096), &tail(0, 0, 0));
        }
    }
}
