//! Attempts to learn what is to become of a message that waits are counted, each once, and as long as it waits
//! (state/attempts.rs). Worked out from the log alone, apart from the tables; which messages are done is said by
//! released_once.rs.

use std::collections::{BTreeMap, BTreeSet};

use broker::state::command::{Attempt, Kind};

use super::{Invariant, Verdict};
use crate::oracle::{Answer, Entry, History, Queue, Replica};

#[derive(Default)]
pub(super) struct AttemptsCounted {
    /// How many, and the log time of the last, of messages that wait.
    tried: BTreeMap<Queue, BTreeMap<u64, (u32, u64)>>,
    done: BTreeMap<Queue, BTreeSet<u64>>,
}

impl AttemptsCounted {
    fn attempt(&mut self, history: &History, entry: &Entry<'_>, attempt: &Attempt) -> BTreeSet<usize> {
        let source = &attempt.source;
        let queue = history.queue(entry.group, source.topic, source.queue);
        let end = history.stored.get(&queue).map_or(0, Vec::len) as u64;
        let mut granted = BTreeSet::new();
        for (place, offset) in source.offsets.iter().enumerate() {
            if *offset < end && !self.done.get(&queue).is_some_and(|done| done.contains(offset)) {
                let tried = self.tried.entry(queue.clone()).or_default().entry(*offset).or_default();
                *tried = (tried.0 + 1, entry.frame.log_time_ms());
                granted.insert(place);
            }
        }
        granted
    }
}

impl Invariant for AttemptsCounted {
    fn name(&self) -> &'static str {
        "attempts_counted"
    }

    fn applied(&mut self, history: &History, entry: &Entry<'_>) -> Verdict {
        match entry.command.filter(|_| entry.is_first && !entry.is_void) {
            Some(Kind::Attempt(attempt)) => {
                let granted = self.attempt(history, entry, attempt);
                if granted != entry.granted() {
                    return Err(format!(
                        "entry {}: {attempt:?} was granted {:?}, not {granted:?}",
                        entry.frame.id(),
                        entry.reply.granted
                    ));
                }
            }
            Some(Kind::Release(release)) => {
                for source in &release.sources {
                    let queue = history.queue(entry.group, source.topic, source.queue);
                    for offset in &source.offsets {
                        self.tried.entry(queue.clone()).or_default().remove(offset);
                        self.done.entry(queue.clone()).or_default().insert(*offset);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn answered(&mut self, _history: &History, answer: &Answer) -> Verdict {
        let Answer::Tried { queue, offsets } = answer else { return Ok(()) };
        let is_known = |offset: &&u64| {
            let tried = self.tried.get(queue).is_some_and(|tried| tried.contains_key(*offset));
            tried || self.done.get(queue).is_some_and(|done| done.contains(*offset))
        };
        match offsets.iter().find(|offset| !is_known(offset)) {
            Some(offset) => Err(format!("an attempt with {queue:?} {offset} counts, they say, and does not")),
            None => Ok(()),
        }
    }

    fn ended(&mut self, _history: &History, replicas: &[Replica]) -> Verdict {
        let nothing = BTreeMap::new();
        for replica in replicas {
            for (queue, tried) in &replica.attempts {
                let expected = self.tried.get(queue).unwrap_or(&nothing);
                if tried != expected {
                    let node = replica.node;
                    return Err(format!(
                        "{queue:?}: node {node} has the attempts {tried:?}, not {expected:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}
