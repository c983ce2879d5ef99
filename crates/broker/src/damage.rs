//! Messages whose record is damaged on this node's disk, and of which a copy was to be stored: a delivery, a commit, a
//! retry. What is damaged is not stored anew, where it would look sound, and nothing is decided by what it says, for the
//! decision would be that of all replicas. It stays as it is and is looked at again now and then: another leader has it
//! whole, and so has this one once the disk has answered better.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Mutex;

use bytes::Bytes;
use store::{Log, StoreError};
use wire::{LogPosition, MessageError, QueueId, QueueOffset, StoredMessage};

use crate::hosted::{Hosted, lock};
use crate::limits::DAMAGE_TOLD_MAX;

/// Places of which it was told that they are damaged.
#[derive(Debug, Default)]
pub(crate) struct Damage(Mutex<HashSet<(String, QueueId, QueueOffset)>>);

impl Damage {
    /// Whether this is the first that is heard of it.
    fn note(&self, topic: &str, queue: QueueId, offset: QueueOffset) -> bool {
        let mut told = lock(&self.0);
        if told.len() >= DAMAGE_TOLD_MAX {
            told.clear();
        }
        told.insert((topic.to_owned(), queue, offset))
    }
}

/// The message of a record that was read with its frame ([`store::Log::read_checked`]), which tells of damage to any byte of
/// it; its form and the CRC of its body once more, for what was wrong before it came into the log.
pub(crate) fn sound(record: &[u8]) -> Result<StoredMessage<'_>, MessageError> {
    let message = StoredMessage::parse(record)?;
    message.verify()?;
    Ok(message)
}

/// One record, checked with its frame. May wait for the disk.
pub(crate) fn read(log: &Log, position: LogPosition, size: u32) -> Result<Bytes, StoreError> {
    let nothing = StoreError::OutOfRange { position, len: size.into(), end: position };
    log.read_checked(&[(position, size)]).pop().unwrap_or(Err(nothing))
}

/// Tells the operator of a message that is damaged here, once.
pub(crate) fn report(hosted: &Hosted, topic: &str, queue: QueueId, offset: QueueOffset, why: &dyn Display) {
    if hosted.damage.note(topic, queue, offset) {
        tracing::error!(
            group = hosted.name(),
            topic,
            queue = queue.0,
            offset = offset.0,
            %why,
            "a stored message is damaged on this node: it is left as it is, and waits for a leader that can read it"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing;

    #[test]
    fn what_is_damaged_is_no_message() {
        let good = testing::record("T", 0, 7, 1_700_000_000_000, b"hello");
        assert_eq!(sound(&good).unwrap().body, b"hello");
        let place = |what: &[u8]| good.windows(what.len()).position(|bytes| bytes == what).unwrap();
        for (place, bit) in [(place(b"hello"), 1), (place(b"TAGS"), 0x80), (4, 1), (3, 1)] {
            let mut bad = good.clone();
            bad[place] ^= bit;
            assert!(sound(&bad).is_err(), "byte {place}");
        }
    }

    #[test]
    fn each_place_is_told_of_once() {
        let damage = Damage::default();
        let note = |offset| damage.note("T", QueueId(0), QueueOffset(offset));
        assert!(note(1) && note(2) && !note(1));
        assert!(damage.note("T", QueueId(1), QueueOffset(1)));
        for offset in 0..2 * DAMAGE_TOLD_MAX as u64 {
            note(offset);
        }
        assert!(lock(&damage.0).len() <= DAMAGE_TOLD_MAX);
    }
}
