//! Messages of one queue, for a pull, a pop or a peek: its units are looked at in the index, tags are judged by them, and then
//! the records of those that are wanted are read; an expression is judged by the records. From memory first, and where that
//! does not do, from the disk, as one of few readers.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use store::Records;
use store::index::Unit;
use wire::{QueueId, QueueOffset};

use crate::errors::Error;
use crate::filter::Filter;
use crate::filters::{self, Wish};
use crate::handlers::offset;
use crate::hosted::{Hosted, Serving};
use crate::limits::{PULL_UNITS, SELECT_BYTES, SELECT_TIME, SELECT_UNITS};

/// What is read, and how much.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: Arc<str>,
    pub(crate) queue: QueueId,
    /// There are messages from here on.
    pub(crate) from: QueueOffset,
    /// The end of the queue.
    pub(crate) end: QueueOffset,
    /// At least 1.
    pub(crate) messages: usize,
    /// The first message is brought whatever its size, if `first`.
    pub(crate) bytes: usize,
    pub(crate) first: bool,
    /// `None`: all messages.
    pub(crate) wish: Option<Wish>,
    /// Ascending: these are left out.
    pub(crate) without: Vec<QueueOffset>,
}

/// What was read.
pub(crate) struct Found {
    /// Everything below was looked at.
    pub(crate) next: QueueOffset,
    /// Of the messages.
    pub(crate) offsets: Vec<QueueOffset>,
    /// Their records, one after the other.
    pub(crate) records: Bytes,
}

impl Found {
    pub(crate) fn nothing(next: QueueOffset) -> Found {
        Found { next, offsets: Vec::new(), records: Bytes::new() }
    }
}

impl Wanted {
    /// How many units of the queue are looked at: of what a client asks nothing may be believed.
    fn units(&self) -> usize {
        let takes_everything = self.wish.as_ref().is_none_or(Wish::takes_everything);
        let units =
            if takes_everything { self.messages + self.without.len() } else { PULL_UNITS.max(self.messages) };
        units.min(usize::try_from(self.end.0.saturating_sub(self.from.0)).unwrap_or(usize::MAX))
    }

    fn leaves_out(&self, offset: QueueOffset) -> bool {
        self.without.binary_search(&offset).is_ok()
    }

    /// Whether a message of so many bytes comes with those that are there.
    fn has_room(&self, messages: usize, bytes: usize, more: usize) -> bool {
        let is_free = self.first && messages == 0;
        messages < self.messages && (bytes + more <= self.bytes || is_free)
    }
}

/// Reads from memory, or where that does not do, from the disk in its turn.
pub(crate) async fn read(hosted: &Arc<Hosted>, wanted: Wanted) -> Result<Found, Error> {
    let limits = &hosted.node.config.limits;
    if let Some(found) = attempt(hosted.served_here()?, &wanted, false)? {
        return Ok(found);
    }
    let cold = Wanted {
        messages: wanted.messages.min(limits.pull_messages_on_disk),
        bytes: wanted.bytes.min(limits.pull_bytes_on_disk),
        ..wanted
    };
    let found = offset::blocking(hosted, move |_, serving| attempt(serving, &cold, true)).await?;
    found.ok_or_else(|| Error::Unknown("nothing was read".into()))
}

/// `None` where it would wait for the disk and may not.
pub(crate) fn attempt(serving: &Serving, wanted: &Wanted, may_block: bool) -> Result<Option<Found>, Error> {
    let Wanted { topic, queue, from, wish, .. } = wanted;
    let units = if may_block {
        serving.index.units(topic, *queue, *from, wanted.units())?
    } else {
        match serving.index.units_resident(topic, *queue, *from, wanted.units()) {
            Some(units) => units,
            None => return Ok(None),
        }
    };
    if let Some(filter) = wish.as_ref().and_then(|wish| wish.expression.as_ref()) {
        return select(serving, filter, &units, wanted, may_block);
    }
    let (mut next, mut bytes) = (*from, 0);
    let (mut offsets, mut chosen) = (Vec::new(), Vec::new());
    for unit in units {
        if wish.as_ref().is_none_or(|wish| wish.may_match(unit.tags_code)) && !wanted.leaves_out(next) {
            if !wanted.has_room(chosen.len(), bytes, unit.size as usize) {
                break;
            }
            bytes += unit.size as usize;
            offsets.push(next);
            chosen.push(unit);
        }
        next = next.plus(1);
    }
    if chosen.is_empty() {
        return Ok(Some(Found::nothing(next)));
    }
    let records = records_of(serving, &chosen, may_block)?;
    if records.count == 0 {
        return Ok(None);
    }
    if let Some(offset) = offsets.get(records.count) {
        // The rest is not resident: it comes with the next one.
        next = *offset;
        offsets.truncate(records.count);
    }
    // A copy: what waits for a slow reader must not keep entries or pages of the log in memory.
    Ok(Some(Found { next, offsets, records: records.copy() }))
}

