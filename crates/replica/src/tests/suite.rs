//! openraft's own suite for log stores and state machines, complete, over real directories with segments so small that they
//! roll. Twice: with the newest frames in memory, as usual, and with every read going to the files.
//!
//! The cases that ask nothing but what openraft asks run on [`LogStorage`] and [`Machine`] as they are (`as_they_are`). The
//! others take liberties that our store refuses to openraft itself, and for these, and so for the suite as a whole, there is
//! a layer that makes good what the suite leaves out, and then calls the real thing:
//!
//! - The suite begins a log at index 1 or 2. Ours has no gap behind its first entry, and may begin anywhere only if what lies
//!   below is purged (log.md 5, 7): the layer makes it so, by [`Log::create_at`].
//! - It purges to any entry. Ours is purged to the current snapshot (log.md 7): the layer makes the tables there the current
//!   snapshot, before.
//! - It purges beyond the last entry. Ours obeys only where a leader's snapshot is installed (log.md 3): the layer installs
//!   one, of a log that reaches so far.
//! - It truncates beyond the last entry. For ours that is an entry that it does not know, and an error: nothing is done.
//! - It applies entries that were never appended. Ours applies frames, which have their place in a log (log.md 8): the layer
//!   appends them to another log, and applies its frames.
//! - It leaves out an entry when it applies. Ours asserts that it sees every one (log.md 4): the layer applies a blank there.
//! - It wants a snapshot of what is applied at any moment. Ours "builds" the current one, which is where the log is about to be
//!   purged (log.md 7): the layer makes the applied tables the current snapshot, before.
//!
//! So logs, frames, tables, snapshots and their way to disk and from node to node are the real ones. What is not: that a
//! snapshot is at the end of a segment, and that applied entries are in the log of the same node.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::{BoxFuture, join_all};
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use prost::Message as _;
use store::{
    Disk, Flusher, Frame, Identity, Log, LogId, LogIndex, NewEntry, Options, OsDisk, StoreError, TablesKind,
    TablesMeta,
};

use super::cluster::Counters;
use crate::log_storage::LogStorage;
use crate::state_machine::{
    CurrentSnapshot, Machine, RaftSnapshot, RaftSnapshotMeta, SnapshotTables, encode_tables,
};
use crate::types::{
    LogEntry, RaftLogId, RaftStoredMembership, RaftVote, TypeConfig, raft_log_id, store_log_id,
};
use crate::{StateMachine as _, proto};

/// Where the logs of one store of the suite are.
struct Place {
    directory: tempfile::TempDir,
    flusher: Flusher,
    options: Options,
    others: AtomicU64,
}

impl Place {
    fn new(recent_bytes_max: usize) -> Arc<Place> {
        Arc::new(Place {
            directory: tempfile::tempdir().expect("a temporary directory"),
            flusher: Flusher::start(1),
            options: Options { recent_bytes_max, small_segments: true, ..Options::default() },
            others: AtomicU64::new(0),
        })
    }

    fn identity() -> Identity {
        Identity { cluster: "c".into(), group: "g".into(), node: 1, segment_size: 8192 }
    }

    fn open(&self, name: &str) -> Log {
        let directory = self.directory.path().join(name);
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        Log::open_with(disk, &directory, &Self::identity(), &self.flusher, self.options.clone())
            .expect("a log")
    }

    /// The store's own log, made to begin at index `first`.
    async fn log(&self, first: u64) -> io::Result<Log> {
        if let Some(last) = first.checked_sub(1) {
            let before = Elsewhere::new(self);
            // All cases that begin so do it in term 1.
            before.append(blank(LogId::new(1, last)))?;
            let (at, tables) = tables_after(&before.log, LogIndex(last)).await?;
            let directory = self.directory.path().join("log");
            let disk: Arc<dyn Disk> = Arc::new(OsDisk);
            Log::create_at(&disk, &directory, &Self::identity(), &self.options, &at, &tables, &[])
                .map_err(io::Error::other)?;
        }
        Ok(self.open("log"))
    }
}

/// The log of another node, in which what the suite makes up becomes frames.
struct Elsewhere {
    log: Log,
}

impl Elsewhere {
    fn new(place: &Place) -> Elsewhere {
        let number = place.others.fetch_add(1, Ordering::Relaxed);
        Elsewhere { log: place.open(&format!("elsewhere-{number}")) }
    }

