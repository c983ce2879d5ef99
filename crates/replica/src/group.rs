//! One Raft group on this node: proposals, the read barrier, roles, leadership transfer, status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{ReadPolicy, ServerState};
use store::{Log, LogId};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use wire::LogPosition;

use crate::limits::{FLUSH_STUCK, TRANSFER_CATCH_UP, TRANSFER_WATCH};
use crate::proposer::{Done, Intake, Proposer};
use crate::server::GroupSlot;
use crate::state_machine::{AppliedUpTo, Machine};
use crate::types::{TypeConfig, store_log_id};
use crate::{MessagesProposal, NodeId, Peers, ProposeError, Receipt, StateMachine};

pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;

/// Who leads, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Role {
    pub term: u64,
    /// `None` while no leader is known.
    pub leader: Option<NodeId>,
    /// This node leads and has applied an entry of its term: it may propose and answer.
    pub ready: bool,
}

/// Why a read barrier did not pass.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error("this node does not lead the group{}", match leader { Some(l) => format!("; node {l} does"), None => String::new() })]
    NotLeader { leader: Option<NodeId> },
    #[error("no majority confirms that this node still leads")]
    NoQuorum,
    #[error("the group has stopped on this node")]
    Stopped,
}

/// Why leadership was not handed over.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransferError {
    #[error("this node does not lead the group")]
    NotLeader,
    #[error("node {0} is not a voter of the group")]
    NotAVoter(NodeId),
    #[error("node {to} lacks entries: it has {has:?}, the log ends at {last}")]
    Behind { to: NodeId, has: Option<u64>, last: u64 },
    #[error("node {0} did not take over in time; this node goes on")]
    NotTaken(NodeId),
    #[error("the group has stopped on this node")]
    Stopped,
}

/// How far another node has followed, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerProgress {
    pub node: NodeId,
    /// The last entry that is durable there; `None`: unknown yet.
    pub matched: Option<u64>,
    /// Entries that it lacks.
    pub lag: u64,
}

/// A group as an operator sees it.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    pub group: String,
    pub node: NodeId,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub state: &'static str,
    pub last: Option<LogId>,
    pub committed: Option<LogId>,
    pub applied: Option<LogId>,
    /// The last entry that is fsynced on this node.
    pub synced: Option<LogId>,
    pub purged: Option<LogId>,
    pub end: LogPosition,
    pub voters: Vec<NodeId>,
    /// Only at the leader.
    pub followers: Vec<PeerProgress>,
    pub pending_bytes: usize,
    /// The mode in which messages are acknowledged.
    pub durability: &'static str,
    /// Why the group has stopped here, if it has.
    pub stopped: Option<String>,
}

/// One Raft group on this node. A clone is a reference.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    slot: Arc<GroupSlot>,
    raft: Raft,
    intake: Intake,
    role: watch::Receiver<Role>,
    applied: watch::Receiver<Option<AppliedUpTo>>,
    paused: watch::Sender<bool>,
    outstanding: watch::Receiver<usize>,
    barriers: mpsc::UnboundedSender<oneshot::Sender<Result<(), ReadError>>>,
    peers: Peers,
    stop: CancellationToken,
    transferring: tokio::sync::Mutex<()>,
}

pub(crate) fn start_tasks(
    slot: Arc<GroupSlot>,
    raft: Raft,
    tables: Arc<dyn StateMachine>,
    applied: watch::Receiver<Option<AppliedUpTo>>,
    peers: Peers,
    consensus: Handle,
) -> Group {
    let stop = CancellationToken::new();
    let (role_tx, role) = watch::channel(Role::default());
    consensus.spawn(follow_role(raft.clone(), applied.clone(), role_tx, stop.clone()));
    let (paused, paused_rx) = watch::channel(false);
    let (outstanding_tx, outstanding) = watch::channel(0);
    let (intake, proposer) = Proposer::new(
        raft.clone(),
        slot.log.clone(),
        tables,
        role.clone(),
        applied.clone(),
        paused_rx,
        outstanding_tx,
    );
    consensus.spawn(proposer.run());
    let (barriers, waiting) = mpsc::unbounded_channel();
    consensus.spawn(answer_barriers(raft.clone(), waiting));
    consensus.spawn(watch_disk(slot.clone(), raft.clone(), stop.clone()));
    Group {
        inner: Arc::new(Inner {
            slot,
            raft,
            intake,
            role,
            applied,
            paused,
            outstanding,
            barriers,
            peers,
            stop,
            transferring: tokio::sync::Mutex::new(()),
        }),
    }
}

impl Group {
    pub fn name(&self) -> &str {
        &self.inner.slot.group
    }

    pub fn node(&self) -> NodeId {
        self.inner.slot.me
    }

    pub fn voters(&self) -> &[NodeId] {
        &self.inner.slot.voters
    }

    pub fn peers(&self) -> &Peers {
        &self.inner.peers
    }