/// Reads the messages of these units, and takes those to which an expression says yes, within limits that keep one reader
/// from reading the whole log. `None` where the first one would have to be waited for, and may not be.
fn select(
    serving: &Serving,
    filter: &Filter,
    units: &[Unit],
    wanted: &Wanted,
    may_block: bool,
) -> Result<Option<Found>, Error> {
    let (mut looked_at, mut bytes, until) = (0, 0, Instant::now() + SELECT_TIME);
    let (mut offsets, mut body) = (Vec::new(), BytesMut::new());
    'shares: while looked_at < units.len()
        && bytes < SELECT_BYTES
        && (looked_at == 0 || Instant::now() < until)
    {
        let mut rest = SELECT_BYTES - bytes;
        let within = units[looked_at..].iter().take(SELECT_UNITS).take_while(|unit| {
            let size = unit.size as usize;
            let fits = size <= rest;
            rest = rest.saturating_sub(size);
            fits
        });
        // One whatever its size.
        let share = &units[looked_at..][..within.count().max(1)];
        let records = records_of(serving, share, may_block)?;
        for record in each_record(&records, share) {
            // One whatever it takes.
            if looked_at > 0 && Instant::now() >= until {
                break 'shares;
            }
            let offset = wanted.from.plus(looked_at as u64);
            bytes += record.len();
            if !wanted.leaves_out(offset) && filters::accepts(filter, record) {
                if !wanted.has_room(offsets.len(), body.len(), record.len()) {
                    break 'shares;
                }
                body.extend_from_slice(record);
                offsets.push(offset);
            }
            looked_at += 1;
            if offsets.len() >= wanted.messages {
                break 'shares;
            }
        }
        if records.count < share.len() {
            break;
        }
    }
    let is_waiting = bytes == 0 && !units.is_empty();
    let next = wanted.from.plus(looked_at as u64);
    Ok((!is_waiting).then(|| Found { next, offsets, records: body.freeze() }))
}

/// The records of these units: all, or where it may not wait for the disk, as many of the first as are resident.
pub(crate) fn records_of(serving: &Serving, units: &[Unit], may_block: bool) -> Result<Records, Error> {
    let wanted: Vec<_> = units.iter().map(|unit| (unit.position, unit.size)).collect();
    let log = &serving.log;
    Ok(if may_block { log.read_records(&wanted)? } else { log.read_records_resident(&wanted)? })
}

/// The records that were read of these units, one by one.
pub(crate) fn each_record<'a>(records: &'a Records, units: &'a [Unit]) -> impl Iterator<Item = &'a [u8]> {
    let mut pieces = records.pieces.iter();
    let mut rest: &[u8] = &[];
    units.iter().take(records.count).map_while(move |unit| {
        if rest.is_empty() {
            rest = pieces.next()?;
        }
        let (record, others) = rest.split_at_checked(unit.size as usize)?;
        rest = others;
        Some(record)
    })
}

#[cfg(test)]
mod tests {
    use wire::SubscriptionData;

    use super::*;

    fn wanted(messages: usize, wish: Option<&Wish>, there: u64) -> Wanted {
        Wanted {
            topic: "T".into(),
            queue: QueueId(0),
            from: QueueOffset(100),
            end: QueueOffset(100).plus(there),
            messages,
            bytes: 1000,
            first: true,
            wish: wish.cloned(),
            without: Vec::new(),
        }
    }

    #[test]
    fn so_many_units_are_looked_at() {
        let by_tags = |text| Wish::by_tags(Arc::new(SubscriptionData::from_tags("T", text, 1).unwrap()));
        let (everything, tags) = (by_tags("*"), by_tags("a || b"));
        for (messages, wish, there, want) in [
            (32, None, 5000, 32),
            (32, Some(&everything), 5000, 32),
            (32, Some(&everything), 7, 7),
            (32, Some(&tags), u64::MAX - 100, 800),
            (1, Some(&tags), 5000, 800),
            (32, Some(&tags), 7, 7),
            (2000, Some(&tags), 5000, 2000),
        ] {
            assert_eq!(wanted(messages, wish, there).units(), want, "{messages} of {there}");
        }
        let without = vec![QueueOffset(100), QueueOffset(102)];
        assert_eq!(Wanted { without, ..wanted(32, None, 5000) }.units(), 34);
    }

    #[test]
    fn the_first_message_may_come_whatever_its_size() {
        let first = wanted(2, None, 5000);
        let later = Wanted { first: false, ..first.clone() };
        // (messages and bytes that are there, bytes of the next one) -> (first of an answer, not the first)
        for (messages, bytes, more, want) in [
            (0, 0, 1000, (true, true)),
            (0, 0, 1001, (true, false)),
            (1, 999, 1, (true, true)),
            (1, 999, 2, (false, false)),
            (2, 0, 1, (false, false)),
        ] {
            let got = (first.has_room(messages, bytes, more), later.has_room(messages, bytes, more));
            assert_eq!(got, want, "{messages}, {bytes} + {more}");
        }
    }
}
