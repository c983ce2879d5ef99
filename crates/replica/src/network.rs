//! openraft's network over the peer channels: one long bidirectional stream for the log, and heartbeats, votes and
//! transfers as calls on a channel of their own.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, future, stream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetAppend, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory, stream_append_sequential,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;

use std::sync::{Arc, Mutex};

use crate::catch_up::{CatchUp, CatchUpLimits, Paced, Stretch};
use crate::commits::CommitsWithEntries;
use crate::limits::{REOPEN_PAUSE, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RETRY};
use crate::server::{GroupSlot, lock};
use crate::state_machine::SnapshotTables;
use crate::types::{
    CommittedTerm, LogEntry, RaftVote, TypeConfig, log_id_from_proto, log_id_to_proto, membership_to_proto,
    vote_from_proto, vote_to_proto,
};
use crate::{NodeId, Peers, proto};

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) peers: Peers,
    pub(crate) slot: Arc<GroupSlot>,
    /// See [`crate::GroupConfig`].
    pub(crate) catch_up: CatchUpLimits,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, _node: &openraft::EmptyNode) -> PeerNetwork {
        let catch_up = Some(Arc::new(Mutex::new(CatchUp::new(self.catch_up))));
        PeerNetwork { catch_up, ..PeerNetwork::new(&self.peers, &self.slot, NodeId(target)) }
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &openraft::EmptyNode) -> PeerNetwork {
        PeerNetwork { heartbeats: true, ..PeerNetwork::new(&self.peers, &self.slot, NodeId(target)) }
    }
}

/// One node as openraft sees it, for one purpose.
pub(crate) struct PeerNetwork {
    peers: Peers,
    slot: Arc<GroupSlot>,
    target: NodeId,
    heartbeats: bool,
    /// Of the log's stream, however often it is opened.
    catch_up: Option<Arc<Mutex<CatchUp>>>,
}

type Client = proto::peer_client::PeerClient<tonic::transport::Channel>;

impl PeerNetwork {
    /// For a request outside openraft's own.
    pub(crate) fn new(peers: &Peers, slot: &Arc<GroupSlot>, target: NodeId) -> Self {
        PeerNetwork { peers: peers.clone(), slot: slot.clone(), target, heartbeats: false, catch_up: None }
    }

    fn origin(&self) -> proto::Origin {
        self.slot.origin(self.target)
    }

    fn consensus(&self) -> Rpc<Client> {
        self.check_muted()?;
        self.peers.consensus_client(self.target).ok_or_else(|| self.unknown_node())
    }

    fn log(&self) -> Rpc<Client> {
        self.check_muted()?;
        self.peers.log_client(self.target).ok_or_else(|| self.unknown_node())
    }

    /// A leader whose disk is stuck must fall silent, so that the others elect another.
    fn check_muted(&self) -> Rpc<()> {
        if self.slot.is_muted() {
            return Err(unreachable_error("this node's disk does not complete flushes"));
        }
        Ok(())
    }

    fn unknown_node(&self) -> RPCError<TypeConfig> {
        unreachable_error(format!("no address is configured for node {}", self.target))
    }
}

fn unreachable_error(message: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&openraft::AnyError::error(message)))
}

fn rpc_error(status: &tonic::Status) -> RPCError<TypeConfig> {
    unreachable_error(format!("{:?}: {}", status.code(), status.message()))
}

fn malformed(what: &str) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&openraft::AnyError::error(format!("malformed reply: {what}"))))
}

fn append_request(
    request: AppendEntriesRequest<TypeConfig>,
    origin: Option<proto::Origin>,
) -> proto::AppendRequest {
    proto::AppendRequest {
        origin,
        vote: Some(vote_to_proto(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_to_proto),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_proto),
        frames: request
            .entries
            .iter()
            .map(|entry| match entry {
                LogEntry::Frame { frame, .. } => frame.bytes().clone(),
                LogEntry::Draft { id, .. } => {
                    unreachable!("entry {id} was replicated without having been appended")
                }
            })
            .collect(),
    }
}

