//! The peer listener: checks who asks, then hands the request to the group's openraft. Frames are verified here,
//! before openraft sees them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, future, stream};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, TransferLeaderRequest, VoteRequest,
};
use openraft::storage::{Snapshot, SnapshotMeta};
use store::{Frame, FrameKind, Log, Mutant, Reservation, StoreError, TablesMeta};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use wire::LogPosition;

use crate::blocking::blocking;
use crate::group::Raft;
use crate::level::{self, Said};
use crate::limits::{
    PEER_MESSAGE_BYTES, ROOM_LOW_BYTES, ROOM_WORD_VALID, SNAPSHOT_BYTES_MAX, UNFLUSHED_BYTES_MAX,
};
use crate::log_clock::{VoterClocks, WallClock};
use crate::proto::{self, peer_server};
use crate::state_machine::SnapshotTables;
use crate::types::{
    LogEntry, RaftStoredMembership, TypeConfig, log_id_from_proto, log_id_to_proto, membership_from_proto,
    store_log_id, vote_from_proto, vote_to_proto,
};
use crate::{NodeId, PeerHandler, Service, StateMachine};

/// Feature levels of a build, from 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Levels {
    /// What it knows.
    pub(crate) known: u32,
    /// Up to which one it lets a group go.
    pub(crate) max: u32,
}

/// A group as the listener sees it: known from the moment its log is open, running once `raft` is set.
pub(crate) struct GroupSlot {
    pub(crate) cluster: String,
    pub(crate) group: String,
    pub(crate) me: NodeId,
    pub(crate) voters: Vec<NodeId>,
    pub(crate) log: Log,
    pub(crate) raft: OnceLock<Raft>,
    pub(crate) tables: OnceLock<Arc<dyn StateMachine>>,
    /// The feature level of this build, and up to which one it lets the group go.
    level: u32,
    pub(crate) level_max: u32,
    pub(crate) said: Said,
    /// The group is stopping on this node.
    pub(crate) stop: CancellationToken,
    formed: RwLock<Option<BTreeMap<u64, String>>>,
    muted: watch::Sender<bool>,
    /// Nodes that said with their last heartbeat that their disk has no room for messages.
    without_room: Mutex<BTreeMap<NodeId, Instant>>,
    pub(crate) wall_clock: WallClock,
    pub(crate) clocks: VoterClocks,
    /// When a leader last sent a heartbeat.
    heard: Mutex<Instant>,
}

impl GroupSlot {
    pub(crate) fn new(
        cluster: &str,
        group: &str,
        me: NodeId,
        voters: Vec<NodeId>,
        log: Log,
        levels: Levels,
        wall_clock: WallClock,
    ) -> Self {
        let formed = RwLock::new(log.formed());
        let Levels { known, max } = levels;
        GroupSlot {
            cluster: cluster.to_owned(),
            group: group.to_owned(),
            me,
            voters,
            log,
            raft: OnceLock::new(),
            tables: OnceLock::new(),
            level: known,
            level_max: max,
            said: Said::default(),
            stop: CancellationToken::new(),
            formed,
            muted: watch::Sender::new(false),
            without_room: Mutex::default(),
            wall_clock,
            clocks: VoterClocks::default(),
            heard: Mutex::new(Instant::now()),
        }
    }

