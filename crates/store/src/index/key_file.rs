//! A `.keys` file (docs/formats.md 9): RocketMQ's IndexFile of one range of the log, behind 64 bytes of our own.
//!
//! ```text
//! 64        our header
//! 40        IndexFile header
//! s × 4     slots: the newest unit of each chain; with the headers they fill whole pages
//! n+1 × 20  units in the order of the log, number 0 unused; each names the previous one of its slot
//! ```
//! Hashes collide: who looks a key up compares the key of the message that he finds.

use std::io;
use std::sync::Arc;

use wire::LogPosition;

use super::codec::{Fields, Kind, LogRange, UNIT_LEN};
use super::pages::{CONTENT_LEN, PageWriter, Pages, ReadError, Scan, file_len, file_seed};
use crate::disk::DiskFile;

/// Bytes before the slots.
const HEADERS_LEN: usize = 64 + 40;
const SLOT_LEN: usize = 4;
/// Slots of a page that holds nothing else.
const SLOTS_PER_PAGE: u64 = (CONTENT_LEN / SLOT_LEN) as u64;
/// Slots whose place the headers take.
const SLOTS_HIDDEN: u64 = (HEADERS_LEN / SLOT_LEN) as u64;
/// Units for each slot, as in RocketMQ (20,000,000 units, 5,000,000 slots).
const SLOT_LOAD: u64 = 4;
/// The most units of a file, so that slots and unit numbers stay Java ints.
pub(super) const KEY_UNITS_MAX: u64 = i32::MAX as u64 - 1;

/// What the first page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyHeader {
    pub(super) range: LogRange,
    /// Index after that of the last entry in the range; 0: no entry.
    pub(super) next_index: u64,
    slots: u32,
    pub(super) units: u32,
    /// Store time of the first message with a key, rounded down to a second, so that merged files keep their times.
    pub(super) begin_ms: u64,
    /// Store time of the last message with a key.
    pub(super) end_ms: u64,
    begin_position: u64,
    end_position: u64,
    slots_used: u32,
}

impl KeyHeader {
    fn encode_into(&self, page: &mut [u8]) {
        let own = Kind::Keys
            .magic()
            .into_iter()
            .chain(self.range.from.to_be_bytes())
            .chain(self.range.to.to_be_bytes())
            .chain(self.next_index.to_be_bytes())
            .chain(self.slots.to_be_bytes())
            .chain(self.units.to_be_bytes())
            .chain([0; 24]);
        let index_file = [self.begin_ms, self.end_ms, self.begin_position, self.end_position]
            .into_iter()
            .flat_map(u64::to_be_bytes)
            .chain(self.slots_used.to_be_bytes())
            .chain((self.units + 1).to_be_bytes());
        for (byte, value) in page.iter_mut().zip(own.chain(index_file)) {
            *byte = value;
        }
    }

    fn decode(page: &[u8], range: LogRange) -> Option<Self> {
        let mut fields = Fields(page);
        let magic = fields.tag()?;
        let found = LogRange { from: fields.u64()?, to: fields.u64()? };
        let (next_index, slots, units) = (fields.u64()?, fields.u32()?, fields.u32()?);
        fields.bytes(24)?;
        let header = Self {
            range: found,
            next_index,
            slots,
            units,
            begin_ms: fields.u64()?,
            end_ms: fields.u64()?,
            begin_position: fields.u64()?,
            end_position: fields.u64()?,
            slots_used: fields.u32()?,
        };
        let fits = magic == Kind::Keys.magic()
            && found == range
            && slots > 0
            && (u64::from(slots) + SLOTS_HIDDEN).is_multiple_of(SLOTS_PER_PAGE)
            && u64::from(units) <= KEY_UNITS_MAX
            && fields.u32()? == units + 1;
        fits.then_some(header)
    }

    /// Where unit 0 is.
    fn units_at(&self) -> u64 {
        HEADERS_LEN as u64 + u64::from(self.slots) * SLOT_LEN as u64
    }

    fn content_len(&self) -> u64 {
        self.units_at() + (u64::from(self.units) + 1) * UNIT_LEN as u64
    }

