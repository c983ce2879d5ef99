//! The bytes of RocketMQ: frames, headers, codes, stored-message layout. No I/O, no async, no panic
//! on any input.
//!
//! ```text
//! bytes ── decode_frame ──> RemotingCommand { code, ext, body, .. } ──> XxxRequest::decode(&ext)
//!       <── encode ────────                                         <── Xxx::decode(&body)   (JSON)
//!                                                                   <── StoredMessage, BatchItems
//! ```
//! Each module names the RocketMQ class whose bytes it reads and writes. Golden bytes from the classes of
//! 5.3.3 are in golden.rs; that no decoder panics is tried in never_panics.rs.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::indexing_slicing))]

mod batch;
mod binary_header;
mod body;
mod codes;
mod command;
mod compression;
mod decimal;
mod ext;
#[cfg(test)]
mod golden;
mod header;
mod ids;
pub mod java_properties;
mod json;
mod json_header;
mod language;
mod message;
mod message_id;
mod names;
#[cfg(test)]
mod never_panics;
mod pop;
mod properties;
mod recall;
pub mod sysflag;
mod tags;

pub use batch::{BatchItem, BatchItems, encode_batch_item};
pub use body::*;
pub use codes::{RequestCode, ResponseCode};
pub use command::{FRAME_BYTES_MAX, FrameError, RemotingCommand, SerializeType, decode_frame};
pub use compression::{DecompressError, compress_body, decompress_body};
pub use ext::{EXT_FIELDS_MAX, ExtFields};
pub use header::*;
pub use ids::{LogPosition, QueueId, QueueOffset};
pub use json::{Body, BodyError, from_json, standardise, to_json};
pub use language::{Language, VERSION, version};
pub use message::{
    BODY_BYTES_MAX, EncodeError, MAGIC_BLANK, MAGIC_V1, MAGIC_V2, Message, MessageError, Messages,
    NewMessage, PROPERTIES_BYTES_MAX, RECORD_BYTES_MIN, StoredMessage, body_crc, encode_message,
    message_size, patch_position, patch_queue_offset, patch_store_timestamp,
};
pub use message_id::{MessageIdError, OffsetMessageId, UniqueId, UniqueIds};
pub use names::{
    DLQ_TOPIC_PREFIX, GROUP_LEN_MAX, LMQ_PREFIX, NameError, REPLY_TOPIC_SUFFIX, RETRY_OR_DLQ_TOPIC_LEN_MAX,
    RETRY_TOPIC_PREFIX, SYSTEM_GROUP_PREFIX, SYSTEM_TOPIC_PREFIX, TOPIC_LEN_MAX, dlq_topic, group,
    is_dlq_topic, is_retry_topic, is_send_forbidden, is_system_group, is_system_topic, reply_topic,
    retry_topic, topic, validate_group, validate_topic,
};
pub use pop::{
    POP_MESSAGES_MAX, POP_ORDER_REVIVE_QUEUE, POP_REVIVE_QUEUES, PopHandle, PopHandleError, PopOffsets,
    PopSource, PoppedQueue, parse_pop_offsets, pop_retry_topic,
};
pub use properties::{
    PROPERTIES_RESERVED, PROPERTY_TRANSIENT_PREFIX, Properties, prop, properties_from, properties_get,
    properties_iter, properties_push, properties_remove, properties_set, properties_to_map,
};
pub use recall::{RecallHandle, RecallHandleError};
pub use tags::{java_string_hash, tags_code, unit_code};
