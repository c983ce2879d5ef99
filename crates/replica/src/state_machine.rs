//! openraft's state machine over the broker's tables: applies frames in log order, takes checkpoints and boundary
//! snapshots, and hands out the current snapshot, which is the boundary at which the log is purged (log.md 7).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use prost::Message as _;
use store::{FrameKind, Log, LogId, Mutant, ReceivedSnapshot, TablesKind, TablesMeta};
use tokio::sync::{mpsc, watch};
use wire::LogPosition;

use crate::blocking::blocking;
use crate::limits::{CHECKPOINT_BYTES, CHECKPOINT_INTERVAL};
use crate::types::{
    Applied, CommittedTerm, LogEntry, RaftLogId, RaftMembership, RaftStoredMembership, TypeConfig,
    log_id_from_proto, log_id_to_proto, membership_from_proto, membership_to_proto, raft_log_id,
};
use crate::{Outcome, StateMachine, proto};

/// A snapshot on its way: where it was taken, and the `Tables` message.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotTables {
    pub(crate) at: TablesMeta,
    pub(crate) bytes: Bytes,
    /// The same on this node's disk, where a leader sent it.
    pub(crate) received: Option<Arc<ReceivedSnapshot>>,
}

pub(crate) type RaftSnapshot = Snapshot<CommittedTerm, u64, openraft::EmptyNode, SnapshotTables>;
pub(crate) type RaftSnapshotMeta = SnapshotMeta<CommittedTerm, u64, openraft::EmptyNode>;

/// The last applied entry and where its frame ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AppliedUpTo {
    pub(crate) id: LogId,
    pub(crate) end: LogPosition,
    pub(crate) log_time_ms: u64,
    pub(crate) at: Instant,
}

pub(crate) struct Machine {
    tables: Arc<dyn StateMachine>,
    log: Log,
    applied: Option<TablesMeta>,
    membership: RaftStoredMembership,
    applied_tx: watch::Sender<Option<AppliedUpTo>>,
    last_checkpoint: (LogPosition, Instant),
    checkpoint_interval: Duration,
    writer: TablesWriter,
}

impl Machine {
    /// Starts from the newest checkpoint, if there is one, with which the tables have been restored already.
    ///
    /// # Errors
    /// It is not called in a runtime.
    pub(crate) fn new(
        tables: Arc<dyn StateMachine>,
        log: Log,
        checkpoint: Option<(TablesMeta, proto::Tables)>,
    ) -> io::Result<Self> {
        let (applied, membership) = match checkpoint {
            None => (None, RaftStoredMembership::default()),
            Some((at, saved)) => (Some(at), stored_membership(&saved)),
        };
        let last_checkpoint = (applied.map_or(LogPosition(0), |at| at.end), Instant::now());
        let (applied_tx, _) = watch::channel(applied.map(|at| up_to(&at)));
        let writer = TablesWriter::start(log.clone(), tables.clone())?;
        let checkpoint_interval = CHECKPOINT_INTERVAL;
        Ok(Machine {
            tables,
            log,
            applied,
            membership,
            applied_tx,
            last_checkpoint,
            checkpoint_interval,
            writer,
        })
    }

    /// How often the tables are saved while anything is applied.
    pub(crate) fn set_checkpoint_interval(&mut self, interval: Duration) {
        self.checkpoint_interval = interval;
    }

    pub(crate) fn watch_applied(&self) -> watch::Receiver<Option<AppliedUpTo>> {
        self.applied_tx.subscribe()
    }

    /// Large tables take a while, for which what else runs on this thread (heartbeats) moves to another.
    fn encode(&self) -> Vec<u8> {
        aside(|| encode_tables(&self.membership, self.tables.encode()))
    }