    /// Appends an entry, behind blanks of its term where there is nothing yet.
    fn append(&self, entry: LogEntry) -> io::Result<()> {
        let id = store_log_id(&entry.log_id());
        let next = self.log.state().last.map_or(0, |last| last.index.0 + 1);
        let mut entries: Vec<NewEntry> = (next..id.index.0)
            .map(|index| blank(LogId { index: LogIndex(index), ..id }).into_new_entry())
            .collect();
        entries.push(entry.into_new_entry());
        self.log.append(entries, Box::new(|_| ())).map_err(io::Error::other)
    }
}

fn blank(id: LogId) -> LogEntry {
    LogEntry::new_blank(raft_log_id(id))
}

fn frame_of(log: &Log, id: LogId) -> Option<Frame> {
    log.read(id.index, id.index.next(), 1).ok()?.into_iter().find(|frame| frame.id() == id)
}

/// The entries from `from` to `upto`, both included.
fn frames_of(log: &Log, mut from: LogIndex, upto: LogIndex) -> io::Result<Vec<Frame>> {
    let mut frames = Vec::new();
    while from <= upto {
        let more = log.read(from, upto.next(), 1 << 20).map_err(io::Error::other)?;
        let last = more.last().ok_or_else(|| io::Error::other(format!("there is no entry {from}")))?;
        from = last.id().index.next();
        frames.extend(more);
    }
    Ok(frames)
}

fn place_of(frame: &Frame) -> TablesMeta {
    TablesMeta { last: frame.id(), end: frame.end(), chain: frame.chain(), log_time_ms: frame.log_time_ms() }
}

async fn apply(machine: &mut Machine, frames: Vec<Frame>) -> io::Result<()> {
    let entries = frames.into_iter().map(|frame| Ok((LogEntry::from_frame(frame), None)));
    machine.apply(stream::iter(entries)).await
}

/// The tables after an entry of a log, made as a start makes them: from the newest that are saved, and what follows.
async fn tables_after(log: &Log, upto: LogIndex) -> io::Result<(TablesMeta, Vec<u8>)> {
    let tables = Arc::new(Counters::default());
    let mut from = log.state().first_index;
    let checkpoint = match log.load_newest_checkpoint().map_err(io::Error::other)? {
        Some((at, bytes)) => {
            let saved = proto::Tables::decode(&bytes[..]).map_err(io::Error::other)?;
            tables.restore(&saved.state, &at).map_err(io::Error::other)?;
            from = at.last.index.next();
            Some((at, saved))
        }
        None => None,
    };
    let mut machine = Machine::new(tables.clone(), log.clone(), checkpoint)?;
    let frames = frames_of(log, from, upto)?;
    let at = frames.last().map(place_of).ok_or_else(|| io::Error::other("nothing to apply"))?;
    apply(&mut machine, frames).await?;
    let (_, membership) = machine.applied_state().await?;
    Ok((at, encode_tables(&membership, tables.encode())))
}

/// Makes tables the current snapshot: as before a purge where the log holds the entry, else as if a leader had sent them.
fn make_current(log: &Log, at: &TablesMeta, tables: &[u8]) -> Result<(), StoreError> {
    if frame_of(log, at.last).is_none() {
        let received = log.receive_snapshot(at, tables.len() as u64)?;
        received.fill(tables)?;
        return log.install_snapshot(&received);
    }
    log.sync_all()?;
    log.save_tables(TablesKind::Boundary, at, tables)?;
    log.set_current_snapshot(at.last)
}

/// What the machine has applied, for a log that is asked to purge to there.
type AppliedTables = Arc<Mutex<Option<(TablesMeta, Vec<u8>)>>>;

struct SuiteLog {
    inner: LogStorage,
    log: Log,
    place: Arc<Place>,
    applied: AppliedTables,
}

impl SuiteLog {
    /// Tables at an entry: the machine's, those of the log, or those of a leader whose log reaches so far.
    async fn tables_at(&self, id: LogId) -> io::Result<(TablesMeta, Vec<u8>)> {
        let applied = self.applied.lock().unwrap().clone();
        if let Some(applied) = applied.filter(|(at, _)| at.last == id) {
            return Ok(applied);
        }
        if frame_of(&self.log, id).is_some() {
            return tables_after(&self.log, id.index).await;
        }
        let leader = Elsewhere::new(&self.place);
        leader.append(blank(id))?;
        tables_after(&leader.log, id.index).await
    }
}

