//! The part of the index that is not on disk yet: what was added since the last spill, for one stretch of the log.
//!
//! Everything is kept as it will be written: units as their 20 bytes side by side for each queue, keys in the order of
//! the log. A part holds frames of one segment only and is full after so many units, keys, bytes of log or bytes of
//! memory, so its size is bounded and so is the work to build it again.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use wire::LogPosition;

use super::codec::{LogRange, UNIT_LEN, Unit, extend_java_hash, key_hash, queue_hash};
use super::key_file::{KeyFileWriter, KeyHeader, KeyUnit};
use super::queue_file::{Entry, QueueFileWriter, QueueHeader};
use super::records::Record;
use super::sizes::Sizes;
use crate::disk::DiskFile;
use crate::frame::Frame;

/// Keys that are shared with readers at once.
const BLOCK_LEN: usize = 4096;
/// Bytes that a queue costs in memory beside its units, and a topic beside its name; rounded up.
const QUEUE_BYTES: usize = 128;
const TOPIC_BYTES: usize = 160;

/// Consecutive offsets of one queue.
struct Extent {
    topic: u32,
    queue: u32,
    first: u64,
    units: Vec<[u8; UNIT_LEN]>,
}

impl Extent {
    fn end(&self) -> u64 {
        self.first + self.units.len() as u64
    }
}

struct Topic {
    name: Arc<str>,
    /// Java hash of `name#`, from which the hash of each key goes on.
    java_hash: i32,
    /// (queue id, number of the extent), sorted.
    queues: Vec<(u32, u32)>,
}

/// Keys of a part in the order of the log, which a reader can look through without holding up the writer.
#[derive(Clone, Default)]
pub(super) struct Keys {
    blocks: Vec<Arc<[KeyUnit]>>,
    open: Vec<KeyUnit>,
}

impl Keys {
    fn push(&mut self, unit: KeyUnit) {
        self.open.push(unit);
        if self.open.len() == BLOCK_LEN {
            self.blocks.push(self.open.as_slice().into());
            self.open.clear();
        }
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = &KeyUnit> {
        self.blocks.iter().flat_map(|block| block.iter()).chain(&self.open)
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len() * BLOCK_LEN + self.open.len()
    }

    /// Store time of the first message with a key, ms, rounded down to a second.
    pub(super) fn begin_ms(&self) -> Option<u64> {
        self.iter().next().map(|unit| u64::from(unit.second) * 1000)
    }

    /// As [`super::key_file::KeyFile::find`].
    pub(super) fn find(
        &self,
        hash: u32,
        begin_ms: u64,
        end_ms: u64,
        max: usize,
        found: &mut Vec<LogPosition>,
    ) {
        for unit in self.iter().rev() {
            if found.len() >= max || unit.is_before(begin_ms) {
                return;
            }
            if unit.hash == hash
                && unit.is_within(begin_ms, end_ms)
                && found.last() != Some(&LogPosition(unit.position))
            {
                found.push(LogPosition(unit.position));
            }
        }
    }
}

/// Where a queue offset is, seen from one part or file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It holds nothing of the queue.
    Absent,
    /// What it holds of the queue is newer.
    Older,
    Here,
    /// What it holds of the queue is older, or on both sides of a hole.
    Newer,
}

/// Finds `offset` among extents (first, end), given in the order of their offsets.
pub(super) fn place(extents: impl IntoIterator<Item = (u64, u64)>, offset: u64) -> Place {
    let mut place = Place::Absent;
    for (first, end) in extents {
        if offset < first {
            return if place == Place::Absent { Place::Older } else { place };
        }
        if offset < end {
            return Place::Here;
        }
        place = Place::Newer;
    }
    place
}

/// See the head of the file.
pub(super) struct Part {
    from: u64,
    to: u64,
    /// Position of the first frame; `None` before it.
    start: Option<u64>,
    /// Index after that of the last frame; 0: no frame yet.
    next_index: u64,
    topics: HashMap<Arc<str>, u32>,
    topic_list: Vec<Topic>,
    extents: Vec<Extent>,
    /// The extent of the newest unit: the next one is often of the same queue.
    latest: usize,
    units: usize,
    keys: Keys,
    /// Store time of the last message with a key.
    keys_end_ms: u64,
    names_len: usize,
}