    /// True when a message of the file may be stored within `[begin_ms, end_ms]`, to the second.
    pub(super) const fn meets(&self, begin_ms: u64, end_ms: u64) -> bool {
        self.units > 0 && self.begin_ms <= end_ms && begin_ms / 1000 <= self.end_ms / 1000
    }
}

/// Pages of slots, the headers among them, for so many units.
fn slot_pages(units: u64) -> u64 {
    (units.div_ceil(SLOT_LOAD) + SLOTS_HIDDEN).div_ceil(SLOTS_PER_PAGE).max(1)
}

/// A key of a message, as an IndexFile sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyUnit {
    pub(super) hash: u32,
    pub(super) position: u64,
    /// Store time, seconds since 1970 (to 2106).
    pub(super) second: u32,
}

impl KeyUnit {
    pub(super) fn new(hash: u32, position: u64, store_time_ms: u64) -> Self {
        Self { hash, position, second: u32::try_from(store_time_ms / 1000).unwrap_or(u32::MAX) }
    }

    /// True when everything older than this was stored before `begin_ms`.
    pub(super) const fn is_before(&self, begin_ms: u64) -> bool {
        self.second as u64 * 1000 + 999 < begin_ms
    }

    /// True when it may have been stored within `[begin_ms, end_ms]`.
    pub(super) const fn is_within(&self, begin_ms: u64, end_ms: u64) -> bool {
        !self.is_before(begin_ms) && self.second as u64 * 1000 <= end_ms
    }
}

/// One open `.keys` file.
pub(super) struct KeyFile {
    header: KeyHeader,
    pages: Pages,
}

impl KeyFile {
    /// Reads and checks the first page and the length of the file.
    pub(super) fn check(file: &dyn DiskFile, range: LogRange) -> Result<KeyHeader, ReadError> {
        let page = Pages::read_first(file, file_seed(Kind::Keys, range))?;
        let header = KeyHeader::decode(&page, range)
            .ok_or_else(|| ReadError::damaged("not a key file of its range"))?;
        if file_len(header.content_len()) != Some(file.len()?) {
            return Err(ReadError::damaged("its length is not what its header says"));
        }
        Ok(header)
    }

    pub(super) fn new(header: KeyHeader, file: Arc<dyn DiskFile>) -> Self {
        let pages = Pages {
            file,
            seed: file_seed(Kind::Keys, header.range),
            content_len: header.content_len(),
            may_block: true,
        };
        Self { header, pages }
    }

    /// Adds the positions of messages with this key hash, stored within `[begin_ms, end_ms]`, newest first, until
    /// `found` holds `max`.
    pub(super) fn find(
        &self,
        hash: u32,
        begin_ms: u64,
        end_ms: u64,
        max: usize,
        found: &mut Vec<LogPosition>,
    ) -> Result<(), ReadError> {
        let slot = u64::from(hash % self.header.slots.max(1));
        let word = self.pages.read(HEADERS_LEN as u64 + slot * SLOT_LEN as u64, SLOT_LEN)?;
        let mut number = Fields(&word).u32().unwrap_or_default();
        if number > self.header.units {
            return Err(ReadError::damaged("a slot names a unit that is not there"));
        }
        while number > 0 && found.len() < max {
            let bytes =
                self.pages.read(self.header.units_at() + u64::from(number) * UNIT_LEN as u64, UNIT_LEN)?;
            let (unit, previous) = self.decode(&mut Fields(&bytes))?;
            if unit.is_before(begin_ms) {
                break;
            }
            if unit.hash == hash
                && unit.is_within(begin_ms, end_ms)
                && found.last() != Some(&LogPosition(unit.position))
            {
                found.push(LogPosition(unit.position));
            }
            if previous >= number {
                return Err(ReadError::damaged("a chain does not lead back"));
            }
            number = previous;
        }
        Ok(())
    }

