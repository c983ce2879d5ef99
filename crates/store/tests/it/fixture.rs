//! Directories of format version 1, as they were written when what is in them was new: every later version opens them. `v1`
//! has one of each thing that docs/formats.md described first: all kinds of entries, sealed segments and an open one, vote,
//! manifest, checkpoint, boundary and current snapshot, and of the index files of both kinds. `v1-coupled` is the same with
//! entries of kind 5, which came later.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use store::index::{Frames, IndexedLog, QueueIndex, frames_of};
use store::{
    CrashDisk, Disk, Draft, Flusher, FrameKind, Identity, Log, LogId, LogIndex, LogItem, LogPosition,
    NewEntry, Options, OsDisk, StoreError, TablesKind, Term, Vote,
};
use wire::{NewMessage, QueueId, QueueOffset, StoredMessage};

use super::harness::{Ack, body, entries, meta};

const SEGMENT: u64 = 8192;

fn identity() -> Identity {
    Identity {
        cluster: "fixture".into(),
        group: "group-with-a-name-of-more-than-16-bytes".into(),
        node: 2,
        segment_size: SEGMENT,
    }
}

fn options() -> Options {
    Options { small_segments: true, ..Options::default() }
}

/// What an entry holds; bodies of so many bytes, or so many messages.
#[derive(Clone, Copy)]
enum What {
    Membership(usize),
    Blank,
    Command(usize),
    Messages(usize),
    /// A command of so many bytes, and so many messages.
    Coupled(usize, usize),
}

impl What {
    fn kind(self) -> FrameKind {
        match self {
            What::Membership(_) => FrameKind::Membership,
            What::Blank => FrameKind::Blank,
            What::Command(_) => FrameKind::Command,
            What::Messages(_) => FrameKind::Messages,
            What::Coupled(..) => FrameKind::Coupled,
        }
    }

    fn messages(self) -> usize {
        match self {
            What::Messages(count) | What::Coupled(_, count) => count,
            What::Membership(_) | What::Blank | What::Command(_) => 0,
        }
    }
}

struct Fixture {
    name: &'static str,
    /// Term and content of entries 0 to 14. The segments hold 0 to 4 (purged), 5 to 9, 10 to 12, and, open, 13 and 14.
    entries: [(u64, What); 15],
}

const V1: Fixture = Fixture {
    name: "v1",
    entries: [
        (1, What::Membership(200)),
        (1, What::Blank),
        (1, What::Command(900)),
        (1, What::Command(1500)),
        (1, What::Command(1000)),
        (1, What::Command(1000)),
        (2, What::Blank),
        (2, What::Messages(4)),
        (2, What::Membership(200)),
        (2, What::Messages(5)),
        (2, What::Messages(6)),
        (2, What::Command(700)),
        (2, What::Messages(3)),
        (2, What::Command(1200)),
        (2, What::Messages(4)),
    ],
};
const V1_COUPLED: Fixture = Fixture {
    name: "v1-coupled",
    entries: [
        (1, What::Membership(200)),
        (1, What::Blank),
        (1, What::Command(900)),
        (1, What::Coupled(1400, 0)),
        (1, What::Command(1000)),
        (1, What::Command(1000)),
        (2, What::Blank),
        (2, What::Coupled(100, 3)),
        (2, What::Coupled(600, 0)),
        (2, What::Messages(3)),
        (2, What::Coupled(333, 5)),
        (2, What::Messages(2)),
        (2, What::Coupled(0, 4)),
        (2, What::Coupled(900, 2)),
        (2, What::Coupled(1, 4)),
    ],
};
/// Where each sealed segment ends.
const BOUNDARIES: [u64; 3] = [4, 9, 12];
/// The checkpoint is in the open segment, and messages follow it.
const CHECKPOINT: u64 = 13;

fn time(index: u64) -> u64 {
    1_700_000_000_000 + index
}

/// A message, and where it is in its queue.
struct Sent {
    entry: u64,
    topic: String,
    queue: u32,
    offset: u64,
    unique_id: String,
    properties: String,
    body: Vec<u8>,
}

/// A name for RocketMQ's first layout of stored messages, and one that needs the second.
fn topics() -> [String; 2] {
    ["Orders".to_owned(), "long-topic-".repeat(12)]
}

impl Fixture {
    fn home(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(self.name)
    }

