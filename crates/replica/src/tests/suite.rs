//! openraft's own suite for log stores and state machines, complete.
//!
//! The suite takes liberties that openraft itself does not take, and which our store refuses: it starts logs at an index
//! above 0, purges beyond the last entry without a snapshot there, hands entries to `apply` that were never appended,
//! and expects a snapshot of what is applied at any moment (log.md 3, 7). A thin layer on each side stands between: it
//! counts from the suite's first index, installs a snapshot where the suite purges, and notes what the suite
//! applied. Log, vote, and the snapshot's way to disk and back are the real ones.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt as _};
use openraft::entry::RaftEntry as _;
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};
use store::{Flusher, Identity, Log, OsDisk, TablesMeta};
use wire::LogPosition;

use super::cluster::{Counters, SEGMENT};
use crate::log_storage::LogStorage;
use crate::state_machine::{
    CurrentSnapshot, Machine, RaftSnapshot, RaftSnapshotMeta, SnapshotTables, encode_tables,
};
use crate::types::{
    LogEntry, RaftLogId, RaftStoredMembership, RaftVote, TypeConfig, raft_log_id, store_log_id,
};

/// Counts from the first index that the suite appends.
#[derive(Clone)]
struct SuiteLog {
    inner: LogStorage,
    log: Log,
    first: Arc<AtomicU64>,
    /// Purged below the first entry, where the log has nothing.
    below: Arc<Mutex<Option<RaftLogId>>>,
}

impl SuiteLog {
    /// `None`: below the first entry.
    fn inward(&self, id: RaftLogId) -> Option<RaftLogId> {
        let index = id.index.checked_sub(self.first.load(Ordering::Relaxed))?;
        Some(RaftLogId::new(id.leader_id, index))
    }

    fn outward(&self, id: RaftLogId) -> RaftLogId {
        RaftLogId::new(id.leader_id, id.index + self.first.load(Ordering::Relaxed))
    }

    fn entries(&self, entries: Vec<LogEntry>) -> Vec<LogEntry> {
        let outward = |entry| match entry {
            LogEntry::Frame { id, frame } => LogEntry::Frame { id: self.outward(id), frame },
            draft @ LogEntry::Draft { .. } => draft,
        };
        entries.into_iter().map(outward).collect()
    }
}

impl RaftLogReader<TypeConfig> for SuiteLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let first = self.first.load(Ordering::Relaxed);
        let inward = |bound: Bound<&u64>| match bound {
            Bound::Included(i) if *i < first => Bound::Unbounded,
            bound => bound.map(|i| i.saturating_sub(first)),
        };
        if matches!(range.end_bound(), Bound::Included(end) if *end < first)
            || matches!(range.end_bound(), Bound::Excluded(end) if *end <= first)
        {
            return Ok(Vec::new());
        }
        let range = (inward(range.start_bound()), inward(range.end_bound()));
        let entries = self.inner.try_get_log_entries(range).await?;
        Ok(self.entries(entries))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        let first = self.first.load(Ordering::Relaxed);
        let start = start.checked_sub(first).ok_or_else(|| io::Error::other("below the first entry"))?;
        let entries = self.inner.limited_get_log_entries(start, end.saturating_sub(first)).await?;
        Ok(self.entries(entries))
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        self.inner.read_vote().await
    }
}

