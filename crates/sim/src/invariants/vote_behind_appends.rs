//! When a vote is saved, everything that was appended before it is fsynced (log.md 2): openraft takes the one for the other. It
//! appends nothing while it waits for a vote, so what is there at that moment came before.

use std::collections::BTreeMap;

use store::Vote;

use super::{Invariant, Verdict};
use crate::oracle::{History, Standing};

#[derive(Default)]
pub(super) struct VoteBehindAppends {
    /// The last vote and whose it is, by node and group.
    votes: BTreeMap<(u64, usize), (u64, Option<Vote>)>,
}

impl Invariant for VoteBehindAppends {
    fn name(&self) -> &'static str {
        "vote_behind_appends"
    }

    fn stands(&mut self, _history: &History, at: &Standing) -> Verdict {
        let before = self.votes.insert((at.node, at.group), (at.process, at.vote));
        let is_new = before.is_some_and(|(process, vote)| process == at.process && vote != at.vote);
        if is_new && at.log.synced_end < at.log.end {
            let Standing { node, group, log, vote, .. } = at;
            return Err(format!(
                "group {group}: node {node} saves {vote:?}, and its log, which ends at {}, is synced to {}",
                log.end, log.synced_end
            ));
        }
        Ok(())
    }
}