fn append_result(reply: proto::AppendReply) -> Rpc<StreamAppendResult<TypeConfig>> {
    match reply.result {
        Some(proto::append_reply::Result::Matched(m)) => Ok(Ok(m.id.as_ref().map(log_id_from_proto))),
        Some(proto::append_reply::Result::Conflict(id)) => {
            Ok(Err(StreamAppendError::Conflict(log_id_from_proto(&id))))
        }
        Some(proto::append_reply::Result::HigherVote(vote)) => {
            Ok(Err(StreamAppendError::HigherVote(vote_from_proto(&vote))))
        }
        None => Err(malformed("an append reply without result")),
    }
}

impl NetAppend<TypeConfig> for PeerNetwork {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let request = append_request(rpc, Some(self.origin()));
        let mut client = self.consensus()?;
        let reply = within(option.hard_ttl(), client.heartbeat(request)).await?;
        self.slot.note_room(self.target, reply.disk_full);
        self.slot.clocks.note(self.target, reply.wall_clock_ms, Instant::now());
        self.slot.said.note(self.target, reply.level);
        Ok(match append_result(reply)? {
            Ok(_) => AppendEntriesResponse::Success,
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }
}

/// A call with a time limit.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Rpc<T> {
    match tokio::time::timeout(limit, call).await {
        Err(_) => Err(unreachable_error(format!("no answer in {} ms", limit.as_millis()))),
        Ok(Err(status)) => Err(rpc_error(&status)),
        Ok(Ok(reply)) => Ok(reply.into_inner()),
    }
}

impl NetStreamAppend<TypeConfig> for PeerNetwork {
    fn stream_append<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'_, Rpc<BoxStream<'_, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        if self.heartbeats {
            return stream_append_sequential(self, input, option);
        }
        async move {
            let opened = self.open_stream(input).await;
            if opened.is_err() {
                tokio::time::sleep(REOPEN_PAUSE).await;
            }
            opened
        }
        .boxed()
    }
}

impl PeerNetwork {
    async fn open_stream<'a, S>(&self, input: S) -> Rpc<BoxStream<'a, Rpc<StreamAppendResult<TypeConfig>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        #[cfg(feature = "mutants")]
        let (input, presumed) = crate::presumption::tap(input);
        let mut client = self.log()?;
        let mut origin = Some(self.origin());
        let (slot, of_target, target) = (self.slot.clone(), self.slot.clone(), self.target);
        let log = slot.log.clone();
        let catch_up = self.catch_up.clone();
        let mut is_open = false;
        let input = Paced::new(input, move |request: &AppendEntriesRequest<TypeConfig>| {
            let (Some(catch_up), Some(stretch)) = (&catch_up, Stretch::of(request)) else {
                return Duration::ZERO;
            };
            let delay = lock(catch_up).delay(stretch, log.state().into());
            // The first one finds out where the other's log ends.
            if std::mem::replace(&mut is_open, true) { delay } else { Duration::ZERO }
        });
        let requests =
            CommitsWithEntries::new(input.map(move |request| append_request(request, origin.take())))
                .take_while(move |_| future::ready(!slot.is_muted()));
        let replies = client.append(requests).await.map_err(|status| rpc_error(&status))?.into_inner();
        let results = replies.map(move |reply| {
            let reply = reply.map_err(|status| rpc_error(&status))?;
            of_target.clocks.note(target, reply.wall_clock_ms, Instant::now());
            of_target.said.note(target, reply.level);
            append_result(reply)
        });
        #[cfg(feature = "mutants")]
        let results = presumed.instead_of(results);
        Ok(results.boxed())
    }
}

