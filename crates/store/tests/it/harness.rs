//! A log on a disk in memory, driven step by step.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use store::{
    CrashDisk, Disk, DiskFile, Draft, Flusher, Frame, FrameKind, Identity, Log, LogId, LogIndex, LogPosition,
    NewEntry, Options, StoreError, TablesMeta, Vote,
};

pub(crate) const DIR: &str = "/data/g";
pub(crate) const SEGMENT: u64 = 16384;

pub(crate) fn identity() -> Identity {
    Identity { cluster: "cluster".into(), group: "group".into(), node: 1, segment_size: SEGMENT }
}

/// Small segments, and nothing in memory that is on disk: reads show what the files hold.
pub(crate) fn options() -> Options {
    Options { recent_bytes_max: 0, small_segments: true, zeros_ahead: 0 }
}

pub(crate) fn try_open(disk: &CrashDisk, flusher: &Flusher) -> Result<Log, StoreError> {
    Log::open_with(Arc::new(disk.clone()), Path::new(DIR), &identity(), flusher, options())
}

/// A disk, a flusher without threads, and the log on them.
pub(crate) struct Machine {
    pub(crate) disk: CrashDisk,
    pub(crate) flusher: Flusher,
    pub(crate) log: Log,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::on(CrashDisk::new(1))
    }

    pub(crate) fn on(disk: CrashDisk) -> Self {
        let flusher = Flusher::manual();
        let log = try_open(&disk, &flusher).unwrap();
        Self { disk, flusher, log }
    }

    /// The process ends and starts again; the page cache stays.
    pub(crate) fn restart(self) -> Self {
        let Self { disk, flusher, log } = self;
        drop(log);
        drop(flusher);
        Self::on(disk)
    }

    /// The power fails; everything that was not synced is lost with this seed's luck.
    pub(crate) fn crash(self, seed: u64) -> Self {
        let Self { disk, flusher, log } = self;
        disk.crash(seed);
        drop(log);
        drop(flusher);
        Self::on(disk)
    }

    /// Appends and makes it durable.
    pub(crate) fn append(&self, entries: Vec<NewEntry>) {
        let ack = append(&self.log, entries);
        self.flusher.turn();
        ack.ok();
    }

    /// Commands of term `term` with bodies of `lens` bytes, at the end of the log.
    pub(crate) fn append_lens(&self, term: u64, lens: &[usize]) {
        self.append(drafts(&self.log, term, lens));
    }
}

/// Called with the path of a file, as it was when the file was opened.
pub(crate) type Hook = Arc<dyn Fn(&Path) + Send + Sync>;

/// A disk in memory that calls the test before each sync of a file.
pub(crate) struct HookedDisk {
    pub(crate) disk: CrashDisk,
    pub(crate) before_sync: Hook,
}

struct HookedFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    before_sync: Hook,
}

impl HookedDisk {
    fn hooked(&self, path: &Path, file: io::Result<Arc<dyn DiskFile>>) -> io::Result<Arc<dyn DiskFile>> {
        let before_sync = Arc::clone(&self.before_sync);
        Ok(Arc::new(HookedFile { file: file?, path: path.to_owned(), before_sync }))
    }
}

