//! A half message, and the messages that are made of one. All but the reading is pure.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use wire::{
    EncodeError, MessageError, NewMessage, PROPERTIES_BYTES_MAX, QueueId, QueueOffset, StoredMessage,
    encode_message, message_size, patch_position, patch_queue_offset, patch_store_timestamp, prop,
    properties_iter, properties_push, sysflag, topic as system,
};

use crate::damage;
use crate::errors::Error;
use crate::hosted::{Hosted, Serving};

/// Where half messages lie.
pub(crate) const TOPIC: &str = system::TRANS_HALF;
pub(crate) const QUEUE: QueueId = QueueId(0);

/// A look for a half message that may not wait for the disk.
pub(crate) enum Look {
    Found(Bytes),
    /// The queue has none at that offset.
    Missing,
    /// It is on disk: [`read`] may wait for it.
    Cold,
}

/// Looks in memory.
pub(crate) fn look(hosted: &Hosted, serving: &Serving, offset: QueueOffset) -> Look {
    if !is_stored(hosted, offset) {
        return Look::Missing;
    }
    let Some(units) = serving.index.units_resident(TOPIC, QUEUE, offset, 1) else { return Look::Cold };
    let Some(unit) = units.first() else { return Look::Missing };
    // What is in memory was checked when it came there; what a map shows was not.
    let record = serving.log.read_checked_in_memory(unit.position, unit.size);
    record.map_or(Look::Cold, |record| Look::Found(Bytes::copy_from_slice(&record)))
}

/// Reads the record of a half message, checked with its frame, from disk where it must. One that is damaged on this node is
/// reported.
///
/// # Errors
/// [`Error::Store`] where it is damaged or cannot be read.
pub(crate) fn read(hosted: &Hosted, serving: &Serving, offset: QueueOffset) -> Result<Option<Bytes>, Error> {
    if !is_stored(hosted, offset) {
        return Ok(None);
    }
    let Some(unit) = serving.index.unit(TOPIC, QUEUE, offset)? else { return Ok(None) };
    let record = damage::read(&serving.log, unit.position, unit.size);
    let record = record.inspect_err(|error| damage::report(hosted, TOPIC, QUEUE, offset, error))?;
    Ok(Some(Bytes::copy_from_slice(&record)))
}

fn is_stored(hosted: &Hosted, offset: QueueOffset) -> bool {
    hosted.state.queue(TOPIC, QUEUE).is_some_and(|range| (range.min..range.next).contains(&offset))
}

/// The topic and queue that the message is meant for.
pub(crate) fn real<'a>(half: &StoredMessage<'a>) -> Option<(&'a str, QueueId)> {
    let queue = half.property(prop::REAL_QID)?.parse().ok().and_then(QueueId::from_wire)?;
    Some((half.property(prop::REAL_TOPIC)?, queue))
}

/// For how long after it was stored its producer is left alone, and may end it by itself: what the message asks for, and
/// at least what the broker is set to (TransactionalMessageUtil.getImmunityTime).
pub(crate) fn immunity(half: &StoredMessage<'_>, timeout: Duration) -> Duration {
    asked_immunity(half).map_or(timeout, |asked| asked.max(timeout))
}

/// What the message itself asks for.
pub(crate) fn asked_immunity(half: &StoredMessage<'_>) -> Option<Duration> {
    let seconds = half.property(prop::CHECK_IMMUNITY_TIME_IN_SECONDS)?;
    // As RocketMQ takes what is no number: it was set, to nothing.
    Some(Duration::from_secs(seconds.trim().parse().unwrap_or(0)))
}

/// The message in its own topic, where its transaction is committed.
pub(crate) fn committed(
    half: &StoredMessage<'_>,
    topic: &str,
    queue: QueueId,
    store_host: SocketAddr,
) -> Result<BytesMut, EncodeError> {
    let drop = |name: &str| matches!(name, prop::TRAN_MSG | prop::REAL_TOPIC | prop::REAL_QID);
    let message = NewMessage {
        topic,
        queue_id: queue,
        sys_flag: half.sys_flag & !sysflag::TRANSACTION | sysflag::TRANSACTION_COMMIT,
        prepared_transaction_offset: half.position.to_wire(),
        properties: &rewritten(half, drop, None),
        store_host,
        ..copy(half)
    };
    encode(&message)
}

/// The same half message in the topic of those whose producers were asked so often and did not know.
pub(crate) fn given_up(
    half: &StoredMessage<'_>,
    checks: u32,
    store_host: SocketAddr,
) -> Result<BytesMut, EncodeError> {
    let properties = rewritten(half, |_| false, Some(checks));
    let topic = system::TRANS_CHECK_MAX_TIME;
    encode(&NewMessage { topic, queue_id: QueueId(0), properties: &properties, store_host, ..copy(half) })
}