fn vote_request(rpc: &VoteRequest<TypeConfig>, origin: proto::Origin) -> proto::VoteRequest {
    proto::VoteRequest {
        origin: Some(origin),
        vote: Some(vote_to_proto(&rpc.vote)),
        last: rpc.last_log_id.as_ref().map(log_id_to_proto),
        leadership_transfer: rpc.leadership_transfer,
    }
}

fn vote_response(reply: proto::VoteReply) -> Rpc<VoteResponse<TypeConfig>> {
    let vote =
        reply.vote.as_ref().map(vote_from_proto).ok_or_else(|| malformed("a vote reply without vote"))?;
    Ok(VoteResponse::new(vote, reply.last.as_ref().map(log_id_from_proto), reply.granted))
}

impl NetVote<TypeConfig> for PeerNetwork {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let mut client = self.consensus()?;
        let request = vote_request(&rpc, self.origin());
        vote_response(within(option.hard_ttl(), client.vote(request)).await?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let mut client = self.consensus()?;
        let request = vote_request(&rpc, self.origin());
        vote_response(within(option.hard_ttl(), client.pre_vote(request)).await?)
    }
}

impl NetTransferLeader<TypeConfig> for PeerNetwork {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let mut client = self.consensus()?;
        let message = proto::TransferLeaderRequest {
            origin: Some(self.origin()),
            from_leader: Some(vote_to_proto(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(log_id_to_proto),
        };
        let reply = within(option.hard_ttl(), client.transfer_leader(message)).await?;
        if reply.refused.is_empty() {
            return Ok(Ok(()));
        }
        tracing::info!(target = self.target.0, reason = reply.refused, "leadership transfer refused");
        Ok(Err(TransferLeaderError::LogNotFlushed { expected: request.last_log_id().copied(), actual: None }))
    }
}

impl NetBackoff<TypeConfig> for PeerNetwork {
    /// A node that comes back is found again within 50 ms.
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(50))))
    }
}

impl NetSnapshot<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotTables;

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot<CommittedTerm, u64, openraft::EmptyNode, SnapshotTables>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut client = self.log().map_err(streaming_error)?;
        let SnapshotTables { at, bytes, .. } = snapshot.snapshot;
        let membership = snapshot.meta.last_membership;
        let head = proto::SnapshotHead {
            origin: Some(self.origin()),
            vote: Some(vote_to_proto(&vote)),
            last: snapshot.meta.last_log_id.as_ref().map(log_id_to_proto),
            membership_id: membership.log_id().as_ref().map(log_id_to_proto),
            membership: Some(membership_to_proto(membership.membership())),
            end_position: at.end.0,
            chain: at.chain,
            log_time_ms: at.log_time_ms,
            tables_len: bytes.len() as u64,
        };
        let first = proto::SnapshotChunk { head: Some(head), data: bytes::Bytes::new() };
        let rest = (0..bytes.len()).step_by(SNAPSHOT_CHUNK_BYTES).map(move |from| proto::SnapshotChunk {
            head: None,
            data: bytes.slice(from..bytes.len().min(from + SNAPSHOT_CHUNK_BYTES)),
        });
        let chunks = stream::iter(std::iter::once(first).chain(rest));
        let sent = async {
            match client.snapshot(chunks).await {
                Err(status) => {
                    // openraft reads the tables and begins anew at once.
                    tokio::time::sleep(SNAPSHOT_RETRY).await;
                    Err(streaming_error(rpc_error(&status)))
                }
                Ok(reply) => {
                    let vote = reply.into_inner().vote;
                    let vote =
                        vote.ok_or_else(|| streaming_error(malformed("a snapshot reply without vote")))?;
                    Ok(SnapshotResponse::new(vote_from_proto(&vote)))
                }
            }
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            reply = sent => reply,
        }
    }
}

fn streaming_error(error: RPCError<TypeConfig>) -> StreamingError<TypeConfig> {
    match error {
        RPCError::Network(e) => StreamingError::Network(e),
        other => StreamingError::Unreachable(Unreachable::new(&openraft::AnyError::error(other))),
    }
}
