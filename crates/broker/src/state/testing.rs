//! Frames as a log would hold them, for tests of what is applied.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use replica::StateMachine;
use store::{Frame, FrameKind};
use wire::{NewMessage, QueueId, QueueOffset};

use super::command::{Command, Kind, TopicConfig};
use super::{CommitBatch, State, rules};

const HEADER_LEN: usize = 64;

/// Makes frames one after the other: index, position and log time go on by themselves.
pub(crate) struct Frames {
    index: u64,
    position: u64,
    pub(crate) log_time_ms: u64,
}

impl Frames {
    pub(crate) fn new() -> Frames {
        Frames { index: 0, position: 4096, log_time_ms: 1_000_000 }
    }

    /// One entry of one message for each (topic, queue, queue offset).
    pub(crate) fn messages(&mut self, messages: &[(&str, u32, u64)]) -> Frame {
        let records = self.records(messages);
        self.frame(FrameKind::Messages, &records)
    }

    /// One entry of a command and such messages.
    pub(crate) fn coupled(&mut self, command: &Command, messages: &[(&str, u32, u64)]) -> Frame {
        let command = command.to_bytes();
        let mut body = BytesMut::from(&(command.len() as u32).to_be_bytes()[..]);
        body.extend_from_slice(&command);
        body.extend_from_slice(&self.records(messages));
        self.frame(FrameKind::Coupled, &body)
    }

    fn records(&self, messages: &[(&str, u32, u64)]) -> BytesMut {
        let mut records = BytesMut::new();
        for (topic, queue, offset) in messages {
            records.extend_from_slice(&record(topic, *queue, *offset, self.log_time_ms + 1, b"hello"));
        }
        records
    }

    pub(crate) fn command(&mut self, command: &Command) -> Frame {
        self.frame(FrameKind::Command, &command.to_bytes())
    }

    /// Log time goes on by one millisecond for each frame.
    pub(crate) fn frame(&mut self, kind: FrameKind, body: &[u8]) -> Frame {
        self.log_time_ms += 1;
        let len = (HEADER_LEN + body.len()).next_multiple_of(8);
        let mut bytes = vec![0u8; len];
        bytes[0..4].copy_from_slice(&store::FRAME_MAGIC.to_be_bytes());
        bytes[4] = kind as u8;
        bytes[8..12].copy_from_slice(&(body.len() as u32).to_be_bytes());
        bytes[16..24].copy_from_slice(&1u64.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.index.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.position.to_be_bytes());
        bytes[40..48].copy_from_slice(&self.log_time_ms.to_be_bytes());
        bytes[HEADER_LEN..HEADER_LEN + body.len()].copy_from_slice(body);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_be_bytes());
        self.index += 1;
        self.position += len as u64;
        Frame::parse(Bytes::from(bytes)).expect("a frame by docs/formats.md")
    }
}

/// A state with three topics and two groups:
/// `T` of 2 queues (offsets 0..3 and 0..1), `U` of 1 empty queue, `%RETRY%g`; group `g` has consumed 2 of T/0 and
/// nothing else; group `h` exists.
pub(crate) fn small_state() -> State {
    let state = State::new();
    let mut frames = Frames::new();
    let topic = |name: &str, queues| {
        let config = TopicConfig {
            name: name.into(),
            read_queues: queues,
            write_queues: queues,
            perm: 6,
            ..TopicConfig::default()
        };
        Command::create_topic(config)
    };
    for command in [
        topic("T", 2),
        topic("U", 1),
        Command::create_group(rules::default_group("g")),
        Kind::UpdateGroup(rules::default_group("h")).into(),
    ] {
        state.apply(&frames.command(&command));
    }
    state.apply(&frames.messages(&[("T", 0, 0), ("T", 0, 1), ("T", 1, 0), ("T", 0, 2)]));
    let key = state.commit_key("T", "g").expect("both are there");
    let commit = CommitBatch::single(key, QueueId(0), QueueOffset(2)).into_command();
    state.apply(&frames.command(&commit));
    state
}

/// A stored message, its position left at 0.
pub(crate) fn record(topic: &str, queue: u32, offset: u64, store_ms: u64, body: &[u8]) -> BytesMut {
    let host: SocketAddr = "127.0.0.1:10911".parse().expect("an address");
    let mut record = BytesMut::new();
    let message = NewMessage {
        topic,
        queue_id: QueueId(queue),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: "UNIQ_KEY\u{1}7F0000010001\u{2}TAGS\u{1}a\u{2}",
    };
    wire::encode_message(&message, &mut record).expect("a message");
    wire::patch_queue_offset(&mut record, QueueOffset(offset)).expect("a record");
    wire::patch_store_timestamp(&mut record, store_ms as i64).expect("a record");
    record
}