    pub fn log(&self) -> &Log {
        &self.inner.slot.log
    }

    pub fn role(&self) -> Role {
        self.inner.role.borrow().clone()
    }

    pub fn watch_role(&self) -> watch::Receiver<Role> {
        self.inner.role.clone()
    }

    /// End of the last frame that is applied here.
    pub fn applied_end(&self) -> LogPosition {
        self.inner.applied.borrow().map_or(LogPosition(0), |a| a.end)
    }

    /// Proposes messages; `done` is called when they are applied, or with the reason why not.
    pub fn propose_messages(&self, proposal: MessagesProposal, done: Done<Receipt>) {
        self.inner.intake.messages(proposal, done);
    }

    /// Proposes a command of the broker and returns its answer. A `barrier` command changes queues: it is proposed when
    /// everything before it is applied, and nothing is proposed until it is applied itself.
    pub async fn propose_command(&self, body: Bytes, barrier: bool) -> Result<Bytes, ProposeError> {
        let (tx, rx) = oneshot::channel();
        self.inner.intake.command(
            body,
            barrier,
            Box::new(move |result| {
                let _ = tx.send(result);
            }),
        );
        rx.await.unwrap_or(Err(ProposeError::Unknown("the group stopped while the command was under way")))
    }

    /// Passes when this node is known to have led after the call began, and has applied everything committed before:
    /// what is read from the tables afterwards is current (log.md 11). One round serves all who wait.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let (tx, rx) = oneshot::channel();
        self.inner.barriers.send(tx).map_err(|_| ReadError::Stopped)?;
        rx.await.unwrap_or(Err(ReadError::Stopped))
    }

    /// Hands leadership to `to`, once it has everything (log.md 17). Requests wait meanwhile and are not refused
    /// before the new term is known.
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), TransferError> {
        let _one = self.inner.transferring.lock().await;
        if !self.inner.slot.voters.contains(&to) {
            return Err(TransferError::NotAVoter(to));
        }
        let role = self.role();
        if !role.ready {
            return Err(TransferError::NotLeader);
        }
        if to == self.node() {
            return Ok(());
        }
        self.inner.paused.send_replace(true);
        let result = self.transfer_paused(to, role.term).await;
        self.inner.paused.send_replace(false);
        result
    }

    async fn transfer_paused(&self, to: NodeId, term: u64) -> Result<(), TransferError> {
        let mut outstanding = self.inner.outstanding.clone();
        let deadline = tokio::time::Instant::now() + TRANSFER_CATCH_UP;
        let _ = tokio::time::timeout_at(deadline, outstanding.wait_for(|o| *o == 0)).await;
        let mut metrics = self.inner.raft.data_metrics();
        let caught_up = tokio::time::timeout_at(
            deadline,
            metrics.wait_until(|m| {
                let last = m.last_log.map_or(0, |id| id.index);
                matched(m.replication.as_ref(), to) == Some(last)
            }),
        )
        .await;
        if !matches!(caught_up, Ok(Ok(_))) {
            let m = metrics.borrow_watched().clone();
            return Err(TransferError::Behind {
                to,
                has: matched(m.replication.as_ref(), to),
                last: m.last_log.map_or(0, |id| id.index),
            });
        }
        self.inner.raft.trigger().transfer_leader(to.0).await.map_err(|_| TransferError::Stopped)?;
        let mut role = self.inner.role.clone();
        let taken = tokio::time::timeout(
            TRANSFER_WATCH,
            role.wait_for(|r| r.term > term && r.leader.is_some_and(|l| l != self.node())),
        )
        .await;
        if matches!(taken, Ok(Ok(_))) {
            return Ok(());
        }
        // The target did not answer. openraft refuses proposals until the term ends, so this node stands again: it
        // has the longest log and wins unless another is as good.
        let _ = self.inner.raft.trigger().elect(true).await;
        Err(TransferError::NotTaken(to))
    }

    /// Stands for election now, without waiting for a timeout: for a group that has just been started.
    pub async fn stand_for_election(&self) {
        let _ = self.inner.raft.trigger().elect(true).await;
    }

    /// How far `node` lags behind this leader in entries; `None` where this node does not lead or does not know.
    pub fn lag_of(&self, node: NodeId) -> Option<u64> {
        let metrics = self.inner.raft.data_metrics();
        let m = metrics.borrow_watched();
        let last = m.last_log.map_or(0, |id| id.index);
        matched(m.replication.as_ref(), node).map(|has| last.saturating_sub(has))
    }

    pub fn status(&self) -> GroupStatus {
        let metrics = self.inner.raft.metrics();
        let m = metrics.borrow_watched();
        let log = self.inner.slot.log.state();
        let last = m.last_log_index.unwrap_or(0);
        let followers = m
            .replication
            .iter()
            .flatten()
            .filter(|&(&node, _)| node != self.node().0)
            .map(|(&node, id)| {
                let has = id.as_ref().map(|id| id.index);
                PeerProgress { node: NodeId(node), matched: has, lag: last.saturating_sub(has.unwrap_or(0)) }
            })
            .collect();
        GroupStatus {
            group: self.name().to_owned(),
            node: self.node(),
            term: m.current_term,
            leader: m.current_leader.map(NodeId),
            state: match m.state {
                ServerState::Leader => "leader",
                ServerState::Follower => "follower",
                ServerState::Candidate => "candidate",
                ServerState::Learner => "learner",
                ServerState::Shutdown => "stopped",
            },
            last: log.last,
            committed: m.local_committed.as_ref().map(store_log_id),
            applied: m.last_applied.as_ref().map(store_log_id),
            synced: log.synced,
            purged: log.purged,
            end: log.end,
            voters: self.inner.slot.voters.clone(),
            followers,
            pending_bytes: self.inner.intake.pending_bytes(),
            durability: "quorum-fsync",
            stopped: m.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Stops taking part: saves the tables, flushes and closes the log. Does not hand over leadership.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        let raft = self.inner.raft.clone();
        let saved = raft.with_state_machine(|machine: &mut Machine| {
            machine.final_checkpoint();
            Box::pin(async {})
        });
        if let Err(error) = saved.await {
            tracing::warn!(%error, group = self.name(), "the tables were not saved at the stop");
        }
        if let Err(error) = raft.shutdown().await {
            tracing::warn!(%error, group = self.name(), "consensus did not stop cleanly");
        }
        let log = self.inner.slot.log.clone();
        match tokio::task::spawn_blocking(move || log.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, group = self.name(), "the log was not closed cleanly"),
            Err(error) => tracing::error!(%error, group = self.name(), "closing the log"),
        }
    }
}

