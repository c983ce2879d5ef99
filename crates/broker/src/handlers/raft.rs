//! RaftMQ's own requests, for `raftmq admin`: how a group is, and who shall lead it. Their codes are not RocketMQ's.

use std::sync::Arc;

use futures::future::FutureExt;
use replica::{ExcuseError, GroupStatus, NodeId, StateMachine as _, TransferError};
use serde::{Deserialize, Serialize};
use wire::{ResponseCode, to_json};

use crate::call::Call;
use crate::duties;
use crate::errors::Error;
use crate::handlers::step::success;
use crate::hosted::Hosted;
use crate::requests::Answer;
use crate::state::command::FEATURE_LEVEL;

/// The status of a group on the node asked, as JSON of [`GroupReport`]. No header.
pub const GROUP_STATUS: i32 = 30_001;
/// Hands leadership to the node in the field `node`.
pub const TRANSFER_LEADER: i32 = 30_002;
/// Raises the group's feature level to the leader's, without the word of the nodes in the field `without` (numbers, with commas
/// between them), which are gone for good. The answer's field `level` is the level that the group has then.
pub const RAISE_LEVEL: i32 = 30_004;

/// A group as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    pub group: String,
    pub node: u64,
    pub term: u64,
    /// 0: nobody known.
    pub leader: u64,
    /// leader, follower, candidate, learner, stopped or starting.
    pub state: String,
    pub voters: Vec<u64>,
    pub preferred_leader: Option<u64>,
    pub durability: String,
    pub last_index: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    pub synced_index: u64,
    /// End of what is fsynced on this node, a byte position.
    pub synced_position: u64,
    /// Random name of the data directory; empty while the group starts.
    pub incarnation: String,
    /// The vote that is fsynced here, of `term` or an older one.
    pub vote: Option<VoteReport>,
    /// The last entry that is purged.
    pub purged_index: Option<u64>,
    /// The entry of the current snapshot: that to which the log is purged, or about to be. One that the leader sent may be
    /// ahead of `last_index` until the log starts at it.
    pub snapshot_index: Option<u64>,
    /// The entry of the newest tables that are saved here, the current snapshot among them.
    pub checkpoint_index: Option<u64>,
    /// End of the log, a byte position.
    pub log_end: u64,
    /// Bytes proposed and not yet applied.
    pub pending_bytes: u64,
    /// For how long a flush has been under way, the oldest of all groups on this disk.
    pub flushing_ms: Option<u64>,
    /// Only at the leader.
    pub followers: Vec<FollowerReport>,
    /// Why the group has stopped here.
    pub stopped: Option<String>,
}

/// What a node has promised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteReport {
    pub term: u64,
    /// The node that it is for.
    pub node: u64,
    /// That node has been elected in the term. A vote for another node may still become this one's then.
    pub committed: bool,
}

/// A follower as the leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerReport {
    pub node: u64,
    pub matched_index: Option<u64>,
    /// Entries that it lacks.
    pub lag: u64,
}

pub(crate) fn report(hosted: &Hosted) -> GroupReport {
    let Some(serving) = hosted.serving() else {
        return GroupReport {
            group: hosted.name().to_owned(),
            node: hosted.node.id.0,
            state: "starting".into(),
            voters: hosted.config.voters.clone(),
            preferred_leader: hosted.config.preferred_leader,
            ..GroupReport::default()
        };
    };
    let GroupStatus {
        group,
        node,
        term,
        leader,
        state,
        last,
        committed,
        applied,
        synced,
        synced_end,
        purged,
        snapshot,
        checkpoint,
        end,
        vote,
        incarnation,
        voters,
        followers,
        pending_bytes,
        flushing,
        durability,
        stopped,
    } = serving.group.status();
    let index = |id: Option<store::LogId>| id.map_or(0, |id| id.index.0);
    GroupReport {
        group,
        node: node.0,
        term,
        leader: leader.map_or(0, |leader| leader.0),
        state: state.to_owned(),
        voters: voters.iter().map(|voter| voter.0).collect(),
        preferred_leader: hosted.config.preferred_leader,
        durability: durability.to_owned(),
        last_index: index(last),
        committed_index: index(committed),
        applied_index: index(applied),
        synced_index: index(synced),
        synced_position: synced_end.0,
        incarnation,
        vote: vote.map(|vote| VoteReport { term: vote.term.0, node: vote.node, committed: vote.committed }),
        purged_index: purged.map(|id| id.index.0),
        snapshot_index: snapshot.map(|id| id.index.0),
        checkpoint_index: checkpoint.map(|id| id.index.0),
        log_end: end.0,
        pending_bytes: pending_bytes as u64,
        flushing_ms: flushing.map(|time| time.as_millis() as u64),
        followers: followers
            .iter()
            .map(|follower| FollowerReport {
                node: follower.node.0,
                matched_index: follower.matched,
                lag: follower.lag,
            })
            .collect(),
        stopped,
    }
}

pub(crate) fn status(hosted: &Arc<Hosted>, call: Call) {
    let response = success(&call.request).with_body(to_json(&report(hosted)));
    call.answer(response);
}

pub(crate) fn transfer<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let node =
            call.request.ext.get("node").and_then(|node| node.parse().ok()).ok_or_else(|| {
                Error::refused(ResponseCode::INVALID_PARAMETER, "the field node names no node")
            })?;
        match hosted.hand_over(hosted.served_here()?, NodeId(node)).await {
            Ok(()) => Ok(success(&call.request)),
            Err(TransferError::NotLeader) => Err(Error::NotLeader { leader: None }),
            Err(error) => Err(Error::refused(ResponseCode::SYSTEM_ERROR, error.to_string())),
        }
    }
    .boxed()
}

pub(crate) fn raise_level<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let without = call.request.ext.get("without").unwrap_or_default();
        let nodes: Option<Vec<NodeId>> =
            without.split(',').map(|node| node.trim().parse().ok().map(NodeId)).collect();
        let nodes = nodes.ok_or_else(|| {
            Error::refused(ResponseCode::INVALID_PARAMETER, format!("\"{without}\" is no list of nodes"))
        })?;
        if hosted.state.level() < FEATURE_LEVEL {
            let excused = hosted.served_here()?.group.excuse_from_level(FEATURE_LEVEL, &nodes);
            excused.map_err(|error| match error {
                ExcuseError::NotLeader => Error::NotLeader { leader: None },
                error => Error::refused(ResponseCode::INVALID_PARAMETER, error.to_string()),
            })?;
            // The duty may do the same at this moment, which harms nobody.
            duties::propose_level(hosted).await?;
        }
        let level = hosted.state.level().to_string();
        Ok(success(&call.request).with_ext("level", &level))
    }
    .boxed()
}