    /// All messages of the log, in order.
    fn sent(&self) -> Vec<Sent> {
        let [short, long] = topics();
        let mut next: BTreeMap<(String, u32), u64> = BTreeMap::new();
        let mut all = Vec::new();
        for (entry, (_, what)) in (0..).zip(self.entries) {
            for _ in 0..what.messages() {
                let n = all.len();
                let (topic, queue) = match n % 4 {
                    1 => (&short, 1),
                    2 => (&long, 0),
                    _ => (&short, 0),
                };
                let offset = next.entry((topic.clone(), queue)).or_default();
                let (keys, unique_id) = (format!("k{n} all"), format!("u{n}"));
                let tags = ["A", "B", ""][n % 3];
                let mut body = format!("message {n}.").into_bytes();
                body.resize(60 + n, n as u8);
                all.push(Sent {
                    entry,
                    topic: topic.clone(),
                    queue,
                    offset: *offset,
                    properties: wire::properties_from([
                        ("TAGS", tags),
                        ("KEYS", &*keys),
                        ("UNIQ_KEY", &*unique_id),
                    ]),
                    unique_id,
                    body,
                });
                *offset += 1;
            }
        }
        all
    }

    /// The command or the membership of an entry.
    fn command(&self, index: u64) -> Option<Vec<u8>> {
        let (term, what) = self.entries[index as usize];
        match what {
            What::Blank | What::Messages(_) => None,
            What::Membership(len) | What::Command(len) | What::Coupled(len, _) => {
                Some(body(term, index, len))
            }
        }
    }

    /// The body of an entry as it is proposed: of messages without position and store time.
    fn entry_body(&self, index: u64) -> Vec<u8> {
        let (_, what) = self.entries[index as usize];
        let host = "10.0.0.1:10911".parse().unwrap();
        let command = self.command(index).unwrap_or_default();
        match what {
            What::Blank | What::Membership(_) | What::Command(_) => command,
            What::Messages(_) | What::Coupled(..) => {
                let mut records = BytesMut::new();
                if let What::Coupled(..) = what {
                    records.extend_from_slice(&(command.len() as u32).to_be_bytes());
                    records.extend_from_slice(&command);
                }
                for message in self.sent().into_iter().filter(|message| message.entry == index) {
                    let start = records.len();
                    let new = NewMessage {
                        topic: &message.topic,
                        queue_id: QueueId(message.queue),
                        flag: 0,
                        sys_flag: 0,
                        born_timestamp: 1_699_999_999_999,
                        born_host: host,
                        store_host: host,
                        reconsume_times: 0,
                        prepared_transaction_offset: 0,
                        body: &message.body,
                        properties: &message.properties,
                    };
                    wire::encode_message(&new, &mut records).unwrap();
                    wire::patch_queue_offset(&mut records[start..], QueueOffset(message.offset)).unwrap();
                }
                records.to_vec()
            }
        }
    }

    fn write(&self) -> (CrashDisk, Log, Flusher) {
        let disk = CrashDisk::new(1);
        let flusher = Flusher::manual();
        let log = Log::open_with(Arc::new(disk.clone()), Path::new("/v1"), &identity(), &flusher, options())
            .unwrap();
        for (index, (term, what)) in (0..).zip(self.entries) {
            let draft =
                Draft::new(LogId::new(term, index), what.kind(), time(index), &self.entry_body(index));
            let ack = Ack::default();
            log.append(vec![NewEntry::Draft(draft)], ack.done()).unwrap();
            flusher.turn();
            ack.ok();
        }
        log.save_vote_now(Vote { term: Term(2), node: 2, committed: true }).unwrap();
        log.save_committed(Some(LogId::new(2, CHECKPOINT)));
        log.set_formed([(1, "1".repeat(32)), (2, log.incarnation().to_owned()), (3, "3".repeat(32))].into())
            .unwrap();
        let frames = entries(&log);
        let sealed: Vec<LogId> = log.segments().iter().filter_map(|segment| segment.sealed?.last).collect();
        assert_eq!(sealed.iter().map(|id| id.index.0).collect::<Vec<_>>(), BOUNDARIES);
        for id in &sealed {
            let tables = format!("tables at boundary {}", id.index);
            log.save_tables(TablesKind::Boundary, &meta(&frames[id.index.0 as usize]), tables.as_bytes())
                .unwrap();
        }
        log.set_current_snapshot(sealed[0]).unwrap();
        log.purge(sealed[0]).unwrap();
        let checkpoint = meta(&frames[CHECKPOINT as usize]);
        log.save_tables(TablesKind::Checkpoint, &checkpoint, b"tables at the checkpoint").unwrap();
        log.sync_all().unwrap();
        flusher.turn();
        // The index as a running node writes it: each entry once it is applied, and the files up to the checkpoint.
        let start = log.state().first_position;
        let indexed = IndexedLog { start, checkpoint: start, segment_size: SEGMENT, indexes: 1 };
        let index =
            QueueIndex::open(Arc::new(disk.clone()), log.dir(), &indexed, &frames_of(&log), &|_| false)
                .unwrap();
        for frame in &frames[BOUNDARIES[0] as usize + 1..=CHECKPOINT as usize] {
            index.add(frame);
        }
        index.spill(checkpoint.end).unwrap();
        (disk, log, flusher)
    }
}

