//! Only what was sent is stored (L6), to its queue, once (L7), and never what was refused (L5).

use std::collections::BTreeMap;

use super::{Invariant, Verdict};
use crate::oracle::{Answer, Entry, Fate, History};

#[derive(Default)]
pub(super) struct NothingUnsent {
    /// Where each value was found first.
    found: BTreeMap<String, (usize, u64)>,
}

impl Invariant for NothingUnsent {
    fn name(&self) -> &'static str {
        "nothing_unsent"
    }

    fn applied(&mut self, history: &History, entry: &Entry<'_>) -> Verdict {
        if !entry.is_first || entry.is_void {
            return Ok(());
        }
        let here = (entry.group, entry.frame.id().index.0);
        for message in entry.messages {
            let Some(value) = &message.value else {
                return Err(format!("entry {here:?} has a message whose body is none of ours"));
            };
            match history.sent.get(value) {
                None => return Err(format!("{value} in entry {here:?} was never sent")),
                Some(sent) if sent.queue != message.queue => {
                    return Err(format!(
                        "{value} was sent to {:?} and is in {:?}",
                        sent.queue, message.queue
                    ));
                }
                Some(sent) if sent.fate == Fate::Refused => {
                    return Err(format!("{value} was refused, and is in entry {here:?}"));
                }
                Some(_) => {}
            }
            if let Some(before) = self.found.insert(value.clone(), here) {
                return Err(format!("{value} is in entry {here:?} and in {before:?}"));
            }
        }
        Ok(())
    }

    fn answered(&mut self, _history: &History, answer: &Answer) -> Verdict {
        let Answer::Refused { values } = answer else { return Ok(()) };
        match values.iter().find_map(|value| Some((value, self.found.get(value)?))) {
            Some((value, at)) => Err(format!("{value} is refused, and was in entry {at:?} before")),
            None => Ok(()),
        }
    }
}
