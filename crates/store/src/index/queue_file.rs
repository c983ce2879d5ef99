//! A `.queue` file (docs/formats.md 8): the ConsumeQueue units of all queues of one range of the log.
//!
//! ```text
//! first page      header
//! u × 20          units, those of one queue side by side in the order of their offsets
//! (b + 1) × 4     where in the directory each bucket starts, and its end
//! d               directory: one record for each run of consecutive offsets of a queue, sorted by hash
//! ```
//! A look-up reads one word of the bucket table, one bucket (about four records) and the units: three small reads,
//! whether the file holds ten queues or fifty thousand, and nothing of it stays in memory.

use std::io;
use std::sync::Arc;

use super::codec::{Fields, Kind, LogRange, UNIT_LEN, Unit, queue_hash};
use super::pages::{CONTENT_LEN, PageWriter, Pages, ReadError, Scan, file_len, file_seed};
use crate::disk::DiskFile;

/// Directory records for each bucket.
const BUCKET_LOAD: u32 = 4;
/// Bytes of a directory record before the topic.
const RECORD_LEN: usize = 26;

/// Consecutive queue offsets of one queue that a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first queue offset.
    pub(super) first: u64,
    /// How many there are, at least one.
    pub(super) count: u64,
    /// Number of the first one's unit in the file.
    unit: u64,
}

/// What the first page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueHeader {
    pub(super) range: LogRange,
    /// Index after that of the last entry in the range; 0: no entry.
    pub(super) next_index: u64,
    pub(super) units: u64,
    records: u32,
    buckets: u32,
    directory_len: u64,
}

impl QueueHeader {
    fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(CONTENT_LEN);
        page.extend_from_slice(&Kind::Queue.magic());
        for field in [self.range.from, self.range.to, self.next_index, self.units] {
            page.extend_from_slice(&field.to_be_bytes());
        }
        page.extend_from_slice(&self.records.to_be_bytes());
        page.extend_from_slice(&self.buckets.to_be_bytes());
        page.extend_from_slice(&self.directory_len.to_be_bytes());
        page.resize(CONTENT_LEN, 0);
        page
    }

    fn decode(page: &[u8], range: LogRange) -> Option<Self> {
        let mut fields = Fields(page);
        let magic = fields.tag()?;
        let found = LogRange { from: fields.u64()?, to: fields.u64()? };
        let header = Self {
            range: found,
            next_index: fields.u64()?,
            units: fields.u64()?,
            records: fields.u32()?,
            buckets: fields.u32()?,
            directory_len: fields.u64()?,
        };
        (magic == Kind::Queue.magic() && found == range && header.buckets > 0).then_some(header)
    }

    fn buckets_at(&self) -> Option<u64> {
        self.units.checked_mul(UNIT_LEN as u64)?.checked_add(CONTENT_LEN as u64)
    }

    fn directory_at(&self) -> Option<u64> {
        self.buckets_at()?.checked_add((u64::from(self.buckets) + 1) * 4)
    }

    fn content_len(&self) -> Option<u64> {
        self.directory_at()?.checked_add(self.directory_len)
    }
}

/// Monotone in the hash, so that a directory sorted by hash is also in the order of the buckets.
fn bucket_of(hash: u64, buckets: u32) -> u32 {
    ((u128::from(hash) * u128::from(buckets)) >> 64) as u32
}

struct Record<'a> {
    topic: &'a [u8],
    queue: u32,
    extent: Extent,
}

impl<'a> Record<'a> {
    fn decode(fields: &mut Fields<'a>) -> Option<Self> {
        let topic_len = fields.u16()?;
        let queue = fields.u32()?;
        let count = fields.u32()?;
        let extent = Extent { count: u64::from(count), first: fields.u64()?, unit: fields.u64()? };
        Some(Self { topic: fields.bytes(usize::from(topic_len))?, queue, extent })
    }
}

/// One open `.queue` file.
#[derive(Clone)]
pub(super) struct QueueFile {
    header: QueueHeader,
    pages: Pages,
    buckets_at: u64,
    directory_at: u64,
}

