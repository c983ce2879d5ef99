//! One Raft group on this node: proposals, the read barrier, roles, leadership transfer, status.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::network::{NetTransferLeader as _, RPCOption};
use openraft::raft::TransferLeaderRequest;
use openraft::{ReadPolicy, ServerState};
use store::{Log, LogId, Mutant, StoreError, Vote};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use wire::LogPosition;

use crate::blocking::blocking;
use crate::level::{self, ExcuseError};
use crate::limits::{
    BARRIER_TIMEOUT, BARRIERS_WAITING_MAX, FLUSH_STUCK, FULL_HOLD_BACK, PURGE_PATIENCE, ROOM_TRANSFER_PAUSE,
    TRANSFER_CATCH_UP, TRANSFER_WATCH,
};
use crate::log_clock::LogClock;
use crate::network::PeerNetwork;
use crate::proposer::{Done, Intake, Proposer};
use crate::server::GroupSlot;
use crate::state_machine::{AppliedUpTo, Machine};
use crate::types::{RaftVote, TypeConfig, store_log_id};
use crate::{
    CommandProposal, CoupledProposal, CoupledReceipt, MessagesProposal, NodeId, Peers, ProposeError, Receipt,
    StateMachine,
};

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
    #[error("what is under way was not decided in time; this node goes on")]
    Undecided,
    #[error("node {leader} leads now, not node {to}")]
    Another { to: NodeId, leader: NodeId },
    #[error("node {0} did not take over in time; the group elects")]
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
    /// The end of what is fsynced on this node.
    pub synced_end: LogPosition,
    pub purged: Option<LogId>,
    /// As [`store::LogState::snapshot`].
    pub snapshot: Option<LogId>,
    /// As [`store::LogState::checkpoint`].
    pub checkpoint: Option<LogId>,
    pub end: LogPosition,
    /// The vote that is fsynced here. It may be of an older term than `term`, which is known before.
    pub vote: Option<Vote>,
    /// Random name of the data directory.
    pub incarnation: String,
    pub voters: Vec<NodeId>,
    /// Only at the leader.
    pub followers: Vec<PeerProgress>,
    pub pending_bytes: usize,
    /// For how long a flush has been under way, the oldest of all groups on this disk; `None` when none is.
    pub flushing: Option<Duration>,
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
    barriers: mpsc::Sender<oneshot::Sender<Result<(), ReadError>>>,
    peers: Peers,
    stop: CancellationToken,
    transferring: tokio::sync::Mutex<()>,
}

/// While it lives nothing is proposed.
struct Paused<'a>(&'a watch::Sender<bool>);

