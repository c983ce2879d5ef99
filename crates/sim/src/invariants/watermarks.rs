//! The order of a log's watermarks (design.md invariant 6), as far as it shows outside: `purged ≤ synced ≤ last`, and what is
//! applied never goes back while a process runs. `Log::check` is asked as well, on the disk's thread (cluster.rs).

use std::collections::BTreeMap;

use super::{Invariant, Verdict};
use crate::oracle::{History, Sight};

#[derive(Default)]
pub(super) struct Watermarks {
    /// By node, process and group.
    applied: BTreeMap<(u64, u64, usize), u64>,
}

impl Invariant for Watermarks {
    fn name(&self) -> &'static str {
        "watermarks"
    }

    fn seen(&mut self, _history: &History, sight: &Sight) -> Verdict {
        for (node, process, seen) in &sight.groups {
            let log = &seen.log;
            if log.synced_end > log.end || log.synced.map(|id| id.index) > log.last.map(|id| id.index) {
                return Err(format!("node {node}, group {}: synced beyond the last: {log:?}", seen.group));
            }
            if seen.applied_end > log.end.0 {
                return Err(format!(
                    "node {node}: applied to {}, the log ends at {}",
                    seen.applied_end, log.end
                ));
            }
            let applied = self.applied.entry((*node, *process, seen.group)).or_default();
            if seen.applied_end < *applied {
                return Err(format!("node {node}: applied goes back from {applied} to {}", seen.applied_end));
            }
            *applied = seen.applied_end;
        }
        Ok(())
    }
}