impl QueueFile {
    /// Reads and checks the first page and the length of the file.
    pub(super) fn check(file: &dyn DiskFile, range: LogRange) -> Result<QueueHeader, ReadError> {
        let page = Pages::read_first(file, file_seed(Kind::Queue, range))?;
        let header = QueueHeader::decode(&page, range)
            .ok_or_else(|| ReadError::damaged("not a queue file of its range"))?;
        if header.content_len().and_then(file_len) != Some(file.len()?) {
            return Err(ReadError::damaged("its length is not what its header says"));
        }
        Ok(header)
    }

    /// `may_block`: see [`Pages`].
    pub(super) fn new(
        header: QueueHeader,
        file: Arc<dyn DiskFile>,
        may_block: bool,
    ) -> Result<Self, ReadError> {
        let (Some(buckets_at), Some(directory_at), Some(content_len)) =
            (header.buckets_at(), header.directory_at(), header.content_len())
        else {
            return Err(ReadError::damaged("its header names more than a file can hold"));
        };
        let pages = Pages { file, seed: file_seed(Kind::Queue, header.range), content_len, may_block };
        Ok(Self { header, pages, buckets_at, directory_at })
    }

    /// The extents of one queue, in the order of their offsets.
    pub(super) fn extents(&self, topic: &str, queue: u32) -> Result<Vec<Extent>, ReadError> {
        let bucket = bucket_of(queue_hash(topic.as_bytes(), queue), self.header.buckets);
        let bounds = self.pages.read(self.buckets_at + u64::from(bucket) * 4, 8)?;
        let mut fields = Fields(&bounds);
        let (Some(start), Some(end)) = (fields.u32(), fields.u32()) else {
            return Err(ReadError::damaged("no bucket"));
        };
        let Some(len) = end.checked_sub(start) else {
            return Err(ReadError::damaged("a bucket ends before it starts"));
        };
        let records = self.pages.read(self.directory_at + u64::from(start), len as usize)?;
        let mut fields = Fields(&records);
        let mut extents = Vec::new();
        while !fields.0.is_empty() {
            let record = self.checked(Record::decode(&mut fields))?;
            if record.queue == queue && record.topic == topic.as_bytes() {
                extents.push(record.extent);
            }
        }
        Ok(extents)
    }

    /// The units of an extent from `skip` on, at most `max`.
    pub(super) fn units(&self, extent: Extent, skip: u64, max: usize) -> Result<Vec<Unit>, ReadError> {
        let count = extent.count.saturating_sub(skip).min(max as u64);
        // In range: `checked` saw unit + count against the units of the file.
        let at = CONTENT_LEN as u64 + (extent.unit + skip) * UNIT_LEN as u64;
        let bytes = self.pages.read(at, count as usize * UNIT_LEN)?;
        Ok(bytes.chunks_exact(UNIT_LEN).filter_map(Unit::decode).collect())
    }

    fn checked<'a>(&self, record: Option<Record<'a>>) -> Result<Record<'a>, ReadError> {
        record
            .filter(|Record { extent, .. }| {
                extent.count > 0
                    && extent.first.checked_add(extent.count).is_some()
                    && extent.unit.checked_add(extent.count).is_some_and(|end| end <= self.header.units)
            })
            .ok_or_else(|| ReadError::damaged("a directory record is not one"))
    }

    /// Everything in the file, in the order of its directory.
    pub(super) fn cursor(&self) -> Result<QueueCursor, ReadError> {
        let end = self.pages.content_len;
        let mut cursor = QueueCursor {
            directory: Scan::new(self.pages.clone(), self.directory_at, end),
            units: Scan::new(self.pages.clone(), CONTENT_LEN as u64, self.buckets_at),
            file: self.clone(),
            entry: None,
        };
        cursor.advance()?;
        Ok(cursor)
    }
}

/// A record of a directory on its way into a merged file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) hash: u64,
    pub(super) topic: Vec<u8>,
    pub(super) queue: u32,
    pub(super) first: u64,
    pub(super) count: u64,
}

/// Reads a `.queue` file from front to back.
pub(super) struct QueueCursor {
    file: QueueFile,
    directory: Scan,
    units: Scan,
    entry: Option<Entry>,
}

impl QueueCursor {
    /// The record under the cursor; `None` behind the last.
    pub(super) const fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    /// The bytes of the next `count` units; those of the record under the cursor come first.
    pub(super) fn take_units(&mut self, count: usize) -> Result<&[u8], ReadError> {
        Ok(self.units.take(count * UNIT_LEN)?.0)
    }

