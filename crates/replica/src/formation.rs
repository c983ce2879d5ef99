//! A group is formed once, by an explicit list of voters and a cluster id (log.md 19). A node with an empty directory
//! asks every other voter first: it takes part only when none of them knows it under another incarnation, because
//! a node whose vote is gone must never vote again under the same id.
//!
//! From then on the log says who votes, and the list in a node's configuration changes nothing. One that names others is
//! refused, for whoever wrote it believes in majorities that are none. It may be the list of the formation for ever, or
//! follow the members that the log has now. Addresses are no part of it: they may change with any restart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message as _;
use store::{FrameKind, Log, LogIndex};

use crate::blocking::blocking;
use crate::limits::REPLICATION_READ_BYTES;
use crate::server::GroupSlot;
use crate::{NodeId, Peers, proto};

/// Why a group cannot be formed or joined by this node. Final: waiting does not help.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FormationError {
    /// The group exists and knows this node id with another data directory.
    #[error(
        "group {group}: node {node} took part with another data directory, whose votes and log are gone here; \
         start it again with that directory, or replace it under a new node id (node {peer} says so)"
    )]
    Replaced { group: String, node: NodeId, peer: NodeId },
    /// The group exists without this node.
    #[error("group {group} was formed without node {node} (node {peer} says so)")]
    NotAMember { group: String, node: NodeId, peer: NodeId },
    /// A voter refuses: another cluster, other voters, another segment size or format.
    #[error("group {group}: node {peer} refuses: {reason}")]
    Refused { group: String, peer: NodeId, reason: String },
    /// The answer could not be saved.
    #[error("group {group}: cannot save who formed it: {reason}")]
    Save { group: String, reason: String },
    /// The configuration lists other voters than those that formed the group, and than those that it has now.
    #[error(
        "group {group}: group.voters (all of peers, where it is not set) names {listed:?} on node {node}, but {formed:?} \
         formed the group and {now}: a group is formed once, and a changed list does not change who votes; put the list \
         back"
    )]
    Voters { group: String, node: NodeId, listed: BTreeSet<u64>, formed: BTreeSet<u64>, now: String },
    /// Who votes now could not be read.
    #[error("group {group}: cannot read who votes in it: {reason}")]
    Read { group: String, reason: String },
}

/// Returns at once where the group is formed already, by the voters that are listed or that it has now; otherwise waits
/// until every other voter has answered. True: it was formed now, and its first entry is to be written.
pub(crate) async fn form(slot: &GroupSlot, peers: &Peers) -> Result<bool, FormationError> {
    if let Some(formed) = slot.formed() {
        check_list(slot, formed.into_keys().collect()).await?;
        return Ok(false);
    }
    let mut members = BTreeMap::from([(slot.me.0, slot.log.incarnation().to_owned())]);
    let mut said = std::time::Instant::now();
    loop {
        for &peer in slot.voters.iter().filter(|&&v| v != slot.me) {
            if members.contains_key(&peer.0) {
                continue;
            }
            if let Some(incarnation) = ask(slot, peers, peer).await? {
                members.insert(peer.0, incarnation);
            }
        }
        let waiting: Vec<u64> =
            slot.voters.iter().map(|v| v.0).filter(|v| !members.contains_key(v)).collect();
        if waiting.is_empty() {
            break;
        }
        if said.elapsed() >= Duration::from_secs(5) {
            said = std::time::Instant::now();
            tracing::warn!(
                group = slot.group,
                ?waiting,
                "the group is not formed yet: every voter must be up once; waiting for these nodes"
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    slot.log
        .set_formed(members.clone())
        .map_err(|e| FormationError::Save { group: slot.group.clone(), reason: e.to_string() })?;
    tracing::info!(group = slot.group, ?members, "the group is formed");
    slot.set_formed(members);
    Ok(true)
}

async fn check_list(slot: &GroupSlot, formed: BTreeSet<u64>) -> Result<(), FormationError> {
    let listed: BTreeSet<u64> = slot.voters.iter().map(|v| v.0).collect();
    if listed == formed {
        return Ok(());
    }
    let (group, log) = (slot.group.clone(), slot.log.clone());
    let disk = log.disk().clone();
    let read = blocking(&*disk, move || voters_in(&log)).await;
    let now = match read.map_err(|e| e.to_string()) {
        Ok(Ok(now)) => now,
        Ok(Err(reason)) | Err(reason) => return Err(FormationError::Read { group, reason }),
    };
    if now.contains(&listed) {
        tracing::info!(
            group,
            ?listed,
            ?formed,
            "the listed voters are those of now, not those of the formation"
        );
        return Ok(());
    }
    let now = match &now[..] {
        // Nobody but those who formed the group may write its first entry.
        [] => "its first entry is not here yet".to_owned(),
        [voters] => format!("{voters:?} vote in it now"),
        joint => format!("majorities of each of {joint:?} decide in it now"),
    };
    Err(FormationError::Voters { group, node: slot.me, listed, formed, now })
}

/// The voters by the newest membership that is here: one set, or those of a change that is under way; none before the first
/// entry. Not known to be committed, perhaps: what this node remembers of that may be older than the change.
fn voters_in(log: &Log) -> Result<Vec<BTreeSet<u64>>, String> {
    let sets = |membership: proto::MembershipBody| -> Vec<BTreeSet<u64>> {
        membership.configs.into_iter().map(|voters| voters.nodes.into_iter().collect()).collect()
    };
    let mut now = Vec::new();
    let mut next = log.state().first_index;
    if let Some((at, tables)) = log.load_newest_checkpoint().map_err(|e| e.to_string())? {
        let tables = proto::Tables::decode(&tables[..]).map_err(|e| e.to_string())?;
        now = tables.membership.map(sets).unwrap_or_default();
        next = next.max(at.last.index.next());
    }
    loop {
        let frames = log.read(next, LogIndex(u64::MAX), REPLICATION_READ_BYTES).map_err(|e| e.to_string())?;
        let Some(last) = frames.last() else { return Ok(now) };
        next = last.id().index.next();
        for frame in frames.iter().filter(|frame| frame.kind() == FrameKind::Membership) {
            now = sets(proto::MembershipBody::decode(frame.body()).map_err(|e| e.to_string())?);
        }
    }
}

/// The peer's incarnation, or `None` where it does not answer yet.
async fn ask(slot: &GroupSlot, peers: &Peers, peer: NodeId) -> Result<Option<String>, FormationError> {
    let group = slot.group.clone();
    let Some(mut client) = peers.consensus_client(peer) else {
        return Err(FormationError::Refused {
            group,
            peer,
            reason: "no address is configured for it".into(),
        });
    };
    let request = proto::HelloRequest {
        origin: Some(slot.origin(peer)),
        formed: false,
        voters: slot.voters.iter().map(|v| v.0).collect(),
    };
    let answer = tokio::time::timeout(Duration::from_secs(1), client.hello(request)).await;
    let reply = match answer {
        Err(_) => return Ok(None),
        Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
            return Err(FormationError::Refused { group, peer, reason: status.message().to_owned() });
        }
        Ok(Err(_)) => return Ok(None),
        Ok(Ok(reply)) => reply.into_inner(),
    };
    slot.said.note(peer, reply.level);
    if reply.formed {
        match reply.known.get(&slot.me.0) {
            None => return Err(FormationError::NotAMember { group, node: slot.me, peer }),
            Some(known) if *known != slot.log.incarnation() => {
                return Err(FormationError::Replaced { group, node: slot.me, peer });
            }
            Some(_) => {}
        }
    }
    Ok(Some(reply.incarnation))
}