    /// One entry: the judgement is the tables', the bookkeeping is ours.
    fn apply_entry(&mut self, entry: &LogEntry) -> io::Result<Applied> {
        let LogEntry::Frame { id, frame } = entry else {
            return Err(io::Error::other("an entry reached apply without having been appended"));
        };
        let previous = self.applied;
        if let Some(at) = previous {
            assert_eq!(frame.id().index.0, at.last.index.0 + 1, "apply must see every entry once, in order");
            if self.log.opens_segment(frame) {
                // `at` is the last entry of its segment: the tables of now are its boundary snapshot.
                self.writer.save(TablesKind::Boundary, at, self.encode());
            }
        }
        let outcome = match frame.kind() {
            FrameKind::Blank => {
                self.tables.pass(frame);
                Outcome::Command(Bytes::new())
            }
            FrameKind::Membership => {
                let membership = proto::MembershipBody::decode(frame.body())
                    .ok()
                    .and_then(|m| membership_from_proto(&m))
                    .ok_or_else(|| io::Error::other(format!("membership entry {id} does not decode")))?;
                self.membership = RaftStoredMembership::new(Some(*id), membership);
                self.tables.pass(frame);
                Outcome::Command(Bytes::new())
            }
            FrameKind::Messages | FrameKind::Command | FrameKind::Coupled => self.tables.apply(frame),
        };
        self.applied = Some(TablesMeta {
            last: frame.id(),
            end: frame.end(),
            chain: frame.chain(),
            log_time_ms: frame.log_time_ms(),
        });
        Ok(Applied { outcome, position: frame.position() })
    }

    fn batch_applied(&mut self) {
        let Some(at) = self.applied else { return };
        self.tables.after_apply(at.end);
        self.applied_tx.send_modify(|known| {
            // Time has gone on since an entry had it, also where those behind it (blanks) have no other.
            let since = known.filter(|known| known.log_time_ms == at.log_time_ms).map(|known| known.at);
            let up_to = up_to(&at);
            *known = Some(AppliedUpTo { at: since.unwrap_or(up_to.at), ..up_to });
        });
        let (position, time) = self.last_checkpoint;
        let due = at.end.0.saturating_sub(position.0) >= CHECKPOINT_BYTES
            || (at.end > position && time.elapsed() >= self.checkpoint_interval);
        if due && !self.writer.is_busy() {
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        if let Some(at) = self.applied {
            self.last_checkpoint = (at.end, Instant::now());
            self.writer.save(TablesKind::Checkpoint, at, self.encode());
        }
    }

    /// Saves the tables as they are; what is returned ends when that is done. Used at a clean stop.
    pub(crate) fn final_checkpoint(&mut self) -> BoxFuture<'static, ()> {
        if self.applied.is_some_and(|at| at.end > self.last_checkpoint.0) {
            self.checkpoint();
        }
        self.writer.finished()
    }
}

/// Runs what takes long inside a task of the consensus runtime, `apply` for one, without holding up its other tasks.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    // Only tests run it on one thread alone.
    let has_threads = Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread);
    if has_threads { tokio::task::block_in_place(work) } else { work() }
}

fn up_to(at: &TablesMeta) -> AppliedUpTo {
    AppliedUpTo { id: at.last, end: at.end, log_time_ms: at.log_time_ms, at: Instant::now() }
}

pub(crate) fn encode_tables(membership: &RaftStoredMembership, state: Vec<u8>) -> Vec<u8> {
    proto::Tables {
        membership_id: membership.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(membership.membership())),
        state: state.into(),
    }
    .encode_to_vec()
}