    /// Goes to the next record; its units follow those of this one.
    pub(super) fn advance(&mut self) -> Result<(), ReadError> {
        self.entry = None;
        if self.directory.is_empty() {
            return Ok(());
        }
        let topic_len = self.directory.peek(2)?.u16();
        let len = RECORD_LEN + usize::from(topic_len.unwrap_or_default());
        let record = self.file.checked(Record::decode(&mut self.directory.take(len)?))?;
        self.entry = Some(Entry {
            hash: queue_hash(record.topic, record.queue),
            topic: record.topic.to_vec(),
            queue: record.queue,
            first: record.extent.first,
            count: record.extent.count,
        });
        Ok(())
    }
}

/// Writes a `.queue` file: queues in the order of (hash, topic, queue id, first offset), each with its units.
pub(super) struct QueueFileWriter {
    pages: PageWriter,
    range: LogRange,
    units: u64,
    /// The directory so far, and hash and place of each record: about 70 bytes a queue.
    directory: Vec<u8>,
    places: Vec<(u64, u32)>,
    open: Option<(Entry, u64)>,
}

impl QueueFileWriter {
    pub(super) fn new(file: Arc<dyn DiskFile>, range: LogRange) -> Self {
        Self {
            pages: PageWriter::new(file, file_seed(Kind::Queue, range), 1),
            range,
            units: 0,
            directory: Vec::new(),
            places: Vec::new(),
            open: None,
        }
    }

    /// Bytes that went to the disk so far.
    pub(super) const fn written(&self) -> u64 {
        self.pages.written()
    }

    /// The units that follow belong to `entry`; one that continues the entry before it becomes one record with it.
    pub(super) fn entry(&mut self, entry: Entry) -> io::Result<()> {
        if let Some((open, _)) = &mut self.open
            && open.hash == entry.hash
            && open.topic == entry.topic
            && open.queue == entry.queue
            && open.first + open.count == entry.first
            && u32::try_from(open.count + entry.count).is_ok()
        {
            open.count += entry.count;
            return Ok(());
        }
        self.end_record()?;
        self.open = Some((entry, self.units));
        Ok(())
    }

    /// Whole encoded units.
    pub(super) fn units(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.units += (bytes.len() / UNIT_LEN) as u64;
        self.pages.put(bytes)
    }

    /// Writes directory and header, and makes the file durable.
    pub(super) fn finish(mut self, next_index: u64) -> io::Result<QueueHeader> {
        self.end_record()?;
        let records = u32::try_from(self.places.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let header = QueueHeader {
            range: self.range,
            next_index,
            units: self.units,
            records,
            buckets: (records / BUCKET_LOAD).max(1),
            directory_len: self.directory.len() as u64,
        };
        let mut places = self.places.iter().peekable();
        for bucket in 0..header.buckets {
            while places.next_if(|(hash, _)| bucket_of(*hash, header.buckets) < bucket).is_some() {}
            let start = places.peek().map_or(self.directory.len() as u32, |(_, place)| *place);
            self.pages.put(&start.to_be_bytes())?;
        }
        self.pages.put(&(self.directory.len() as u32).to_be_bytes())?;
        self.pages.put(&self.directory)?;
        self.pages.finish(&header.encode())?;
        Ok(header)
    }

    fn end_record(&mut self) -> io::Result<()> {
        let Some((entry, unit)) = self.open.take() else { return Ok(()) };
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let place = u32::try_from(self.directory.len()).map_err(|_| too_large())?;
        let topic_len = u16::try_from(entry.topic.len()).map_err(|_| too_large())?;
        let count = u32::try_from(entry.count).map_err(|_| too_large())?;
        self.places.push((entry.hash, place));
        self.directory.extend_from_slice(&topic_len.to_be_bytes());
        self.directory.extend_from_slice(&entry.queue.to_be_bytes());
        self.directory.extend_from_slice(&count.to_be_bytes());
        self.directory.extend_from_slice(&entry.first.to_be_bytes());
        self.directory.extend_from_slice(&unit.to_be_bytes());
        self.directory.extend_from_slice(&entry.topic);
        // The last bucket's end must fit its word too.
        u32::try_from(self.directory.len()).map(|_| ()).map_err(|_| too_large())
    }
}