impl Disk for HookedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.hooked(path, self.disk.open(path))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.hooked(path, self.disk.create(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.disk.exchange(one, other)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_space(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }
    fn entropy(&self) -> io::Result<[u8; 16]> {
        self.disk.entropy()
    }
}

impl DiskFile for HookedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, buffers: &[io::IoSlice<'_>]) -> io::Result<()> {
        self.file.write_at(offset, buffers)
    }
    fn sync_data(&self) -> io::Result<()> {
        (self.before_sync)(&self.path);
        self.file.sync_data()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn map(&self, len: u64) -> io::Result<Option<store::Map>> {
        self.file.map(len)
    }
    fn forget(&self, offset: u64, len: u64) {
        self.file.forget(offset, len);
    }
}

/// How a call with a `done` ended.
#[derive(Clone, Default)]
pub(crate) struct Ack(Arc<Mutex<Option<io::Result<()>>>>);

impl Ack {
    pub(crate) fn done(&self) -> store::Done {
        let cell = Arc::clone(&self.0);
        Box::new(move |outcome| {
            let before = cell.lock().unwrap().replace(outcome);
            assert!(before.is_none(), "done is called once");
        })
    }

    /// `None`: not yet; else whether it is durable.
    pub(crate) fn get(&self) -> Option<bool> {
        self.0.lock().unwrap().as_ref().map(Result::is_ok)
    }

    pub(crate) fn ok(&self) {
        assert_eq!(self.get(), Some(true), "{:?}", self.0.lock().unwrap());
    }
}

pub(crate) fn append(log: &Log, entries: Vec<NewEntry>) -> Ack {
    let ack = Ack::default();
    log.append(entries, ack.done()).unwrap();
    ack
}

pub(crate) fn vote(log: &Log, term: u64, node: u64) -> Ack {
    let ack = Ack::default();
    log.save_vote(Vote { term: store::Term(term), node, committed: false }, ack.done());
    ack
}

/// A body that tells where it came from.
pub(crate) fn body(term: u64, index: u64, len: usize) -> Vec<u8> {
    let mut body = format!("entry {index} of term {term}.").into_bytes();
    let fill = (term * 31 + index * 7) as u8;
    body.resize(len.max(body.len()), fill);
    body
}

pub(crate) fn draft(term: u64, index: u64, len: usize) -> NewEntry {
    NewEntry::Draft(Draft::new(
        LogId::new(term, index),
        FrameKind::Command,
        1000 + index,
        &body(term, index, len),
    ))
}

/// A draft that holds `n` records whose position and store time are yet to be known.
pub(crate) fn messages(term: u64, index: u64, n: usize, store_timestamp: u64) -> NewEntry {
    let (id, kind) = (LogId::new(term, index), FrameKind::Messages);
    NewEntry::Draft(Draft { id, kind, log_time_ms: store_timestamp, buffer: with_records(Draft::room(0), n) })
}

/// The same with a command of so many bytes.
pub(crate) fn coupled(term: u64, index: u64, len: usize, n: usize, store_timestamp: u64) -> NewEntry {
    let (id, kind) = (LogId::new(term, index), FrameKind::Coupled);
    let buffer = with_records(Draft::coupled_room(&body(term, index, len), 0), n);
    NewEntry::Draft(Draft { id, kind, log_time_ms: store_timestamp, buffer })
}

fn with_records(mut buffer: BytesMut, n: usize) -> BytesMut {
    let host: SocketAddr = "10.0.0.1:10911".parse().unwrap();
    for at in 0..n {
        let record = wire::NewMessage {
            topic: "Orders",
            queue_id: wire::QueueId(3),
            flag: 0,
            sys_flag: 0,
            born_timestamp: 7,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: &vec![at as u8; 100 + at],
            properties: "KEYS\u{1}k1\u{2}",
        };
        wire::encode_message(&record, &mut buffer).unwrap();
    }
    buffer
}

/// Drafts at the end of a log.
pub(crate) fn drafts(log: &Log, term: u64, lens: &[usize]) -> Vec<NewEntry> {
    let next = next_index(log);
    lens.iter().zip(next..).map(|(len, index)| draft(term, index, *len)).collect()
}

pub(crate) fn next_index(log: &Log) -> u64 {
    log.state().last.map_or(0, |last| last.index.0 + 1)
}

/// All retained entries.
pub(crate) fn entries(log: &Log) -> Vec<Frame> {
    let state = log.state();
    let mut frames: Vec<Frame> = Vec::new();
    let mut from = state.first_index;
    loop {
        let more = log.read(from, LogIndex(u64::MAX), 10_000).unwrap();
        let Some(last) = more.last() else { break };
        from = last.id().index.next();
        frames.extend(more);
    }
    assert_eq!(frames.last().map(Frame::id).or(state.purged), state.last);
    frames
}

pub(crate) fn ids(log: &Log) -> Vec<(u64, u64)> {
    entries(log).iter().map(|frame| (frame.id().term.0, frame.id().index.0)).collect()
}

pub(crate) fn frames_as_entries(frames: &[Frame]) -> Vec<NewEntry> {
    frames.iter().cloned().map(NewEntry::Frame).collect()
}

pub(crate) fn meta(frame: &Frame) -> TablesMeta {
    TablesMeta { last: frame.id(), end: frame.end(), chain: frame.chain(), log_time_ms: frame.log_time_ms() }
}

pub(crate) fn frame_at(log: &Log, index: u64) -> Frame {
    log.read(LogIndex(index), LogIndex(index + 1), 1).unwrap().remove(0)
}

pub(crate) fn segment_file(start: u64) -> String {
    format!("{DIR}/log/{start:020}")
}

pub(crate) fn content(disk: &dyn Disk, path: &str) -> Vec<u8> {
    store::read_file(disk, Path::new(path), 1 << 30).unwrap().unwrap()
}

/// The offset in its file of a position.
pub(crate) fn place_of(position: LogPosition) -> (String, u64) {
    let start = store::segment_start(position, SEGMENT).0;
    (segment_file(start), position.0 - start)
}

/// Numbers from a seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// All files of a directory, for comparisons.
pub(crate) fn names(disk: &dyn Disk, dir: &str) -> VecDeque<String> {
    disk.list(Path::new(dir)).unwrap().into()
}