    pub(crate) fn formed(&self) -> Option<BTreeMap<u64, String>> {
        self.formed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_formed(&self, members: BTreeMap<u64, String>) {
        *self.formed.write().unwrap_or_else(PoisonError::into_inner) = Some(members);
    }

    pub(crate) fn is_muted(&self) -> bool {
        *self.muted.borrow()
    }

    pub(crate) fn set_muted(&self, muted: bool) {
        self.muted.send_replace(muted);
    }

    pub(crate) fn watch_muted(&self) -> watch::Receiver<bool> {
        self.muted.subscribe()
    }

    /// The disk gives no new segment, and the last one holds little more than what may be under way already.
    pub(crate) fn lacks_room(&self) -> bool {
        self.log.is_disk_full() && self.log.free_room() < ROOM_LOW_BYTES
    }

    /// Whether a majority can take messages. A leader that goes on without would have entries that no majority can ever
    /// store, behind which nothing is committed any more, not even what makes room.
    pub(crate) fn majority_has_room(&self) -> bool {
        let others = lock(&self.without_room).values().filter(|said| is_fresh(said)).count();
        let without = others + usize::from(self.lacks_room());
        self.voters.len() - without.min(self.voters.len()) > self.voters.len() / 2
    }

    /// For how long no leader has been heard of. openraft names the last one until there is another.
    pub(crate) fn silent_for(&self) -> Duration {
        lock(&self.heard).elapsed()
    }

    pub(crate) fn note_room(&self, node: NodeId, is_full: bool) {
        let mut without = lock(&self.without_room);
        if is_full {
            without.insert(node, Instant::now());
        } else {
            without.remove(&node);
        }
    }

    pub(crate) fn has_room(&self, node: NodeId) -> bool {
        !lock(&self.without_room).get(&node).is_some_and(is_fresh)
    }

    pub(crate) fn origin(&self, to: NodeId) -> proto::Origin {
        proto::Origin {
            cluster: self.cluster.clone(),
            group: self.group.clone(),
            from: self.me.0,
            to: to.0,
            incarnation: self.log.incarnation().to_owned(),
            segment_size: self.log.identity().segment_size,
            format: store::FRAME_MAGIC,
            level: self.level,
        }
    }

    /// The feature level that the group has reached here; 1 before its tables are there.
    pub(crate) fn level(&self) -> u32 {
        self.tables.get().map_or(level::FIRST, |tables| tables.level())
    }

    /// The rule that a request breaks, if it breaks one.
    fn check(&self, origin: &proto::Origin) -> Result<(), Status> {
        self.check_place(origin)?;
        self.check_member(origin)
    }

    /// Whether the sender means this node and has the same log.
    fn check_place(&self, origin: &proto::Origin) -> Result<(), Status> {
        let refuse = |what: String| Err(Status::failed_precondition(what));
        if origin.cluster != self.cluster {
            return refuse(format!("this is cluster {}, not {}", self.cluster, origin.cluster));
        }
        if origin.to != self.me.0 {
            return refuse(format!("this is node {}, not {}: check the peer list", self.me, origin.to));
        }
        if origin.segment_size != self.log.identity().segment_size || origin.format != store::FRAME_MAGIC {
            return refuse(format!(
                "group {} has segments of {} bytes in format {}, node {} has {} in format {}",
                self.group,
                self.log.identity().segment_size,
                store::FRAME_MAGIC,
                origin.from,
                origin.segment_size,
                origin.format
            ));
        }
        let (reached, knows) = (self.level(), origin.level.max(level::FIRST));
        if knows < reached {
            return refuse(format!(
                "group {} is at feature level {reached}, the release of node {} knows {knows}: it needs a newer one",
                self.group, origin.from
            ));
        }
        Ok(())
    }

    /// Whether the sender is one of those that formed the group, with the directory it had then.
    fn check_member(&self, origin: &proto::Origin) -> Result<(), Status> {
        let refuse = |what: String| Err(Status::failed_precondition(what));
        let formed = self.formed.read().unwrap_or_else(PoisonError::into_inner);
        match formed.as_ref().map(|members| members.get(&origin.from)) {
            Some(Some(known)) if *known != origin.incarnation => refuse(format!(
                "node {} of group {} is known with another data directory; a replaced node needs a new node id",
                origin.from, self.group
            )),
            Some(None) => refuse(format!("node {} is not a member of group {}", origin.from, self.group)),
            Some(Some(_)) | None => Ok(()),
        }
    }
}

/// Heartbeats bring the word of a node that lives every 50 ms; what a dead one said last does not count for long.
fn is_fresh(said: &Instant) -> bool {
    said.elapsed() < ROOM_WORD_VALID
}

/// The groups of a host, by name.
#[derive(Default)]
pub(crate) struct Registry {
    groups: Mutex<HashMap<String, Arc<GroupSlot>>>,
}

impl Registry {
    pub(crate) fn insert(&self, slot: Arc<GroupSlot>) {
        self.lock().insert(slot.group.clone(), slot);
    }