    fn decode(&self, fields: &mut Fields<'_>) -> Result<(KeyUnit, u32), ReadError> {
        let mut unit = || {
            let (hash, position) = (fields.u32()?, fields.u64()?);
            let second = (self.header.begin_ms / 1000).saturating_add(u64::from(fields.u32()?));
            let second = u32::try_from(second).unwrap_or(u32::MAX);
            Some((KeyUnit { hash, position, second }, fields.u32()?))
        };
        unit().ok_or_else(|| ReadError::damaged("a unit is cut off"))
    }

    /// Everything in the file, in the order of the log.
    pub(super) fn cursor(&self) -> KeyCursor<'_> {
        let at = self.header.units_at() + UNIT_LEN as u64;
        KeyCursor { file: self, units: Scan::new(self.pages.clone(), at, self.pages.content_len) }
    }
}

/// Reads a `.keys` file from front to back.
pub(super) struct KeyCursor<'a> {
    file: &'a KeyFile,
    units: Scan,
}

impl KeyCursor<'_> {
    /// The next unit; `None` behind the last.
    pub(super) fn next(&mut self) -> Result<Option<KeyUnit>, ReadError> {
        if self.units.is_empty() {
            return Ok(None);
        }
        let (unit, _) = self.file.decode(&mut self.units.take(UNIT_LEN)?)?;
        Ok(Some(unit))
    }
}

/// Writes a `.keys` file: units in the order of the log.
pub(super) struct KeyFileWriter {
    pages: PageWriter,
    /// The first pages, headers and slots, as they will be written: one byte of memory for each unit.
    first: Vec<u8>,
    header: KeyHeader,
}

impl KeyFileWriter {
    /// For exactly `units` units.
    pub(super) fn new(file: Arc<dyn DiskFile>, range: LogRange, units: u64) -> io::Result<Self> {
        if units > KEY_UNITS_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let reserved = slot_pages(units);
        let mut writer = Self {
            pages: PageWriter::new(file, file_seed(Kind::Keys, range), reserved),
            first: vec![0; reserved as usize * CONTENT_LEN],
            header: KeyHeader {
                range,
                next_index: 0,
                slots: (reserved * SLOTS_PER_PAGE - SLOTS_HIDDEN) as u32,
                units: 0,
                begin_ms: 0,
                end_ms: 0,
                begin_position: 0,
                end_position: 0,
                slots_used: 0,
            },
        };
        writer.pages.put(&[0; UNIT_LEN])?;
        Ok(writer)
    }

    /// Bytes that went to the disk so far.
    pub(super) const fn written(&self) -> u64 {
        self.pages.written()
    }

    pub(super) fn put(&mut self, unit: KeyUnit) -> io::Result<()> {
        let header = &mut self.header;
        if header.units == 0 {
            header.begin_ms = u64::from(unit.second) * 1000;
            header.begin_position = unit.position;
        }
        header.units += 1;
        header.end_position = unit.position;
        let slot = HEADERS_LEN + (unit.hash % header.slots) as usize * SLOT_LEN;
        let previous = match self.first.get_mut(slot..).and_then(<[u8]>::first_chunk_mut::<SLOT_LEN>) {
            Some(word) => std::mem::replace(word, header.units.to_be_bytes()),
            None => [0; SLOT_LEN],
        };
        if previous == [0; SLOT_LEN] {
            header.slots_used += 1;
        }
        // Java's int; log time does not fall, so it is never negative.
        let seconds = unit.second.saturating_sub((header.begin_ms / 1000) as u32).min(i32::MAX as u32);
        self.pages.put(&unit.hash.to_be_bytes())?;
        self.pages.put(&unit.position.to_be_bytes())?;
        self.pages.put(&seconds.to_be_bytes())?;
        self.pages.put(&previous)
    }

    /// Writes slots and headers, and makes the file durable. `end_ms` is the store time of the last message with a
    /// key (0: none).
    pub(super) fn finish(mut self, next_index: u64, end_ms: u64) -> io::Result<KeyHeader> {
        self.header.next_index = next_index;
        self.header.end_ms = end_ms;
        self.header.encode_into(&mut self.first);
        self.pages.finish(&self.first)?;
        Ok(self.header)
    }
}
