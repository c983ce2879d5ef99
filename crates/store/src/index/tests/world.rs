//! A log without files, the model of what its index must say, and an index to compare with it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use wire::{LogPosition, NewMessage, QueueId, QueueOffset};

use crate::disk::{CrashDisk, Disk, read_file};
use crate::error::StoreError;
use crate::frame::{Draft, Frame, FrameKind, Tail};
use crate::ids::{LogId, LogIndex};
use crate::index::codec::{Kind, LogRange};
use crate::index::sizes::Sizes;
use crate::index::{Frames, IndexError, IndexedLog, QueueIndex, Unit};
use crate::segment;

pub(super) const GROUP: &str = "/group";

/// Small enough that a few frames fill a part and a few parts a segment.
pub(super) const SMALL: Sizes = Sizes {
    part_units: 24,
    part_log_bytes: 16 << 10,
    part_memory_bytes: 1 << 20,
    parts_waiting: 3,
    merged_units: 400,
    merge_fan: 3,
    descriptors: 4,
    tail_log_bytes: 64 << 10,
};

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) queue: u32,
    pub(super) tags: Option<String>,
    pub(super) unique_id: Option<String>,
    pub(super) keys: String,
    pub(super) body_len: usize,
}

impl Message {
    pub(super) fn plain(topic: &str, queue: u32) -> Self {
        Self { topic: topic.into(), queue, tags: None, unique_id: None, keys: String::new(), body_len: 10 }
    }
}

/// What a queue holds: the unit of each offset.
type Queues = BTreeMap<(String, u32), BTreeMap<u64, Unit>>;

#[derive(Clone)]
pub(super) struct World {
    pub(super) segment_size: u64,
    pub(super) frames: Vec<Frame>,
    pub(super) voids: BTreeSet<u64>,
    tail: Tail,
    next_offsets: BTreeMap<(String, u32), u64>,
    pub(super) queues: Queues,
    /// (hash, position, second) in log order.
    pub(super) keys: Vec<(u32, u64, u64)>,
    pub(super) purged_to: u64,
}

impl World {
    pub(super) fn new(segment_size: u64) -> Self {
        Self {
            segment_size,
            frames: Vec::new(),
            voids: BTreeSet::new(),
            tail: Tail { id: None, next: LogIndex(0), end: LogPosition(0), chain: 0, log_time_ms: 0 },
            next_offsets: BTreeMap::new(),
            queues: BTreeMap::new(),
            keys: Vec::new(),
            purged_to: 0,
        }
    }

    /// Starts an empty log at a position and index.
    pub(super) fn start_at(&mut self, position: u64, index: u64) {
        self.tail.end = LogPosition(position);
        self.tail.next = LogIndex(index);
        self.purged_to = position;
    }

    /// Leaves out so many offsets of a queue.
    pub(super) fn jump(&mut self, topic: &str, queue: u32, by: u64) {
        *self.next_offsets.entry((topic.into(), queue)).or_default() += by;
    }

    /// Uses the last offsets of a queue again.
    pub(super) fn jump_back(&mut self, topic: &str, queue: u32, by: u64) {
        *self.next_offsets.entry((topic.into(), queue)).or_default() -= by;
    }

    pub(super) fn end(&self) -> u64 {
        self.tail.end.0
    }

    fn push(&mut self, kind: FrameKind, time_ms: u64, body: &[u8]) -> &Frame {
        let id = LogId::new(1, self.tail.next.0);
        let draft = Draft::new(id, kind, time_ms, body);
        let len = draft.frame_len().unwrap();
        let position = segment::place(self.tail.end, len, self.segment_size);
        let frame = draft.finish(position, &self.tail).unwrap();
        self.tail = Tail::after(&frame);
        self.frames.push(frame);
        self.frames.last().unwrap()
    }

    pub(super) fn command(&mut self, time_ms: u64, len: usize) {
        self.push(FrameKind::Command, time_ms, &vec![7; len]);
    }

    /// Appends an entry of messages; a void one leaves the model as it is.
    pub(super) fn messages(&mut self, time_ms: u64, messages: &[Message], is_void: bool) {
        self.stored(FrameKind::Messages, &[], time_ms, messages, is_void);
    }