impl<'a> Paused<'a> {
    fn new(paused: &'a watch::Sender<bool>) -> Self {
        paused.send_replace(true);
        Paused(paused)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

pub(crate) fn start_tasks(
    slot: Arc<GroupSlot>,
    raft: Raft,
    tables: Arc<dyn StateMachine>,
    applied: watch::Receiver<Option<AppliedUpTo>>,
    peers: Peers,
    consensus: Handle,
    serving: Handle,
) -> Group {
    let stop = slot.stop.clone();
    let (role_tx, role) = watch::channel(Role::default());
    consensus.spawn(follow_role(raft.clone(), applied.clone(), slot.watch_muted(), role_tx, stop.clone()));
    let (paused, paused_rx) = watch::channel(false);
    let (outstanding_tx, outstanding) = watch::channel(0);
    let (intake, proposer) = Proposer::new(
        raft.clone(),
        slot.clone(),
        tables,
        role.clone(),
        applied.clone(),
        paused_rx,
        outstanding_tx,
        serving,
    );
    consensus.spawn(proposer.run());
    let (barriers, waiting) = mpsc::channel(BARRIERS_WAITING_MAX);
    let core = raft.clone();
    consensus.spawn(answer_barriers(move || barrier(core.clone()), waiting));
    let inner = Arc::new(Inner {
        slot,
        raft,
        intake,
        role,
        applied,
        paused,
        outstanding,
        barriers,
        peers,
        stop: stop.clone(),
        transferring: tokio::sync::Mutex::new(()),
    });
    consensus.spawn(watch_disk(Arc::downgrade(&inner), stop));
    Group { inner }
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

    #[cfg(test)]
    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
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

    /// Log time as it is between two entries, ms since 1970: what an entry that this leader proposed now would have at least
    /// (formats.md 2.4), as far as the clocks stay as they are. Where this node does not lead it knows no other clock, and
    /// this may be behind.
    pub fn log_now_ms(&self) -> u64 {
        let clock = match *self.inner.applied.borrow() {
            Some(applied) => LogClock::new(applied.log_time_ms, applied.at),
            None => LogClock::new(0, Instant::now()),
        };
        let slot = &self.inner.slot;
        clock.peek(slot.wall_clock.now_ms(), Instant::now(), &slot.clocks, slot.voters.len()).0
    }

    /// Bytes proposed of which it is not known yet what became of them.
    pub fn pending_bytes(&self) -> usize {
        self.inner.intake.pending_bytes()
    }

    /// Proposes messages; `done` is called when they are applied, or with the reason why not.
    pub fn propose_messages(&self, proposal: MessagesProposal, done: Done<Receipt>) {
        self.inner.intake.messages(proposal, done);
    }

    /// Proposes a command and messages that take effect together or not at all; `done` is called when they are applied, or
    /// with the reason why not: [`ProposeError::Void`] also where the tables refused the command.
    pub fn propose_coupled(&self, proposal: CoupledProposal, done: Done<CoupledReceipt>) {
        self.inner.intake.coupled(proposal, done);
    }

    /// Proposes a command of the broker and returns its answer.
    pub async fn propose_command(&self, proposal: CommandProposal) -> Result<Bytes, ProposeError> {
        let answer = self.propose_command_now(proposal).await;
        answer.unwrap_or(Err(ProposeError::Unknown("the group stopped while the command was under way")))
    }

    /// The same for callers whose commands must keep their order: it is in the proposer's queue on return.
    pub fn propose_command_now(
        &self,
        proposal: CommandProposal,
    ) -> oneshot::Receiver<Result<Bytes, ProposeError>> {
        let (tx, rx) = oneshot::channel();
        self.inner.intake.command(
            proposal,
            Box::new(move |result| {
                let _ = tx.send(result);
            }),
        );
        rx
    }

    /// Whether entries that need a feature level may be proposed here.
    ///
    /// # Errors
    /// [`ProposeError::Level`] while a member of the group has not said that it knows them.
    pub fn check_level(&self, needed: u32) -> Result<(), ProposeError> {
        level::check(&self.inner.slot, &self.inner.raft, needed)
    }

    /// Waits until every member of the group has said to this leader that it knows a feature level.
    pub async fn level_known_to_all(&self, level: u32) {
        level::known_to_all(&self.inner.slot, &self.inner.raft, level).await;
    }

    /// Goes without the word of members that are gone for good, so that a group which lost a node before all knew a feature
    /// level gets there. It holds for this leader, until such a node answers after all: so propose an entry of the level
    /// next, with which the group has reached it. A node that comes back with an older release stays outside then.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub fn excuse_from_level(&self, level: u32, nodes: &[NodeId]) -> Result<(), ExcuseError> {
        if !self.role().ready {
            return Err(ExcuseError::NotLeader);
        }
        level::excuse(&self.inner.slot, &self.inner.raft, level, nodes)
    }

    /// Passes when this node is known to have led after the call began, and has applied everything committed before:
    /// what is read from the tables afterwards is current (log.md 11). One round serves all who wait.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let (tx, rx) = oneshot::channel();
        self.inner.barriers.try_send(tx).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::NoQuorum,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
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
        let _paused = Paused::new(&self.inner.paused);
        self.transfer_paused(to, role.term).await
    }