impl Part {
    /// An empty part for what follows position `from`.
    pub(super) fn new(from: u64) -> Self {
        Self {
            from,
            to: from,
            start: None,
            next_index: 0,
            topics: HashMap::new(),
            topic_list: Vec::new(),
            extents: Vec::new(),
            latest: 0,
            units: 0,
            keys: Keys::default(),
            keys_end_ms: 0,
            names_len: 0,
        }
    }

    /// What it covers; empty before the first frame.
    pub(super) const fn range(&self) -> LogRange {
        LogRange { from: self.from, to: self.to }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Index after that of the last frame, 0 before the first.
    pub(super) const fn next_index(&self) -> u64 {
        self.next_index
    }

    pub(super) const fn units(&self) -> usize {
        self.units
    }

    /// Bytes of log in it.
    pub(super) const fn log_len(&self) -> u64 {
        match self.start {
            Some(start) => self.to - start,
            None => 0,
        }
    }

    /// Bytes of memory, to within the slack of growing vectors (a quarter).
    pub(super) fn memory(&self) -> usize {
        self.units * UNIT_LEN
            + self.keys.len() * size_of::<KeyUnit>()
            + self.extents.len() * QUEUE_BYTES
            + self.topic_list.len() * TOPIC_BYTES
            + self.names_len
    }

    pub(super) fn is_full(&self, sizes: &Sizes) -> bool {
        self.units >= sizes.part_units
            || self.log_len() >= sizes.part_log_bytes
            || self.memory() >= sizes.part_memory_bytes
    }

    /// True when a frame at `position` is in the segment that this part is in.
    pub(super) const fn is_in_segment(&self, position: u64, segment_size: u64) -> bool {
        self.from / segment_size == position / segment_size
    }

    /// Covers the bytes up to `to` too, which hold no frame.
    pub(super) fn extend_to(&mut self, to: u64) {
        self.to = self.to.max(to);
    }

    /// Adds a frame; its records are given apart because they are parsed outside of the lock, and none are given for a
    /// void entry.
    pub(super) fn add(&mut self, frame: &Frame, records: &[Record<'_>]) {
        self.start.get_or_insert(frame.position().0);
        for record in records {
            self.add_record(record, frame);
        }
        self.to = frame.end().0;
        self.next_index = frame.id().index.next().0;
    }

    fn add_record(&mut self, record: &Record<'_>, frame: &Frame) {
        let Some((at, topic)) = self.extent_of(record) else {
            let Record { topic, queue, queue_offset, position, .. } = record;
            let index = frame.id().index.0;
            tracing::error!(
                topic,
                queue,
                queue_offset,
                position,
                index,
                "not indexed: a queue offset comes twice"
            );
            return;
        };
        self.latest = at;
        if let Some(extent) = self.extents.get_mut(at) {
            if extent.units.len() == extent.units.capacity() {
                // A quarter more instead of the doubling of Vec, which would waste half of a part.
                extent.units.reserve_exact((extent.units.len() / 4).max(4));
            }
            extent.units.push(record.unit);
            self.units += 1;
        }
        let time_ms = frame.log_time_ms();
        let java_hash = self.topic_list.get(topic).map_or(0, |topic| topic.java_hash);
        let words =
            record.unique_id.into_iter().chain(record.keys.split(' ').filter(|word| !word.is_empty()));
        for word in words {
            let hash = key_hash(extend_java_hash(java_hash, word));
            self.keys.push(KeyUnit::new(hash, record.position, time_ms));
            self.keys_end_ms = time_ms;
        }
    }

    /// The extent that the record continues, made when there is none, and its topic. `None` when the queue already has
    /// the offset: apply voids such an entry, so it never gets here.
    fn extent_of(&mut self, record: &Record<'_>) -> Option<(usize, usize)> {
        if let Some(latest) = self.extents.get(self.latest)
            && latest.queue == record.queue
            && latest.end() == record.queue_offset
            && self.topic_list.get(latest.topic as usize).is_some_and(|topic| *topic.name == *record.topic)
        {
            return Some((self.latest, latest.topic as usize));
        }
        let number = match self.topics.get(record.topic) {
            Some(number) => *number,
            None => {
                let name: Arc<str> = record.topic.into();
                let number = self.topic_list.len() as u32;
                self.names_len += name.len();
                self.topics.insert(Arc::clone(&name), number);
                let java_hash = extend_java_hash(extend_java_hash(0, &name), "#");
                self.topic_list.push(Topic { name, java_hash, queues: Vec::new() });
                number
            }
        };
        let topic = self.topic_list.get_mut(number as usize)?;
        let behind = topic.queues.partition_point(|(queue, _)| *queue <= record.queue);
        let newest = behind.checked_sub(1).and_then(|at| topic.queues.get(at));
        if let Some((queue, extent)) = newest
            && *queue == record.queue
        {
            let end = self.extents.get(*extent as usize).map_or(0, Extent::end);
            if end == record.queue_offset {
                return Some((*extent as usize, number as usize));
            }
            if end > record.queue_offset {
                return None;
            }
        }
        let at = self.extents.len();
        topic.queues.insert(behind, (record.queue, at as u32));
        let (queue, first) = (record.queue, record.queue_offset);
        self.extents.push(Extent { topic: number, queue, first, units: Vec::new() });
        Some((at, number as usize))
    }

    /// The extents of a queue in the order of their offsets.
    fn queue(&self, topic: &str, queue: u32) -> impl DoubleEndedIterator<Item = &Extent> {
        let queues = self
            .topics
            .get(topic)
            .and_then(|number| self.topic_list.get(*number as usize))
            .map(|topic| {
                let start = topic.queues.partition_point(|(id, _)| *id < queue);
                let end = topic.queues.partition_point(|(id, _)| *id <= queue);
                topic.queues.get(start..end).unwrap_or_default()
            })
            .unwrap_or_default();
        queues.iter().filter_map(|(_, extent)| self.extents.get(*extent as usize))
    }

    /// Where an offset is.
    pub(super) fn place(&self, topic: &str, queue: u32, offset: u64) -> Place {
        place(self.queue(topic, queue).map(|extent| (extent.first, extent.end())), offset)
    }

    /// Goes on with `units`, whose next offset is `next`, as far as they continue here and until there are `max`;
    /// false when they end here: `max` is reached, or what is here of the queue does not continue them.
    pub(super) fn collect(
        &self,
        topic: &str,
        queue: u32,
        next: &mut u64,
        max: usize,
        units: &mut Vec<Unit>,
    ) -> bool {
        for extent in self.queue(topic, queue) {
            if extent.end() <= *next {
                continue;
            }
            let Some(skip) = next.checked_sub(extent.first) else { return false };
            let here = extent.units.get(skip as usize..).unwrap_or_default();
            let here = here.get(..max - units.len()).unwrap_or(here);
            let before = units.len();
            units.reserve(here.len());
            units.extend(here.iter().filter_map(|bytes| Unit::decode(bytes)));
            *next += (units.len() - before) as u64;
            if units.len() == max {
                return false;
            }
        }
        true
    }

    /// First and next offset of a queue in this part.
    pub(super) fn bounds(&self, topic: &str, queue: u32) -> Option<(u64, u64)> {
        let mut extents = self.queue(topic, queue);
        let first = extents.next()?;
        Some((first.first, extents.next_back().unwrap_or(first).end()))
    }

    pub(super) const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Writes the units as a `.queue` file.
    pub(super) fn write_queues(&self, file: Arc<dyn DiskFile>) -> io::Result<QueueHeader> {
        let name =
            |extent: &Extent| self.topic_list.get(extent.topic as usize).map_or("", |topic| &*topic.name);
        let mut order: Vec<(u64, &str, &Extent)> = self
            .extents
            .iter()
            .map(|extent| (queue_hash(name(extent).as_bytes(), extent.queue), name(extent), extent))
            .collect();
        order.sort_unstable_by_key(|(hash, topic, extent)| (*hash, *topic, extent.queue, extent.first));
        let mut writer = QueueFileWriter::new(file, self.range());
        for (hash, topic, extent) in order {
            writer.entry(Entry {
                hash,
                topic: topic.as_bytes().to_vec(),
                queue: extent.queue,
                first: extent.first,
                count: extent.units.len() as u64,
            })?;
            writer.units(extent.units.as_flattened())?;
        }
        writer.finish(self.next_index)
    }

    /// Writes the keys as a `.keys` file.
    pub(super) fn write_keys(&self, file: Arc<dyn DiskFile>) -> io::Result<KeyHeader> {
        let mut writer = KeyFileWriter::new(file, self.range(), self.keys.len() as u64)?;
        for unit in self.keys.iter() {
            writer.put(*unit)?;
        }
        writer.finish(self.next_index, self.keys_end_ms)
    }
}
