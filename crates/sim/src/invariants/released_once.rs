//! A message that waits is delivered once or dropped, and never both delivered and pending (decisions/0010, 0011): a release
//! and its copies take effect together or not at all, when all that it names is pending. What is judged here is worked out
//! from the log alone, apart from the tables.

use std::collections::{BTreeMap, BTreeSet};

use broker::state::command::{Kind, Release};

use super::{Invariant, Verdict, copies_match};
use crate::oracle::{Answer, Entry, History, Queue, Replica};

#[derive(Default)]
pub(super) struct ReleasedOnce {
    done: BTreeMap<Queue, BTreeSet<u64>>,
}

impl ReleasedOnce {
    fn is_pending(&self, history: &History, queue: &Queue, offset: u64) -> bool {
        let stored = history.stored.get(queue).map_or(0, Vec::len) as u64;
        offset < stored && !self.done.get(queue).is_some_and(|done| done.contains(&offset))
    }

    fn mark(&mut self, queue: &Queue, offset: u64) {
        self.done.entry(queue.clone()).or_default().insert(offset);
    }
}

/// Queue and offset of all that a release names, in its order.
fn named(history: &History, group: usize, release: &Release) -> Vec<(Queue, u64)> {
    let of_source = |source: &broker::state::command::Source| {
        let queue = history.queue(group, source.topic, source.queue);
        source.offsets.iter().map(|offset| (queue.clone(), *offset)).collect::<Vec<_>>()
    };
    release.sources.iter().flat_map(of_source).collect()
}

impl Invariant for ReleasedOnce {
    fn name(&self) -> &'static str {
        "released_once"
    }

    fn applied(&mut self, history: &History, entry: &Entry<'_>) -> Verdict {
        let Some(Kind::Release(release)) = entry.command.filter(|_| entry.is_first) else { return Ok(()) };
        let id = entry.frame.id();
        let named = named(history, entry.group, release);
        if !entry.is_coupled() {
            let mut granted = BTreeSet::new();
            for (place, (queue, offset)) in named.iter().enumerate() {
                if self.is_pending(history, queue, *offset) {
                    self.mark(queue, *offset);
                    granted.insert(place);
                }
            }
            if entry.granted() != granted {
                return Err(format!(
                    "entry {id} drops {named:?}: {granted:?} of it were pending, granted was {:?}",
                    entry.reply.granted
                ));
            }
            return Ok(());
        }
        let each_once = named.iter().collect::<BTreeSet<_>>().len() == named.len();
        let fits = each_once && named.iter().all(|(queue, offset)| self.is_pending(history, queue, *offset));
        let follows = entry.follows(history);
        if entry.is_void == (fits && follows) {
            let void = if entry.is_void { "void" } else { "not void" };
            return Err(format!(
                "entry {id} is {void}; all of {named:?} is pending: {fits}; its messages follow: {follows}"
            ));
        }
        if entry.is_void {
            return Ok(());
        }
        copies_match(history, entry, &named)?;
        for (queue, offset) in &named {
            self.mark(queue, *offset);
        }
        Ok(())
    }

    fn answered(&mut self, _history: &History, answer: &Answer) -> Verdict {
        match answer {
            Answer::Done { queue, offsets } => {
                let done = self.done.get(queue);
                let is_not = |offset: &&u64| !done.is_some_and(|done| done.contains(*offset));
                match offsets.iter().find(is_not) {
                    Some(offset) => Err(format!("{queue:?} {offset} is done, they say, and is pending")),
                    None => Ok(()),
                }
            }
            Answer::Pending { queue, done, pending } => {
                match pending.iter().find(|offset| done.contains(offset)) {
                    Some(offset) => {
                        Err(format!("{queue:?} {offset} is pending, they say, and was done before"))
                    }
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn ended(&mut self, history: &History, replicas: &[Replica]) -> Verdict {
        for replica in replicas {
            for (queue, pending) in &replica.pending {
                let stored = history.stored.get(queue).map_or(0, Vec::len) as u64;
                let expected: Vec<u64> =
                    (0..stored).filter(|offset| self.is_pending(history, queue, *offset)).collect();
                if *pending != expected {
                    let node = replica.node;
                    return Err(format!("{queue:?}: node {node} has {pending:?} pending, not {expected:?}"));
                }
            }
        }
        Ok(())
    }
}