fn matched(
    replication: Option<&BTreeMap<u64, Option<openraft::type_config::alias::LogIdOf<TypeConfig>>>>,
    node: NodeId,
) -> Option<u64> {
    replication?.get(&node.0)?.as_ref().map(|id| id.index)
}

/// Keeps [`Role`] up to date from what openraft knows and what is applied.
async fn follow_role(
    raft: Raft,
    mut applied: watch::Receiver<Option<AppliedUpTo>>,
    role: watch::Sender<Role>,
    stop: CancellationToken,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let now = {
            let m = metrics.borrow_and_update();
            let term = m.vote.leader_id.term;
            let leads = m.state == ServerState::Leader && m.vote.committed;
            let ready = leads && applied.borrow_and_update().is_some_and(|a| a.id.term.0 == term);
            Role { term, leader: m.current_leader.map(NodeId), ready }
        };
        let waits_for_apply = !now.ready && now.leader == Some(NodeId(*raft.node_id()));
        role.send_if_modified(|r| {
            let changed = *r != now;
            if changed {
                *r = now;
            }
            changed
        });
        tokio::select! {
            () = stop.cancelled() => break,
            changed = metrics.changed() => if changed.is_err() { break },
            changed = applied.changed(), if waits_for_apply => if changed.is_err() { break },
        }
    }
    role.send_modify(|r| {
        r.leader = None;
        r.ready = false;
    });
}

/// One ReadIndex round for all who wait.
async fn answer_barriers(
    raft: Raft,
    mut waiting: mpsc::UnboundedReceiver<oneshot::Sender<Result<(), ReadError>>>,
) {
    while let Some(first) = waiting.recv().await {
        let mut round = vec![first];
        while let Ok(next) = waiting.try_recv() {
            round.push(next);
        }
        let result = barrier(&raft).await;
        for tx in round {
            let _ = tx.send(result.clone());
        }
    }
}

async fn barrier(raft: &Raft) -> Result<(), ReadError> {
    use openraft::errors::{LinearizableReadError, RaftError};
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => linearizer.await_ready(raft).await.map(|_| ()).map_err(|_| ReadError::Stopped),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(ReadError::NotLeader { leader: forward.leader_id.map(NodeId) })
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ReadError::NoQuorum),
        Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
    }
}

/// A node whose disk completes no flush for two seconds must not lead: it falls silent and does not stand, until the
/// disk answers again (log.md 9).
async fn watch_disk(slot: Arc<GroupSlot>, raft: Raft, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let stuck =
            slot.log.oldest_pending_flush().is_some_and(|since: Instant| since.elapsed() >= FLUSH_STUCK);
        if stuck != slot.is_muted() {
            if stuck {
                tracing::error!(
                    group = slot.group,
                    "the disk has completed no flush for 2 s: giving up leadership"
                );
            } else {
                tracing::info!(group = slot.group, "the disk answers again");
            }
            slot.set_muted(stuck);
            raft.runtime_config().heartbeat(!stuck);
            raft.runtime_config().elect(!stuck);
        }
    }
}
