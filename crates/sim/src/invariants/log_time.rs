//! Log time never falls, and one wrong clock does not carry it into the future (log.md 15): it is at most what the nodes whose
//! clocks are right say, a minute on which they need not agree, and the second by which it may lead.

use std::collections::BTreeMap;

use super::{Invariant, Verdict};
use crate::oracle::{Entry, History, Sight};

const APART_MS: u64 = 60_000;
const LEAD_MS: u64 = 1_000;
/// Between the moment of a sight and that of the entries.
const SLACK_MS: u64 = 1_000;

#[derive(Default)]
pub(super) struct LogTime {
    last: BTreeMap<usize, u64>,
}

impl Invariant for LogTime {
    fn name(&self) -> &'static str {
        "log_time"
    }

    fn applied(&mut self, _history: &History, entry: &Entry<'_>) -> Verdict {
        if !entry.is_first {
            return Ok(());
        }
        let time = entry.frame.log_time_ms();
        let last = self.last.entry(entry.group).or_default();
        if time < *last {
            return Err(format!("log time falls from {last} to {time} at {}", entry.frame.id()));
        }
        *last = time;
        Ok(())
    }

    fn seen(&mut self, _history: &History, sight: &Sight) -> Verdict {
        let most = sight.wall_ms + APART_MS + LEAD_MS + SLACK_MS;
        match self.last.iter().find(|(_, last)| **last > most) {
            Some((group, last)) => Err(format!(
                "log time of group {group} is {last}; clocks that are right say {}",
                sight.wall_ms
            )),
            None => Ok(()),
        }
    }
}
