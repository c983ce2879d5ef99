//! A node votes for one node in a term, for good: no crash makes it forget (log.md 2), nor go back to an older term.

use std::collections::BTreeMap;

use super::{Invariant, Verdict};
use crate::oracle::{History, Standing};

#[derive(Default)]
pub(super) struct OneVote {
    /// The last vote that was durable, by node and group: term, for whom, and whether that one leads.
    votes: BTreeMap<(u64, usize), (u64, u64, bool)>,
}

impl Invariant for OneVote {
    fn name(&self) -> &'static str {
        "one_vote"
    }

    fn stands(&mut self, _history: &History, at: &Standing) -> Verdict {
        let Standing { node, group, vote, .. } = at;
        let Some(vote) = vote else {
            return match self.votes.get(&(*node, *group)) {
                Some(before) => {
                    Err(format!("group {group}: node {node} has voted {before:?}, and forgets it"))
                }
                None => Ok(()),
            };
        };
        let now = (vote.term.0, vote.node, vote.committed);
        if let Some(before) = self.votes.insert((*node, *group), now) {
            // Within a term the vote may only become a leader's, also another node's that was elected in it.
            let is_kept = now.0 == before.0 && now.1 == before.1 && now.2 >= before.2;
            let is_leaders = now.0 == before.0 && now.2 && !before.2;
            if now.0 <= before.0 && !is_kept && !is_leaders {
                return Err(format!("group {group}: node {node} has voted {before:?}, and now {now:?}"));
            }
        }
        Ok(())
    }
}
