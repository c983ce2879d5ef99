//! An offset that an administrator has set stays until a consumer has been told of it: what is committed before that counts for
//! nothing, afterwards each commit counts (state/resets.rs). Worked out from the log alone, apart from the tables. Who asks for
//! an offset is told one that it had when it was asked for, or later.

use std::collections::{BTreeMap, BTreeSet};

use broker::state::command::{CommitOffsets, Kind, ResetOffsets, TakeResets};

use super::{Invariant, Verdict};
use crate::oracle::{Answer, Consumed, Entry, History, Replica};
use crate::plan::READERS;

#[derive(Default)]
struct Offset {
    /// What it has come to be, with the index of the entry that made it so.
    values: Vec<(u64, u64)>,
    /// What it was reset to, and nobody was told of.
    reset: Option<u64>,
    /// Everything that it ever was reset to.
    resets: BTreeSet<u64>,
}

impl Offset {
    fn now(&self) -> Option<u64> {
        self.values.last().map(|(_, offset)| *offset)
    }

    fn set(&mut self, index: u64, offset: u64) {
        if self.now() != Some(offset) {
            self.values.push((index, offset));
        }
    }

    /// Whether it was this behind the entry `since` or has come to be it since.
    fn was(&self, since: u64, found: Option<u64>) -> bool {
        let later = self.values.partition_point(|(index, _)| *index <= since);
        let at = later.checked_sub(1).map(|at| self.values[at].1);
        found == at || self.values[later..].iter().any(|(_, offset)| Some(*offset) == found)
    }
}

/// Offsets of [`READERS`].
#[derive(Default)]
pub(super) struct ResetsHold {
    offsets: BTreeMap<Consumed, Offset>,
}

impl ResetsHold {
    fn offset(&mut self, consumed: Consumed) -> &mut Offset {
        self.offsets.entry(consumed).or_default()
    }

    fn commit(&mut self, history: &History, entry: &Entry<'_>, commit: &CommitOffsets) {
        for (at, offset) in commit.offsets.iter().enumerate() {
            let (consumer, topic) = (commit.groups[at], commit.topics[at]);
            let consumed = history.consumed(entry.group, consumer, topic, commit.queues[at]);
            if consumed.1 != READERS {
                continue;
            }
            let known = self.offset(consumed);
            if known.reset.is_none() {
                known.set(entry.frame.id().index.0, *offset);
            }
        }
    }

    fn reset(&mut self, history: &History, entry: &Entry<'_>, reset: &ResetOffsets) -> BTreeSet<usize> {
        for (queue, offset) in reset.queues.iter().zip(&reset.offsets) {
            let consumed = history.consumed(entry.group, reset.group, reset.topic, *queue);
            let known = self.offset(consumed);
            known.set(entry.frame.id().index.0, *offset);
            known.reset = Some(*offset);
            known.resets.insert(*offset);
        }
        (0..reset.queues.len()).collect()
    }

    fn take(&mut self, history: &History, entry: &Entry<'_>, take: &TakeResets) -> BTreeSet<usize> {
        let mut granted = BTreeSet::new();
        for (at, offset) in take.offsets.iter().enumerate() {
            let (consumer, topic) = (take.groups[at], take.topics[at]);
            let known = self.offset(history.consumed(entry.group, consumer, topic, take.queues[at]));
            if known.reset == Some(*offset) {
                known.reset = None;
                granted.insert(at);
            }
        }
        granted
    }
}

impl Invariant for ResetsHold {
    fn name(&self) -> &'static str {
        "resets_hold"
    }

    fn applied(&mut self, history: &History, entry: &Entry<'_>) -> Verdict {
        let Some(command) = entry.command.filter(|_| entry.is_first) else { return Ok(()) };
        let granted = match command {
            Kind::CommitOffsets(commit) => {
                self.commit(history, entry, commit);
                return Ok(());
            }
            Kind::ResetOffsets(reset) => self.reset(history, entry, reset),
            Kind::TakeResets(take) => self.take(history, entry, take),
            _ => return Ok(()),
        };
        if granted != entry.granted() {
            return Err(format!(
                "entry {}: {command:?} was granted {:?}, not {granted:?}",
                entry.frame.id(),
                entry.reply.granted
            ));
        }
        Ok(())
    }

    fn answered(&mut self, _history: &History, answer: &Answer) -> Verdict {
        let nothing = Offset::default();
        match answer {
            Answer::Reset { consumed, offset } => {
                let known = self.offsets.get(consumed).unwrap_or(&nothing);
                if !known.resets.contains(offset) {
                    return Err(format!("{consumed:?} was reset to {offset}, they say, and never was"));
                }
            }
            Answer::Asked { consumed, since, offset } => {
                let known = self.offsets.get(consumed).unwrap_or(&nothing);
                if !known.was(*since, *offset) {
                    let values = &known.values;
                    return Err(format!(
                        "{consumed:?} is {offset:?}, they say; from entry {since} on that is none of {values:?}"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn ended(&mut self, _history: &History, replicas: &[Replica]) -> Verdict {
        for (consumed, known) in &self.offsets {
            for replica in replicas.iter().filter(|replica| replica.group == consumed.0) {
                let offset = replica.offsets.get(consumed).copied();
                let reset = replica.resets.get(consumed).copied();
                if (offset, reset) != (known.now(), known.reset) {
                    return Err(format!(
                        "{consumed:?}: node {} has {offset:?} and the reset {reset:?}, not {:?} and {:?}",
                        replica.node,
                        known.now(),
                        known.reset
                    ));
                }
            }
        }
        Ok(())
    }
}
