//! The order of a log's watermarks (design.md invariant 6), as far as it shows outside: `purged ≤ snapshot`, `purged ≤ last`, `synced ≤
//! last`, purged never goes back, and what is
//! applied never goes back while a process runs. `Log::check` is asked as well, on the disk's thread (cluster.rs).

use std::collections::BTreeMap;

use store::LogIndex;

use super::{Invariant, Verdict};
use crate::oracle::{History, Sight};

#[derive(Default)]
pub(super) struct Watermarks {
    /// By node, process and group.
    applied: BTreeMap<(u64, u64, usize), u64>,
    /// By node and group, for good.
    purged: BTreeMap<(u64, usize), Option<LogIndex>>,
}

impl Invariant for Watermarks {
    fn name(&self) -> &'static str {
        "watermarks"
    }

    fn seen(&mut self, _history: &History, sight: &Sight) -> Verdict {
        for (node, process, seen) in &sight.groups {
            let log = &seen.log;
            let purged = log.purged.map(|id| id.index);
            if purged > log.snapshot.map(|id| id.index) || purged > log.last.map(|id| id.index) {
                return Err(format!(
                    "node {node}, group {}: purged beyond its snapshot: {log:?}",
                    seen.group
                ));
            }
            let before = self.purged.entry((*node, seen.group)).or_default();
            if purged < *before {
                return Err(format!("node {node}: purged goes back from {before:?} to {purged:?}"));
            }
            *before = purged;
            if log.synced_end > log.end || log.synced.map(|id| id.index) > log.last.map(|id| id.index) {
                return Err(format!("node {node}, group {}: synced beyond the last: {log:?}", seen.group));
            }
            // Tables that a leader sent are ahead of the log until that starts behind them.
            let is_installed = log.snapshot.map(|id| id.index) > log.last.map(|id| id.index);
            if seen.applied_end > log.end.0 && !is_installed {
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