impl RaftLogStorage<TypeConfig> for SuiteLog {
    type LogReader = LogStorage;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        self.inner.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> LogStorage {
        self.inner.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        self.inner.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.inner.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        self.inner.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + Send,
        I::IntoIter: Send,
    {
        self.inner.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        let end = self.log.state().last;
        if last.is_some_and(|last| end.is_some_and(|end| last.index > end.index.0)) {
            return Ok(());
        }
        self.inner.truncate_after(last).await
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        let id = store_log_id(&upto);
        if self.log.state().purged.is_none_or(|purged| purged.index < id.index) {
            let (at, tables) = self.tables_at(id).await?;
            make_current(&self.log, &at, &tables).map_err(io::Error::other)?;
        }
        self.inner.purge(upto).await
    }
}

struct SuiteMachine {
    inner: Machine,
    tables: Arc<Counters>,
    log: Log,
    elsewhere: Elsewhere,
    at: Option<TablesMeta>,
    applied: AppliedTables,
}

impl SuiteMachine {
    /// The frames by which an entry is applied.
    fn frames(&self, entry: LogEntry) -> io::Result<Vec<Frame>> {
        let id = store_log_id(&entry.log_id());
        if let LogEntry::Frame { frame, .. } = entry {
            return Ok(vec![frame]);
        }
        if let Some(frame) = frame_of(&self.log, id) {
            return Ok(vec![frame]);
        }
        self.elsewhere.append(entry)?;
        let from = self.at.map_or(id.index, |at| at.last.index.next());
        frames_of(&self.elsewhere.log, from, id.index)
    }
}

impl RaftStateMachine<TypeConfig> for SuiteMachine {
    type SnapshotData = SnapshotTables;
    type SnapshotBuilder = CurrentSnapshot;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, RaftStoredMembership), io::Error> {
        self.inner.applied_state().await
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, _responder) = item?;
            let frames = self.frames(entry)?;
            let at = frames.last().map(place_of).ok_or_else(|| io::Error::other("applied before"))?;
            apply(&mut self.inner, frames).await?;
            self.at = Some(at);
            let (_, membership) = self.inner.applied_state().await?;
            let tables = encode_tables(&membership, self.tables.encode());
            *self.applied.lock().unwrap() = Some((at, tables));
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> CurrentSnapshot {
        let applied = self.applied.lock().unwrap().clone();
        if let Some((at, tables)) = applied {
            make_current(&self.log, &at, &tables).expect("a snapshot can be saved");
        }
        self.inner.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: SnapshotTables,
    ) -> Result<(), io::Error> {
        let SnapshotTables { at, bytes, .. } = snapshot.clone();
        self.inner.install_snapshot(meta, snapshot).await?;
        self.at = Some(at);
        *self.applied.lock().unwrap() = Some((at, bytes.to_vec()));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        self.inner.get_current_snapshot().await
    }
}

/// The cases of the suite in their order, one row for each store that it builds, and the index at which the log of the case
/// begins.
const CASES: [(&str, u64); 46] = [
    ("last_membership_in_log_initial", 0),
    ("last_membership_in_log", 1),
    ("last_membership_in_log_multi_step", 1),
    ("get_membership_initial", 0),
    ("get_membership_from_log_and_empty_sm", 1),
    ("get_membership_from_empty_log_and_sm", 0),
    ("get_membership_from_log_le_sm_last_applied", 1),
    ("get_membership_from_log_gt_sm_last_applied_1", 1),
    ("get_membership_from_log_gt_sm_last_applied_2", 1),
    ("get_initial_state_without_init", 0),
    ("get_initial_state_membership_from_empty_log_and_sm", 0),
    ("get_initial_state_membership_from_sm_inlog_is_smaller", 1),
    ("get_initial_state_membership_from_log_insm_is_smaller", 0),
    ("get_initial_state_with_state", 0),
    ("get_initial_state_last_log_gt_sm", 0),
    ("get_initial_state_last_log_lt_sm", 2),
    ("get_initial_state_inverted_log_order", 2),
    ("get_initial_state_conflict_at_same_index", 2),
    ("get_initial_state_log_ids", 0),
    ("get_initial_state_re_apply_committed", 2),
    ("save_vote", 0),
    ("get_log_entries", 0),
    ("limited_get_log_entries", 0),
    ("leader_bounded_stream", 0),
    ("entries_stream", 0),
    ("try_get_log_entry", 0),
    ("log_reader_reads_new_entries", 0),
    ("initial_logs", 0),
    ("get_log_state", 0),
    ("get_log_id", 0),
    ("last_id_in_log", 0),
    ("last_applied_state", 0),
    ("purge_logs_upto_0", 0),
    ("purge_logs_upto_5", 0),
    ("purge_logs_upto_20", 0),
    ("delete_logs_after_11", 0),
    ("delete_logs_after_5", 0),
    ("delete_logs_after_0", 0),
    ("delete_logs_after_none", 0),
    ("append_to_log", 0),
    ("snapshot_meta", 0),
    ("snapshot_meta_optional", 0),
    ("apply_single", 0),
    ("apply_multiple", 0),
    ("transfer_snapshot, of the leader", 0),
    ("transfer_snapshot, of the follower", 0),
];