/// A message that was given up as half of a transaction once more: nobody was asked of it.
pub(crate) fn resumed(aside: &StoredMessage<'_>, store_host: SocketAddr) -> Result<BytesMut, EncodeError> {
    let properties = rewritten(aside, |name| name == prop::TRANSACTION_CHECK_TIMES, None);
    encode(&NewMessage { topic: TOPIC, queue_id: QUEUE, properties: &properties, store_host, ..copy(aside) })
}

/// What a producer is shown when it is asked: the message as it sent it, and where the half of it lies. `id`: what it is to have
/// for its `__transactionId__` in place of its own, or nothing if there is no room.
pub(crate) fn shown(half: &StoredMessage<'_>, checks: u32, id: Option<&str>) -> Result<Bytes, String> {
    let (topic, queue) = real(half).ok_or("the half message names no topic and queue")?;
    let mut properties = rewritten(half, |name| id.is_some() && name == prop::TRANSACTION_ID, Some(checks));
    if let Some(id) = id {
        push_if_it_fits(&mut properties, prop::TRANSACTION_ID, id);
    }
    let message = NewMessage { topic, queue_id: queue, properties: &properties, ..copy(half) };
    let mut record = encode(&message).map_err(|error| error.to_string())?;
    let patched = patch_queue_offset(&mut record, half.queue_offset)
        .and_then(|()| patch_position(&mut record, half.position))
        .and_then(|()| patch_store_timestamp(&mut record, half.store_timestamp));
    patched.map_err(|error: MessageError| error.to_string())?;
    Ok(record.freeze())
}

fn copy<'a>(half: &StoredMessage<'a>) -> NewMessage<'a> {
    NewMessage {
        topic: half.topic,
        queue_id: half.queue_id,
        flag: half.flag,
        sys_flag: half.sys_flag,
        born_timestamp: half.born_timestamp,
        born_host: half.born_host,
        store_host: half.store_host,
        reconsume_times: half.reconsume_times,
        prepared_transaction_offset: half.prepared_transaction_offset,
        body: half.body,
        properties: half.properties,
    }
}

/// The count of the checks goes where there is room for it: one that is all properties has to be asked of and put aside
/// all the same.
fn rewritten(half: &StoredMessage<'_>, drop: impl Fn(&str) -> bool, checks: Option<u32>) -> String {
    let mut properties = String::with_capacity(half.properties.len() + 32);
    for (name, value) in properties_iter(half.properties) {
        let is_counted_anew = checks.is_some() && name == prop::TRANSACTION_CHECK_TIMES;
        if !is_counted_anew && !drop(name) {
            properties_push(&mut properties, name, value);
        }
    }
    if let Some(checks) = checks {
        push_if_it_fits(&mut properties, prop::TRANSACTION_CHECK_TIMES, &checks.to_string());
    }
    properties
}

fn push_if_it_fits(properties: &mut String, name: &str, value: &str) {
    let before = properties.len();
    properties_push(properties, name, value);
    if properties.len() > PROPERTIES_BYTES_MAX {
        properties.truncate(before);
    }
}