    async fn transfer_paused(&self, to: NodeId, term: u64) -> Result<(), TransferError> {
        let mut outstanding = self.inner.outstanding.clone();
        let settled = tokio::time::timeout(TRANSFER_CATCH_UP, outstanding.wait_for(|o| *o == 0)).await;
        // What is borrowed of the watch must not be held any longer.
        match settled.map(|open| open.is_ok()) {
            Ok(true) => {}
            Ok(false) => return Err(TransferError::Stopped),
            Err(_) => return Err(TransferError::Undecided),
        }
        let mut metrics = self.inner.raft.data_metrics();
        let caught_up = tokio::time::timeout(
            TRANSFER_CATCH_UP,
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
        let vote = self.inner.raft.server_metrics().borrow_watched().vote;
        if vote.leader_id.term != term {
            return Err(TransferError::NotLeader);
        }
        self.inner.raft.trigger().transfer_leader(to.0).await.map_err(|_| TransferError::Stopped)?;
        match self.leader_after(term).await {
            Some(leader) if leader == to => Ok(()),
            Some(leader) => Err(TransferError::Another { to, leader }),
            None => {
                // The target did not take over. openraft refuses proposals and sends no heartbeats until the term
                // ends, so another voter is asked to stand (log.md 17); with none left the others' timeout does it.
                let mut heirs: Vec<NodeId> = self.voters().to_vec();
                heirs.retain(|v| *v != to && *v != self.node());
                heirs.sort_by_key(|v| !self.inner.slot.has_room(*v));
                for heir in heirs {
                    self.ask_to_stand(heir, vote).await;
                    if let Some(leader) = self.leader_after(term).await {
                        return Err(TransferError::Another { to, leader });
                    }
                }
                Err(TransferError::NotTaken(to))
            }
        }
    }

    /// Who leads in a later term than `term`, once that is known.
    async fn leader_after(&self, term: u64) -> Option<NodeId> {
        let mut role = self.inner.role.clone();
        let is_over = |r: &Role| r.term > term && r.leader.is_some();
        let over = tokio::time::timeout(TRANSFER_WATCH, role.wait_for(is_over)).await;
        over.ok()?.ok()?.leader
    }

    /// Has `heir` stand for election at once; every node lets go of its lease of the leader with this vote.
    pub(crate) async fn ask_to_stand(&self, heir: NodeId, vote: RaftVote) {
        let request = TransferLeaderRequest::new(vote, heir.0, None);
        let tell = |voter: NodeId| {
            let request = request.clone();
            async move {
                let mut peer = PeerNetwork::new(&self.inner.peers, &self.inner.slot, voter);
                let asked = peer.transfer_leader(request, RPCOption::new(TRANSFER_WATCH)).await;
                if let Err(error) = asked {
                    tracing::info!(group = self.name(), to = voter.0, %error, "the request to stand has not arrived");
                }
            }
        };
        // The others first: one that has let go of its lease grants the vote. A dead one must not hold up the rest.
        let others = self.voters().iter().copied().filter(|v| *v != self.node() && *v != heir);
        let told = futures::future::join_all(others.map(tell));
        let _ = tokio::time::timeout(TRANSFER_WATCH / 5, told).await;
        tell(heir).await;
    }

    /// How far `node` lags behind this leader in entries; `None` where this node does not lead or does not know.
    pub fn lag_of(&self, node: NodeId) -> Option<u64> {
        let metrics = self.inner.raft.data_metrics();
        let m = metrics.borrow_watched();
        let last = m.last_log.map_or(0, |id| id.index);
        matched(m.replication.as_ref(), node).map(|has| last.saturating_sub(has))
    }

    /// Drops this node's log up to its newest boundary snapshot, in the order of log.md 7: a node that lacks what is gone
    /// gets the snapshot. The last entry that is gone; `None`: no boundary has been passed since the last purge.
    ///
    /// # Errors
    /// Those of the disk; `TimedOut` where consensus does not get to it in time: it may still.
    pub async fn purge(&self) -> io::Result<Option<LogId>> {
        let log = self.log().clone();
        let boundary = move || {
            let purged = log.state().purged;
            let Some(newest) = log.boundaries()?.last().copied() else { return Ok(None) };
            let Some((at, _)) = log.boundary(newest)? else { return Ok(None) };
            if purged >= Some(at.last) {
                return Ok(None);
            }
            log.set_current_snapshot(at.last)?;
            Ok::<_, StoreError>(Some(at.last))
        };
        let boundary = blocking(&**self.log().disk(), boundary).await?.map_err(io::Error::other)?;
        let Some(boundary) = boundary else { return Ok(None) };
        let (raft, index) = (&self.inner.raft, boundary.index.0);
        raft.trigger().snapshot().await.map_err(io::Error::other)?;
        let mut metrics = raft.data_metrics();
        let known = metrics.wait_until(|m| m.snapshot.is_some_and(|id| id.index >= index));
        let known = tokio::time::timeout(PURGE_PATIENCE, known).await;
        known.map_err(|_| io::ErrorKind::TimedOut)?.map_err(io::Error::other)?;
        raft.trigger().purge_log(index).await.map_err(io::Error::other)?;
        let gone = metrics.wait_until(|m| m.purged.is_some_and(|id| id.index >= index));
        let gone = tokio::time::timeout(PURGE_PATIENCE, gone).await;
        gone.map_err(|_| io::ErrorKind::TimedOut)?.map_err(io::Error::other)?;
        Ok(Some(boundary))
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
            synced_end: log.synced_end,
            purged: log.purged,
            snapshot: log.snapshot,
            checkpoint: log.checkpoint,
            end: log.end,
            vote: self.inner.slot.log.vote(),
            incarnation: self.inner.slot.log.incarnation().to_owned(),
            voters: self.inner.slot.voters.clone(),
            followers,
            pending_bytes: self.inner.intake.pending_bytes(),
            flushing: self.log().oldest_pending_flush().map(|since| since.elapsed()),
            durability: "quorum-fsync",
            stopped: m.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Stops taking part: saves the tables, flushes and closes the log. Does not hand over leadership.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        let raft = self.inner.raft.clone();
        let saved = raft.with_state_machine(|machine: &mut Machine| machine.final_checkpoint());
        if let Err(error) = saved.await {
            tracing::warn!(%error, group = self.name(), "the tables were not saved at the stop");
        }
        if let Err(error) = raft.shutdown().await {
            tracing::warn!(%error, group = self.name(), "consensus did not stop cleanly");
        }
        let log = self.inner.slot.log.clone();
        let disk = log.disk().clone();
        match blocking(&*disk, move || log.close()).await {
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
    mut muted: watch::Receiver<bool>,
    role: watch::Sender<Role>,
    stop: CancellationToken,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let muted_now = *muted.borrow_and_update();
        let now = {
            let m = metrics.borrow_and_update();
            let term = m.vote.leader_id.term;
            let leads = m.state == ServerState::Leader && m.vote.committed;
            let ready = leads && applied.borrow_and_update().is_some_and(|a| a.id.term.0 == term);
            if leads && muted_now {
                // It has fallen silent, so that another is elected; openraft may hear of that only when the disk answers.
                Role { term, leader: None, ready: false }
            } else {
                Role { term, leader: m.current_leader.map(NodeId), ready }
            }
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
            changed = muted.changed() => if changed.is_err() { break },
            changed = applied.changed(), if waits_for_apply => if changed.is_err() { break },
        }
    }
    role.send_modify(|r| {
        r.leader = None;
        r.ready = false;
    });
}

/// One ReadIndex round for all who wait; who comes while it is under way waits for the next.
async fn answer_barriers<R: Future<Output = Result<(), ReadError>>>(
    ask: impl Fn() -> R,
    mut waiting: mpsc::Receiver<oneshot::Sender<Result<(), ReadError>>>,
) {
    while let Some(first) = waiting.recv().await {
        let mut round = vec![first];
        while let Ok(next) = waiting.try_recv() {
            round.push(next);
        }
        // A round that hangs must not hold up those who come later.
        let result = tokio::time::timeout(BARRIER_TIMEOUT, ask()).await;
        let result = result.unwrap_or(Err(ReadError::NoQuorum));
        for tx in round {
            let _ = tx.send(result.clone());
        }
    }
}

async fn barrier(raft: Raft) -> Result<(), ReadError> {
    use openraft::errors::{LinearizableReadError, RaftError};
    if Mutant::NoReadBarrier.is_on() && raft.server_metrics().borrow_watched().state == ServerState::Leader {
        return Ok(());
    }
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => linearizer.await_ready(&raft).await.map(|_| ()).map_err(|_| ReadError::Stopped),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(ReadError::NotLeader { leader: forward.leader_id.map(NodeId) })
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ReadError::NoQuorum),
        Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
    }
}