    /// The same together with a command of so many bytes.
    pub(super) fn coupled(&mut self, time_ms: u64, len: usize, messages: &[Message], is_void: bool) {
        let head = [&(len as u32).to_be_bytes()[..], &vec![7; len]].concat();
        self.stored(FrameKind::Coupled, &head, time_ms, messages, is_void);
    }

    fn stored(&mut self, kind: FrameKind, head: &[u8], time_ms: u64, messages: &[Message], is_void: bool) {
        let host: SocketAddr = "127.0.0.1:10911".parse().unwrap();
        let mut body = BytesMut::from(head);
        let mut records = Vec::new();
        let mut offsets = self.next_offsets.clone();
        for message in messages {
            let Message { topic, queue, tags, unique_id, keys, body_len } = message;
            let mut properties = String::new();
            for (name, value) in [
                ("TAGS", tags.clone().unwrap_or_default()),
                ("KEYS", keys.clone()),
                ("UNIQ_KEY", unique_id.clone().unwrap_or_default()),
                ("OTHER", "x".into()),
            ] {
                wire::properties_set(&mut properties, name, &value);
            }
            let start = body.len();
            let size = wire::encode_message(
                &NewMessage {
                    topic,
                    queue_id: QueueId(*queue),
                    flag: 0,
                    sys_flag: 0,
                    born_timestamp: 0,
                    born_host: host,
                    store_host: host,
                    reconsume_times: 0,
                    prepared_transaction_offset: 0,
                    body: &vec![b'b'; *body_len],
                    properties: &properties,
                },
                &mut body,
            )
            .unwrap();
            let offset = offsets.entry((topic.clone(), *queue)).or_default();
            wire::patch_queue_offset(&mut body[start..], QueueOffset(*offset)).unwrap();
            records.push((message, *offset, start, size));
            *offset += 1;
        }
        let frame = self.push(kind, time_ms, &body).clone();
        if is_void {
            self.voids.insert(frame.id().index.0);
            return;
        }
        self.next_offsets = offsets;
        for (message, offset, start, size) in records {
            let position = frame.body_position().0 + start as u64;
            let tags_code = message.tags.as_deref().map_or(0, wire::tags_code);
            let unit = Unit { position: LogPosition(position), size: size as u32, tags_code };
            let queue = self.queues.entry((message.topic.clone(), message.queue)).or_default();
            queue.insert(offset, unit);
            let words = message.keys.split(' ').filter(|word| !word.is_empty());
            for word in message.unique_id.as_deref().into_iter().chain(words) {
                self.keys.push((java_key_hash(&message.topic, word), position, frame.log_time_ms() / 1000));
            }
        }
    }

    /// Forgets everything below a position, as retention does.
    pub(super) fn purge(&mut self, before: u64) {
        self.purged_to = self.purged_to.max(before);
        self.frames.retain(|frame| frame.position().0 >= before);
        for queue in self.queues.values_mut() {
            queue.retain(|_, unit| unit.position.0 >= before);
        }
        self.keys.retain(|(_, position, _)| *position >= before);
    }

    pub(super) fn frames_from(&self, position: LogPosition) -> Frames<'_> {
        let known = position.0.is_multiple_of(self.segment_size)
            || position.0 == self.purged_to
            || self.frames.iter().any(|frame| frame.end() == position || frame.position() == position);
        assert!(known, "asked for frames from {position}, where none ends");
        Box::new(self.frames.iter().filter(move |frame| frame.position() >= position).cloned().map(Ok))
    }

    pub(super) fn find_keys(
        &self,
        topic: &str,
        key: &str,
        begin_ms: u64,
        end_ms: u64,
        max: usize,
    ) -> Vec<LogPosition> {
        let hash = java_key_hash(topic, key);
        let mut found: Vec<LogPosition> = self
            .keys
            .iter()
            .rev()
            .filter(|(other, _, second)| {
                *other == hash && second * 1000 <= end_ms && begin_ms <= second * 1000 + 999
            })
            .map(|(_, position, _)| LogPosition(*position))
            .collect();
        found.dedup();
        found.truncate(max);
        found
    }
}

fn java_key_hash(topic: &str, key: &str) -> u32 {
    wire::java_string_hash(&format!("{topic}#{key}")).checked_abs().unwrap_or(0) as u32
}

