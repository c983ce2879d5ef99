//! All nodes apply the same entries, one after the other, each with the same outcome: state machine safety (design.md
//! invariants 3 and 5).

use std::collections::BTreeMap;

use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64;

use super::{Invariant, Verdict};
use crate::oracle::{Entry, History};

/// Term, position, chain value, whether it is void, and what the tables answered. A chain value is a hash of the whole log up to
/// there, if each frame names the one before it.
type Mark = (u64, u64, u64, bool, u64);

#[derive(Default)]
pub(super) struct SameEntries {
    /// By group and index.
    entries: BTreeMap<(usize, u64), Mark>,
    /// The last one of each node and group.
    last: BTreeMap<(u64, usize), Option<u64>>,
}

impl Invariant for SameEntries {
    fn name(&self) -> &'static str {
        "same_entries"
    }

    fn restored(&mut self, node: u64, group: usize, index: Option<u64>) {
        self.last.insert((node, group), index);
    }

    fn applied(&mut self, _history: &History, entry: &Entry<'_>) -> Verdict {
        let (node, group, frame) = (entry.node, entry.group, entry.frame);
        let id = frame.id();
        let last = self.last.entry((node, group)).or_default();
        let next = last.map_or(0, |last| last + 1);
        if id.index.0 != next {
            return Err(format!("group {group}: node {node} applies {id} where {next} is next"));
        }
        *last = Some(next);
        let before = next.checked_sub(1).and_then(|before| self.entries.get(&(group, before)));
        if before.is_some_and(|(_, _, chain, ..)| *chain != frame.prev()) {
            return Err(format!("group {group}: node {node} applies {id}, which does not follow {before:?}"));
        }
        let answer = xxh3_64(&entry.reply.encode_to_vec());
        let mark = (id.term.0, frame.position().0, frame.chain(), entry.is_void, answer);
        let first = *self.entries.entry((group, next)).or_insert(mark);
        if first != mark {
            return Err(format!(
                "group {group}: node {node} applies {mark:?} as entry {next}, another node {first:?}"
            ));
        }
        Ok(())
    }
}
