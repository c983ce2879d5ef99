//! A node to which nobody's words get through does not vote for itself in a new term (pre-vote): back among the others it would
//! depose a leader that all of them follow.

use std::collections::BTreeMap;

use super::{Invariant, Verdict};
use crate::clock;
use crate::oracle::{History, Sight};

/// What a node heard before may still be under way in it.
const LAST_WORDS_MS: u64 = 1500;

#[derive(Default)]
pub(super) struct AloneKeepsTerm {
    /// Since when, by node.
    since: BTreeMap<u64, u64>,
    /// The term of the last vote, by node, process and group. What a process finds at its start it did not give: it may be of
    /// when the node was not alone, written to a disk that hung, and was kept by chance when the power went.
    votes: BTreeMap<(u64, u64, usize), u64>,
}

impl Invariant for AloneKeepsTerm {
    fn name(&self) -> &'static str {
        "alone_keeps_term"
    }

    fn seen(&mut self, _history: &History, sight: &Sight) -> Verdict {
        let now = clock::now_ms();
        self.since.retain(|node, _| sight.alone.contains(node));
        for node in &sight.alone {
            self.since.entry(*node).or_insert(now);
        }
        for (node, process, seen) in &sight.groups {
            let Some(vote) = seen.vote else { continue };
            let before = self.votes.insert((*node, *process, seen.group), vote.term.0);
            let is_new = before.is_some_and(|before| vote.term.0 > before) && vote.node == *node;
            let alone_ms = self.since.get(node).map_or(0, |since| now - since);
            if is_new && alone_ms > LAST_WORDS_MS {
                let group = seen.group;
                return Err(format!(
                    "group {group}: node {node} votes for itself in term {}, alone for {alone_ms} ms",
                    vote.term
                ));
            }
        }
        Ok(())
    }
}
