//! An acknowledged message is at the offset and position that were named, on every replica, and stays (design.md invariant 1;
//! L4 of the log checker).

use super::{Invariant, Verdict};
use crate::oracle::{Answer, Fate, History, Replica};

pub(super) struct AcknowledgedStays;

impl Invariant for AcknowledgedStays {
    fn name(&self) -> &'static str {
        "acknowledged_stays"
    }

    fn answered(&mut self, history: &History, answer: &Answer) -> Verdict {
        let Answer::Acknowledged { queue, values, offset, position } = answer else { return Ok(()) };
        for (n, value) in values.iter().enumerate() {
            let at = *offset + n as u64;
            let stored = history.stored.get(queue).and_then(|queue| queue.get(at as usize));
            let Some(stored) = stored.filter(|stored| stored.value.as_deref() == Some(value)) else {
                return Err(format!("{value} was acknowledged at {queue:?} {at}, where {stored:?} is"));
            };
            if n == 0 && stored.position != *position {
                return Err(format!("{value} is at position {}, not {position}", stored.position));
            }
        }
        Ok(())
    }

    fn ended(&mut self, history: &History, replicas: &[Replica]) -> Verdict {
        for (value, sent) in history.sent.iter().filter(|(_, sent)| sent.fate == Fate::Acknowledged) {
            let Some(offset) = sent.offset else { continue };
            for replica in replicas.iter().filter(|replica| replica.group == sent.queue.0) {
                let stored = history.stored.get(&sent.queue).and_then(|queue| queue.get(offset as usize));
                if stored.is_some_and(|message| message.position < replica.from) {
                    continue;
                }
                let found = replica.queues.get(&sent.queue).and_then(|queue| queue.get(offset as usize));
                let found = found.and_then(Option::as_ref);
                if found.is_none_or(|read| read.value != *value) {
                    return Err(format!(
                        "{value} was acknowledged at {:?} {offset}; node {} has {found:?} there",
                        sent.queue, replica.node
                    ));
                }
            }
        }
        Ok(())
    }
}
