//! One client has the lock of a queue: another one gets it when it was given back, or the lease is over by log time
//! (state/locks.rs). Worked out from the log alone, apart from the tables.

use std::collections::{BTreeMap, BTreeSet};

use broker::state::command::Kind;

use super::{Invariant, Verdict};
use crate::oracle::{Entry, History, Queue};

#[derive(Default)]
pub(super) struct LockedAlone {
    /// Who has each queue, and until when.
    leases: BTreeMap<Queue, (String, u64)>,
}

impl Invariant for LockedAlone {
    fn name(&self) -> &'static str {
        "locked_alone"
    }

    fn applied(&mut self, history: &History, entry: &Entry<'_>) -> Verdict {
        let Some(Kind::Lock(lock)) = entry.command.filter(|_| entry.is_first) else { return Ok(()) };
        let now_ms = entry.frame.log_time_ms();
        self.leases.retain(|queue, (_, until_ms)| queue.0 != entry.group || now_ms < *until_ms);
        let mut granted = BTreeSet::new();
        for (place, (topic, queue)) in lock.topics.iter().zip(&lock.queues).enumerate() {
            let queue = history.queue(entry.group, *topic, *queue);
            let holder = self.leases.get(&queue).map(|(client, _)| client.as_str());
            if lock.unlock {
                if holder == Some(&lock.client) {
                    self.leases.remove(&queue);
                    granted.insert(place);
                }
            } else if holder.is_none_or(|holder| holder == lock.client) {
                self.leases.insert(queue, (lock.client.clone(), now_ms + lock.lease_ms));
                granted.insert(place);
            }
        }
        if granted != entry.granted() {
            return Err(format!(
                "entry {}: {lock:?} at {now_ms} was granted {:?}, not {granted:?}",
                entry.frame.id(),
                entry.reply.granted
            ));
        }
        Ok(())
    }
}
