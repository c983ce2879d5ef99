//! Queue offsets are dense and rise with the log (L2); positions do too.

use super::{Invariant, Verdict};
use crate::oracle::{Entry, History, Replica};

pub(super) struct DenseQueues;

impl Invariant for DenseQueues {
    fn name(&self) -> &'static str {
        "dense_queues"
    }

    fn applied(&mut self, history: &History, entry: &Entry<'_>) -> Verdict {
        if !entry.is_first || entry.is_void {
            return Ok(());
        }
        for (n, message) in entry.messages.iter().enumerate() {
            let before = entry.messages[..n].iter().filter(|other| other.queue == message.queue).count();
            let queue = history.stored.get(&message.queue);
            let next = (queue.map_or(0, Vec::len) + before) as u64;
            if message.offset != next {
                return Err(format!("{:?} goes on with {} after {next}", message.queue, message.offset));
            }
            let last = queue.and_then(|queue| queue.last()).map_or(0, |last| last.position);
            if message.position <= last {
                return Err(format!("{:?}: position {} after {last}", message.queue, message.position));
            }
        }
        Ok(())
    }

    fn ended(&mut self, history: &History, replicas: &[Replica]) -> Verdict {
        for replica in replicas {
            for (queue, stored) in history.stored.iter().filter(|(queue, _)| queue.0 == replica.group) {
                let has = replica.queues.get(queue).map_or(0, Vec::len);
                if has != stored.len() {
                    let node = replica.node;
                    return Err(format!("node {node} has {has} of {} messages of {queue:?}", stored.len()));
                }
            }
        }
        Ok(())
    }
}