impl RaftLogStorage<TypeConfig> for SuiteLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.inner.get_log_state().await?;
        Ok(LogState {
            last_purged_log_id: state
                .last_purged_log_id
                .map(|id| self.outward(id))
                .or(*self.below.lock().unwrap()),
            last_log_id: state.last_log_id.map(|id| self.outward(id)),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        self.inner.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.inner.save_committed(committed.and_then(|id| self.inward(id))).await
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        Ok(self.inner.read_committed().await?.map(|id| self.outward(id)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + Send,
        I::IntoIter: Send,
    {
        let mut entries: Vec<LogEntry> = entries.into_iter().collect();
        if self.log.state().last.is_none()
            && let Some(entry) = entries.first()
        {
            self.first.store(entry.index(), Ordering::Relaxed);
        }
        for entry in &mut entries {
            let id = self.inward(entry.log_id()).ok_or_else(|| io::Error::other("below the first entry"))?;
            entry.set_log_id(id);
        }
        self.inner.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        let last = last.and_then(|id| self.inward(id));
        if last.is_some_and(|id| self.log.state().last.is_some_and(|end| id.index >= end.index.0)) {
            // Nothing lies after it; openraft does not ask then.
            return Ok(());
        }
        self.inner.truncate_after(last).await
    }

    /// openraft purges to a snapshot that it has; the suite just purges.
    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        let Some(upto) = self.inward(upto) else {
            *self.below.lock().unwrap() = Some(upto);
            return Ok(());
        };
        let id = store_log_id(&upto);
        let frame =
            self.log.read(id.index, id.index.next(), 1).ok().and_then(|frames| frames.into_iter().next());
        let at = match frame {
            Some(frame) => TablesMeta {
                last: frame.id(),
                end: frame.end(),
                chain: frame.chain(),
                log_time_ms: frame.log_time_ms(),
            },
            None => TablesMeta { last: id, end: LogPosition(SEGMENT), chain: 7, log_time_ms: 0 },
        };
        let membership = RaftStoredMembership::default();
        self.log
            .install_snapshot(&at, &encode_tables(&membership, b"0 0\n".to_vec()))
            .map_err(io::Error::other)?;
        self.inner.purge(raft_log_id(at.last)).await
    }
}

struct SuiteMachine {
    inner: Machine,
    log: Log,
    applied: Option<RaftLogId>,
    membership: RaftStoredMembership,
}

impl SuiteMachine {
    async fn adopt(&mut self) -> io::Result<()> {
        (self.applied, self.membership) = self.inner.applied_state().await?;
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for SuiteMachine {
    type SnapshotData = SnapshotTables;
    type SnapshotBuilder = CurrentSnapshot;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, RaftStoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, _responder) = item?;
            self.applied = Some(entry.log_id());
            if let Some(membership) = entry.get_membership() {
                self.membership = RaftStoredMembership::new(Some(entry.log_id()), membership);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> CurrentSnapshot {
        if let Some(last) = &self.applied {
            let at =
                TablesMeta { last: store_log_id(last), end: LogPosition(SEGMENT), chain: 7, log_time_ms: 0 };
            let tables = encode_tables(&self.membership, b"0 0\n".to_vec());
            self.log.install_snapshot(&at, &tables).expect("a snapshot can be saved");
        }
        self.inner.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: SnapshotTables,
    ) -> Result<(), io::Error> {
        self.inner.install_snapshot(meta, snapshot).await?;
        self.adopt().await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        self.inner.get_current_snapshot().await
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, SuiteLog, SuiteMachine, (tempfile::TempDir, Flusher)> for Builder {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, Flusher), SuiteLog, SuiteMachine), openraft::StorageError<TypeConfig>>
    {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let flusher = Flusher::start(1);
        let identity = Identity { cluster: "c".into(), group: "g".into(), node: 1, segment_size: SEGMENT };
        let log = Log::open(Arc::new(OsDisk), directory.path(), &identity, &flusher).expect("a new log");
        let inner = Machine::new(Arc::new(Counters::default()), log.clone(), None).expect("a new machine");
        let machine = SuiteMachine {
            inner,
            log: log.clone(),
            applied: None,
            membership: RaftStoredMembership::default(),
        };
        let log = SuiteLog {
            inner: LogStorage::new(log.clone()),
            log,
            first: Arc::default(),
            below: Arc::default(),
        };
        Ok(((directory, flusher), log, machine))
    }
}

#[test]
fn openrafts_suite_passes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}