/// What the disk means for leadership. A node whose disk completes no flush for two seconds falls silent and does not
/// stand, until the disk answers again (log.md 9). One whose disk has no room for messages hands over to one that has
/// some, and lets others stand first (log.md 10); where nobody else does it stands all the same, to serve reads.
async fn watch_disk(group: Weak<Inner>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    let mut may_stand = true;
    let mut next_try = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(inner) = group.upgrade() else { return };
        let group = Group { inner };
        let (slot, raft) = (&group.inner.slot, &group.inner.raft);
        if let Some(reason) = slot.log.failure() {
            // openraft hears of it with what it appends next. A leader from whom nothing comes in any more, because there is
            // no room for it, would lead on for ever: what failed may have been the watermark of an idle log.
            tracing::error!(group = slot.group, reason, "the group ends on this node");
            slot.set_muted(true);
            if let Err(error) = raft.shutdown().await {
                tracing::warn!(group = slot.group, %error, "consensus did not stop cleanly");
            }
            return;
        }
        let stuck = slot.log.oldest_pending_flush().is_some_and(|since| since.elapsed() >= FLUSH_STUCK);
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
        }
        let role = group.role();
        let is_full = slot.lacks_room();
        let stand = !stuck && (!is_full || slot.silent_for() >= FULL_HOLD_BACK);
        if stand != may_stand {
            raft.runtime_config().elect(stand);
            may_stand = stand;
        }
        if is_full && role.ready && Instant::now() >= next_try {
            next_try = Instant::now() + ROOM_TRANSFER_PAUSE;
            // Not waited for: the disk is watched meanwhile.
            tokio::spawn(async move { hand_over_to_room(&group).await });
        }
    }
}