fn stored_membership(saved: &proto::Tables) -> RaftStoredMembership {
    let membership = match saved.membership.as_ref() {
        None => RaftMembership::default(),
        Some(body) => membership_from_proto(body).unwrap_or_default(),
    };
    RaftStoredMembership::new(saved.membership_id.as_ref().map(log_id_from_proto), membership)
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotTables;
    type SnapshotBuilder = CurrentSnapshot;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, RaftStoredMembership), io::Error> {
        Ok((self.applied.map(|at| raft_log_id(at.last)), self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let mut answers = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            store::mutant::set_own(responder.is_some());
            let applied = self.apply_entry(&entry)?;
            if let Some(responder) = responder {
                answers.push((responder, applied));
            }
        }
        // First what is applied becomes readable, then it is acknowledged: who has the answer must find the message.
        self.batch_applied();
        for (responder, applied) in answers {
            responder.send(applied);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        CurrentSnapshot { log: self.log.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: SnapshotTables,
    ) -> Result<(), io::Error> {
        let saved = proto::Tables::decode(snapshot.bytes.clone()).map_err(io::Error::other)?;
        let id = meta.last_log_id.map(|id| crate::types::store_log_id(&id));
        if id != Some(snapshot.at.last) {
            return Err(io::Error::other("the snapshot's tables are not those of its log id"));
        }
        // The log stays as it is: only the purge that openraft asks for next may drop segments (log.md 7).
        let log = self.log.clone();
        let SnapshotTables { at, bytes, received } = snapshot.clone();
        let installed = blocking(&**self.log.disk(), move || match received {
            Some(received) => log.install_snapshot(&received),
            None => {
                let received = log.receive_snapshot(&at, bytes.len() as u64)?;
                received.fill(&bytes)?;
                log.install_snapshot(&received)
            }
        });
        installed.await?.map_err(io::Error::other)?;
        self.tables.restore(&saved.state, &snapshot.at).map_err(io::Error::other)?;
        self.membership = stored_membership(&saved);
        self.applied = Some(snapshot.at);
        self.last_checkpoint = (snapshot.at.end, Instant::now());
        self.batch_applied();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        CurrentSnapshot { log: self.log.clone() }.read().await
    }
}

/// "Builds" a snapshot by returning the current one: the tables at the boundary at which the log is purged.
pub(crate) struct CurrentSnapshot {
    log: Log,
}

impl CurrentSnapshot {
    async fn read(&self) -> io::Result<Option<RaftSnapshot>> {
        let log = self.log.clone();
        let current = blocking(&**self.log.disk(), move || log.current_snapshot());
        let current = current.await?.map_err(io::Error::other)?;
        let Some((at, bytes)) = current else { return Ok(None) };
        let bytes = Bytes::from(bytes);
        let saved = proto::Tables::decode(bytes.clone()).map_err(io::Error::other)?;
        Ok(Some(Snapshot {
            meta: SnapshotMeta {
                last_log_id: Some(raft_log_id(at.last)),
                last_membership: stored_membership(&saved),
            },
            snapshot: SnapshotTables { at, bytes, received: None },
        }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for CurrentSnapshot {
    type SnapshotData = SnapshotTables;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        self.read()
            .await?
            .ok_or_else(|| io::Error::other("this log has never been purged: it has no snapshot"))
    }
}

/// Writes tables beside the consensus runtime's workers, in the order in which they come, once the log is durable up to them
/// (log.md 3).
struct TablesWriter {
    jobs: mpsc::UnboundedSender<(TablesKind, TablesMeta, Vec<u8>)>,
    /// Handed over and not yet written.
    left: watch::Sender<usize>,
}

impl TablesWriter {
    fn start(log: Log, tables: Arc<dyn StateMachine>) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        let (jobs, mut rx) = mpsc::unbounded_channel::<(TablesKind, TablesMeta, Vec<u8>)>();
        let left = watch::Sender::new(0usize);
        let written = left.clone();
        runtime.spawn(async move {
            while let Some((kind, at, bytes)) = rx.recv().await {
                let (log, tables) = (log.clone(), tables.clone());
                let disk = log.disk().clone();
                let work = move || {
                    let synced = if Mutant::CheckpointBeyondFsync.is_on() { Ok(()) } else { log.sync_all() };
                    if let Err(error) = synced.and_then(|()| log.save_tables(kind, &at, &bytes)) {
                        // Older tables stay valid; the group replays more at its next start.
                        tracing::error!(%error, index = at.last.index.0, ?kind, "cannot save the tables");
                    } else if kind == TablesKind::Checkpoint {
                        tables.checkpointed(at.end);
                    }
                };
                if let Err(error) = blocking(&*disk, work).await {
                    tracing::error!(%error, ?kind, "saving the tables");
                }
                written.send_modify(|left| *left -= 1);
            }
        });
        Ok(TablesWriter { jobs, left })
    }

    fn save(&self, kind: TablesKind, at: TablesMeta, bytes: Vec<u8>) {
        self.left.send_modify(|left| *left += 1);
        if self.jobs.send((kind, at, bytes)).is_err() {
            tracing::error!("the task that saves tables has ended");
        }
    }

    fn is_busy(&self) -> bool {
        *self.left.borrow() > 0
    }

    /// Ends when everything handed over is written.
    fn finished(&self) -> BoxFuture<'static, ()> {
        let mut left = self.left.subscribe();
        async move {
            // The sender is with the task that writes.
            let _ = left.wait_for(|left| *left == 0).await;
        }
        .boxed()
    }
}
