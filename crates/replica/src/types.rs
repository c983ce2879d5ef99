//! The types that openraft is run with. An entry is either a draft, whose bytes only the leader's `append` completes,
//! or a finished frame, which no replica ever encodes again (docs/formats.md section 2.2).

use std::fmt;

use bytes::{Bytes, BytesMut};
use openraft::entry::RaftEntry;
use openraft::impls::leader_id_std;
use openraft::raft::responder::Responder;
use openraft::{EmptyNode, EntryPayload, Membership};
use prost::Message as _;
use store::limits::HEADER_LEN;
use store::{Frame, FrameKind, LogIndex, Term};
use wire::LogPosition;

use crate::proto;

/// openraft's parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig {}

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Data;
    type R = Applied;
    type NodeId = u64;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Data, u64, EmptyNode>;
    type Entry = LogEntry;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type Responder<T>
        = Completion<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// What openraft keeps of a leader in a log id: the term.
pub(crate) type CommittedTerm = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type RaftLogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type RaftVote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type RaftMembership = Membership<u64, EmptyNode>;
pub(crate) type RaftStoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;

/// What is proposed: the body of a frame, behind room for its header.
pub(crate) struct Data {
    pub(crate) kind: FrameKind,
    pub(crate) log_time_ms: u64,
    pub(crate) buffer: BytesMut,
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} bytes", self.kind, self.buffer.len())
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What became of an applied entry, and where it lies.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub(crate) outcome: crate::Outcome,
    pub(crate) position: LogPosition,
}

/// The end of a proposal: called once, with what is known. openraft drops it where the outcome is unknown; the owner
/// of the closure notices by its own `Drop`.
pub(crate) struct Completion<T>(pub(crate) Box<dyn FnOnce(T) + Send>);

impl<T: Send + 'static> Responder<TypeConfig, T> for Completion<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// One Raft entry.
pub(crate) enum LogEntry {
    Draft { id: RaftLogId, payload: EntryPayload<Data, u64, EmptyNode> },
    Frame { id: RaftLogId, frame: Frame },
}

impl LogEntry {
    pub(crate) fn from_frame(frame: Frame) -> Self {
        LogEntry::Frame { id: raft_log_id(frame.id()), frame }
    }

    /// Turns the entry into what the store appends.
    pub(crate) fn into_new_entry(self) -> store::NewEntry {
        match self {
            LogEntry::Frame { frame, .. } => store::NewEntry::Frame(frame),
            LogEntry::Draft { id, payload } => {
                let id = store_log_id(&id);
                let (kind, log_time_ms, buffer) = match payload {
                    EntryPayload::Blank => (FrameKind::Blank, 0, header_room(&[])),
                    EntryPayload::Membership(m) => {
                        (FrameKind::Membership, 0, header_room(&membership_to_proto(&m).encode_to_vec()))
                    }
                    EntryPayload::Normal(data) => (data.kind, data.log_time_ms, data.buffer),
                };
                store::NewEntry::Draft(store::Draft { id, kind, log_time_ms, buffer })
            }
        }
    }
}

/// A buffer with the room for a frame header that [`store::Draft`] asks for, then `body`.
pub(crate) fn header_room(body: &[u8]) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(HEADER_LEN + body.len() + 8);
    buffer.resize(HEADER_LEN, 0);
    buffer.extend_from_slice(body);
    buffer
}

impl fmt::Debug for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogEntry::Draft { id, payload } => write!(f, "draft {id} {payload}"),
            LogEntry::Frame { id, frame } => {
                write!(f, "frame {id} {:?} at {}", frame.kind(), frame.position())
            }
        }
    }
}

impl fmt::Display for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl RaftEntry for LogEntry {
    type CommittedLeaderId = CommittedTerm;
    type Payload = EntryPayload<Data, u64, EmptyNode>;

    fn new(id: RaftLogId, payload: Self::Payload) -> Self {
        LogEntry::Draft { id, payload }
    }

    fn log_id_parts(&self) -> (&CommittedTerm, u64) {
        match self {
            LogEntry::Draft { id, .. } | LogEntry::Frame { id, .. } => (&id.leader_id, id.index),
        }
    }

    fn set_log_id(&mut self, new: RaftLogId) {
        match self {
            LogEntry::Draft { id, .. } => *id = new,
            LogEntry::Frame { id, .. } => {
                assert_eq!(*id, new, "a finished frame cannot move to another index");
            }
        }
    }

    fn get_membership(&self) -> Option<RaftMembership> {
        match self {
            LogEntry::Draft { payload: EntryPayload::Membership(m), .. } => Some(m.clone()),
            LogEntry::Draft { .. } => None,
            LogEntry::Frame { frame, .. } if frame.kind() == FrameKind::Membership => {
                // A frame that passed its CRC and does not decode was written by a newer version.
                proto::MembershipBody::decode(frame.body()).ok().and_then(|m| membership_from_proto(&m))
            }
            LogEntry::Frame { .. } => None,
        }
    }
}

pub(crate) fn raft_log_id(id: store::LogId) -> RaftLogId {
    RaftLogId::new(id.term.0.into(), id.index.0)
}

pub(crate) fn store_log_id(id: &RaftLogId) -> store::LogId {
    store::LogId { term: Term(id.leader_id.term), index: LogIndex(id.index) }
}

pub(crate) fn log_id_to_proto(id: &RaftLogId) -> proto::LogId {
    proto::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn log_id_from_proto(id: &proto::LogId) -> RaftLogId {
    RaftLogId::new(id.term.into(), id.index)
}

pub(crate) fn vote_to_proto(vote: &RaftVote) -> proto::Vote {
    proto::Vote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn vote_from_proto(vote: &proto::Vote) -> RaftVote {
    if vote.committed {
        RaftVote::new_committed(vote.term, vote.node)
    } else {
        RaftVote::new(vote.term, vote.node)
    }
}

pub(crate) fn membership_to_proto(m: &RaftMembership) -> proto::MembershipBody {
    proto::MembershipBody {
        configs: m
            .get_joint_config()
            .iter()
            .map(|c| proto::Voters { nodes: c.iter().copied().collect() })
            .collect(),
        learners: m.learner_ids().collect(),
    }
}

/// None where the body names no voters.
pub(crate) fn membership_from_proto(body: &proto::MembershipBody) -> Option<RaftMembership> {
    let configs: Vec<_> = body.configs.iter().map(|c| c.nodes.iter().copied().collect()).collect();
    if configs.is_empty() {
        return None;
    }
    Some(RaftMembership::new_with_defaults(configs, body.learners.iter().copied()))
}

/// An entry of the log that openraft has not seen yet, for tests and for the first entry of a group.
pub(crate) fn command_data(body: &Bytes, log_time_ms: u64) -> Data {
    Data { kind: FrameKind::Command, log_time_ms, buffer: header_room(body) }
}