fn files(disk: &dyn Disk, dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for name in disk.list(dir).unwrap() {
        if name.starts_with("next-") || name == "LOCK" {
            continue;
        }
        let path = dir.join(&name);
        if disk.list(&path).is_ok() {
            let inside = files(disk, &path);
            all.extend(inside.into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if let Some(bytes) = store::read_file(disk, &path, 1 << 20).unwrap() {
            all.push((name, bytes));
        }
    }
    all
}

fn write_fixture(fixture: &Fixture) {
    let (disk, ..) = fixture.write();
    let _ = std::fs::remove_dir_all(fixture.home());
    for (name, bytes) in files(&disk, Path::new("/v1")) {
        let path = fixture.home().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
#[ignore = "writes the fixture of this format version; run it once per version"]
fn write_the_fixture() {
    write_fixture(&V1);
}

#[test]
#[ignore = "writes the fixture of coupled entries; run it once per version"]
fn write_the_fixture_of_coupled_entries() {
    write_fixture(&V1_COUPLED);
}

fn is_written_as_it_was(fixture: &Fixture) {
    let (disk, ..) = fixture.write();
    let (now, then) = (files(&disk, Path::new("/v1")), files(&OsDisk, &fixture.home()));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&now), names(&then));
    for ((name, now), (_, then)) in now.iter().zip(&then) {
        assert!(now == then, "{name} differs: the format has changed, so must its version");
    }
    assert!(then.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() < 100 << 10);
}

#[test]
fn version_1_is_written_as_it_was() {
    is_written_as_it_was(&V1);
}

#[test]
fn version_1_with_coupled_entries_is_written_as_it_was() {
    is_written_as_it_was(&V1_COUPLED);
}

/// The index leads to every message of the entries before `until`, by its queue and by its keys.
impl Fixture {
    fn check_index(&self, log: &Log, index: &QueueIndex, until: u64) {
        let sent: Vec<Sent> = self.sent().into_iter().filter(|message| message.entry < until).collect();
        let mut by_key: BTreeMap<&str, Vec<LogPosition>> = BTreeMap::new();
        let mut counts: BTreeMap<(&str, u32), u64> = BTreeMap::new();
        for message in &sent {
            let (topic, queue, offset) =
                (&*message.topic, QueueId(message.queue), QueueOffset(message.offset));
            let unit = index.unit(topic, queue, offset).unwrap().unwrap();
            let bytes = log.read_bytes(unit.position, unit.size as usize).unwrap();
            let stored = StoredMessage::parse(&bytes).unwrap();
            stored.verify().unwrap();
            assert_eq!((stored.topic, stored.queue_id, stored.queue_offset), (topic, queue, offset));
            assert_eq!((stored.position, stored.size()), (unit.position, unit.size as usize));
            assert_eq!((stored.body, stored.properties), (&message.body[..], &*message.properties));
            assert_eq!(stored.store_timestamp as u64, time(message.entry));
            assert_eq!(stored.tags_code(), unit.tags_code);
            let found = index.find_key(topic, &message.unique_id, 0, u64::MAX, 10).unwrap();
            assert_eq!(found, [unit.position], "{}", message.unique_id);
            by_key.entry(topic).or_default().insert(0, unit.position);
            *counts.entry((topic, message.queue)).or_default() += 1;
        }
        for (topic, positions) in by_key {
            assert_eq!(index.find_key(topic, "all", 0, u64::MAX, 100).unwrap(), positions, "newest first");
        }
        assert_eq!(counts.len(), 3);
        for ((topic, queue), count) in counts {
            let bounds = index.bounds(topic, QueueId(queue)).unwrap();
            assert_eq!(bounds, Some((QueueOffset(0), QueueOffset(count))), "{topic} {queue}");
        }
    }

    fn opens(&self) {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files(&OsDisk, &self.home()) {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let flusher = Flusher::start(1);
        let log = Log::open_with(Arc::new(OsDisk), dir.path(), &identity(), &flusher, options()).unwrap();
        let state = log.state();
        assert_eq!(state.purged, Some(LogId::new(1, BOUNDARIES[0])));
        assert_eq!(state.first_position, LogPosition(SEGMENT));
        assert_eq!(state.last, Some(LogId::new(2, 14)));
        assert_eq!(log.read_committed(), Some(LogId::new(2, CHECKPOINT)));
        assert_eq!(log.vote(), Some(Vote { term: Term(2), node: 2, committed: true }));
        assert_eq!(log.formed().unwrap()[&3], "3".repeat(32));
        let ends: Vec<Option<LogId>> = log.segments().iter().map(|segment| segment.sealed?.last).collect();
        assert_eq!(ends, [Some(LogId::new(2, 9)), Some(LogId::new(2, 12)), None]);
        let (checkpoint, tables) = log.load_newest_checkpoint().unwrap().unwrap();
        assert_eq!(checkpoint.last, LogId::new(2, CHECKPOINT));
        assert_eq!(tables, b"tables at the checkpoint");
        assert_eq!(log.boundaries().unwrap(), BOUNDARIES.map(LogIndex));
        assert_eq!(log.boundary(LogIndex(9)).unwrap().unwrap().1, b"tables at boundary 9");
        assert_eq!(log.current_snapshot().unwrap().unwrap().1, b"tables at boundary 4");
        let mut reader = log.frames_from(LogPosition(0));
        let mut frames = Vec::new();
        for (index, (term, what)) in (0..).zip(self.entries).skip(BOUNDARIES[0] as usize + 1) {
            let Some(LogItem::Frame(frame)) = reader.next_item().unwrap() else { panic!("entry {index}") };
            assert_eq!((frame.id(), frame.kind()), (LogId::new(term, index), what.kind()));
            assert_eq!(frame.log_time_ms(), time(index));
            assert_eq!(log.position_of(LogIndex(index)).unwrap(), frame.position());
            // What messages say is looked at below, where the index leads to them.
            let command = frame.command().map(|command| command.to_vec());
            match what {
                What::Blank | What::Membership(_) => assert_eq!(frame.body(), self.entry_body(index)),
                _ => assert_eq!(command, self.command(index)),
            }
            assert_eq!(wire::Messages::new(&frame.records()).count(), what.messages());
            frames.push(frame);
        }
        assert!(reader.next_item().unwrap().is_none());

        // Up to the checkpoint the index is in its files: it neither loses one nor reads the log again.
        let indexed = IndexedLog {
            start: state.first_position,
            checkpoint: checkpoint.end,
            segment_size: SEGMENT,
            indexes: 1,
        };
        let from_log = |position: LogPosition| -> Result<Frames<'static>, StoreError> {
            panic!("the index is read from the log at {position}")
        };
        let index =
            QueueIndex::open(Arc::clone(log.disk()), log.dir(), &indexed, &from_log, &|_| false).unwrap();
        let stats = index.stats();
        assert_eq!((stats.files, stats.lost_files, stats.gaps, stats.memory_units), (6, 0, 0, 0));
        assert_eq!(stats.built, checkpoint.end);
        self.check_index(&log, &index, CHECKPOINT + 1);
        // And it goes on with what is applied after the checkpoint.
        index.add(frames.last().unwrap());
        assert_eq!(index.stats().gaps, 0);
        self.check_index(&log, &index, CHECKPOINT + 2);

        log.check().unwrap();
        log.close().unwrap();
        drop(log);
        flusher.stop();
    }
}

#[test]
fn version_1_opens() {
    V1.opens();
}

#[test]
fn version_1_with_coupled_entries_opens() {
    V1_COUPLED.opens();
}
