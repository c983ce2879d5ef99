//! The messages that a pop or a peek brings of one queue.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use store::index::Unit;
use wire::{QueueId, QueueOffset};

use crate::errors::Error;
use crate::filter::Filter;
use crate::filters::{self, Wish};
use crate::handlers::{offset, pull};
use crate::hosted::{Hosted, Serving};
use crate::limits::{PULL_UNITS, SELECT_BYTES, SELECT_TIME, SELECT_UNITS};

/// What is read, and how much.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) topic: Arc<str>,
    pub(super) queue: QueueId,
    /// There are messages from here on.
    pub(super) from: QueueOffset,
    /// The end of the queue.
    pub(super) end: QueueOffset,
    /// At least 1.
    pub(super) messages: usize,
    /// The first message is brought whatever its size, if `first`.
    pub(super) bytes: usize,
    pub(super) first: bool,
    /// `None`: all messages.
    pub(super) wish: Option<Wish>,
    /// Ascending: these are left out.
    pub(super) without: Vec<QueueOffset>,
}

/// What was read.
pub(super) struct Found {
    /// Everything below was looked at.
    pub(super) next: QueueOffset,
    /// Of the messages.
    pub(super) offsets: Vec<QueueOffset>,
    /// Their records, one after the other.
    pub(super) records: Bytes,
}

/// Reads from memory, or where that does not do, from the disk in its turn.
pub(super) async fn read(hosted: &Arc<Hosted>, wanted: Wanted) -> Result<Found, Error> {
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
fn attempt(serving: &Serving, wanted: &Wanted, may_block: bool) -> Result<Option<Found>, Error> {
    let Wanted { topic, queue, from, end, messages, bytes, first, wish, without } = wanted;
    let there = usize::try_from(end.0.saturating_sub(from.0)).unwrap_or(usize::MAX);
    let takes_everything = wish.as_ref().is_none_or(Wish::takes_everything);
    let scan = if takes_everything { messages + without.len() } else { PULL_UNITS.max(*messages) };
    let scan = scan.min(there);
    let units = if may_block {
        serving.index.units(topic, *queue, *from, scan)?
    } else {
        match serving.index.units_in_memory(topic, *queue, *from, scan) {
            Some(units) => units,
            None => return Ok(None),
        }
    };
    if let Some(filter) = wish.as_ref().and_then(|wish| wish.expression.as_ref()) {
        return select(serving, filter, &units, wanted, may_block);
    }
    let mut next = *from;
    let mut chosen: Vec<(QueueOffset, Unit)> = Vec::new();
    let mut size = 0;
    for unit in units {
        let is_wanted = wish.as_ref().is_none_or(|wish| wish.may_match(unit.tags_code))
            && without.binary_search(&next).is_err();
        if is_wanted {
            let is_free = *first && chosen.is_empty();
            if chosen.len() >= *messages || (size + unit.size as usize > *bytes && !is_free) {
                break;
            }
            size += unit.size as usize;
            chosen.push((next, unit));
        }
        next = next.plus(1);
    }
    if chosen.is_empty() {
        return Ok(Some(Found { next, offsets: Vec::new(), records: Bytes::new() }));
    }
    let units: Vec<Unit> = chosen.iter().map(|(_, unit)| *unit).collect();
    let records = pull::records_of(serving, &units, may_block)?;
    if records.count == 0 {
        return Ok(None);
    }
    if let Some((offset, _)) = chosen.get(records.count) {
        // The rest is not resident: it comes with the next pop.
        next = *offset;
        chosen.truncate(records.count);
    }
    // A copy: what waits for a slow reader must not keep entries or pages of the log in memory.
    let offsets = chosen.into_iter().map(|(offset, _)| offset).collect();
    Ok(Some(Found { next, offsets, records: records.copy() }))
}

/// Takes the messages to which an expression says yes, within the limits that a pull has. `None` where the first one would
/// have to be waited for, and may not be.
fn select(
    serving: &Serving,
    filter: &Filter,
    units: &[Unit],
    wanted: &Wanted,
    may_block: bool,
) -> Result<Option<Found>, Error> {
    let Wanted { from, messages, bytes, first, without, .. } = wanted;
    let until = Instant::now() + SELECT_TIME;
    let (mut next, mut offsets, mut body, mut looked_at) = (*from, Vec::new(), BytesMut::new(), 0);
    'shares: for share in units.chunks(SELECT_UNITS) {
        if looked_at >= SELECT_BYTES || (next > *from && Instant::now() >= until) {
            break;
        }
        let records = pull::records_of(serving, share, may_block)?;
        for record in pull::each_record(&records, share) {
            // One whatever it takes.
            if next > *from && Instant::now() >= until {
                break 'shares;
            }
            looked_at += record.len();
            if without.binary_search(&next).is_err() && filters::accepts(filter, record) {
                let is_free = *first && offsets.is_empty();
                if offsets.len() >= *messages || (body.len() + record.len() > *bytes && !is_free) {
                    break 'shares;
                }
                body.extend_from_slice(record);
                offsets.push(next);
            }
            next = next.plus(1);
        }
        if records.count < share.len() {
            break;
        }
    }
    // Where nothing was looked at, the first one is not resident, or there is no room for it.
    let is_waiting = next == *from && looked_at == 0 && !units.is_empty();
    Ok((!is_waiting).then(|| Found { next, offsets, records: body.freeze() }))
}
