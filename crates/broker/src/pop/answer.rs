//! The answer to a pop: messages, and what their handles are made of.
//!
//! A message of the retry topic goes out as one of the topic that was asked for, its handle among its properties: the
//! client knows by it where it really was.

use std::sync::atomic::Ordering;

use bytes::{BufMut, Bytes, BytesMut};
use wire::{
    EncodeError, Messages, NewMessage, POP_ORDER_REVIVE_QUEUE, POP_REVIVE_QUEUES, PopHandle,
    PopMessageResponse, PopOffsets, PopSource, StoredMessage, encode_message, patch_position,
    patch_queue_offset, patch_store_timestamp, prop, properties_get, properties_push,
};

use super::take::{Got, Plan, Taken};
use crate::errors::Error;
use crate::hosted::Hosted;

/// What the header of an answer says beside the messages.
pub(super) fn header(hosted: &Hosted, plan: &Plan, pop_time_ms: u64, rest: u64) -> PopMessageResponse {
    let revive_qid = if plan.order {
        POP_ORDER_REVIVE_QUEUE
    } else {
        (hosted.pop.revive_queue.fetch_add(1, Ordering::Relaxed) % POP_REVIVE_QUEUES) as i32
    };
    PopMessageResponse {
        pop_time: signed(pop_time_ms),
        invisible_time: signed(plan.invisible_ms),
        revive_qid,
        rest_num: signed(rest),
        ..PopMessageResponse::default()
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Header and body of an answer with messages.
pub(super) fn with_messages(
    hosted: &Hosted,
    plan: &Plan,
    taken: &Taken,
) -> Result<(PopMessageResponse, Bytes), Error> {
    let mut header = header(hosted, plan, taken.pop_time_ms, taken.rest);
    let mut offsets = PopOffsets::default();
    for Got { source, queue, start, offsets: messages, counts, .. } in &taken.got {
        offsets.push(*source, *queue, *start, messages.iter().copied());
        if plan.order {
            offsets.push_counts(*source, *queue, messages.iter().copied().zip(counts.iter().copied()));
        }
    }
    let PopOffsets { starts, messages, counts } = offsets;
    header.start_offset_info = Some(starts);
    header.msg_offset_info = Some(messages);
    header.order_count_info = plan.order.then_some(counts);
    if let [Got { source: PopSource::Normal, records, .. }] = &taken.got[..] {
        return Ok((header, records.clone()));
    }
    let mut body = BytesMut::with_capacity(taken.got.iter().map(|got| got.records.len() * 5 / 4).sum());
    for got in &taken.got {
        if got.source == PopSource::Normal || PopSource::of(&plan.topic.name) != PopSource::Normal {
            body.put_slice(&got.records);
            continue;
        }
        let handle = PopHandle {
            start_offset: got.start.to_wire(),
            pop_time: header.pop_time,
            invisible_time: header.invisible_time,
            revive_queue: header.revive_qid,
            source: got.source,
            broker_name: hosted.name().to_owned(),
            queue_id: got.queue.to_wire(),
            queue_offset: 0,
        };
        for message in Messages::new(&got.records) {
            let message = message.map_err(|error| Error::Unknown(format!("a stored message: {error}")))?;
            if restore(&message, &plan.topic.name, &handle, &mut body).is_err() {
                // Its properties have no room for the handle. The client makes one by the name of the topic.
                body.put_slice(message.record);
            }
        }
    }
    Ok((header, body.freeze()))
}

/// Writes a message of a retry topic as one of the topic that it was first in.
fn restore(
    message: &StoredMessage<'_>,
    topic: &str,
    handle: &PopHandle,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut properties = message.properties.to_owned();
    if properties_get(&properties, prop::POP_CK).is_none() {
        let handle = PopHandle { queue_offset: message.queue_offset.to_wire(), ..handle.clone() };
        properties_push(&mut properties, prop::POP_CK, &handle.to_string());
    }
    let start = out.len();
    let restored = NewMessage { topic, properties: &properties, ..origin(message) };
    encode_message(&restored, out)?;
    let record = out.get_mut(start..).unwrap_or_default();
    patch_queue_offset(record, message.queue_offset)
        .and_then(|()| patch_position(record, message.position))
        .and_then(|()| patch_store_timestamp(record, message.store_timestamp))
        .expect("a record was written there");
    Ok(())
}

/// A stored message as one to be written once more.
pub(crate) fn origin<'a>(message: &StoredMessage<'a>) -> NewMessage<'a> {
    NewMessage {
        topic: message.topic,
        queue_id: message.queue_id,
        flag: message.flag,
        sys_flag: message.sys_flag,
        born_timestamp: message.born_timestamp,
        born_host: message.born_host,
        store_host: message.store_host,
        reconsume_times: message.reconsume_times,
        prepared_transaction_offset: message.prepared_transaction_offset,
        body: message.body,
        properties: message.properties,
    }
}

#[cfg(test)]
mod tests {
    use wire::QueueOffset;

    use super::*;
    use crate::state::testing;

    #[test]
    fn a_message_that_came_back_is_one_of_its_topic_again() {
        let stored = testing::record("%RETRY%g_T", 0, 7, 1_700_000_000_000, b"hello");
        let message = StoredMessage::parse(&stored).unwrap();
        let handle = PopHandle {
            start_offset: 5,
            pop_time: 9,
            invisible_time: 60_000,
            revive_queue: 3,
            source: PopSource::Retry,
            broker_name: "b1".into(),
            queue_id: 0,
            queue_offset: 0,
        };
        let mut out = BytesMut::from(&b"before"[..]);
        restore(&message, "T", &handle, &mut out).unwrap();
        let restored = StoredMessage::parse(&out[6..]).unwrap();
        restored.verify().unwrap();
        assert_eq!(restored.topic, "T");
        assert_eq!(restored.property(prop::POP_CK), Some("5 9 60000 3 1 b1 0 7"));
        assert_eq!(
            (restored.queue_offset, restored.store_timestamp, restored.body, restored.tags()),
            (QueueOffset(7), 1_700_000_000_000, &b"hello"[..], Some("a"))
        );
        // Who asks for a message that carries one already gets it as it is.
        let mut again = BytesMut::new();
        restore(&restored, "T", &PopHandle { start_offset: 6, ..handle }, &mut again).unwrap();
        assert_eq!(StoredMessage::parse(&again).unwrap().properties, restored.properties);
    }
}