/// Builds the stores of [`CASES`].
struct Builder {
    recent_bytes_max: usize,
    built: Arc<AtomicUsize>,
}

impl StoreBuilder<TypeConfig, SuiteLog, SuiteMachine, Arc<Place>> for Builder {
    async fn build(
        &self,
    ) -> Result<(Arc<Place>, SuiteLog, SuiteMachine), openraft::StorageError<TypeConfig>> {
        let (case, first) = CASES[self.built.fetch_add(1, Ordering::Relaxed)];
        let place = Place::new(self.recent_bytes_max);
        let log = place.log(first).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        let (tables, applied) = (Arc::new(Counters::default()), AppliedTables::default());
        let machine = SuiteMachine {
            inner: Machine::new(tables.clone(), log.clone(), None).expect("a new machine"),
            tables,
            log: log.clone(),
            elsewhere: Elsewhere::new(&place),
            at: None,
            applied: applied.clone(),
        };
        let log = SuiteLog { inner: LogStorage::new(log.clone()), log, place: place.clone(), applied };
        Ok((place, log, machine))
    }
}

/// Builds stores without anything between the suite and them.
struct Direct(usize);

impl StoreBuilder<TypeConfig, LogStorage, Machine, Arc<Place>> for Direct {
    async fn build(&self) -> Result<(Arc<Place>, LogStorage, Machine), openraft::StorageError<TypeConfig>> {
        let place = Place::new(self.0);
        let log = place.open("log");
        let machine = Machine::new(Arc::new(Counters::default()), log.clone(), None).expect("a new machine");
        Ok((place, LogStorage::new(log), machine))
    }
}

type DirectSuite = Suite<TypeConfig, LogStorage, Machine, Direct, Arc<Place>>;

/// Runs cases of the suite on our log storage and state machine as they are, all at once (many sleep).
macro_rules! run_as_they_are {
    ($recent:expr; $($case:ident)*) => {
        let mut cases: Vec<BoxFuture<'static, ()>> = Vec::new();
        $(
            assert!(CASES.contains(&(stringify!($case), 0)), "no case: {}", stringify!($case));
            let (place, log, machine) = Direct($recent).build().await.unwrap();
            cases.push(
                async move {
                    let outcome = DirectSuite::$case(log, machine).await;
                    outcome.unwrap_or_else(|error| panic!("{}: {error}", stringify!($case)));
                    drop(place);
                }
                .boxed(),
            );
        )*
        join_all(cases).await;
    };
}

async fn as_they_are(recent_bytes_max: usize) {
    run_as_they_are! { recent_bytes_max;
        last_membership_in_log_initial
        get_membership_initial
        get_initial_state_without_init
        save_vote
        get_log_entries
        limited_get_log_entries
        leader_bounded_stream
        entries_stream
        try_get_log_entry
        log_reader_reads_new_entries
        initial_logs
        get_log_id
        purge_logs_upto_0
        purge_logs_upto_5
        delete_logs_after_5
        delete_logs_after_0
        delete_logs_after_none
        append_to_log
    }
}

async fn complete(recent_bytes_max: usize) {
    let built = Arc::new(AtomicUsize::new(0));
    Suite::test_all(Builder { recent_bytes_max, built: built.clone() }).await.unwrap();
    assert_eq!(built.load(Ordering::Relaxed), CASES.len(), "every case has its row");
}

fn run(recent_bytes_max: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::join!(as_they_are(recent_bytes_max), complete(recent_bytes_max));
    });
}

#[test]
fn openrafts_suite_passes() {
    run(Options::default().recent_bytes_max);
}

#[test]
fn openrafts_suite_passes_where_every_read_goes_to_the_files() {
    run(0);
}
