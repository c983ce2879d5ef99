//! At most one node leads in a term; a node's term does not fall while it runs.

use std::collections::BTreeMap;

use super::{Invariant, Verdict};
use crate::oracle::{History, Sight};

#[derive(Default)]
pub(super) struct OneLeader {
    /// By group and term.
    leaders: BTreeMap<(usize, u64), u64>,
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
                let leader = *self.leaders.entry((seen.group, seen.term)).or_insert(*node);
                if leader != *node {
                    let (group, term) = (seen.group, seen.term);
                    return Err(format!("group {group}: nodes {leader} and {node} lead in term {term}"));
                }
            }
        }
        Ok(())
    }
}