fn encode(message: &NewMessage<'_>) -> Result<BytesMut, EncodeError> {
    let mut record = BytesMut::with_capacity(message_size(message));
    encode_message(message, &mut record)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use wire::{LogPosition, properties_from, properties_get};

    use super::*;

    fn half(properties: &[(&str, &str)]) -> BytesMut {
        let properties = properties_from(properties.iter().copied());
        let host = SocketAddr::from(([10, 0, 0, 1], 10911));
        let message = NewMessage {
            topic: TOPIC,
            queue_id: QUEUE,
            flag: 7,
            sys_flag: sysflag::COMPRESSED,
            born_timestamp: 1000,
            born_host: SocketAddr::from(([10, 0, 0, 9], 5000)),
            store_host: host,
            reconsume_times: 2,
            prepared_transaction_offset: 0,
            body: b"body",
            properties: &properties,
        };
        let mut record = encode(&message).unwrap();
        patch_queue_offset(&mut record, QueueOffset(5)).unwrap();
        patch_position(&mut record, LogPosition(4096)).unwrap();
        patch_store_timestamp(&mut record, 2000).unwrap();
        record
    }

    const PROPERTIES: &[(&str, &str)] = &[
        ("TAGS", "t"),
        ("TRAN_MSG", "true"),
        ("PGROUP", "p"),
        ("UNIQ_KEY", "U"),
        ("REAL_TOPIC", "T"),
        ("REAL_QID", "3"),
        ("__transactionId__", "U"),
    ];

    #[test]
    fn a_committed_message_is_its_own_again() {
        let record = half(PROPERTIES);
        let half = StoredMessage::parse(&record).unwrap();
        assert_eq!(real(&half), Some(("T", QueueId(3))));
        let host = SocketAddr::from(([10, 0, 0, 2], 10911));
        let record = committed(&half, "T", QueueId(3), host).unwrap();
        let message = StoredMessage::parse(&record).unwrap();
        message.verify().unwrap();
        assert_eq!((message.topic, message.queue_id, message.flag), ("T", QueueId(3), 7));
        assert_eq!(message.sys_flag, sysflag::COMPRESSED | sysflag::TRANSACTION_COMMIT);
        assert_eq!((message.prepared_transaction_offset, message.reconsume_times), (4096, 2));
        assert_eq!(
            (message.born_timestamp, message.born_host, message.store_host),
            (1000, half.born_host, host)
        );
        assert_eq!(
            message.properties,
            properties_from([("TAGS", "t"), ("PGROUP", "p"), ("UNIQ_KEY", "U"), ("__transactionId__", "U")])
        );
        assert_eq!(message.body, b"body");
    }

    #[test]
    fn what_a_producer_is_shown() {
        let record = half(PROPERTIES);
        let record = shown(&StoredMessage::parse(&record).unwrap(), 4, None).unwrap();
        let message = StoredMessage::parse(&record).unwrap();
        assert_eq!((message.topic, message.queue_id), ("T", QueueId(3)));
        assert_eq!((message.queue_offset, message.position), (QueueOffset(5), LogPosition(4096)));
        assert_eq!((message.store_timestamp, message.sys_flag), (2000, sysflag::COMPRESSED));
        assert_eq!(properties_get(message.properties, "TRANSACTION_CHECK_TIMES"), Some("4"));
        assert_eq!(properties_get(message.properties, "PGROUP"), Some("p"));
        // The count is one, however often it was put there.
        let record = shown(
            &StoredMessage::parse(&half(&[PROPERTIES, &[("TRANSACTION_CHECK_TIMES", "2")]].concat()))
                .unwrap(),
            9,
            None,
        );
        let record = record.unwrap();
        let properties = StoredMessage::parse(&record).unwrap().properties;
        assert_eq!(properties.matches("TRANSACTION_CHECK_TIMES").count(), 1);
        assert_eq!(properties_get(properties, "TRANSACTION_CHECK_TIMES"), Some("9"));
        // An id that it has from an earlier send gives way.
        let record = half(PROPERTIES);
        for (id, has) in [(None, "U"), (Some("token"), "token")] {
            let record = shown(&StoredMessage::parse(&record).unwrap(), 9, id).unwrap();
            let properties = StoredMessage::parse(&record).unwrap().properties;
            assert_eq!(properties.matches("__transactionId__").count(), 1);
            assert_eq!(properties_get(properties, "__transactionId__"), Some(has));
        }
    }

    #[test]
    fn one_without_room_for_the_count_goes_without() {
        let own = properties_from([("REAL_TOPIC", "T"), ("REAL_QID", "3"), ("KEYS", "k")]);
        for (free, counted) in [(0, false), (10, false), (64, true)] {
            let keys = "k".repeat(PROPERTIES_BYTES_MAX + 1 - own.len() - free);
            let record = half(&[("REAL_TOPIC", "T"), ("REAL_QID", "3"), ("KEYS", &keys)]);
            let half = StoredMessage::parse(&record).unwrap();
            assert_eq!(half.properties.len(), PROPERTIES_BYTES_MAX - free);
            for record in
                [shown(&half, 15, None).unwrap(), given_up(&half, 15, half.store_host).unwrap().freeze()]
            {
                let message = StoredMessage::parse(&record).unwrap();
                let times = properties_get(message.properties, "TRANSACTION_CHECK_TIMES");
                assert_eq!(times, counted.then_some("15"), "{free} bytes free");
                assert_eq!(properties_get(message.properties, "KEYS"), Some(keys.as_str()));
            }
        }
    }

    #[test]
    fn one_that_nobody_knows_keeps_what_it_was() {
        let record = half(PROPERTIES);
        let half = StoredMessage::parse(&record).unwrap();
        let record = given_up(&half, 15, half.store_host).unwrap();
        let message = StoredMessage::parse(&record).unwrap();
        assert_eq!((message.topic, message.queue_id), ("TRANS_CHECK_MAX_TIME_TOPIC", QueueId(0)));
        assert_eq!(real(&message), Some(("T", QueueId(3))));
        assert_eq!(properties_get(message.properties, "TRANSACTION_CHECK_TIMES"), Some("15"));
    }

    #[test]
    fn a_message_may_ask_to_be_left_alone_for_longer() {
        let timeout = Duration::from_secs(6);
        for (asked, want) in [(None, 6), (Some("60"), 60), (Some("1"), 6), (Some("x"), 6), (Some("-1"), 6)] {
            let properties = asked.map(|asked| ("CHECK_IMMUNITY_TIME_IN_SECONDS", asked));
            let record = half(properties.as_slice());
            let half = StoredMessage::parse(&record).unwrap();
            assert_eq!(immunity(&half, timeout), Duration::from_secs(want), "{asked:?}");
            assert_eq!(real(&half), None);
        }
    }
}
