//! What the index takes from the stored messages of a frame; each record is parsed once.

use wire::{LogPosition, Messages, prop};

use super::codec::{UNIT_LEN, Unit};
use crate::frame::Frame;

/// One message, as the index sees it.
pub(super) struct Record<'a> {
    pub(super) topic: &'a str,
    pub(super) queue: u32,
    pub(super) queue_offset: u64,
    pub(super) position: u64,
    pub(super) unit: [u8; UNIT_LEN],
    /// The unique id, then the words of KEYS: the order in which RocketMQ's IndexService puts them.
    pub(super) unique_id: Option<&'a str>,
    pub(super) keys: &'a str,
}

/// The messages of a frame, whose records these are, in order. What follows bytes that are no record is left
/// out, on every replica alike.
pub(super) fn records<'a>(frame: &Frame, stored: &'a [u8]) -> Vec<Record<'a>> {
    let mut position = frame.records_position();
    let mut records = Vec::new();
    for message in Messages::new(stored) {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                let index = frame.id().index.0;
                tracing::error!(%position, index, %error, "not indexed: an entry holds bytes that are no message");
                break;
            }
        };
        let (mut tags, mut timer_out, mut unique_id, mut keys) = (None, None, None, "");
        for (name, value) in wire::properties_iter(message.properties) {
            match name {
                prop::TAGS => tags = Some(value),
                prop::UNIQ_KEY => unique_id = Some(value),
                prop::KEYS => keys = value,
                prop::TIMER_OUT_MS => timer_out = Some(value),
                _ => {}
            }
        }
        let tags_code = wire::unit_code(message.topic, tags, message.store_timestamp, timer_out);
        let unit = Unit { position, size: message.size() as u32, tags_code };
        records.push(Record {
            topic: message.topic,
            queue: message.queue_id.0,
            queue_offset: message.queue_offset.0,
            position: position.0,
            unit: unit.encode(),
            unique_id,
            keys,
        });
        position = LogPosition(position.0 + message.size() as u64);
    }
    records
}
