//! Feature levels (log.md 15): no entry is proposed that a member of the group would not know, for it would take it for damage
//! or stop there. Members say with each answer to their leader up to which level they go; what all of them have said may be
//! proposed. Once an entry of a level is applied every member knows it, and nobody is asked any more. A member that never comes
//! back cannot say anything: an operator may name it, and then its word is not waited for.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;

use crate::group::Raft;
use crate::limits::MEMBER_WORD_VALID;
use crate::server::{GroupSlot, lock};
use crate::{NodeId, ProposeError};

/// The level of a release that says none.
pub(crate) const FIRST: u32 = 1;

/// Why a member's word on a feature level is waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExcuseError {
    #[error("this node does not lead the group")]
    NotLeader,
    #[error("node {0} is not a member of the group")]
    NotAMember(NodeId),
    /// It lives: a new release there is all that is needed.
    #[error(
        "node {node} answers, and its release does not know feature level {level}: give it one that does"
    )]
    Answers { node: NodeId, level: u32 },
    /// Nobody could store such entries.
    #[error("{known} of {voters} voters have said to know feature level {level}, which is no majority")]
    NoMajority { level: u32, known: usize, voters: usize },
}

/// What the others said when they last answered this node.
#[derive(Debug, Default)]
pub(crate) struct Said {
    levels: watch::Sender<BTreeMap<NodeId, u32>>,
    heard: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Said {
    pub(crate) fn note(&self, node: NodeId, level: u32) {
        lock(&self.heard).insert(node, Instant::now());
        self.set(node, level.max(FIRST));
    }

    fn set(&self, node: NodeId, level: u32) {
        // With each answer: almost always what is known.
        if self.levels.borrow().get(&node) != Some(&level) {
            self.levels.send_modify(|said| {
                said.insert(node, level);
            });
        }
    }

    fn answers(&self, node: NodeId) -> bool {
        lock(&self.heard).get(&node).is_some_and(|at| at.elapsed() < MEMBER_WORD_VALID)
    }
}

/// Whether an entry that needs a level may be proposed: some entry of the log has needed it already, or every member, learners
/// too, has said that it knows it.
pub(crate) fn check(slot: &GroupSlot, raft: &Raft, needed: u32) -> Result<(), ProposeError> {
    if needed <= slot.level() {
        return Ok(());
    }
    let nodes = behind(slot, raft, needed);
    if nodes.is_empty() { Ok(()) } else { Err(ProposeError::Level { needed, nodes }) }
}

/// Members that have not said that they know a level.
fn behind(slot: &GroupSlot, raft: &Raft, level: u32) -> Vec<NodeId> {
    let said = slot.said.levels.borrow();
    let metrics = raft.server_metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let knows = |node: NodeId| match node {
        node if node == slot.me => slot.level_max >= level,
        node => said.get(&node).is_some_and(|said| *said >= level),
    };
    membership.nodes().map(|(node, _)| NodeId(*node)).filter(|node| !knows(*node)).collect()
}

/// Waits until every member has said that it knows a level.
pub(crate) async fn known_to_all(slot: &GroupSlot, raft: &Raft, level: u32) {
    let mut said = slot.said.levels.subscribe();
    let mut metrics = raft.server_metrics();
    loop {
        said.mark_unchanged();
        metrics.borrow_and_update();
        if behind(slot, raft, level).is_empty() {
            return;
        }
        tokio::select! {
            changed = said.changed() => if changed.is_err() { std::future::pending().await },
            changed = metrics.changed() => if changed.is_err() { std::future::pending().await },
        }
    }
}

/// Takes it that members which are gone know a level. Should one of them answer after all, what it says counts.
pub(crate) fn excuse(slot: &GroupSlot, raft: &Raft, level: u32, nodes: &[NodeId]) -> Result<(), ExcuseError> {
    let behind = behind(slot, raft, level);
    let known = slot.voters.iter().filter(|voter| !behind.contains(voter)).count();
    for node in nodes {
        if !slot.voters.contains(node) {
            return Err(ExcuseError::NotAMember(*node));
        }
        if behind.contains(node) && (*node == slot.me || slot.said.answers(*node)) {
            return Err(ExcuseError::Answers { node: *node, level });
        }
    }
    if known <= slot.voters.len() / 2 {
        return Err(ExcuseError::NoMajority { level, known, voters: slot.voters.len() });
    }
    for node in nodes.iter().filter(|node| behind.contains(node)) {
        tracing::warn!(group = slot.group, %node, level, "an operator says that this node does not come back as it was");
        slot.said.set(*node, level);
    }
    Ok(())
}

/// As a part of a remark: `node 3 has`, `nodes 2, 3 have`.
pub(crate) fn nodes_have(nodes: &[NodeId]) -> String {
    let list: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    match &list[..] {
        [one] => format!("node {one} has"),
        _ => format!("nodes {} have", list.join(", ")),
    }
}
