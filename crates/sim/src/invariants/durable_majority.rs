//! What is applied, and so what is acknowledged or given out, is fsynced on a majority of nodes (design.md invariants 1 and 2),
//! those that are down counted by what they had.

use super::{Invariant, Verdict};
use crate::oracle::{Answer, Entry, History};
use crate::plan::NODES;

pub(super) struct DurableMajority;

/// `Err`: the nodes that have it are too few.
fn is_durable(history: &History, group: usize, end: u64) -> Result<(), String> {
    let has = |node: &u64| history.synced_end.get(&(*node, group)).is_some_and(|synced| *synced >= end);
    let durable = (1..=NODES).filter(has).count() as u64;
    if durable > NODES / 2 {
        return Ok(());
    }
    Err(format!("on {durable} nodes; it ends at {end}, and synced are {:?}", history.synced_end))
}

impl Invariant for DurableMajority {
    fn name(&self) -> &'static str {
        "durable_majority"
    }

    fn applied(&mut self, history: &History, entry: &Entry<'_>) -> Verdict {
        if !entry.is_first {
            return Ok(());
        }
        let (id, node) = (entry.frame.id(), entry.node);
        is_durable(history, entry.group, entry.frame.end().0)
            .map_err(|few| format!("group {}: node {node} applies {id}, durable {few}", entry.group))
    }

    fn answered(&mut self, history: &History, answer: &Answer) -> Verdict {
        let Answer::Acknowledged { queue, values, offset, .. } = answer else { return Ok(()) };
        let last = *offset as usize + values.len() - 1;
        let Some(message) = history.stored.get(queue).and_then(|queue| queue.get(last)) else {
            // acknowledged_stays says so.
            return Ok(());
        };
        is_durable(history, queue.0, message.position + message.size)
            .map_err(|few| format!("{values:?} is acknowledged, durable {few}"))
    }
}
