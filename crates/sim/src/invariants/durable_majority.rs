//! What is acknowledged is fsynced on a majority of nodes (design.md invariant 1), those that are down counted by what they
//! had.

use super::{Invariant, Verdict};
use crate::oracle::{Answer, History};
use crate::plan::NODES;

pub(super) struct DurableMajority;

impl Invariant for DurableMajority {
    fn name(&self) -> &'static str {
        "durable_majority"
    }

    fn answered(&mut self, history: &History, answer: &Answer) -> Verdict {
        let Answer::Acknowledged { queue, values, offset, .. } = answer else { return Ok(()) };
        let last = *offset as usize + values.len() - 1;
        let Some(message) = history.stored.get(queue).and_then(|queue| queue.get(last)) else {
            // acknowledged_stays says so.
            return Ok(());
        };
        let end = message.position + message.size;
        let has = |node: &u64| history.synced_end.get(&(*node, queue.0)).is_some_and(|synced| *synced >= end);
        let durable = (1..=NODES).filter(has).count() as u64;
        if durable <= NODES / 2 {
            return Err(format!(
                "{values:?} is acknowledged and durable on {durable} nodes: {:?}",
                history.synced_end
            ));
        }
        Ok(())
    }
}
