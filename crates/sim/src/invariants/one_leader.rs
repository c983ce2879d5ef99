//! At most one node leads in a term, and only one process of it: who restarts is elected anew (log.md 1). A node's term does not
//! fall while it runs.

use std::collections::BTreeMap;

use super::{Invariant, Verdict};
use crate::oracle::{History, Sight};

#[derive(Default)]
pub(super) struct OneLeader {
    /// Node and process, by group and term.
    leaders: BTreeMap<(usize, u64), (u64, u64)>,
    /// By node, process and group.
    terms: BTreeMap<(u64, u64, usize), u64>,
}

impl Invariant for OneLeader {
    fn name(&self) -> &'static str {
        "one_leader"
    }

    fn seen(&mut self, _history: &History, sight: &Sight) -> Verdict {
        for (node, process, seen) in &sight.groups {
            let term = self.terms.entry((*node, *process, seen.group)).or_default();
            if seen.term < *term {
                return Err(format!(
                    "group {}: node {node} goes from term {term} to {}",
                    seen.group, seen.term
                ));
            }
            *term = seen.term;
            if seen.leads {
                let now = (*node, *process);
                let leader = *self.leaders.entry((seen.group, seen.term)).or_insert(now);
                if leader != now {
                    let (group, term) = (seen.group, seen.term);
                    return Err(format!(
                        "group {group}: node {node} leads in term {term} in process {process}, as node {} did in {}",
                        leader.0, leader.1
                    ));
                }
            }
        }
        Ok(())
    }
}
