//! Nothing uncommitted is delivered (design.md invariant 2; L10): what a node gives out is what the log has there, without a
//! gap (L9).

use super::{Invariant, Verdict};
use crate::oracle::{Answer, History, Message};

pub(super) struct PulledIsStored;

impl Invariant for PulledIsStored {
    fn name(&self) -> &'static str {
        "pulled_is_stored"
    }

    fn answered(&mut self, history: &History, answer: &Answer) -> Verdict {
        let Answer::Pulled { node, queue, from, messages } = answer else { return Ok(()) };
        for (n, read) in messages.iter().enumerate() {
            if read.offset != from + n as u64 {
                return Err(format!("node {node} gave {} of {queue:?} after {from} + {n}", read.offset));
            }
            let stored = history.stored.get(queue).and_then(|queue| queue.get(read.offset as usize));
            let is_it = |stored: &Message| {
                stored.value.as_ref() == Some(&read.value) && stored.position == read.position
            };
            if !stored.is_some_and(is_it) {
                return Err(format!("node {node} gave {read:?} of {queue:?}, where {stored:?} is stored"));
            }
        }
        Ok(())
    }
}