    pub(crate) fn remove(&self, group: &str) {
        self.lock().remove(group);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<GroupSlot>>> {
        lock(&self.groups)
    }

    fn find(&self, origin: Option<&proto::Origin>) -> Result<Arc<GroupSlot>, Status> {
        let origin = origin.ok_or_else(|| Status::invalid_argument("the request names no origin"))?;
        let slot =
            self.lock().get(&origin.group).cloned().ok_or_else(|| {
                Status::unavailable(format!("group {} is not open on this node", origin.group))
            })?;
        slot.check(origin)?;
        Ok(slot)
    }
}

pub(crate) struct PeerServer {
    pub(crate) cluster: String,
    pub(crate) me: NodeId,
    /// Every node of the cluster.
    pub(crate) nodes: BTreeSet<NodeId>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) handler: Arc<dyn PeerHandler>,
    /// Where the broker's answers are worked out: not on the consensus runtime.
    pub(crate) serving: tokio::runtime::Handle,
}

impl PeerServer {
    pub(crate) fn into_service(self) -> peer_server::PeerServer<Self> {
        peer_server::PeerServer::new(self)
            .max_decoding_message_size(PEER_MESSAGE_BYTES)
            .max_encoding_message_size(PEER_MESSAGE_BYTES)
    }

    fn running(&self, origin: Option<&proto::Origin>) -> Result<(Arc<GroupSlot>, Raft), Status> {
        let slot = self.registry.find(origin)?;
        // openraft would say so in its log, once for each request.
        if slot.stop.is_cancelled() || slot.log.failure().is_some() {
            return Err(Status::unavailable(format!("group {} has stopped on this node", slot.group)));
        }
        let raft =
            slot.raft.get().cloned().ok_or_else(|| {
                Status::unavailable(format!("group {} is starting on this node", slot.group))
            })?;
        Ok((slot, raft))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fatal(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the group has stopped on this node: {error}"))
}

fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("the request has no {field}"))
}

/// Verifies the frames and reserves their room: openraft must never see an append that the disk cannot take
/// (log.md 10).
fn append_entries(
    log: &Log,
    request: proto::AppendRequest,
) -> Result<(AppendEntriesRequest<TypeConfig>, Option<Reservation>), Status> {
    let vote = request.vote.as_ref().map(vote_from_proto).ok_or_else(|| missing("vote"))?;
    let bytes: usize = request.frames.iter().map(bytes::Bytes::len).sum();
    let mut entries = Vec::with_capacity(request.frames.len());
    let mut is_clients = false;
    for frame in request.frames {
        let frame = Frame::parse(frame).map_err(|e| Status::data_loss(format!("a damaged frame: {e}")))?;
        is_clients |= !matches!(frame.kind(), FrameKind::Blank | FrameKind::Membership);
        entries.push(LogEntry::from_frame(frame));
    }
    // A full disk still takes what lets a leader lead.
    let room = match bytes as u64 {
        0 => Ok(None),
        _ if Mutant::AppendWithoutRoom.is_on() => Ok(None),
        bytes if is_clients => log.reserve_behind(bytes).map(Some),
        bytes => log.reserve_small(bytes).map(Some),
    };
    let room = room.map_err(|e| Status::resource_exhausted(e.to_string()))?;
    let mut leader_commit = request.leader_commit.as_ref().map(log_id_from_proto);
    if Mutant::UncommittedReadAtFollower.is_on() {
        leader_commit = leader_commit.max(entries.last().map(|entry| *openraft_log_id(entry)));
    }
    let request = AppendEntriesRequest {
        vote,
        prev_log_id: request.prev.as_ref().map(log_id_from_proto),
        entries,
        leader_commit,
    };
    Ok((request, room))
}

/// Work on the disk for a leader's snapshot; its failure is a refusal, and concerns nothing else.
async fn on_disk<T: Send + 'static>(
    slot: &GroupSlot,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    let done = blocking(&**slot.log.disk(), work).await.map_err(fatal)?;
    done.map_err(|error| {
        tracing::warn!(group = slot.group, %error, "refusing the leader's snapshot");
        Status::resource_exhausted(error.to_string())
    })
}

