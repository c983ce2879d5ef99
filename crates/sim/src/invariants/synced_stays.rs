//! What a node had fsynced it still has when it starts again, whatever ended it (design.md invariant 6): others count on it.

use std::collections::BTreeMap;

use super::{Invariant, Verdict};
use crate::oracle::{History, Standing};

#[derive(Default)]
pub(super) struct SyncedStays {
    /// The process that was looked at last, by node and group.
    processes: BTreeMap<(u64, usize), u64>,
}

impl Invariant for SyncedStays {
    fn name(&self) -> &'static str {
        "synced_stays"
    }

    fn stands(&mut self, history: &History, at: &Standing) -> Verdict {
        let before = self.processes.insert((at.node, at.group), at.process);
        let is_found = before != Some(at.process);
        let synced = history.synced_end.get(&(at.node, at.group)).copied().unwrap_or_default();
        if is_found && at.log.end.0 < synced {
            let Standing { node, group, log, .. } = at;
            return Err(format!(
                "group {group}: node {node} finds its log to {}, synced was {synced}",
                log.end
            ));
        }
        Ok(())
    }
}