/// An index over the world's log.
pub(super) struct Bench {
    pub(super) world: Rc<RefCell<World>>,
    pub(super) disk: CrashDisk,
    pub(super) sizes: Sizes,
    pub(super) checkpoint: u64,
    index: Option<QueueIndex>,
}

pub(super) fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl Bench {
    pub(super) fn new(segment_size: u64, sizes: Sizes) -> Self {
        let disk = CrashDisk::new(0);
        disk.create_dir(Path::new(GROUP)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let world = Rc::new(RefCell::new(World::new(segment_size)));
        let mut bench = Self { world, disk, sizes, checkpoint: 0, index: None };
        bench.reopen().unwrap();
        bench
    }

    pub(super) fn index(&self) -> &QueueIndex {
        self.index.as_ref().unwrap()
    }

    /// Adds all entries of the log that the index has not seen.
    pub(super) fn catch_up(&self) {
        let world = self.world.borrow();
        for frame in &world.frames {
            if world.voids.contains(&frame.id().index.0) {
                self.index().skip(frame);
            } else {
                self.index().add(frame);
            }
        }
        assert!(self.index().built().0 >= world.end());
    }

    /// Opens the index as a starting node does, with the tables of the checkpoint.
    pub(super) fn reopen(&mut self) -> Result<(), StoreError> {
        self.index = None;
        let world = self.world.borrow();
        let log = IndexedLog {
            start: LogPosition(world.purged_to),
            checkpoint: LogPosition(self.checkpoint),
            segment_size: world.segment_size,
            indexes: 1,
        };
        let index = QueueIndex::open_with(
            Arc::new(self.disk.clone()),
            Path::new(GROUP),
            &log,
            &|position| Ok(world.frames_from(position)),
            &|index| world.voids.contains(&index.0),
            self.sizes,
        )?;
        assert_eq!(index.built(), LogPosition(self.checkpoint.max(world.purged_to)));
        self.index = Some(index);
        drop(world);
        self.catch_up();
        Ok(())
    }

    pub(super) fn spill(&self, synced: u64) -> Result<(), StoreError> {
        self.index().spill(LogPosition(synced))
    }

    pub(super) fn merge_all(&self) -> Result<(), StoreError> {
        while self.index().merge_step(LogPosition(self.checkpoint), &mut go_on)? {}
        Ok(())
    }

    pub(super) fn rebuild_step(&self) -> Result<bool, StoreError> {
        let world = self.world.borrow();
        self.index().rebuild_step(
            LogPosition(world.end()),
            &|position| Ok(world.frames_from(position)),
            &|index| world.voids.contains(&index.0),
            &mut go_on,
        )
    }

    pub(super) fn rebuild_all(&self) -> Result<(), StoreError> {
        while self.rebuild_step()? {}
        Ok(())
    }

    /// Puts the checkpoint at the end of the `n`-th frame at most, if it goes forward.
    pub(super) fn move_checkpoint(&mut self, n: usize) {
        let world = self.world.borrow();
        if let Some(frame) = world.frames.get(n % world.frames.len().max(1)) {
            self.checkpoint = self.checkpoint.max(frame.end().0);
        }
    }

    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let dir = self.dir();
        let names = self.disk.list(&dir).unwrap();
        names
            .into_iter()
            .map(|name| {
                let bytes = read_file(&self.disk, &dir.join(&name), u64::MAX).unwrap().unwrap();
                (name, bytes)
            })
            .collect()
    }

    #[allow(clippy::unused_self, reason = "reads better")]
    pub(super) fn dir(&self) -> PathBuf {
        Path::new(GROUP).join("queues")
    }

    /// Everything that the index says is what the model says, or (`may_be_rebuilding`) that it cannot say yet.
    pub(super) fn check(&self, may_be_rebuilding: bool) {
        let world = self.world.borrow();
        let index = self.index();
        let settled = |error: IndexError| match error {
            IndexError::Rebuilding { from, to } => {
                assert!(from < to);
                assert!(
                    may_be_rebuilding,
                    "no answer because of a gap from {from} to {to}: {:?}",
                    index.stats()
                );
            }
            IndexError::Store(error) => panic!("{error}"),
        };
        for ((topic, queue), units) in &world.queues {
            let id = QueueId(*queue);
            let bounds = units.first_key_value().zip(units.last_key_value());
            let bounds = bounds.map(|((first, _), (last, _))| (QueueOffset(*first), QueueOffset(*last + 1)));
            match index.bounds(topic, id) {
                Ok(found) => assert_eq!(found, bounds, "{topic} {queue}"),
                Err(error) => settled(error),
            }
            let next = bounds.map_or(0, |(_, next)| next.0);
            let first = bounds.map_or(0, |(first, _)| first.0);
            for from in (first.saturating_sub(1)..=next + 1).step_by(3).chain([first, next]) {
                for max in [1, 6, 1000] {
                    // All combinations cost more than they find.
                    if max == 1 && from % 2 == 1 || max == 1000 && from % 5 != 0 {
                        continue;
                    }
                    let wanted: Vec<Unit> =
                        (from..from + max as u64).map_while(|at| units.get(&at).copied()).collect();
                    let found = index.units(topic, id, QueueOffset(from), max);
                    if let Some(quick) = index.units_resident(topic, id, QueueOffset(from), max) {
                        let part = if may_be_rebuilding { quick.len().max(1) } else { wanted.len() };
                        let wanted = &wanted[..part.min(wanted.len())];
                        assert_eq!(quick, wanted, "resident: {topic} {queue} from {from}, at most {max}");
                    }
                    match found {
                        Ok(found) if may_be_rebuilding && !found.is_empty() => {
                            assert_eq!(found, wanted[..found.len()], "{topic} {queue} from {from}");
                        }
                        Ok(found) => assert_eq!(found, wanted, "{topic} {queue} from {from}, at most {max}"),
                        Err(error) => settled(error),
                    }
                }
            }
        }
        match index.units("no such topic", QueueId(0), QueueOffset(0), 10) {
            Ok(found) => assert_eq!(found, []),
            Err(error) => settled(error),
        }
        let last_ms = world.frames.last().map_or(0, Frame::log_time_ms);
        let times = [(0, u64::MAX), (0, last_ms / 2), (last_ms / 3, last_ms / 2), (last_ms, u64::MAX)];
        for topic in ["t0", "t1", "some-longer-topic"] {
            for key in ["k0", "k1", "k2", "schlüssel", "u3", "u17", "absent"] {
                for (begin_ms, end_ms) in times {
                    for max in [2, 100_000] {
                        match index.find_key(topic, key, begin_ms, end_ms, max) {
                            Ok(found) => assert_eq!(
                                found,
                                world.find_keys(topic, key, begin_ms, end_ms, max),
                                "{topic}#{key} in [{begin_ms}, {end_ms}]"
                            ),
                            Err(error) => settled(error),
                        }
                    }
                }
            }
        }
        let stats = index.stats();
        assert!(stats.descriptors <= self.sizes.descriptors);
        assert_eq!(stats.built.0, world.end().max(world.purged_to));
        drop(world);
        self.check_cover();
    }

    /// Files, gaps and parts cover the log without a hole and without crossing segments.
    fn check_cover(&self) {
        let world = self.world.borrow();
        let state = self.index().0.state();
        for kind in Kind::ALL {
            let ranges: Vec<LogRange> = state
                .shelf(kind)
                .spans()
                .iter()
                .map(|span| span.range())
                .chain(state.parts.iter().map(|part| part.range()))
                .chain([state.open.range()])
                .collect();
            for pair in ranges.windows(2) {
                assert_eq!(pair[0].to, pair[1].from, "{ranges:?}");
            }
            for range in &ranges {
                assert!(
                    range.from == range.to
                        || range.from / world.segment_size == (range.to - 1) / world.segment_size,
                    "{range} crosses a segment"
                );
            }
            assert!(ranges[0].from <= world.purged_to, "{ranges:?}");
        }
    }

    /// Rebuilds what is missing and checks that all is as it ought to be.
    pub(super) fn settle(&self) {
        // Damage is noticed by readers; what they notice is built again, until they have seen all. A file that was removed is
        // read as long as it is open: the second check begins with those open that the next one would begin with too.
        while {
            self.check(true);
            self.check(true);
            self.index().stats().gaps > 0
        } {
            self.rebuild_all().unwrap();
        }
        self.check(false);
    }
}