fn append_reply(
    result: openraft::raft::StreamAppendResult<TypeConfig>,
    wall_clock: &WallClock,
    level: u32,
) -> proto::AppendReply {
    use proto::append_reply::Result as Reply;
    let result = match result {
        Ok(id) => Reply::Matched(proto::Matched { id: id.as_ref().map(log_id_to_proto) }),
        Err(StreamAppendError::Conflict(id)) => Reply::Conflict(log_id_to_proto(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Reply::HigherVote(vote_to_proto(&vote)),
    };
    proto::AppendReply { result: Some(result), disk_full: false, wall_clock_ms: wall_clock.now_ms(), level }
}

fn vote_of(request: &proto::VoteRequest) -> Result<VoteRequest<TypeConfig>, Status> {
    let vote = request.vote.as_ref().map(vote_from_proto).ok_or_else(|| missing("vote"))?;
    let mut rpc = VoteRequest::new(vote, request.last.as_ref().map(log_id_from_proto));
    rpc.leadership_transfer = request.leadership_transfer;
    Ok(rpc)
}

fn vote_reply(response: &openraft::raft::VoteResponse<TypeConfig>) -> proto::VoteReply {
    proto::VoteReply {
        vote: Some(vote_to_proto(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id_to_proto),
    }
}

#[tonic::async_trait]
impl peer_server::Peer for PeerServer {
    async fn hello(
        &self,
        request: Request<proto::HelloRequest>,
    ) -> Result<Response<proto::HelloReply>, Status> {
        let request = request.into_inner();
        // Not `find`: a node that we know under another incarnation must learn why it is refused.
        let origin = request.origin.as_ref().ok_or_else(|| missing("origin"))?;
        let slot = self.registry.lock().get(&origin.group).cloned();
        let slot = slot
            .ok_or_else(|| Status::unavailable(format!("group {} is not open on this node", origin.group)))?;
        slot.check_place(origin)?;
        if let Err(status) = slot.check_member(origin) {
            // Where only the incarnation differs the caller decides, by `known`.
            if !slot.formed().is_some_and(|members| members.contains_key(&origin.from)) {
                return Err(status);
            }
        }
        let voters: Vec<u64> = slot.voters.iter().map(|v| v.0).collect();
        if voters != request.voters {
            return Err(Status::failed_precondition(format!(
                "group {} has voters {voters:?} here and {:?} on node {}",
                slot.group, request.voters, origin.from
            )));
        }
        let formed = slot.formed();
        Ok(Response::new(proto::HelloReply {
            incarnation: slot.log.incarnation().to_owned(),
            formed: formed.is_some(),
            known: formed.unwrap_or_default(),
            level: slot.level_max,
        }))
    }

    type AppendStream = BoxStream<'static, Result<proto::AppendReply, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.ok_or_else(|| missing("content"))?;
        let (slot, raft) = self.running(first.origin.as_ref())?;
        let (wall_clock, level) = (slot.wall_clock.clone(), slot.level_max);
        let broken = Arc::new(Mutex::new(None));
        let reason = broken.clone();
        // Answers come in the order of the requests: each gives back what its request has taken.
        let taken = Arc::new(Mutex::new(VecDeque::new()));
        let given = taken.clone();
        let unflushed = Arc::new(Semaphore::new(UNFLUSHED_BYTES_MAX));
        // A leader that has nothing to send would keep its stream, and with it this group's directory, for ever.
        let stopped = slot.stop.clone().cancelled_owned();
        let requests = stream::once(future::ready(Ok(first)))
            .chain(inbound)
            .take_until(stopped)
            .then(move |message| {
                let unflushed = unflushed.clone();
                async move {
                    let message = message?;
                    // A disk that does not keep up holds back the leader's stream, not this node's memory.
                    let bytes: usize = message.frames.iter().map(bytes::Bytes::len).sum();
                    let share = u32::try_from(bytes.min(UNFLUSHED_BYTES_MAX)).unwrap_or(u32::MAX);
                    let share = unflushed.acquire_many_owned(share).await;
                    Ok::<_, Status>((message, share.map_err(|closed| Status::internal(closed.to_string()))?))
                }
            })
            .map(move |message| {
                let (message, share) = message?;
                let (request, room) = append_entries(&slot.log, message)?;
                Ok((request, (share, room)))
            })
            .scan((), move |(), request| {
                future::ready(match request {
                    Ok((request, shares)) => {
                        lock(&taken).push_back(shares);
                        Some(request)
                    }
                    Err(status) => {
                        *lock(&reason) = Some(status);
                        None
                    }
                })
            });
        let replies = raft.stream_append(Box::pin(requests)).map(move |result| {
            let answer = |result| append_reply(result, &wall_clock, level);
            lock(&given).pop_front();
            result.map(answer).map_err(fatal)
        });
        // What ended the requests is told last, after the answers to those before it.
        let last =
            stream::once(future::lazy(move |_| lock(&broken).take().map(Err))).filter_map(future::ready);
        Ok(Response::new(replies.chain(last).boxed()))
    }

    async fn heartbeat(
        &self,
        request: Request<proto::AppendRequest>,
    ) -> Result<Response<proto::AppendReply>, Status> {
        let request = request.into_inner();
        let (slot, raft) = self.running(request.origin.as_ref())?;
        let (rpc, _room) = append_entries(&slot.log, request)?;
        let (vote, prev) = (rpc.vote, rpc.prev_log_id);
        let last = rpc.entries.last().map(|e| *openraft_log_id(e)).or(prev);
        let is_bare = rpc.entries.is_empty();
        let core = raft.clone();
        let (taken_in, is_taken_in) = oneshot::channel();
        let mut answer = tokio::spawn(async move {
            let mut answer = std::pin::pin!(core.append_entries(rpc));
            // The first poll puts it into the core's queue.
            let first = futures::poll!(&mut answer);
            let _ = taken_in.send(());
            match first {
                std::task::Poll::Ready(answer) => answer,
                std::task::Poll::Pending => answer.await,
            }
        });
        // openraft answers once every earlier append is on disk. That this node follows the leader, which is all that
        // a heartbeat asks, is true before: when the core has taken it in, and its vote, which is durable by then (the
        // core waits for a vote), is the leader's. A conflict or a higher vote is answered without waiting.
        let voted = async {
            if is_taken_in.await.is_err() {
                return false;
            }
            let voted = raft.with_raft_state(|state| *state.vote_ref()).await;
            is_bare && voted.is_ok_and(|voted| voted == vote)
        };
        let response = tokio::select! {
            biased;
            answered = &mut answer => answered,
            follows = voted => match (&mut answer).now_or_never() {
                Some(answered) => answered,
                None if follows => Ok(Ok(AppendEntriesResponse::Success)),
                None => answer.await,
            },
        };
        let response = response.map_err(fatal)?.map_err(fatal)?;
        if response.is_success() {
            *lock(&slot.heard) = Instant::now();
        }
        let result = response.into_stream_result(prev.or(last), last);
        let reply = append_reply(result, &slot.wall_clock, slot.level_max);
        Ok(Response::new(proto::AppendReply { disk_full: slot.lacks_room(), ..reply }))
    }

    async fn vote(&self, request: Request<proto::VoteRequest>) -> Result<Response<proto::VoteReply>, Status> {
        let request = request.into_inner();
        let (_, raft) = self.running(request.origin.as_ref())?;
        let response = raft.vote(vote_of(&request)?).await.map_err(fatal)?;
        Ok(Response::new(vote_reply(&response)))
    }

    async fn pre_vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteReply>, Status> {
        let request = request.into_inner();
        let (_, raft) = self.running(request.origin.as_ref())?;
        let response = raft.pre_vote(vote_of(&request)?).await.map_err(fatal)?;
        Ok(Response::new(vote_reply(&response)))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderReply>, Status> {
        let request = request.into_inner();
        let (_, raft) = self.running(request.origin.as_ref())?;
        let from = request.from_leader.as_ref().map(vote_from_proto).ok_or_else(|| missing("from_leader"))?;
        let rpc = TransferLeaderRequest::new(from, request.to, request.last.as_ref().map(log_id_from_proto));
        let refused = match raft.handle_transfer_leader(rpc).await.map_err(fatal)? {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        Ok(Response::new(proto::TransferLeaderReply { refused }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotChunk>>,
    ) -> Result<Response<proto::SnapshotReply>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.ok_or_else(|| missing("content"))?;
        let head = first.head.ok_or_else(|| missing("head"))?;
        let (slot, raft) = self.running(head.origin.as_ref())?;
        let vote = head.vote.as_ref().map(vote_from_proto).ok_or_else(|| missing("vote"))?;
        let last = head.last.as_ref().map(log_id_from_proto).ok_or_else(|| missing("last log id"))?;
        let membership = head.membership.as_ref().and_then(membership_from_proto).unwrap_or_default();
        let at = TablesMeta {
            last: store_log_id(&last),
            end: LogPosition(head.end_position),
            chain: head.chain,
            log_time_ms: head.log_time_ms,
        };
        let too_large =
            || Err(Status::invalid_argument(format!("tables of more than {SNAPSHOT_BYTES_MAX} bytes")));
        if head.tables_len > SNAPSHOT_BYTES_MAX as u64 {
            return too_large();
        }
        // Like the frames of an append: openraft must never see a snapshot that the disk cannot take (log.md 10). What is
        // committed here already it does not want.
        let received = if slot.log.read_committed() < Some(at.last) {
            let log = slot.log.clone();
            let received = on_disk(&slot, move || log.receive_snapshot(&at, head.tables_len)).await?;
            Some(Arc::new(received))
        } else {
            None
        };
        let mut bytes = bytes::BytesMut::from(&first.data[..]);
        while let Some(chunk) = inbound.message().await? {
            if bytes.len() + chunk.data.len() > SNAPSHOT_BYTES_MAX {
                return too_large();
            }
            bytes.extend_from_slice(&chunk.data);
        }
        let bytes = bytes.freeze();
        if let Some(received) = received.clone() {
            let tables = bytes.clone();
            on_disk(&slot, move || received.fill(&tables)).await?;
        }
        let snapshot = Snapshot {
            meta: SnapshotMeta {
                last_log_id: Some(last),
                last_membership: RaftStoredMembership::new(
                    head.membership_id.as_ref().map(log_id_from_proto),
                    membership,
                ),
            },
            snapshot: SnapshotTables { at, bytes, received },
        };
        let response = raft.install_full_snapshot(vote, snapshot).await.map_err(fatal)?;
        Ok(Response::new(proto::SnapshotReply { vote: Some(vote_to_proto(&response.vote)) }))
    }

    async fn call(&self, request: Request<proto::CallRequest>) -> Result<Response<proto::CallReply>, Status> {
        let request = request.into_inner();
        if request.cluster != self.cluster || request.to != self.me.0 {
            return Err(Status::failed_precondition(format!(
                "this is node {} of cluster {}, not node {} of {}",
                self.me, self.cluster, request.to, request.cluster
            )));
        }
        if !self.nodes.contains(&NodeId(request.from)) {
            return Err(Status::failed_precondition(format!(
                "node {} is not in the list of peers of node {}",
                request.from, self.me
            )));
        }
        let answer = self.handler.handle(NodeId(request.from), Service(request.service), request.payload);
        let limit = std::time::Duration::from_millis(u64::from(request.timeout_ms.max(1)));
        let result = match self.serving.spawn(tokio::time::timeout(limit, answer)).await {
            Ok(Ok(Ok(payload))) => proto::call_reply::Result::Payload(payload),
            Ok(Ok(Err(reason))) => proto::call_reply::Result::Error(reason),
            Ok(Err(_)) => return Err(Status::deadline_exceeded("no answer in time")),
            Err(error) => return Err(Status::internal(error.to_string())),
        };
        Ok(Response::new(proto::CallReply { result: Some(result) }))
    }
}

pub(crate) fn openraft_log_id(entry: &LogEntry) -> &crate::types::RaftLogId {
    match entry {
        LogEntry::Draft { id, .. } | LogEntry::Frame { id, .. } => id,
    }
}
