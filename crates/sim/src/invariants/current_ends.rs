//! An answer that must be current knows of everything that was acknowledged before it was asked for (log.md 11; L11).

use super::{Invariant, Verdict};
use crate::oracle::{Answer, History};

pub(super) struct CurrentEnds;

impl Invariant for CurrentEnds {
    fn name(&self) -> &'static str {
        "current_ends"
    }

    fn answered(&mut self, _history: &History, answer: &Answer) -> Verdict {
        match answer {
            Answer::End { queue, at_least, end } if end < at_least => Err(format!(
                "{queue:?} ends at {end}, they say; {at_least} was acknowledged before the question"
            )),
            _ => Ok(()),
        }
    }
}
