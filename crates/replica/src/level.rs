//! Feature levels (log.md 15): no entry is proposed that a member of the group would not know, for it would take it for damage
//! or stop there. Members say with each answer to their leader up to which level they go; what all of them have said may be
//! proposed. Once an entry of a level is applied every member knows it, and nobody is asked any more.

use std::collections::BTreeMap;

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;

use crate::group::Raft;
use crate::server::GroupSlot;
use crate::{NodeId, ProposeError};

/// The level of a release that says none.
pub(crate) const FIRST: u32 = 1;

/// What the others said when they last answered this node.
#[derive(Debug, Default)]
pub(crate) struct Said(watch::Sender<BTreeMap<NodeId, u32>>);

impl Said {
    pub(crate) fn note(&self, node: NodeId, level: u32) {
        let level = level.max(FIRST);
        // With each answer: almost always what is known.
        if self.0.borrow().get(&node) != Some(&level) {
            self.0.send_modify(|said| {
                said.insert(node, level);
            });
        }
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
    let said = slot.said.0.borrow();
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
    let mut said = slot.said.0.subscribe();
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

/// As a part of a remark: `node 3 has`, `nodes 2, 3 have`.
pub(crate) fn nodes_have(nodes: &[NodeId]) -> String {
    let list: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    match &list[..] {
        [one] => format!("node {one} has"),
        _ => format!("nodes {} have", list.join(", ")),
    }
}