async fn hand_over_to_room(group: &Group) {
    let mut followers = group.status().followers;
    followers.retain(|follower| follower.matched.is_some() && group.inner.slot.has_room(follower.node));
    let Some(heir) = followers.into_iter().min_by_key(|follower| follower.lag) else { return };
    match group.transfer_leadership(heir.node).await {
        Ok(()) => tracing::warn!(group = group.name(), to = heir.node.0, "leadership left a full disk"),
        Err(error) => {
            tracing::warn!(group = group.name(), to = heir.node.0, %error, "leadership stays on a full disk");
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    type Answer = Result<(), ReadError>;

    fn read(barriers: &mpsc::Sender<oneshot::Sender<Answer>>) -> oneshot::Receiver<Answer> {
        let (tx, rx) = oneshot::channel();
        barriers.try_send(tx).unwrap();
        rx
    }

    /// log.md 11. The test ends the rounds, and counts them.
    #[tokio::test]
    async fn all_who_wait_share_a_round_but_nobody_one_that_began_before() {
        let (begun_tx, mut begun) = mpsc::unbounded_channel::<oneshot::Sender<Answer>>();
        let ask = move || {
            let (end, ended) = oneshot::channel();
            begun_tx.send(end).unwrap();
            async move { ended.await.unwrap() }
        };
        let (barriers, waiting) = mpsc::channel(BARRIERS_WAITING_MAX);
        let task = tokio::spawn(answer_barriers(ask, waiting));
        let first = read(&barriers);
        let end_first = begun.recv().await.unwrap();
        // The first round may have asked its followers by now: what is committed since is nothing that it vouches for.
        let mut late: Vec<_> = (0..1000).map(|_| read(&barriers)).collect();
        end_first.send(Ok(())).unwrap();
        first.await.unwrap().unwrap();
        let end_second = tokio::select! {
            end = begun.recv() => end.unwrap(),
            answer = &mut late[0] => panic!("a read was answered by a round that began before it: {answer:?}"),
        };
        end_second.send(Err(ReadError::NoQuorum)).unwrap();
        tokio::select! {
            answers = join_all(late) => {
                assert!(answers.into_iter().all(|answer| matches!(answer, Ok(Err(ReadError::NoQuorum)))));
            }
            _ = begun.recv() => panic!("one round was enough for all who waited"),
        }
        // A round that failed fails nobody who comes later.
        let last = read(&barriers);
        begun.recv().await.unwrap().send(Ok(())).unwrap();
        last.await.unwrap().unwrap();
        drop(barriers);
        task.await.unwrap();
        assert!(begun.recv().await.is_none(), "three rounds for a thousand and two reads");
    }
}
