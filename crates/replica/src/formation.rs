//! A group is formed once, by an explicit list of voters and a cluster id (log.md 19). A node with an empty directory
//! asks every other voter first: it takes part only when none of them knows it under another incarnation, because
//! a node whose vote is gone must never vote again under the same id.

use std::collections::BTreeMap;
use std::time::Duration;

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
}

/// Returns at once where the group is formed already; otherwise waits until every other voter has answered.
/// True: it was formed now, and its first entry is to be written.
pub(crate) async fn form(slot: &GroupSlot, peers: &Peers) -> Result<bool, FormationError> {
    if slot.formed().is_some() {
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
