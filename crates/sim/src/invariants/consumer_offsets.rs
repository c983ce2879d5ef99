//! No acknowledged progress is lost (design.md invariant 4): a consumer's offset is what was acknowledged last, or what was
//! committed since without a known outcome. Each is committed and asked for by one client, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Verdict};
use crate::oracle::{Answer, Consumed, History, Replica};

#[derive(Default)]
struct Register {
    acknowledged: Option<u64>,
    /// Commits whose outcome is not known: any of them may come to be at any time.
    unknown: BTreeSet<u64>,
}

#[derive(Default)]
pub(super) struct ConsumerOffsets {
    registers: BTreeMap<Consumed, Register>,
}

impl ConsumerOffsets {
    fn check(&self, consumed: &Consumed, found: Option<u64>) -> Verdict {
        let nothing = Register::default();
        let register = self.registers.get(consumed).unwrap_or(&nothing);
        if found == register.acknowledged || found.is_some_and(|found| register.unknown.contains(&found)) {
            return Ok(());
        }
        Err(format!(
            "{consumed:?} is {found:?}; acknowledged was {:?}, unknown are {:?}",
            register.acknowledged, register.unknown
        ))
    }
}

impl Invariant for ConsumerOffsets {
    fn name(&self) -> &'static str {
        "consumer_offsets"
    }

    fn answered(&mut self, _history: &History, answer: &Answer) -> Verdict {
        match answer {
            Answer::Committed { consumed, offset, is_known } => {
                let register = self.registers.entry(consumed.clone()).or_default();
                if *is_known {
                    register.acknowledged = Some(*offset);
                } else {
                    register.unknown.insert(*offset);
                }
                Ok(())
            }
            Answer::Offset { consumed, offset } => self.check(consumed, *offset),
            _ => Ok(()),
        }
    }

    fn ended(&mut self, _history: &History, replicas: &[Replica]) -> Verdict {
        for consumed in self.registers.keys() {
            for replica in replicas.iter().filter(|replica| replica.group == consumed.0) {
                self.check(consumed, replica.offsets.get(consumed).copied())
                    .map_err(|what| format!("node {}: {what}", replica.node))?;
            }
        }
        Ok(())
    }
}
